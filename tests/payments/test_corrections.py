"""An outcome that an operator recorded by mistake is corrected, unless money has moved that says otherwise."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.contracts.base import Money
from app.contracts.payments import PaymentStatus
from app.payments import corrections, provider_calls
from app.payments import payment as domain
from app.payments.payment import Dispute, ManualDecision, Payment, Refund, RefundStatus, RetryPolicy
from app.payments.provider_port import DisputeStatus, ResponseCode

NOW = datetime(2026, 11, 26, tzinfo=UTC)
POLICY = RetryPolicy(max_tries=3, horizon=3600.0, key_life=7200.0, backoff=1.0, backoff_max=1.0)
CAPTURED, DECLINED, VOIDED, REFUNDED = (
    ResponseCode.CAPTURED, ResponseCode.DECLINED, ResponseCode.VOIDED, ResponseCode.REFUNDED,
)  # fmt: skip


def payment(status: str, resolved: ResponseCode, **members) -> Payment:
    decision = ManualDecision(outcome=resolved, operator="Ada", reason="seen", refund_id=members.pop("about", ""))
    return Payment(
        order_id="6920c1b05be0d3a1f2c4e687", request_id="r", user_id="u", product_id="1", total=Money(9900, "MYR"),
        requested_at=NOW, status=PaymentStatus(status), resolution=decision, key_sent=True, fencing_token=3, **members,
    )  # fmt: skip


def refund(refund_id: str, status: str, value: int = 9900) -> Refund:
    return Refund(refund_id=refund_id, value=value, status=RefundStatus(status))


TAKEN = payment("Captured", CAPTURED, captured=9900, reference="pi_1")
NOT_TAKEN = payment("Declined", DECLINED)
CANCELLED = payment("Unknown", CAPTURED, captured=9900, cancelled=True, refunds=(refund("cancel", "requested"),))
GIVEN_BACK = payment("Refunded", REFUNDED, captured=9900, refunds=(refund("r-1", "done"),), about="r-1")
POSSIBLE = [
    (NOT_TAKEN, CAPTURED, "Captured, PaymentCaptured, 9900, never"),
    (replace(NOT_TAKEN, status=PaymentStatus.VOIDED), CAPTURED, "Captured, PaymentCaptured, 9900, never"),
    (replace(NOT_TAKEN, capture_value=4000), CAPTURED, "Captured, PaymentCaptured, 4000, never"),
    (replace(NOT_TAKEN, cancelled=True), CAPTURED, "Refunding, PaymentCaptured, 9900, at once"),
    (TAKEN, DECLINED, "Declined, PaymentDeclined, 0, never"),
    (TAKEN, VOIDED, "Voided, PaymentVoided, 0, never"),
    (replace(TAKEN, refunds=(refund("r-0", "failed"),)), DECLINED, "Declined, PaymentDeclined, 0, never"),
    (CANCELLED, VOIDED, "Voided, PaymentVoided, 0, never"),
    (TAKEN, REFUNDED, "Refunded, PaymentRefunded, 9900, never"),
    (replace(TAKEN, refunds=(refund("r-1", "done", 900),)), REFUNDED, "Refunded, PaymentRefunded, 9900, never"),
    (GIVEN_BACK, CAPTURED, "Captured, PaymentRefundFailed, 9900, never"),
    (replace(GIVEN_BACK, cancelled=True), CAPTURED, "Unknown, PaymentParked, 9900, never"),
]  # fmt: skip
LOST = (Dispute(dispute_id="dp", value=9900, status=DisputeStatus.OPEN),)
REFUSED = [
    (replace(TAKEN, refunds=(refund("r-1", "done", 900),)), DECLINED, "refunds of it"),
    (replace(TAKEN, refunds=(refund("r-1", "pending", 900),)), VOIDED, "refunds of it"),
    (replace(CANCELLED, status=PaymentStatus.REFUNDING), VOIDED, "refunds of it"),
    (replace(CANCELLED, refunds=(refund("r-1", "done", 900), refund("cancel", "requested"))), VOIDED, "refunds of it"),
    (replace(TAKEN, status=PaymentStatus.DISPUTED, disputes=LOST), DECLINED, "disputed"),
    (replace(TAKEN, status=PaymentStatus.DISPUTED, disputes=LOST), REFUNDED, "disputed"),
    (replace(TAKEN, status=PaymentStatus.REFUNDING, refunds=(refund("r-1", "requested", 900),)), REFUNDED, "under way"),
    (replace(TAKEN, refunds=(refund("r-1", "done"),)), REFUNDED, "nothing of it is left"),
    (NOT_TAKEN, REFUNDED, "captured first"),
    (replace(TAKEN, resolution=NOT_TAKEN.resolution), CAPTURED, "outdated"),
    (replace(NOT_TAKEN, resolution=TAKEN.resolution), VOIDED, "outdated"),
    (GIVEN_BACK, DECLINED, "correct it to captured"),
    (replace(GIVEN_BACK, refunds=(refund("r-1", "failed"),)), CAPTURED, "outdated"),
    (replace(TAKEN, resolution=None), DECLINED, "no operator"),
]


def summary(decision: domain.PaymentDecision) -> str:
    after = decision.payment
    due = "never" if decision.due_in is None else "at once"
    return f"{after.status}, {decision.event.__name__}, {after.captured}, {due}"


@pytest.mark.parametrize(("wrong", "outcome", "expected"), POSSIBLE)
def test_a_wrong_outcome_is_corrected(wrong, outcome, expected):
    decision = corrections.correct(wrong, outcome, "re_1", POLICY, NOW)
    assert summary(decision) == expected
    assert 0 <= decision.payment.reserved <= decision.payment.captured
    assert decision.payment.generation == wrong.generation


@pytest.mark.parametrize(("wrong", "outcome", "said"), REFUSED)
def test_a_correction_that_money_speaks_against_is_refused(wrong, outcome, said):
    with pytest.raises(ValueError, match=said):
        corrections.correct(wrong, outcome, "re_1", POLICY, NOW)


@pytest.mark.parametrize("reference", ["", "re_1"])
def test_a_refund_that_is_recorded_later_is_named_and_recorded_once(reference):
    known = replace(refund("r-1", "done", 900), reference="re_1")
    with pytest.raises(ValueError, match="name the refund"):
        corrections.correct(replace(TAKEN, refunds=(known,)), REFUNDED, reference, POLICY, NOW)


@pytest.mark.parametrize(
    ("wrong", "outcome", "expected"), [one for one in POSSIBLE if one[0].resolution.outcome != REFUNDED]
)
def test_no_correction_leads_to_another_charge(wrong, outcome, expected):
    call = provider_calls.next_call(corrections.correct(wrong, outcome, "re_1", POLICY, NOW).payment)
    assert call is None or call.kind == "refund"


def test_what_is_parked_is_settled_and_not_corrected():
    parked = replace(CANCELLED, resolution=TAKEN.resolution)
    assert not corrections.is_correction(parked, REFUNDED)
    assert corrections.is_correction(parked, VOIDED)
    assert not corrections.is_correction(replace(parked, resolution=None), VOIDED)
    assert corrections.is_correction(TAKEN, DECLINED)
