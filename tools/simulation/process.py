"""One simulated process: the modules orders and payments on their bus, with their background work as tasks."""

import threading
from collections.abc import Sequence
from random import Random
from typing import Any

from pymongo.database import Database

from app.config import Settings
from app.contracts.base import ApplicationError, Event, Request, Unavailable
from app.contracts.payments import PaymentEvent
from app.messaging.bus import DeliveryResult
from app.messaging.signal_bus import SignalBus
from app.orders import Orders
from app.payments import Payments
from app.payments.providers.simulated import Faults, SimulatedProvider
from app.storage.mongodb import Store
from tools.auditor.history import ACCEPTED, REFUSED, UNANSWERED
from tools.simulation.database import FaultyCollection, VirtualDatabase
from tools.simulation.provider import FaultyProvider
from tools.simulation.scheduler import Owner, SimulatedSystem

# Real seconds: virtual time never ends a command.
DEADLINE = 60.0
# A client waits so long for a reply.
REPLY_SECONDS = 10.0
POISON = "a receiver cannot handle"


class SimulatedBus(SignalBus):
    """The bus of a process. The world records what it delivers; the events of a poisoned order are refused."""

    def __init__(self, world: Any) -> None:
        super().__init__()
        self._world = world

    def publish(self, events: Sequence[Event]) -> DeliveryResult:
        for event in events:
            if event.order_id in self._world.poisoned:
                return {"receiver": ValueError(f"{POISON} {event.order_id}")}
        receiver = self._world.receiver_of(self)
        if receiver is None:
            return {"receiver": Unavailable("nobody receives")}
        return SimulatedBus.receive(receiver, events)

    @staticmethod
    def receive(receiver: "SimulatedBus", events: Sequence[Event]) -> DeliveryResult:
        """Deliver events to the modules of a process."""
        result = SignalBus.publish(receiver, events)
        if not any(result.values()):
            receiver._world.told(events)
        return result


class SimulatedProcess(Owner):
    """A process with all modules."""

    def __init__(self, name: str, world: Any, settings: Settings, database: Database[Any], seed: int) -> None:
        super().__init__(name)
        self._world = world
        scheduler = world.scheduler
        system = SimulatedSystem(scheduler, self, Random(seed))  # noqa: S311 - a simulation

        def store(collection: str) -> Store:
            virtual: Any = VirtualDatabase(world)
            faulty: Any = FaultyCollection(database[collection], self, world)
            return Store(faulty, virtual, DEADLINE)

        self.bus = SimulatedBus(world)
        real = world.bank or SimulatedProvider(world.ledger(store("ledger"), system), Faults(), system=system)
        self.provider = FaultyProvider(real, self, world)
        self.orders = Orders(self.bus, self.bus, store("orders"), settings, system)
        self.payments = Payments(
            self.bus, self.bus, store("payments"), store("notifications"), self.provider, settings, system
        )
        scheduler.spawn(self, "relay of orders", self.orders.relay.run, endless=True)
        scheduler.spawn(self, "relay of payments", self.payments.relay.run, endless=True)
        scheduler.spawn(self, "sweep of payments", self.payments.worker.run_sweeps, endless=True)
        if not world.bank:
            scheduler.spawn(self, "notifications", self.payments.notifications.run, endless=True)

    def request(self, message: Request[Any]) -> "Outcome":
        """Send a request to the modules, and wait for the reply until the process dies or the client gives up."""
        outcome = Outcome()
        done = threading.Event()

        def serve() -> None:
            try:
                outcome.reply = self.bus.request(message)
            except ApplicationError as exc:
                outcome.error = exc
            outcome.answered = True
            done.set()

        self._world.scheduler.spawn(self, type(message).__name__, serve)
        self._world.wait_for_reply(done, self, REPLY_SECONDS)
        return outcome if outcome.answered else Outcome()


class Outcome:
    """What a caller learned: a reply, an error, or nothing."""

    def __init__(self) -> None:
        self.answered = False
        self.reply: Any = None
        self.error: ApplicationError | None = None

    @property
    def outcome(self) -> str:
        """ACCEPTED, REFUSED or UNANSWERED: an Unavailable leaves open whether the request took effect."""
        if not self.answered or isinstance(self.error, Unavailable):
            return UNANSWERED
        return REFUSED if self.error else ACCEPTED


def module_of(event: Event) -> str:
    """The module that publishes an event."""
    return "payments" if isinstance(event, PaymentEvent) else "orders"
