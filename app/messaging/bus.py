"""Protocols of the bus: it carries requests and events between modules, which do not import each other.

A request goes to the one module that owns it and has a reply; an event goes to every module that subscribes. Each
collaborator depends on the narrowest protocol: RequestClient for the gateway and the commands, HandlerRegistry for
orders and payments, EventPublisher for the relay. `signal_bus` implements them inside one process, `rabbitmq` between
processes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from app.contracts.base import Event, Reply, Request
from app.observability.supervision import Heartbeat

R = TypeVar("R", bound=Reply)
Q = TypeVar("Q", bound=Request[Any])
E = TypeVar("E", bound=Event)

# By module: the error with which it failed to handle a batch of events, or None.
DeliveryResult = Mapping[str, Exception | None]


class DeliveryRejected(Exception):
    """A module in another process could not handle events; the text has the error there."""


class RequestClient(Protocol):
    """Sends requests."""

    def request(self, request: Request[R]) -> R:
        """Return the owner's reply. Raises its ApplicationErrors, and Unavailable if no reply comes in time."""


class HandlerRegistry(Protocol):
    """Registers the handlers of requests and events."""

    def register_handler(self, request: type[Q], handler: Callable[[Q], Reply]) -> None:
        """Let `handler` answer every request of this type. A second handler for a type is an error."""

    def subscribe(self, module: str, event: type[E], handler: Callable[[tuple[E, ...]], None]) -> None:
        """Call `handler` with every batch of events of this type, on behalf of `module`."""


class EventPublisher(Protocol):
    """Publishes events."""

    def publish(self, events: Sequence[Event]) -> DeliveryResult:
        """Deliver a batch of events of one type to every subscribed module."""


class Bus(RequestClient, HandlerRegistry, EventPublisher, Protocol):
    """The whole bus, for the composition root."""

    @property
    def ready(self) -> bool:
        """Whether messages can be sent and received."""

    @property
    def heartbeats(self) -> Sequence[Heartbeat]:
        """The heartbeats of the background threads."""

    def start(self) -> None:
        """Allow sending. Call it after any fork."""

    def start_consuming(self) -> None:
        """Begin to receive messages, once the modules of this process are prepared."""

    def drain(self) -> None:
        """Stop receiving messages. Safe in a signal handler: only sets a flag."""

    def drain_and_wait(self, timeout: float) -> None:
        """Stop receiving messages, and wait up to `timeout` seconds for running handlers."""

    def stop(self) -> None:
        """Close all connections."""
