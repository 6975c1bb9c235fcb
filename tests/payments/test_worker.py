"""The worker: on record before it calls, the same key on every try, nothing written without the lease."""

import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from app.contracts.base import Unavailable
from app.contracts.payments import PaymentCaptured, PaymentParked
from app.messaging.outbox import decode_event
from app.observability.supervision import Watchdog
from app.payments import payment as domain
from app.payments import service
from app.payments.payment import ProviderResponse, ResponseCode, RetryPolicy, Status
from app.payments.repository import PaymentRepository
from app.payments.results import Settler

UNKNOWN = ProviderResponse(answer=ResponseCode.UNKNOWN, reason="no answer in time")
NOT_ATTEMPTED = ProviderResponse(answer=ResponseCode.NOT_ATTEMPTED, reason="refused the connection")
DECLINED = ProviderResponse(answer=ResponseCode.DECLINED, reason="no cover")


def events(doc):
    return [entry["type"] for entry in doc["outbox"]]


def key(held):
    return f"{held.payment.order_id}:1"


def in_thread(work, *args):
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def test_a_payment_is_on_record_with_its_attempt_and_lease_before_the_provider_is_called(
    worker, payments, provider, created, database, eventually
):
    seen = []
    provider.watch = lambda verb, call: seen.append((verb, call.key, database.payments.find_one(call.order_id)))
    event = created()
    service.on_orders_created([event], payments, worker)
    eventually(lambda: payments.find(event.order_id).payment.status == Status.CAPTURED)
    [(verb, asked, doc)] = seen
    assert (verb, asked) == ("charge", f"{event.order_id}:1")
    assert (doc["status"], doc["sent"], doc["attempt"], doc["tries"]) == ("Processing", True, 1, 1)
    assert doc["total"] == {"value": 9900, "currency": "MYR"}
    assert doc["owner"]
    assert doc["dueAt"] > payments.now() + timedelta(seconds=30)


def test_a_repeated_call_is_on_record_before_it_is_made_too(worker, payments, provider, leased, take_up, database):
    provider.answers = [UNKNOWN]
    held = leased()
    worker.work(held)
    again = take_up(held.payment.order_id)
    seen = []
    provider.watch = lambda verb, call: seen.append((verb, database.payments.find_one(call.order_id)))
    worker.work(again)
    assert [verb for verb, _ in seen] == ["find", "charge"]
    for _, doc in seen:
        assert (doc["attempt"], doc["tries"], doc["dueAt"]) == (2, 2, again.lease_end)


def test_a_capture_is_recorded_with_its_event_and_its_log(worker, provider, leased, stored):
    held = leased()
    worker.work(held)
    doc = stored(held.payment.order_id)
    assert (doc["status"], doc["captured"], doc["reference"]) == ("Captured", 9900, f"ref-{key(held)}")
    assert not {"dueAt", "owner"} & set(doc)
    [event] = [decode_event(entry) for entry in doc["outbox"]]
    assert isinstance(event, PaymentCaptured)
    assert (event.order_id, event.sequence, event.request_id) == (held.payment.order_id, 1, "r-create")
    assert event.reference == f"ref-{key(held)}"
    [line] = doc["attempts"]
    assert (line["attempt"], line["call"], line["key"], line["answer"]) == (1, "charge", key(held), "captured")


def test_a_decline_is_recorded_with_its_reason(worker, provider, leased, stored):
    provider.answers = [DECLINED]
    held = leased()
    worker.work(held)
    doc = stored(held.payment.order_id)
    assert (doc["status"], doc["captured"], "dueAt" in doc) == ("Declined", 0, False)
    assert (doc["outbox"][0]["type"], doc["outbox"][0]["reason"]) == ("PaymentDeclined", "no cover")


@pytest.mark.parametrize("trouble", [UNKNOWN, NOT_ATTEMPTED, TimeoutError("no answer"), RuntimeError("a bug")])
def test_an_unsettled_call_is_asked_for_and_sent_again_with_the_same_key(
    worker, provider, leased, take_up, stored, payments, trouble
):
    provider.answers = [trouble, trouble]
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    doc = stored(order_id)
    assert (doc["status"], events(doc), "owner" in doc) == ("Processing", [], False)
    assert timedelta(seconds=40) < doc["dueAt"] - payments.now() <= timedelta(seconds=100)
    worker.work(take_up(order_id))
    worker.work(take_up(order_id))
    assert provider.asked == [("charge", key(held)), *[("find", key(held)), ("charge", key(held))] * 2]
    doc = stored(order_id)
    assert (doc["status"], events(doc), doc["attempt"]) == ("Captured", ["PaymentCaptured"], 3)
    assert [line["attempt"] for line in doc["attempts"]] == [1, 2, 3]


def test_what_the_provider_knows_of_is_not_sent_again(worker, provider, leased, take_up, stored):
    provider.answers = [UNKNOWN]
    held = leased()
    worker.work(held)
    provider.books[key(held)] = ProviderResponse(answer=ResponseCode.CAPTURED, reference="ref-found")
    worker.work(take_up(held.payment.order_id))
    assert provider.asked == [("charge", key(held)), ("find", key(held))]
    doc = stored(held.payment.order_id)
    assert (doc["status"], doc["reference"]) == ("Captured", "ref-found")


def test_what_the_provider_cannot_tell_at_the_moment_is_not_sent_either(worker, provider, leased, take_up, stored):
    provider.answers = [UNKNOWN]
    held = leased()
    worker.work(held)
    provider.books[key(held)] = UNKNOWN
    worker.work(take_up(held.payment.order_id))
    assert provider.asked == [("charge", key(held)), ("find", key(held))]
    assert "dueAt" in stored(held.payment.order_id)


def test_a_lost_answer_of_a_find_is_an_unknown_outcome_like_any_other(worker, provider, leased, take_up, stored):
    provider.answers = [UNKNOWN]
    held = leased()
    worker.work(held)

    def fail(verb, call):
        if verb == "find":
            raise TimeoutError

    provider.watch = fail
    worker.work(take_up(held.payment.order_id))
    assert [verb for verb, _ in provider.asked] == ["charge", "find"]
    assert (stored(held.payment.order_id)["status"], "dueAt" in stored(held.payment.order_id)) == ("Processing", True)


def test_after_the_last_try_a_payment_is_parked_in_view(worker, provider, leased, take_up, stored, payments):
    provider.answers = [UNKNOWN] * 9
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    worker.work(take_up(order_id))
    assert events(stored(order_id)) == []
    worker.work(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], doc["parked"], "dueAt" in doc) == ("Unknown", "no answer in time", False)
    [event] = [decode_event(entry) for entry in doc["outbox"]]
    assert isinstance(event, PaymentParked)
    assert (event.reason, event.sequence) == ("no answer in time", 1)
    assert [verb for verb, _ in provider.asked] == ["charge", "find", "charge", "find", "charge"]
    assert payments.claim(10) == []


def test_at_the_horizon_a_payment_is_parked_however_few_its_tries(worker, provider, leased, take_up, stored, database):
    provider.answers = [UNKNOWN] * 9
    held = leased()
    worker.work(held)
    long_ago = held.key_sent_at - timedelta(hours=1)
    database.payments.update_one({"_id": held.payment.order_id}, {"$set": {"keySentAt": long_ago}})
    worker.work(take_up(held.payment.order_id))
    assert (stored(held.payment.order_id)["status"], stored(held.payment.order_id)["tries"]) == ("Unknown", 2)


def test_a_payment_that_outlives_every_process_is_parked_without_another_call(
    worker, dying, payments, provider, new_payment, stored
):
    payment = new_payment()
    dying.record([payment], 1)
    for _ in range(2):
        assert len(dying.claim(10)) == 1
    [held] = payments.claim(10)
    assert held.payment.tries == 4
    worker.work(held)
    assert provider.asked == []
    assert (stored(payment.order_id)["status"], events(stored(payment.order_id))) == ("Unknown", ["PaymentParked"])


def test_a_parked_payment_that_is_cancelled_is_called_off(worker, provider, leased, take_up, cancel, stored):
    provider.answers = [UNKNOWN] * 3
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    worker.work(take_up(order_id))
    worker.work(take_up(order_id))
    cancel(worker, order_id)
    worker.work(take_up(order_id))
    assert provider.asked[-2:] == [("find", key(held)), ("void", key(held))]
    assert (stored(order_id)["status"], events(stored(order_id))) == ("Voided", ["PaymentParked", "PaymentVoided"])


def test_cancelled_before_anything_was_sent_it_is_voided_without_a_call(
    worker, payments, provider, new_payment, cancel, stored
):
    payment = new_payment()
    payments.record([payment], 0)
    cancel(worker, payment.order_id)
    doc = stored(payment.order_id)
    assert (doc["status"], events(doc), "dueAt" in doc) == ("Voided", ["PaymentVoided"], False)
    assert payments.claim(10) == []
    assert provider.asked == []


def test_cancelled_while_it_waits_for_another_try_it_is_voided(worker, provider, leased, take_up, cancel, stored):
    provider.answers = [UNKNOWN]
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    cancel(worker, order_id)
    assert stored(order_id)["cancelled"]
    worker.work(take_up(order_id))
    assert provider.asked == [("charge", key(held)), ("find", key(held)), ("void", key(held))]
    assert (stored(order_id)["status"], events(stored(order_id))) == ("Voided", ["PaymentVoided"])


def test_cancelled_after_the_capture_it_is_refunded_once(worker, provider, leased, take_up, cancel, stored, payments):
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    for sequence in (2, 2, 3):
        cancel(worker, order_id, sequence=sequence)
    worker.work(take_up(order_id))
    refund_key = f"{key(held)}:refund:cancel"
    assert provider.asked == [("charge", key(held)), ("find", refund_key), ("refund", refund_key)]
    doc = stored(order_id)
    assert (doc["status"], events(doc)) == ("Refunded", ["PaymentCaptured", "PaymentRefunded"])
    assert (doc["outbox"][1]["refund_value"], doc["outbox"][1]["refunded_total"]) == (9900, 9900)
    cancel(worker, order_id, sequence=4)
    assert payments.claim(10) == []
    assert len(stored(order_id)["refunds"]) == 1


def test_cancelled_while_it_is_charged_it_is_refunded_exactly_once(
    worker, provider, leased, cancel, take_up, stored, gate, payments
):
    held = leased()
    order_id = held.payment.order_id
    provider.watch = gate
    running = in_thread(worker.work, held)
    assert gate.came.wait(10)
    cancel(worker, order_id)
    doc = stored(order_id)
    assert (doc["cancelled"], doc["status"], doc["dueAt"], events(doc)) == (True, "Processing", held.lease_end, [])
    gate.open()
    running.join(10)
    doc = stored(order_id)
    assert (doc["status"], doc["captured"], events(doc)) == ("Refunding", 9900, ["PaymentCaptured"])
    worker.work(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], events(doc)) == ("Refunded", ["PaymentCaptured", "PaymentRefunded"])
    assert doc["refunds"] == [{"refund_id": "cancel", "value": 9900, "done": True}]
    assert [verb for verb, _ in provider.asked] == ["charge", "find", "refund"]
    assert payments.claim(10) == []


@pytest.mark.parametrize(
    ("outcome", "status", "told"),
    [
        (DECLINED, "Declined", ["PaymentDeclined"]),
        (ProviderResponse(answer=ResponseCode.VOIDED), "Voided", ["PaymentVoided"]),
    ],
)
def test_cancelled_while_it_is_charged_and_not_captured_nothing_is_refunded(
    worker, provider, leased, cancel, stored, gate, payments, outcome, status, told
):
    held = leased()
    provider.watch, provider.answers = gate, [outcome]
    running = in_thread(worker.work, held)
    assert gate.came.wait(10)
    cancel(worker, held.payment.order_id)
    gate.open()
    running.join(10)
    doc = stored(held.payment.order_id)
    assert (doc["status"], events(doc), doc["refunds"]) == (status, told, [])
    assert payments.claim(10) == []


def test_cancelled_while_it_is_charged_with_an_unknown_outcome_it_is_voided(
    worker, provider, leased, cancel, take_up, stored, gate
):
    held = leased()
    provider.watch, provider.answers = gate, [UNKNOWN]
    running = in_thread(worker.work, held)
    assert gate.came.wait(10)
    cancel(worker, held.payment.order_id)
    gate.open()
    running.join(10)
    assert (stored(held.payment.order_id)["status"], events(stored(held.payment.order_id))) == ("Processing", [])
    worker.work(take_up(held.payment.order_id))
    assert provider.asked == [("charge", key(held)), ("find", key(held)), ("void", key(held))]
    assert stored(held.payment.order_id)["status"] == "Voided"


def test_a_void_that_comes_too_late_gives_the_money_back(worker, provider, leased, cancel, take_up, stored):
    provider.answers = [UNKNOWN, ProviderResponse(answer=ResponseCode.CAPTURED, reference="ref-late")]
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    cancel(worker, order_id)
    worker.work(take_up(order_id))
    assert (stored(order_id)["status"], stored(order_id)["captured"]) == ("Refunding", 9900)
    worker.work(take_up(order_id))
    assert [verb for verb, _ in provider.asked] == ["charge", "find", "void", "find", "refund"]
    assert (stored(order_id)["status"], events(stored(order_id))) == (
        "Refunded",
        ["PaymentCaptured", "PaymentRefunded"],
    )


def test_a_refund_with_an_unknown_outcome_is_repeated_with_its_key(worker, provider, leased, cancel, take_up, stored):
    provider.answers = [None, UNKNOWN, TimeoutError()]
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    cancel(worker, order_id)
    for _ in range(3):
        worker.work(take_up(order_id))
    refund_key = f"{key(held)}:refund:cancel"
    assert provider.asked[1:] == [("find", refund_key), ("refund", refund_key)] * 3
    assert (stored(order_id)["status"], events(stored(order_id))) == (
        "Refunded",
        ["PaymentCaptured", "PaymentRefunded"],
    )


def test_who_loses_the_lease_during_the_call_writes_nothing(
    make_worker, dying, other, provider, new_payment, stored, gate
):
    """The lease ends while the provider is slow; another worker asks by key first, finds, and settles."""
    payment = new_payment()
    [held] = dying.record([payment], 1)
    first_key = f"{payment.order_id}:1"
    provider.watch = lambda verb, call: gate() if verb == "charge" else None
    provider.answers = [DECLINED]
    slow = in_thread(make_worker(dying).work, held)
    assert gate.came.wait(10)
    provider.books[first_key] = ProviderResponse(answer=ResponseCode.CAPTURED, reference="ref-1")
    [again] = other.claim(10)
    make_worker(other).work(again)
    assert provider.asked == [("charge", first_key), ("find", first_key)]
    settled = stored(payment.order_id)
    assert (settled["status"], settled["attempt"]) == ("Captured", 2)
    gate.open()
    slow.join(10)
    assert stored(payment.order_id) == settled


def test_who_loses_the_lease_to_a_worker_that_is_still_calling_writes_nothing(
    make_worker, dying, other, provider, new_payment, stored
):
    payment = new_payment()
    [held] = dying.record([payment], 1)
    other.claim(10)
    before = stored(payment.order_id)
    make_worker(dying).work(held)
    assert provider.asked == [("charge", f"{payment.order_id}:1")]
    assert stored(payment.order_id) == before


def test_a_result_is_recorded_once_though_the_database_forgets_to_say_so(
    make_worker, store, outbox, payments, provider, leased, stored
):
    """The answer to the first write is lost: repeated, it must not book the capture a second time."""

    class Forgetful(PaymentRepository):
        forgot = False

        def settle(self, results):
            done = super().settle(results)
            if not self.forgot:
                self.forgot = True
                raise Unavailable("the answer was lost")
            return done

    held = leased()
    make_worker(Forgetful(store, outbox, 60.0)).work(held)
    doc = stored(held.payment.order_id)
    assert (doc["status"], doc["captured"], events(doc)) == ("Captured", 9900, ["PaymentCaptured"])
    assert len(doc["attempts"]) == 1


def test_a_result_is_recorded_once_though_the_order_is_cancelled_right_after(
    make_worker, store, outbox, payments, provider, leased, cancel, worker, take_up, stored
):
    """Cancelled between the write and the answer to it: the money goes back once, not twice."""

    class Outrun(PaymentRepository):
        outrun = False

        def settle(self, results):
            done = super().settle(results)
            if not self.outrun:
                self.outrun = True
                cancel(worker, results[0].before.payment.order_id)
                return [False]
            return done

    held = leased()
    make_worker(Outrun(store, outbox, 60.0)).work(held)
    doc = stored(held.payment.order_id)
    assert (doc["status"], doc["captured"], events(doc)) == ("Refunding", 9900, ["PaymentCaptured"])
    assert [refund["value"] for refund in doc["refunds"]] == [9900]
    worker.work(take_up(held.payment.order_id))
    doc = stored(held.payment.order_id)
    assert (doc["status"], sum(refund["value"] for refund in doc["refunds"])) == ("Refunded", 9900)


def test_a_result_waits_while_the_database_is_away(make_worker, store, outbox, payments, provider, leased, stored):
    class Away(PaymentRepository):
        refusals = 2

        def settle(self, results):
            if self.refusals:
                self.refusals -= 1
                raise Unavailable("no primary")
            return super().settle(results)

    held = leased()
    make_worker(Away(store, outbox, 60.0)).work(held)
    assert stored(held.payment.order_id)["status"] == "Captured"
    assert provider.asked == [("charge", key(held))]


def test_the_sweep_takes_up_what_a_dead_process_left(
    make_worker, dying, other, provider, new_payment, stored, eventually
):
    left = [new_payment() for _ in range(5)]
    dying.record(left, 3)
    rescuer = make_worker(other)
    rescuer.start()
    for payment in left:
        eventually(lambda payment=payment: stored(payment.order_id)["status"] == "Captured")
    assert sorted(asked for verb, asked in provider.asked if verb == "charge") == sorted(
        f"{payment.order_id}:1" for payment in left
    )
    # Asked by key first, where the dead process may have sent it.
    found = [asked for verb, asked in provider.asked if verb == "find"]
    assert sorted(found) == sorted(f"{payment.order_id}:1" for payment in left[:3])


def test_the_sweep_alone_pays_when_every_hint_is_lost(make_worker, payments, provider, created, stored, eventually):
    worker = make_worker(payments)
    worker.prompt = lambda: None
    worker.room = lambda: 0
    batch = [created() for _ in range(10)]
    service.on_orders_created(batch, payments, worker)
    assert provider.asked == []
    del worker.room
    worker.start()
    for event in batch:
        eventually(lambda event=event: stored(event.order_id)["status"] == "Captured")
    assert len(provider.asked) == 10


def test_work_that_another_process_recorded_is_swept_while_this_one_runs(
    make_worker, payments, other, provider, new_payment, stored, eventually
):
    worker = make_worker(payments)
    worker.start()
    payment = new_payment()
    other.record([payment], 0)
    eventually(lambda: stored(payment.order_id)["status"] == "Captured")


def test_two_workers_share_the_work_and_call_once_for_each(
    make_worker, payments, other, provider, new_payment, database, eventually
):
    batch = [new_payment() for _ in range(60)]
    payments.record(batch, 0)
    for repository in (payments, other):
        make_worker(repository, threads=4).start()
    eventually(lambda: database.payments.count_documents({"status": "Captured"}) == 60)
    assert sorted(provider.asked) == sorted(("charge", f"{payment.order_id}:1") for payment in batch)


def test_a_capture_that_is_refunded_goes_on_without_waiting_for_the_sweep(
    make_worker, payments, provider, created, cancel, stored, eventually, gate
):
    worker = make_worker(payments, interval=60.0)
    worker.start()
    event = created()
    provider.watch = lambda verb, call: gate() if verb == "charge" else None
    service.on_orders_created([event], payments, worker)
    assert gate.came.wait(10)
    cancel(worker, event.order_id)
    gate.open()
    eventually(lambda: stored(event.order_id)["status"] == "Refunded")


def test_a_lease_too_short_for_the_call_is_not_used(
    make_worker, store, outbox, payments, provider, new_payment, stored
):
    short = PaymentRepository(store, outbox, 4.0)
    worker = make_worker(short, timeout=5.0)
    payment = new_payment()
    room = worker.room()
    worker.offer(short.record([payment], 1))
    worker.stop(10.0)
    assert provider.asked == []
    assert stored(payment.order_id)["status"] == "Processing"
    assert room > 0


def test_stopping_lets_the_running_call_end_and_gives_back_what_was_not_begun(
    make_worker, payments, other, provider, created, stored, gate
):
    worker = make_worker(payments, threads=1)
    provider.watch = gate
    batch = [created() for _ in range(4)]
    service.on_orders_created(batch, payments, worker)
    assert gate.came.wait(10)
    stopping = in_thread(worker.stop, 20.0)
    while not worker.draining:
        stopping.join(0.01)
    gate.open()
    stopping.join(20)
    assert not stopping.is_alive()
    assert len(provider.asked) == 1
    docs = {event.order_id: stored(event.order_id) for event in batch}
    done = [doc for doc in docs.values() if doc["status"] == "Captured"]
    back = [doc for doc in docs.values() if doc["status"] == "Processing"]
    assert (len(done), len(back)) == (1, 3)
    for doc in back:
        assert (doc["tries"], "owner" in doc) == (0, False)
        assert doc["dueAt"] <= payments.now()
    assert len(other.claim(10)) == 3


def test_a_worker_that_stops_takes_nothing_more_up(make_worker, payments, provider, created, new_payment, stored):
    worker = make_worker(payments)
    worker.draining = True
    assert worker.room() == 0
    event = created()
    service.on_orders_created([event], payments, worker)
    payments.record([new_payment()], 0)
    assert worker.sweep() == 0
    assert provider.asked == []
    assert stored(event.order_id)["dueAt"] <= payments.now()


def test_what_is_cancelled_in_the_queue_of_a_worker_that_stops_does_not_spoil_the_stop(
    make_worker, payments, other, provider, created, cancel, gate
):
    worker = make_worker(payments, threads=1)
    provider.watch = gate
    batch = [created() for _ in range(3)]
    service.on_orders_created(batch, payments, worker)
    assert gate.came.wait(10)
    waiting = [event.order_id for event in batch if ("charge", f"{event.order_id}:1") not in provider.asked]
    cancel(worker, waiting[0])
    worker.draining = True
    gate.open()
    worker.stop(10.0)
    assert sorted(held.payment.order_id for held in other.claim(10)) == sorted(waiting)


def test_room_shrinks_while_payments_wait_for_their_turn(make_worker, payments, provider, new_payment, gate):
    worker = make_worker(payments, threads=1)
    provider.watch = gate
    before = worker.room()
    worker.offer(payments.record([new_payment() for _ in range(10)], 10))
    assert worker.room() == before - 10


def test_a_worker_of_slow_calls_takes_less_in_advance(make_worker, payments, provider, leased):
    worker = make_worker(payments)
    before = worker.room()
    provider.watch = lambda verb, call: time.sleep(0.2)
    worker.work(leased())
    assert worker.room() < before / 2


def test_a_payment_with_nothing_to_ask_is_let_go(worker, payments, provider, leased, database, stored):
    held = leased()
    worker.work(held)
    done = stored(held.payment.order_id)
    database.payments.update_one({"_id": done["_id"]}, {"$set": {"dueAt": held.first_at}})
    [again] = payments.claim(10)
    worker.work(again)
    doc = stored(held.payment.order_id)
    assert (doc["status"], doc["captured"], events(doc), "dueAt" in doc) == (
        "Captured",
        9900,
        ["PaymentCaptured"],
        False,
    )
    assert [verb for verb, _ in provider.asked] == ["charge"]


def test_a_settler_counts_what_it_has_to_say_of_an_order(worker, provider, leased, cancel, take_up, stored):
    held = leased()
    worker.work(held)
    cancel(worker, held.payment.order_id)
    worker.work(take_up(held.payment.order_id))
    assert [entry["sequence"] for entry in stored(held.payment.order_id)["outbox"]] == [1, 2]


def test_a_change_out_of_date_is_refused(payments, leased):
    held = leased()
    settler = Settler(payments)
    patience = RetryPolicy(tries=1, horizon=1.0, key_life=2.0, backoff=1.0, backoff_max=1.0)
    change = domain.answered(held.payment, domain.next_call(held.payment), DECLINED, 0.0, patience)
    assert settler.record(held, change, {"attempt": 1}) is True
    assert settler.record(held, change, {"attempt": 1}) is False
    assert settler.record(replace(held, owned=False), change) is False


def test_the_age_of_a_key_counts_from_its_first_call_whatever_comes_between(
    make_worker, payments, provider, leased, take_up, cancel, stored, database
):
    """Unknown outcomes, a cancellation and even being parked leave it alone; a refund has a key of its own."""
    worker = make_worker(payments)
    provider.answers = [UNKNOWN] * 3
    held = leased()
    order_id = held.payment.order_id
    begun = held.key_sent_at - timedelta(minutes=30)
    database.payments.update_one({"_id": order_id}, {"$set": {"keySentAt": begun}})
    worker.work(payments.find(order_id))
    assert stored(order_id)["keySentAt"] == begun
    worker.work(take_up(order_id))
    worker.work(take_up(order_id))
    assert (stored(order_id)["status"], stored(order_id)["keySentAt"]) == ("Unknown", begun)
    cancel(worker, order_id)
    assert (stored(order_id)["status"], stored(order_id)["keySentAt"]) == ("Processing", begun)
    provider.answers = [ProviderResponse(answer=ResponseCode.CAPTURED)]
    worker.work(take_up(order_id))
    assert stored(order_id)["status"] == "Refunding"
    assert not stored(order_id)["sent"]
    take_up(order_id)
    assert stored(order_id)["keySentAt"] > begun + timedelta(minutes=29)


def test_a_call_that_takes_too_long_is_settled_as_unknown_and_its_answer_ignored(
    make_worker, payments, provider, leased, take_up, stored, eventually, gate
):
    worker = make_worker(payments, timeout=0.05, threads=1)
    provider.watch = lambda verb, call: gate() if len(provider.asked) == 1 else None
    held = leased()
    order_id = held.payment.order_id
    worker.offer([held])
    assert gate.came.wait(10)
    eventually(lambda: worker.take_over() or stored(order_id)["attempts"])
    doc = stored(order_id)
    assert (doc["status"], doc["attempts"][0]["answer"], "owner" in doc) == ("Processing", "unknown", False)
    gate.open()
    worker.stop(10.0)
    assert stored(order_id) == doc
    provider.books[key(held)] = ProviderResponse(answer=ResponseCode.CAPTURED, reference="ref-late")
    make_worker(payments).work(take_up(order_id))
    assert [verb for verb, _ in provider.asked] == ["charge", "find"]
    assert (stored(order_id)["status"], events(stored(order_id))) == ("Captured", ["PaymentCaptured"])


def test_a_call_that_is_cancelled_and_then_takes_too_long_is_voided(
    make_worker, payments, provider, leased, cancel, take_up, stored, eventually, gate
):
    worker = make_worker(payments, timeout=0.05, threads=1)
    provider.watch = lambda verb, call: gate() if len(provider.asked) == 1 else None
    held = leased()
    order_id = held.payment.order_id
    worker.offer([held])
    assert gate.came.wait(10)
    cancel(worker, order_id)
    eventually(lambda: worker.take_over() or stored(order_id)["attempts"])
    make_worker(payments).work(take_up(order_id))
    assert provider.asked == [("charge", key(held)), ("find", key(held)), ("void", key(held))]
    assert stored(order_id)["status"] == "Voided"
    gate.open()
    worker.stop(10.0)
    assert stored(order_id)["status"] == "Voided"


def test_a_users_payment_waits_for_no_more_than_one_of_another_users_queue(
    make_worker, payments, provider, created, stored, eventually, gate
):
    order = []
    provider.watch = lambda verb, call: gate() if len(provider.asked) == 1 else order.append(call.order_id)
    worker = make_worker(payments, threads=1)
    crowd = [created(user_id="crowd") for _ in range(20)]
    service.on_orders_created(crowd, payments, worker)
    assert gate.came.wait(10)
    single = created(user_id="single")
    service.on_orders_created([single], payments, worker)
    gate.open()
    eventually(lambda: stored(single.order_id)["status"] == "Captured")
    assert order.index(single.order_id) <= 1


def test_one_user_cannot_fill_the_queue_of_a_slow_provider(make_worker, payments, new_payment):
    worker = make_worker(payments, threads=4)
    worker._mean_seconds = 0.05
    taken, _ = worker.choose([new_payment(user_id="crowd") for _ in range(300)])
    assert 0 < len(taken) < worker.room()
    worker._queue.put(payments.record(taken[:1], 1)[0])
    both = [*(new_payment(user_id="crowd") for _ in range(300)), new_payment(user_id="single")]
    taken, _ = worker.choose(both)
    assert taken[-1].user_id == "single"
    worker._queue.clear()


def test_when_one_call_may_find_out_it_is_for_a_payment_that_has_not_failed(
    make_worker, payments, provider, new_payment, stored
):
    provider.answers = [UNKNOWN] * 10
    worker = make_worker(payments, threads=1, recovery=0.0)
    failed = payments.record([new_payment() for _ in range(10)], 10)
    for held in failed:
        worker.work(held)
    payments.give_back(failed)
    fresh = new_payment()
    payments.record([fresh], 0)
    assert worker.room() == 1
    [claimed] = payments.claim(1, untried_first=True)
    assert claimed.payment.order_id == fresh.order_id


def test_calls_that_hang_hold_up_no_others(make_worker, payments, provider, created, stored, eventually, gate):
    batch = [created() for _ in range(6)]
    stuck = {f"{event.order_id}:1" for event in batch[:2]}
    provider.watch = lambda verb, call: gate() if call.key in stuck else None
    worker = make_worker(payments, timeout=0.5, threads=2)
    worker.start()
    service.on_orders_created(batch, payments, worker)
    for event in batch[2:]:
        eventually(lambda event=event: stored(event.order_id)["status"] == "Captured")
    eventually(lambda: all(stored(event.order_id)["attempts"] for event in batch))
    assert worker.hung == 2
    assert worker.room() >= 2
    more = [created() for _ in range(3)]
    service.on_orders_created(more, payments, worker)
    for event in more:
        eventually(lambda event=event: stored(event.order_id)["status"] == "Captured")
    gate.open()
    eventually(lambda: worker.hung == 0)


def test_a_call_that_answers_after_it_was_given_up_opens_no_second_line_to_the_provider(
    make_worker, payments, provider, created, stored, eventually, gate
):
    under_way, most = [], []

    def count(verb, call):
        under_way.append(call)
        if len(provider.asked) == 1:
            gate()
        else:
            most.append(len(under_way))
            time.sleep(0.05)
        under_way.remove(call)

    provider.watch = count
    worker = make_worker(payments, timeout=0.3, threads=1)
    late = created()
    service.on_orders_created([late], payments, worker)
    assert gate.came.wait(10)
    eventually(lambda: worker.take_over() or worker.hung)
    gate.open()
    eventually(lambda: not worker.hung and not under_way)
    events = [created() for _ in range(6)]
    for event in events:
        worker.offer(payments.record([domain.opened(event)], 1))
    for event in events:
        eventually(lambda event=event: stored(event.order_id)["status"] == "Captured")
    assert max(most) == 1


def test_a_worker_whose_calls_hang_beyond_its_threads_is_not_alive_until_they_come_back(
    make_worker, payments, provider, created, eventually, gate
):
    provider.watch = lambda verb, call: gate()
    worker = make_worker(payments, timeout=0.05, threads=16)
    worker.start()
    watchdog = Watchdog(limit=60.0)
    service.on_orders_created([created() for _ in range(16)], payments, worker)
    eventually(lambda: [one.name for one in watchdog.failing(worker.heartbeats)] == ["payments-calls"])
    assert (worker.hung, worker.room()) == (16, 0)
    gate.open()
    eventually(lambda: watchdog.failing(worker.heartbeats) == [])


def test_an_error_that_nothing_expects_during_a_call_costs_no_line_to_the_provider(
    make_worker, payments, provider, created, stored, eventually
):
    def end_the_thread(verb, call):
        if len(provider.asked) <= 4:
            raise SystemExit

    provider.watch = end_the_thread
    worker = make_worker(payments, threads=2)
    worker.start()
    service.on_orders_created([created() for _ in range(4)], payments, worker)
    eventually(lambda: len(provider.asked) == 4)
    event = created()
    service.on_orders_created([event], payments, worker)
    eventually(lambda: stored(event.order_id)["status"] == "Captured")
    assert worker.hung == 0


def test_a_provider_that_keeps_failing_is_left_alone_for_a_while(make_worker, payments, provider, new_payment, stored):
    provider.answers = [UNKNOWN] * 20
    worker = make_worker(payments, threads=1)
    batch = payments.record([new_payment() for _ in range(12)], 12)
    for held in batch:
        worker.work(held)
    assert len(provider.asked) == 10
    assert worker.room() == 0
    for held in batch[10:]:
        doc = stored(held.payment.order_id)
        assert (doc["status"], doc["tries"], "dueAt" in doc) == ("Processing", 0, True)
    assert worker.sweep() == 0


def test_stopping_gives_back_at_once_what_was_not_begun_though_a_call_still_runs(
    make_worker, payments, other, provider, created, database, eventually, gate
):
    """A provider that hangs must not keep the payments behind it from other workers."""
    worker = make_worker(payments, threads=1)
    provider.watch = gate
    service.on_orders_created([created() for _ in range(5)], payments, worker)
    assert gate.came.wait(10)
    stopping = in_thread(worker.stop, 30.0)
    eventually(lambda: database.payments.count_documents({"owner": {"$exists": True}}) == 1, 5)
    assert stopping.is_alive()
    claimed = []
    eventually(lambda: claimed.extend(other.claim(10)) or len(claimed) == 4)
    gate.open()
    stopping.join(20)
    assert database.payments.count_documents({"status": "Captured"}) == 1


def test_payments_that_fail_together_are_not_repeated_together(make_worker, payments, provider, new_payment, stored):
    """Their pauses lie between half and all of what was decided, each elsewhere."""
    worker = make_worker(payments, failures=100)
    batch = payments.record([new_payment() for _ in range(20)], 20)
    provider.answers = [UNKNOWN] * 9 + [None] + [UNKNOWN] * 9 + [None]
    for held in batch:
        worker.work(held)
    waiting = [doc for held in batch if (doc := stored(held.payment.order_id))["status"] == "Processing"]
    pauses = [(doc["dueAt"] - doc["attempts"][-1]["at"]).total_seconds() for doc in waiting]
    assert len(pauses) == 18
    assert all(50.0 <= pause <= 101.0 for pause in pauses)
    assert max(pauses) - min(pauses) > 1.0


def test_a_call_that_was_given_up_while_it_looked_for_the_key_sends_nothing_more(
    make_worker, payments, provider, leased, take_up, eventually, gate, stored
):
    """What it would send now, another worker may have sent long ago."""
    provider.answers = [UNKNOWN]
    held = leased()
    make_worker(payments).work(held)
    worker = make_worker(payments, timeout=0.05, threads=1)
    provider.watch = lambda verb, call: gate() if verb == "find" else None
    worker.offer([take_up(held.payment.order_id)])
    assert gate.came.wait(10)
    eventually(lambda: worker.take_over() or len(stored(held.payment.order_id)["attempts"]) == 2)
    gate.open()
    worker.stop(10.0)
    assert [verb for verb, _ in provider.asked] == ["charge", "find"]
