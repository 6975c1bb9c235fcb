"""The next call to the provider, by what is known of the payment, and its key. Pure functions.

After an unknown outcome the provider may have acted: the call is looked up, then sent again with the same key. A provider
forgets a key some time after it first received it. The same key, sent again after that, repeats its effect: every call that
moves money has to pass `may_send` before it is sent. A payment that the provider has opened is found by its reference at any
time, and charged once however often it is asked for.
"""

from dataclasses import replace

from app.contracts.payments import PaymentStatus
from app.payments.payment import (
    MOVES_NOTHING,
    WAITING,
    Payment,
    PaymentDecision,
    Refund,
    RefundStatus,
    RetryPolicy,
    unparked,
)
from app.payments.provider_port import CallKind, ProviderCall


def may_send(payment: Payment, key_age: float, policy: RetryPolicy) -> bool:
    """Whether the next call may be sent, not only looked up: checked right before each call that changes something.

    `key_age` is how many seconds ago the provider may first have received its key. A key that it cannot have received may
    be sent at any time. So may a call that moves no money, and one that acts on the payment that its reference names.
    """
    if next_kind(payment) in MOVES_NOTHING or names_payment(payment):
        return True
    return not payment.key_sent or key_age < policy.key_life


def next_call(payment: Payment) -> ProviderCall | None:
    """The call to make next; None where nothing is to be done."""
    kind = next_kind(payment)
    refund = payment.open_refund if kind == CallKind.REFUND or payment.status == PaymentStatus.REFUNDING else None
    return _provider_call(payment, kind, refund) if kind else None


def with_refresh(decision: PaymentDecision) -> PaymentDecision:
    """`decision`, due at once where a refresh was requested and no other call is planned."""
    if decision.due_in is None and decision.payment.refresh_requested and next_call(decision.payment):
        return replace(decision, due_in=0.0)
    return decision


def reset_key_sent(before: Payment, after: Payment) -> Payment:
    """`after`, which follows `before`: if its next call has another key, that key has not been sent."""
    unsent = next_key(after) not in ("", next_key(before))
    return replace(after, key_sent=False, first_send=False) if unsent else after


def retrieval(payment: Payment, reference: str) -> ProviderCall:
    """The call that asks the provider for its record of `reference`, which is one of the order's payments there."""
    return _provider_call(replace(payment, reference=reference), CallKind.RETRIEVE, None)


def next_kind(payment: Payment) -> CallKind | None:
    """The kind of the next call; None where nothing is to be done."""
    voids = payment.cancelled or payment.expired
    match payment.status:
        case PaymentStatus.PROCESSING if voids:
            return CallKind.VOID
        case PaymentStatus.PROCESSING:
            return CallKind.OPEN if payment.opens and not payment.reference else CallKind.CHARGE
        case PaymentStatus.PENDING | PaymentStatus.ACTION_REQUIRED:
            return CallKind.VOID if voids else CallKind.RETRIEVE
        case PaymentStatus.AUTHORIZED:
            return CallKind.VOID if voids else CallKind.CAPTURE if payment.capture_value else CallKind.RETRIEVE
        case PaymentStatus.REFUNDING if payment.open_refund:
            pending = payment.open_refund.status == RefundStatus.PENDING
            return CallKind.RETRIEVE if pending else CallKind.REFUND
    return CallKind.RETRIEVE if payment.refresh_requested and payment.reference else None


def names_payment(payment: Payment) -> bool:
    """Whether the next call acts on the payment that its reference names, so that it has its effect once at any age.

    A charge does so only where the provider has opened the payment; a refund never does.
    """
    kind = next_kind(payment)
    by_reference = kind in (CallKind.VOID, CallKind.CAPTURE) or (kind == CallKind.CHARGE and payment.opens)
    return by_reference and bool(payment.reference)


def next_key(payment: Payment) -> str:
    """The idempotency key of the next call, also of a parked payment; empty where there is none."""
    call = next_call(unparked(payment) if payment.status == PaymentStatus.UNKNOWN else payment)
    return call.key if call else ""


def _provider_call(payment: Payment, kind: CallKind, refund: Refund | None) -> ProviderCall:
    charge_key = f"{payment.order_id}:{payment.generation}"
    values = {CallKind.REFUND: refund.value if refund else 0, CallKind.CAPTURE: payment.capture_value}
    return ProviderCall(
        kind=kind,
        key=_key(payment, charge_key, kind, refund),
        charge_key=charge_key,
        order_id=payment.order_id,
        product_id=payment.product_id,
        value=values.get(kind, payment.total.value),
        currency=payment.total.currency,
        refund_id=refund.refund_id if refund else "",
        reference=payment.reference,
        payment_method=payment.payment_method,
        return_url=payment.return_url,
        manual_capture=payment.manual_capture,
        refresh=payment.refreshes_requested,
        request_id=_cause_of_call(payment, kind, refund),
    )


def _cause_of_call(payment: Payment, kind: CallKind, refund: Refund | None) -> str:
    """The HTTP request that caused a call. A refund or a capture that an older version stored has none: then the first one."""
    if kind == CallKind.RETRIEVE and not refund and payment.status not in WAITING:
        return payment.refresh_request_id
    asked = ""
    match kind:
        case CallKind.REFUND | CallKind.RETRIEVE if refund:
            asked = refund.request_id
        case CallKind.CAPTURE:
            asked = payment.capture_request_id
        case CallKind.VOID:
            asked = payment.cancel_request_id
    return asked or payment.request_id


def _key(payment: Payment, charge_key: str, kind: CallKind, refund: Refund | None) -> str:
    if refund:
        return f"{charge_key}:refund:{refund.refund_id}"
    match kind:
        case CallKind.OPEN:
            # Opening moves no money, and only the payment that is stored is charged: each attempt opens another one.
            return f"{charge_key}:open:{payment.fencing_token}"
        case CallKind.CAPTURE:
            return f"{charge_key}:capture"
        case CallKind.RETRIEVE if payment.status not in WAITING:
            return f"{charge_key}:retrieve"
    return charge_key
