"""The bus: modules ask and tell one another over blinker signals, and know nothing else of each other.

`ask` wants exactly one module to do something; `publish` says that something happened to whoever cares. Each
collaborator is given the narrowest face of the bus: Answers for orders and payments, Asks for the gateway,
Publishes for the relay. Between processes broker.py carries the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from app.contracts.base import Event, Reply, Request
from app.observability.supervision import Heartbeat

R = TypeVar("R", bound=Reply)
Q = TypeVar("Q", bound=Request[Any])
E = TypeVar("E", bound=Event)

Delivery = Mapping[str, Exception | None]


class RequestClient(Protocol):
    """For the gateway."""

    def request(self, request: Request[R]) -> R:
        """The owner's reply. Raises its refusals, and Unavailable where nobody can answer."""


class HandlerRegistry(Protocol):
    """For orders and payments."""

    def register_handler(self, request: type[Q], handler: Callable[[Q], Reply]) -> None:
        """Let `handler` answer every request of this type; a second one is an error."""

    def subscribe(self, module: str, event: type[E], handler: Callable[[tuple[E, ...]], None]) -> None:
        """Let `handler` have every batch of events of this type, on behalf of `module`."""


class EventPublisher(Protocol):
    """For the relay."""

    def publish(self, events: Sequence[Event]) -> Delivery:
        """Hand a batch of events of one type to each subscribing module; tells what each made of it."""


class Bus(RequestClient, HandlerRegistry, EventPublisher, Protocol):
    """All of it, for the composition root."""

    @property
    def ready(self) -> bool:
        """Whether messages can come and go."""

    @property
    def heartbeats(self) -> Sequence[Heartbeat]:
        """Of every thread that works for it in the background."""

    def start(self) -> None:
        """Begin to send; call it after any fork."""

    def receive(self) -> None:
        """Begin to receive: what this process runs is prepared."""

    def drain(self) -> None:
        """Receive nothing more. Safe in a signal handler: sets a flag only."""

    def finish(self, timeout: float) -> None:
        """Receive nothing more, and let end what was received."""

    def stop(self) -> None:
        """Send nothing more."""
