"""Messages of payments: the requests it answers and the events it publishes."""

from dataclasses import dataclass

from app.contracts.base import Backlog, Event, OrderIds, Queue, Reply, Request


@dataclass(frozen=True, kw_only=True)
class Attempt(Reply):
    """One call to the provider and what it answered; it ended `at` after so many microseconds."""

    attempt: int
    at: str
    call: str
    answer: str
    reason: str
    took_us: int


@dataclass(frozen=True, kw_only=True)
class Attempts(Reply):
    """The calls made for an order's payment, oldest first; of many the newest alone."""

    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, kw_only=True)
class PaymentExplanation(Reply):
    """Where an order's payment stands; `known` is false where payments has not heard of it yet.

    `next_attempt_at` is empty where none is planned, `waits_for` where the payment waits for nothing.
    """

    known: bool
    attempts: int
    next_attempt_at: str
    waits_for: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class CheckPaymentBacklog(Request[Backlog]):
    """Tell how far payments are behind with calling the provider."""

    owner = "payments"
    reply = Backlog


@dataclass(frozen=True, kw_only=True)
class ListStuckPayments(Request[OrderIds]):
    """Tell orders whose payment is open since `overdue_ms` or waits for an operator, or (`dead`) cannot be told of."""

    owner = "payments"
    reply = OrderIds

    dead: bool
    overdue_ms: int
    limit: int


@dataclass(frozen=True, kw_only=True)
class CheckPaymentQueue(Request[Queue]):
    """Tell which payments are open."""

    owner = "payments"
    reply = Queue


@dataclass(frozen=True, kw_only=True)
class ListAttempts(Request[Attempts]):
    """Tell the calls made to the provider for an order's payment; none where it is unknown or another user's."""

    owner = "payments"
    reply = Attempts

    order_id: str
    on_behalf_of: str


@dataclass(frozen=True, kw_only=True)
class ExplainPayment(Request[PaymentExplanation]):
    """Tell where an order's payment stands."""

    owner = "payments"
    reply = PaymentExplanation

    order_id: str
    on_behalf_of: str


@dataclass(frozen=True, kw_only=True)
class PaymentEvent(Event):
    """News from payments. `order_sequence` is the newest event of the order that payments had taken in by then.

    It acknowledges that event and all before it, so that orders can forget them with the very write that the news
    makes; 0 acknowledges nothing. `user_id` says where the order is kept, where orders are spread by user; empty where
    that is not known.
    """

    required_consumers = ("orders",)

    order_sequence: int = 0
    user_id: str = ""


@dataclass(frozen=True, kw_only=True)
class PaymentCaptured(PaymentEvent):
    """The provider took the whole total. `took_ms` is the provider's time."""

    reference: str
    took_ms: int


@dataclass(frozen=True, kw_only=True)
class PaymentDeclined(PaymentEvent):
    """The provider refused for good; no money moved."""

    reason: str
    took_ms: int


@dataclass(frozen=True, kw_only=True)
class PaymentVoided(PaymentEvent):
    """The payment of a cancelled order was called off before any money moved."""


@dataclass(frozen=True, kw_only=True)
class PaymentRefunded(PaymentEvent):
    """`refund_value` went back to the payer; `refunded_total` is all that has gone back so far."""

    refund_id: str
    refund_value: int
    refunded_total: int


@dataclass(frozen=True, kw_only=True)
class PaymentRefundFailed(PaymentEvent):
    """An operator gave up a refund that the provider refuses (`reason`): `refund_value` is no longer reserved for it.

    `refunded_total` is all that has gone back so far.
    """

    refund_id: str
    refund_value: int
    refunded_total: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class PaymentParked(PaymentEvent):
    """Nobody could learn in time whether money moved (`reason`); an operator has to settle it."""

    reason: str
