"""A payment: the next call to the provider, and what each response to it means. Pure functions.

Every function returns a new payment or a decision and changes nothing. A response is one of: captured, declined, voided,
refunded, not attempted (the provider never got the request: trying again is safe at once) and unknown (the provider may
have acted: look up the key, then send again with the same key).

A provider forgets a key some time after it first received it. The same key, sent again after that, repeats its effect:
every charge, void and refund has to pass `may_send` before it is sent.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from app.contracts.base import Event, Money
from app.contracts.orders import OrderCreated
from app.contracts.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentEvent,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentStatus,
    PaymentVoided,
)

# The id of the refund that a cancellation makes; requested refunds have ids of their own.
CANCELLATION_REFUND = "cancel"


class ResponseCode(StrEnum):
    """What a provider may answer."""

    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDED = "voided"
    REFUNDED = "refunded"
    NOT_ATTEMPTED = "not attempted"
    UNKNOWN = "unknown"


class CallKind(StrEnum):
    """The calls that change something at a provider."""

    CHARGE = "charge"
    VOID = "void"
    REFUND = "refund"


@dataclass(frozen=True, kw_only=True)
class ProviderResponse:
    """A provider's answer to a call. `retry_after` is the pause that it asks for, in seconds.

    `counts_as_try` is false where the provider was not called. `blames_provider` is false where a failure says nothing
    about the provider's health.
    """

    code: ResponseCode
    reference: str = ""
    reason: str = ""
    retry_after: float = 0.0
    counts_as_try: bool = True
    blames_provider: bool = True


@dataclass(frozen=True, kw_only=True)
class Refund:
    """A part of the captured amount that goes back to the payer; `value` in minor units."""

    refund_id: str
    value: int
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class ProviderCall:
    """One call to a provider; `key` is its idempotency key and never changes for the same effect."""

    kind: CallKind
    key: str
    charge_key: str
    order_id: str
    product_id: str
    value: int
    currency: str
    refund_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Payment:
    """The payment of one order.

    `fencing_token` is the number of the latest attempt: a result with an older one is not recorded. `retry_count` counts the
    tries since the last progress. `key_sent`: the provider may have received the key of the next call. `first_send`: the
    attempt under way is the first that may send it. `requested_at`: when the open work was requested, in UTC.
    `traceparent` is the trace of the event that last requested work.
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

    @property
    def unreserved(self) -> int:
        """The part of the captured amount that no refund, made or pending, gives back."""
        return self.captured - sum(refund.value for refund in self.refunds)

    @property
    def refunded(self) -> int:
        """The sum of all refunds made so far."""
        return sum(refund.value for refund in self.refunds if refund.done)

    @property
    def pending_refund(self) -> Refund | None:
        """The refund to make next."""
        return next((refund for refund in self.refunds if not refund.done), None)


@dataclass(frozen=True, kw_only=True)
class PaymentDecision:
    """A payment after something happened, and the class of the event to publish, None for no event.

    `due_in` is in how many seconds to call the provider (again), None for never. `refund` and `detail` (the reference of
    a capture, the reason of anything else) are data of the event.
    """

    payment: Payment
    event: type[PaymentEvent] | None = None
    due_in: float | None = None
    refund: Refund | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long an unsettled call is repeated; times in seconds.

    No key older than `key_life` is sent. `key_life` ends before the provider forgets the key, by a margin for the call
    itself. `horizon` ends automatic retries, and is shorter.
    """

    max_tries: int
    horizon: float
    key_life: float
    backoff: float
    backoff_max: float


def open_payment(event: OrderCreated) -> Payment:
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
    )


def claim(payment: Payment) -> Payment:
    """The payment with a new fencing token, whose attempt may send the next call."""
    token, retry_count = payment.fencing_token + 1, payment.retry_count + 1
    return replace(
        payment, fencing_token=token, retry_count=retry_count, key_sent=True, first_send=not payment.key_sent
    )


def may_send(payment: Payment, key_age: float, policy: RetryPolicy) -> bool:
    """Whether the next call may be sent, not only looked up: checked right before each charge, void and refund.

    `key_age` is how many seconds ago the provider may first have received its key. A key that it cannot have received may
    be sent at any time.
    """
    return not payment.key_sent or key_age < policy.key_life


def next_call(payment: Payment) -> ProviderCall | None:
    """The call to make next; None where nothing is to be done."""
    if payment.status == PaymentStatus.PROCESSING:
        return _provider_call(payment, CallKind.VOID if payment.cancelled else CallKind.CHARGE)
    if payment.status == PaymentStatus.REFUNDING and payment.pending_refund:
        return _provider_call(payment, CallKind.REFUND, payment.pending_refund)
    return None


def cancel(payment: Payment) -> PaymentDecision:
    """The order was cancelled: void a charge that may not have happened, refund what was captured."""
    payment = replace(payment, cancelled=True)
    if payment.status in (PaymentStatus.PROCESSING, PaymentStatus.UNKNOWN) and not payment.captured:
        if not payment.key_sent:
            return _settled(payment, PaymentStatus.VOIDED, PaymentVoided)
        reopened = replace(payment, status=PaymentStatus.PROCESSING, parked_reason="", retry_count=0)
        return PaymentDecision(payment=reopened, due_in=0.0)
    if payment.unreserved > 0:
        return PaymentDecision(payment=_with_cancellation_refund(payment), due_in=0.0)
    if not payment.pending_refund:
        return PaymentDecision(payment=payment)
    return PaymentDecision(
        payment=_unparked(payment) if payment.status == PaymentStatus.UNKNOWN else payment, due_in=0.0
    )


def request_refund(payment: Payment, refund: Refund) -> PaymentDecision:
    """Give back a part of the captured amount. Raises ValueError where it exceeds what is left."""
    if any(known.refund_id == refund.refund_id for known in payment.refunds):
        return PaymentDecision(payment=payment, due_in=0.0 if payment.pending_refund else None)
    if refund.value > payment.unreserved:
        raise ValueError(f"refund {refund.refund_id} exceeds what was captured for order {payment.order_id}")
    return PaymentDecision(payment=_with_refund(payment, refund), due_in=0.0)


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
    payment: Payment, call: ProviderCall, response: ProviderResponse, key_age: float, policy: RetryPolicy
) -> PaymentDecision:
    """What the provider's response to `call` leads to; `key_age` as in `may_send`."""
    match call.kind, response.code:
        case ((CallKind.CHARGE | CallKind.VOID), ResponseCode.CAPTURED):
            return _captured(payment, response)
        case ((CallKind.CHARGE | CallKind.VOID), ResponseCode.DECLINED):
            return _settled(payment, PaymentStatus.DECLINED, PaymentDeclined, response.reason)
        case ((CallKind.CHARGE | CallKind.VOID), ResponseCode.VOIDED):
            return _settled(payment, PaymentStatus.VOIDED, PaymentVoided, response.reason)
        case CallKind.REFUND, ResponseCode.REFUNDED:
            return _refunded(payment, call.refund_id)
        case _, (ResponseCode.NOT_ATTEMPTED | ResponseCode.UNKNOWN):
            return _retry_or_park(payment, response, key_age, policy)
    return _parked(payment, f"{call.kind} was answered with {response.code}: {response.reason}")


def park_if_exhausted(payment: Payment, policy: RetryPolicy) -> PaymentDecision | None:
    """Park a payment that was claimed more than `max_tries` times without a result; None where it was not."""
    if payment.retry_count <= policy.max_tries:
        return None
    return _parked(payment, f"not settled after {policy.max_tries} tries")


def retry(payment: Payment) -> PaymentDecision:
    """Reopen a parked payment, with the same key. Raises ValueError where it is not parked."""
    return PaymentDecision(payment=_unparked(payment), due_in=0.0)


def resolve(payment: Payment, response: ProviderResponse, policy: RetryPolicy) -> PaymentDecision:
    """Settle a parked payment by what an operator found out. Raises ValueError where its call cannot end like that."""
    payment = _unparked(payment)
    call = next_call(payment)
    if call is None:
        raise ValueError("there is nothing to resolve")
    decision = apply_response(payment, call, response, 0.0, policy)
    if decision.event in (None, PaymentParked):
        raise ValueError(f"a {call.kind} cannot be resolved as {response.code}")
    return decision


def drop_refund(payment: Payment, refund_id: str, reason: str) -> PaymentDecision:
    """Drop the refund that a parked payment waits for. If the order is cancelled, its cancellation gives the amount back.

    Raises ValueError where the payment does not wait for this refund, or where it is the cancellation's own.
    """
    payment, refund = _unparked(payment), payment.pending_refund
    if refund is None or refund.refund_id != refund_id:
        raise ValueError(f"this payment does not wait for a refund {refund_id}")
    if refund_id == CANCELLATION_REFUND:
        raise ValueError("a cancelled order's money goes back: refund it by other means, then resolve it as refunded")
    dropped = (refund_id, CANCELLATION_REFUND)
    refunds = tuple(other for other in payment.refunds if other.done or other.refund_id not in dropped)
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


def _time(event: Event) -> datetime:
    return datetime.fromtimestamp(event.at / 1000, UTC)


def _next_key(payment: Payment) -> str:
    call = next_call(_unparked(payment) if payment.status == PaymentStatus.UNKNOWN else payment)
    return call.key if call else ""


def _unparked(payment: Payment) -> Payment:
    if payment.status != PaymentStatus.UNKNOWN:
        raise ValueError(f"this payment is {payment.status}, not parked")
    status = PaymentStatus.REFUNDING if payment.captured else PaymentStatus.PROCESSING
    return replace(payment, status=status, parked_reason="", retry_count=0)


def _provider_call(payment: Payment, kind: CallKind, refund: Refund | None = None) -> ProviderCall:
    charge_key = f"{payment.order_id}:{payment.generation}"
    return ProviderCall(
        kind=kind,
        key=f"{charge_key}:refund:{refund.refund_id}" if refund else charge_key,
        charge_key=charge_key,
        order_id=payment.order_id,
        product_id=payment.product_id,
        value=refund.value if refund else payment.total.value,
        currency=payment.total.currency,
        refund_id=refund.refund_id if refund else "",
    )


def _captured(payment: Payment, response: ProviderResponse) -> PaymentDecision:
    payment = replace(
        payment,
        status=PaymentStatus.CAPTURED,
        captured=payment.total.value,
        reference=response.reference,
        retry_count=0,
    )
    if payment.cancelled:
        payment = _with_cancellation_refund(payment)
    return PaymentDecision(
        payment=payment,
        event=PaymentCaptured,
        due_in=0.0 if payment.pending_refund else None,
        detail=response.reference,
    )


def _settled(payment: Payment, status: PaymentStatus, event: type[PaymentEvent], detail: str = "") -> PaymentDecision:
    payment = replace(payment, status=status, parked_reason="", retry_count=0)
    return PaymentDecision(payment=payment, event=event, detail=detail)


def _with_refund(payment: Payment, refund: Refund) -> Payment:
    refunds = (*payment.refunds, refund)
    return replace(payment, status=PaymentStatus.REFUNDING, refunds=refunds, parked_reason="", retry_count=0)


def _with_cancellation_refund(payment: Payment) -> Payment:
    return _with_refund(payment, Refund(refund_id=CANCELLATION_REFUND, value=payment.unreserved))


def _refunded(payment: Payment, refund_id: str) -> PaymentDecision:
    refunds = tuple(
        replace(refund, done=True) if refund.refund_id == refund_id else refund for refund in payment.refunds
    )
    done = next(refund for refund in refunds if refund.refund_id == refund_id)
    return _refund_ended(replace(payment, refunds=refunds, retry_count=0), PaymentRefunded, done)


def _refund_ended(payment: Payment, event: type[PaymentEvent], refund: Refund, detail: str = "") -> PaymentDecision:
    if payment.pending_refund:
        status = PaymentStatus.REFUNDING
    else:
        status = PaymentStatus.REFUNDED if payment.refunded >= payment.captured else PaymentStatus.CAPTURED
    return PaymentDecision(
        payment=replace(payment, status=status),
        event=event,
        due_in=0.0 if payment.pending_refund else None,
        refund=refund,
        detail=detail,
    )


def _retry_or_park(
    payment: Payment, response: ProviderResponse, key_age: float, policy: RetryPolicy
) -> PaymentDecision:
    payment = _after_failure(payment, response)
    too_late = payment.retry_count >= policy.max_tries or key_age >= min(policy.horizon, policy.key_life)
    if response.counts_as_try and too_late:
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
