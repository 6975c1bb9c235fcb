"""A payment and what it is made of. Pure functions.

Every function that changes a payment returns a new one, or a decision, and changes nothing.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from app.contracts.base import Event, Money
from app.contracts.orders import OrderCreated
from app.contracts.payments import PaymentEvent, PaymentParked, PaymentStatus
from app.payments.provider_port import CallKind, Capabilities, DisputeStatus, NextAction, ResponseCode

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
    order, has the provider's id as its `refund_id`. `request_id` is the HTTP request that asked for it, empty where none did.
    `by_other_means` says which operator gave it back other than through the provider, and why; empty where the provider makes it.
    """

    refund_id: str
    value: int
    status: RefundStatus = RefundStatus.REQUESTED
    reference: str = ""
    request_id: str = ""
    by_other_means: str = ""


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """A payer's objection to the charge; `value` in minor units, `dispute_id` is the provider's."""

    dispute_id: str
    value: int
    status: DisputeStatus


@dataclass(frozen=True, kw_only=True)
class ManualDecision:
    """What an operator recorded as the outcome of a payment; `refund_id` is the refund that it was about, empty for none."""

    outcome: ResponseCode
    operator: str
    reason: str
    reference: str = ""
    refund_id: str = ""


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
    customer must do. `refreshes_requested` and `refreshes_made` number the requests to refresh the payment. `resolution` is the
    last outcome that an operator recorded, None for none.

    `request_id` is the HTTP request that placed the order, and `capture_request_id`, `cancel_request_id` and `refresh_request_id`
    are those that asked for the capture, for the cancellation and for the latest refresh; empty where none did.
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
    capture_request_id: str = ""
    cancel_request_id: str = ""
    refresh_request_id: str = ""
    resolution: ManualDecision | None = None

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
    of a capture, the reason of anything else) are data of the event, as are `operator`, `operator_note` and `corrects`.
    `request_id` is the HTTP request that caused it. `refund_failure` is why a refund has failed whose payment is parked for it.
    """

    payment: Payment
    event: type[PaymentEvent] | None = None
    due_in: float | None = None
    refund: Refund | None = None
    dispute: Dispute | None = None
    detail: str = ""
    request_id: str = ""
    operator: str = ""
    operator_note: str = ""
    corrects: str = ""
    refund_failure: str = ""


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
        requested_at=event_time(event),
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


def act_until(payment: Payment) -> datetime | None:
    """Until when the customer can act: as long as the payment waits, or shorter where the provider says so."""
    ends = [payment.waits_until, payment.action.expires_at if payment.action else None]
    return min((end for end in ends if end), default=None)


def backoff(retry_count: int, policy: RetryPolicy) -> float:
    """The longest pause before the next try, in seconds; the caller draws between half of it and all of it."""
    return min(policy.backoff * 2.0 ** min(max(0, retry_count - 1), 64), policy.backoff_max)


def event_time(event: Event) -> datetime:
    """When an event happened, in UTC."""
    return datetime.fromtimestamp(event.at / 1000, UTC)


def unparked(payment: Payment) -> Payment:
    """A parked payment with the status that it had before. Raises ValueError where it is not parked."""
    if payment.status != PaymentStatus.UNKNOWN:
        raise ValueError(f"this payment is {payment.status}, not parked")
    return replace(payment, status=_open_status(payment), parked_reason="", retry_count=0)


def captured_status(payment: Payment) -> PaymentStatus:
    """The status of a captured payment, by its disputes and refunds."""
    if payment.disputed:
        return PaymentStatus.DISPUTED
    if payment.open_refund:
        return PaymentStatus.REFUNDING
    return PaymentStatus.REFUNDED if payment.refunded >= payment.captured else PaymentStatus.CAPTURED


def park(payment: Payment, reason: str) -> PaymentDecision:
    """Leave the payment to an operator."""
    payment = replace(payment, status=PaymentStatus.UNKNOWN, parked_reason=reason or "no reason given")
    return PaymentDecision(payment=payment, event=PaymentParked, detail=payment.parked_reason)


def _open_status(payment: Payment) -> PaymentStatus:
    """The status of a payment whose outcome is not known, by what is known of its money."""
    if payment.captured:
        return captured_status(payment)
    if payment.cancelled or payment.waiting_since is None:
        return PaymentStatus.PROCESSING
    # It was charged, so that its outcome is only read.
    return PaymentStatus.AUTHORIZED if payment.authorized else PaymentStatus.PENDING
