"""The application in one process, whose background work is run step by step."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from pymongo import MongoClient
from pymongo.database import Database

from app.main import MakeProvider, create_app, runtime
from app.messaging.handlers import register_handlers
from app.messaging.outbox import PendingEvents
from app.payments import providers
from app.payments.providers.decisions import DecisionService
from app.payments.providers.ledger import Ledger
from app.payments.providers.notification_sender import NotificationSender
from tests.chaos.crash import clients
from tests.chaos.crash.cells import STOP, TIMEOUT_SECONDS, Cell, settings_for
from tests.chaos.crash.judge import Stored, at_rest, let_time_pass
from tests.chaos.crash.points import Points, WatchedProvider, watch_acknowledgements, watch_webhooks

NEWER = "Newer"


class World:
    """The application in this process; one thread runs its work in the order of the scenario."""

    def __init__(
        self,
        cell: Cell,
        more: Mapping[str, Any],
        tell: Callable[..., None],
        make_provider: MakeProvider = providers.make,
    ) -> None:
        self._make_provider = make_provider
        self.points = Points(cell, tell)
        self._tell = tell
        self._cell = cell
        self._provider: WatchedProvider | None = None
        self.app = create_app(settings_for(cell, more), make_provider=self._watched, event_listeners=[self.points])
        self.runtime = runtime(self.app)
        self.orders, self.payments = self.runtime.modules["orders"], self.runtime.modules["payments"]
        for name, module in (("orders", self.orders), ("payments", self.payments)):
            watch_acknowledgements(name, module.outbox, self.points)
        if "webhooks" in self.runtime.modules:
            self.sender = self.runtime.modules["webhooks"].sender
            self._attempts = watch_webhooks(self.sender, self.points)
            # How fast the receiver answers must not decide which points there are.
            self.sender._queue.prompt = lambda _deliveries: []
        self._be_the_simulated_provider()
        self.client = self.app.test_client()
        # A stale process has nothing to deliver and must not wait for it.
        self.patience = TIMEOUT_SECONDS
        self._wait = 1.0 if cell.death == STOP else TIMEOUT_SECONDS
        self.order_id = ""
        self.kept: list[PendingEvents] = []

    @property
    def provider(self) -> WatchedProvider:
        assert self._provider
        return self._provider

    def _watched(self, settings: Any, ledger: Any) -> WatchedProvider:
        self._provider = WatchedProvider(self._make_provider(settings, ledger), self.points)
        return self._provider

    def _be_the_simulated_provider(self) -> None:
        # The module sends its provider's notifications and has its pages only where it is not watched.
        ledger = Ledger(self.runtime.database.collection("ledger", 10.0))
        self.notices = NotificationSender(ledger, self.payments.notifications.deliver)
        register_handlers(self.runtime.bus, "payments", DecisionService(ledger, self.notices.wake))

    # --- clients and operators

    def place(self, product: str = "1", key: str = "only-one", *, manual: bool = False) -> None:
        self.order_id = clients.place(self.client, product, key, manual=manual)
        self._tell("acknowledged", self.order_id)

    def cancel(self) -> None:
        clients.cancel(self.client, self.order_id)

    def capture(self, value: int) -> None:
        clients.capture(self.client, self.order_id, value)

    def refund(self, value: int, key: str) -> None:
        clients.refund(self.client, self.order_id, value, key)

    def retry(self) -> None:
        clients.retry(self.client, self.order_id)

    def replay(self) -> None:
        clients.replay(self.client, self.order_id)

    def add_endpoint(self, suffix: str = "") -> None:
        clients.add_endpoint(self.client, f"{self._cell.receiver}{suffix}")

    def enable_endpoint(self, *, enabled: bool) -> None:
        clients.enable_endpoint(self.client, enabled=enabled)

    # --- relays

    def hand_to_payments(self) -> None:
        """Delivers the local queue of orders, as its relay does."""
        self._hand_on(self.orders, self._hinted(self.orders, "orders"))

    def hand_to_orders(self) -> None:
        """Waits for an event in the local queue of payments and delivers it, as its relay does."""
        self._hand_on(self.payments, self._hinted(self.payments, "payments"))

    def keep_results(self, count: int = 1) -> None:
        """Takes `count` more results from the local queue of payments without delivering them."""
        wanted = len(self.kept) + count
        while len(self.kept) < wanted:
            self.kept += self._hinted(self.payments, "payments")

    def hand_on_kept(self) -> None:
        """Delivers the results taken by `keep_results`."""
        kept, self.kept = self.kept, []
        self._hand_on(self.payments, kept)

    def acknowledge(self) -> None:
        """Both relays write the delayed acknowledgements; sweeps leave none."""
        for module in (self.orders, self.payments):
            module.relay._acknowledge()
        self.orders.changes_relay._acknowledge()

    def acknowledge_without_the_last(self) -> None:
        """As `acknowledge` does where another process has written the last event: it is not in the local queue."""
        hints = self._hinted(self.orders, "orders")
        self.acknowledge()
        for pending in hints:
            self.orders.outbox.enqueue_local(pending.key, pending.events)

    def wait_for_result(self) -> None:
        """Waits until payments has stored a result; its entry in the local queue is lost."""
        self._hinted(self.payments, "payments")

    def lose_hints(self) -> None:
        """Empties the local queues, so that only sweeps find the stored events."""
        for module in (self.orders, self.payments):
            module.outbox.dequeue_local(128, 0)
        self.orders.changes_relay._outbox.dequeue_local(128, 0)
        self.let_time_pass()

    def sweep(self, sweep: Callable[[], int]) -> None:
        """Sweeps until something is found."""
        ends = time.monotonic() + self._wait
        while not sweep():
            assert time.monotonic() < ends, "there was nothing to take up"
            time.sleep(0.005)

    def pay(self) -> None:
        self.hand_to_payments()
        self.hand_to_orders()
        self.acknowledge()

    def hand_to_webhooks(self) -> None:
        """Delivers the local queue of orders' changes, as their relay does."""
        relay = self.orders.changes_relay
        changes = relay._outbox.dequeue_local(128, self._wait)
        assert changes, "no change was recorded"
        if self._cell.swept:
            relay.deliver(changes)
        else:
            relay._deliver_local(changes)

    def attempt_deliveries(self) -> None:
        """Makes all attempts for which webhooks has claimed deliveries."""
        self._attempts.run()

    def sweep_deliveries(self) -> None:
        """The sender's sweep claims what is due, and attempts it."""
        self.sweep(self._claim_deliveries)
        self.attempt_deliveries()

    def _claim_deliveries(self) -> int:
        self.sender.sweep()
        return self._attempts.waiting

    def call_provider(self) -> None:
        """The worker's sweep claims the due payment and calls the provider."""
        self.sweep(self.payments.worker.sweep)

    def notice(self) -> None:
        """The provider tells of a change, which is stored and applied; the worker refreshes the payment and tells orders.

        The refresh that follows, and finds nothing, is left to the next process.
        """
        self.sweep(self._send_and_apply)
        self.call_provider()
        self.hand_to_orders()
        self.until_idle()
        self.acknowledge()

    def apply_notification(self) -> None:
        """Applies a notification that was received."""
        # What was just stored may not be due yet: the database's clock is corrected with each heartbeat.
        self.sweep(self.payments.notifications.apply_due)

    def _send_and_apply(self) -> int:
        self.notices.send_due()
        return self.payments.notifications.apply_due()

    def pay_back(self) -> None:
        self.hand_to_payments()
        self.call_provider()
        self.hand_to_orders()
        self.acknowledge()

    @contextmanager
    def no_room(self) -> Iterator[None]:
        """Deliveries are stored, and left to the sweep."""
        accepted, self.sender.accepted = self.sender.accepted, lambda _: []
        yield
        self.sender.accepted = accepted

    @contextmanager
    def prompt_endpoint(self) -> Iterator[None]:
        """Deliveries are attempted before they are stored."""
        queue, submit = self.sender._queue, self.sender.submit

        def submit_and_attempt(deliveries: Any) -> None:
            submit(deliveries)
            self.attempt_deliveries()

        with patch.object(queue, "prompt", list), patch.object(self.sender, "submit", submit_and_attempt):
            yield

    @contextmanager
    def no_capacity(self) -> Iterator[None]:
        """Payments are stored, but not leased or called for."""
        self.payments.worker.draining = True
        yield
        self.payments.worker.draining = False

    def _hinted(self, module: Any, name: str) -> list[PendingEvents]:
        hints = module.outbox.dequeue_local(128, self._wait)
        assert hints, f"{name} recorded nothing"
        return hints

    def _hand_on(self, module: Any, hints: list[PendingEvents]) -> None:
        if self._cell.swept:
            module.relay.deliver(hints)
        else:
            module.relay._deliver_local(hints)

    # --- from outside, so that it makes no point

    @contextmanager
    def stored(self) -> Iterator[Database[dict[str, Any]]]:
        """The database through a separate client."""
        with MongoClient(self._cell.uri) as mongo:
            yield mongo[self._cell.database]

    def let_time_pass(self) -> None:
        """Makes all leased work due, and ends calls."""
        with self.stored() as database:
            let_time_pass(Stored.of(database))

    def spoil(self, collection: str) -> None:
        """Gives the oldest undelivered event a type that no receiver knows."""
        with self.stored() as database:
            for doc in database[collection].find({"outbox.0": {"$exists": True}}):
                kind = f"{NEWER}{doc['outbox'][0]['type']}"
                database[collection].update_one({"_id": doc["_id"]}, {"$set": {"outbox.0.type": kind}})

    def mend(self) -> None:
        """Undoes `spoil`."""
        with self.stored() as database:
            mend(database)

    def until(self, what: str, look: Callable[[Any], object]) -> None:
        """Polls the database until `look` returns something."""
        ends = time.monotonic() + TIMEOUT_SECONDS
        with self.stored() as database:
            while not look(database):
                assert time.monotonic() < ends, f"never {what}"
                time.sleep(0.005)

    def until_settled(self) -> None:
        self.until("settled", lambda database: at_rest(Stored.of(database)))

    def until_idle(self) -> None:
        """Waits until all threads of the worker are idle."""
        ends = time.monotonic() + TIMEOUT_SECONDS
        while self.payments.worker._running:
            assert time.monotonic() < ends, "the pool never came to rest"
            time.sleep(0.005)


def mend(database: Any) -> None:
    """Restores the types that `World.spoil` changed."""
    for collection in ("orders", "payments"):
        for doc in database[collection].find({"outbox.0.type": {"$regex": f"^{NEWER}"}}):
            kind = doc["outbox"][0]["type"].removeprefix(NEWER)
            database[collection].update_one({"_id": doc["_id"]}, {"$set": {"outbox.0.type": kind}})
