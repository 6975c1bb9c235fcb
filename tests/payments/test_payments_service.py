"""What payments makes of new and of cancelled orders, up to what orders learns of it."""

import threading
from dataclasses import replace
from uuid import uuid4

import pytest
from bson import ObjectId

from app.contracts.base import Unavailable
from app.contracts.orders import OrderCancelled, RefundRequested
from app.contracts.payments import CheckPaymentBacklog, ExplainPayment, PaymentStatus
from app.main import create_app, runtime
from app.payments.payment import RetryPolicy
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers.simulated import CAPABILITIES
from app.payments.queries import NOT_RECEIVED, PaymentQueries
from app.payments.repository import PaymentRepository
from app.payments.results import ResultWriter
from app.payments.service import PaymentService

POLICY = RetryPolicy(max_tries=3, horizon=3600.0, key_life=7200.0, backoff=100.0, backoff_max=100.0)
UNKNOWN = ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer in time")


def service_of(worker):
    return PaymentService(worker, worker._results, CAPABILITIES)


def cancelled(order_id: str, sequence: int = 2) -> OrderCancelled:
    return OrderCancelled(event_id=uuid4().hex, order_id=order_id, sequence=sequence, request_id="r", at=1)


def requested(order_id: str, value: int, sequence: int, refund_id: str = "r1") -> RefundRequested:
    base = {"event_id": uuid4().hex, "order_id": order_id, "sequence": sequence, "request_id": "r", "at": 1}
    return RefundRequested(**base, refund_id=refund_id, refund_value=value)


@pytest.fixture
def idle(worker):
    """A worker that takes nothing up: what is recorded stays as it was recorded."""
    worker.draining = True
    return worker


@pytest.fixture
def running_with(settings, provider):
    """A running application that pays through the fake provider."""
    apps = []

    def make(**changes):
        app = create_app(replace(settings, **changes), make_provider=lambda settings, ledger: provider)
        apps.append(app)
        runtime(app).prepare()
        runtime(app).start()
        return app.test_client()

    yield make
    for app in apps:
        runtime(app).stop()


def test_each_new_order_gets_one_payment_of_its_total(payments, idle, created, database):
    batch = [created(total_value=at, total_currency="JPY", product_id=str(at)) for at in range(1, 11)]
    service_of(idle).on_orders_created(batch)
    docs = list(database.payments.find().sort("total.value", 1))
    assert [(doc["_id"], doc["total"], doc["productId"]) for doc in docs] == [
        (event.order_id, {"value": event.total_value, "currency": "JPY"}, event.product_id) for event in batch
    ]


def test_a_new_order_delivered_twice_in_one_batch_gets_one_payment(
    payments, worker, created, database, eventually, provider
):
    event = created()
    service_of(worker).on_orders_created([event, created(), event])
    eventually(lambda: database.payments.count_documents({"status": "Captured"}) == 2)
    assert len(provider.calls) == 2


@pytest.mark.parametrize("times", [1, 3])
def test_a_new_order_delivered_again_changes_nothing(payments, idle, created, stored, times):
    event = created()
    service_of(idle).on_orders_created([event])
    before = stored(event.order_id)
    for _ in range(times):
        service_of(idle).on_orders_created([created(order_id=event.order_id, total_value=1)])
    assert stored(event.order_id) == before


def test_a_new_order_delivered_again_after_its_payment_is_not_paid_again(
    payments, worker, created, stored, provider, eventually
):
    event = created()
    service_of(worker).on_orders_created([event])
    eventually(lambda: stored(event.order_id)["status"] == "Captured")
    before = stored(event.order_id)
    fresh = created()
    service_of(worker).on_orders_created([event, fresh])
    eventually(lambda: stored(fresh.order_id)["status"] == "Captured")
    assert stored(event.order_id) == before
    assert provider.calls == [("charge", f"{event.order_id}:1"), ("charge", f"{fresh.order_id}:1")]


def test_a_cancellation_delivered_twice_or_late_counts_once(payments, worker, lease_payment, cancel, stored):
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    cancel(worker, order_id, sequence=5)
    before = stored(order_id)
    assert before["orderSequence"] == 5
    for sequence in (5, 4, 1):
        cancel(worker, order_id, sequence=sequence)
    assert stored(order_id) == before


def test_cancellations_in_one_batch_each_find_their_payment(
    payments, worker, provider, new_payment, lease_payment, cancel, stored
):
    unsent, charged, declined = new_payment(), lease_payment(), lease_payment()
    payments.insert([unsent], 0)
    worker.process(charged)
    provider.responses = [ProviderResponse(code=ResponseCode.DECLINED)]
    worker.process(declined)
    ids = [unsent.order_id, charged.payment.order_id, declined.payment.order_id]
    cancel(worker, *ids, ids[1])
    assert [stored(order_id)["status"] for order_id in ids] == ["Voided", "Refunding", "Declined"]
    assert [len(stored(order_id)["refunds"]) for order_id in ids] == [0, 1, 0]


def test_a_cancellation_without_a_payment_is_not_taken_for_done(payments, worker, cancel):
    with pytest.raises(LookupError):
        cancel(worker, str(ObjectId()))


def test_a_cancellation_is_decided_anew_when_the_payment_changed_meanwhile(
    payments, store, outbox, worker, lease_payment, stored
):
    class ChangedMeanwhile(PaymentRepository):
        def find(self, order_id):
            found = super().find(order_id)
            if found.payment.status == PaymentStatus.PROCESSING:
                worker.process(leased)
            return found

    leased = lease_payment()
    repository = ChangedMeanwhile(store, outbox, 60.0)
    PaymentService(worker, ResultWriter(repository, POLICY), CAPABILITIES).on_orders_cancelled(
        [cancelled(leased.payment.order_id)]
    )
    doc = stored(leased.payment.order_id)
    assert (doc["status"], [refund["value"] for refund in doc["refunds"]]) == ("Refunding", [9900])


def test_a_cancellation_that_meets_a_change_every_time_comes_again_later(
    payments, store, outbox, worker, lease_payment, database
):
    class ChangedMeanwhile(PaymentRepository):
        def find(self, order_id):
            found = super().find(order_id)
            database.payments.update_one({"_id": order_id}, {"$inc": {"version": 1}})
            return found

    leased = lease_payment()
    repository = ChangedMeanwhile(store, outbox, 60.0)
    with pytest.raises(Unavailable):
        PaymentService(worker, ResultWriter(repository, POLICY), CAPABILITIES).on_orders_cancelled(
            [cancelled(leased.payment.order_id)]
        )
    assert not payments.find(leased.payment.order_id).payment.cancelled


def test_the_provider_is_whatever_the_application_is_given(running_with, place, provider, eventually, database):
    live = running_with()
    order_id = place(live, productId="whatever")
    eventually(lambda: live.get(f"/orders/status/{order_id}").json["orderStatus"] == "Success")
    assert provider.calls == [("charge", f"{order_id}:1")]
    assert "ledger" not in database.list_collection_names()


def test_what_nobody_could_learn_is_shown_as_unknown(running_with, place, provider, eventually, stored):
    provider.responses = [UNKNOWN] * 9
    live = running_with(payment_tries=2, payment_backoff=0.01)
    order_id = place(live)

    def order():
        return live.get(f"/orders/one/{order_id}").json["order"]

    eventually(lambda: order()["paymentStatus"] == "Unknown")
    assert order()["orderStatus"] == "Processing"
    assert [verb for verb, _ in provider.calls] == ["charge", "find", "charge"]
    doc = stored(order_id)
    assert (doc["status"], doc["parkedReason"], "dueAt" in doc) == ("Unknown", "no answer in time", False)


def test_a_parked_order_that_is_cancelled_ends_without_money_moved(running_with, place, provider, eventually):
    provider.responses = [UNKNOWN] * 2
    live = running_with(payment_tries=2, payment_backoff=0.01)
    order_id = place(live)

    def order():
        return live.get(f"/orders/one/{order_id}").json["order"]

    eventually(lambda: order()["paymentStatus"] == "Unknown")
    live.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
    eventually(lambda: (order()["orderStatus"], order()["paymentStatus"]) == ("Cancelled", "Voided"))
    assert provider.calls[-1] == ("void", f"{order_id}:1")


def test_an_unknown_outcome_ends_in_one_charge(running_with, place, provider, eventually):
    provider.responses = [UNKNOWN, TimeoutError(), ProviderResponse(code=ResponseCode.NOT_ATTEMPTED)]
    live = running_with()
    order_id = place(live)
    eventually(lambda: live.get(f"/orders/status/{order_id}").json["orderStatus"] == "Success")
    assert [asked for verb, asked in provider.calls if verb == "charge"] == [f"{order_id}:1"] * 4


def test_an_order_that_is_cancelled_while_it_is_charged_gets_its_money_back_once(
    running_with, place, provider, eventually, gate
):
    provider.on_call = lambda verb, call: gate() if verb == "charge" else None
    live = running_with()
    order_id = place(live)
    assert gate.came.wait(60)
    assert live.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
    gate.open()

    def order():
        return live.get(f"/orders/one/{order_id}").json["order"]

    eventually(lambda: (order()["orderStatus"], order()["paymentStatus"]) == ("Cancelled", "Refunded"))
    assert [verb for verb, _ in provider.calls if verb != "find"] == ["charge", "refund"]


def test_refunds_on_request_are_made_one_by_one_and_the_cancellation_sends_back_the_rest(
    payments, worker, provider, lease_payment, cancel, take_up, stored
):
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    events = [requested(order_id, 900, 3, "a"), requested(order_id, 1000, 4, "b"), requested(order_id, 900, 3, "a")]
    service_of(worker).on_refunds_requested(events)
    cancel(worker, order_id, sequence=5)
    for _ in range(3):
        worker.process(take_up(order_id))
    doc = stored(order_id)
    assert [(made["refund_id"], made["value"]) for made in doc["refunds"]] == [
        ("a", 900),
        ("b", 1000),
        ("cancel", 8000),
    ]
    assert [entry["refunded_total"] for entry in doc["outbox"][1:]] == [900, 1900, 9900]
    assert doc["status"] == "Refunded"
    refunds = [asked for verb, asked in provider.calls if verb == "refund"]
    assert refunds == [f"{order_id}:1:refund:{name}" for name in ("a", "b", "cancel")]


def test_a_refund_requested_while_another_is_under_way_follows_it(
    payments, worker, provider, lease_payment, take_up, stored, gate
):
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    service_of(worker).on_refunds_requested([requested(order_id, 900, 2, "a")])
    provider.on_call = lambda verb, call: gate() if call.refund_id == "a" and verb == "refund" else None
    running = threading.Thread(target=worker.process, args=[take_up(order_id)], daemon=True)
    running.start()
    assert gate.came.wait(60)
    service_of(worker).on_refunds_requested([requested(order_id, 1000, 3, "b")])
    gate.open()
    running.join(60.0)
    worker.process(take_up(order_id))
    doc = stored(order_id)
    assert [(made["refund_id"], made["status"]) for made in doc["refunds"]] == [("a", "done"), ("b", "done")]
    assert doc["status"] == "Captured"
    assert [verb for verb, _ in provider.calls if verb != "find"] == ["charge", "refund", "refund"]


def test_the_backlog_counts_due_and_unfinished_payments(payments, outbox, idle, created):
    queries, request = PaymentQueries(payments, outbox, 3), CheckPaymentBacklog(request_id="r")
    assert queries.check_backlog(request).due == 0
    service_of(idle).on_orders_created([created() for _ in range(2)])
    assert not queries.check_backlog(request).overloaded
    service_of(idle).on_orders_created([created() for _ in range(2)])
    backlog = queries.check_backlog(request)
    assert (backlog.due, backlog.unfinished, backlog.overloaded) == (3, 3, True)


def test_a_payment_is_explained_to_its_user_alone(payments, outbox, lease_payment, make_due, idle):
    order_id = lease_payment().payment.order_id

    def explain(user):
        request = ExplainPayment(request_id="r", order_id=order_id, on_behalf_of=user)
        return PaymentQueries(payments, outbox, 3).explain(request)

    owner = payments.find(order_id).payment.user_id
    assert [explain(user).known for user in ("", owner, "another")] == [True, True, False]
    assert (explain(owner).attempts, explain(owner).waits_for, explain(owner).next_attempt_at) == (
        1,
        "the provider",
        "",
    )
    assert explain("another") == NOT_RECEIVED
