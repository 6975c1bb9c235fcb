"""What became of a charge: opened, authorized, captured, voided, declined, or known later. Pure functions."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from app.contracts.payments import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDelayed,
    PaymentEvent,
    PaymentStatus,
    PaymentVoided,
)
from app.payments.payment import NOTHING_TAKEN, Payment, PaymentDecision, RetryPolicy
from app.payments.provider_calls import next_call
from app.payments.provider_port import CallKind, ProviderCall, ProviderResponse
from app.payments.refund_outcomes import with_cancellation_refund


def opened(payment: Payment, response: ProviderResponse) -> PaymentDecision:
    """The provider has opened the payment: its reference is stored before it is charged."""
    payment = replace(payment, reference=payment.reference or response.reference, retry_count=0)
    return PaymentDecision(payment=payment, due_in=0.0 if next_call(payment) else None)


def captured(payment: Payment, call: ProviderCall, response: ProviderResponse) -> PaymentDecision:
    """The money was taken; what a cancelled order, or one whose payment had ended before, has paid goes back."""
    late = payment.status in NOTHING_TAKEN
    payment = _done_waiting(
        payment,
        status=PaymentStatus.CAPTURED,
        captured=response.value or (call.value if call.kind == CallKind.CAPTURE else payment.total.value),
        reference=response.reference or payment.reference,
    )
    if payment.cancelled or late:
        payment = with_cancellation_refund(payment)
    return PaymentDecision(
        payment=payment,
        event=PaymentCaptured,
        due_in=0.0 if payment.open_refund else None,
        detail=response.reference or payment.reference,
    )


def voided(payment: Payment, call: ProviderCall, response: ProviderResponse) -> PaymentDecision:
    """Nothing was taken, and nothing will be."""
    # Where nobody cancelled the order, its payment was voided because it had waited too long.
    expired = call.kind == CallKind.VOID and not payment.cancelled
    return settled(
        payment, PaymentStatus.VOIDED, PaymentVoided, response.reason or ("it waited too long" if expired else "")
    )


def settled(payment: Payment, status: PaymentStatus, event: type[PaymentEvent], detail: str = "") -> PaymentDecision:
    """The payment ends with a status, and publishes `event`."""
    return PaymentDecision(payment=_done_waiting(payment, status=status), event=event, detail=detail)


def decline_reason(response: ProviderResponse) -> str:
    """Why the provider has declined, with its code and whether another try may help."""
    notes = [response.decline_code, "another try may succeed" if response.retry_helps else ""]
    said = ", ".join(note for note in notes if note)
    return f"{response.reason} ({said})" if said else response.reason


def authorized(payment: Payment, response: ProviderResponse, policy: RetryPolicy, now: datetime) -> PaymentDecision:
    """The money is held for a later capture. Where the order was cancelled meanwhile, it is released."""
    payment = replace(
        payment,
        authorized=response.value or payment.total.value,
        reference=response.reference or payment.reference,
        retry_count=0,
        action=None,
    )
    if payment.cancelled:
        return PaymentDecision(payment=replace(payment, status=PaymentStatus.PROCESSING), due_in=0.0)
    known = payment.status == PaymentStatus.AUTHORIZED
    if not known:
        payment = _waiting(payment, PaymentStatus.AUTHORIZED, now, policy.authorization_life)
    event = None if known else PaymentAuthorized
    return PaymentDecision(
        payment=payment, event=event, due_in=until_next_refresh(payment, policy, now), detail=payment.reference
    )


def pending(payment: Payment, response: ProviderResponse, policy: RetryPolicy, now: datetime) -> PaymentDecision:
    """The outcome follows later: the payment waits for its bank, or for its customer where an action is required."""
    status = PaymentStatus.ACTION_REQUIRED if response.action else PaymentStatus.PENDING
    changed = (status, response.action) != (payment.status, payment.action)
    payment = replace(payment, reference=response.reference or payment.reference, retry_count=0, action=response.action)
    if payment.waiting_since is None:
        payment = _waiting(payment, status, now, policy.pending_life)
    payment = replace(payment, status=status)
    event = (PaymentActionRequired if response.action else PaymentDelayed) if changed else None
    return PaymentDecision(
        payment=payment, event=event, due_in=until_next_refresh(payment, policy, now), detail=response.reason
    )


def until_next_refresh(payment: Payment, policy: RetryPolicy, now: datetime) -> float:
    """Until the next refresh: as long as the payment has waited so far, and not longer than it may wait."""
    if payment.waiting_since is None or payment.waits_until is None:
        return policy.poll_max
    waited = (now - payment.waiting_since).total_seconds()
    pause = min(max(waited, policy.poll_min), policy.poll_max)
    left = (payment.waits_until - now).total_seconds()
    return min(pause, left) if left > 0 else policy.poll_min


def _done_waiting(payment: Payment, **changes: Any) -> Payment:
    return replace(
        payment, parked_reason="", retry_count=0, waiting_since=None, waits_until=None, action=None, **changes
    )


def _waiting(payment: Payment, status: PaymentStatus, now: datetime, seconds: float) -> Payment:
    return replace(payment, status=status, waiting_since=now, waits_until=now + timedelta(seconds=seconds))
