"""Several processes of Orderflow in one test: each step of their background work is taken when the test says so.

Nothing runs by itself: hints, sweeps and jobs wait until they are called for, so that any order of them can be tried,
and a process can die between any two.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from app.config import Settings
from app.contracts.base import Event
from app.main import create_app, runtime
from app.messaging.bus import DeliveryResult
from app.messaging.handlers import register_handlers
from app.messaging.signal_bus import SignalBus
from app.payments.provider_port import (
    ProviderCall,
    ProviderNotification,
    ProviderPayment,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers import make
from app.payments.providers.decisions import DecisionService
from app.payments.providers.notification_sender import NotificationSender
from app.payments.providers.simulated import CAPABILITIES


class Died(BaseException):
    """The process ends here; nothing in it gets to handle that."""


class Hands:
    """In the place of a thread pool: keeps what it is given until it is told to work."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.jobs: list[tuple[Future, Callable[[], Any]]] = []

    def submit(self, work: Callable[..., Any], *args: Any) -> Future:
        future: Future = Future()
        self.jobs.append((future, lambda: work(*args)))
        return future

    def work(self, number: int) -> None:
        future, job = self.jobs.pop(number % len(self.jobs))
        job()
        future.set_result(None)

    def shutdown(self, **_: Any) -> None:
        self.jobs.clear()


class Recorder(SignalBus):
    """A bus that remembers what it delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.delivered: list[Event] = []

    def publish(self, events: Sequence[Event]) -> DeliveryResult:
        self.delivered += events
        return super().publish(events)


@dataclass
class Moody:
    """The simulated provider with its real books, whose next call goes wrong as told.

    `before` and `after`: times out before or after the effect. `late`: times out, and the request takes effect only
    when `land` is called. `busy`: refuses. `dies before`, `dies after`: the calling process ends there. What is to
    happen `meanwhile` happens while the call is under way.
    """

    real: Any
    mood: str = ""
    meanwhile: Callable[[], None] | None = None
    floating: list[tuple[str, ProviderCall]] = field(default_factory=list)

    def prepare(self) -> None:
        self.real.prepare()

    capabilities = CAPABILITIES

    def charge(self, call: ProviderCall) -> ProviderResponse:
        return self._moodily("charge", call)

    def capture(self, call: ProviderCall) -> ProviderResponse:
        return self._moodily("capture", call)

    def void(self, call: ProviderCall) -> ProviderResponse:
        return self._moodily("void", call)

    def refund(self, call: ProviderCall) -> ProviderResponse:
        return self._moodily("refund", call)

    def retrieve(self, call: ProviderCall) -> ProviderResponse:
        return self._moodily("retrieve", call)

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        return self.real.find(call)

    def notifications(self, body: bytes, headers: Mapping[str, str]) -> tuple[ProviderNotification, ...]:
        return self.real.notifications(body, headers)

    def list_payments(self, since: datetime) -> Iterator[ProviderPayment]:
        return self.real.list_payments(since)

    def land(self, number: int) -> None:
        verb, call = self.floating.pop(number % len(self.floating))
        getattr(self.real, verb)(call)

    def _moodily(self, verb: str, call: ProviderCall) -> ProviderResponse:
        mood, self.mood = self.mood, ""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        if mood == "dies before":
            raise Died
        if mood == "busy":
            return ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason="out of order")
        if mood == "late":
            self.floating.append((verb, call))
        if mood in ("before", "late"):
            return ProviderResponse(code=ResponseCode.UNKNOWN, reason="timed out")
        outcome = getattr(self.real, verb)(call)
        if mood == "dies after":
            raise Died
        return ProviderResponse(code=ResponseCode.UNKNOWN, reason="timed out") if mood == "after" else outcome


MOODS = ("", "before", "after", "late", "busy", "dies before", "dies after")


class Process:
    """One process: an application whose work is done step by step, with a clock that can be set.

    It pays through `real`, or through the simulated provider where there is none.
    """

    def __init__(self, settings: Settings, number: int = 0, real: Any = None) -> None:
        self._settings = settings
        self.number = number
        self._real = real
        self.ahead = timedelta()
        self._born()

    def _born(self) -> None:
        provider = Moody(None)

        def mood(settings: Settings, store: Any) -> Moody:
            provider.real = self._real or make(settings, store)
            return provider

        with patch("app.system.ThreadPoolExecutor", Hands), patch("app.main.SignalBus", Recorder):
            self.app = create_app(self._settings, make_provider=mood)
        running = runtime(self.app)
        clock = running.database.clock
        told = clock.now
        clock.now = lambda: told() + self.ahead
        self.provider = provider
        self.client = self.app.test_client()
        self.orders, self.payments = running.modules["orders"], running.modules["payments"]
        self.hands: Hands = self.payments.worker._pool
        self.bus: Recorder = self.orders.relay._bus
        self.database = running.database
        if self._real is None:
            # The module sends its provider's notifications and has its pages only where it knows it.
            self.sender = NotificationSender(provider.real.ledger, self.payments.notifications.deliver)
            register_handlers(running.bus, "payments", DecisionService(provider.real.ledger, self.sender.wake))

    def prepare(self) -> None:
        """Make the collections."""
        runtime(self.app).prepare()

    def die(self) -> tuple[list[Event], list[tuple[str, ProviderCall]]]:
        """End without a word and start anew: hints, jobs and leases are gone from memory.

        Tells what lives on outside: events that may still arrive, and requests on their way to the provider.
        """
        left = self.bus.delivered, self.provider.floating
        self.database.close()
        self._born()
        self.bus.delivered, self.provider.floating = left
        return left

    def close(self) -> None:
        """End for good."""
        self.database.close()

    def hear_hints(self) -> None:
        """Have the relays hand on what was hinted."""
        for module in (self.orders, self.payments):
            module.relay.deliver(module.outbox.dequeue_local(128, 0.0))

    def sweep(self) -> None:
        """One sweep of each relay and of the worker."""
        self.orders.relay.sweep()
        self.payments.relay.sweep()
        self.payments.worker.sweep()

    def send_notifications(self, *, remembers: bool = True) -> None:
        """The provider lets its payments change that are due to, and tells of all changes; again where it does not remember."""
        forgets = patch.object(self.provider.real.ledger, "remove_notices")
        with nullcontext() if remembers else forgets:
            self.sender.send_due()

    def work(self, number: int = 0, mood: str = "", meanwhile: Callable[[], None] | None = None) -> None:
        """Do one of the jobs that wait for a thread; the process may die over it."""
        self.provider.mood, self.provider.meanwhile = mood, meanwhile
        waiting = self.payments.worker._queue
        for _ in range(number % len(waiting) if len(waiting) else 0):
            waiting.put(waiting.get())
        try:
            self.hands.work(number)
        except Died:
            self.die()
        self.provider.mood, self.provider.meanwhile = "", None

    def jump(self, seconds: float) -> None:
        """Set the clock."""
        self.ahead += timedelta(seconds=seconds)


def unhurried(settings: Settings, **changes: Any) -> Settings:
    """Settings whose leases last until a clock is set."""
    return replace(
        settings, relay_lease=30.0, payment_backoff=5.0, payment_backoff_max=20.0, breaker_failures=10**9, **changes
    )
