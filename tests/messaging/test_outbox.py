"""The outbox and its relay: at least once, in order, across crashes; what cannot be delivered stays in view."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from pymongo.errors import WriteError
from pymongo.monitoring import CommandListener

from app.contracts.base import Event, Unavailable
from app.contracts.orders import OrderCancelled, OrderCreated
from app.contracts.payments import PaymentVoided
from app.main import create_app, runtime
from app.messaging.outbox import (
    EVENT_TYPES,
    OUTBOX_INDEXES,
    OUTBOX_RULE,
    OUTBOX_SCHEMA,
    Outbox,
    PendingEvents,
    decode_entries,
    decode_event,
    encode_event,
)
from app.messaging.receiver_health import DISTINCT_DOCUMENTS
from app.messaging.relay import Relay
from app.messaging.signal_bus import SignalBus
from app.observability import metrics
from app.observability.logging import configure
from app.observability.stages import Stage
from app.storage.mongodb import Database, Store

NEVER = 3600.0
# No test is about the deadline of a command, which a busy machine may make slow.
DEADLINE = 30.0
# The clocks of two connections may differ by some milliseconds.
LONG_AGO = -60.0
KINDS = (OrderCreated, OrderCancelled, PaymentVoided)


def created(order: str, sequence: int = 1) -> OrderCreated:
    return OrderCreated(**common(order, sequence), user_id="u", product_id="1", total_value=9900, total_currency="MYR")


def cancelled(order: str, sequence: int) -> OrderCancelled:
    return OrderCancelled(**common(order, sequence))


def voided(order: str, sequence: int) -> PaymentVoided:
    return PaymentVoided(**common(order, sequence))


def common(order: str, sequence: int) -> dict:
    # As many milliseconds as need a 64-bit integer, which comes back from MongoDB as a type of its own.
    at = int(time.time() * 1000)
    return {"event_id": f"{order}-{sequence}", "order_id": order, "sequence": sequence, "request_id": "r", "at": at}


class Receiver:
    """Takes batches, all or nothing; raises an error for some orders."""

    def __init__(self):
        self.batches: list[tuple[Event, ...]] = []
        self.handled: list[Event] = []
        self.errors: dict[str, Exception] = {}

    def __call__(self, events):
        self.batches.append(events)
        for event in events:
            if event.order_id in self.errors:
                raise self.errors[event.order_id]
        self.handled.extend(events)

    def ids(self, order: str | None = None) -> list[str]:
        """Which events were handled, of one order or of all."""
        return [event.event_id for event in self.handled if order in (None, event.order_id)]


@dataclass
class Process:
    """What one process has of an outbox."""

    store: Store
    outbox: Outbox
    relay: Relay
    receiver: Receiver


@pytest.fixture
def start_process(settings):
    """Another process on the same collection; its relay is not started."""
    databases, relays = [], []
    configure(settings.log_format, settings.log_level)

    def make(*, lease=NEVER, tries=3, interval=NEVER, receiver=None, maintenance_task=None, **options) -> Process:
        database = Database(settings.mongodb_uri, settings.database, **options)
        databases.append(database)
        store = database.collection("scratch", DEADLINE)
        bus, receiver = SignalBus(), receiver or Receiver()
        for kind in KINDS:
            bus.subscribe("receiver", kind, receiver)
        outbox = Outbox(store, lease)
        relay = Relay(
            "sender",
            {"payments": Stage.HANDED_TO_PAYMENTS},
            outbox,
            bus,
            interval=interval,
            tries=tries,
            maintenance_task=maintenance_task,
        )
        relays.append(relay)
        return Process(store, outbox, relay, receiver)

    yield make
    for relay in relays:
        relay.stop(10.0)
    for database in databases:
        database.close()


@pytest.fixture
def process(start_process) -> Process:
    made = start_process()
    made.store.prepare({"bsonType": "object", "properties": OUTBOX_SCHEMA, **OUTBOX_RULE}, OUTBOX_INDEXES)
    return made


@pytest.fixture
def scratch(process, database):
    """The collection, to look into and to write to behind the relay's back."""
    return database["scratch"]


@pytest.fixture
def record(process, scratch):
    """Store a document with undelivered events, due in so many seconds; its key."""

    def write(*events: Event, due: float = LONG_AGO) -> str:
        entries = [encode_event(event) for event in events]
        scratch.insert_one({"_id": events[0].order_id, "outbox": entries, "relayDue": in_seconds(process, due)})
        return events[0].order_id

    return write


@pytest.fixture
def push(process, scratch):
    """Record one more event the way repositories do, with the sender's lease; returns all undelivered events."""

    def write(event: Event, sender: Process = process) -> list[Event]:
        after = scratch.find_one_and_update(
            {"_id": event.order_id},
            {"$push": {"outbox": encode_event(event)}, "$set": {"relayDue": sender.outbox.lease_end()}},
            return_document=True,
        )
        return decode_entries(after["outbox"])

    return write


@pytest.fixture
def stopped_clock(process, monkeypatch) -> datetime:
    """The time at which the process's clock of the database stands still."""
    now = process.store.clock.now()
    monkeypatch.setattr(process.store.clock, "now", lambda: now)
    return now


@pytest.fixture
def hurry(process, scratch):
    """Make everything due that is due later."""

    def make_due():
        scratch.update_many({"relayDue": {"$exists": True}}, {"$set": {"relayDue": in_seconds(process, LONG_AGO)}})

    return make_due


def in_seconds(process: Process, seconds: float):
    return process.store.clock.now() + timedelta(seconds=seconds)


def settled(scratch) -> bool:
    """Whether nothing is left to deliver, nor anything in the index of due work."""
    return not scratch.count_documents({"outbox": {"$ne": []}}) and not due(scratch)


def due(scratch) -> int:
    return scratch.count_documents({"relayDue": {"$exists": True}}, hint="relay_due")


# --- entries ---------------------------------------------------------------------------------------------------


def test_an_event_comes_back_from_the_database_as_it_was(record, scratch):
    event = created("a")
    record(event)
    [entry] = scratch.find_one()["outbox"]
    assert decode_event(entry) == event


def test_every_event_type_can_be_recorded():
    assert set(KINDS) <= set(EVENT_TYPES.values())
    assert all(name == kind.__name__ for name, kind in EVENT_TYPES.items())


@pytest.mark.parametrize(
    "spoilt",
    [
        {"type": "OrderTeleported"},
        {"type": 7},
        {"type": None},
        {"sequence": "first"},
        {"order_id": None},
        {"total_value": 9.9},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_understood_is_a_value_error(spoilt):
    with pytest.raises(ValueError):
        decode_event({**encode_event(created("a")), **spoilt})


def test_an_entry_that_cannot_be_decoded_holds_its_place_among_the_events():
    spoilt = {**encode_event(cancelled("a", 2)), "type": "OrderTeleported"}
    first, second, third = decode_entries([encode_event(created("a")), spoilt, encode_event(voided("a", 3))])
    assert (first.event_id, second.event_id, third.event_id) == ("a-1", "a-2", "a-3")
    pending = PendingEvents("a", [first, second, third])
    assert pending.next_event() is first
    pending.events = pending.events[1:]
    assert pending.next_event() is None
    assert (pending.event_type, pending.error) == ("OrderTeleported", second.error)


def test_what_a_later_version_adds_to_an_event_is_passed_over():
    event = created("a")
    assert decode_event({**encode_event(event), "colour": "red"}) == event


@pytest.mark.parametrize("spoilt", [{"type": ["a list"]}, {"type": {}}, {"event_id": None}, {"event_id": 7}], ids=str)
def test_an_entry_without_a_text_for_type_and_id_cannot_be_stored(process, scratch, spoilt):
    with pytest.raises(WriteError) as caught:
        scratch.insert_one({"outbox": [{**encode_event(created("a")), **spoilt}], "relayDue": in_seconds(process, 0)})
    assert caught.value.code == 121


def test_events_that_are_neither_due_nor_a_dead_letter_cannot_be_stored(record, scratch):
    record(created("a"))
    for write in (
        lambda: scratch.insert_one({"_id": "b", "outbox": [encode_event(created("b"))]}),
        lambda: scratch.update_one({"_id": "a"}, {"$unset": {"relayDue": ""}}),
    ):
        with pytest.raises(WriteError) as caught:
            write()
        assert caught.value.code == 121
    scratch.update_one({"_id": "a"}, {"$unset": {"relayDue": ""}, "$set": {"outbox": []}})
    scratch.insert_one({"_id": "c"})


# --- the sweep -------------------------------------------------------------------------------------------------


def test_what_a_dead_process_recorded_is_delivered_by_the_next(record, start_process, scratch):
    record(created("a"))
    successor = start_process()
    assert successor.relay.sweep() == 1
    assert successor.receiver.ids() == ["a-1"]
    assert settled(scratch)


def test_an_order_survives_a_crash_between_storing_and_handing_on(settings, client, place, database, eventually):
    order_id = place(client)
    # Nothing of the first process runs, as if it had been killed right after its answer.
    successor = create_app(settings)
    try:
        eventually(runtime(successor).modules["orders"].relay.sweep)
        assert database["payments"].count_documents({"_id": order_id}) == 1
        assert database["orders"].count_documents({"outbox": {"$ne": []}}) == 0
    finally:
        runtime(successor).stop()


def test_a_cancellation_that_was_not_handed_on_outlives_the_news_of_an_earlier_event(
    settings, place, eventually, database, monkeypatch
):
    """The news of the payment acknowledges the order's creation, and only that: the money has to go back."""
    app = create_app(replace(settings, relay_lease=600.0))
    client, running = app.test_client(), runtime(app)
    running.prepare()

    def stands(order_status, payment_status):
        order = database.orders.find_one()
        return (order["orderStatus"], order["paymentStatus"]) == (order_status, payment_status)

    try:
        order_id = place(client)
        running.modules["orders"].relay.deliver(running.modules["orders"].outbox.dequeue_local(128, 0))
        # As if the process had died between storing the cancellation and handing it on.
        monkeypatch.setattr(running.modules["orders"].outbox, "enqueue_local", lambda key, events: None)
        assert client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
        running.start()
        eventually(lambda: stands("Cancelled", "Refunding"))
        assert database.orders.find_one()["outbox"][-1]["type"] == "OrderCancelled"
        database.orders.update_one({}, {"$set": {"relayDue": database.orders.find_one()["createdAt"]}})
        eventually(lambda: stands("Cancelled", "Refunded"))
        [entry] = database.ledger.find()
        assert (entry["answer"], entry["refunded"]) == ("captured", entry["value"])
    finally:
        running.stop()


def test_a_sweep_with_nothing_due_does_nothing(process):
    assert process.relay.sweep() == 0
    assert process.receiver.batches == []


def test_what_was_delivered_is_not_delivered_again(process, record, hurry):
    record(created("a"))
    process.relay.sweep()
    hurry()
    assert process.relay.sweep() == 0
    assert process.receiver.ids() == ["a-1"]


def test_the_longest_due_come_first_and_a_sweep_takes_no_more_than_a_batch(process, record):
    for number in range(Relay.BATCH + 20):
        record(created(f"o{number}"), due=-number)
    assert process.relay.sweep() == Relay.BATCH
    assert set(process.receiver.ids()) == {f"o{number}-1" for number in range(20, Relay.BATCH + 20)}
    assert process.relay.sweep() == 20


def test_many_documents_are_handed_on_as_one_batch_of_each_type(process, record):
    for number in range(50):
        record(created(f"a{number}"))
        record(cancelled(f"b{number}", 1))
    process.relay.sweep()
    assert Counter((type(batch[0]), len(batch)) for batch in process.receiver.batches) == {
        (OrderCreated, 50): 1,
        (OrderCancelled, 50): 1,
    }


def test_events_of_a_document_are_delivered_in_their_order_whatever_their_types(process, record, scratch):
    record(created("a", 1), cancelled("a", 2), voided("a", 3), created("a", 4), cancelled("a", 5))
    record(voided("b", 1), created("b", 2), voided("b", 3))
    record(cancelled("c", 1))
    process.relay.sweep()
    assert process.receiver.ids("a") == ["a-1", "a-2", "a-3", "a-4", "a-5"]
    assert process.receiver.ids("b") == ["b-1", "b-2", "b-3"]
    assert process.receiver.ids("c") == ["c-1"]
    assert all(len({type(event) for event in batch}) == 1 for batch in process.receiver.batches)
    assert settled(scratch)


def test_an_event_nobody_subscribed_to_is_delivered_to_nobody(process, scratch, record):
    kind = next(kind for kind in EVENT_TYPES.values() if kind not in KINDS and kind.__name__ == "PaymentParked")
    record(kind(**common("a", 1), reason="why not"))
    assert process.relay.sweep() == 1
    assert settled(scratch)


def test_every_event_is_told_of_before_it_is_handed_over(process, record, monkeypatch):
    told = []
    monkeypatch.setattr(
        "app.messaging.relay.record_stages", lambda stage, lines: told.extend((stage, line) for line in lines)
    )
    process.receiver.handled = told
    event = created("a")
    record(event)
    process.relay.sweep()
    [(stage, line), received] = told
    assert stage == Stage.HANDED_TO_PAYMENTS
    assert (line["module"], line["order_id"], line["request_id"]) == ("sender", "a", "r")
    assert line["event_type"] == "OrderCreated"
    assert line["took_ms"] >= 0
    assert received == event


# --- the lease -------------------------------------------------------------------------------------------------


def test_nothing_is_taken_up_before_its_lease_has_ended(process, record):
    record(created("a"), due=NEVER)
    assert process.relay.sweep() == 0
    assert process.receiver.batches == []


def test_what_was_claimed_is_nobody_elses_until_the_lease_has_ended(start_process, record, stopped_clock, monkeypatch):
    record(created("a"))
    first, second = start_process(lease=60.0), start_process()
    monkeypatch.setattr(first.store.clock, "now", lambda: stopped_clock)
    monkeypatch.setattr(second.store.clock, "now", lambda: stopped_clock + timedelta(seconds=59.999))
    [claimed] = first.outbox.claim(10)
    assert claimed.key == "a"
    assert second.outbox.claim(10) == []
    monkeypatch.setattr(second.store.clock, "now", lambda: stopped_clock + timedelta(seconds=60))
    [taken_over] = second.outbox.claim(10)
    assert taken_over.key == "a"


def test_what_was_not_acknowledged_is_delivered_again(start_process, record, scratch, monkeypatch, hurry):
    record(created("a"), cancelled("a", 2))
    dying, successor = start_process(), start_process()

    def die(batch):
        raise Unavailable("the database is gone")

    monkeypatch.setattr(dying.outbox, "acknowledge", die)
    with pytest.raises(Unavailable):
        dying.relay.sweep()
    assert dying.receiver.ids() == ["a-1", "a-2"]
    hurry()
    successor.relay.sweep()
    assert successor.receiver.ids() == ["a-1", "a-2"]
    assert settled(scratch)


def test_relays_sweeping_at_once_never_claim_the_same(start_process, record):
    processes = [start_process() for _ in range(4)]
    for number in range(200):
        record(created(f"o{number}"))
    together = threading.Barrier(len(processes))

    def sweep_on(process):
        together.wait(60)
        while process.relay.sweep():
            pass

    threads = [threading.Thread(target=sweep_on, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    delivered = Counter(event_id for process in processes for event_id in process.receiver.ids())
    assert delivered == {f"o{number}-1": 1 for number in range(200)}


class Updates(CommandListener):
    """How many documents each update has matched."""

    def __init__(self) -> None:
        self.matched: list[int] = []

    def started(self, event) -> None:
        """Not of interest."""

    def failed(self, event) -> None:
        """Not of interest."""

    def succeeded(self, event) -> None:
        if event.command_name == "update":
            self.matched.append(event.reply["n"])


class Between(CommandListener):
    """Does something once, right before a process sends its next update."""

    def __init__(self):
        self.act = None

    def started(self, event):
        if event.command_name == "update" and self.act:
            act, self.act = self.act, None
            act()

    def succeeded(self, event):
        """Not of interest."""

    def failed(self, event):
        """Not of interest."""


@pytest.mark.parametrize("unfinished", [False, True], ids=["in a batch", "one by one"])
def test_what_another_process_claims_between_look_and_claim_is_the_others(
    start_process, record, scratch, hurry, unfinished
):
    between = Between()
    slow, fast = start_process(event_listeners=[between]), start_process()
    record(created("a"))
    if unfinished:
        fast.outbox.claim(10)
        hurry()
    taken = []
    between.act = lambda: taken.extend(fast.outbox.claim(10))
    assert slow.outbox.claim(10) == []
    assert [pending.key for pending in taken] == ["a"]


def test_sweeps_of_many_processes_do_not_keep_step(start_process, record, eventually, monkeypatch):
    """The time between two sweeps is drawn: where the draw makes it nothing, an interval of an hour is over at once."""
    process = start_process(interval=NEVER)
    record(created("a"))
    process.relay.start()
    eventually(lambda: process.receiver.ids() == ["a-1"])
    process.relay.stop(10.0)
    sweeps = []
    hasty = start_process(interval=NEVER)
    claim = hasty.outbox.claim
    monkeypatch.setattr(hasty.outbox, "claim", lambda limit: sweeps.append(limit) or claim(limit))
    monkeypatch.setattr(hasty.relay, "_jittered", lambda seconds: 0.0)
    hasty.relay.start()
    eventually(lambda: len(sweeps) > 3)


@pytest.mark.parametrize(
    "error", [Unavailable("no database"), ValueError("refused")], ids=["away", "refuses everything"]
)
def test_events_that_failed_together_are_not_repeated_together(process, record, scratch, error):
    orders = [f"o{number}" for number in range(40)]
    for order in orders:
        record(created(order))
        process.receiver.errors[order] = error
    process.relay.sweep()
    # They are set back one after the other, by id: without a spread each is due later than the one before.
    again = [doc["relayDue"] for doc in scratch.find().sort("_id")]
    assert len(again) == len(orders)
    assert again != sorted(again)


@pytest.mark.parametrize("failures", range(2))
def test_single_events_that_failed_together_are_not_repeated_together(process, record, scratch, hurry, failures):
    """One event gets through each time: the receiver is well, and these few are refused."""
    for number in range(20):
        record(created(f"o{number}"))
        process.receiver.errors[f"o{number}"] = ValueError("refused")
    for at in range(failures + 1):
        record(created(f"good{at}"))
        hurry()
        process.relay.sweep()
    again = [doc["relayDue"] for doc in scratch.find({"relayFailures": failures + 1}).sort("_id")]
    assert len(again) == 20
    assert again != sorted(again)


# --- the local queue -------------------------------------------------------------------------------------------


def test_an_event_of_the_local_queue_is_delivered_at_once(process, record, scratch, eventually):
    process.relay.start()
    event = created("a")
    record(event, due=NEVER)
    process.outbox.enqueue_local("a", [event])
    eventually(lambda: process.receiver.ids() == ["a-1"], 60.0)
    eventually(lambda: settled(scratch), 60.0)


def test_an_event_that_is_not_queued_waits_for_its_lease(process, record, eventually):
    record(created("a"), due=NEVER)
    record(created("b"))
    process.relay.start()
    eventually(process.receiver.ids)
    assert process.receiver.ids() == ["b-1"]


def test_the_first_sweep_is_at_once(process, record, eventually):
    record(created("a"))
    process.relay.start()
    eventually(lambda: process.receiver.ids() == ["a-1"], 60.0)


def test_sweeps_are_repeated_while_events_are_queued(start_process, process, record, eventually):
    sweeping = start_process(interval=0.05)
    sweeping.relay.start()
    ending = threading.Event()

    def enqueue():
        while not ending.wait(0.001):
            sweeping.outbox.enqueue_local("nobody", [])

    producer = threading.Thread(target=enqueue)
    producer.start()
    try:
        record(created("late"))
        eventually(lambda: sweeping.receiver.ids() == ["late-1"])
    finally:
        ending.set()
        producer.join()


def test_events_that_overflow_the_local_queue_are_found_by_a_sweep(process, record, hurry, scratch):
    record(created("a"), due=NEVER)
    process.outbox.enqueue_local("a", [created("a")])
    for _ in range(Outbox.LOCAL_QUEUE_LIMIT):
        process.outbox.enqueue_local("nobody", [])
    while batch := process.outbox.dequeue_local(Relay.BATCH, 0):
        assert "a" not in {pending.key for pending in batch}
    hurry()
    process.relay.sweep()
    assert process.receiver.ids() == ["a-1"]


def test_orders_settle_without_a_local_queue(monkeypatch, live, place, eventually, database):
    monkeypatch.setattr(Outbox, "enqueue_local", lambda self, key, events: None)
    captured, declined = place(live), place(live, productId="2")

    def status(order_id):
        return live.get(f"/orders/status/{order_id}").json["orderStatus"]

    eventually(lambda: (status(captured), status(declined)) == ("Success", "Declined"))
    for collection in ("orders", "payments"):
        eventually(lambda name=collection: database[name].count_documents({"outbox": {"$ne": []}}) == 0)


def test_two_items_of_the_local_queue_for_one_document_keep_its_order(process, record, push, scratch):
    record(created("a"), due=NEVER)
    process.outbox.enqueue_local("a", [created("a")])
    process.outbox.enqueue_local("a", push(cancelled("a", 2)))
    process.relay.deliver(process.outbox.dequeue_local(10, 0))
    first_time = list(dict.fromkeys(process.receiver.ids()))
    assert first_time == ["a-1", "a-2"]
    assert settled(scratch)


def test_stopping_delivers_the_local_queue(process, record, scratch, eventually):
    stopping, entered = threading.Event(), threading.Event()

    class Slow(list):
        def extend(self, events):
            entered.set()
            assert stopping.wait(60)
            super().extend(events)

    process.receiver.handled = Slow()
    process.relay.start()
    count = 2 * Relay.BATCH + 44
    for number in range(count):
        record(created(f"o{number}"), due=NEVER)
        process.outbox.enqueue_local(f"o{number}", [created(f"o{number}")])
    assert entered.wait(60)
    stopper = threading.Thread(target=process.relay.stop, args=(60.0,))
    stopper.start()
    eventually(process.relay._stopping.is_set)
    stopping.set()
    stopper.join(60.0)
    assert sorted(process.receiver.ids()) == sorted(f"o{number}-1" for number in range(count))
    assert settled(scratch)


def test_a_process_that_ends_leaves_the_rest_to_others_once_the_receiver_is_away(
    process, start_process, record, scratch
):
    count = 2 * Relay.BATCH + 44
    for number in range(count):
        record(created(f"o{number}"), due=NEVER)
        process.outbox.enqueue_local(f"o{number}", [created(f"o{number}")])
    process.receiver.errors = {f"o{number}": Unavailable("away") for number in range(count)}
    process.relay._stopping.set()
    process.relay.run()
    assert [len(batch) for batch in process.receiver.batches] == [Relay.BATCH]
    other = start_process()
    while other.relay.sweep():
        pass
    # The others are due a moment later, as after any attempt.
    assert {f"o{number}-1" for number in range(Relay.BATCH, count)} <= {*other.receiver.ids()}


def test_stopping_wakes_an_idle_relay(process, eventually):
    process.relay.start()
    eventually(lambda: process.outbox._enqueued._cond._waiters)
    began = time.monotonic()
    process.relay.stop(60.0)
    assert process.relay.thread.idle
    assert time.monotonic() - began < 30


def test_a_relay_that_was_never_started_can_be_stopped(process):
    process.relay.stop(0.1)


def test_a_relay_survives_what_goes_wrong_in_it(start_process, record, monkeypatch, eventually):
    process = start_process(interval=0.05)
    claim, errors = process.outbox.claim, iter([RuntimeError("a bug"), Unavailable("no database")])

    def sometimes(limit):
        for error in errors:
            raise error
        return claim(limit)

    monkeypatch.setattr(process.outbox, "claim", sometimes)
    record(created("a"))
    process.relay.start()
    eventually(lambda: process.receiver.ids() == ["a-1"])


def test_the_maintenance_task_is_run_once_however_many_sweeps_there_are_and_may_fail(start_process, record, eventually):
    runs = []

    def maintenance_task():
        runs.append("done")
        raise RuntimeError("a bug")

    process = start_process(interval=0.01, maintenance_task=maintenance_task)
    process.relay.start()
    eventually(lambda: runs)
    for number in range(5):
        record(created(f"o{number}"))
        eventually(lambda number=number: f"o{number}-1" in process.receiver.ids())
    assert runs == ["done"]


# --- acknowledging ---------------------------------------------------------------------------------------------


def test_an_event_pushed_meanwhile_is_kept_and_stays_due(process, record, push, scratch):
    record(created("a"))
    claimed = process.outbox.claim(10)
    push(cancelled("a", 2))
    process.relay.deliver(claimed)
    assert process.receiver.ids() == ["a-1"]
    stored = scratch.find_one()
    assert [entry["event_id"] for entry in stored["outbox"]] == ["a-2"]
    assert due(scratch) == 1


def test_only_what_was_delivered_is_removed(process, record, scratch):
    record(created("a"), cancelled("a", 2), voided("a", 3))
    [claimed] = process.outbox.claim(10)
    claimed.delivered = ["a-1", "a-2"]
    process.outbox.acknowledge([claimed])
    assert [entry["event_id"] for entry in scratch.find_one()["outbox"]] == ["a-3"]
    assert due(scratch) == 1


def test_acknowledging_touches_no_other_document(process, record, scratch):
    record(created("a"))
    record(created("b"))
    pending = next(pending for pending in process.outbox.claim(10) if pending.key == "a")
    pending.delivered = ["a-1", "b-1"]
    process.outbox.acknowledge([pending])
    assert scratch.find_one({"_id": "a"})["outbox"] == []
    assert len(scratch.find_one({"_id": "b"})["outbox"]) == 1


def test_an_event_that_is_not_delivered_yet_costs_only_its_own_document_a_second_update(
    start_process, process, record, push
):
    updates = Updates()
    counting = start_process(event_listeners=[updates])
    for order in ("a", "b", "c"):
        record(created(order))
    batch = counting.outbox.claim(10)
    for pending in batch:
        pending.delivered = [f"{pending.key}-1"]
    push(cancelled("a", 2))
    updates.matched.clear()
    counting.outbox.acknowledge(batch)
    assert updates.matched == [2, 1]


def test_nothing_delivered_is_nothing_to_acknowledge(process, record, scratch):
    record(created("a"))
    before = scratch.find_one()
    process.outbox.acknowledge([PendingEvents("a", decode_entries(before["outbox"]))])
    assert scratch.find_one() == before


@pytest.mark.parametrize("error", [ValueError("not yet"), Unavailable("no database")], ids=repr)
def test_a_failure_told_late_does_not_bring_a_delivered_event_back(
    start_process, process, record, hurry, scratch, error
):
    record(created("a"))
    slow = start_process()
    slow.receiver.errors["a"] = error
    claimed = slow.outbox.claim(10)
    hurry()
    process.relay.sweep()
    slow.relay.deliver(claimed)
    assert process.receiver.ids() == ["a-1"]
    assert settled(scratch)
    assert "relayFailures" not in scratch.find_one()


def test_only_the_event_at_the_head_can_become_a_dead_letter(process, record, scratch):
    record(created("a"), cancelled("a", 2))
    process.outbox.dead_letter("a", "a-2", "too late", 3)
    assert process.outbox.dead_letters(10) == []
    assert due(scratch) == 1


@pytest.fixture
def delivered_and_not_acknowledged(start_process, record):
    """A process that has delivered order a's first event, and is to acknowledge it later."""
    late = start_process()
    late.outbox.enqueue_local(record(created("a")), [created("a")])
    late.relay._deliver_local(late.outbox.dequeue_local(10, 0))
    assert late.receiver.ids() == ["a-1"]
    return late


def refuse(process: Process, kind: type[Event]) -> None:
    """Let a process's receiver refuse all events of one type."""
    handle = process.receiver.__call__

    def picky(events):
        if type(events[0]) is kind:
            raise ValueError("poison")
        handle(events)

    bus = SignalBus()
    for each in KINDS:
        bus.subscribe("receiver", each, picky)
    process.relay._bus = bus


def test_a_late_acknowledgement_leaves_the_dead_letter_of_a_later_event(
    delivered_and_not_acknowledged, start_process, push, hurry, scratch
):
    push(cancelled("a", 2))
    hurry()
    other = start_process(tries=1)
    refuse(other, OrderCancelled)
    other.relay.sweep()
    [letter] = other.outbox.dead_letters(10)
    assert letter["deadLetter"]["event_id"] == "a-2"
    delivered_and_not_acknowledged.outbox.acknowledge_all()
    assert other.outbox.dead_letters(10) == [letter]
    assert scratch.find_one()["relayFailures"] == 1
    assert other.outbox.replay("a")


def test_events_of_one_document_that_were_queued_apart_are_all_acknowledged(
    delivered_and_not_acknowledged, push, scratch
):
    sender = delivered_and_not_acknowledged
    push(cancelled("a", 2), sender)
    sender.outbox.enqueue_local("a", [cancelled("a", 2)])
    sender.relay._deliver_local(sender.outbox.dequeue_local(10, 0))
    assert sender.receiver.ids() == ["a-1", "a-2"]
    sender.outbox.acknowledge_all()
    assert settled(scratch)


def test_a_document_whose_next_event_is_queued_is_acknowledged_with_it(start_process, record, push, scratch):
    updates = Updates()
    sender = start_process(event_listeners=[updates])
    for order in ("a", "b"):
        sender.outbox.enqueue_local(record(created(order)), [created(order)])
    sender.relay._deliver_local(sender.outbox.dequeue_local(10, 0))
    push(cancelled("a", 2))
    sender.outbox.enqueue_local("a", [cancelled("a", 2)])
    sender.outbox.acknowledge_all()
    assert updates.matched == [1]
    sender.relay._deliver_local(sender.outbox.dequeue_local(10, 0))
    sender.outbox.acknowledge_all()
    assert updates.matched == [1, 1]
    assert settled(scratch)


def test_what_waits_behind_a_dead_letter_is_due_once_that_was_delivered_after_all(
    delivered_and_not_acknowledged, start_process, push, hurry, scratch
):
    push(cancelled("a", 2))
    hurry()
    other = start_process(tries=1)
    refuse(other, OrderCreated)
    other.relay.sweep()
    [letter] = other.outbox.dead_letters(10)
    assert letter["deadLetter"]["event_id"] == "a-1"
    delivered_and_not_acknowledged.outbox.acknowledge_all()
    assert other.outbox.dead_letters(10) == []
    assert "relayFailures" not in scratch.find_one()
    hurry()
    other.relay.sweep()
    assert other.receiver.ids() == ["a-2"]
    assert settled(scratch)


def test_a_late_acknowledgement_does_not_take_the_next_event_from_who_has_claimed_it(
    delivered_and_not_acknowledged, start_process, push, hurry, scratch
):
    push(cancelled("a", 2))
    hurry()
    between = Between()
    claiming = start_process(event_listeners=[between])
    [claimed] = claiming.outbox.claim(10)
    delivered_and_not_acknowledged.outbox.acknowledge_all()
    doc = scratch.find_one()
    assert ("relayClaim" in doc, [entry["event_id"] for entry in doc["outbox"]]) == (True, ["a-2"])
    assert doc["relayDue"] > claiming.store.clock.now()
    claiming.relay.deliver([claimed])
    assert settled(scratch)


def test_events_that_nothing_would_ever_deliver_are_found_and_delivered(
    start_process, process, record, scratch, database, eventually
):
    """As an older version may have left them."""
    record(created("a"), cancelled("a", 2))
    record(created("b"))
    record(created("dead"))
    for order in ("b", "dead"):
        process.outbox.dead_letter(order, f"{order}-1", "poison", 8)
    database.command("collMod", "scratch", validationLevel="off")
    scratch.update_one({"_id": "a"}, {"$unset": {"relayDue": ""}})
    scratch.update_one({"_id": "b"}, {"$unset": {"deadLetter": ""}})
    database.command("collMod", "scratch", validationLevel="strict")
    running = start_process(interval=0.05)
    running.relay.start()
    eventually(lambda: sorted(running.receiver.ids()) == ["a-1", "a-2", "b-1"])
    assert [letter["_id"] for letter in running.outbox.dead_letters(10)] == ["dead"]


# --- events that end the process ------------------------------------------------------------------------------

DEADLY = """
import os, signal, sys
from app.messaging.signal_bus import SignalBus
from app.contracts.orders import OrderCancelled, OrderCreated
from app.storage.mongodb import Database
from app.messaging.outbox import Outbox
from app.messaging.relay import Relay
from app.observability.stages import Stage

def receive(events):
    for event in events:
        if event.order_id == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        print("handled", event.event_id, flush=True)

uri, name = sys.argv[1:]
store = Database(uri, name).collection("scratch", 30.0)
bus = SignalBus()
for kind in (OrderCreated, OrderCancelled):
    bus.subscribe("receiver", kind, receive)
relay = Relay("sender", {"payments": Stage.HANDED_TO_PAYMENTS}, Outbox(store, 3600.0), bus, interval=3600.0, tries=3)
while relay.sweep():
    pass
"""


def test_an_event_that_kills_each_process_that_delivers_it_ends_as_a_dead_letter_and_takes_no_other_with_it(
    process, record, hurry, settings, scratch
):
    orders = [f"o{number}" for number in range(10)]
    for at, order in enumerate([*orders[:5], "deadly", *orders[5:]]):
        record(created(order, 1), cancelled(order, 2), due=LONG_AGO + at)
    codes, handled = [], set()
    while not codes or (codes[-1] == -signal.SIGKILL and len(codes) < 20):
        hurry()
        ran = subprocess.run(
            [sys.executable, "-c", DEADLY, settings.mongodb_uri, settings.database],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        codes.append(ran.returncode)
        handled |= {line.split()[1] for line in ran.stdout.splitlines() if line.startswith("handled ")}
    assert codes[-1] == 0, codes
    [letter] = process.outbox.dead_letters(10)
    assert (letter["_id"], letter["deadLetter"]["event_id"]) == ("deadly", "deadly-1")
    assert "did not end" in letter["deadLetter"]["reason"]
    assert handled == {f"{order}-{sequence}" for order in orders for sequence in (1, 2)}
    assert due(scratch) == 0


def test_what_was_claimed_with_others_when_a_process_died_has_all_its_own_tries_left(start_process, record, hurry):
    """Any of them may have ended the process, and so may somebody's kill -9."""
    process = start_process(tries=1)
    orders = [f"o{number}" for number in range(10)]
    for order in orders:
        record(created(order))
    start_process().outbox.claim(10)
    hurry()
    assert process.relay.sweep() == len(orders)
    assert process.outbox.dead_letters(10) == []
    assert [len(batch) for batch in process.receiver.batches] == [1] * len(orders)


def test_attempts_that_came_to_an_end_do_not_add_up(start_process, record, hurry, scratch):
    """An unavailable receiver, a process that dies now and then: neither makes a dead letter."""
    process = start_process(tries=2)
    record(created("a"))
    process.receiver.errors["a"] = Unavailable("no database")
    for _ in range(3):
        hurry()
        start_process().outbox.claim(10)  # Dies with it.
        hurry()
        process.relay.sweep()
    assert process.outbox.dead_letters(10) == []
    assert "relayAttempts" not in scratch.find_one()


# --- failures --------------------------------------------------------------------------------------------------


def test_what_a_receiver_failed_at_is_repeated_later_and_not_before(process, record, scratch, hurry, stopped_clock):
    record(created("a"))
    process.receiver.errors["a"] = ValueError("not yet")
    process.relay.sweep()
    assert scratch.find_one()["relayDue"] > stopped_clock
    assert process.relay.sweep() == 0
    process.receiver.errors.clear()
    hurry()
    process.relay.sweep()
    assert process.receiver.ids() == ["a-1"]
    assert settled(scratch)
    assert "relayFailures" not in scratch.find_one()


def test_a_running_relay_repeats_by_itself(start_process, record, eventually, scratch):
    process = start_process(interval=0.05)
    record(created("a"))
    process.receiver.errors["a"] = ValueError("not yet")
    process.relay.start()
    eventually(lambda: process.receiver.batches)
    process.receiver.errors.clear()
    eventually(lambda: process.receiver.ids() == ["a-1"])
    eventually(lambda: settled(scratch))


def test_the_pause_grows_with_the_failures(start_process, record, scratch, hurry, stopped_clock, monkeypatch):
    process = start_process(tries=20)
    monkeypatch.setattr(process.store.clock, "now", lambda: stopped_clock)
    record(created("a"))
    process.receiver.errors["a"] = ValueError("poison")
    for seconds in (0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60):
        hurry()
        process.relay.sweep()
        pause = (scratch.find_one()["relayDue"] - stopped_clock).total_seconds()
        # Spread by a fifth; stored in whole milliseconds.
        assert seconds * 0.8 - 0.001 <= pause <= seconds * 1.2


def test_unavailable_is_repeated_without_end_and_never_counted(process, record, scratch, hurry):
    record(created("a"))
    process.receiver.errors["a"] = Unavailable("no database")
    for _ in range(10):
        hurry()
        assert process.relay.sweep() == 1
    assert process.outbox.dead_letters(10) == []
    assert scratch.find_one().get("relayFailures", 0) == 0
    process.receiver.errors.clear()
    hurry()
    process.relay.sweep()
    assert settled(scratch)


def test_unavailable_in_between_does_not_wipe_out_the_count(start_process, record, hurry, scratch):
    process = start_process(tries=2)
    record(created("a"))
    for error in (ValueError("poison"), Unavailable("no database"), ValueError("poison")):
        process.receiver.errors["a"] = error
        hurry()
        process.relay.sweep()
    assert [letter["_id"] for letter in process.outbox.dead_letters(10)] == ["a"]


def test_a_batch_that_is_unavailable_is_not_tried_one_by_one(process, record, scratch):
    for order in "abc":
        record(created(order))
    process.receiver.errors["a"] = Unavailable("no database")
    process.relay.sweep()
    assert [len(batch) for batch in process.receiver.batches] == [3]
    assert due(scratch) == 3


def test_a_poison_event_holds_back_only_its_own_order(process, record, scratch):
    for order in "abcde":
        record(created(order, 1), cancelled(order, 2))
    process.receiver.errors["c"] = ValueError("poison")
    process.relay.sweep()
    for order in "abde":
        assert process.receiver.ids(order) == [f"{order}-1", f"{order}-2"]
    assert process.receiver.ids("c") == []
    [held_back] = scratch.find({"outbox": {"$ne": []}})
    assert (held_back["_id"], held_back["relayFailures"]) == ("c", 1)


def test_what_lies_behind_a_poison_event_waits(process, record, hurry):
    record(created("a", 1), cancelled("a", 2), voided("a", 3))

    def only_cancellations(events):
        process.receiver.errors = {"a": ValueError("poison")} if isinstance(events[0], OrderCancelled) else {}
        Receiver.__call__(process.receiver, events)

    bus = SignalBus()
    for kind in KINDS:
        bus.subscribe("receiver", kind, only_cancellations)
    relay = Relay("sender", {"payments": Stage.HANDED_TO_PAYMENTS}, process.outbox, bus, interval=NEVER, tries=3)
    for _ in range(4):
        hurry()
        relay.sweep()
    assert process.receiver.ids() == ["a-1"]


def test_a_poison_event_ends_as_a_dead_letter_with_its_reason(process, record, hurry, scratch):
    for order in "ab":
        record(created(order))
    process.receiver.errors["a"] = ValueError("no such product")
    for _ in range(3):
        assert process.outbox.dead_letters(10) == []
        hurry()
        process.relay.sweep()
    [letter] = process.outbox.dead_letters(10)
    assert letter["_id"] == "a"
    assert [entry["event_id"] for entry in letter["outbox"]] == ["a-1"]
    told = letter["deadLetter"]
    assert (told["event_id"], told["failures"]) == ("a-1", 3)
    assert "no such product" in told["reason"]
    assert abs(told["at"] - process.store.clock.now()) < timedelta(seconds=30)
    assert due(scratch) == 0
    assert process.relay.sweep() == 0


def test_dead_letters_are_listed_oldest_first_up_to_a_limit(start_process, record, stopped_clock, monkeypatch):
    process = start_process(tries=1)
    for later, order in enumerate("cab"):
        at = stopped_clock + timedelta(milliseconds=later)
        monkeypatch.setattr(process.store.clock, "now", lambda at=at: at)
        record(created(order))
        process.receiver.errors[order] = ValueError("poison")
        process.relay.sweep()
    assert [letter["_id"] for letter in process.outbox.dead_letters(10)] == ["c", "a", "b"]
    assert [letter["_id"] for letter in process.outbox.dead_letters(2)] == ["c", "a"]


def test_a_dead_letter_can_be_replayed(start_process, record, scratch, eventually):
    process = start_process(tries=1)
    record(created("a"), cancelled("a", 2))
    process.receiver.errors["a"] = ValueError("poison")
    process.relay.sweep()
    process.receiver.errors.clear()
    assert process.outbox.replay("a")
    assert process.outbox.dead_letters(10) == []
    assert eventually(process.relay.sweep) == 1
    assert process.receiver.ids() == ["a-1", "a-2"]
    assert settled(scratch)


def test_a_replayed_dead_letter_has_all_its_tries_again(start_process, record, hurry):
    process = start_process(tries=2)
    record(created("a"))
    process.receiver.errors["a"] = ValueError("poison")
    for _ in range(2):
        hurry()
        process.relay.sweep()
    process.outbox.replay("a")
    hurry()
    process.relay.sweep()
    assert process.outbox.dead_letters(10) == []
    hurry()
    process.relay.sweep()
    assert len(process.outbox.dead_letters(10)) == 1


def test_what_is_no_dead_letter_cannot_be_replayed(process, record, scratch):
    record(created("a"), due=NEVER)
    before = scratch.find_one()
    assert not process.outbox.replay("a")
    assert not process.outbox.replay("nobody")
    assert scratch.find_one() == before


@pytest.mark.parametrize(
    "spoilt",
    [{"type": "OrderTeleported"}, {"sequence": "first"}, {"order_id": None}, {"total_value": None}],
    ids=str,
)
def test_an_entry_that_cannot_be_understood_becomes_a_dead_letter(start_process, record, scratch, spoilt):
    process = start_process(tries=1)
    record(created("a"), cancelled("a", 2))
    for order in "bc":
        record(created(order))
    scratch.update_one({"_id": "a"}, {"$set": {f"outbox.0.{name}": value for name, value in spoilt.items()}})
    process.relay.sweep()
    assert sorted(process.receiver.ids()) == ["b-1", "c-1"]
    [letter] = process.outbox.dead_letters(10)
    assert (letter["_id"], letter["deadLetter"]["event_id"]) == ("a", "a-1")
    assert due(scratch) == 0


def test_failures_of_a_delivered_event_do_not_count_against_the_next(process, record, hurry):
    record(created("a", 1), cancelled("a", 2))
    process.receiver.errors["a"] = ValueError("not yet")
    for _ in range(2):
        hurry()
        process.relay.sweep()

    def refuse_cancellations(events):
        raise ValueError("poison")

    bus = SignalBus()
    bus.subscribe("receiver", OrderCancelled, refuse_cancellations)
    relay = Relay("sender", {"payments": Stage.HANDED_TO_PAYMENTS}, process.outbox, bus, interval=NEVER, tries=3)
    for _ in range(2):
        hurry()
        relay.sweep()
        assert process.outbox.dead_letters(10) == []
    hurry()
    relay.sweep()
    [letter] = process.outbox.dead_letters(10)
    assert (letter["deadLetter"]["event_id"], letter["deadLetter"]["failures"]) == ("a-2", 3)


def test_news_of_an_order_does_not_make_its_failures_forgotten(process, record, push, hurry):
    record(created("a"))
    process.receiver.errors["a"] = ValueError("poison")
    for _ in range(2):
        hurry()
        process.relay.sweep()
    process.outbox.enqueue_local("a", push(cancelled("a", 2)))
    process.relay.deliver(process.outbox.dequeue_local(10, 0))
    [letter] = process.outbox.dead_letters(10)
    assert (letter["deadLetter"]["event_id"], letter["deadLetter"]["failures"]) == ("a-1", 3)


def test_an_event_that_is_twice_in_a_batch_has_failed_once(process, record, push, scratch):
    record(created("a"))
    process.receiver.errors["a"] = ValueError("poison")
    process.outbox.enqueue_local("a", [created("a")])
    process.outbox.enqueue_local("a", push(cancelled("a", 2)))
    process.relay.deliver(process.outbox.dequeue_local(10, 0))
    assert scratch.find_one()["relayFailures"] == 1


def test_a_dead_letter_that_was_delivered_after_all_is_listed_no_more(start_process, record, push, hurry):
    process = start_process(tries=1)
    record(created("a"))
    process.receiver.errors["a"] = ValueError("poison")
    process.relay.sweep()
    process.receiver.errors.clear()
    process.outbox.enqueue_local("a", push(cancelled("a", 2)))
    process.relay.deliver(process.outbox.dequeue_local(10, 0))
    hurry()
    process.relay.sweep()
    still_there = [
        letter["deadLetter"]["event_id"] in [entry["event_id"] for entry in letter["outbox"]]
        for letter in process.outbox.dead_letters(10)
    ]
    assert all(still_there)


def test_a_document_without_undelivered_events_does_not_stay_due(process, scratch, hurry):
    scratch.insert_one({"_id": "a", "outbox": [], "relayDue": in_seconds(process, LONG_AGO)})
    process.relay.sweep()
    hurry()
    assert process.relay.sweep() == 0


# --- receivers that refuse everything --------------------------------------------------------------------------


def test_where_every_delivery_fails_nothing_is_set_aside(start_process, record, hurry, scratch):
    process = start_process(tries=1)
    orders = [f"o{number}" for number in range(60)]
    for order in orders:
        record(created(order))
        process.receiver.errors[order] = ValueError("permission denied")
    for _ in range(3):
        hurry()
        process.relay.sweep()
    assert process.outbox.dead_letters(10) == []
    assert due(scratch) == len(orders)
    # Once it is known, one tries for all.
    assert [len(batch) for batch in process.receiver.batches[-2:]] == [1, 1]
    process.receiver.errors.clear()
    hurry()
    process.relay.sweep()
    assert sorted(process.receiver.ids()) == sorted(f"{order}-1" for order in orders)
    assert settled(scratch)


def test_where_some_deliveries_succeed_those_that_fail_are_set_aside(start_process, record, scratch):
    process = start_process(tries=1)
    for number in range(20):
        record(created(f"poison{number}"))
        process.receiver.errors[f"poison{number}"] = ValueError("poison")
    record(created("good"))
    process.relay.sweep()
    assert len(process.outbox.dead_letters(100)) == 20
    assert process.receiver.ids() == ["good-1"]


def test_types_of_events_fail_each_for_itself(start_process, record):
    """Cancellations get through all the time; that says nothing of new orders."""
    process = start_process(tries=1)
    for number in range(20):
        record(created(f"new{number}"))
        record(cancelled(f"old{number}", 2))
    refuse(process, OrderCreated)
    process.relay.sweep()
    assert process.outbox.dead_letters(10) == []
    assert len(process.receiver.handled) == 20


def test_the_same_few_events_failing_again_and_again_are_not_taken_for_a_broken_receiver(process, record, hurry):
    few = [f"o{number}" for number in range(DISTINCT_DOCUMENTS - 1)]
    for order in few:
        record(created(order))
        process.receiver.errors[order] = ValueError("poison")
    for _ in range(3):
        hurry()
        process.relay.sweep()
    assert len(process.outbox.dead_letters(10)) == len(few)


def test_what_waits_for_a_broken_receiver_is_tried_less_and_less_often(
    process, record, scratch, stopped_clock, monkeypatch
):
    elapsed = [0.0]
    monkeypatch.setattr(process.relay._receivers, "_clock", lambda: elapsed[0])
    for number in range(DISTINCT_DOCUMENTS):
        record(created(f"o{number}"))
        process.receiver.errors[f"o{number}"] = ValueError("permission denied")
    process.relay.sweep()
    for elapsed[0], seconds in ((0.0, 1.0), (8.0, 8.0), (3600.0, 30.0)):
        scratch.update_many({}, {"$set": {"relayDue": in_seconds(process, LONG_AGO)}})
        process.relay.sweep()
        waits = [(doc["relayDue"] - stopped_clock).total_seconds() for doc in scratch.find()]
        assert min(waits) >= seconds * 0.8 - 0.001
        assert min(waits) <= seconds * 1.2


def test_it_is_said_once_that_every_delivery_fails_and_once_that_it_is_over(process, record, hurry, monkeypatch):
    said = []
    for level in ("error", "warning"):
        monkeypatch.setattr(
            f"app.messaging.receiver_health.log.{level}", lambda event, **more: said.append((event, more))
        )
    for number in range(20):
        record(created(f"o{number}"))
        process.receiver.errors[f"o{number}"] = ValueError("permission denied")
    for _ in range(3):
        hurry()
        process.relay.sweep()
    failing = ("every delivery fails", {"module": "sender", "event_type": "OrderCreated"})
    assert [one for one in said if one[0] == "every delivery fails"] == [failing]
    assert metrics.deliveries_failing.labels("sender")._value.get() == 1
    process.receiver.errors.clear()
    hurry()
    process.relay.sweep()
    assert [one for one in said if one[0] == "deliveries succeed again"] == [("deliveries succeed again", failing[1])]
    assert metrics.deliveries_failing.labels("sender")._value.get() == 0


# --- all at once -----------------------------------------------------------------------------------------------


class Flaky(Receiver):
    """Fails at random; `first_time` has the sequences of each order as they were first handled."""

    def __init__(self, chance: random.Random, first_time: dict[str, list[int]]):
        super().__init__()
        self._chance = chance
        self._first_time = first_time
        self._alone = threading.Lock()

    def __call__(self, events):
        with self._alone:
            self._handle(events)

    def _handle(self, events):
        for event in events:
            luck = self._chance.random()
            if luck < 0.05:
                raise Unavailable("at random")
            if luck < 0.1:
                raise ValueError("at random")
            if event.sequence not in self._first_time[event.order_id]:
                self._first_time[event.order_id].append(event.sequence)


def test_in_all_confusion_every_event_arrives_and_the_first_time_in_order(
    start_process, record, push, scratch, eventually
):
    """Two processes, receivers that fail at random, leases that end early, queued events that get lost, news meanwhile."""
    chance, first_time = random.Random(7), defaultdict(list)
    receiver = Flaky(chance, first_time)
    processes = [start_process(lease=0.2, tries=50, interval=0.02, receiver=receiver) for _ in range(2)]
    orders = [f"o{number}" for number in range(20)]
    for order in orders:
        record(created(order))
    for process in processes:
        process.relay.start()
    for sequence, make in enumerate((cancelled, voided, created, cancelled), start=2):
        for order in orders:
            sender = chance.choice(processes)
            events = push(make(order, sequence), sender)
            if chance.random() < 0.7:
                sender.outbox.enqueue_local(order, events)
    eventually(lambda: settled(scratch), 60.0)
    assert first_time == {order: [1, 2, 3, 4, 5] for order in orders}
    assert scratch.count_documents({"deadLetter": {"$exists": True}}) == 0
