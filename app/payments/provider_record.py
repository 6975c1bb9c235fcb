"""What the provider's own record of a payment has that the payment does not. Pure functions.

A payment that waits for its customer or for a bank is not sent again: it is refreshed from time to time, and at once where a
notification says so. What the provider's record shows decides, never the notification.
"""

from dataclasses import replace
from datetime import datetime

from app.contracts.payments import (
    PaymentDeclined,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentRefunded,
    PaymentStatus,
    PaymentVoided,
)
from app.payments.charge_outcomes import authorized, captured, decline_reason, pending, settled, until_next_refresh
from app.payments.payment import (
    NOT_SETTLED,
    NOTHING_TAKEN,
    Dispute,
    Payment,
    PaymentDecision,
    Refund,
    RefundStatus,
    RetryPolicy,
    captured_status,
    park,
)
from app.payments.provider_calls import next_call, next_kind
from app.payments.provider_port import (
    CallKind,
    DisputeStatus,
    ProviderCall,
    ProviderDispute,
    ProviderRefund,
    ProviderResponse,
    ResponseCode,
)
from app.payments.refund_outcomes import (
    given_up,
    refund_ended,
    refund_failed,
    refunded,
    with_cancellation_refund,
    without_excess,
)


def retrieved(
    payment: Payment, call: ProviderCall, response: ProviderResponse, policy: RetryPolicy, now: datetime
) -> PaymentDecision:
    """What the provider's record of a payment leads to: the first difference is recorded, and then the next refresh follows."""
    payment = replace(payment, retry_count=0)
    if response.code in NOT_SETTLED:
        pause = max(until_next_refresh(payment, policy, now), response.retry_after)
        return PaymentDecision(payment=payment, due_in=pause if next_call(payment) else None)
    found = _difference(payment, call, response, policy, now)
    if found and found.event:
        return found
    payment = replace(found.payment if found else payment, refreshes_made=max(payment.refreshes_made, call.refresh))
    return PaymentDecision(payment=payment, due_in=_until_next_poll(payment, policy, now))


def _until_next_poll(payment: Payment, policy: RetryPolicy, now: datetime) -> float | None:
    kind = next_kind(payment)
    if kind != CallKind.RETRIEVE or payment.refresh_requested:
        return 0.0 if kind else None
    return until_next_refresh(payment, policy, now)


def _difference(
    payment: Payment, call: ProviderCall, response: ProviderResponse, policy: RetryPolicy, now: datetime
) -> PaymentDecision | None:
    """The first thing in the provider's record that the payment does not have; None where there is none."""
    if payment.captured:
        return (
            _refund_difference(payment, response.refunds)
            or _dispute_difference(payment, response.disputes)
            or _refund_lost_to_dispute(payment)
            or _refund_that_exceeds(payment)
        )
    match response.code:
        case ResponseCode.CAPTURED:
            return captured(payment, call, response)
        case _ if payment.status in NOTHING_TAKEN:
            return None
        case ResponseCode.DECLINED:
            return settled(payment, PaymentStatus.DECLINED, PaymentDeclined, decline_reason(response))
        case ResponseCode.VOIDED:
            return settled(payment, PaymentStatus.VOIDED, PaymentVoided, response.reason or "voided at the provider")
        case ResponseCode.AUTHORIZED:
            return authorized(payment, response, policy, now)
        case ResponseCode.PENDING | ResponseCode.OPENED:
            return pending(payment, response, policy, now)
    return park(payment, f"the provider's record says {response.code}: {response.reason}")


def _refund_difference(payment: Payment, listed: tuple[ProviderRefund, ...]) -> PaymentDecision | None:
    for one in listed:
        known = _known_refund(payment, one)
        if known is None and one.code == ResponseCode.REFUNDED:
            return _refunded_elsewhere(payment, one)
        if known is None or known.status == RefundStatus.FAILED or known.by_other_means:
            continue
        if one.code == ResponseCode.REFUNDED and known.status != RefundStatus.DONE:
            return refunded(payment, known.refund_id, one.reference)
        if one.code == ResponseCode.DECLINED and known.status in (RefundStatus.PENDING, RefundStatus.DONE):
            return refund_failed(payment, known, one.reason)
    return None


def _known_refund(payment: Payment, listed: ProviderRefund) -> Refund | None:
    ids = {listed.refund_id, listed.reference} - {""}
    return next((one for one in payment.refunds if {one.refund_id, one.reference} & ids), None)


def _refunded_elsewhere(payment: Payment, listed: ProviderRefund) -> PaymentDecision:
    refund = Refund(
        refund_id=listed.reference, value=listed.value, status=RefundStatus.DONE, reference=listed.reference
    )
    payment = without_excess(replace(payment, refunds=(*payment.refunds, refund)))
    return refund_ended(payment, PaymentRefunded, refund, "refunded at the provider")


def _refund_that_exceeds(payment: Payment) -> PaymentDecision | None:
    """A refund that the provider has not made and declines, since refunds at the provider have left too little for it."""
    refund = payment.open_refund
    if not refund or payment.reserved <= payment.captured:
        return None
    return given_up(payment, refund, "it is more than is left")


def _dispute_difference(payment: Payment, listed: tuple[ProviderDispute, ...]) -> PaymentDecision | None:
    known = {dispute.dispute_id: dispute for dispute in payment.disputes}
    for one in listed:
        before = known.get(one.reference)
        if before is None:
            opened = Dispute(dispute_id=one.reference, value=one.value, status=DisputeStatus.OPEN)
            payment = replace(payment, disputes=(*payment.disputes, opened), status=PaymentStatus.DISPUTED)
            return PaymentDecision(
                payment=payment,
                event=PaymentDisputed,
                due_in=0.0 if next_call(payment) else None,
                dispute=opened,
                detail=one.reason,
            )
        if one.status != before.status and before.status == DisputeStatus.OPEN:
            return _dispute_closed(payment, replace(before, status=one.status), one.reason)
    return None


def _refund_lost_to_dispute(payment: Payment) -> PaymentDecision | None:
    """A refund that waited for a dispute, which was lost: the money is the payer's already."""
    ended = payment.disputed and all(dispute.status != DisputeStatus.OPEN for dispute in payment.disputes)
    refund = payment.open_refund
    if not ended or not refund:
        return None
    return given_up(payment, refund, "the dispute was lost")


def _dispute_closed(payment: Payment, closed: Dispute, reason: str) -> PaymentDecision:
    disputes = tuple(closed if one.dispute_id == closed.dispute_id else one for one in payment.disputes)
    payment = replace(payment, disputes=disputes)
    payment = replace(payment, status=captured_status(payment))
    if payment.cancelled:
        payment = with_cancellation_refund(payment)
    return PaymentDecision(
        payment=payment,
        event=PaymentDisputeClosed,
        due_in=0.0 if next_call(payment) else None,
        dispute=closed,
        detail=reason,
    )
