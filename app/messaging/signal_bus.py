"""The bus inside one process, over blinker signals."""

from collections.abc import Callable, Sequence
from typing import Any

from blinker import ANY, Namespace, Signal

from app.contracts.base import ApplicationError, Event, Reply, Request, Unavailable
from app.messaging.bus import DeliveryResult, E, Q, R
from app.observability.logging import log
from app.observability.supervision import Heartbeat


class HandlerAlreadyRegistered(RuntimeError):
    """Two handlers were registered for the same request: a defect of the composition."""


class SignalBus:
    """The bus inside one process. Handlers run in the caller's thread, so there is nothing to start or to stop."""

    ready = True
    heartbeats: Sequence[Heartbeat] = ()

    def __init__(self) -> None:
        self._requests = Namespace()
        self._events = Namespace()
        self._modules: dict[Any, str] = {}

    def register_handler(self, request: type[Q], handler: Callable[[Q], Reply]) -> None:
        signal = self._requests.signal(request.__name__)
        if signal.receivers:
            raise HandlerAlreadyRegistered(f"{request.__name__} has a handler already")
        # With blinker's default, weak references, a handler would vanish if nothing else refers to it.
        signal.connect(_receiver(handler), weak=False)

    def subscribe(self, module: str, event: type[E], handler: Callable[[tuple[E, ...]], None]) -> None:
        receiver = _receiver(handler)
        self._modules[receiver] = module
        self._events.signal(event.__name__).connect(receiver, weak=False)

    @property
    def handled_requests(self) -> set[str]:
        """The names of the requests that have a handler."""
        return {str(name) for name, signal in self._requests.items() if signal.receivers}

    @property
    def subscribers(self) -> dict[str, set[str]]:
        """The subscribed modules by event name."""
        return {
            str(name): {self._modules[receiver] for receiver in _receivers(signal)}
            for name, signal in self._events.items()
        }

    def start(self) -> None:
        """Nothing to do."""

    start_consuming = drain = stop = start

    def drain_and_wait(self, timeout: float) -> None:
        """Nothing to wait for."""

    def request(self, request: Request[R]) -> R:
        name = type(request).__name__
        receivers = list(_receivers(self._requests.signal(name)))
        if not receivers:
            raise Unavailable(f"no module handles {name}")
        try:
            reply: R = receivers[0](type(request).owner, message=request)
        except ApplicationError:
            raise
        except Exception as exc:
            log.exception("request failed", request=name, message=request)
            raise Unavailable(f"{name} could not be answered") from exc
        return reply

    def publish(self, events: Sequence[Event]) -> DeliveryResult:
        name = type(events[0]).__name__
        result: dict[str, Exception | None] = {}
        for receiver in _receivers(self._events.signal(name)):
            module, error = self._modules[receiver], _deliver(receiver, tuple(events))
            # A module may subscribe twice: the success of one handler must not hide the error of another.
            result[module] = result.get(module) or error
        return result


def _receiver(handler: Callable[[Any], Any]) -> Callable[..., Any]:
    def receive(_sender: str, *, message: Any) -> Any:
        return handler(message)

    return receive


def _receivers(signal: Signal) -> Any:
    return signal.receivers_for(ANY)


def _deliver(receiver: Callable[..., Any], events: tuple[Event, ...]) -> Exception | None:
    try:
        receiver("relay", message=events)
    except Unavailable as exc:
        return exc
    except Exception as exc:
        log.exception("events not handled", event_type=type(events[0]).__name__, count=len(events))
        return exc
    return None
