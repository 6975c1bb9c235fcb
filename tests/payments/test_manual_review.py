"""What an operator may do with payments that nobody could settle."""

from datetime import timedelta

import pytest

from app.payments.manual_review import ManualReview, NotPossible
from app.payments.payment import ProviderResponse, ResponseCode, RetryPolicy
from app.payments.results import Settler

UNKNOWN = ProviderResponse(answer=ResponseCode.UNKNOWN, reason="no answer in time")
PATIENCE = RetryPolicy(tries=3, horizon=3600.0, key_life=7200.0, backoff=100.0, backoff_max=100.0)


@pytest.fixture
def desk(payments, provider):
    """The operator's desk, for a provider that forgets its keys after two hours."""
    return ManualReview(payments, provider, Settler(payments), PATIENCE)


@pytest.fixture
def parked(worker, provider, leased, take_up):
    """A payment that was parked after three tries."""

    def make() -> str:
        provider.answers = [UNKNOWN] * 3
        held = leased()
        worker.work(held)
        worker.work(take_up(held.payment.order_id))
        worker.work(take_up(held.payment.order_id))
        provider.asked.clear()
        return held.payment.order_id

    return make


@pytest.fixture
def begun_ago(database):
    """Pretend that a payment's first call was so long ago, and that it was parked only now."""

    def make(order_id: str, **ago) -> None:
        shift = {"$dateSubtract": {"startDate": "$keySentAt", "unit": "second", "amount": timedelta(**ago).seconds}}
        database.payments.update_one({"_id": order_id}, [{"$set": {"keySentAt": shift}}])

    return make


def told(doc):
    return [entry["type"] for entry in doc["outbox"]]


def test_parked_payments_are_in_view_with_their_reason(desk, parked, leased):
    leased()
    order_id = parked()
    assert [(held.payment.order_id, held.payment.parked) for held in desk.parked(10)] == [
        (order_id, "no answer in time")
    ]


def test_a_retried_payment_is_called_for_again_with_the_same_key(desk, parked, worker, provider, take_up, stored):
    order_id = parked()
    assert desk.retry(order_id) == "Processing"
    assert desk.parked(10) == []
    worker.work(take_up(order_id))
    assert provider.asked == [("find", f"{order_id}:1"), ("charge", f"{order_id}:1")]
    assert (stored(order_id)["status"], told(stored(order_id))) == ("Captured", ["PaymentParked", "PaymentCaptured"])
    assert stored(order_id)["attempts"][-2]["reason"] == "retried by hand"


def test_once_the_provider_may_have_forgotten_the_key_it_is_not_sent_again(desk, parked, provider, begun_ago, stored):
    order_id = parked()
    begun_ago(order_id, hours=3)
    with pytest.raises(NotPossible, match="forgotten"):
        desk.retry(order_id)
    assert provider.asked == [("find", f"{order_id}:1")]
    assert stored(order_id)["status"] == "Unknown"


def test_what_the_provider_still_knows_settles_it_even_then(desk, parked, provider, begun_ago, stored):
    order_id = parked()
    begun_ago(order_id, hours=3)
    provider.books[f"{order_id}:1"] = ProviderResponse(answer=ResponseCode.CAPTURED, reference="ref-found")
    assert desk.retry(order_id) == "Captured"
    assert provider.asked == [("find", f"{order_id}:1")]
    assert (stored(order_id)["reference"], told(stored(order_id))[-1]) == ("ref-found", "PaymentCaptured")


def test_the_life_of_a_key_begins_with_its_first_call_and_not_with_its_parking(
    desk, worker, provider, leased, take_up, begun_ago, stored
):
    """Called for the first time three hours ago, parked just now: the key is three hours old."""
    provider.answers = [UNKNOWN] * 3
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    begun_ago(order_id, hours=3)
    worker.work(take_up(order_id))
    assert stored(order_id)["status"] == "Unknown"
    provider.asked.clear()
    with pytest.raises(NotPossible, match="forgotten"):
        desk.retry(order_id)
    assert [verb for verb, _ in provider.asked] == ["find"]


def test_retrying_does_not_lengthen_the_life_of_a_key(desk, parked, worker, provider, take_up, begun_ago, stored):
    order_id = parked()
    begun_ago(order_id, minutes=50)
    before = stored(order_id)["keySentAt"]
    desk.retry(order_id)
    assert stored(order_id)["keySentAt"] == before


def test_a_refund_that_was_parked_can_be_retried(desk, worker, provider, leased, cancel, take_up, stored):
    held = leased()
    order_id = held.payment.order_id
    worker.work(held)
    cancel(worker, order_id)
    provider.answers = [UNKNOWN] * 3
    for _ in range(3):
        worker.work(take_up(order_id))
    assert stored(order_id)["status"] == "Unknown"
    assert desk.retry(order_id) == "Refunding"
    worker.work(take_up(order_id))
    assert {asked for verb, asked in provider.asked if verb == "refund"} == {f"{order_id}:1:refund:cancel"}
    assert stored(order_id)["status"] == "Refunded"


@pytest.mark.parametrize(
    ("answer", "status", "event"),
    [
        (ResponseCode.CAPTURED, "Captured", "PaymentCaptured"),
        (ResponseCode.DECLINED, "Declined", "PaymentDeclined"),
        (ResponseCode.VOIDED, "Voided", "PaymentVoided"),
    ],
)
def test_what_an_operator_found_out_settles_a_payment(desk, parked, provider, stored, answer, status, event):
    order_id = parked()
    assert desk.resolve(order_id, answer, "ref-9", "asked on the phone") == status
    doc = stored(order_id)
    assert (doc["status"], told(doc), "dueAt" in doc) == (status, ["PaymentParked", event], False)
    assert doc["attempts"][-1]["reason"] == "resolved by hand: asked on the phone"
    assert provider.asked == []


def test_what_cannot_be_is_refused_and_changes_nothing(desk, parked, leased, stored):
    order_id, open_id = parked(), leased().payment.order_id
    before = stored(order_id), stored(open_id)
    for refused in (
        lambda: desk.resolve(order_id, ResponseCode.REFUNDED, "", "why"),
        lambda: desk.resolve(open_id, ResponseCode.CAPTURED, "", "why"),
        lambda: desk.resolve("no-such-order", ResponseCode.CAPTURED, "", "why"),
        lambda: desk.retry(open_id),
        lambda: desk.retry("no-such-order"),
    ):
        with pytest.raises(NotPossible):
            refused()
    assert (stored(order_id), stored(open_id)) == before


def test_a_payment_that_was_settled_twice_by_hand_is_settled_once(desk, parked, stored):
    order_id = parked()
    desk.resolve(order_id, ResponseCode.CAPTURED, "ref-9", "first")
    with pytest.raises(NotPossible):
        desk.resolve(order_id, ResponseCode.DECLINED, "", "second")
    assert (stored(order_id)["status"], told(stored(order_id))) == ("Captured", ["PaymentParked", "PaymentCaptured"])
