"""The simulated provider in virtual time: what its banks and customers do later, and the way of its notifications."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any, Protocol

from app.contracts.payments import DecideProviderAction, NotificationRejected, ReceiveNotifications
from app.payments.provider_port import CallKind, DisputeStatus, ProviderCall, ResponseCode
from app.payments.providers import entries, signed_notifications
from app.payments.providers.decisions import DecisionService
from app.payments.providers.demonstrations import PaymentPlan
from app.payments.providers.entries import EntryUpdate
from app.payments.providers.ledger import Ledger
from app.payments.providers.signed_notifications import NotificationMessage
from app.storage.mongodb import Document, Store
from app.system import System
from tools.auditor.history import ACCEPTED
from tools.simulation.database import FaultyCollection, VirtualDatabase
from tools.simulation.faults import NotificationFault
from tools.simulation.process import DEADLINE, SimulatedProcess
from tools.simulation.scheduler import Owner, Scheduler, SimulatedSystem

PROVIDER = "simulated"
# The provider sends a notification that was not taken again after so many seconds, and so often.
RETRY_SECONDS = 60.0
SENDS = 5
NOTICE_TYPES = ("payment.captured", "payment.declined", "payment.authorized", "refund.failed", "dispute.opened")
# How long banks and customers take, in seconds.
DELAYS = ((0.0, 5.0), (5.0, 60.0), (60.0, 3600.0), (3600.0, 2 * 86_400.0))


class NotificationFaults(Protocol):
    """Decides what happens to a notification, and knows the processes that may receive it."""

    scheduler: Scheduler
    world: Owner

    def notification_fault(self) -> NotificationFault | None:
        """The fault of the notification that is sent now."""

    def hang_seconds(self) -> float:
        """How long something takes: up to a minute, or days."""

    def some_process(self, random: Random) -> SimulatedProcess | None:
        """A process that is alive; None where none is."""

    def forged(self, what: str) -> None:
        """Record that a forged notification was accepted."""


class _Reliable:
    """The provider's own connection to its ledger: nothing happens to it."""

    def __init__(self, world: NotificationFaults) -> None:
        self.scheduler = world.scheduler
        self.world = world.world

    def database_fault(self, _step: str, _method: str) -> None:
        """No fault."""

    def has_primary(self) -> bool:
        """Its database can always be reached."""
        return True


class SlowLedger(Ledger):
    """The ledger whose banks and customers take as long as chance says; `on_change` hears of it.

    `on_change` takes the entry's id, and in how many seconds it changes by itself: 0 where it has changed just now.
    """

    def __init__(self, store: Store, system: System, random: Random, on_change: Callable[[str, float], object]) -> None:
        super().__init__(store, system)
        self._random = random
        self._on_change = on_change

    def record(self, call: ProviderCall, code: Any, reason: str = "", members: Document | None = None) -> Document:
        if members and "changesAt" in members:
            members = {**members, "changesAt": self._later()}
        entry = super().record(call, code, reason, members)
        self._announce(entry)
        return entry

    def refund(self, call: ProviderCall, fails_at: Any = None) -> bool:
        made = super().refund(call, fails_at and self._later())
        if made and fails_at and (entry := self.find(call.charge_key)):
            self._announce(entry)
        return made

    def update(self, entry: Document, update: EntryUpdate) -> Document:
        if "changesAt" in update.sets and entry["plan"] == PaymentPlan.DISPUTE:
            update = replace(update, sets={**update.sets, "changesAt": self._later()})
        after = super().update(entry, update)
        if update.notice:
            self._on_change(entry["_id"], 0.0)
        self._announce(after)
        return after

    def _later(self) -> Any:
        return self.now() + timedelta(seconds=self._random.uniform(*self._random.choice(DELAYS)))

    def _announce(self, entry: Document) -> None:
        if "changesAt" in entry:
            self._on_change(entry["_id"], max(0.0, (entry["changesAt"] - self.now()).total_seconds()))


class SimulatedNotifier:
    """Lets entries change when they are due, and takes the notices of all changes to the module, over an unreliable way."""

    def __init__(self, world: NotificationFaults, ledger: Any, random: Random) -> None:
        self._world = world
        self._random = random
        reliable: Any = _Reliable(world)
        database: Any = VirtualDatabase(reliable)
        collection: Any = FaultyCollection(ledger, world.world, reliable)
        store = Store(collection, database, DEADLINE)
        system = SimulatedSystem(world.scheduler, world.world, random)
        self._announced: set[tuple[str, float]] = set()
        self._kept: NotificationMessage | None = None
        self.ledger = SlowLedger(store, system, random, self.announce)
        self._decisions = DecisionService(self.ledger, lambda: None)

    def announce(self, entry_id: str, seconds: float) -> None:
        """An entry changes in so many seconds, or has changed just now."""
        at = (entry_id, round(self._world.scheduler.now + seconds, 2))
        if at not in self._announced:
            self._announced.add(at)
            self._world.scheduler.spawn(self._world.world, "a bank or a customer", partial(self._change, *at))

    def decide(self, order_id: str, approve: bool) -> bool:
        """The customer decides about an order's payment, or the bank about its dispute; false where nobody is asked."""
        entry = self._entry(order_id)
        if entry is None or "token" not in entry or not entries.awaits_decision(entry):
            return False
        self._decisions.decide(DecideProviderAction(request_id="", token=entry["token"], approve=approve))
        return True

    def refund_elsewhere(self, order_id: str, share: float) -> bool:
        """Give a part of what is left back in the provider's dashboard; whether that was possible."""
        entry = self._entry(order_id)
        value = int((entry["value"] - entry["refunded"]) * share) if entry else 0
        return bool(entry) and value > 0 and self._refund(entry, value)

    def refund_by_operator(self, call: ProviderCall) -> bool:
        """Make a refund with its own key in the provider's dashboard; false where it is not possible there."""
        return self.ledger.refund(call)

    def covers(self, call: ProviderCall) -> bool:
        """Whether what is left of an order's payment at the provider covers a refund."""
        entry = self._entry(call.order_id)
        return bool(entry) and call.value <= entry["value"] - entry["refunded"]

    def knows(self, order_id: str) -> bool:
        """Whether the provider has a record of an order's payment."""
        return self._entry(order_id) is not None

    def void(self, order_id: str) -> bool:
        """Void an order's payment in the provider's dashboard; false where it is not held there."""
        entry = self.ledger.settled(self._entry(order_id))
        if entry["answer"] in entries.HELD:
            entry = self.ledger.update(entry, entries.voided(entry))
        return bool(entry["answer"] == ResponseCode.VOIDED)

    def fails_refunds(self, order_id: str) -> bool:
        """Whether the payer's bank accepts no refund."""
        entry = self._entry(order_id)
        return bool(entry) and entry.get("plan") == PaymentPlan.FAIL_REFUNDS

    def disputed(self, order_id: str) -> bool:
        """Whether a dispute has taken an order's money back."""
        entry = self._entry(order_id)
        return bool(entry) and entries.disputed(entry) in (DisputeStatus.OPEN, DisputeStatus.LOST)

    def _entry(self, order_id: str) -> Any:
        return self.ledger.find(f"{order_id}:1")

    def _refund(self, entry: Document, value: int) -> bool:
        call = ProviderCall(
            kind=CallKind.REFUND,
            key=f"{entry['_id']}:elsewhere:{self._random.getrandbits(32):08x}",
            charge_key=entry["_id"],
            order_id=entry["orderId"],
            product_id="",
            value=value,
            currency=entry["currency"],
        )
        return self.ledger.refund(call)

    def _change(self, entry_id: str, at: float) -> None:
        self._world.scheduler.wait(None, at - self._world.scheduler.now + 0.01, "takes its time")
        self._announced.discard((entry_id, at))
        entry = self.ledger.find_entry(entry_id)
        if entry is None:
            return
        entry = self.ledger.settled(entry)
        notices = entry.get("notices", [])
        if notices:
            self.ledger.remove_notices(entry_id, [notice["id"] for notice in notices])
        for notice in notices:
            message = NotificationMessage(
                id=notice["id"], type=notice["type"], reference=entries.reference(entry), order_id=entry["orderId"]
            )
            self._dispatch(message)

    def _dispatch(self, message: NotificationMessage) -> None:
        """Send a notification as its fault says."""
        fault, kept = self._world.notification_fault(), self._kept
        match fault:
            case NotificationFault.LOST:
                return
            case NotificationFault.OUT_OF_ORDER if kept is None:
                self._kept = message
                return
            case NotificationFault.LATE:
                self._spawn(message, self._world.hang_seconds())
                return
            case NotificationFault.TWICE:
                self._spawn(message, self._world.hang_seconds())
            case NotificationFault.UNTRUE:
                other = self._random.choice(NOTICE_TYPES)
                # The true one does not come: it would have the record read, which mends what was believed.
                self._spawn(self._changed(message, type=other), 0.0)
                return
            case NotificationFault.UNKNOWN_ORDER:
                unknown = f"{self._random.getrandbits(96):024x}"
                self._spawn(self._changed(message, reference=f"sim_{unknown}:1", order_id=unknown), 0.0)
            case NotificationFault.FORGED:
                self._spawn(self._changed(message), 0.0, forged=True)
        self._spawn(message, 0.0)
        if kept:
            self._kept = None
            self._spawn(kept, 1.0)

    def _changed(self, message: NotificationMessage, **members: str) -> NotificationMessage:
        named = {name: getattr(message, name) for name in message.__struct_fields__}
        return NotificationMessage(**{**named, "id": f"evt_{self._random.getrandbits(64):016x}", **members})

    def _spawn(self, message: NotificationMessage, seconds: float, *, forged: bool = False) -> None:
        send = partial(self._send, message, seconds, forged)
        self._world.scheduler.spawn(self._world.world, f"notification {message.type}", send)

    def _send(self, message: NotificationMessage, seconds: float, forged: bool) -> None:
        self._world.scheduler.wait(None, seconds, "is on its way")
        for _ in range(SENDS):
            if self._is_taken(message, forged):
                return
            self._world.scheduler.wait(None, RETRY_SECONDS, "is sent again")

    def _is_taken(self, message: NotificationMessage, forged: bool) -> bool:
        process = self._world.some_process(self._random)
        if process is None:
            return False
        secret = b"guessed" if forged else self.ledger.secret()
        body, headers = signed_notifications.encode(message, secret, self.ledger.now())
        outcome = process.request(
            ReceiveNotifications(
                request_id="",
                provider=PROVIDER,
                headers=tuple(f"{name.lower()}: {value}" for name, value in headers.items()),
                body=b64encode(body).decode(),
            )
        )
        accepted = outcome.outcome == ACCEPTED
        if forged and accepted:
            self._world.forged(message.order_id)
        return accepted or (forged and isinstance(outcome.error, NotificationRejected))
