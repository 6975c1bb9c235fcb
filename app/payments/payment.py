"""A payment: what to ask of the provider next, and what its answer means. Pure.

The provider's answer is one of: captured, declined, voided, refunded, not attempted (it never got the request, so
trying again is safe at once) and unknown (it may have done it; ask by key, then send again with the same key).

A provider forgets a key some time after it first received it. Sent again after that, the same key repeats its effect:
`may_send` is the one rule that every charge, void and refund has to pass before it is sent.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from app.contracts.base import Event
from app.contracts.orders import OrderCreated


class Status(StrEnum):
    """Where a payment is."""

    PROCESSING = "Processing"
    CAPTURED = "Captured"
    DECLINED = "Declined"
    VOIDED = "Voided"
    REFUNDING = "Refunding"
    REFUNDED = "Refunded"
    UNKNOWN = "Unknown"


class ResponseCode(StrEnum):
    """What a provider may answer."""

    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDED = "voided"
    REFUNDED = "refunded"
    NOT_ATTEMPTED = "not attempted"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What may be asked of a provider."""

    CHARGE = "charge"
    VOID = "void"
    REFUND = "refund"


class News(StrEnum):
    """What others should hear of a change."""

    CAPTURED = "PaymentCaptured"
    DECLINED = "PaymentDeclined"
    VOIDED = "PaymentVoided"
    REFUNDED = "PaymentRefunded"
    REFUND_FAILED = "PaymentRefundFailed"
    PARKED = "PaymentParked"


@dataclass(frozen=True, kw_only=True)
class ProviderResponse:
    """A provider's answer; `retry_after` in seconds where it asks for patience, `counts` false where it was not called.

    `blames_provider` is false where a failure says nothing about the provider's health.
    """

    answer: ResponseCode
    reference: str = ""
    reason: str = ""
    retry_after: float = 0.0
    counts: bool = True
    blames_provider: bool = True


@dataclass(frozen=True, kw_only=True)
class Refund:
    """A part of the captured amount that goes back; `value` in minor units."""

    refund_id: str
    value: int
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class Call:
    """One thing to ask of a provider; `key` is its idempotency key and never changes for the same effect."""

    kind: Kind
    key: str
    charge_key: str
    order_id: str
    product_id: str
    value: int
    currency: str
    refund_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Payment:
    """The payment of one order. `attempt` fences off workers that lost their lease; `tries` counts against the limit.

    `sent`: the provider may have received the key of the next call. `first_send`: the attempt under way is the first
    that may send it. `asked_at`: when the open work was asked for, in milliseconds since 1970. `traceparent` is the
    trace of the event that last asked for work.
    """

    order_id: str
    request_id: str
    user_id: str
    product_id: str
    total_value: int
    total_currency: str
    status: Status = Status.PROCESSING
    cancelled: bool = False
    sent: bool = False
    first_send: bool = False
    captured: int = 0
    refunds: tuple[Refund, ...] = ()
    reference: str = ""
    parked: str = ""
    generation: int = 1
    attempt: int = 0
    tries: int = 0
    sequence: int = 0
    order_sequence: int = 0
    version: int = 1
    asked_at: int = 0
    traceparent: str = ""

    @property
    def unreserved(self) -> int:
        """How much of the captured amount no refund, made or waiting, gives back."""
        return self.captured - sum(refund.value for refund in self.refunds)

    @property
    def refunded(self) -> int:
        """What has gone back so far."""
        return sum(refund.value for refund in self.refunds if refund.done)

    @property
    def pending_refund(self) -> Refund | None:
        """The refund to make next."""
        return next((refund for refund in self.refunds if not refund.done), None)


@dataclass(frozen=True, kw_only=True)
class PaymentDecision:
    """A payment after something happened; `due` is in how many seconds to call the provider (again), None for never."""

    payment: Payment
    news: News | None = None
    due: float | None = None
    refund: Refund | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long an unsettled call is repeated; times in seconds.

    No key older than `key_life` is sent. It ends a margin before the provider forgets the key, so that no call sent
    in time arrives too late. `horizon` ends the repetitions by themselves, and earlier.
    """

    tries: int
    horizon: float
    key_life: float
    backoff: float
    backoff_max: float


def opened(event: OrderCreated) -> Payment:
    """The payment that a new order needs."""
    return Payment(
        order_id=event.order_id,
        request_id=event.request_id,
        user_id=event.user_id,
        product_id=event.product_id,
        total_value=event.total_value,
        total_currency=event.total_currency,
        order_sequence=event.sequence,
        asked_at=event.at,
        traceparent=event.traceparent,
    )


def claimed(payment: Payment) -> Payment:
    """The payment under a new attempt, which may send its next call."""
    attempt, tries = payment.attempt + 1, payment.tries + 1
    return replace(payment, attempt=attempt, tries=tries, sent=True, first_send=not payment.sent)


def may_send(payment: Payment, age: float, patience: RetryPolicy) -> bool:
    """Whether the next call may be sent, not only found: asked right before each charge, void and refund.

    `age` is how many seconds ago the provider may first have received its key. A key that it cannot have received may
    be sent at any time.
    """
    return not payment.sent or age < patience.key_life


def next_call(payment: Payment) -> Call | None:
    """What to ask of the provider now; None where nothing is to be done."""
    if payment.status == Status.PROCESSING:
        return _call(payment, Kind.VOID if payment.cancelled else Kind.CHARGE)
    if payment.status == Status.REFUNDING and payment.pending_refund:
        return _call(payment, Kind.REFUND, payment.pending_refund)
    return None


def cancelled(payment: Payment) -> PaymentDecision:
    """The order was cancelled: call off what has not happened, send back what has."""
    payment = replace(payment, cancelled=True)
    if payment.status in (Status.PROCESSING, Status.UNKNOWN) and not payment.captured:
        if not payment.sent:
            return _settled(payment, Status.VOIDED, News.VOIDED)
        return PaymentDecision(payment=replace(payment, status=Status.PROCESSING, parked="", tries=0), due=0.0)
    if payment.unreserved > 0:
        return PaymentDecision(
            payment=_with_refund(payment, Refund(refund_id=ON_CANCEL, value=payment.unreserved)), due=0.0
        )
    if not payment.pending_refund:
        return PaymentDecision(payment=payment)
    return PaymentDecision(payment=_unparked(payment) if payment.status == Status.UNKNOWN else payment, due=0.0)


def refund_requested(payment: Payment, refund: Refund) -> PaymentDecision:
    """A part of the captured amount shall go back. Raises ValueError where it exceeds what is left."""
    if any(known.refund_id == refund.refund_id for known in payment.refunds):
        return PaymentDecision(payment=payment, due=0.0 if payment.pending_refund else None)
    if refund.value > payment.unreserved:
        raise ValueError(f"refund {refund.refund_id} exceeds what was captured for order {payment.order_id}")
    return PaymentDecision(payment=_with_refund(payment, refund), due=0.0)


def caused_by(before: Payment, change: PaymentDecision, event: Event) -> PaymentDecision:
    """`change` of `before`, with what tells that `event` of the order caused it."""
    begins = not _next_key(before) and _next_key(change.payment)
    payment = replace(
        change.payment,
        order_sequence=event.sequence,
        asked_at=event.at if begins else before.asked_at,
        traceparent=event.traceparent or before.traceparent,
    )
    return replace(change, payment=payment)


def answered(
    payment: Payment, call: Call, outcome: ProviderResponse, age: float, patience: RetryPolicy
) -> PaymentDecision:
    """What the provider's answer to `call` means; `age` is how many seconds ago it may first have received the key."""
    match call.kind, outcome.answer:
        case ((Kind.CHARGE | Kind.VOID), ResponseCode.CAPTURED):
            return _captured(payment, outcome)
        case ((Kind.CHARGE | Kind.VOID), ResponseCode.DECLINED):
            return _settled(payment, Status.DECLINED, News.DECLINED, outcome.reason)
        case ((Kind.CHARGE | Kind.VOID), ResponseCode.VOIDED):
            return _settled(payment, Status.VOIDED, News.VOIDED, outcome.reason)
        case Kind.REFUND, ResponseCode.REFUNDED:
            return _refunded(payment, call.refund_id)
        case _, (ResponseCode.NOT_ATTEMPTED | ResponseCode.UNKNOWN):
            return _again_or_parked(payment, outcome, age, patience)
    return _parked(payment, f"{call.kind} was answered with {outcome.answer}: {outcome.reason}")


def exhausted(payment: Payment, patience: RetryPolicy) -> PaymentDecision | None:
    """The payment parked, where it has been taken up too often without coming to an end."""
    if payment.tries <= patience.tries:
        return None
    return _parked(payment, f"not settled after {patience.tries} tries")


def retried(payment: Payment) -> PaymentDecision:
    """A parked payment taken up again, with the same key. Raises ValueError where it is not parked."""
    return PaymentDecision(payment=_unparked(payment), due=0.0)


def resolved(payment: Payment, outcome: ProviderResponse, patience: RetryPolicy) -> PaymentDecision:
    """A parked payment settled by what an operator found out. Raises ValueError where that cannot be."""
    payment = _unparked(payment)
    call = next_call(payment)
    if call is None:
        raise ValueError("there is nothing to resolve")
    change = answered(payment, call, outcome, 0.0, patience)
    if change.news in (None, News.PARKED):
        raise ValueError(f"a {call.kind} cannot be resolved as {outcome.answer}")
    return change


def refund_dropped(payment: Payment, refund_id: str, reason: str) -> PaymentDecision:
    """The refund that a parked payment waits for is given up; a cancelled order's payer gets it with all that is left.

    Raises ValueError where the payment is not parked over this refund, and where the order's cancellation asked for it.
    """
    payment, refund = _unparked(payment), payment.pending_refund
    if refund is None or refund.refund_id != refund_id:
        raise ValueError(f"this payment does not wait for a refund {refund_id}")
    if refund_id == ON_CANCEL:
        raise ValueError("a cancelled order's money goes back: refund it by other means, then resolve it as refunded")
    refunds = tuple(other for other in payment.refunds if other.done or other.refund_id not in (refund_id, ON_CANCEL))
    payment = replace(payment, refunds=refunds)
    if payment.cancelled:
        payment = _with_refund(payment, Refund(refund_id=ON_CANCEL, value=payment.unreserved))
    return _refund_ended(payment, News.REFUND_FAILED, refund, reason)


def with_key(before: Payment, after: Payment) -> Payment:
    """`after`, which follows `before`: where its next call has another key, that one has not been sent."""
    unsent = _next_key(after) not in ("", _next_key(before))
    return replace(after, sent=False, first_send=False) if unsent else after


def backoff(tries: int, patience: RetryPolicy) -> float:
    """Seconds to the next try at the most; callers take between half of it and all of it."""
    return min(patience.backoff * 2.0 ** min(max(0, tries - 1), 64), patience.backoff_max)


def _next_key(payment: Payment) -> str:
    call = next_call(_unparked(payment) if payment.status == Status.UNKNOWN else payment)
    return call.key if call else ""


def _unparked(payment: Payment) -> Payment:
    if payment.status != Status.UNKNOWN:
        raise ValueError(f"this payment is {payment.status}, not parked")
    status = Status.REFUNDING if payment.captured else Status.PROCESSING
    return replace(payment, status=status, parked="", tries=0)


def _call(payment: Payment, kind: Kind, refund: Refund | None = None) -> Call:
    charge_key = f"{payment.order_id}:{payment.generation}"
    return Call(
        kind=kind,
        key=f"{charge_key}:refund:{refund.refund_id}" if refund else charge_key,
        charge_key=charge_key,
        order_id=payment.order_id,
        product_id=payment.product_id,
        value=refund.value if refund else payment.total_value,
        currency=payment.total_currency,
        refund_id=refund.refund_id if refund else "",
    )


def _captured(payment: Payment, outcome: ProviderResponse) -> PaymentDecision:
    payment = replace(
        payment, status=Status.CAPTURED, captured=payment.total_value, reference=outcome.reference, tries=0
    )
    if payment.cancelled:
        payment = _with_refund(payment, Refund(refund_id=ON_CANCEL, value=payment.captured))
    return PaymentDecision(
        payment=payment,
        news=News.CAPTURED,
        due=0.0 if payment.pending_refund else None,
        detail=outcome.reference,
    )


def _settled(payment: Payment, status: Status, news: News, detail: str = "") -> PaymentDecision:
    return PaymentDecision(payment=replace(payment, status=status, parked="", tries=0), news=news, detail=detail)


def _with_refund(payment: Payment, refund: Refund) -> Payment:
    return replace(payment, status=Status.REFUNDING, refunds=(*payment.refunds, refund), parked="", tries=0)


def _refunded(payment: Payment, refund_id: str) -> PaymentDecision:
    refunds = tuple(
        replace(refund, done=True) if refund.refund_id == refund_id else refund for refund in payment.refunds
    )
    done = next(refund for refund in refunds if refund.refund_id == refund_id)
    return _refund_ended(replace(payment, refunds=refunds, tries=0), News.REFUNDED, done)


def _refund_ended(payment: Payment, news: News, refund: Refund, detail: str = "") -> PaymentDecision:
    if payment.pending_refund:
        status = Status.REFUNDING
    else:
        status = Status.REFUNDED if payment.refunded >= payment.captured else Status.CAPTURED
    return PaymentDecision(
        payment=replace(payment, status=status),
        news=news,
        due=0.0 if payment.pending_refund else None,
        refund=refund,
        detail=detail,
    )


def _again_or_parked(payment: Payment, outcome: ProviderResponse, age: float, patience: RetryPolicy) -> PaymentDecision:
    payment = _after_unsettled(payment, outcome)
    if outcome.counts and (payment.tries >= patience.tries or age >= min(patience.horizon, patience.key_life)):
        return _parked(payment, outcome.reason)
    pause = max(backoff(payment.tries, patience), outcome.retry_after)
    return PaymentDecision(payment=payment, due=pause, detail=outcome.reason)


def _after_unsettled(payment: Payment, outcome: ProviderResponse) -> Payment:
    """The payment after an unsettled call: its key stays unsent where the provider got no request with it, ever."""
    unsent = payment.first_send and outcome.answer == ResponseCode.NOT_ATTEMPTED
    tries = payment.tries if outcome.counts else max(0, payment.tries - 1)
    return replace(payment, tries=tries, sent=payment.sent and not unsent)


def _parked(payment: Payment, reason: str) -> PaymentDecision:
    payment = replace(payment, status=Status.UNKNOWN, parked=reason or "no reason given")
    return PaymentDecision(payment=payment, news=News.PARKED, detail=payment.parked)


# The refund that a cancellation asks for; those on request have ids of their own.
ON_CANCEL = "cancel"
