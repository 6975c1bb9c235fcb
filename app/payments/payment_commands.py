"""What orders and operators ask of a payment. Pure functions."""

from dataclasses import replace
from datetime import datetime

from app.contracts.base import Event
from app.contracts.payments import PaymentParked, PaymentRefundFailed, PaymentRetried, PaymentStatus, PaymentVoided
from app.payments.charge_outcomes import settled
from app.payments.payment import (
    NOTHING_TAKEN,
    WAITING,
    Payment,
    PaymentDecision,
    Refund,
    RefundStatus,
    RetryPolicy,
    event_time,
    unparked,
)
from app.payments.provider_calls import next_call, next_key
from app.payments.provider_port import ProviderResponse
from app.payments.provider_responses import apply_response
from app.payments.refund_outcomes import is_cancellation, refund_ended, with_cancellation_refund, with_refund


def cancel(payment: Payment, request_id: str = "") -> PaymentDecision:
    """The order was cancelled: void a charge that may not have happened, refund what was captured."""
    payment = replace(payment, cancelled=True, cancel_request_id=request_id)
    if payment.status in NOTHING_TAKEN:
        return PaymentDecision(payment=payment)
    if not payment.captured:
        if not payment.reference and (payment.opens or not payment.key_sent):
            return settled(payment, PaymentStatus.VOIDED, PaymentVoided)
        reopened = replace(payment, status=PaymentStatus.PROCESSING, parked_reason="", retry_count=0)
        return PaymentDecision(payment=reopened, due_in=0.0)
    if payment.disputed:
        return PaymentDecision(payment=payment)
    if payment.unreserved > 0:
        return PaymentDecision(payment=with_cancellation_refund(payment), due_in=0.0)
    if not payment.open_refund:
        return PaymentDecision(payment=payment)
    return PaymentDecision(
        payment=unparked(payment) if payment.status == PaymentStatus.UNKNOWN else payment, due_in=0.0
    )


def request_capture(payment: Payment, value: int, request_id: str = "") -> PaymentDecision:
    """Capture `value` of what is authorized. A payment that is not authorized any more does not change."""
    if payment.status != PaymentStatus.AUTHORIZED or payment.cancelled or payment.capture_value:
        return PaymentDecision(payment=payment, due_in=0.0 if next_call(payment) else None)
    if not 0 < value <= payment.authorized:
        raise ValueError(f"a capture of {value} exceeds what is authorized for order {payment.order_id}")
    after = replace(payment, capture_value=value, capture_request_id=request_id, retry_count=0)
    return PaymentDecision(payment=after, due_in=0.0)


def request_refund(payment: Payment, refund: Refund) -> PaymentDecision:
    """Give back a part of the captured amount. Raises ValueError where it is not known that something was captured.

    A refund of a disputed charge waits until the dispute has ended. One that exceeds what is left has failed: a refund in the
    provider's dashboard, a dispute or a correction by an operator was faster than the order knew.
    """
    if any(known.refund_id == refund.refund_id for known in payment.refunds):
        return PaymentDecision(payment=payment, due_in=0.0 if payment.open_refund else None)
    if not payment.captured and payment.status not in NOTHING_TAKEN:
        raise ValueError(f"refund {refund.refund_id}: nothing was captured for order {payment.order_id}")
    if refund.value > payment.unreserved:
        failed = replace(refund, status=RefundStatus.FAILED)
        refused = replace(payment, refunds=(*payment.refunds, failed))
        due_in = 0.0 if next_call(refused) else None
        return PaymentDecision(
            payment=refused, event=PaymentRefundFailed, due_in=due_in, refund=failed, detail="it is more than is left"
        )
    after = with_refund(payment, refund)
    return PaymentDecision(payment=after, due_in=0.0 if next_call(after) else None)


def request_refresh(payment: Payment, request_id: str = "") -> PaymentDecision:
    """Read the provider's record of the payment as soon as no other call is to be made."""
    after = replace(payment, refreshes_requested=payment.refreshes_requested + 1, refresh_request_id=request_id)
    return PaymentDecision(payment=after, due_in=0.0 if next_call(after) else None)


def with_cause(before: Payment, decision: PaymentDecision, event: Event) -> PaymentDecision:
    """`decision` on `before`, marked as the effect of the order event `event`."""
    begins = not next_key(before) and next_key(decision.payment)
    payment = replace(
        decision.payment,
        order_sequence=event.sequence,
        requested_at=event_time(event) if begins else before.requested_at,
        traceparent=event.traceparent or before.traceparent,
    )
    return replace(decision, payment=payment, request_id=event.request_id)


def retry(payment: Payment) -> PaymentDecision:
    """Reopen a parked payment, with the same key. Raises ValueError where it is not parked."""
    return PaymentDecision(payment=unparked(payment), event=PaymentRetried, due_in=0.0)


def resolve(payment: Payment, response: ProviderResponse, policy: RetryPolicy, now: datetime) -> PaymentDecision:
    """Settle a parked payment by what an operator found out. Raises ValueError where its call cannot end like that."""
    payment = unparked(payment)
    call = next_call(payment)
    if call is None:
        raise ValueError("there is nothing to resolve")
    decision = apply_response(payment, call, response, 0.0, policy, now)
    not_found_again = decision.payment.status in WAITING and not decision.payment.reference
    if decision.event in (None, PaymentParked) or not_found_again:
        raise ValueError(f"a {call.kind} cannot be resolved as {response.code}")
    return decision


def drop_refund(payment: Payment, refund_id: str, reason: str) -> PaymentDecision:
    """Drop the refund that a parked payment waits for. If the order is cancelled, its cancellation gives the amount back.

    Raises ValueError where the payment does not wait for this refund, or where it is the cancellation's own.
    """
    payment, refund = unparked(payment), payment.open_refund
    if refund is None or refund.refund_id != refund_id:
        raise ValueError(f"this payment does not wait for a refund {refund_id}")
    if is_cancellation(refund_id):
        raise ValueError(
            "a cancelled order's money goes back: resolve it as refunded, then give it back by other means"
        )
    refunds = tuple(
        other
        for other in payment.refunds
        if other.status in (RefundStatus.DONE, RefundStatus.FAILED)
        or not (other.refund_id == refund_id or is_cancellation(other.refund_id))
    )
    payment = replace(payment, refunds=refunds)
    if payment.cancelled:
        payment = with_cancellation_refund(payment)
    decision = refund_ended(payment, PaymentRefundFailed, refund, reason)
    return replace(decision, request_id=refund.request_id or payment.request_id)
