"""The worker: on record before it calls, the same key on every try, nothing written without the lease."""

import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from app.contracts.base import Unavailable
from app.contracts.payments import PaymentCaptured, PaymentParked, PaymentStatus
from app.messaging.outbox import decode_event
from app.observability.supervision import Watchdog
from app.payments import payment as domain
from app.payments import provider_calls, provider_responses
from app.payments.payment import RetryPolicy
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers.simulated import CAPABILITIES
from app.payments.repository import PaymentRepository
from app.payments.results import ProviderResult, ResultWriter
from app.payments.service import PaymentService
from tests.stopped_clock import StoppedClock

UNKNOWN = ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer in time")
NOT_ATTEMPTED = ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason="refused the connection")
DECLINED = ProviderResponse(code=ResponseCode.DECLINED, reason="no cover")


@pytest.fixture
def clock() -> StoppedClock:
    """For a worker with the timeout of TIMEOUT: no call times out before a test says so."""
    return StoppedClock()


# A worker's, and what is more.
TIMEOUT, TOO_LONG = 5.0, 5.1


def events(doc):
    return [entry["type"] for entry in doc["outbox"]]


def key(leased):
    return f"{leased.payment.order_id}:1"


def service_of(worker):
    return PaymentService(worker, worker._results, CAPABILITIES)


def in_thread(work, *args):
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def test_a_payment_is_on_record_with_its_attempt_and_lease_before_the_provider_is_called(
    worker, payments, provider, created, database, eventually
):
    seen = []
    provider.on_call = lambda verb, call: seen.append((verb, call.key, database.payments.find_one(call.order_id)))
    event = created()
    service_of(worker).on_orders_created([event])
    eventually(lambda: payments.find(event.order_id).payment.status == PaymentStatus.CAPTURED)
    [(verb, asked, doc)] = seen
    assert (verb, asked) == ("charge", f"{event.order_id}:1")
    assert (doc["status"], doc["keySent"], doc["fencingToken"], doc["retryCount"]) == ("Processing", True, 1, 1)
    assert doc["total"] == {"value": 9900, "currency": "MYR"}
    assert doc["owner"]
    assert doc["dueAt"] > payments.now() + timedelta(seconds=30)


def test_a_repeated_call_is_on_record_before_it_is_made_too(
    worker, payments, provider, lease_payment, take_up, database
):
    provider.responses = [UNKNOWN]
    leased = lease_payment()
    worker.process(leased)
    again = take_up(leased.payment.order_id)
    seen = []
    provider.on_call = lambda verb, call: seen.append((verb, database.payments.find_one(call.order_id)))
    worker.process(again)
    assert [verb for verb, _ in seen] == ["find", "charge"]
    for _, doc in seen:
        assert (doc["fencingToken"], doc["retryCount"], doc["dueAt"]) == (2, 2, again.lease_end)


def test_a_capture_is_recorded_with_its_event_and_its_log(worker, provider, lease_payment, stored):
    leased = lease_payment()
    worker.process(leased)
    doc = stored(leased.payment.order_id)
    assert (doc["status"], doc["captured"], doc["reference"]) == ("Captured", 9900, f"ref-{key(leased)}")
    assert not {"dueAt", "owner"} & set(doc)
    [event] = [decode_event(entry) for entry in doc["outbox"]]
    assert isinstance(event, PaymentCaptured)
    assert (event.order_id, event.sequence, event.request_id) == (leased.payment.order_id, 1, "r-create")
    assert event.reference == f"ref-{key(leased)}"
    [line] = doc["attempts"]
    assert (line["attempt"], line["call"], line["key"], line["answer"]) == (1, "charge", key(leased), "captured")


def test_a_decline_is_recorded_with_its_reason(worker, provider, lease_payment, stored):
    provider.responses = [DECLINED]
    leased = lease_payment()
    worker.process(leased)
    doc = stored(leased.payment.order_id)
    assert (doc["status"], doc["captured"], "dueAt" in doc) == ("Declined", 0, False)
    assert (doc["outbox"][0]["type"], doc["outbox"][0]["reason"]) == ("PaymentDeclined", "no cover")


@pytest.mark.parametrize("trouble", [UNKNOWN, NOT_ATTEMPTED, TimeoutError("no answer"), RuntimeError("a bug")])
def test_an_unsettled_call_is_looked_up_and_sent_again_with_the_same_key(
    worker, provider, lease_payment, take_up, stored, payments, trouble
):
    provider.responses = [trouble, trouble]
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    doc = stored(order_id)
    assert (doc["status"], events(doc), "owner" in doc) == ("Processing", [], False)
    assert timedelta(seconds=40) < doc["dueAt"] - payments.now() <= timedelta(seconds=100)
    worker.process(take_up(order_id))
    worker.process(take_up(order_id))
    assert provider.calls == [("charge", key(leased)), *[("find", key(leased)), ("charge", key(leased))] * 2]
    doc = stored(order_id)
    assert (doc["status"], events(doc), doc["fencingToken"]) == ("Captured", ["PaymentCaptured"], 3)
    assert [line["attempt"] for line in doc["attempts"]] == [1, 2, 3]


def test_what_the_provider_knows_of_is_not_sent_again(worker, provider, lease_payment, take_up, stored):
    provider.responses = [UNKNOWN]
    leased = lease_payment()
    worker.process(leased)
    provider.found[key(leased)] = ProviderResponse(code=ResponseCode.CAPTURED, reference="ref-found")
    worker.process(take_up(leased.payment.order_id))
    assert provider.calls == [("charge", key(leased)), ("find", key(leased))]
    doc = stored(leased.payment.order_id)
    assert (doc["status"], doc["reference"]) == ("Captured", "ref-found")


def test_what_the_provider_cannot_tell_at_the_moment_is_not_sent_either(
    worker, provider, lease_payment, take_up, stored
):
    provider.responses = [UNKNOWN]
    leased = lease_payment()
    worker.process(leased)
    provider.found[key(leased)] = UNKNOWN
    worker.process(take_up(leased.payment.order_id))
    assert provider.calls == [("charge", key(leased)), ("find", key(leased))]
    assert "dueAt" in stored(leased.payment.order_id)


def test_a_lost_answer_of_a_find_is_an_unknown_outcome_like_any_other(worker, provider, lease_payment, take_up, stored):
    provider.responses = [UNKNOWN]
    leased = lease_payment()
    worker.process(leased)

    def fail(verb, call):
        if verb == "find":
            raise TimeoutError

    provider.on_call = fail
    worker.process(take_up(leased.payment.order_id))
    assert [verb for verb, _ in provider.calls] == ["charge", "find"]
    assert (stored(leased.payment.order_id)["status"], "dueAt" in stored(leased.payment.order_id)) == (
        "Processing",
        True,
    )


def test_after_the_last_try_a_payment_is_parked_in_view(worker, provider, lease_payment, take_up, stored, payments):
    provider.responses = [UNKNOWN] * 9
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    worker.process(take_up(order_id))
    assert events(stored(order_id)) == []
    worker.process(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], doc["parkedReason"], "dueAt" in doc) == ("Unknown", "no answer in time", False)
    [event] = [decode_event(entry) for entry in doc["outbox"]]
    assert isinstance(event, PaymentParked)
    assert (event.reason, event.sequence) == ("no answer in time", 1)
    assert [verb for verb, _ in provider.calls] == ["charge", "find", "charge", "find", "charge"]
    assert payments.claim(10) == []


def test_at_the_horizon_a_payment_is_parked_however_few_its_tries(
    worker, provider, lease_payment, take_up, stored, database
):
    provider.responses = [UNKNOWN] * 9
    leased = lease_payment()
    worker.process(leased)
    long_ago = leased.key_sent_at - timedelta(hours=1)
    database.payments.update_one({"_id": leased.payment.order_id}, {"$set": {"keySentAt": long_ago}})
    worker.process(take_up(leased.payment.order_id))
    assert (stored(leased.payment.order_id)["status"], stored(leased.payment.order_id)["retryCount"]) == ("Unknown", 2)


def test_a_payment_that_outlives_every_process_is_parked_without_another_call(
    worker, dying, payments, provider, new_payment, stored
):
    payment = new_payment()
    dying.insert([payment], 1)
    for _ in range(2):
        assert len(dying.claim(10)) == 1
    [leased] = payments.claim(10)
    assert leased.payment.retry_count == 4
    worker.process(leased)
    assert provider.calls == []
    assert (stored(payment.order_id)["status"], events(stored(payment.order_id))) == ("Unknown", ["PaymentParked"])


def test_a_parked_payment_that_is_cancelled_is_called_off(worker, provider, lease_payment, take_up, cancel, stored):
    provider.responses = [UNKNOWN] * 3
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    worker.process(take_up(order_id))
    worker.process(take_up(order_id))
    cancel(worker, order_id)
    worker.process(take_up(order_id))
    assert provider.calls[-2:] == [("find", key(leased)), ("void", key(leased))]
    assert (stored(order_id)["status"], events(stored(order_id))) == ("Voided", ["PaymentParked", "PaymentVoided"])


def test_cancelled_before_anything_was_sent_it_is_voided_without_a_call(
    worker, payments, provider, new_payment, cancel, stored
):
    payment = new_payment()
    payments.insert([payment], 0)
    cancel(worker, payment.order_id)
    doc = stored(payment.order_id)
    assert (doc["status"], events(doc), "dueAt" in doc) == ("Voided", ["PaymentVoided"], False)
    assert payments.claim(10) == []
    assert provider.calls == []


def test_cancelled_while_it_waits_for_another_try_it_is_voided(
    worker, provider, lease_payment, take_up, cancel, stored
):
    provider.responses = [UNKNOWN]
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    cancel(worker, order_id)
    assert stored(order_id)["cancelled"]
    worker.process(take_up(order_id))
    assert provider.calls == [("charge", key(leased)), ("find", key(leased)), ("void", key(leased))]
    assert (stored(order_id)["status"], events(stored(order_id))) == ("Voided", ["PaymentVoided"])


def test_cancelled_after_the_capture_it_is_refunded_once(
    worker, provider, lease_payment, take_up, cancel, stored, payments
):
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    for sequence in (2, 2, 3):
        cancel(worker, order_id, sequence=sequence)
    worker.process(take_up(order_id))
    refund_key = f"{key(leased)}:refund:cancel"
    assert provider.calls == [("charge", key(leased)), ("find", refund_key), ("refund", refund_key)]
    doc = stored(order_id)
    assert (doc["status"], events(doc)) == ("Refunded", ["PaymentCaptured", "PaymentRefunded"])
    assert (doc["outbox"][1]["refund_value"], doc["outbox"][1]["refunded_total"]) == (9900, 9900)
    cancel(worker, order_id, sequence=4)
    assert payments.claim(10) == []
    assert len(stored(order_id)["refunds"]) == 1


def test_cancelled_while_it_is_charged_it_is_refunded_exactly_once(
    worker, provider, lease_payment, cancel, take_up, stored, gate, payments
):
    leased = lease_payment()
    order_id = leased.payment.order_id
    provider.on_call = gate
    running = in_thread(worker.process, leased)
    assert gate.came.wait(60)
    cancel(worker, order_id)
    doc = stored(order_id)
    assert (doc["cancelled"], doc["status"], doc["dueAt"], events(doc)) == (True, "Processing", leased.lease_end, [])
    gate.open()
    running.join(60.0)
    doc = stored(order_id)
    assert (doc["status"], doc["captured"], events(doc)) == ("Refunding", 9900, ["PaymentCaptured"])
    worker.process(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], events(doc)) == ("Refunded", ["PaymentCaptured", "PaymentRefunded"])
    refund = {"refund_id": "cancel", "value": 9900, "status": "done", "request_id": "r-cancel"}
    assert doc["refunds"] == [{**refund, "reference": f"ref-{order_id}:1:refund:cancel", "by_other_means": ""}]
    assert [verb for verb, _ in provider.calls] == ["charge", "find", "refund"]
    assert payments.claim(10) == []


@pytest.mark.parametrize(
    ("response", "status", "event_types"),
    [
        (DECLINED, "Declined", ["PaymentDeclined"]),
        (ProviderResponse(code=ResponseCode.VOIDED), "Voided", ["PaymentVoided"]),
    ],
)
def test_cancelled_while_it_is_charged_and_not_captured_nothing_is_refunded(
    worker, provider, lease_payment, cancel, stored, gate, payments, response, status, event_types
):
    leased = lease_payment()
    provider.on_call, provider.responses = gate, [response]
    running = in_thread(worker.process, leased)
    assert gate.came.wait(60)
    cancel(worker, leased.payment.order_id)
    gate.open()
    running.join(60.0)
    doc = stored(leased.payment.order_id)
    assert (doc["status"], events(doc), doc["refunds"]) == (status, event_types, [])
    assert payments.claim(10) == []


def test_cancelled_while_it_is_charged_with_an_unknown_outcome_it_is_voided(
    worker, provider, lease_payment, cancel, take_up, stored, gate
):
    leased = lease_payment()
    provider.on_call, provider.responses = gate, [UNKNOWN]
    running = in_thread(worker.process, leased)
    assert gate.came.wait(60)
    cancel(worker, leased.payment.order_id)
    gate.open()
    running.join(60.0)
    assert (stored(leased.payment.order_id)["status"], events(stored(leased.payment.order_id))) == ("Processing", [])
    worker.process(take_up(leased.payment.order_id))
    assert provider.calls == [("charge", key(leased)), ("find", key(leased)), ("void", key(leased))]
    assert stored(leased.payment.order_id)["status"] == "Voided"


def test_a_void_that_comes_too_late_gives_the_money_back(worker, provider, lease_payment, cancel, take_up, stored):
    provider.responses = [UNKNOWN, ProviderResponse(code=ResponseCode.CAPTURED, reference="ref-late")]
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    cancel(worker, order_id)
    worker.process(take_up(order_id))
    assert (stored(order_id)["status"], stored(order_id)["captured"]) == ("Refunding", 9900)
    worker.process(take_up(order_id))
    assert [verb for verb, _ in provider.calls] == ["charge", "find", "void", "find", "refund"]
    assert (stored(order_id)["status"], events(stored(order_id))) == (
        "Refunded",
        ["PaymentCaptured", "PaymentRefunded"],
    )


def test_a_refund_with_an_unknown_outcome_is_repeated_with_its_key(
    worker, provider, lease_payment, cancel, take_up, stored
):
    provider.responses = [None, UNKNOWN, TimeoutError()]
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    cancel(worker, order_id)
    for _ in range(3):
        worker.process(take_up(order_id))
    refund_key = f"{key(leased)}:refund:cancel"
    assert provider.calls[1:] == [("find", refund_key), ("refund", refund_key)] * 3
    assert (stored(order_id)["status"], events(stored(order_id))) == (
        "Refunded",
        ["PaymentCaptured", "PaymentRefunded"],
    )


def test_who_loses_the_lease_during_the_call_writes_nothing(
    make_worker, dying, other, provider, new_payment, stored, gate
):
    """The lease ends while the provider is slow; another worker asks by key first, finds, and settles."""
    payment = new_payment()
    [leased] = dying.insert([payment], 1)
    first_key = f"{payment.order_id}:1"
    provider.on_call = lambda verb, call: gate() if verb == "charge" else None
    provider.responses = [DECLINED]
    slow = in_thread(make_worker(dying).process, leased)
    assert gate.came.wait(60)
    provider.found[first_key] = ProviderResponse(code=ResponseCode.CAPTURED, reference="ref-1")
    [again] = other.claim(10)
    make_worker(other).process(again)
    assert provider.calls == [("charge", first_key), ("find", first_key)]
    settled = stored(payment.order_id)
    assert (settled["status"], settled["fencingToken"]) == ("Captured", 2)
    gate.open()
    slow.join(60.0)
    assert stored(payment.order_id) == settled


def test_who_loses_the_lease_to_a_worker_that_is_still_calling_writes_nothing(
    make_worker, dying, other, provider, new_payment, stored
):
    payment = new_payment()
    [leased] = dying.insert([payment], 1)
    other.claim(10)
    before = stored(payment.order_id)
    make_worker(dying).process(leased)
    assert provider.calls == [("charge", f"{payment.order_id}:1")]
    assert stored(payment.order_id) == before


def test_a_result_is_recorded_once_though_the_database_forgets_to_say_so(
    make_worker, store, outbox, payments, provider, lease_payment, stored
):
    """The reply to the first write is lost: repeated, it must not record the capture a second time."""

    class LosesTheReply(PaymentRepository):
        lost = False

        def save(self, results):
            done = super().save(results)
            if not self.lost:
                self.lost = True
                raise Unavailable("the reply was lost")
            return done

    leased = lease_payment()
    make_worker(LosesTheReply(store, outbox, 60.0)).process(leased)
    doc = stored(leased.payment.order_id)
    assert (doc["status"], doc["captured"], events(doc)) == ("Captured", 9900, ["PaymentCaptured"])
    assert len(doc["attempts"]) == 1


def test_a_result_is_recorded_once_though_the_order_is_cancelled_right_after(
    make_worker, store, outbox, payments, provider, lease_payment, cancel, worker, take_up, stored
):
    """Cancelled between the write and its reply: the money goes back once, not twice."""

    class ChangedMeanwhile(PaymentRepository):
        changed = False

        def save(self, results):
            done = super().save(results)
            if not self.changed:
                self.changed = True
                cancel(worker, results[0].before.payment.order_id)
                return [False]
            return done

    leased = lease_payment()
    make_worker(ChangedMeanwhile(store, outbox, 60.0)).process(leased)
    doc = stored(leased.payment.order_id)
    assert (doc["status"], doc["captured"], events(doc)) == ("Refunding", 9900, ["PaymentCaptured"])
    assert [refund["value"] for refund in doc["refunds"]] == [9900]
    worker.process(take_up(leased.payment.order_id))
    doc = stored(leased.payment.order_id)
    assert (doc["status"], sum(refund["value"] for refund in doc["refunds"])) == ("Refunded", 9900)


def test_a_result_waits_while_the_database_is_away(
    make_worker, store, outbox, payments, provider, lease_payment, stored
):
    class Away(PaymentRepository):
        refusals = 2

        def save(self, results):
            if self.refusals:
                self.refusals -= 1
                raise Unavailable("no primary")
            return super().save(results)

    leased = lease_payment()
    make_worker(Away(store, outbox, 60.0)).process(leased)
    assert stored(leased.payment.order_id)["status"] == "Captured"
    assert provider.calls == [("charge", key(leased))]


def test_the_sweep_takes_up_what_a_dead_process_left(
    make_worker, dying, other, provider, new_payment, stored, eventually
):
    left = [new_payment() for _ in range(5)]
    dying.insert(left, 3)
    rescuer = make_worker(other)
    rescuer.start()
    for payment in left:
        eventually(lambda payment=payment: stored(payment.order_id)["status"] == "Captured")
    assert sorted(asked for verb, asked in provider.calls if verb == "charge") == sorted(
        f"{payment.order_id}:1" for payment in left
    )
    # Asked by key first, where the dead process may have sent it.
    found = [asked for verb, asked in provider.calls if verb == "find"]
    assert sorted(found) == sorted(f"{payment.order_id}:1" for payment in left[:3])


def test_the_sweep_alone_pays_when_every_hint_is_lost(make_worker, payments, provider, created, stored, eventually):
    worker = make_worker(payments)
    worker.wake = lambda: None
    worker.capacity = lambda: 0
    batch = [created() for _ in range(10)]
    service_of(worker).on_orders_created(batch)
    assert provider.calls == []
    del worker.capacity
    worker.start()
    for event in batch:
        eventually(lambda event=event: stored(event.order_id)["status"] == "Captured")
    assert len(provider.calls) == 10


def test_a_sweep_is_woken_for_payments_without_a_lease_only(make_worker, payments, created):
    worker, woken = make_worker(payments), []
    worker.wake = lambda: woken.append(True)
    service_of(worker).on_orders_created([created()])
    assert woken == []
    worker.capacity = lambda: 0
    service_of(worker).on_orders_created([created()])
    assert woken == [True]


def test_work_that_another_process_recorded_is_swept_while_this_one_runs(
    make_worker, payments, other, provider, new_payment, stored, eventually
):
    worker = make_worker(payments)
    worker.start()
    payment = new_payment()
    other.insert([payment], 0)
    eventually(lambda: stored(payment.order_id)["status"] == "Captured")


def test_two_workers_share_the_work_and_call_once_for_each(
    make_worker, payments, other, provider, new_payment, database, eventually
):
    batch = [new_payment() for _ in range(60)]
    payments.insert(batch, 0)
    for repository in (payments, other):
        make_worker(repository, threads=4).start()
    eventually(lambda: database.payments.count_documents({"status": "Captured"}) == 60)
    assert sorted(provider.calls) == sorted(("charge", f"{payment.order_id}:1") for payment in batch)


def test_a_capture_that_is_refunded_goes_on_without_waiting_for_the_sweep(
    make_worker, payments, provider, created, cancel, stored, eventually, gate
):
    worker = make_worker(payments, interval=60.0)
    worker.start()
    event = created()
    provider.on_call = lambda verb, call: gate() if verb == "charge" else None
    service_of(worker).on_orders_created([event])
    assert gate.came.wait(60)
    cancel(worker, event.order_id)
    gate.open()
    eventually(lambda: stored(event.order_id)["status"] == "Refunded")


def test_a_lease_too_short_for_the_call_is_not_used(
    make_worker, store, outbox, payments, provider, new_payment, stored
):
    short = PaymentRepository(store, outbox, 4.0)
    worker = make_worker(short, timeout=5.0)
    payment = new_payment()
    capacity = worker.capacity()
    worker.submit(short.insert([payment], 1))
    worker.stop(10.0)
    assert provider.calls == []
    assert stored(payment.order_id)["status"] == "Processing"
    assert capacity > 0


def test_stopping_lets_the_running_call_end_and_releases_what_was_not_started(
    make_worker, payments, other, provider, created, stored, gate
):
    worker = make_worker(payments, threads=1)
    provider.on_call = gate
    batch = [created() for _ in range(4)]
    service_of(worker).on_orders_created(batch)
    assert gate.came.wait(60)
    stopping = in_thread(worker.stop, 20.0)
    while not worker.draining:
        stopping.join(0.01)
    gate.open()
    stopping.join(60.0)
    assert not stopping.is_alive()
    assert len(provider.calls) == 1
    docs = {event.order_id: stored(event.order_id) for event in batch}
    done = [doc for doc in docs.values() if doc["status"] == "Captured"]
    back = [doc for doc in docs.values() if doc["status"] == "Processing"]
    assert (len(done), len(back)) == (1, 3)
    for doc in back:
        assert (doc["retryCount"], "owner" in doc) == (0, False)
        assert doc["dueAt"] <= payments.now()
    assert len(other.claim(10)) == 3


def test_a_worker_that_stops_takes_nothing_more_up(make_worker, payments, provider, created, new_payment, stored):
    worker = make_worker(payments)
    worker.draining = True
    assert worker.capacity() == 0
    event = created()
    service_of(worker).on_orders_created([event])
    payments.insert([new_payment()], 0)
    assert worker.sweep() == 0
    assert provider.calls == []
    assert stored(event.order_id)["dueAt"] <= payments.now()


def test_what_is_cancelled_in_the_queue_of_a_worker_that_stops_does_not_spoil_the_stop(
    make_worker, payments, other, provider, created, cancel, gate
):
    worker = make_worker(payments, threads=1)
    provider.on_call = gate
    batch = [created() for _ in range(3)]
    service_of(worker).on_orders_created(batch)
    assert gate.came.wait(60)
    waiting = [event.order_id for event in batch if ("charge", f"{event.order_id}:1") not in provider.calls]
    cancel(worker, waiting[0])
    worker.draining = True
    gate.open()
    worker.stop(10.0)
    assert sorted(leased.payment.order_id for leased in other.claim(10)) == sorted(waiting)


def test_the_capacity_shrinks_while_payments_wait_for_their_turn(make_worker, payments, provider, new_payment, gate):
    worker = make_worker(payments, threads=1)
    provider.on_call = gate
    before = worker.capacity()
    worker.submit(payments.insert([new_payment() for _ in range(10)], 10))
    # Between the queue and its call, one of them is not counted.
    assert gate.came.wait(60)
    assert worker.capacity() == before - 10


def test_a_worker_of_slow_calls_takes_less_in_advance(make_worker, payments, provider, lease_payment):
    worker = make_worker(payments)
    before = worker.capacity()
    provider.on_call = lambda verb, call: time.sleep(0.2)
    worker.process(lease_payment())
    assert worker.capacity() < before / 2


def test_a_payment_with_nothing_to_ask_is_released(worker, payments, provider, lease_payment, database, stored):
    leased = lease_payment()
    worker.process(leased)
    done = stored(leased.payment.order_id)
    database.payments.update_one({"_id": done["_id"]}, {"$set": {"dueAt": leased.payment.requested_at}})
    [again] = payments.claim(10)
    worker.process(again)
    doc = stored(leased.payment.order_id)
    assert (doc["status"], doc["captured"], events(doc), "dueAt" in doc) == (
        "Captured",
        9900,
        ["PaymentCaptured"],
        False,
    )
    assert [verb for verb, _ in provider.calls] == ["charge"]


def test_the_events_of_an_order_are_numbered(worker, provider, lease_payment, cancel, take_up, stored):
    leased = lease_payment()
    worker.process(leased)
    cancel(worker, leased.payment.order_id)
    worker.process(take_up(leased.payment.order_id))
    assert [entry["sequence"] for entry in stored(leased.payment.order_id)["outbox"]] == [1, 2]


def test_a_decision_on_an_outdated_payment_is_not_written(payments, lease_payment):
    leased = lease_payment()
    policy = RetryPolicy(max_tries=1, horizon=1.0, key_life=2.0, backoff=1.0, backoff_max=1.0)
    results = ResultWriter(payments, policy)
    call = provider_calls.next_call(leased.payment)
    decision = provider_responses.apply_response(leased.payment, call, DECLINED, 0.0, policy, payments.now())
    result = ProviderResult(leased=leased, call=call, response=DECLINED)
    assert results.save(leased, decision, result) is True
    assert results.save(leased, decision, result) is False
    assert results.save(replace(leased, under_lease=False), decision) is False


def test_the_age_of_a_key_counts_from_its_first_call_whatever_comes_between(
    make_worker, payments, provider, lease_payment, take_up, cancel, stored, database
):
    """Unknown outcomes, a cancellation and even being parked leave it alone; a refund has a key of its own."""
    worker = make_worker(payments)
    provider.responses = [UNKNOWN] * 3
    leased = lease_payment()
    order_id = leased.payment.order_id
    begun = leased.key_sent_at - timedelta(minutes=30)
    database.payments.update_one({"_id": order_id}, {"$set": {"keySentAt": begun}})
    worker.process(payments.find(order_id))
    assert stored(order_id)["keySentAt"] == begun
    worker.process(take_up(order_id))
    worker.process(take_up(order_id))
    assert (stored(order_id)["status"], stored(order_id)["keySentAt"]) == ("Unknown", begun)
    cancel(worker, order_id)
    assert (stored(order_id)["status"], stored(order_id)["keySentAt"]) == ("Processing", begun)
    provider.responses = [ProviderResponse(code=ResponseCode.CAPTURED)]
    worker.process(take_up(order_id))
    assert stored(order_id)["status"] == "Refunding"
    assert not stored(order_id)["keySent"]
    take_up(order_id)
    assert stored(order_id)["keySentAt"] > begun + timedelta(minutes=29)


def test_a_call_that_times_out_is_recorded_as_unknown_and_its_late_response_discarded(
    make_worker, payments, provider, lease_payment, take_up, stored, eventually, gate, clock
):
    worker = make_worker(payments, timeout=TIMEOUT, threads=1, system=clock)
    provider.on_call = lambda verb, call: gate() if len(provider.calls) == 1 else None
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.submit([leased])
    assert gate.came.wait(60)
    clock.now += TOO_LONG
    eventually(lambda: worker.time_out_calls() or stored(order_id)["attempts"])
    doc = stored(order_id)
    assert (doc["status"], doc["attempts"][0]["answer"], "owner" in doc) == ("Processing", "unknown", False)
    gate.open()
    worker.stop(10.0)
    assert stored(order_id) == doc
    provider.found[key(leased)] = ProviderResponse(code=ResponseCode.CAPTURED, reference="ref-late")
    make_worker(payments).process(take_up(order_id))
    assert [verb for verb, _ in provider.calls] == ["charge", "find"]
    assert (stored(order_id)["status"], events(stored(order_id))) == ("Captured", ["PaymentCaptured"])


def test_a_call_that_is_cancelled_and_then_takes_too_long_is_voided(
    make_worker, payments, provider, lease_payment, cancel, take_up, stored, eventually, gate, clock
):
    worker = make_worker(payments, timeout=TIMEOUT, threads=1, system=clock)
    provider.on_call = lambda verb, call: gate() if len(provider.calls) == 1 else None
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.submit([leased])
    assert gate.came.wait(60)
    cancel(worker, order_id)
    clock.now += TOO_LONG
    eventually(lambda: worker.time_out_calls() or stored(order_id)["attempts"])
    make_worker(payments).process(take_up(order_id))
    assert provider.calls == [("charge", key(leased)), ("find", key(leased)), ("void", key(leased))]
    assert stored(order_id)["status"] == "Voided"
    gate.open()
    worker.stop(10.0)
    assert stored(order_id)["status"] == "Voided"


def test_a_users_payment_waits_for_no_more_than_one_of_another_users_queue(
    make_worker, payments, provider, created, stored, eventually, gate
):
    order = []
    provider.on_call = lambda verb, call: gate() if len(provider.calls) == 1 else order.append(call.order_id)
    worker = make_worker(payments, threads=1)
    crowd = [created(user_id="crowd") for _ in range(20)]
    service_of(worker).on_orders_created(crowd)
    assert gate.came.wait(60)
    single = created(user_id="single")
    service_of(worker).on_orders_created([single])
    gate.open()
    eventually(lambda: stored(single.order_id)["status"] == "Captured")
    assert order.index(single.order_id) <= 1


def test_one_user_cannot_fill_the_queue_of_a_slow_provider(make_worker, payments, new_payment):
    worker = make_worker(payments, threads=4)
    worker._mean_seconds = 0.05
    taken, _ = worker._split([new_payment(user_id="crowd") for _ in range(300)])
    assert 0 < len(taken) < worker.capacity()
    worker._queue.put(payments.insert(taken[:1], 1)[0])
    both = [*(new_payment(user_id="crowd") for _ in range(300)), new_payment(user_id="single")]
    taken, _ = worker._split(both)
    assert taken[-1].user_id == "single"
    worker._queue.clear()


def test_when_one_call_may_find_out_it_is_for_a_payment_that_has_not_failed(
    make_worker, payments, provider, new_payment, stored
):
    provider.responses = [UNKNOWN] * 10
    worker = make_worker(payments, threads=1, recovery=0.0)
    failed = payments.insert([new_payment() for _ in range(10)], 10)
    for leased in failed:
        worker.process(leased)
    payments.release(failed)
    fresh = new_payment()
    payments.insert([fresh], 0)
    assert worker.capacity() == 1
    [claimed] = payments.claim(1, untried_first=True)
    assert claimed.payment.order_id == fresh.order_id


def test_calls_that_hang_hold_up_no_others(make_worker, payments, provider, created, stored, eventually, gate, clock):
    batch = [created() for _ in range(6)]
    stuck, hanging = {f"{event.order_id}:1" for event in batch[:2]}, []
    provider.on_call = lambda verb, call: (hanging.append(call) or gate()) if call.key in stuck else None
    worker = make_worker(payments, timeout=TIMEOUT, threads=2, system=clock)
    worker.start()
    service_of(worker).on_orders_created(batch)
    eventually(lambda: len(hanging) == 2)
    clock.now += TOO_LONG
    for event in batch[2:]:
        eventually(lambda event=event: stored(event.order_id)["status"] == "Captured")
    eventually(lambda: all(stored(event.order_id)["attempts"] for event in batch))
    assert worker.hung == 2
    assert worker.capacity() >= 2
    more = [created() for _ in range(3)]
    service_of(worker).on_orders_created(more)
    for event in more:
        eventually(lambda event=event: stored(event.order_id)["status"] == "Captured")
    gate.open()
    eventually(lambda: worker.hung == 0)


def test_a_call_that_returns_after_its_timeout_opens_no_second_call_slot(
    make_worker, payments, provider, created, stored, eventually, gate, clock
):
    under_way, most = [], []

    def count(verb, call):
        under_way.append(call)
        if len(provider.calls) == 1:
            gate()
        else:
            most.append(len(under_way))
            time.sleep(0.05)
        under_way.remove(call)

    provider.on_call = count
    worker = make_worker(payments, timeout=TIMEOUT, threads=1, system=clock)
    late = created()
    service_of(worker).on_orders_created([late])
    assert gate.came.wait(60)
    clock.now += TOO_LONG
    eventually(lambda: worker.time_out_calls() or worker.hung)
    gate.open()
    eventually(lambda: not worker.hung and not under_way)
    events = [created() for _ in range(6)]
    for event in events:
        worker.submit(payments.insert([domain.open_payment(event, CAPABILITIES)], 1))
    for event in events:
        eventually(lambda event=event: stored(event.order_id)["status"] == "Captured")
    assert max(most) == 1


def test_a_worker_whose_calls_hang_beyond_its_threads_is_not_alive_until_they_come_back(
    make_worker, payments, provider, created, eventually, gate, clock
):
    provider.on_call = lambda verb, call: gate()
    worker = make_worker(payments, timeout=TIMEOUT, threads=16, system=clock)
    worker.start()
    watchdog = Watchdog(limit=60.0)
    service_of(worker).on_orders_created([created() for _ in range(16)])
    eventually(lambda: len(provider.calls) == 16)
    clock.now += TOO_LONG
    eventually(lambda: [one.name for one in watchdog.failing(worker.heartbeats)] == ["payments-calls"])
    assert (worker.hung, worker.capacity()) == (16, 0)
    gate.open()
    eventually(lambda: watchdog.failing(worker.heartbeats) == [])


def test_an_error_that_nothing_expects_during_a_call_costs_no_call_slot(
    make_worker, payments, provider, created, stored, eventually
):
    def end_the_thread(verb, call):
        if len(provider.calls) <= 4:
            raise SystemExit

    provider.on_call = end_the_thread
    worker = make_worker(payments, threads=2)
    worker.start()
    service_of(worker).on_orders_created([created() for _ in range(4)])
    eventually(lambda: len(provider.calls) == 4)
    event = created()
    service_of(worker).on_orders_created([event])
    eventually(lambda: stored(event.order_id)["status"] == "Captured")
    assert worker.hung == 0


def test_a_provider_that_keeps_failing_is_left_alone_for_a_while(make_worker, payments, provider, new_payment, stored):
    provider.responses = [UNKNOWN] * 20
    worker = make_worker(payments, threads=1)
    batch = payments.insert([new_payment() for _ in range(12)], 12)
    for leased in batch:
        worker.process(leased)
    assert len(provider.calls) == 10
    assert worker.capacity() == 0
    for leased in batch[10:]:
        doc = stored(leased.payment.order_id)
        assert (doc["status"], doc["retryCount"], "dueAt" in doc) == ("Processing", 0, True)
    assert worker.sweep() == 0


def test_stopping_releases_at_once_what_was_not_started_though_a_call_still_runs(
    make_worker, payments, other, provider, created, database, eventually, gate
):
    """A provider that hangs must not keep the payments behind it from other workers."""
    worker = make_worker(payments, threads=1)
    provider.on_call = gate
    service_of(worker).on_orders_created([created() for _ in range(5)])
    assert gate.came.wait(60)
    stopping = in_thread(worker.stop, 30.0)
    eventually(lambda: database.payments.count_documents({"owner": {"$exists": True}}) == 1, 60.0)
    assert stopping.is_alive()
    claimed = []
    eventually(lambda: claimed.extend(other.claim(10)) or len(claimed) == 4)
    gate.open()
    stopping.join(60.0)
    assert database.payments.count_documents({"status": "Captured"}) == 1


def test_payments_that_fail_together_are_not_repeated_together(make_worker, payments, provider, new_payment, stored):
    """Their pauses lie between half and all of what was decided, each elsewhere."""
    worker = make_worker(payments, failures=100)
    batch = payments.insert([new_payment() for _ in range(20)], 20)
    provider.responses = [UNKNOWN] * 9 + [None] + [UNKNOWN] * 9 + [None]
    for leased in batch:
        worker.process(leased)
    waiting = [doc for leased in batch if (doc := stored(leased.payment.order_id))["status"] == "Processing"]
    pauses = [(doc["dueAt"] - doc["attempts"][-1]["at"]).total_seconds() for doc in waiting]
    assert len(pauses) == 18
    assert all(50.0 <= pause <= 101.0 for pause in pauses)
    assert max(pauses) - min(pauses) > 1.0


def test_a_look_up_that_took_too_long_is_followed_by_no_call_though_no_sweep_has_noticed(
    make_worker, payments, provider, lease_payment, take_up, stored, clock
):
    """Its lease may be over, and an operator may have settled the payment."""
    provider.responses = [UNKNOWN]
    leased = lease_payment()
    make_worker(payments).process(leased)
    provider.on_call = lambda verb, call: setattr(clock, "now", StoppedClock.now + TOO_LONG)
    make_worker(payments, timeout=TIMEOUT, system=clock).process(take_up(leased.payment.order_id))
    assert [verb for verb, _ in provider.calls] == ["charge", "find"]
    assert stored(leased.payment.order_id)["status"] == "Processing"


def test_a_call_that_timed_out_while_it_looked_for_the_key_sends_nothing_more(
    make_worker, payments, provider, lease_payment, take_up, eventually, gate, clock, stored
):
    """What it would send now, another worker may have sent long ago."""
    provider.responses = [UNKNOWN]
    leased = lease_payment()
    make_worker(payments).process(leased)
    worker = make_worker(payments, timeout=TIMEOUT, threads=1, system=clock)
    provider.on_call = lambda verb, call: gate() if verb == "find" else None
    worker.submit([take_up(leased.payment.order_id)])
    assert gate.came.wait(60)
    clock.now += TOO_LONG
    eventually(lambda: worker.time_out_calls() or len(stored(leased.payment.order_id)["attempts"]) == 2)
    gate.open()
    worker.stop(10.0)
    assert [verb for verb, _ in provider.calls] == ["charge", "find"]
