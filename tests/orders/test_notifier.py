"""Live updates: whoever waits is woken by whatever process changes the order, and never hangs where the stream does."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from bson import ObjectId
from pymongo.errors import AutoReconnect, OperationFailure
from pymongo.synchronous.change_stream import ChangeStream

from app.contracts.base import NotFound, Unavailable
from app.contracts.orders import AwaitOrder, AwaitTimeline
from app.contracts.payments import PaymentCaptured
from app.messaging.outbox import Outbox
from app.orders import notifier as watching
from app.orders.documents import CHANGES
from app.orders.notifier import OrderChangeNotifier
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.queries import OrderQueries
from app.orders.service import OrderService

pytestmark = pytest.mark.extended

LONG = 60.0
# Before a request reads again by itself: see `patient`.
SOON = 45.0


@pytest.fixture
def watch(store):
    """A watch of its own; ended with the test."""
    made = OrderChangeNotifier(store)
    yield made
    made.stop(LONG)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(32) as threads:
        yield threads


@pytest.fixture
def queries(store, outbox, watch):
    """The reads that wait with this notifier."""
    return OrderQueries(store, outbox, Outbox(store, 10.0, fields=CHANGES), watch, 10.0, 100)


@pytest.fixture
def waits(orders, queries, pool):
    """Have somebody wait for an order to settle."""

    def start(order_id, seconds=LONG, user=""):
        request = AwaitOrder(request_id="r", order_id=order_id, on_behalf_of=user, wait_ms=int(seconds * 1000))
        return pool.submit(queries.await_order, request)

    return start


@pytest.fixture
def streams(eventually, commands):
    """Wait until the change stream asks for more, so many times since it was opened."""

    def opened(times=1):
        eventually(lambda: sum("$changeStream" in str(sent) for _, sent in commands.sent) >= times)
        asked = sum(name == "getMore" for name, _ in commands.sent)
        eventually(lambda: sum(name == "getMore" for name, _ in commands.sent) > asked)

    return opened


@contextmanager
def within(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


NO_LIMIT = OpenOrderLimit(lambda *_: 0, 1)


def capture(orders, payment_event, *order_ids):
    OrderService(orders, NO_LIMIT).on_payment_events(
        [payment_event(PaymentCaptured, order_id) for order_id in order_ids]
    )


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Nobody looks again by himself, unless a test says so: what is seen has come by the stream."""
    monkeypatch.setattr(watching, "POLL_SECONDS", LONG)
    # Nor does a stream break off by itself where the database is late.
    monkeypatch.setattr(watching, "DEADLINE_SECONDS", LONG)


def test_who_waits_is_woken_by_the_change_another_process_makes(rival, create, waits, streams, payment_event):
    order_id, other = create(), create()
    waiting, left = waits(order_id), waits(other, 1.5)
    streams()
    with within(SOON):
        capture(rival, payment_event, order_id)
        status = waiting.result(LONG)
    assert (status.order_status, status.version) == ("Success", 2)
    assert left.result(LONG).order_status == "Processing"


def test_many_wait_on_one_stream(orders, create, waits, streams, payment_event, commands):
    ids = [create() for _ in range(8)]
    waiting = [waits(order_id) for order_id in ids * 4]
    streams()
    with within(SOON):
        capture(orders, payment_event, *ids)
        assert {one.result(LONG).order_status for one in waiting} == {"Success"}
    assert sum("$changeStream" in str(sent) for _, sent in commands.sent) == 1


def test_what_is_settled_already_or_not_waited_for_is_told_at_once(orders, create, waits, watch, payment_event):
    order_id, open_one = create(), create()
    capture(orders, payment_event, order_id)
    with within(SOON):
        assert waits(order_id).result(LONG).order_status == "Success"
        assert waits(open_one, 0).result(LONG).order_status == "Processing"
    assert not watch.streaming


def test_time_out_tells_the_state_as_it_is(create, waits):
    started = time.monotonic()
    assert waits(create(), 0.3).result(LONG).order_status == "Processing"
    assert 0.25 < time.monotonic() - started < SOON


def test_nobody_waits_for_an_order_that_is_not_theirs_or_not_there(create, waits, watch):
    for order_id, user in ((create(), "user-8"), (str(ObjectId()), ""), ("nothing", "")):
        with within(SOON), pytest.raises(NotFound):
            waits(order_id, user=user).result(LONG)
    assert not watch.streaming


def test_an_ending_process_lets_all_go_with_the_state_as_it_is(create, waits, watch, streams):
    waiting = [waits(create()) for _ in range(5)]
    streams()
    with within(SOON):
        watch.stopping = True
        assert {one.result(LONG).order_status for one in waiting} == {"Processing"}
        assert waits(create()).result(LONG).order_status == "Processing"


def test_the_stream_ends_when_nobody_has_waited_for_a_while_and_begins_anew(
    orders, create, waits, watch, streams, payment_event, eventually, monkeypatch
):
    monkeypatch.setattr(watching, "IDLE_SECONDS", 0.1)
    for time_of_waiting in (1, 2):
        order_id = create()
        waiting = waits(order_id)
        streams(time_of_waiting)
        capture(orders, payment_event, order_id)
        assert waiting.result(LONG).order_status == "Success"
        eventually(lambda: not watch.streaming)


@pytest.mark.parametrize(
    ("trouble", "resumes"), [(AutoReconnect("away"), True), (OperationFailure("forgotten", 286), False)], ids=str
)
def test_a_stream_that_breaks_off_resumes_where_it_was_unless_that_is_forgotten(
    orders, create, waits, watch, streams, payment_event, commands, monkeypatch, trouble, resumes
):
    really_open, troubles = watch._open, []

    def prone():
        stream = really_open()
        stream.try_next = lambda: raising(troubles.pop()) if troubles else ChangeStream.try_next(stream)
        return stream

    monkeypatch.setattr(watch, "_open", prone)
    order_id, last = create(), create()
    seen, waiting = waits(order_id), waits(last)
    streams()
    capture(orders, payment_event, order_id)
    seen.result(LONG)
    troubles.append(trouble)
    streams(2)
    capture(orders, payment_event, last)
    assert waiting.result(LONG).order_status == "Success"
    [_, again] = [sent["pipeline"][0]["$changeStream"] for _, sent in commands.sent if "$changeStream" in str(sent)]
    assert ("resumeAfter" in again) == resumes


def raising(trouble):
    raise trouble


def test_a_stream_that_was_killed_misses_nothing(
    orders, create, waits, streams, payment_event, database, commands, eventually
):
    order_id = create()
    waiting = waits(order_id)
    streams()
    cursor = next(sent["getMore"] for name, sent in reversed(commands.sent) if name == "getMore")
    database.command("killCursors", "orders", cursors=[cursor])
    capture(orders, payment_event, order_id)
    assert waiting.result(LONG).order_status == "Success"
    assert waits(create(), 0).result(LONG).order_status == "Processing"


def test_when_a_stream_opens_all_look_again(orders, create, waits, watch, streams, payment_event, monkeypatch):
    order_id = create()
    waiting = waits(order_id)
    streams()
    monkeypatch.setattr(watch, "_notify", lambda key: 1 / 0)
    capture(orders, payment_event, order_id)
    assert waiting.result(LONG).order_status == "Success"


def test_without_a_stream_a_change_is_seen_a_little_later(orders, create, waits, watch, payment_event, monkeypatch):
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(watch, "_open", lambda: 1 / 0)
    order_id = create()
    waiting = waits(order_id)
    time.sleep(0.3)
    with within(SOON):
        capture(orders, payment_event, order_id)
        assert waiting.result(LONG).order_status == "Success"


def test_who_waits_outlasts_a_database_that_is_away_for_a_moment(watch, monkeypatch):
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(watch, "_open", lambda: 1 / 0)
    answers = ["no", Unavailable("away"), Unavailable("away"), "yes"]

    def look():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert watch.wait_until("an order", look, lambda answer: answer == "yes", LONG) == "yes"
    answers[:] = ["no", *[Unavailable("away")] * 99]
    with pytest.raises(Unavailable):
        watch.wait_until("an order", look, lambda answer: answer == "yes", 0.3)
    answers[:] = [Unavailable("away")]
    with within(SOON), pytest.raises(Unavailable):
        watch.wait_until("an order", look, lambda answer: answer == "yes", LONG)


def test_steps_are_told_as_they_are_taken_and_after_what_was_seen(
    orders, create, update, watch, queries, pool, streams, payment_event
):
    order_id = create()

    def follow(after, seconds=LONG):
        request = AwaitTimeline(
            request_id="r", order_id=order_id, on_behalf_of="user-7", after=after, wait_ms=int(seconds * 1000)
        )
        return queries.await_timeline(request)

    first = follow(0)
    assert [(one.sequence, one.from_status, one.to_status) for one in first.entries] == [(1, "(new)", "Processing")]
    waiting = pool.submit(follow, 1)
    streams()
    with within(SOON):
        capture(orders, payment_event, order_id)
        told = waiting.result(LONG)
    assert [(one.sequence, one.type, one.payment_status) for one in told.entries] == [
        (2, "PaymentCaptured", "Captured")
    ]
    update(order_id, "Confirm")
    assert [one.to_status for one in follow(0).entries] == ["Processing", "Success", "Confirm"]
    assert (follow(3, 0.1).entries, follow(99, 0).entries, follow(3, 0).version) == ((), (), 3)
    assert not follow(3, 0).ending
    watch.stopping = True
    assert follow(3).ending


def test_no_waiter_is_left_behind(orders, create, waits, watch, streams, payment_event):
    order_id = create()
    waiting = [waits(order_id) for _ in range(3)] + [waits(create(), 0.1)]
    streams()
    capture(orders, payment_event, order_id)
    for one in waiting:
        one.result(LONG)
    assert watch.waiting == 0
