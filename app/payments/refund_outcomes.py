"""What became of a refund, and the refunds that a cancellation makes. Pure functions."""

from dataclasses import replace

from app.contracts.payments import PaymentEvent, PaymentRefunded, PaymentRefundFailed
from app.payments.payment import (
    CANCELLATION_REFUND,
    Payment,
    PaymentDecision,
    Refund,
    RefundStatus,
    RetryPolicy,
    captured_status,
    park,
)
from app.payments.provider_calls import next_call
from app.payments.provider_port import ProviderCall, ProviderResponse, ResponseCode


def with_refund(payment: Payment, refund: Refund) -> Payment:
    """The payment with one more refund to make."""
    payment = replace(payment, refunds=(*payment.refunds, refund), parked_reason="", retry_count=0)
    return replace(payment, status=captured_status(payment))


def with_cancellation_refund(payment: Payment) -> Payment:
    """The payment with a refund of all that is left; unchanged where nothing is left or a dispute holds it."""
    if not payment.unreserved or payment.disputed:
        return payment
    earlier = sum(is_cancellation(refund.refund_id) for refund in payment.refunds)
    refund_id = f"{CANCELLATION_REFUND}-{earlier + 1}" if earlier else CANCELLATION_REFUND
    refund = Refund(refund_id=refund_id, value=payment.unreserved, request_id=payment.cancel_request_id)
    return with_refund(payment, refund)


def is_cancellation(refund_id: str) -> bool:
    """Whether a refund was made by a cancellation."""
    return refund_id.partition("-")[0] == CANCELLATION_REFUND


def refund_answered(
    payment: Payment, call: ProviderCall, response: ProviderResponse, policy: RetryPolicy
) -> PaymentDecision:
    """What the provider's response to a refund leads to."""
    match response.code:
        case ResponseCode.REFUNDED:
            return refunded(payment, call.refund_id, response.reference)
        case ResponseCode.PENDING:
            return _refund_pending(payment, call.refund_id, response.reference, policy)
        case ResponseCode.DECLINED if response.reference:
            # It was made, under an answer that was lost, and has failed since.
            made = next(refund for refund in payment.refunds if refund.refund_id == call.refund_id)
            made = replace(made, reference=response.reference)
            return refund_failed(replace(payment, retry_count=0), made, response.reason)
    return parked_by(payment, call, response)


def parked_by(payment: Payment, call: ProviderCall, response: ProviderResponse) -> PaymentDecision:
    """Leave a payment to an operator whose call got a response that does not belong to it."""
    return park(payment, f"{call.kind} was answered with {response.code}: {response.reason}")


def refunded(payment: Payment, refund_id: str, reference: str = "") -> PaymentDecision:
    """The provider has made a refund."""
    payment, done = _with_refund_status(payment, refund_id, RefundStatus.DONE, reference)
    return refund_ended(replace(payment, retry_count=0), PaymentRefunded, done)


def with_other_means(payment: Payment, refund_id: str, who: str) -> Payment:
    """The payment one of whose refunds was given back other than through the provider: `who` did it and why, empty for nobody."""
    refunds = tuple(replace(one, by_other_means=who) if one.refund_id == refund_id else one for one in payment.refunds)
    return replace(payment, refunds=refunds)


def refund_ended(payment: Payment, event: type[PaymentEvent], refund: Refund, detail: str = "") -> PaymentDecision:
    """A refund needs nothing more, and `event` says how it has ended."""
    payment = replace(payment, status=captured_status(payment))
    return PaymentDecision(
        payment=payment, event=event, due_in=0.0 if next_call(payment) else None, refund=refund, detail=detail
    )


def refund_failed(payment: Payment, refund: Refund, reason: str) -> PaymentDecision:
    """A refund that the provider had accepted, or made, has failed."""
    reason = reason or "the refund failed at the provider"
    left = with_cancellation_refund(_with_failed(payment, refund))
    if payment.cancelled and not payment.disputed and left.open_refund:
        # All of a cancelled order's money goes back, this way does not work, and refunds at the provider have not given all back.
        way_out = "resolve it as refunded, then give it back by other means"
        parked = park(left, f"refund {refund.refund_id} failed, {way_out}: {reason}")
        return replace(parked, refund=refund, refund_failure=reason)
    return given_up(payment, refund, reason)


def given_up(payment: Payment, refund: Refund, reason: str) -> PaymentDecision:
    """A refund will not be made, and the order keeps the money; a cancelled order gives it back by another refund."""
    failed = replace(refund, status=RefundStatus.FAILED)
    payment = _with_failed(payment, refund)
    if payment.cancelled:
        payment = with_cancellation_refund(payment)
    return refund_ended(payment, PaymentRefundFailed, failed, reason)


def without_excess(payment: Payment) -> Payment:
    """The payment whose cancellation gives back no more than is left: the provider has not made it, and declines it."""
    refund = payment.open_refund
    if not refund or not is_cancellation(refund.refund_id) or payment.reserved <= payment.captured:
        return payment
    return with_cancellation_refund(_with_failed(payment, refund))


def _refund_pending(payment: Payment, refund_id: str, reference: str, policy: RetryPolicy) -> PaymentDecision:
    payment, _ = _with_refund_status(payment, refund_id, RefundStatus.PENDING, reference)
    return PaymentDecision(payment=replace(payment, retry_count=0), due_in=_refund_pause(payment, policy))


def _refund_pause(payment: Payment, policy: RetryPolicy) -> float:
    waits = payment.open_refund and payment.open_refund.status == RefundStatus.PENDING
    return policy.poll_max if waits else 0.0


def _with_refund_status(
    payment: Payment, refund_id: str, status: RefundStatus, reference: str
) -> tuple[Payment, Refund]:
    before = next(refund for refund in payment.refunds if refund.refund_id == refund_id)
    after = replace(before, status=status, reference=reference or before.reference)
    refunds = tuple(after if refund is before else refund for refund in payment.refunds)
    return replace(payment, refunds=refunds), after


def _with_failed(payment: Payment, refund: Refund) -> Payment:
    return _with_refund_status(payment, refund.refund_id, RefundStatus.FAILED, refund.reference)[0]
