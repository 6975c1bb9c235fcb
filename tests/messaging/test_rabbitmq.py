"""The bus between processes: what it does when processes end, the broker breaks off, or somebody sends nonsense."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import amqp
import kombu
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import CapturingLogger

from app import orders
from app.contracts.base import ApplicationError, NotFound, Unavailable
from app.contracts.orders import (
    AwaitOrder,
    AwaitTimeline,
    CheckOrderStatus,
    CreateOrder,
    OrderCancelled,
    OrderStatusView,
    OrderUpdated,
    RefundAccepted,
    RefundOrder,
    UpdateOrder,
)
from app.contracts.payments import PaymentCaptured, PaymentVoided
from app.main import create_app, runtime
from app.messaging.bus import DeliveryRejected
from app.messaging.outbox import Outbox, encode_event
from app.messaging.rabbitmq import codec, consumer, publisher, requests
from app.messaging.rabbitmq.bus import TRAVEL_SECONDS, RabbitMqBus
from app.messaging.rabbitmq.codec import MalformedMessage, decode
from app.messaging.rabbitmq.in_flight import InFlightTracker
from app.messaging.rabbitmq.publisher import LateReceipts, PendingPublish
from app.messaging.rabbitmq.requests import PendingRequest
from app.messaging.rabbitmq.topology import DELIVERY_COUNT, DELIVERY_LIMIT, Topology
from app.messaging.relay import Relay
from app.messaging.signal_bus import SignalBus
from app.observability.stages import Stage
from app.observability.supervision import BackgroundThread
from app.storage.mongodb import Database

pytestmark = pytest.mark.extended

DECODERS = [
    codec.REQUEST_BATCH,
    codec.REPLY_BATCH,
    codec.RECEIPT,
    codec.ERROR,
    *codec.REQUESTS.values(),
    *codec.EVENTS.values(),
]

ORDER = "1" * 24
CHECK = CheckOrderStatus(request_id="r-1", order_id=ORDER, on_behalf_of="")
REPLY = OrderStatusView(order_id=ORDER, order_status="Success", payment_status="Captured", version=2)
CANCELLED = OrderCancelled(event_id="e-1", order_id=ORDER, sequence=2, request_id="r-1", at=0)
VOIDED = PaymentVoided(event_id="e-1", order_id=ORDER, sequence=2, request_id="r-1", at=0)


@pytest.fixture
def join(bus_url, bus_prefix):
    """A process on the bus; each takes part until the test ends."""
    joined = []

    def join(url=bus_url, request_seconds=60.0, event_seconds=60.0) -> RabbitMqBus:
        made = RabbitMqBus(url, bus_prefix, request_seconds=request_seconds, event_seconds=event_seconds)
        joined.append(made)
        return made

    yield join
    for one in joined:
        one.stop()


@pytest.fixture
def serving(join, eventually):
    """A process that answers CheckOrderStatus, and receives."""

    def serve(handler=lambda request: REPLY, **how) -> RabbitMqBus:
        made = join(**how)
        made.register_handler(CheckOrderStatus, handler)
        made.start_consuming()
        eventually(lambda: made.ready)
        return made

    return serve


@pytest.fixture
def listening(join, eventually):
    """A process in which a module takes events in."""

    def listen(handler, event=OrderCancelled, module="payments", **how) -> RabbitMqBus:
        made = join(**how)
        made.subscribe(module, event, handler)
        made.start_consuming()
        eventually(lambda: made.ready)
        return made

    return listen


@pytest.fixture
def channel(bus_url):
    """A plain connection to the broker."""
    with kombu.Connection(bus_url) as connection:
        yield connection.channel()


@pytest.fixture
def waiting(channel, bus_prefix):
    """How many messages lie ready in one of the queues."""
    return lambda name: channel.queue_declare(f"{bus_prefix}.{name}", passive=True).message_count


@pytest.fixture
def log(monkeypatch) -> CapturingLogger:
    capturing = CapturingLogger()
    for module in (consumer, publisher, requests):
        monkeypatch.setattr(module, "log", capturing)
    return capturing


def break_off(bus: RabbitMqBus) -> Callable[[], bool]:
    """End both connections as a network does; returns what tells whether the bus has noticed.

    It may be ready again before a busy machine looks, so that whether it is ready does not tell.
    """
    ended = [(connection, connection._connection) for connection in (bus._receiving, bus._sending)]
    for connection, _ in ended:
        connection._abort()
    return lambda: all(connection._connection is not broken for connection, broken in ended if broken)


# --- who is there, and who is not ---


def test_an_event_is_kept_for_a_required_consumer_that_has_never_run(join, listening, eventually, waiting):
    sender = join(event_seconds=0.2)
    assert type(sender.publish([CANCELLED])["payments"]) is Unavailable
    eventually(lambda: waiting("payments.events") == 1)
    told = []
    listening(told.append)
    eventually(lambda: told == [(CANCELLED,)])
    eventually(lambda: waiting("payments.events") == 0)


def test_a_process_that_does_not_receive_yet_is_not_ready(join, eventually):
    owner = join()
    owner.register_handler(CheckOrderStatus, lambda request: REPLY)
    owner.start()
    assert owner._sending.connected.wait(60)
    assert not owner.ready
    owner.start_consuming()
    eventually(lambda: owner.ready)


def test_a_request_to_a_module_of_which_no_process_has_ever_run_fails_at_once(join, serving):
    asker = join(request_seconds=600.0)
    with ThreadPoolExecutor(8) as pool:
        for asking in [pool.submit(asker.request, CHECK) for _ in range(8)]:
            with pytest.raises(Unavailable, match="no process of orders has run yet"):
                asking.result()
    serving()
    assert asker.request(CHECK) == REPLY


@pytest.fixture
def time_given(monkeypatch):
    """How many seconds each request of a process is waited for."""

    def watch(asker: RabbitMqBus) -> list[float]:
        given, batches = [], asker._requests._batches
        send = batches["orders", False]
        monkeypatch.setitem(
            batches, ("orders", False), lambda pending, seconds: given.append(seconds) or send(pending, seconds)
        )
        return given

    return watch


def test_a_module_that_does_not_answer_is_soon_not_waited_for_and_welcome_again(
    join, serving, channel, bus_prefix, time_given, monkeypatch
):
    Topology(bus_prefix).declare_requests(channel, "orders")
    asker = join(request_seconds=0.7)
    given = time_given(asker)
    with pytest.raises(Unavailable, match="orders did not answer in time"):
        asker.request(CHECK)
    with pytest.raises(Unavailable):
        asker.request(CHECK)
    assert given == [0.7 + TRAVEL_SECONDS, requests.UNRESPONSIVE_TIMEOUT]
    serving()
    # What follows is not about time.
    monkeypatch.setattr(requests, "UNRESPONSIVE_TIMEOUT", 60.0)
    asker._requests._timeout = 60.0
    assert asker.request(CHECK) == REPLY
    assert not asker._requests._unresponsive


def test_a_module_that_is_slow_for_a_moment_is_waited_for_as_ever_once_it_answers_even_if_too_late(
    join, serving, eventually, time_given
):
    released = threading.Event()
    serving(lambda request: released.wait(60) and REPLY)
    asker = join()
    given = time_given(asker)
    # As if an earlier request had had no answer.
    asker._requests._unresponsive.add("orders")
    with pytest.raises(Unavailable, match="in time"):
        asker.request(CHECK)
    assert asker._requests._unresponsive
    released.set()
    eventually(lambda: not asker._requests._unresponsive)
    assert asker.request(CHECK) == REPLY
    assert given == [requests.UNRESPONSIVE_TIMEOUT, 60.0 + TRAVEL_SECONDS]


def test_without_a_broker_all_is_refused_at_once_but_the_first_which_waits_for_it(join):
    alone = join(url="amqp://nobody:nothing@127.0.0.1:9/none")
    for _ in range(3):
        with pytest.raises(Unavailable, match="broker cannot be reached"):
            alone.request(CHECK)
    began = time.monotonic()
    assert type(alone.publish([CANCELLED])["payments"]) is Unavailable
    assert time.monotonic() - began < 30
    assert not alone.ready


def test_another_broker_is_tried_where_the_first_is_not_there(join, serving, bus_url):
    serving()
    assert join(url=f"amqp://nobody:nothing@127.0.0.1:9/none;{bus_url}").publish([CANCELLED]) is not None
    asker = join(url=f"amqp://nobody:nothing@127.0.0.1:9/none;{bus_url}")
    asker.start()
    asker._sending.connected.wait(60)
    assert asker.request(CHECK) == REPLY


def test_a_request_to_a_module_of_the_same_process_stays_in_it(serving, waiting):
    both = serving(lambda request: threading.current_thread())
    assert both.request(CHECK) is threading.current_thread()


def test_a_broker_that_takes_nothing_is_not_written_to(join, serving):
    serving()
    asker = join()
    assert asker.request(CHECK) == REPLY
    asker._sending._on_blocked("low on memory")
    with pytest.raises(Unavailable):
        asker.request(CHECK)
    assert type(asker.publish([CANCELLED])["payments"]) is Unavailable
    assert not asker.ready
    asker._sending._on_unblocked()
    assert asker.request(CHECK) == REPLY


# --- connections that end ---


def test_a_lost_connection_is_made_anew_on_both_sides(join, serving, eventually):
    owner, asker = serving(), join()
    assert asker.request(CHECK) == REPLY
    for lost in (owner, asker):
        eventually(break_off(lost))
        eventually(lambda: asker.ready and owner.ready)
        assert asker.request(CHECK) == REPLY


def test_a_request_over_a_connection_that_ends_fails_at_once(join, serving, eventually):
    released, arrived = threading.Event(), threading.Event()

    def slow(request):
        arrived.set()
        released.wait(60)
        return REPLY

    serving(slow)
    asker = join()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(asker.request, CHECK)
        assert arrived.wait(60)
        break_off(asker)
        with pytest.raises(Unavailable, match="was lost"):
            asked.result(60)
        released.set()


def test_events_taken_and_not_acknowledged_are_taken_again(join, listening, eventually):
    told, held = [], threading.Event()

    def hang(events):
        told.append(events)
        held.wait(60)

    first = listening(hang)
    sender = join()
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(sender.publish, [CANCELLED])
        eventually(lambda: told)
        listening(told.append)
        first._receiving.stop()
        assert published.result(60) == {"payments": None}
        held.set()
    assert told == [(CANCELLED,)] * 2


REFUND = RefundOrder(
    request_id="r", order_id=ORDER, on_behalf_of="", expected_versions=(2,), refund_id="f", refund_value=0, currency=""
)
REFUNDED = RefundAccepted(order_id=ORDER, refund_id="f", refund_value=9900, currency="MYR", version=3, replayed=False)


def step_to(order_status: str, order_id: str = ORDER, expected_versions: tuple[int, ...] = ()) -> UpdateOrder:
    return UpdateOrder(
        request_id="r",
        order_id=order_id,
        on_behalf_of="",
        expected_versions=expected_versions,
        order_status=order_status,
    )


@pytest.fixture
def two_owners(join, eventually):
    """Two processes that answer requests of a type; the one that is given the first of them is lost while it works."""

    def own(kind, handler) -> None:
        owners, asked = [join(), join()], []

        def lose(bus):
            def handle(request):
                asked.append(request)
                if len(asked) > 1:
                    return handler(request)
                reply, broken = handler(request), bus._receiving._connection
                bus._receiving._abort()
                eventually(lambda: bus._receiving._connection is not broken)
                return reply

            return handle

        for owner in owners:
            owner.register_handler(kind, lose(owner))
            owner.start_consuming()
        eventually(lambda: all(owner.ready for owner in owners))

    return own


@pytest.mark.parametrize(("request_", "reply"), [(CHECK, REPLY), (REFUND, REFUNDED)])
def test_a_request_whose_owner_is_lost_goes_to_another(join, two_owners, request_, reply):
    asked = []
    two_owners(type(request_), lambda request: asked.append(request) or reply)
    assert join().request(request_) == reply
    assert asked == [request_] * 2


@pytest.mark.parametrize("expected_versions", [(), (1,)])
def test_a_step_whose_owner_is_lost_is_refused_as_unclear(join, two_owners, expected_versions):
    """It may have been taken, and another may have been taken since."""
    updated = OrderUpdated(order_id=ORDER, order_status="Confirm", version=2, changed=True)
    asked = []
    two_owners(UpdateOrder, lambda request: asked.append(request) or updated)
    with pytest.raises(Unavailable, match="check whether it was done"):
        join().request(step_to("Confirm", expected_versions=expected_versions))
    assert len(asked) == 1


def test_a_step_that_was_taken_does_not_undo_what_another_client_did_since(join, two_owners, settings, mongodb_uri):
    """Its owner is lost between writing and answering, and "shipped" comes before the broker gives it to the next."""
    module, database = SignalBus(), Database(mongodb_uri, settings.database)
    orders.Orders(module, module, database.collection("orders", 10.0), settings).prepare()
    wanted = CreateOrder(
        request_id="r", order_id=ORDER, user_id="u", product_id="1", product_name="p", total_text="RM 99",
        total_value=9900, total_currency="MYR", idempotency_key="",
    )  # fmt: skip
    module.request(wanted)
    captured = PaymentCaptured(
        event_id="e", order_id=ORDER, sequence=1, request_id="r", at=0, reference="ref", took_ms=1
    )
    assert module.publish([captured]) == {"orders": None}

    def take_step(request):
        reply = module.request(request)
        if request.order_status == "packed" and not shipped:
            shipped.append(module.request(step_to("shipped")))
        return reply

    shipped = []
    two_owners(UpdateOrder, take_step)
    with pytest.raises(Unavailable, match="check whether it was done"):
        join().request(step_to("packed"))
    timeline = module.request(AwaitTimeline(request_id="r", order_id=ORDER, on_behalf_of="", after=0, wait_ms=0))
    assert [entry.to_status for entry in timeline.entries] == ["Processing", "Success", "packed", "shipped"]
    database.close()


def test_who_stops_lets_what_it_has_taken_end_and_no_asker_notices(join, serving, eventually):
    """A rolling restart: one after the other of two goes and a new one comes, under load."""
    owners = [serving(slowly), serving(slowly)]
    asker, over = join(), threading.Event()
    asked = []

    def ask_on():
        while not over.is_set():
            asked.append(asker.request(CHECK))

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(ask_on) for _ in range(8)]
        for number in range(3):
            eventually(lambda: len(asked) > 20 * (number + 1))  # noqa: B023 - waited for at once
            last = owners.pop(0)
            last.drain()
            last.drain_and_wait(10)
            last.stop()
            owners.append(serving(slowly))
        over.set()
        for one in running:
            one.result(60)
    assert len(asked) > 50
    assert set(asked) == {REPLY}


def slowly(request):
    time.sleep(0.01)
    return REPLY


# --- deadlines ---


def test_what_nobody_waits_for_any_longer_is_not_done(join, serving, channel, bus_prefix, waiting, eventually):
    Topology(bus_prefix).declare_requests(channel, "orders")
    asker = join(request_seconds=0.1)
    with pytest.raises(Unavailable, match="in time"):
        asker.request(CHECK)
    # The broker lets go of it.
    eventually(lambda: waiting("orders.requests") == 0)
    done = []
    serving(lambda request: done.append(request) or REPLY)
    assert join().request(CHECK) == REPLY
    assert len(done) == 1


def test_a_request_that_waited_here_longer_than_its_asker_is_not_done(join, serving, eventually, monkeypatch):
    monkeypatch.setattr(consumer, "REQUEST_THREADS", 1)
    done, released = [], threading.Event()

    def answer(request):
        done.append(request.request_id)
        assert released.wait(60)
        return REPLY

    serving(answer)
    patient = join(request_seconds=60.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(patient.request, msgspec.structs.replace(CHECK, request_id="first"))
        eventually(lambda: done)
        # The second is given up well after the time of the first is over at the owner too.
        for request_id, seconds in (("late", 0.1), ("later", 2.0)):
            hasty = join(request_seconds=seconds)
            hasty.start()
            assert hasty._sending.connected.wait(60)
            with pytest.raises(Unavailable, match="in time"):
                hasty.request(msgspec.structs.replace(CHECK, request_id=request_id))
        released.set()
        assert first.result(60) == REPLY
    assert patient.request(msgspec.structs.replace(CHECK, request_id="last")) == REPLY
    assert "late" not in done


def test_a_process_that_ends_waits_for_receipts_only_a_moment(join, monkeypatch):
    monkeypatch.setattr(publisher, "DRAINING_TIMEOUT", 0.05)
    sender = join(event_seconds=3600.0)
    sender.start()
    assert sender._sending.connected.wait(60)
    sender.drain()
    assert "no receipt" in str(sender.publish([CANCELLED])["payments"])


def test_a_process_that_begins_to_end_waits_no_longer_for_receipts(join, monkeypatch, eventually):
    monkeypatch.setattr(publisher, "DRAINING_TIMEOUT", 0.05)
    sender = join(event_seconds=3600.0)
    sender.start()
    assert sender._sending.connected.wait(60)
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(sender.publish, [CANCELLED])
        eventually(lambda: sender._publisher._pending)
        assert not published.done()
        sender.drain()
        assert "no receipt" in str(published.result(60)["payments"])


def test_a_process_that_ends_takes_up_nothing_from_then_on(serving, channel, bus_prefix, eventually):
    owner = serving()

    def consumers():
        return channel.queue_declare(f"{bus_prefix}.orders.requests", passive=True).consumer_count

    assert consumers() == 1
    owner.drain()
    eventually(lambda: consumers() == 0)


def test_who_asks_to_wait_holds_up_nobody(join, serving, eventually):
    released, waiting_now = threading.Event(), []

    def wait(request):
        waiting_now.append(request)
        released.wait(90)
        return REPLY

    owner = join()
    owner.register_handler(AwaitOrder, wait)
    owner.register_handler(CheckOrderStatus, lambda request: REPLY)
    owner.start_consuming()
    asker = join()
    many = consumer.REQUESTS_PREFETCH + consumer.REQUEST_THREADS + 8
    wait_for = AwaitOrder(request_id="r", order_id=ORDER, on_behalf_of="", wait_ms=20_000)
    with ThreadPoolExecutor(many) as pool:
        asked = [pool.submit(asker.request, wait_for) for _ in range(many)]
        eventually(lambda: len(waiting_now) == many)
        assert asker.request(CHECK) == REPLY
        released.set()
        assert {one.result(60) for one in asked} == {REPLY}


# --- batches ---


def test_requests_made_together_travel_together(join, serving, eventually, monkeypatch):
    serving()
    asker, messages, held, send = join(), [], threading.Event(), requests.send

    def send_when_all_have_come(channel, body, *where, **more):
        messages.append(len(json.loads(body)))
        assert held.wait(60)
        send(channel, body, *where, **more)

    monkeypatch.setattr(requests, "send", send_when_all_have_come)
    waiting = asker._requests._batches["orders", False]._waiting
    with ThreadPoolExecutor(64) as pool:
        asked = [pool.submit(asker.request, CHECK) for _ in range(64)]
        eventually(lambda: sum(messages) + len(waiting) == 64)
        held.set()
        assert {one.result(60) for one in asked} == {REPLY}
    assert sum(messages) == 64
    assert len(messages) <= 3


def test_a_connection_whose_heartbeats_stay_away_is_broken_off_and_made_anew(join, eventually):
    bus = join()
    bus.start()
    assert bus._sending.connected.wait(60)
    silent = bus._sending._connection

    def too_long_ago():
        raise ConnectionError("too many heartbeats missed")

    silent.heartbeat_tick = too_long_ago
    eventually(lambda: bus._sending._connection not in (None, silent) and bus.ready)


# --- threads ---


def exit_once(then, reached):
    """What ends a thread from inside at its first call, and does what it should from then on."""

    def exit_or_go_on(*args):
        if not reached:
            reached.append(1)
            raise SystemExit
        return then(*args)

    return exit_or_go_on


@pytest.mark.parametrize(("side", "method"), [("owner", "_on_requests"), ("asker", "_on_replies")])
def test_a_reader_that_is_killed_from_inside_goes_on(join, serving, eventually, side, method):
    owner, asker, reached = serving(), join(), []
    asker.start()
    eventually(lambda: asker.ready)
    killed = {"owner": owner, "asker": asker}[side]
    part = {"owner": owner._consumer, "asker": asker._requests}[side]
    setattr(part, method, exit_once(getattr(part, method), reached))
    eventually(break_off(killed))
    eventually(lambda: killed.ready)
    with contextlib.suppress(Unavailable):
        asker.request(CHECK)
    eventually(lambda: reached)
    eventually(lambda: asker.ready and owner.ready)
    assert asker.request(CHECK) == REPLY


def test_a_reader_that_was_killed_is_not_ready_before_it_reads_again(join, serving, eventually, monkeypatch):
    monkeypatch.setattr(BackgroundThread, "RESTART_SECONDS", 2.0)
    owner, asker, reached = serving(), join(), []
    owner._consumer._on_requests = exit_once(owner._consumer._on_requests, reached)
    eventually(break_off(owner))
    eventually(lambda: owner.ready)
    assert asker.request(CHECK) == REPLY
    assert reached
    eventually(lambda: owner.ready)


def test_the_heart_that_is_killed_from_inside_beats_on(join, eventually):
    bus, reached = join(), []
    bus._receiving.check = exit_once(bus._receiving.check, reached)
    bus.start()
    eventually(lambda: reached)
    beats = bus._heartbeat.beats
    eventually(lambda: bus._heartbeat.beats > beats)


def test_readers_and_heart_count_each_time_they_come_round(join, serving, eventually):
    owner = serving()
    assert join().request(CHECK) == REPLY
    assert {heartbeat.name for heartbeat in owner.heartbeats} == {"broker-heartbeat", "broker-send", "broker-receive"}
    before = [heartbeat.beats for heartbeat in owner.heartbeats]
    eventually(lambda: all(one.beats > had for one, had in zip(owner.heartbeats, before, strict=True)))


@pytest.mark.parametrize("number", range(3))
def test_a_bus_of_which_a_thread_has_died_is_not_ready(join, serving, eventually, number):
    owner = serving()
    heartbeat = owner.heartbeats[number]
    assert owner.ready
    assert not heartbeat.dead
    heartbeat._thread = ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    assert heartbeat.dead
    assert not owner.ready


def test_the_watchdog_of_a_process_watches_the_threads_of_its_bus(settings, bus_url, bus_prefix, eventually):
    running = runtime(create_app(replace(settings, bus_url=bus_url, bus_prefix=bus_prefix)))
    running.start()
    eventually(lambda: running.unready() is None)
    assert running.alive()
    running.bus.heartbeats[1]._thread = ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    assert [heartbeat.name for heartbeat in running.failing()] == ["broker-send"]
    assert not running.alive()
    running.stop()


def test_a_handler_that_wants_to_end_the_process_leaves_no_asker_without_an_answer(join, serving, log):
    wishes = [SystemExit] * (consumer.REQUEST_THREADS + 1)

    def end(request):
        raise wishes.pop() if wishes else NotFound("no")

    serving(end)
    asker = join()
    with ThreadPoolExecutor(len(wishes)) as pool:
        asked = [pool.submit(asker.request, CHECK) for _ in range(len(wishes))]
        assert {str(one.exception(90)) for one in asked} == {"CheckOrderStatus could not be answered"}
    with pytest.raises(NotFound):
        asker.request(CHECK)


def test_a_handler_that_wants_to_end_the_process_costs_no_place_for_events(join, listening, log):
    wishes = [SystemExit] * (consumer.EVENTS_PREFETCH + 1)

    def end(events):
        if wishes:
            raise wishes.pop()

    listening(end)
    sender = join()
    for _ in range(len(wishes)):
        error = sender.publish([CANCELLED])["payments"]
        assert isinstance(error, DeliveryRejected)
        assert "SystemExit" in str(error)
    assert sender.publish([CANCELLED]) == {"payments": None}


# --- nonsense, and poison ---


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("OrderCancelled", b"not JSON"),
        ("OrderCancelled", b"[]x"),
        ("OrderCancelled", b'{"event_id": "e"}'),
        ("OrderCancelled", b'[{"event_id": 7}]'),
        ("OrderCancelled", b"\xff\xfe"),
        ("OrderTeleported", b"[]"),
        ("", b"[]"),
    ],
)
def test_a_message_that_is_none_ends_as_a_dead_letter_and_holds_up_nobody(
    join, listening, channel, bus_prefix, waiting, eventually, log, kind, body
):
    told = []
    listening(told.append)
    channel.basic_publish(channel.prepare_message(body, properties={"type": kind}), "", f"{bus_prefix}.payments.events")
    eventually(lambda: waiting("payments.dead") == 1)
    assert join().publish([CANCELLED]) == {"payments": None}
    assert told == [(CANCELLED,)]
    assert "malformed events" in [call.args[0] for call in log.calls]


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[[1,2]]", b'[["1","Nothing",1000,{}]]', b'[["1","CheckOrderStatus",1000,7]]']
)
def test_a_request_that_is_none_holds_up_nobody(join, serving, channel, bus_prefix, body):
    serving()
    channel.basic_publish(
        channel.prepare_message(body, properties={"reply_to": "nobody"}), "", f"{bus_prefix}.orders.requests"
    )
    assert join().request(CHECK) == REPLY


DEEP = b"[" * 2000 + b"]" * 2000
NONSENSE = {
    "nothing": b"",
    "no JSON": b"no",
    "no UTF-8": b"\xff\xfe",
    "half a character": b'"\\ud800"',
    "null": b"null",
    "a number": b"7",
    "an object": b"{}",
    "an empty batch": b"[]",
    "nothing in it": b"[null]",
    "two members": b"[[1,2]]",
    "deep": DEEP,
    "deep in a request": b'[["1","CheckOrderStatus",1000,%s]]' % DEEP,
    "a huge number": b'[["1","CheckOrderStatus",1%s,{}]]' % (b"0" * 400),
    "a negative number": b'[["1","CheckOrderStatus",-1,{}]]',
    "an unknown request": b'[["1","Nothing",1000,{}]]',
    "a request of others": b'[["1","CheckPaymentQueue",1000,{"request_id":"r"}]]',
    "no fields": b'[["1","CheckOrderStatus",1000,7]]',
    "a wrong field": b'[["1","CheckOrderStatus",1000,{"request_id":"r","order_id":7,"on_behalf_of":""}]]',
    "an event without fields": b'[{"event_id":7}]',
    "a deep event": b'[{"event_id":%s}]' % DEEP,
}
ODD_PROPERTIES = [
    {},
    {"type": "long polls"},
    {"type": "OrderCancelled", "reply_to": "amq.rabbitmq.reply-to.none", "correlation_id": "1"},
    {"type": "OrderCancelled", "application_headers": {"required_consumers": 7, "x-delivery-count": "often"}},
    {"type": "OrderCancelled", "application_headers": {"required_consumers": ["payments"]}},
    {"type": "CheckOrderStatus", "content_type": "image/png", "content_encoding": "zlib"},
]


def send_many(channel, body: bytes, queue: str, many: int) -> None:
    """Each of the odd properties comes with it, and so do equal messages."""
    for number in range(many):
        message = amqp.Message(body, **ODD_PROPERTIES[number % len(ODD_PROPERTIES)])
        channel.basic_publish(message, "", queue)


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE.keys())
def test_more_nonsense_than_a_process_takes_ahead_leaves_no_request_unanswered(
    join, serving, channel, bus_prefix, waiting, eventually, log, body
):
    owner = serving()
    queue = f"{bus_prefix}.orders.requests"
    send_many(channel, body, queue, consumer.REQUESTS_PREFETCH + len(ODD_PROPERTIES))
    assert join().request(CHECK) == REPLY
    eventually(lambda: waiting("orders.requests") == 0)
    owner.drain_and_wait(10)
    owner.stop()
    # What it had not acknowledged would lie in the queue again.
    eventually(lambda: channel.queue_declare(queue, passive=True).consumer_count == 0)
    assert waiting("orders.requests") == 0


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE.keys())
def test_more_nonsense_than_a_process_takes_ahead_holds_up_no_event(
    join, listening, channel, bus_prefix, waiting, eventually, log, body
):
    told = []
    listener = listening(told.append)
    queue = f"{bus_prefix}.payments.events"
    send_many(channel, body, queue, consumer.EVENTS_PREFETCH * len(ODD_PROPERTIES))
    assert join().publish([CANCELLED]) == {"payments": None}
    assert told == [(CANCELLED,)]
    eventually(lambda: waiting("payments.events") == 0)
    listener.drain_and_wait(10)
    listener.stop()
    # What it had not acknowledged would lie in the queue again.
    eventually(lambda: channel.queue_declare(queue, passive=True).consumer_count == 0)
    assert waiting("payments.events") == 0


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE.keys())
def test_an_answer_or_a_receipt_that_is_none_breaks_nothing_off(join, serving, channel, bus_prefix, eventually, body):
    """Whoever waits for another answer over the same connection still gets it."""
    asker = join()
    asker.start()
    assert asker._sending.connected.wait(60)
    lost, answered = [], []
    asker._sending._on_lost = lambda: lost.append(1)

    def answer(message):
        reply_to, key = message.properties["reply_to"], message.properties["correlation_id"]
        for correlation_id in (key, "none of yours"):
            channel.basic_publish(amqp.Message(body, correlation_id=correlation_id), "", reply_to)
        real = {
            "requests": [(key, "", REPLY)],
            "OrderCancelled": ("payments", "", ""),
        }[message.properties["type"]]
        answered.append(real)
        channel.basic_publish(amqp.Message(msgspec.json.encode(real), correlation_id=key), "", reply_to)

    channel.queue_declare(f"{bus_prefix}.orders.requests", durable=True, arguments=QUORUM, auto_delete=False)
    for queue in ("orders.requests", "payments.events"):
        channel.basic_consume(f"{bus_prefix}.{queue}", no_ack=True, callback=answer)
    with ThreadPoolExecutor(2) as pool:
        asked, published = pool.submit(asker.request, CHECK), pool.submit(asker.publish, [CANCELLED])
        while len(answered) < 2:
            channel.connection.drain_events(timeout=60)
        assert asked.result(60) == REPLY
        assert published.result(60) == {"payments": None}
    assert lost == []


QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
VALID = {
    "requests": [["1", "CheckOrderStatus", 1000, {"request_id": "r", "order_id": ORDER, "on_behalf_of": ""}]],
    "answers": [["1", "", msgspec.to_builtins(REPLY)], ["2", "NotFound", {"detail": "no", "members": {}}]],
    "receipt": ["payments", "", ""],
    "events": [msgspec.to_builtins(CANCELLED)],
    "error": {"detail": "no", "members": {"retry_after": 1}},
}


@st.composite
def bodies(draw) -> bytes:
    """Bytes, JSON of any shape, and messages of which one part is another, is missing, or is there besides."""
    kind = draw(st.sampled_from(["bytes", "JSON", "nearly"]))
    if kind == "bytes":
        return draw(st.binary(max_size=64))
    if kind == "JSON":
        return json.dumps(draw(ANYTHING)).encode()
    message = json.loads(json.dumps(draw(st.sampled_from(list(VALID.values())))))
    part = message
    while isinstance(part, list | dict) and part:
        key = draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))
        if not (isinstance(part[key], list | dict) and part[key] and draw(st.booleans())):
            break
        part = part[key]
    change = draw(st.sampled_from(["another", "missing", "more", "as it is"]))
    if change == "another":
        part[key] = draw(ANYTHING)
    elif change == "missing":
        del part[key]
    elif change == "more":
        part.append(draw(ANYTHING)) if isinstance(part, list) else part.update(more=draw(ANYTHING))
    return json.dumps(message).encode()


@given(bodies(), st.sampled_from(DECODERS))
def test_whatever_comes_is_a_message_or_not_understood(body, decoder):
    try:
        message = decode(decoder, body)
    except MalformedMessage:
        return
    assert decode(decoder, msgspec.json.encode(message)) == message


@pytest.mark.parametrize("decoder", DECODERS)
def test_nonsense_raises_nothing_but_that_it_is_not_understood(decoder):
    for body in NONSENSE.values():
        with contextlib.suppress(MalformedMessage):
            decode(decoder, body)


@given(st.sampled_from([*codec.REQUEST_TYPES, "Nothing"]), bodies(), st.booleans())
def test_whatever_is_asked_is_answered_with_a_reply_or_a_refusal(name, body, again):
    owner = RabbitMqBus("amqp://nobody@127.0.0.1:9/none", "none", request_seconds=1, event_seconds=1)
    owner.register_handler(CheckOrderStatus, lambda request: REPLY)
    kind, payload = owner._consumer._handle_request("orders", name, msgspec.Raw(body), again)
    assert kind == "Unavailable" or (name, decode(codec.REPLIES[name], payload)) == ("CheckOrderStatus", REPLY)


@given(st.sampled_from(["", "NotFound", "Unavailable", "Refused", "Nothing"]), bodies())
def test_whatever_the_answer_is_the_asker_is_given_a_reply_or_a_refusal(kind, body):
    pending = PendingRequest("orders:1", CHECK, 1.0)
    pending.complete(kind, msgspec.Raw(body))
    with contextlib.suppress(ApplicationError):
        assert isinstance(pending.reply(), OrderStatusView)


def test_what_comes_from_a_newer_version_is_understood_as_far_as_it_can_be(listening, channel, bus_prefix, eventually):
    told = []
    listening(told.append)
    body = b'[{"event_id":"e-1","order_id":"%s","sequence":2,"request_id":"r-1","at":0,"mood":"new"}]' % ORDER.encode()
    message = channel.prepare_message(body, properties={"type": "OrderCancelled"})
    channel.basic_publish(message, f"{bus_prefix}.events", "OrderCancelled")
    eventually(lambda: told == [(CANCELLED,)])


def test_a_listener_nobody_waits_for_is_tried_again_and_its_poison_set_aside(
    join, listening, waiting, eventually, monkeypatch
):
    """Its sender counts no failures: the broker does."""
    monkeypatch.setattr(consumer, "MAX_REQUEUE_DELAY", 0.01)
    tries = []

    def fail(events):
        tries.append(events)
        raise ValueError("poison")

    listening(fail, module="mail")
    listening(lambda events: None)
    assert join().publish([CANCELLED]) == {"payments": None}
    eventually(lambda: waiting("mail.dead") == 1)
    assert len(tries) == DELIVERY_LIMIT
    assert waiting("mail.events") == 0


def test_a_message_that_kills_each_process_that_handles_it_is_not_redelivered_for_ever(join, listening, eventually):
    """The broker gives it to the next, until it has done so often enough; the sender counts that as a failure."""
    told = []

    def die(events):
        told.append(events)
        break_off(victims[-1])

    victims = []
    victims.append(listening(die))
    sender = join()
    error = sender.publish([CANCELLED])["payments"]
    assert isinstance(error, DeliveryRejected)
    assert "may end the process" in str(error)
    assert DELIVERY_LIMIT <= len(told) <= DELIVERY_LIMIT + 1


def test_a_message_that_was_given_back_too_often_waits_for_no_thread(join, listening, monkeypatch):
    """Another message like it could end the process first, and the broker would discard this one without a word."""
    submitted, submit = [], InFlightTracker.submit

    def noted(work, pool, take, module, message, *rest):
        submitted.append((message.properties.get("application_headers") or {}).get(DELIVERY_COUNT, 0))
        return submit(work, pool, take, module, message, *rest)

    monkeypatch.setattr(InFlightTracker, "submit", noted)
    victims = []
    victims.append(listening(lambda events: break_off(victims[-1])))
    assert isinstance(join().publish([CANCELLED])["payments"], DeliveryRejected)
    assert max(submitted) == DELIVERY_LIMIT - 1


def test_a_message_that_kills_each_process_that_handles_it_counts_as_failed_though_its_sender_waits_less(
    join, listening
):
    """Processes that die are replaced more slowly than a sender waits; and a sender repeats what it got no receipt for."""
    told = []

    def die(events):
        told.append(events)
        break_off(victims[-1])

    victims = []
    victims.append(listening(die))
    sender = join(event_seconds=0.05 - TRAVEL_SECONDS)
    errors, ends = [], time.monotonic() + 60
    while not any(isinstance(error, DeliveryRejected) for error in errors):
        errors.append(sender.publish([CANCELLED])["payments"])
        # A relay makes a dozen attempts with growing pauses; here there are none, and a busy machine dies more slowly.
        assert time.monotonic() < ends
    assert type(errors[0]) is Unavailable
    assert "may end the process" in str(errors[-1])


def test_a_late_rejection_of_a_batch_is_no_rejection_of_each_event_in_it():
    late, rejection = LateReceipts(), DeliveryRejected("one of them")
    one, other, third = (msgspec.structs.replace(CANCELLED, event_id=event_id) for event_id in ("e-1", "e-2", "e-3"))
    late.expect("1", [one, other])
    assert late.rejection([one, other]) is None
    late.add("1", rejection)
    late.add("unknown", rejection)
    assert late.rejection([one, third]) is late.rejection([other, one]) is rejection
    assert late.rejection([third]) is late.rejection([one]) is late.rejection([other]) is None
    late.expect("2", [one])
    late.add("2", rejection)
    assert late.rejection([one]) is rejection
    assert late.rejection([one]) is None


def test_late_rejections_are_kept_in_bounds():
    late = LateReceipts()
    for number in range(3 * late.LIMIT):
        late.expect(str(number), [msgspec.structs.replace(CANCELLED, event_id=f"e-{number}")])
        late.expect(f"never {number}", [CANCELLED])
        late.add(str(number), DeliveryRejected("no"))
    assert len(late._batches) <= late.LIMIT
    assert len(late._rejections) == late.LIMIT


MORTAL = """
import os, signal, sys
from app.messaging.rabbitmq.bus import RabbitMqBus
from app.contracts.orders import OrderCancelled

def take(events):
    if any(event.order_id == sys.argv[3] for event in events):
        os.kill(os.getpid(), signal.SIGKILL)

def live():
    bus = RabbitMqBus(sys.argv[1], sys.argv[2], request_seconds=9.0, event_seconds=9.0)
    bus.subscribe("payments", OrderCancelled, take)
    bus.start_consuming()
    signal.pause()

while child := os.fork():
    os.waitpid(child, 0)
    sys.stderr.write("died\\n")
live()
"""


@pytest.mark.long
def test_an_event_that_kills_each_process_that_takes_it_ends_as_a_dead_letter_and_others_arrive(
    join, settings, database, mongodb_uri, bus_url, bus_prefix, tmp_path
):
    """Real processes, started anew as often as they die, and a real outbox that waits less than their deaths take."""
    connection, deaths, documents = Database(mongodb_uri, settings.database), tmp_path / "deaths", database["outboxes"]
    outbox = Outbox(connection.collection("outboxes", 10.0), lease=0.05)
    good = msgspec.structs.replace(CANCELLED, event_id="good", order_id="2" * 24)
    for event in (CANCELLED, good):
        due = datetime(2000, 1, 1, tzinfo=UTC)
        documents.insert_one({"_id": event.order_id, "outbox": [encode_event(event)], "relayDue": due})
    sender = join(event_seconds=0.2 - TRAVEL_SECONDS)
    relay = Relay("orders", {"payments": Stage.HANDED_TO_PAYMENTS}, outbox, sender, interval=0.05, tries=1)
    relay.start()
    with deaths.open("w") as told:
        mortal = subprocess.Popen(
            [sys.executable, "-c", MORTAL, bus_url, bus_prefix, ORDER], stderr=told, start_new_session=True
        )
    try:
        while documents.find_one({"outbox": {"$ne": []}, "deadLetter": {"$exists": False}}):
            assert mortal.poll() is None
            assert deaths.read_text().count("died") < 20 * DELIVERY_LIMIT
    finally:
        os.killpg(mortal.pid, signal.SIGKILL)
        mortal.wait()
        relay.stop(10)
        connection.close()
    assert "may end the process" in documents.find_one({"_id": ORDER})["deadLetter"]["reason"]
    assert documents.find_one({"_id": good.order_id}) == {"_id": good.order_id, "outbox": []}


def test_what_a_handler_raises_is_told_however_it_reads(join, listening):
    def fail(events):
        raise ValueError("half a character: \ud800, and very long" * 100)

    listening(fail)
    assert "half a character: ?" in str(join().publish([CANCELLED])["payments"])


def test_a_receipt_for_something_else_is_none_of_ours(join, listening, channel):
    listening(lambda events: None)
    sender = join()
    sender.start()
    sender._sending.connected.wait(60)
    sender._publisher._on_receipt(amqp.Message(b'["payments","",""]', correlation_id="123"))
    sender._requests._on_replies(amqp.Message(b'[["9","",{}]]'))
    assert sender.publish([CANCELLED]) == {"payments": None}


def test_events_for_which_there_is_no_queue_stay_with_their_sender(join, channel, bus_prefix):
    sender = join(event_seconds=30.0)
    sender.start()
    sender._sending.connected.wait(60)
    channel.queue_unbind(f"{bus_prefix}.payments.events", f"{bus_prefix}.events", "OrderCancelled")
    began = time.monotonic()
    error = sender.publish([CANCELLED])["payments"]
    assert type(error) is Unavailable
    assert "no queue" in error.detail
    assert time.monotonic() - began < 25


def test_events_that_a_full_queue_refuses_are_given_up_at_once(join, channel, bus_prefix):
    sender = join(event_seconds=3600.0)
    sender.start()
    assert sender._sending.connected.wait(60)
    full = channel.queue_declare(exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}).queue
    channel.queue_bind(full, f"{bus_prefix}.events", "OrderCancelled")
    channel.basic_publish(amqp.Message(b"[]"), "", full)
    channel.queue_declare(full, passive=True)
    error = sender.publish([CANCELLED])["payments"]
    assert "refuses it" in str(error)


def test_events_that_the_broker_refuses_stay_with_their_sender(join):
    """As a queue does that is full, or has lost its majority."""
    sender, pending = join(), [PendingPublish(str(number), {"payments"}) for number in range(4)]
    sender._publisher._unconfirmed = dict(enumerate(pending, start=1))
    sender._publisher._on_nack(2, True)
    sender._publisher._on_ack(3, False)
    assert [type(one.result.get("payments")) for one in pending] == [Unavailable, Unavailable, type(None), type(None)]
    assert [one.done.is_set() for one in pending] == [True, True, False, False]
    pending[2].add_receipt("payments", None)
    assert pending[2].done.is_set()
