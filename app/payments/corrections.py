"""Corrects an outcome that an operator recorded by mistake. Pure functions.

The payment goes back to what was known before, and then reads the operator's words as if they were the provider's record.
"""

from dataclasses import replace
from datetime import datetime

from app.contracts.payments import PaymentStatus
from app.payments import provider_calls, provider_responses
from app.payments.payment import (
    NOTHING_TAKEN,
    ManualDecision,
    Payment,
    PaymentDecision,
    Refund,
    RefundStatus,
    RetryPolicy,
)
from app.payments.provider_port import ProviderRefund, ProviderResponse, ResponseCode
from app.payments.refund_outcomes import with_other_means

NOTHING = frozenset({ResponseCode.DECLINED, ResponseCode.VOIDED})


def is_correction(payment: Payment, outcome: ResponseCode) -> bool:
    """Whether recording `outcome` corrects an earlier resolution, rather than settles what the payment waits for."""
    if payment.resolution is None:
        return False
    # A parked payment that was captured waits for a refund, which never ends as declined or voided.
    return payment.status != PaymentStatus.UNKNOWN or (bool(payment.captured) and outcome in NOTHING)


def correct(
    payment: Payment, outcome: ResponseCode, reference: str, policy: RetryPolicy, now: datetime
) -> PaymentDecision:
    """The decision that records `outcome` instead of the earlier resolution.

    Raises ValueError where the payment has none, has changed since, or where money has moved that the correction denies.
    """
    wrong = payment.resolution
    if wrong is None:
        raise ValueError("no operator has resolved this payment")
    if wrong.outcome == ResponseCode.REFUNDED:
        return _unrefunded(payment, wrong, outcome, policy, now)
    if wrong.outcome in NOTHING:
        return _taken(payment, outcome, reference, policy, now)
    if outcome == ResponseCode.REFUNDED:
        return _given_back(payment, reference, policy, now)
    return _not_taken(payment, outcome, policy, now)


def withdrawn_refund(payment: Payment) -> Refund | None:
    """The refund of a cancellation that a parked payment waits for: it is moot once nothing was captured."""
    refund = payment.open_refund
    parked = payment.status == PaymentStatus.UNKNOWN and payment.cancelled
    return refund if parked and refund and refund.status == RefundStatus.REQUESTED else None


def _taken(
    payment: Payment, outcome: ResponseCode, reference: str, policy: RetryPolicy, now: datetime
) -> PaymentDecision:
    if payment.status not in NOTHING_TAKEN:
        raise ValueError(f"this payment is {payment.status} by now: what it was resolved as is outdated")
    if outcome == ResponseCode.REFUNDED:
        raise ValueError("correct it to captured first, then refund the order")
    value = payment.capture_value or payment.total.value
    found = ProviderResponse(code=outcome, reference=reference, value=value)
    return _read(_reopened(payment), found, policy, now)


def _not_taken(payment: Payment, outcome: ResponseCode, policy: RetryPolicy, now: datetime) -> PaymentDecision:
    if payment.disputed:
        raise ValueError("the charge is disputed, so it was made")
    withdrawn = withdrawn_refund(payment)
    if any(refund.status != RefundStatus.FAILED and refund is not withdrawn for refund in payment.refunds):
        raise ValueError(
            "refunds of it were made or are under way, so that it was captured; drop those that were not made"
        )
    if not payment.captured:
        raise ValueError(f"this payment is {payment.status} by now: what it was resolved as is outdated")
    kept = tuple(refund for refund in payment.refunds if refund is not withdrawn)
    return _read(replace(_reopened(payment), captured=0, refunds=kept), ProviderResponse(code=outcome), policy, now)


def _given_back(payment: Payment, reference: str, policy: RetryPolicy, now: datetime) -> PaymentDecision:
    if payment.disputed:
        raise ValueError("the charge is disputed: the provider makes no refund of it")
    if payment.open_refund:
        raise ValueError("a refund of it is under way: wait for its end")
    if not payment.unreserved:
        raise ValueError("nothing of it is left to give back")
    if not reference or reference in {refund.reference for refund in payment.refunds}:
        raise ValueError("name the refund: its id at the provider is the reference")
    made = ProviderRefund(reference=reference, value=payment.unreserved, code=ResponseCode.REFUNDED)
    return _read(payment, ProviderResponse(code=ResponseCode.CAPTURED, refunds=(made,)), policy, now)


def _unrefunded(
    payment: Payment, wrong: ManualDecision, outcome: ResponseCode, policy: RetryPolicy, now: datetime
) -> PaymentDecision:
    refund = next((one for one in payment.refunds if one.refund_id == wrong.refund_id), None)
    if outcome != ResponseCode.CAPTURED:
        raise ValueError("a refund that was not made leaves the payment captured: correct it to captured")
    if refund is None or refund.status != RefundStatus.DONE or payment.disputed:
        raise ValueError(f"this payment is {payment.status} by now: what it was resolved as is outdated")
    failed = ProviderRefund(
        reference=refund.reference,
        refund_id=refund.refund_id,
        value=refund.value,
        code=ResponseCode.DECLINED,
        reason="an operator has found that it was not made",
    )
    payment = with_other_means(payment, refund.refund_id, "")
    return _read(payment, ProviderResponse(code=ResponseCode.CAPTURED, refunds=(failed,)), policy, now)


def _reopened(payment: Payment) -> Payment:
    return replace(payment, status=PaymentStatus.PROCESSING, parked_reason="")


def _read(payment: Payment, found: ProviderResponse, policy: RetryPolicy, now: datetime) -> PaymentDecision:
    call = provider_calls.retrieval(payment, payment.reference)
    decision = provider_responses.apply_response(payment, call, found, 0.0, policy, now)
    if decision.event is None:
        raise ValueError(f"a payment that is {payment.status} cannot be corrected to {found.code}")
    return decision
