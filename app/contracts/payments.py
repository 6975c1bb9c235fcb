"""Messages of payments: the requests it answers and the events it publishes."""

from app.contracts.base import Backlog, Event, OrderIds, QueueCounts, Reply, Request


class Attempt(Reply, frozen=True, kw_only=True):
    """One call to the provider and what it answered; it ended `at` after so many microseconds."""

    attempt: int
    at: str
    call: str
    answer: str
    reason: str
    took_us: int


class Attempts(Reply, frozen=True, kw_only=True):
    """The calls made for an order's payment, oldest first; of many the newest alone."""

    attempts: tuple[Attempt, ...]


class PaymentExplanation(Reply, frozen=True, kw_only=True):
    """Where an order's payment stands; `known` is false where payments has not heard of it yet.

    `next_attempt_at` is empty where none is planned, `waits_for` where the payment waits for nothing.
    """

    known: bool
    attempts: int
    next_attempt_at: str
    waits_for: str
    sentence: str


class CheckPaymentBacklog(Request[Backlog], frozen=True, kw_only=True):
    """Tell how far payments are behind with calling the provider."""


class ListStuckPayments(Request[OrderIds], frozen=True, kw_only=True):
    """Tell orders whose payment is open since `overdue_ms` or waits for an operator, or (`dead`) cannot be told of."""

    dead: bool
    overdue_ms: int
    limit: int


class CheckPaymentQueue(Request[QueueCounts], frozen=True, kw_only=True):
    """Tell which payments are open."""


class ListAttempts(Request[Attempts], frozen=True, kw_only=True):
    """Tell the calls made to the provider for an order's payment; none where it is unknown or another user's."""

    order_id: str
    on_behalf_of: str


class ExplainPayment(Request[PaymentExplanation], frozen=True, kw_only=True):
    """Tell where an order's payment stands."""

    order_id: str
    on_behalf_of: str


class PaymentEvent(Event, frozen=True, kw_only=True):
    """News from payments. `order_sequence` is the newest event of the order that payments had taken in by then.

    It acknowledges that event and all before it, so that orders can forget them with the very write that the news
    makes; 0 acknowledges nothing. `user_id` says where the order is kept, where orders are spread by user; empty where
    that is not known.
    """

    required_consumers = ("orders",)

    order_sequence: int = 0
    user_id: str = ""


class PaymentCaptured(PaymentEvent, frozen=True, kw_only=True):
    """The provider took the whole total. `took_ms` is the provider's time."""

    reference: str
    took_ms: int


class PaymentDeclined(PaymentEvent, frozen=True, kw_only=True):
    """The provider refused for good; no money moved."""

    reason: str
    took_ms: int


class PaymentVoided(PaymentEvent, frozen=True, kw_only=True):
    """The payment of a cancelled order was called off before any money moved."""


class PaymentRefunded(PaymentEvent, frozen=True, kw_only=True):
    """`refund_value` went back to the payer; `refunded_total` is all that has gone back so far."""

    refund_id: str
    refund_value: int
    refunded_total: int


class PaymentRefundFailed(PaymentEvent, frozen=True, kw_only=True):
    """An operator gave up a refund that the provider refuses (`reason`): `refund_value` is no longer reserved for it.

    `refunded_total` is all that has gone back so far.
    """

    refund_id: str
    refund_value: int
    refunded_total: int
    reason: str


class PaymentParked(PaymentEvent, frozen=True, kw_only=True):
    """Nobody could learn in time whether money moved (`reason`); an operator has to settle it."""

    reason: str
