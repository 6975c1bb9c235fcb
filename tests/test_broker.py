"""The bus between processes: what it does when processes end, the broker breaks off, or somebody sends nonsense."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import amqp
import kombu
import pytest
from structlog.testing import CapturingLogger

from app import broker
from app.broker import BrokerBus, NotTakenIn, Posted
from app.contracts import (
    AwaitOrder,
    CheckOrderStatus,
    OrderCancelled,
    OrderStatusView,
    OrderUpdated,
    PaymentVoided,
    Unavailable,
    UpdateOrder,
)

ORDER = "1" * 24
CHECK = CheckOrderStatus(request_id="r-1", order_id=ORDER, on_behalf_of="")
REPLY = OrderStatusView(order_id=ORDER, order_status="Success", payment_status="Captured", version=2)
CANCELLED = OrderCancelled(event_id="e-1", order_id=ORDER, sequence=2, request_id="r-1", at=0)
VOIDED = PaymentVoided(event_id="e-1", order_id=ORDER, sequence=2, request_id="r-1", at=0)


@pytest.fixture
def join(bus_url, bus_prefix):
    """A process on the bus; each takes part until the test ends."""
    joined = []

    def join(url=bus_url, request_seconds=9.0, event_seconds=9.0) -> BrokerBus:
        made = BrokerBus(url, bus_prefix, request_seconds=request_seconds, event_seconds=event_seconds)
        joined.append(made)
        return made

    yield join
    for one in joined:
        one.stop()


@pytest.fixture
def serving(join, eventually):
    """A process that answers CheckOrderStatus, and receives."""

    def serve(handler=lambda request: REPLY, **how) -> BrokerBus:
        made = join(**how)
        made.answer(CheckOrderStatus, handler)
        made.receive()
        eventually(lambda: made.ready)
        return made

    return serve


@pytest.fixture
def listening(join, eventually):
    """A process in which a module takes events in."""

    def listen(handler, event=OrderCancelled, module="payments", **how) -> BrokerBus:
        made = join(**how)
        made.subscribe(module, event, handler)
        made.receive()
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
    monkeypatch.setattr("app.broker.log", capturing)
    return capturing


def break_off(bus: BrokerBus) -> None:
    """End both connections as a network does."""
    for link in (bus._in, bus._out):
        link._break()


# --- who is there, and who is not ---


def test_an_event_is_kept_for_whoever_must_hear_it_and_has_never_run(join, listening, eventually, waiting):
    sender = join(event_seconds=0.2)
    assert type(sender.publish([CANCELLED])["payments"]) is Unavailable
    assert waiting("payments.events") == 1
    told = []
    listening(told.append)
    eventually(lambda: told == [(CANCELLED,)])
    eventually(lambda: waiting("payments.events") == 0)


def test_a_module_that_does_not_answer_is_soon_not_waited_for_and_welcome_again(join, serving):
    asker = join(request_seconds=0.7)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="orders did not answer in time"):
        asker.ask(CHECK)
    first = time.monotonic() - began
    began = time.monotonic()
    with pytest.raises(Unavailable):
        asker.ask(CHECK)
    assert time.monotonic() - began < first
    serving()
    assert asker.ask(CHECK) == REPLY
    assert not asker._silent


def test_a_module_that_is_slow_for_a_moment_is_waited_for_as_ever_once_it_answers_even_if_too_late(
    join, serving, eventually
):
    pauses = iter([1.0])
    serving(lambda request: time.sleep(next(pauses, 0.7)) or REPLY)
    asker = join(request_seconds=0.3)
    with pytest.raises(Unavailable, match="in time"):
        asker.ask(CHECK)
    assert asker._silent
    eventually(lambda: not asker._silent)
    assert asker.ask(CHECK) == REPLY


def test_without_a_broker_all_is_refused_at_once_but_the_first_which_waits_for_it(join):
    alone = join(url="amqp://nobody:nothing@127.0.0.1:9/none")
    for _ in range(3):
        with pytest.raises(Unavailable, match="broker cannot be reached"):
            alone.ask(CHECK)
    began = time.monotonic()
    assert type(alone.publish([CANCELLED])["payments"]) is Unavailable
    assert time.monotonic() - began < 1
    assert not alone.ready


def test_another_broker_is_tried_where_the_first_is_not_there(join, serving, bus_url):
    serving()
    assert join(url=f"amqp://nobody:nothing@127.0.0.1:9/none;{bus_url}").publish([CANCELLED]) is not None
    asker = join(url=f"amqp://nobody:nothing@127.0.0.1:9/none;{bus_url}")
    asker.start()
    asker._out.up.wait(10)
    assert asker.ask(CHECK) == REPLY


def test_a_request_to_a_module_of_the_same_process_stays_in_it(serving, waiting):
    both = serving(lambda request: threading.current_thread())
    assert both.ask(CHECK) is threading.current_thread()


def test_a_broker_that_takes_nothing_is_not_written_to(join, serving):
    serving()
    asker = join()
    assert asker.ask(CHECK) == REPLY
    asker._out._on_blocked("low on memory")
    with pytest.raises(Unavailable):
        asker.ask(CHECK)
    assert type(asker.publish([CANCELLED])["payments"]) is Unavailable
    assert not asker.ready
    asker._out._on_unblocked()
    assert asker.ask(CHECK) == REPLY


# --- connections that end ---


def test_a_lost_connection_is_made_anew_on_both_sides(join, serving, eventually):
    owner, asker = serving(), join()
    assert asker.ask(CHECK) == REPLY
    for lost in (owner, asker):
        break_off(lost)
        eventually(lambda: not asker.ready or not owner.ready)
        eventually(lambda: asker.ready and owner.ready)
        assert asker.ask(CHECK) == REPLY


def test_whoever_asked_over_a_connection_that_ends_is_told_at_once(join, serving, eventually):
    released, arrived = threading.Event(), threading.Event()

    def slow(request):
        arrived.set()
        released.wait(10)
        return REPLY

    serving(slow)
    asker = join()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(asker.ask, CHECK)
        assert arrived.wait(10)
        break_off(asker)
        with pytest.raises(Unavailable, match="lost meanwhile"):
            asked.result(5)
        released.set()


def test_events_taken_and_not_acknowledged_are_taken_again(join, listening, eventually):
    told, held = [], threading.Event()

    def hang(events):
        told.append(events)
        held.wait(10)

    first = listening(hang)
    sender = join(event_seconds=20.0)
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(sender.publish, [CANCELLED])
        eventually(lambda: told)
        listening(told.append)
        first._in.stop()
        assert published.result(15) == {"payments": None}
        held.set()
    assert told == [(CANCELLED,)] * 2


@pytest.mark.parametrize(("expected", "done"), [((), 2), ((1,), 1)])
def test_a_request_whose_owner_is_lost_goes_to_another_unless_it_asked_for_a_version(join, eventually, expected, done):
    """It may have been done, and have changed the version itself."""
    updated = OrderUpdated(order_id=ORDER, order_status="Confirm", version=2, changed=True)
    owners, asked = [join(), join()], []

    def lose(bus):
        def handle(request):
            asked.append(request)
            if len(asked) == 1:
                bus._in._break()
                eventually(lambda: not bus._in.up.is_set())
            return updated

        return handle

    for owner in owners:
        owner.answer(UpdateOrder, lose(owner))
        owner.receive()
    eventually(lambda: all(owner.ready for owner in owners))
    request = UpdateOrder(
        request_id="r", order_id=ORDER, on_behalf_of="", expected_versions=expected, order_status="Confirm"
    )
    if expected:
        with pytest.raises(Unavailable, match="look whether it was done"):
            join().ask(request)
    else:
        assert join().ask(request) == updated
    assert len(asked) == done


def test_who_stops_lets_what_it_has_taken_end_and_no_asker_notices(join, serving, eventually):
    """A rolling restart: one after the other of two goes and a new one comes, under load."""
    owners = [serving(slowly), serving(slowly)]
    asker, over = join(), threading.Event()
    asked = []

    def ask_on():
        while not over.is_set():
            asked.append(asker.ask(CHECK))

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(ask_on) for _ in range(8)]
        for number in range(3):
            eventually(lambda: len(asked) > 20 * (number + 1))  # noqa: B023 - waited for at once
            last = owners.pop(0)
            last.drain()
            last.finish(10)
            last.stop()
            owners.append(serving(slowly))
        over.set()
        for one in running:
            one.result(15)
    assert len(asked) > 50
    assert set(asked) == {REPLY}


def slowly(request):
    time.sleep(0.01)
    return REPLY


# --- deadlines ---


def test_what_nobody_waits_for_any_longer_is_not_done(join, serving, eventually):
    asker = join(request_seconds=0.1)
    with pytest.raises(Unavailable):
        asker.ask(CHECK)
    time.sleep(asker._request_seconds)
    done = []
    serving(lambda request: done.append(request) or REPLY)
    assert join().ask(CHECK) == REPLY
    assert len(done) == 1


def test_who_asks_to_wait_holds_up_nobody(join, serving, eventually):
    released, waiting_now = threading.Event(), []

    def wait(request):
        waiting_now.append(request)
        released.wait(20)
        return REPLY

    owner = join()
    owner.answer(AwaitOrder, wait)
    owner.answer(CheckOrderStatus, lambda request: REPLY)
    owner.receive()
    asker = join()
    many = broker.REQUESTS_AHEAD + broker.HANDS + 8
    wait_for = AwaitOrder(request_id="r", order_id=ORDER, on_behalf_of="", wait_ms=20_000)
    with ThreadPoolExecutor(many) as pool:
        asked = [pool.submit(asker.ask, wait_for) for _ in range(many)]
        eventually(lambda: len(waiting_now) == many)
        assert asker.ask(CHECK) == REPLY
        released.set()
        assert {one.result(10) for one in asked} == {REPLY}


# --- batches ---


def test_requests_made_together_travel_together(join, serving):
    seen = []
    owner = serving()
    take = owner._on_requests
    owner._on_requests = lambda module, delivered: seen.append(delivered) or take(module, delivered)
    break_off(owner)
    asker = join()
    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(asker.ask, [CHECK] * 512)) == {REPLY}
    assert 16 <= len(seen) < 400


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
    assert "events not understood" in [call.args[0] for call in log.calls]


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[[1,2]]", b'[["1","Nothing",1000,{}]]', b'[["1","CheckOrderStatus",1000,7]]']
)
def test_a_request_that_is_none_holds_up_nobody(join, serving, channel, bus_prefix, body):
    serving()
    channel.basic_publish(
        channel.prepare_message(body, properties={"reply_to": "nobody"}), "", f"{bus_prefix}.orders.requests"
    )
    assert join().ask(CHECK) == REPLY


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
    monkeypatch.setattr(broker, "LONGEST_REST", 0.01)
    tries = []

    def fail(events):
        tries.append(events)
        raise ValueError("poison")

    listening(fail, module="mail")
    listening(lambda events: None)
    assert join().publish([CANCELLED]) == {"payments": None}
    eventually(lambda: waiting("mail.dead") == 1)
    assert len(tries) == broker.DELIVERIES
    assert waiting("mail.events") == 0


def test_a_message_that_kills_whoever_takes_it_is_not_taken_for_ever(join, listening, eventually):
    """The broker gives it to the next, until it has done so often enough; the sender counts that as a failure."""
    told = []

    def die(events):
        told.append(events)
        break_off(victims[-1])

    victims = []
    victims.append(listening(die))
    sender = join(event_seconds=30.0)
    trouble = sender.publish([CANCELLED])["payments"]
    assert isinstance(trouble, NotTakenIn)
    assert "may die of it" in str(trouble)
    assert broker.DELIVERIES <= len(told) <= broker.DELIVERIES + 1


def test_what_a_handler_raises_is_told_however_it_reads(join, listening):
    def fail(events):
        raise ValueError("half a character: \ud800, and very long" * 100)

    listening(fail)
    assert "half a character: ?" in str(join().publish([CANCELLED])["payments"])


def test_a_receipt_for_something_else_is_none_of_ours(join, listening, channel):
    listening(lambda events: None)
    sender = join()
    sender.start()
    sender._out.up.wait(10)
    sender._on_receipt(amqp.Message(b'["payments","",""]', correlation_id="123"))
    sender._on_answers(amqp.Message(b'[["9","",{}]]'))
    assert sender.publish([CANCELLED]) == {"payments": None}


def test_events_for_which_there_is_no_queue_stay_with_their_sender(join, channel, bus_prefix):
    sender = join(event_seconds=30.0)
    sender.start()
    sender._out.up.wait(10)
    channel.queue_unbind(f"{bus_prefix}.payments.events", f"{bus_prefix}.events", "OrderCancelled")
    began = time.monotonic()
    trouble = sender.publish([CANCELLED])["payments"]
    assert type(trouble) is Unavailable
    assert "no queue" in trouble.detail
    assert time.monotonic() - began < 10


def test_events_that_the_broker_refuses_stay_with_their_sender(join):
    """As a queue does that is full, or has lost its majority."""
    sender, posted = join(), [Posted(str(number), {"payments"}) for number in range(4)]
    sender._unconfirmed = dict(enumerate(posted, start=1))
    sender._on_refused(2, True)
    sender._on_confirmed(3, False)
    assert [type(one.delivery.get("payments")) for one in posted] == [Unavailable, Unavailable, type(None), type(None)]
    assert [one.done.is_set() for one in posted] == [True, True, False, False]
    posted[2].receipt("payments", None)
    assert posted[2].done.is_set()
