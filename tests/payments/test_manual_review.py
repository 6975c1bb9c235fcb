"""What an operator may do with payments that nobody could settle."""

from datetime import timedelta

import pytest

from app.contracts.base import NotFound, NotPossible
from app.contracts.orders import RefundRequested
from app.payments.manual_review import ManualReview
from app.payments.payment import RetryPolicy
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers.simulated import CAPABILITIES
from app.payments.results import ResultWriter
from app.payments.service import PaymentService

UNKNOWN = ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer in time")
POLICY = RetryPolicy(max_tries=3, horizon=3600.0, key_life=7200.0, backoff=100.0, backoff_max=100.0)


# The lease of the process that calls.
CALL_SECONDS = 60.0


@pytest.fixture
def review(payments, provider):
    """Manual review, for a provider that forgets its keys after two hours."""
    return ManualReview(payments, provider, ResultWriter(payments, POLICY), POLICY, 1.0)


@pytest.fixture
def end_call(database):
    """Pretend that a payment's results were recorded so many seconds earlier."""

    def make(order_id: str, seconds: float = CALL_SECONDS) -> None:
        attempts = database.payments.find_one({"_id": order_id})["attempts"]
        for attempt in attempts:
            attempt["at"] -= timedelta(seconds=seconds)
        database.payments.update_one({"_id": order_id}, {"$set": {"attempts": attempts}})

    return make


@pytest.fixture
def parked(worker, provider, lease_payment, take_up, end_call):
    """A payment that was parked after three tries, by default so long ago that its last call has ended."""

    def make(ago: float = CALL_SECONDS) -> str:
        provider.responses = [UNKNOWN] * 3
        leased = lease_payment()
        worker.process(leased)
        worker.process(take_up(leased.payment.order_id))
        worker.process(take_up(leased.payment.order_id))
        provider.calls.clear()
        end_call(leased.payment.order_id, ago)
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
    assert review.retry(order_id, "Ada", "it works again") == "Processing"
    assert review.list_parked(10) == []
    worker.process(take_up(order_id))
    assert provider.calls == [("find", f"{order_id}:1"), ("charge", f"{order_id}:1")]
    assert (stored(order_id)["status"], event_types(stored(order_id))) == (
        "Captured",
        ["PaymentParked", "PaymentRetried", "PaymentCaptured"],
    )
    assert stored(order_id)["attempts"][-2]["reason"] == "operator Ada: retried: it works again"


def test_once_the_provider_may_have_forgotten_the_key_it_is_not_sent_again(review, parked, provider, age_key, stored):
    order_id = parked()
    age_key(order_id, hours=3)
    with pytest.raises(NotPossible, match="forgotten"):
        review.retry(order_id, "Ada", "it works again")
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
        review.retry(order_id, "Ada", "it works again")
    assert stored(order_id) == before


def test_what_the_provider_still_knows_settles_it_even_then(review, parked, provider, age_key, stored):
    order_id = parked()
    age_key(order_id, hours=3)
    provider.found[f"{order_id}:1"] = ProviderResponse(code=ResponseCode.CAPTURED, reference="ref-found")
    assert review.retry(order_id, "Ada", "it works again") == "Captured"
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
        review.retry(order_id, "Ada", "it works again")
    assert [verb for verb, _ in provider.calls] == ["find"]


def test_retrying_does_not_lengthen_the_life_of_a_key(review, parked, worker, provider, take_up, age_key, stored):
    order_id = parked()
    age_key(order_id, minutes=50)
    before = stored(order_id)["keySentAt"]
    review.retry(order_id, "Ada", "it works again")
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
    assert review.retry(order_id, "Ada", "it works again") == "Refunding"
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
    assert review.resolve(order_id, code, "ref-9", "Ada", "asked on the phone") == status
    doc = stored(order_id)
    assert (doc["status"], event_types(doc), "dueAt" in doc) == (status, ["PaymentParked", event], False)
    assert doc["attempts"][-1]["reason"] == f"operator Ada: resolved as {code}: asked on the phone"
    assert provider.calls == []


def test_what_cannot_be_is_refused_and_changes_nothing(review, parked, lease_payment, stored):
    order_id, open_id = parked(), lease_payment().payment.order_id
    before = stored(order_id), stored(open_id)
    for refused in (
        lambda: review.resolve(order_id, ResponseCode.REFUNDED, "", "Ada", "why"),
        lambda: review.resolve(open_id, ResponseCode.CAPTURED, "", "Ada", "why"),
        lambda: review.resolve("no-such-order", ResponseCode.CAPTURED, "", "Ada", "why"),
        lambda: review.retry(open_id, "Ada", "it works again"),
        lambda: review.retry("no-such-order", "Ada", "it works again"),
    ):
        with pytest.raises((NotPossible, NotFound)):
            refused()
    assert (stored(order_id), stored(open_id)) == before


@pytest.mark.parametrize("code", [ResponseCode.CAPTURED, ResponseCode.DECLINED, ResponseCode.VOIDED])
def test_nothing_is_settled_by_hand_while_the_last_call_may_still_reach_the_provider(review, parked, stored, code):
    order_id = parked(ago=0.0)
    before = stored(order_id)
    with pytest.raises(NotPossible, match="the last call may still reach the provider"):
        review.resolve(order_id, code, "", "Ada", "not in the dashboard")
    assert stored(order_id) == before


def test_the_operator_is_told_when_the_last_call_has_ended(review, parked, stored, end_call):
    order_id = parked(ago=CALL_SECONDS - 20)
    [leased] = review.list_parked(10)
    ends = review.call_ends(leased)
    assert ends == stored(order_id)["attempts"][-1]["at"] + timedelta(seconds=CALL_SECONDS)
    with pytest.raises(NotPossible, match=f"{ends:%H:%M:%S}Z"):
        review.resolve(order_id, ResponseCode.DECLINED, "", "Ada", "not in the dashboard")
    end_call(order_id, 20)
    assert review.resolve(order_id, ResponseCode.DECLINED, "", "Ada", "not in the dashboard") == "Declined"


@pytest.fixture
def refund_parked(worker, payments, provider, lease_payment, take_up):
    """A captured payment that was parked for the refund "r-1", whose calls had this response."""

    def make(response: ProviderResponse) -> str:
        leased = lease_payment()
        order_id = leased.payment.order_id
        worker.process(leased)
        members = {"event_id": "e-2", "order_id": order_id, "sequence": 2, "request_id": "r-refund", "at": 1}
        event = RefundRequested(**members, refund_id="r-1", refund_value=300)
        PaymentService(worker, ResultWriter(payments, POLICY), CAPABILITIES).on_refunds_requested([event])
        provider.responses = [response] * 3
        while payments.find(order_id).payment.status == "Refunding":
            worker.process(take_up(order_id))
        return order_id

    return make


def test_a_refund_is_not_dropped_while_its_last_call_may_still_reach_the_provider(
    review, refund_parked, stored, end_call
):
    order_id = refund_parked(UNKNOWN)
    before = stored(order_id)
    with pytest.raises(NotPossible, match="the last call may still reach the provider"):
        review.drop_refund(order_id, "r-1", "Ada", "the card is closed")
    assert stored(order_id) == before
    end_call(order_id)
    assert review.drop_refund(order_id, "r-1", "Ada", "the card is closed") == "Captured"


def test_a_refund_that_was_answered_is_dropped_at_once(review, refund_parked):
    order_id = refund_parked(ProviderResponse(code=ResponseCode.DECLINED, reason="the card is closed"))
    assert review.drop_refund(order_id, "r-1", "Ada", "the card is closed") == "Captured"


def test_after_a_call_that_was_not_attempted_an_earlier_one_may_still_reach_the_provider(review, refund_parked):
    order_id = refund_parked(ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason="out of order"))
    with pytest.raises(NotPossible, match="the last call may still reach the provider"):
        review.drop_refund(order_id, "r-1", "Ada", "the card is closed")


@pytest.mark.parametrize("said", [ResponseCode.REFUNDED, ResponseCode.PENDING])
def test_what_the_provider_gives_back_is_not_given_back_by_other_means_too(
    review, refund_parked, provider, stored, end_call, said
):
    order_id = refund_parked(UNKNOWN)
    end_call(order_id)
    provider.found[f"{order_id}:1:refund:r-1"] = ProviderResponse(code=said, reference="re-1")
    before = stored(order_id)
    with pytest.raises(NotPossible, match=f"says of this refund: {said}; retry the payment instead"):
        review.resolve(order_id, ResponseCode.REFUNDED, "", "Ada", "a bank transfer")
    assert stored(order_id) == before


@pytest.mark.parametrize("said", [None, ResponseCode.DECLINED, ResponseCode.UNKNOWN])
def test_what_the_provider_does_not_give_back_or_cannot_tell_may_go_back_by_other_means(
    review, refund_parked, provider, stored, end_call, said
):
    order_id = refund_parked(UNKNOWN)
    end_call(order_id)
    if said:
        provider.found[f"{order_id}:1:refund:r-1"] = ProviderResponse(code=said)
    assert review.resolve(order_id, ResponseCode.REFUNDED, "", "Ada", "a bank transfer") == "Captured"
    assert stored(order_id)["refunds"][0]["by_other_means"] == "Ada: a bank transfer"


def test_a_refund_at_a_provider_that_is_not_connected_any_more_may_go_back_by_other_means(
    review, refund_parked, database, provider, end_call
):
    order_id = refund_parked(UNKNOWN)
    end_call(order_id)
    database.payments.update_one({"_id": order_id}, {"$set": {"provider": "an earlier one"}})
    provider.calls.clear()
    assert review.resolve(order_id, ResponseCode.REFUNDED, "", "Ada", "a bank transfer") == "Captured"
    assert provider.calls == []
