"""What an operator may do with payments that nobody could settle."""

from datetime import timedelta

import pytest

from app.payments.manual_review import ManualReview, NotPossible
from app.payments.payment import RetryPolicy
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.results import ResultWriter

UNKNOWN = ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer in time")
POLICY = RetryPolicy(max_tries=3, horizon=3600.0, key_life=7200.0, backoff=100.0, backoff_max=100.0)


@pytest.fixture
def review(payments, provider):
    """Manual review, for a provider that forgets its keys after two hours."""
    return ManualReview(payments, provider, ResultWriter(payments, POLICY), POLICY)


@pytest.fixture
def parked(worker, provider, lease_payment, take_up):
    """A payment that was parked after three tries."""

    def make() -> str:
        provider.responses = [UNKNOWN] * 3
        leased = lease_payment()
        worker.process(leased)
        worker.process(take_up(leased.payment.order_id))
        worker.process(take_up(leased.payment.order_id))
        provider.calls.clear()
        return leased.payment.order_id

    return make


@pytest.fixture
def age_key(database):
    """Pretend that a payment's first call was so long ago, and that it was parked only now."""

    def make(order_id: str, **ago) -> None:
        shift = {"$dateSubtract": {"startDate": "$keySentAt", "unit": "second", "amount": timedelta(**ago).seconds}}
        database.payments.update_one({"_id": order_id}, [{"$set": {"keySentAt": shift}}])

    return make


def event_types(doc):
    return [entry["type"] for entry in doc["outbox"]]


def test_parked_payments_are_in_view_with_their_reason(review, parked, lease_payment):
    lease_payment()
    order_id = parked()
    assert [(leased.payment.order_id, leased.payment.parked_reason) for leased in review.list_parked(10)] == [
        (order_id, "no answer in time")
    ]


def test_a_retried_payment_is_called_for_again_with_the_same_key(review, parked, worker, provider, take_up, stored):
    order_id = parked()
    assert review.retry(order_id) == "Processing"
    assert review.list_parked(10) == []
    worker.process(take_up(order_id))
    assert provider.calls == [("find", f"{order_id}:1"), ("charge", f"{order_id}:1")]
    assert (stored(order_id)["status"], event_types(stored(order_id))) == (
        "Captured",
        ["PaymentParked", "PaymentCaptured"],
    )
    assert stored(order_id)["attempts"][-2]["reason"] == "retried by hand"


def test_once_the_provider_may_have_forgotten_the_key_it_is_not_sent_again(review, parked, provider, age_key, stored):
    order_id = parked()
    age_key(order_id, hours=3)
    with pytest.raises(NotPossible, match="forgotten"):
        review.retry(order_id)
    assert provider.calls == [("find", f"{order_id}:1")]
    assert stored(order_id)["status"] == "Unknown"


def test_where_the_look_up_raises_the_operator_is_told_and_nothing_changes(
    review, parked, provider, age_key, stored, monkeypatch
):
    order_id = parked()
    age_key(order_id, hours=2)
    monkeypatch.setattr(provider, "find", lambda call: 1 / 0)
    before = stored(order_id)
    with pytest.raises(NotPossible, match="cannot be resolved as unknown"):
        review.retry(order_id)
    assert stored(order_id) == before


def test_what_the_provider_still_knows_settles_it_even_then(review, parked, provider, age_key, stored):
    order_id = parked()
    age_key(order_id, hours=3)
    provider.found[f"{order_id}:1"] = ProviderResponse(code=ResponseCode.CAPTURED, reference="ref-found")
    assert review.retry(order_id) == "Captured"
    assert provider.calls == [("find", f"{order_id}:1")]
    assert (stored(order_id)["reference"], event_types(stored(order_id))[-1]) == ("ref-found", "PaymentCaptured")


def test_the_life_of_a_key_begins_with_its_first_call_and_not_with_its_parking(
    review, worker, provider, lease_payment, take_up, age_key, stored
):
    """Called for the first time three hours ago, parked just now: the key is three hours old."""
    provider.responses = [UNKNOWN] * 3
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    age_key(order_id, hours=3)
    worker.process(take_up(order_id))
    assert stored(order_id)["status"] == "Unknown"
    provider.calls.clear()
    with pytest.raises(NotPossible, match="forgotten"):
        review.retry(order_id)
    assert [verb for verb, _ in provider.calls] == ["find"]


def test_retrying_does_not_lengthen_the_life_of_a_key(review, parked, worker, provider, take_up, age_key, stored):
    order_id = parked()
    age_key(order_id, minutes=50)
    before = stored(order_id)["keySentAt"]
    review.retry(order_id)
    assert stored(order_id)["keySentAt"] == before


def test_a_refund_that_was_parked_can_be_retried(review, worker, provider, lease_payment, cancel, take_up, stored):
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    cancel(worker, order_id)
    provider.responses = [UNKNOWN] * 3
    for _ in range(3):
        worker.process(take_up(order_id))
    assert stored(order_id)["status"] == "Unknown"
    assert review.retry(order_id) == "Refunding"
    worker.process(take_up(order_id))
    assert {asked for verb, asked in provider.calls if verb == "refund"} == {f"{order_id}:1:refund:cancel"}
    assert stored(order_id)["status"] == "Refunded"


@pytest.mark.parametrize(
    ("code", "status", "event"),
    [
        (ResponseCode.CAPTURED, "Captured", "PaymentCaptured"),
        (ResponseCode.DECLINED, "Declined", "PaymentDeclined"),
        (ResponseCode.VOIDED, "Voided", "PaymentVoided"),
    ],
)
def test_what_an_operator_found_out_settles_a_payment(review, parked, provider, stored, code, status, event):
    order_id = parked()
    assert review.resolve(order_id, code, "ref-9", "asked on the phone") == status
    doc = stored(order_id)
    assert (doc["status"], event_types(doc), "dueAt" in doc) == (status, ["PaymentParked", event], False)
    assert doc["attempts"][-1]["reason"] == "resolved by hand: asked on the phone"
    assert provider.calls == []


def test_what_cannot_be_is_refused_and_changes_nothing(review, parked, lease_payment, stored):
    order_id, open_id = parked(), lease_payment().payment.order_id
    before = stored(order_id), stored(open_id)
    for refused in (
        lambda: review.resolve(order_id, ResponseCode.REFUNDED, "", "why"),
        lambda: review.resolve(open_id, ResponseCode.CAPTURED, "", "why"),
        lambda: review.resolve("no-such-order", ResponseCode.CAPTURED, "", "why"),
        lambda: review.retry(open_id),
        lambda: review.retry("no-such-order"),
    ):
        with pytest.raises(NotPossible):
            refused()
    assert (stored(order_id), stored(open_id)) == before


def test_a_payment_that_was_settled_twice_by_hand_is_settled_once(review, parked, stored):
    order_id = parked()
    review.resolve(order_id, ResponseCode.CAPTURED, "ref-9", "first")
    with pytest.raises(NotPossible):
        review.resolve(order_id, ResponseCode.DECLINED, "", "second")
    assert (stored(order_id)["status"], event_types(stored(order_id))) == (
        "Captured",
        ["PaymentParked", "PaymentCaptured"],
    )
