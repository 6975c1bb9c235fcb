"""The bus: who answers, who is told, and what becomes of a receiver's exception."""

import gc
import threading
import weakref

import pytest
from structlog.testing import CapturingLogger

from app.bus import AlreadyAnswered, SignalBus
from app.contracts import (
    CheckOrderStatus,
    Conflict,
    Event,
    FindOrder,
    IllegalStep,
    NotFound,
    OrderCancelled,
    OrderStatusView,
    PaymentVoided,
    Refused,
    Request,
    TimelineFull,
    Unavailable,
)

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


@pytest.fixture
def bus() -> SignalBus:
    return SignalBus()


@pytest.fixture
def log(monkeypatch) -> CapturingLogger:
    """What the bus logs."""
    capturing = CapturingLogger()
    monkeypatch.setattr("app.bus.log", capturing)
    return capturing


def test_a_request_is_answered_by_the_one_who_said_so(bus):
    asked = []
    bus.answer(CheckOrderStatus, lambda request: asked.append(request) or REPLY)
    assert bus.ask(CHECK) is REPLY
    assert asked == [CHECK]


def test_each_request_reaches_its_own_answerer(bus):
    bus.answer(CheckOrderStatus, lambda request: "status")
    bus.answer(FindOrder, lambda request: "order")
    assert (bus.ask(CHECK), bus.ask(FIND)) == ("status", "order")


def test_a_request_nobody_answers_is_unavailable(bus, log):
    bus.answer(CheckOrderStatus, lambda request: REPLY)
    with pytest.raises(Unavailable, match="nobody answers FindOrder"):
        bus.ask(FIND)
    assert log.calls == []


def test_a_second_answerer_is_refused_and_the_first_stays(bus):
    bus.answer(CheckOrderStatus, lambda request: REPLY)
    with pytest.raises(AlreadyAnswered, match="CheckOrderStatus"):
        bus.answer(CheckOrderStatus, lambda request: None)
    assert bus.ask(CHECK) is REPLY


@pytest.mark.parametrize("refusal", [NotFound, IllegalStep, TimelineFull, Conflict, Unavailable])
def test_declared_refusals_reach_the_asker_as_they_are(bus, log, refusal):
    raised = refusal("no", retry_after=3)
    bus.answer(FindOrder, raising(raised))
    with pytest.raises(Refused) as caught:
        bus.ask(FIND)
    assert caught.value is raised
    assert log.calls == []


def test_any_other_exception_is_logged_with_the_message_and_becomes_unavailable(bus, log):
    bus.answer(FindOrder, raising(KeyError("a bug")))
    with pytest.raises(Unavailable) as caught:
        bus.ask(FIND)
    assert "bug" not in caught.value.detail
    [call] = log.calls
    assert call.method_name == "exception"
    assert (call.kwargs["request"], call.kwargs["message"]) == ("FindOrder", FIND)


def test_what_ends_the_process_is_not_taken_for_a_failed_request(bus):
    bus.answer(FindOrder, raising(SystemExit()))
    with pytest.raises(SystemExit):
        bus.ask(FIND)


def test_nobody_need_care_for_an_event(bus):
    assert bus.publish([voided()]) == {}


def test_every_subscribing_module_is_told(bus):
    told = []
    bus.subscribe("orders", PaymentVoided, lambda events: told.append(("orders", events)))
    bus.subscribe("mail", PaymentVoided, lambda events: told.append(("mail", events)))
    assert bus.publish([voided()]) == {"orders": None, "mail": None}
    assert sorted(told) == [("mail", (voided(),)), ("orders", (voided(),))]


def test_only_subscribers_of_that_type_are_told(bus):
    told = []
    bus.subscribe("orders", OrderCancelled, told.append)
    assert bus.publish([voided()]) == {}
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


def test_a_raising_subscriber_stops_nobody_and_its_failure_is_told(bus, log):
    told = []
    trouble = ValueError("poison")
    for module in ("a", "b", "c"):
        bus.subscribe(module, PaymentVoided, told.append)
    bus.subscribe("broken", PaymentVoided, raising(trouble))
    for module in ("d", "e", "f"):
        bus.subscribe(module, PaymentVoided, told.append)
    delivery = bus.publish([voided()])
    assert delivery == {**dict.fromkeys("abcdef"), "broken": trouble}
    assert len(told) == 6
    [call] = log.calls
    assert (call.method_name, call.kwargs["event_type"]) == ("exception", "PaymentVoided")


def test_a_subscriber_that_cannot_work_now_is_told_of_without_an_alarm(bus, log):
    trouble = Unavailable("no database")
    bus.subscribe("orders", PaymentVoided, raising(trouble))
    assert bus.publish([voided()]) == {"orders": trouble}
    assert log.calls == []


def test_a_failure_is_told_though_the_same_module_listens_twice(bus, log):
    trouble = ValueError("poison")
    for _ in range(16):
        bus.subscribe("orders", PaymentVoided, lambda events: None)
    bus.subscribe("orders", PaymentVoided, raising(trouble))
    for _ in range(16):
        bus.subscribe("orders", PaymentVoided, lambda events: None)
    assert bus.publish([voided()]) == {"orders": trouble}


def test_receivers_that_nobody_else_holds_are_not_garbage_collected(bus):
    class Handler:
        def answer(self, request):
            return REPLY

        def hear(self, events):
            told.append(events)

    told = []

    def install():
        handler = Handler()
        bus.answer(CheckOrderStatus, handler.answer)
        bus.subscribe("orders", PaymentVoided, handler.hear)
        return weakref.ref(handler)

    handler = install()
    gc.collect()
    assert handler() is not None
    assert bus.ask(CHECK) is REPLY
    assert bus.publish([voided()]) == {"orders": None}
    assert told == [(voided(),)]


def test_a_bus_holds_its_receivers_no_longer_than_it_lives():
    def install():
        bus = SignalBus()

        def hear(events):
            pass

        bus.subscribe("orders", PaymentVoided, hear)
        return weakref.ref(hear)

    hear = install()
    gc.collect()
    assert hear() is None


def test_two_buses_are_strangers():
    one, other, told = SignalBus(), SignalBus(), []
    one.answer(CheckOrderStatus, lambda request: REPLY)
    one.subscribe("orders", PaymentVoided, told.append)
    with pytest.raises(Unavailable):
        other.ask(CHECK)
    assert other.publish([voided()]) == {}
    assert told == []
    other.answer(CheckOrderStatus, lambda request: REPLY)


def test_a_request_and_an_event_of_the_same_name_do_not_meet(bus):
    class Note(Event):
        pass

    event, heard = Note, []
    bus.subscribe("orders", event, heard.append)

    class Note(Request):
        owner = "orders"
        reply = OrderStatusView

    bus.answer(Note, lambda request: REPLY)
    assert bus.ask(Note(request_id="r-1")) is REPLY
    assert heard == []
    assert list(bus.publish([event(event_id="e", order_id=ORDER, sequence=1, request_id="r", at=0)])) == ["orders"]


def test_handlers_run_in_the_thread_of_the_caller(bus):
    threads = []
    bus.answer(CheckOrderStatus, lambda request: threads.append(threading.current_thread()) or REPLY)
    bus.subscribe("orders", PaymentVoided, lambda events: threads.append(threading.current_thread()))
    bus.ask(CHECK)
    bus.publish([voided()])
    assert threads == [threading.current_thread()] * 2
