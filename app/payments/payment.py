"""A payment: the next call to the provider, and what each response to it means. Pure functions.

Every function returns a new payment or a decision and changes nothing. A call that was not attempted may be repeated at once.
After an unknown outcome the provider may have acted: the call is looked up, then sent again with the same key.

A provider forgets a key some time after it first received it. The same key, sent again after that, repeats its effect:
every call that moves money has to pass `may_send` before it is sent. A payment that the provider has opened is found by its
reference at any time, and charged once however often it is asked for.

A payment that waits for its customer or for a bank is not sent again: it is refreshed from time to time, and at once where a
notification says so. What the provider's record shows decides, never the notification.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from app.contracts.base import Event, Money
from app.contracts.orders import OrderCreated
from app.contracts.payments import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentStatus,
    PaymentVoided,
)
from app.payments.provider_port import (
    CallKind,
    Capabilities,
    DisputeStatus,
    NextAction,
    ProviderCall,
    ProviderDispute,
    ProviderRefund,
    ProviderResponse,
    ResponseCode,
)

# The id of the refund that a cancellation makes; requested refunds have ids of their own.
CANCELLATION_REFUND = "cancel"


# What waits for the customer, for the provider's bank, or for a capture.
WAITING = frozenset({PaymentStatus.ACTION_REQUIRED, PaymentStatus.PENDING, PaymentStatus.AUTHORIZED})
# No money was taken, and none will be.
NOTHING_TAKEN = frozenset({PaymentStatus.DECLINED, PaymentStatus.VOIDED})
MOVES_NOTHING = frozenset({CallKind.OPEN, CallKind.RETRIEVE})
NOT_SETTLED = frozenset({ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN})


class RefundStatus(StrEnum):
    """How far a refund is: the provider has accepted a pending one and not made it."""

    REQUESTED = "requested"
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Refund:
    """A part of the captured amount that goes back to the payer; `value` in minor units.

    `reference` is the provider's id, empty where it is not known. A refund that was made at the provider, and not asked for by an
    order, has the provider's id as its `refund_id`.
    """

    refund_id: str
    value: int
    status: RefundStatus = RefundStatus.REQUESTED
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """A payer's objection to the charge; `value` in minor units, `dispute_id` is the provider's."""

    dispute_id: str
    value: int
    status: DisputeStatus


@dataclass(frozen=True, kw_only=True)
class Payment:
    """The payment of one order.

    `fencing_token` is the number of the latest attempt: a result with an older one is not recorded. `retry_count` counts the
    tries since the last progress. `key_sent`: the provider may have received the key of the next call. `first_send`: the
    attempt under way is the first that may send it. `requested_at`: when the open work was requested, in UTC.
    `traceparent` is the trace of the event that last requested work.

    `provider` is the name of the provider, and `opens` whether it opens payments before it charges them. `reference` is the
    provider's id of the payment. `authorized`, `captured` and `capture_value`, which is what a client asked to capture, are in
    minor units. `waiting_since` and `waits_until` bound the wait for a customer, a bank or a capture; `action` is what the
    customer must do. `refreshes_requested` and `refreshes_made` number the requests to refresh the payment.
    """

    order_id: str
    request_id: str
    user_id: str
    product_id: str
    total: Money
    requested_at: datetime
    status: PaymentStatus = PaymentStatus.PROCESSING
    cancelled: bool = False
    key_sent: bool = False
    first_send: bool = False
    captured: int = 0
    refunds: tuple[Refund, ...] = ()
    reference: str = ""
    parked_reason: str = ""
    generation: int = 1
    fencing_token: int = 0
    retry_count: int = 0
    sequence: int = 0
    order_sequence: int = 0
    version: int = 1
    traceparent: str = ""
    provider: str = ""
    opens: bool = False
    payment_method: str = ""
    return_url: str = ""
    manual_capture: bool = False
    authorized: int = 0
    capture_value: int = 0
    expired: bool = False
    waiting_since: datetime | None = None
    waits_until: datetime | None = None
    action: NextAction | None = None
    disputes: tuple[Dispute, ...] = ()
    refreshes_requested: int = 0
    refreshes_made: int = 0

    @property
    def reserved(self) -> int:
        """The sum of all refunds that were made or are to be made."""
        return sum(refund.value for refund in self.refunds if refund.status != RefundStatus.FAILED)

    @property
    def unreserved(self) -> int:
        """The part of the captured amount that no refund, made or pending, and no lost dispute takes back."""
        lost = sum(dispute.value for dispute in self.disputes if dispute.status == DisputeStatus.LOST)
        return max(0, self.captured - self.reserved - lost)

    @property
    def refunded(self) -> int:
        """The sum of all refunds made so far."""
        return sum(refund.value for refund in self.refunds if refund.status == RefundStatus.DONE)

    @property
    def open_refund(self) -> Refund | None:
        """The refund to make next, or else one that the provider has accepted and not made."""
        unfinished = [one for one in self.refunds if one.status in (RefundStatus.REQUESTED, RefundStatus.PENDING)]
        return min(unfinished, key=lambda one: one.status == RefundStatus.PENDING, default=None)

    @property
    def disputed(self) -> bool:
        """Whether a dispute is open or lost: the provider makes no refund."""
        return any(dispute.status != DisputeStatus.WON for dispute in self.disputes)

    @property
    def refresh_requested(self) -> bool:
        """Whether the provider's record of the payment is to be read."""
        return self.refreshes_requested > self.refreshes_made


@dataclass(frozen=True, kw_only=True)
class PaymentDecision:
    """A payment after something happened, and the class of the event to publish, None for no event.

    `due_in` is in how many seconds to call the provider (again), None for never. `refund`, `dispute` and `detail` (the reference
    of a capture, the reason of anything else) are data of the event.
    """

    payment: Payment
    event: type[PaymentEvent] | None = None
    due_in: float | None = None
    refund: Refund | None = None
    dispute: Dispute | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long an unsettled call is repeated; times in seconds.

    No key older than `key_life` is sent. `key_life` ends before the provider forgets the key, by a margin for the call
    itself. `horizon` ends automatic retries, and is shorter. `pending_life` and `authorization_life` end the wait for a
    customer or a bank, and for a capture; meanwhile the payment is refreshed after `poll_min`, and then after as long as it
    has waited, at most `poll_max`.
    """

    max_tries: int
    horizon: float
    key_life: float
    backoff: float
    backoff_max: float
    pending_life: float = 86_400.0
    authorization_life: float = 6 * 86_400.0
    poll_min: float = 60.0
    poll_max: float = 21_600.0


def open_payment(event: OrderCreated, provider: Capabilities) -> Payment:
    """The payment of a new order."""
    return Payment(
        order_id=event.order_id,
        request_id=event.request_id,
        user_id=event.user_id,
        product_id=event.product_id,
        total=Money(event.total_value, event.total_currency),
        requested_at=_time(event),
        order_sequence=event.sequence,
        traceparent=event.traceparent,
        provider=provider.name,
        opens=provider.opens,
        payment_method=event.payment_method,
        return_url=event.return_url,
        manual_capture=event.manual_capture,
    )


def claim(payment: Payment) -> Payment:
    """The payment with a new fencing token, whose attempt may send the next call."""
    token, retry_count = payment.fencing_token + 1, payment.retry_count + 1
    return replace(
        payment, fencing_token=token, retry_count=retry_count, key_sent=True, first_send=not payment.key_sent
    )


def expire_if_overdue(payment: Payment, now: datetime) -> Payment:
    """The payment, to be voided where its customer, its bank or its capture took too long."""
    if payment.status in WAITING and payment.waits_until and payment.waits_until <= now and not payment.capture_value:
        return replace(payment, expired=True)
    return payment


def may_send(payment: Payment, key_age: float, policy: RetryPolicy) -> bool:
    """Whether the next call may be sent, not only looked up: checked right before each call that changes something.

    `key_age` is how many seconds ago the provider may first have received its key. A key that it cannot have received may
    be sent at any time. So may a call that moves no money, and one that acts on the payment that its reference names.
    """
    if _next_kind(payment) in MOVES_NOTHING or _names_payment(payment):
        return True
    return not payment.key_sent or key_age < policy.key_life


def next_call(payment: Payment) -> ProviderCall | None:
    """The call to make next; None where nothing is to be done."""
    kind = _next_kind(payment)
    refund = payment.open_refund if kind == CallKind.REFUND or payment.status == PaymentStatus.REFUNDING else None
    return _provider_call(payment, kind, refund) if kind else None


def cancel(payment: Payment) -> PaymentDecision:
    """The order was cancelled: void a charge that may not have happened, refund what was captured."""
    payment = replace(payment, cancelled=True)
    if payment.status in NOTHING_TAKEN:
        return PaymentDecision(payment=payment)
    if not payment.captured:
        if not payment.reference and (payment.opens or not payment.key_sent):
            return _settled(payment, PaymentStatus.VOIDED, PaymentVoided)
        reopened = replace(payment, status=PaymentStatus.PROCESSING, parked_reason="", retry_count=0)
        return PaymentDecision(payment=reopened, due_in=0.0)
    if payment.disputed:
        return PaymentDecision(payment=payment)
    if payment.unreserved > 0:
        return PaymentDecision(payment=_with_cancellation_refund(payment), due_in=0.0)
    if not payment.open_refund:
        return PaymentDecision(payment=payment)
    return PaymentDecision(
        payment=_unparked(payment) if payment.status == PaymentStatus.UNKNOWN else payment, due_in=0.0
    )


def request_capture(payment: Payment, value: int) -> PaymentDecision:
    """Capture `value` of what is authorized. A payment that is not authorized any more does not change."""
    if payment.status != PaymentStatus.AUTHORIZED or payment.cancelled or payment.capture_value:
        return PaymentDecision(payment=payment, due_in=0.0 if next_call(payment) else None)
    if not 0 < value <= payment.authorized:
        raise ValueError(f"a capture of {value} exceeds what is authorized for order {payment.order_id}")
    return PaymentDecision(payment=replace(payment, capture_value=value, retry_count=0), due_in=0.0)


def request_refund(payment: Payment, refund: Refund) -> PaymentDecision:
    """Give back a part of the captured amount. Raises ValueError where nothing was captured.

    A refund of a disputed charge waits until the dispute has ended. One that exceeds what is left has failed: a refund in the
    provider's dashboard or a dispute was faster than the order knew.
    """
    if any(known.refund_id == refund.refund_id for known in payment.refunds):
        return PaymentDecision(payment=payment, due_in=0.0 if payment.open_refund else None)
    if not payment.captured:
        raise ValueError(f"refund {refund.refund_id}: nothing was captured for order {payment.order_id}")
    if refund.value > payment.unreserved:
        failed = replace(refund, status=RefundStatus.FAILED)
        refused = replace(payment, refunds=(*payment.refunds, failed))
        due_in = 0.0 if next_call(refused) else None
        return PaymentDecision(
            payment=refused, event=PaymentRefundFailed, due_in=due_in, refund=failed, detail="it is more than is left"
        )
    after = _with_refund(payment, refund)
    return PaymentDecision(payment=after, due_in=0.0 if next_call(after) else None)


def request_refresh(payment: Payment) -> PaymentDecision:
    """Read the provider's record of the payment as soon as no other call is to be made."""
    after = replace(payment, refreshes_requested=payment.refreshes_requested + 1)
    return PaymentDecision(payment=after, due_in=0.0 if next_call(after) else None)


def with_cause(before: Payment, decision: PaymentDecision, event: Event) -> PaymentDecision:
    """`decision` on `before`, marked as the effect of the order event `event`."""
    begins = not _next_key(before) and _next_key(decision.payment)
    payment = replace(
        decision.payment,
        order_sequence=event.sequence,
        requested_at=_time(event) if begins else before.requested_at,
        traceparent=event.traceparent or before.traceparent,
    )
    return replace(decision, payment=payment)


def apply_response(
    payment: Payment,
    call: ProviderCall,
    response: ProviderResponse,
    key_age: float,
    policy: RetryPolicy,
    now: datetime,
) -> PaymentDecision:
    """What the provider's response to `call` leads to; `key_age` as in `may_send`."""
    if call.kind == CallKind.RETRIEVE:
        return _retrieved(payment, call, response, policy, now)
    still_authorized = call.kind == CallKind.VOID and response.code == ResponseCode.AUTHORIZED
    if response.code in NOT_SETTLED or still_authorized:
        return _retry_or_park(payment, response, key_age, policy)
    if call.kind == CallKind.REFUND:
        return _refund_answered(payment, call, response, policy)
    match call.kind, response.code:
        case CallKind.OPEN, ResponseCode.OPENED:
            return _opened(payment, response)
        case ((CallKind.CHARGE | CallKind.VOID | CallKind.CAPTURE), ResponseCode.CAPTURED):
            return _captured(payment, call, response)
        case ((CallKind.OPEN | CallKind.CHARGE | CallKind.VOID), ResponseCode.DECLINED):
            return _settled(payment, PaymentStatus.DECLINED, PaymentDeclined, _decline_reason(response))
        case ((CallKind.CHARGE | CallKind.VOID | CallKind.CAPTURE), ResponseCode.VOIDED):
            return _voided(payment, call, response)
        case CallKind.CHARGE, ResponseCode.AUTHORIZED:
            return _authorized(payment, response, policy, now)
        case ((CallKind.CHARGE | CallKind.VOID | CallKind.CAPTURE), ResponseCode.PENDING):
            return _pending(payment, response, policy, now)
    return _parked_by(payment, call, response)


def with_refresh(decision: PaymentDecision) -> PaymentDecision:
    """`decision`, due at once where a refresh was requested and no other call is planned."""
    if decision.due_in is None and decision.payment.refresh_requested and next_call(decision.payment):
        return replace(decision, due_in=0.0)
    return decision


def park_if_exhausted(payment: Payment, policy: RetryPolicy) -> PaymentDecision | None:
    """Park a payment that was claimed more than `max_tries` times without a result; None where it was not."""
    if payment.retry_count <= policy.max_tries or _next_kind(payment) == CallKind.RETRIEVE:
        return None
    return _parked(payment, f"not settled after {policy.max_tries} tries")


def retry(payment: Payment) -> PaymentDecision:
    """Reopen a parked payment, with the same key. Raises ValueError where it is not parked."""
    return PaymentDecision(payment=_unparked(payment), due_in=0.0)


def resolve(payment: Payment, response: ProviderResponse, policy: RetryPolicy, now: datetime) -> PaymentDecision:
    """Settle a parked payment by what an operator found out. Raises ValueError where its call cannot end like that."""
    payment = _unparked(payment)
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
    payment, refund = _unparked(payment), payment.open_refund
    if refund is None or refund.refund_id != refund_id:
        raise ValueError(f"this payment does not wait for a refund {refund_id}")
    if _is_cancellation(refund_id):
        raise ValueError("a cancelled order's money goes back: refund it by other means, then resolve it as refunded")
    refunds = tuple(
        other
        for other in payment.refunds
        if other.status in (RefundStatus.DONE, RefundStatus.FAILED)
        or not (other.refund_id == refund_id or _is_cancellation(other.refund_id))
    )
    payment = replace(payment, refunds=refunds)
    if payment.cancelled:
        payment = _with_cancellation_refund(payment)
    return _refund_ended(payment, PaymentRefundFailed, refund, reason)


def reset_key_sent(before: Payment, after: Payment) -> Payment:
    """`after`, which follows `before`: if its next call has another key, that key has not been sent."""
    unsent = _next_key(after) not in ("", _next_key(before))
    return replace(after, key_sent=False, first_send=False) if unsent else after


def backoff(retry_count: int, policy: RetryPolicy) -> float:
    """The longest pause before the next try, in seconds; the caller draws between half of it and all of it."""
    return min(policy.backoff * 2.0 ** min(max(0, retry_count - 1), 64), policy.backoff_max)


def retrieval(payment: Payment, reference: str) -> ProviderCall:
    """The call that asks the provider for its record of `reference`, which is one of the order's payments there."""
    return _provider_call(replace(payment, reference=reference), CallKind.RETRIEVE, None)


def _time(event: Event) -> datetime:
    return datetime.fromtimestamp(event.at / 1000, UTC)


def _next_kind(payment: Payment) -> CallKind | None:
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


def _names_payment(payment: Payment) -> bool:
    """Whether the next call acts on the payment that its reference names, so that it has its effect once at any age.

    A charge does so only where the provider has opened the payment; a refund never does.
    """
    kind = _next_kind(payment)
    by_reference = kind in (CallKind.VOID, CallKind.CAPTURE) or (kind == CallKind.CHARGE and payment.opens)
    return by_reference and bool(payment.reference)


def _next_key(payment: Payment) -> str:
    call = next_call(_unparked(payment) if payment.status == PaymentStatus.UNKNOWN else payment)
    return call.key if call else ""


def _unparked(payment: Payment) -> Payment:
    if payment.status != PaymentStatus.UNKNOWN:
        raise ValueError(f"this payment is {payment.status}, not parked")
    return replace(payment, status=_open_status(payment), parked_reason="", retry_count=0)


def _open_status(payment: Payment) -> PaymentStatus:
    """The status of a payment whose outcome is not known, by what is known of its money."""
    if payment.captured:
        return _captured_status(payment)
    if payment.cancelled or payment.waiting_since is None:
        return PaymentStatus.PROCESSING
    # It was charged, so that its outcome is only read.
    return PaymentStatus.AUTHORIZED if payment.authorized else PaymentStatus.PENDING


def _captured_status(payment: Payment) -> PaymentStatus:
    if payment.disputed:
        return PaymentStatus.DISPUTED
    if payment.open_refund:
        return PaymentStatus.REFUNDING
    return PaymentStatus.REFUNDED if payment.refunded >= payment.captured else PaymentStatus.CAPTURED


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
    )


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


def _opened(payment: Payment, response: ProviderResponse) -> PaymentDecision:
    payment = replace(payment, reference=payment.reference or response.reference, retry_count=0)
    return PaymentDecision(payment=payment, due_in=0.0 if next_call(payment) else None)


def _captured(payment: Payment, call: ProviderCall, response: ProviderResponse) -> PaymentDecision:
    late = payment.status in NOTHING_TAKEN
    payment = _done_waiting(
        payment,
        status=PaymentStatus.CAPTURED,
        captured=response.value or (call.value if call.kind == CallKind.CAPTURE else payment.total.value),
        reference=response.reference or payment.reference,
    )
    if payment.cancelled or late:
        payment = _with_cancellation_refund(payment)
    return PaymentDecision(
        payment=payment,
        event=PaymentCaptured,
        due_in=0.0 if payment.open_refund else None,
        detail=response.reference or payment.reference,
    )


def _voided(payment: Payment, call: ProviderCall, response: ProviderResponse) -> PaymentDecision:
    # Where nobody cancelled the order, its payment was voided because it had waited too long.
    expired = call.kind == CallKind.VOID and not payment.cancelled
    return _settled(
        payment, PaymentStatus.VOIDED, PaymentVoided, response.reason or ("it waited too long" if expired else "")
    )


def _settled(payment: Payment, status: PaymentStatus, event: type[PaymentEvent], detail: str = "") -> PaymentDecision:
    return PaymentDecision(payment=_done_waiting(payment, status=status), event=event, detail=detail)


def _done_waiting(payment: Payment, **changes: Any) -> Payment:
    return replace(
        payment, parked_reason="", retry_count=0, waiting_since=None, waits_until=None, action=None, **changes
    )


def _decline_reason(response: ProviderResponse) -> str:
    notes = [response.decline_code, "another try may succeed" if response.retry_helps else ""]
    said = ", ".join(note for note in notes if note)
    return f"{response.reason} ({said})" if said else response.reason


def _authorized(payment: Payment, response: ProviderResponse, policy: RetryPolicy, now: datetime) -> PaymentDecision:
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
    return PaymentDecision(payment=payment, event=event, due_in=_pause(payment, policy, now), detail=payment.reference)


def _pending(payment: Payment, response: ProviderResponse, policy: RetryPolicy, now: datetime) -> PaymentDecision:
    status = PaymentStatus.ACTION_REQUIRED if response.action else PaymentStatus.PENDING
    changed = (status, response.action) != (payment.status, payment.action)
    payment = replace(payment, reference=response.reference or payment.reference, retry_count=0, action=response.action)
    if payment.waiting_since is None:
        payment = _waiting(payment, status, now, policy.pending_life)
    payment = replace(payment, status=status)
    event = (PaymentActionRequired if response.action else PaymentDelayed) if changed else None
    return PaymentDecision(payment=payment, event=event, due_in=_pause(payment, policy, now), detail=response.reason)


def _waiting(payment: Payment, status: PaymentStatus, now: datetime, seconds: float) -> Payment:
    return replace(payment, status=status, waiting_since=now, waits_until=now + timedelta(seconds=seconds))


def _pause(payment: Payment, policy: RetryPolicy, now: datetime) -> float:
    """Until the next refresh: as long as the payment has waited so far, and not longer than it may wait."""
    if payment.waiting_since is None or payment.waits_until is None:
        return policy.poll_max
    waited = (now - payment.waiting_since).total_seconds()
    pause = min(max(waited, policy.poll_min), policy.poll_max)
    left = (payment.waits_until - now).total_seconds()
    return min(pause, left) if left > 0 else policy.poll_min


def _with_refund(payment: Payment, refund: Refund) -> Payment:
    payment = replace(payment, refunds=(*payment.refunds, refund), parked_reason="", retry_count=0)
    return replace(payment, status=_captured_status(payment))


def _with_cancellation_refund(payment: Payment) -> Payment:
    if not payment.unreserved or payment.disputed:
        return payment
    earlier = sum(_is_cancellation(refund.refund_id) for refund in payment.refunds)
    refund_id = f"{CANCELLATION_REFUND}-{earlier + 1}" if earlier else CANCELLATION_REFUND
    return _with_refund(payment, Refund(refund_id=refund_id, value=payment.unreserved))


def _is_cancellation(refund_id: str) -> bool:
    return refund_id.partition("-")[0] == CANCELLATION_REFUND


def _refund_answered(
    payment: Payment, call: ProviderCall, response: ProviderResponse, policy: RetryPolicy
) -> PaymentDecision:
    match response.code:
        case ResponseCode.REFUNDED:
            return _refunded(payment, call.refund_id, response.reference)
        case ResponseCode.PENDING:
            return _refund_pending(payment, call.refund_id, response.reference, policy)
    return _parked_by(payment, call, response)


def _parked_by(payment: Payment, call: ProviderCall, response: ProviderResponse) -> PaymentDecision:
    return _parked(payment, f"{call.kind} was answered with {response.code}: {response.reason}")


def _refunded(payment: Payment, refund_id: str, reference: str = "") -> PaymentDecision:
    payment, done = _with_refund_status(payment, refund_id, RefundStatus.DONE, reference)
    return _refund_ended(replace(payment, retry_count=0), PaymentRefunded, done)


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


def _refund_ended(payment: Payment, event: type[PaymentEvent], refund: Refund, detail: str = "") -> PaymentDecision:
    payment = replace(payment, status=_captured_status(payment))
    return PaymentDecision(
        payment=payment, event=event, due_in=0.0 if next_call(payment) else None, refund=refund, detail=detail
    )


def _refund_failed(payment: Payment, refund: Refund, reason: str) -> PaymentDecision:
    """A refund that the provider had accepted, or made, has failed."""
    if payment.cancelled and not payment.disputed:
        # All of a cancelled order's money goes back, and this way does not work.
        payment = _with_cancellation_refund(_with_failed(payment, refund))
        return _parked(payment, f"refund {refund.refund_id} failed, give it back by other means: {reason}")
    return _given_up(payment, refund, reason or "the refund failed at the provider")


def _with_failed(payment: Payment, refund: Refund) -> Payment:
    return _with_refund_status(payment, refund.refund_id, RefundStatus.FAILED, refund.reference)[0]


def _given_up(payment: Payment, refund: Refund, reason: str) -> PaymentDecision:
    failed = replace(refund, status=RefundStatus.FAILED)
    return _refund_ended(_with_failed(payment, refund), PaymentRefundFailed, failed, reason)


def _retrieved(
    payment: Payment, call: ProviderCall, response: ProviderResponse, policy: RetryPolicy, now: datetime
) -> PaymentDecision:
    """What the provider's record of a payment leads to: the first difference is recorded, and then the next refresh follows."""
    payment = replace(payment, retry_count=0)
    if response.code in NOT_SETTLED:
        pause = max(_pause(payment, policy, now), response.retry_after)
        return PaymentDecision(payment=payment, due_in=pause if next_call(payment) else None)
    found = _difference(payment, call, response, policy, now)
    if found and found.event:
        return found
    payment = replace(found.payment if found else payment, refreshes_made=max(payment.refreshes_made, call.refresh))
    return PaymentDecision(payment=payment, due_in=_until_next_poll(payment, policy, now))


def _until_next_poll(payment: Payment, policy: RetryPolicy, now: datetime) -> float | None:
    kind = _next_kind(payment)
    if kind != CallKind.RETRIEVE or payment.refresh_requested:
        return 0.0 if kind else None
    return _pause(payment, policy, now)


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
            return _captured(payment, call, response)
        case _ if payment.status in NOTHING_TAKEN:
            return None
        case ResponseCode.DECLINED:
            return _settled(payment, PaymentStatus.DECLINED, PaymentDeclined, _decline_reason(response))
        case ResponseCode.VOIDED:
            return _settled(payment, PaymentStatus.VOIDED, PaymentVoided, response.reason or "voided at the provider")
        case ResponseCode.AUTHORIZED:
            return _authorized(payment, response, policy, now)
        case ResponseCode.PENDING | ResponseCode.OPENED:
            return _pending(payment, response, policy, now)
    return _parked(payment, f"the provider's record says {response.code}: {response.reason}")


def _refund_difference(payment: Payment, listed: tuple[ProviderRefund, ...]) -> PaymentDecision | None:
    for one in listed:
        known = _known_refund(payment, one)
        if known is None and one.code == ResponseCode.REFUNDED:
            return _refunded_elsewhere(payment, one)
        if known is None or known.status == RefundStatus.FAILED:
            continue
        if one.code == ResponseCode.REFUNDED and known.status != RefundStatus.DONE:
            return _refunded(payment, known.refund_id, one.reference)
        if one.code == ResponseCode.DECLINED and known.status in (RefundStatus.PENDING, RefundStatus.DONE):
            return _refund_failed(payment, known, one.reason)
    return None


def _known_refund(payment: Payment, listed: ProviderRefund) -> Refund | None:
    ids = {listed.refund_id, listed.reference} - {""}
    return next((one for one in payment.refunds if {one.refund_id, one.reference} & ids), None)


def _refunded_elsewhere(payment: Payment, listed: ProviderRefund) -> PaymentDecision:
    refund = Refund(
        refund_id=listed.reference, value=listed.value, status=RefundStatus.DONE, reference=listed.reference
    )
    payment = _without_excess(replace(payment, refunds=(*payment.refunds, refund)))
    return _refund_ended(payment, PaymentRefunded, refund, "refunded at the provider")


def _without_excess(payment: Payment) -> Payment:
    """The payment whose cancellation gives back no more than is left: the provider has not made it, and declines it."""
    refund = payment.open_refund
    if not refund or not _is_cancellation(refund.refund_id) or payment.reserved <= payment.captured:
        return payment
    return _with_cancellation_refund(_with_failed(payment, refund))


def _refund_that_exceeds(payment: Payment) -> PaymentDecision | None:
    """A refund that the provider has not made and declines, since refunds at the provider have left too little for it."""
    refund = payment.open_refund
    if not refund or payment.reserved <= payment.captured:
        return None
    return _given_up(payment, refund, "it is more than is left")


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
    return _given_up(payment, refund, "the dispute was lost")


def _dispute_closed(payment: Payment, closed: Dispute, reason: str) -> PaymentDecision:
    disputes = tuple(closed if one.dispute_id == closed.dispute_id else one for one in payment.disputes)
    payment = replace(payment, disputes=disputes)
    payment = replace(payment, status=_captured_status(payment))
    if payment.cancelled:
        payment = _with_cancellation_refund(payment)
    return PaymentDecision(
        payment=payment,
        event=PaymentDisputeClosed,
        due_in=0.0 if next_call(payment) else None,
        dispute=closed,
        detail=reason,
    )


def _retry_or_park(
    payment: Payment, response: ProviderResponse, key_age: float, policy: RetryPolicy
) -> PaymentDecision:
    payment = _after_failure(payment, response)
    too_old = not _names_payment(payment) and key_age >= min(policy.horizon, policy.key_life)
    if response.counts_as_try and (payment.retry_count >= policy.max_tries or too_old):
        return _parked(payment, response.reason)
    pause = max(backoff(payment.retry_count, policy), response.retry_after)
    return PaymentDecision(payment=payment, due_in=pause, detail=response.reason)


def _after_failure(payment: Payment, response: ProviderResponse) -> Payment:
    # The key stays unsent where no attempt has ever got it to the provider.
    unsent = payment.first_send and response.code == ResponseCode.NOT_ATTEMPTED
    retry_count = payment.retry_count if response.counts_as_try else max(0, payment.retry_count - 1)
    return replace(payment, retry_count=retry_count, key_sent=payment.key_sent and not unsent)


def _parked(payment: Payment, reason: str) -> PaymentDecision:
    payment = replace(payment, status=PaymentStatus.UNKNOWN, parked_reason=reason or "no reason given")
    return PaymentDecision(payment=payment, event=PaymentParked, detail=payment.parked_reason)
