"""Changes that somebody wants to hear of: in an outbox of their own, so that nothing else waits for them."""

import json
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial

import msgspec
import pytest
from bson import ObjectId

from app.contracts.base import ApplicationError, Money, Unavailable
from app.contracts.orders import (
    CheckOrderBacklog,
    CheckOrderQueue,
    CreateOrder,
    FindOrders,
    ListOrderDeadLetters,
    OrderCancelled,
    OrderChanged,
    OrderCreated,
    OrderItem,
    ReplayOrderEvents,
    UpdateMetadata,
    UpdateOrder,
)
from app.contracts.payments import (
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentParked,
    PaymentRefunded,
)
from app.contracts.webhooks import ListSubscribers, Subscribers
from app.messaging import outbox
from app.messaging.outbox import decode_event
from app.messaging.signal_bus import SignalBus
from app.orders import Orders
from app.orders.documents import CHANGES
from app.orders.subscribers import SubscribedUsers
from app.storage import mongodb
from app.storage.mongodb import Database
from app.webhooks.event_types import has_one_body, order_body
from tests.stopped_clock import StoppedClock

NAMES = (CHANGES.events, *CHANGES.of_relay)


class World:
    """The module orders, with payments and webhooks that record what they hear."""

    def __init__(self, settings, subscribed: bool = True):
        self.bus = SignalBus()
        self.database = Database(settings.mongodb_uri, settings.database)
        self.heard: dict[str, list] = {"payments": [], "webhooks": []}
        self.hinder = lambda _event: None
        store = self.database.collection("orders", 10.0)
        # However long a test takes, the answer does not become too old.
        users = SubscribedUsers(self.bus, StoppedClock()) if subscribed else None
        self.module = Orders(self.bus, self.bus, store, settings, subscribed=users)
        self.bus.register_handler(ListSubscribers, lambda _request: Subscribers(all_users=False, user_ids=("user-7",)))
        for kind in (OrderCreated, OrderCancelled):
            self.bus.subscribe("payments", kind, self.heard["payments"].extend)
        self.bus.subscribe("webhooks", OrderChanged, self._on_changed)
        self.module.prepare()
        if users:
            users.refresh()

    def _on_changed(self, events):
        for event in events:
            self.hinder(event)
        self.heard["webhooks"].extend(events)

    def place(self, user_id="user-7", **members) -> str:
        given = dict.fromkeys(CreateOrder.__struct_fields__, "")
        given |= {"order_id": str(ObjectId()), "request_id": "r", "user_id": user_id, "product_id": "1"}
        given |= {"product_name": "Espresso machine", "total_text": "RM 99", "total_currency": "MYR"}
        given |= {"total_value": 9900, "manual_capture": False, "metadata": None, "items": ()}
        return self.bus.request(CreateOrder(**given | members)).order_id

    def update(self, order_id: str, status: str) -> None:
        self.bus.request(
            UpdateOrder(request_id="r", order_id=order_id, on_behalf_of="", expected_versions=(), order_status=status)
        )

    def pay(self, order_id: str, kind=PaymentCaptured, sequence: int = 1, **members) -> None:
        given = {"reference": "ref", "took_ms": 1} if kind is PaymentCaptured else {}
        event = kind(
            event_id=f"paid-{sequence}", order_id=order_id, sequence=sequence, request_id="r", at=1, user_id="user-7",
            order_sequence=1, **given | members,
        )  # fmt: skip
        assert self.bus.publish([event]) == {"orders": None}

    def ids(self, module: str) -> list[tuple[str, int]]:
        """Order and sequence of the events that a module has heard, each once: they may come again."""
        return [*dict.fromkeys((event.order_id, event.sequence) for event in self.heard[module])]

    def tell(self) -> None:
        """Deliver the changes that this process has written; what is delivered is removed later."""
        relay = self.module.changes_relay
        relay._deliver_local(relay._dequeue(0.0))

    def stop(self) -> None:
        self.module.stop(10.0)
        self.database.close()


@pytest.fixture
def make(settings):
    made = []

    def start(subscribed=True, **changed) -> World:
        made.append(World(replace(settings, relay_tries=3, **changed), subscribed))
        return made[-1]

    yield start
    for world in made:
        world.stop()


@pytest.fixture
def stored(database):
    return lambda order_id: database.orders.find_one({"_id": ObjectId(order_id)})


def changes(doc) -> list[tuple[int, str]]:
    events = [decode_event(entry) for entry in doc[CHANGES.events]]
    return [(event.sequence, event.order_status) for event in events]


def traces(doc) -> set[str]:
    return {*NAMES} & doc.keys()


def test_each_change_is_written_with_what_it_tells(make, stored):
    world = make()
    order_id = world.place()
    assert changes(stored(order_id)) == [(1, "Processing")]
    world.pay(order_id)
    world.update(order_id, "Packed")
    doc = stored(order_id)
    assert changes(doc) == [(1, "Processing"), (2, "Success"), (3, "Packed")]
    assert doc[CHANGES.due] > doc["createdAt"]
    # The payment event has acknowledged what payments had to hear.
    assert doc["outbox"] == []


def test_a_change_that_is_told_at_once_has_the_order_as_it_was_and_the_stored_one_has_not(make, stored):
    world = make()
    items = (OrderItem(product_id="1", product_name="Beans", quantity=3, unit_amount=Money(3300, "MYR")),)
    given = {"items": items, "metadata": {"cart": "A-1207"}}
    seen = []

    def look(order_id: str) -> None:
        found = world.bus.request(FindOrders(request_id="", order_ids=(order_id,), with_items=True))
        seen.extend(found.orders)

    order_id = world.place(**given)
    look(order_id)
    world.pay(order_id, captured_value=5000)
    look(order_id)
    world.tell()
    assert [event.order for event in world.heard["webhooks"]] == seen
    assert [(one.version, one.captured.value, one.metadata) for one in seen] == [
        (1, 0, given["metadata"]),
        (2, 5000, given["metadata"]),
    ]
    assert all("order" not in entry for entry in stored(order_id)[CHANGES.events])


AUTHORIZED = (PaymentAuthorized, {"reference": "ref", "authorized_value": 9900, "expires_at": 1_795_360_982_984})
CAPTURED = (PaymentCaptured, {})
CAPTURED_IN_PART = (PaymentCaptured, {"captured_value": 5000})
PARKED = (PaymentParked, {"reason": "lost"})
DISPUTED = (PaymentDisputed, {"dispute_id": "d", "dispute_value": 9900, "reason": "fraud"})
WON = (
    PaymentDisputeClosed,
    {"dispute_id": "d", "dispute_value": 9900, "won": True, "disputed": False, "refunded_total": 0, "reason": ""},
)
REFUNDED_IN_PART = (PaymentRefunded, {"refund_id": "r", "refund_value": 900, "refunded_total": 900})
DECLINED = (PaymentDeclined, {"reason": "no", "took_ms": 1})


@pytest.mark.parametrize(
    "payment",
    [
        [CAPTURED, REFUNDED_IN_PART],
        [PARKED, CAPTURED],
        [PARKED, DECLINED],
        [AUTHORIZED, CAPTURED],
        [AUTHORIZED, PARKED, CAPTURED_IN_PART],
        [AUTHORIZED, PARKED],
        [CAPTURED, DISPUTED, WON],
        [CAPTURED_IN_PART, REFUNDED_IN_PART, DISPUTED],
    ],
    ids=lambda payment: ", ".join(kind.__name__ for kind, _ in payment),
)
@pytest.mark.parametrize("at_hand", [True, False])
def test_a_change_tells_the_same_however_late_it_is_told(make, stored, payment, at_hand):
    world = make()
    order_id = world.place()
    for sequence, (kind, members) in enumerate(payment, 1):
        if not at_hand:
            world.module._orders._recent.clear()
        world.pay(order_id, kind, sequence=sequence, **members)
    world.update(order_id, "Packed" if payment[-1] in (CAPTURED, REFUNDED_IN_PART, WON) else "Cancelled")
    written = [decode_event(entry) for entry in stored(order_id)[CHANGES.events]]
    world.tell()
    at_once = {event.event_id: event.order for event in world.heard["webhooks"] if event.order}
    [now] = world.bus.request(FindOrders(request_id="", order_ids=(order_id,), with_items=True)).orders
    assert len(written) == len(payment) + 2
    assert len(at_once) >= 1
    for event in written:
        assert has_one_body(event)
        assert order_body(event, at_once.get(event.event_id, now)) == order_body(event, now)
    last = json.loads(order_body(written[-1], now))["data"]["order"]
    assert last == {name: value for name, value in msgspec.to_builtins(now).items() if name != "refunds"}


def test_a_change_says_whether_its_order_had_metadata(make, stored):
    """Of one that had, the body may differ later; of one that had none it does not."""
    world = make()
    order_id = world.place(metadata={"cart": "A-1207"})
    set_to = partial(UpdateMetadata, request_id="r", order_id=order_id, on_behalf_of="", expected_versions=())
    world.bus.request(set_to(metadata={"cart": ""}))
    world.pay(order_id)
    world.bus.request(set_to(metadata={"table": "7"}))
    world.update(order_id, "Packed")
    written = [decode_event(entry) for entry in stored(order_id)[CHANGES.events]]
    assert [event.has_metadata for event in written] == [True, False, False, True, True]
    [now] = world.bus.request(FindOrders(request_id="", order_ids=(order_id,), with_items=True)).orders
    told = [json.loads(order_body(event, now))["data"]["order"].get("metadata") for event in written]
    assert told == [{"table": "7"}, None, None, {"table": "7"}, {"table": "7"}]


def test_a_change_of_an_order_that_is_not_at_hand_has_none(make):
    world = make()
    order_id = world.place()
    world.module._orders._recent.clear()
    world.pay(order_id)
    world.tell()
    assert [bool(event.order) for event in world.heard["webhooks"]] == [True, False]


def test_orders_of_others_have_no_trace_of_it(make, stored):
    world = make()
    order_id = world.place("somebody")
    world.update(order_id, "Cancelled")
    assert traces(stored(order_id)) == set()


def test_what_was_told_leaves_no_trace(make, stored, eventually):
    world = make()
    order_id = world.place()
    world.module.start()
    world.update(order_id, "Cancelled")
    world.pay(order_id)
    eventually(lambda: traces(stored(order_id)) == set())
    assert world.ids("webhooks") == [(order_id, at + 1) for at in range(stored(order_id)["sequence"])]


def test_changes_of_one_order_that_are_told_together_are_told_in_their_order(make):
    world = make()
    order_id = world.place()
    world.update(order_id, "Cancelled")
    world.pay(order_id)
    world.tell()
    assert world.ids("webhooks") == [(order_id, sequence) for sequence in (1, 2, 3)]


def test_of_an_order_of_which_a_change_was_refused_the_later_ones_wait(make, stored):
    world = make()
    order_id = world.place()
    world.update(order_id, "Cancelled")
    world.pay(order_id)

    def refuse(event):
        if event.sequence == 2:
            raise ValueError("broken")

    world.hinder = refuse
    world.tell()
    assert world.ids("webhooks") == [(order_id, 1)]
    assert [sequence for sequence, _ in changes(stored(order_id))] == [2, 3]


def test_the_write_of_a_payment_removes_what_was_told_of_the_creation(make, stored):
    world = make()
    order_id = world.place()
    world.tell()
    assert changes(stored(order_id)) == [(1, "Processing")]
    world.pay(order_id)
    assert changes(stored(order_id)) == [(2, "Success")]
    assert world.module._orders.changes.unacknowledged == 0
    world.module.changes_relay.deliver_enqueued()
    assert traces(stored(order_id)) == set()
    assert [event.sequence for event in world.heard["webhooks"]] == [1, 2]


def test_the_write_of_a_payment_removes_nothing_that_was_not_told(make, stored):
    world = make()
    changed, new = world.place(), world.place()
    world.tell()
    world.update(changed, "Cancelled")
    untold = world.place()
    for order_id in (changed, untold):
        world.pay(order_id)
    assert {at for at, _ in changes(stored(changed))} >= {2, 3}
    assert [at for at, _ in changes(stored(untold))] == [1, 2]
    assert [at for at, _ in changes(stored(new))] == [1]


def test_payments_wait_for_nobody_who_is_told(make, eventually):
    """Neither in time, while webhooks hangs, nor in order, while it is away."""
    world, silence = make(), threading.Event()
    world.hinder = lambda _event: silence.wait(60)
    world.module.start()
    first = world.place()
    world.update(first, "Cancelled")
    second = world.place()
    eventually(lambda: sorted(world.ids("payments")) == sorted([(first, 1), (first, 2), (second, 1)]))

    def away(_event):
        raise Unavailable("the database of webhooks does not answer")

    world.hinder = away
    silence.set()
    third = world.place()
    world.update(third, "Cancelled")
    eventually(lambda: {(third, 1), (third, 2)} <= {*world.ids("payments")})
    world.hinder = lambda _event: None
    eventually(lambda: {order_id for order_id, _ in world.ids("webhooks")} == {first, second, third})


def test_new_orders_are_accepted_however_much_waits_to_be_told(make, database, monkeypatch):
    for module in (mongodb, outbox):
        monkeypatch.setattr(module, "BACKLOG_TIMEOUT_SECONDS", 10.0)
    world = make(backlog_limit=2)
    for _ in range(3):
        world.pay(world.place())
    database.orders.update_many({}, {"$set": {CHANGES.due: database.orders.find_one()["createdAt"]}})
    backlog = world.bus.request(CheckOrderBacklog(request_id=""))
    assert (backlog.due, backlog.unfinished, backlog.overloaded) == (0, 0, False)
    assert world.bus.request(CheckOrderQueue(request_id="")).due == 2


def test_a_change_that_webhooks_refuses_waits_for_an_operator_and_delays_no_payment(make, stored, eventually):
    world = make()

    def refuse(event):
        raise ValueError("poison")

    world.hinder = refuse
    world.module.start()
    order_id = world.place()
    eventually(lambda: CHANGES.dead in stored(order_id), 60.0)
    [letter] = world.bus.request(ListOrderDeadLetters(request_id="", limit=10)).dead_letters
    assert (letter.order_id, letter.event, letter.user_id) == (order_id, "OrderChanged", "user-7")
    assert world.bus.request(CheckOrderQueue(request_id="")).dead == 1
    world.update(order_id, "Cancelled")
    eventually(lambda: len(world.ids("payments")) == 2)
    world.hinder = lambda _event: None

    def replayed() -> bool:
        # An attempt that was under way when the receiver was mended may end as a dead letter after the first replay.
        with suppress(ApplicationError):
            world.bus.request(ReplayOrderEvents(request_id="", order_id=order_id, operator="Ada", reason="mended"))
        return world.ids("webhooks") == [(order_id, 1), (order_id, 2)]

    eventually(replayed)
    eventually(lambda: traces(stored(order_id)) == set())


def test_where_nobody_is_told_any_more_what_waited_is_removed(make, stored, eventually):
    before = make()
    order_id = before.place()
    assert traces(stored(order_id)) == {CHANGES.events, CHANGES.due}
    after = make(subscribed=False)
    assert [heartbeat.name for heartbeat in after.module.heartbeats] == ["orders-relay"]
    after.module.start()
    eventually(lambda: traces(stored(order_id)) == set())
    assert traces(stored(after.place())) == set()
