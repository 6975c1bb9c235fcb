"""The bus inside one process: blinker signals. Handlers run in the thread of the caller."""

from collections.abc import Callable, Sequence
from typing import Any

from blinker import ANY, Namespace, Signal

from app.contracts.base import ApplicationError, Event, Reply, Request, Unavailable
from app.messaging.bus import Delivery, E, Q, R
from app.observability.logging import log
from app.observability.supervision import Heartbeat


class HandlerAlreadyRegistered(RuntimeError):
    """Two handlers want to answer the same request: a mistake in the composition."""


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
            raise HandlerAlreadyRegistered(f"{request.__name__} is answered already")
        # Weak references, blinker's default, would let a handler vanish that nobody else holds.
        signal.connect(_receiver(handler), weak=False)

    def subscribe(self, module: str, event: type[E], handler: Callable[[tuple[E, ...]], None]) -> None:
        receiver = _receiver(handler)
        self._modules[receiver] = module
        self._events.signal(event.__name__).connect(receiver, weak=False)

    @property
    def answered(self) -> set[str]:
        """The names of the requests that somebody answers."""
        return {str(name) for name, signal in self._requests.items() if signal.receivers}

    @property
    def subscribers(self) -> dict[str, set[str]]:
        """By the name of each event the modules that have it."""
        return {
            str(name): {self._modules[receiver] for receiver in _receivers(signal)}
            for name, signal in self._events.items()
        }

    def start(self) -> None:
        """Nothing to do."""

    receive = drain = stop = start

    def finish(self, timeout: float) -> None:
        """Nothing to wait for."""

    def request(self, request: Request[R]) -> R:
        name = type(request).__name__
        answerers = list(_receivers(self._requests.signal(name)))
        if not answerers:
            raise Unavailable(f"nobody answers {name}")
        try:
            reply: R = answerers[0](type(request).owner, message=request)
        except ApplicationError:
            raise
        except Exception as exc:
            log.exception("request failed", request=name, message=request)
            raise Unavailable(f"{name} could not be answered") from exc
        return reply

    def publish(self, events: Sequence[Event]) -> Delivery:
        name = type(events[0]).__name__
        delivery: dict[str, Exception | None] = {}
        for receiver in _receivers(self._events.signal(name)):
            module, trouble = self._modules[receiver], _hand(receiver, tuple(events))
            # A module may listen twice: what went well must not hide what did not.
            delivery[module] = delivery.get(module) or trouble
        return delivery


def _receiver(handler: Callable[[Any], Any]) -> Callable[..., Any]:
    def receive(_sender: str, *, message: Any) -> Any:
        return handler(message)

    return receive


def _receivers(signal: Signal) -> Any:
    return signal.receivers_for(ANY)


def _hand(receiver: Callable[..., Any], events: tuple[Event, ...]) -> Exception | None:
    try:
        receiver("relay", message=events)
    except Unavailable as exc:
        return exc
    except Exception as exc:
        log.exception("events not handled", event_type=type(events[0]).__name__, count=len(events))
        return exc
    return None
