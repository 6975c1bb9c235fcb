"""The bus: who answers, who is told, and what becomes of a receiver's exception; in one process and between two.

Tests of `bus` hold for both transports, those of `signals` for what only one process can promise.
"""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import CapturingLogger

from app.contracts.base import ApplicationError, Conflict, Event, NotFound, Request, Unavailable
from app.contracts.orders import (
    CheckOrderStatus,
    CreateOrder,
    FindOrder,
    IllegalTransition,
    OrderAccepted,
    OrderCancelled,
    OrderStatusView,
    TimelineFull,
)
from app.contracts.payments import PaymentVoided
from app.messaging.rabbitmq.bus import RabbitMqBus
from app.messaging.signal_bus import HandlerAlreadyRegistered, SignalBus

ORDER = "1" * 24
FIND = FindOrder(request_id="r-1", order_id=ORDER, on_behalf_of="")
CHECK = CheckOrderStatus(request_id="r-1", order_id=ORDER, on_behalf_of="")
REPLY = OrderStatusView(order_id=ORDER, order_status="Success", payment_status="Captured", version=2)


def voided(sequence: int = 1) -> PaymentVoided:
    return PaymentVoided(event_id=f"e-{sequence}", order_id=ORDER, sequence=sequence, request_id="r-1", at=0)


def raising(error: BaseException):
    def handler(message):
        raise error

    return handler


class Apart:
    """Two processes: one asks and publishes, the other answers and listens, from the first message on."""

    def __init__(self, url: str, prefix: str, eventually) -> None:
        self._eventually = eventually
        self._asker, self._owner = (
            RabbitMqBus(url, prefix, request_seconds=60.0, event_seconds=60.0) for _ in range(2)
        )
        self._receiving = False

    def register_handler(self, request, handler):
        self._owner.register_handler(request, handler)

    def subscribe(self, module, event, handler):
        self._owner.subscribe(module, event, handler)

    def request(self, request):
        return self._met().request(request)

    def publish(self, events):
        return self._met().publish(events)

    def stop(self):
        for side in (self._asker, self._owner):
            side.stop()

    def _met(self) -> RabbitMqBus:
        if not self._receiving:
            self._receiving = True
            self._owner.start_consuming()
            self._eventually(lambda: self._owner.ready)
        return self._asker


@pytest.fixture(params=["one process", "two processes"])
def bus(request, eventually):
    if request.param == "one process":
        yield SignalBus()
        return
    apart = Apart(request.getfixturevalue("bus_url"), request.getfixturevalue("bus_prefix"), eventually)
    yield apart
    apart.stop()


@pytest.fixture
def signals() -> SignalBus:
    return SignalBus()


@pytest.fixture
def log(monkeypatch) -> CapturingLogger:
    """What the bus logs."""
    capturing = CapturingLogger()
    monkeypatch.setattr("app.messaging.signal_bus.log", capturing)
    return capturing


# --- whatever carries it ---


def test_a_request_is_answered_by_the_one_who_said_so(bus):
    asked = []
    bus.register_handler(CheckOrderStatus, lambda request: asked.append(request) or REPLY)
    assert bus.request(CHECK) == REPLY
    assert asked == [CHECK]


def test_each_request_reaches_its_own_answerer(bus):
    accepted = OrderAccepted(order_id=ORDER, version=1, replayed=False)
    create = CreateOrder(
        request_id="r-2",
        order_id=ORDER,
        user_id="u",
        product_id="1",
        product_name="Käse 🧀\u2028",
        total_text="RM 99",
        total_value=2**53 + 1,
        total_currency="MYR",
        idempotency_key="",
    )
    created = []
    bus.register_handler(CheckOrderStatus, lambda request: REPLY)
    bus.register_handler(CreateOrder, lambda request: created.append(request) or accepted)
    assert (bus.request(CHECK), bus.request(create)) == (REPLY, accepted)
    assert created == [create]


def test_many_at_once_are_each_given_their_own_reply(bus):
    def view(request):
        return OrderStatusView(
            order_id=request.order_id, order_status="Success", payment_status="Captured", version=int(request.order_id)
        )

    bus.register_handler(CheckOrderStatus, view)

    def ask(number: int) -> int:
        return bus.request(CheckOrderStatus(request_id="r", order_id=str(number), on_behalf_of="")).version

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(200))) == list(range(200))


def test_a_request_nobody_answers_is_unavailable(bus, log):
    bus.register_handler(CheckOrderStatus, lambda request: REPLY)
    with pytest.raises(Unavailable, match="no module handles FindOrder"):
        bus.request(FIND)
    assert log.calls == []


def test_a_second_answerer_is_refused_and_the_first_stays(bus):
    bus.register_handler(CheckOrderStatus, lambda request: REPLY)
    with pytest.raises(HandlerAlreadyRegistered, match="CheckOrderStatus"):
        bus.register_handler(CheckOrderStatus, lambda request: None)
    assert bus.request(CHECK) == REPLY


@pytest.mark.parametrize("refusal", [NotFound, IllegalTransition, TimelineFull, Conflict, Unavailable])
def test_declared_refusals_reach_the_asker_with_all_they_say(bus, log, refusal):
    bus.register_handler(FindOrder, raising(refusal("no", retry_after=3, allowed=["Cancelled"])))
    with pytest.raises(ApplicationError) as caught:
        bus.request(FIND)
    assert type(caught.value) is refusal
    assert (caught.value.detail, caught.value.members) == ("no", {"retry_after": 3, "allowed": ["Cancelled"]})
    assert log.calls == []


def test_any_other_exception_is_logged_with_the_message_and_becomes_unavailable(bus, log):
    bus.register_handler(FindOrder, raising(KeyError("a bug")))
    with pytest.raises(Unavailable) as caught:
        bus.request(FIND)
    assert "bug" not in caught.value.detail
    [call] = log.calls
    assert call.method_name == "exception"
    assert (call.kwargs["request"], call.kwargs["message"]) == ("FindOrder", FIND)


def test_nobody_need_care_for_an_event(bus):
    class Gossip(Event):
        pass

    assert bus.publish([Gossip(event_id="e", order_id=ORDER, sequence=1, request_id="r", at=0)]) == {}


def test_every_subscribing_module_is_told(bus, eventually):
    told = []
    bus.subscribe("orders", PaymentVoided, lambda events: told.append(("orders", events)))
    bus.subscribe("mail", PaymentVoided, lambda events: told.append(("mail", events)))
    assert bus.publish([voided()])["orders"] is None
    eventually(lambda: sorted(told) == [("mail", (voided(),)), ("orders", (voided(),))])


def test_only_subscribers_of_that_type_are_told(bus):
    told = []
    bus.subscribe("orders", OrderCancelled, told.append)
    assert not any(bus.publish([voided()]).values())
    assert told == []


def test_a_batch_arrives_as_one_tuple_in_order(bus):
    told = []
    bus.subscribe("orders", PaymentVoided, told.append)
    bus.publish([voided(1), voided(2), voided(3)])
    assert told == [(voided(1), voided(2), voided(3))]


def test_what_a_receiver_is_given_does_not_change_with_the_senders_list(bus):
    told = []
    bus.subscribe("orders", PaymentVoided, told.append)
    sent = [voided()]
    bus.publish(sent)
    sent.clear()
    assert told == [(voided(),)]


def test_a_raising_subscriber_stops_nobody_and_its_failure_is_told(bus, log, eventually):
    told = []
    for module in ("a", "b"):
        bus.subscribe(module, PaymentVoided, told.append)
    bus.subscribe("orders", PaymentVoided, raising(ValueError("poison")))
    for module in ("c", "d"):
        bus.subscribe(module, PaymentVoided, told.append)
    error = bus.publish([voided()])["orders"]
    assert error is not None
    assert not isinstance(error, Unavailable)
    assert "poison" in str(error)
    eventually(lambda: len(told) == 4)
    [call] = log.calls
    assert (call.method_name, call.kwargs["event_type"]) == ("exception", "PaymentVoided")


def test_a_subscriber_that_cannot_work_now_is_told_of_without_an_alarm(bus, log):
    bus.subscribe("orders", PaymentVoided, raising(Unavailable("no database")))
    error = bus.publish([voided()])["orders"]
    assert type(error) is Unavailable
    assert error.detail == "no database"
    assert log.calls == []


def test_a_failure_is_told_though_the_same_module_listens_twice(bus, log):
    for _ in range(16):
        bus.subscribe("orders", PaymentVoided, lambda events: None)
    bus.subscribe("orders", PaymentVoided, raising(ValueError("poison")))
    for _ in range(16):
        bus.subscribe("orders", PaymentVoided, lambda events: None)
    assert "poison" in str(bus.publish([voided()])["orders"])


def test_receivers_that_nobody_else_holds_are_not_garbage_collected(bus):
    class Handler:
        def answer(self, request):
            return REPLY

        def handle_events(self, events):
            told.append(events)

    told = []

    def install():
        handler = Handler()
        bus.register_handler(CheckOrderStatus, handler.answer)
        bus.subscribe("orders", PaymentVoided, handler.handle_events)
        return weakref.ref(handler)

    handler = install()
    gc.collect()
    assert handler() is not None
    assert bus.request(CHECK) == REPLY
    assert bus.publish([voided()]) == {"orders": None}
    assert told == [(voided(),)]


# --- in one process ---


def test_in_one_process_replies_and_refusals_are_the_very_ones(signals):
    refusal = NotFound("no")
    signals.register_handler(CheckOrderStatus, lambda request: REPLY)
    signals.register_handler(FindOrder, raising(refusal))
    assert signals.request(CHECK) is REPLY
    with pytest.raises(NotFound) as caught:
        signals.request(FIND)
    assert caught.value is refusal


def test_in_one_process_it_is_told_what_each_module_made_of_an_event(signals, log):
    error = ValueError("poison")
    signals.subscribe("orders", PaymentVoided, lambda events: None)
    signals.subscribe("broken", PaymentVoided, raising(error))
    assert signals.publish([voided()]) == {"orders": None, "broken": error}


def test_what_ends_the_process_is_not_taken_for_a_failed_request(signals):
    signals.register_handler(FindOrder, raising(SystemExit()))
    with pytest.raises(SystemExit):
        signals.request(FIND)


def test_a_bus_holds_its_receivers_no_longer_than_it_lives():
    def install():
        bus = SignalBus()

        def handle_events(events):
            pass

        bus.subscribe("orders", PaymentVoided, handle_events)
        return weakref.ref(handle_events)

    handler = install()
    gc.collect()
    assert handler() is None


def test_two_buses_are_strangers():
    one, other, told = SignalBus(), SignalBus(), []
    one.register_handler(CheckOrderStatus, lambda request: REPLY)
    one.subscribe("orders", PaymentVoided, told.append)
    with pytest.raises(Unavailable):
        other.request(CHECK)
    assert other.publish([voided()]) == {}
    assert told == []
    other.register_handler(CheckOrderStatus, lambda request: REPLY)


def test_a_request_and_an_event_of_the_same_name_do_not_meet(signals):
    class Note(Event):
        pass

    event, received = Note, []
    signals.subscribe("orders", event, received.append)

    class Note(Request):
        owner = "orders"
        reply = OrderStatusView

    signals.register_handler(Note, lambda request: REPLY)
    assert signals.request(Note(request_id="r-1")) is REPLY
    assert received == []
    assert list(signals.publish([event(event_id="e", order_id=ORDER, sequence=1, request_id="r", at=0)])) == ["orders"]


def test_handlers_run_in_the_thread_of_the_caller(signals):
    threads = []
    signals.register_handler(CheckOrderStatus, lambda request: threads.append(threading.current_thread()) or REPLY)
    signals.subscribe("orders", PaymentVoided, lambda events: threads.append(threading.current_thread()))
    signals.request(CHECK)
    signals.publish([voided()])
    assert threads == [threading.current_thread()] * 2
