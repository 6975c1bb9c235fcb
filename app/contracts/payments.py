"""Messages of payments: the requests it answers and the events it publishes."""

from enum import StrEnum

from app.contracts.base import ApplicationError, Backlog, Event, OrderIds, QueueCounts, Reply, Request


class PaymentStatus(StrEnum):
    """The state of an order's money; Unknown while a payment is parked.

    ActionRequired: the customer must act. Pending: a bank has not answered. Authorized: the amount is held and not taken.
    Disputed: the payer has objected to the charge, and the dispute is open or lost.
    """

    PROCESSING = "Processing"
    ACTION_REQUIRED = "ActionRequired"
    PENDING = "Pending"
    AUTHORIZED = "Authorized"
    CAPTURED = "Captured"
    DECLINED = "Declined"
    VOIDED = "Voided"
    REFUNDING = "Refunding"
    REFUNDED = "Refunded"
    DISPUTED = "Disputed"
    UNKNOWN = "Unknown"


class Attempt(Reply, frozen=True, kw_only=True):
    """One call to the provider and its answer. The call ended at `at` and took `took_us` microseconds."""

    attempt: int
    at: str
    call: str
    answer: str
    reason: str
    took_us: int


class Attempts(Reply, frozen=True, kw_only=True):
    """The calls made for an order's payment, oldest first; only the newest where there are many."""

    attempts: tuple[Attempt, ...]


class PaymentExplanation(Reply, frozen=True, kw_only=True):
    """The state of an order's payment; `known` is false where payments has not received the order yet.

    `next_attempt_at` is empty where no call is planned, `waits_for` where the payment waits for nothing.
    """

    known: bool
    attempts: int
    next_attempt_at: str
    waits_for: str
    sentence: str


class CheckPaymentBacklog(Request[Backlog], frozen=True, kw_only=True):
    """Return how many payments are due and for how long the oldest has waited."""


class ListStuckPayments(Request[OrderIds], frozen=True, kw_only=True):
    """List orders whose payment is open for `overdue_ms` or parked, or, with `dead`, whose result is a dead letter."""

    dead: bool
    overdue_ms: int
    limit: int


class CheckPaymentQueue(Request[QueueCounts], frozen=True, kw_only=True):
    """Count the open payments."""


class ListAttempts(Request[Attempts], frozen=True, kw_only=True):
    """List the provider calls for an order's payment; empty where it is unknown or another user's."""

    order_id: str
    on_behalf_of: str


class ExplainPayment(Request[PaymentExplanation], frozen=True, kw_only=True):
    """Explain the state of an order's payment."""

    order_id: str
    on_behalf_of: str


class NotificationsReceived(Reply, frozen=True, kw_only=True):
    """How many notifications of a request were new and are stored durably, and how many were stored before."""

    stored: int
    repeated: int


class ReceiveNotifications(Request[NotificationsReceived], frozen=True, kw_only=True):
    """A request that claims to come from a payment provider: its `body` in base64, and `headers` such as `content-type: text/plain`.

    Raises UnknownProvider, NotificationRejected.
    """

    provider: str
    headers: tuple[str, ...]
    body: str


class UnknownProvider(ApplicationError):
    """No payment provider of this name sends notifications here."""

    code = "unknown_provider"


class NotificationRejected(ApplicationError):
    """The request is no notification of the provider: its signature, age or form is wrong."""

    code = "notification_rejected"


class ProviderAction(Reply, frozen=True, kw_only=True):
    """What a page of the simulated provider is about: a payment that its customer approves, or a dispute of a charge.

    `value` is in minor units. `state` is the provider's answer to the charge, such as `pending`, or what became of the dispute:
    `open`, `won`, `lost`. `return_url` is where the customer goes afterwards, empty for nowhere.
    """

    order_id: str
    value: int
    currency: str
    disputed: bool
    awaits_decision: bool
    state: str
    return_url: str


class FindProviderAction(Request[ProviderAction], frozen=True, kw_only=True):
    """Find what the simulated provider's page with this token is about. Raises NotFound."""

    token: str


class DecideProviderAction(Request[ProviderAction], frozen=True, kw_only=True):
    """Approve or refuse a payment, or let the merchant win or lose a dispute; the first decision stands. Raises NotFound."""

    token: str
    approve: bool


class PaymentEvent(Event, frozen=True, kw_only=True):
    """An event of payments. `order_sequence` is the sequence of the newest order event that payments had applied by then.

    It acknowledges that event and all before it, so that orders removes them from its outbox in the same write that
    applies this event; 0 acknowledges nothing. `user_id` routes the write where orders are sharded by user; empty
    where the user is not known.
    """

    required_consumers = ("orders",)

    order_sequence: int = 0
    user_id: str = ""


class PaymentActionRequired(PaymentEvent, frozen=True, kw_only=True):
    """The customer must act before `expires_at`, in milliseconds since 1970.

    `action_type` is `redirect`, with `action_url`, or `confirm`, with `client_secret`.
    """

    withheld = frozenset({"action_url", "client_secret"})

    action_type: str
    action_url: str
    client_secret: str
    expires_at: int


class PaymentDelayed(PaymentEvent, frozen=True, kw_only=True):
    """The outcome comes later, from a bank (`reason`); it is awaited until `expires_at`, in milliseconds since 1970."""

    reason: str
    expires_at: int


class PaymentAuthorized(PaymentEvent, frozen=True, kw_only=True):
    """`authorized_value` is held for a capture until `expires_at`, in milliseconds since 1970."""

    reference: str
    authorized_value: int
    expires_at: int


class PaymentCaptured(PaymentEvent, frozen=True, kw_only=True):
    """The provider took `captured_value`, or the whole total where that is 0. The call took `took_ms` milliseconds."""

    reference: str
    took_ms: int
    captured_value: int = 0


class PaymentDeclined(PaymentEvent, frozen=True, kw_only=True):
    """The provider refused the charge for good; no money moved."""

    reason: str
    took_ms: int


class PaymentVoided(PaymentEvent, frozen=True, kw_only=True):
    """The payment was voided before any money moved: its order was cancelled, or for another `reason`."""

    reason: str = ""


class PaymentRefunded(PaymentEvent, frozen=True, kw_only=True):
    """`refund_value` went back to the payer; `refunded_total` is the sum of all refunds so far.

    A `refund_id` that orders does not know is of a refund that was made at the provider.
    """

    refund_id: str
    refund_value: int
    refunded_total: int


class PaymentRefundFailed(PaymentEvent, frozen=True, kw_only=True):
    """A refund failed (`reason`), maybe after it had succeeded: `refund_value` is no longer reserved for it.

    `refunded_total` is the sum of all refunds so far.
    """

    refund_id: str
    refund_value: int
    refunded_total: int
    reason: str


class PaymentDisputed(PaymentEvent, frozen=True, kw_only=True):
    """The payer objects to the charge (`reason`): the provider has taken `dispute_value` back for now."""

    dispute_id: str
    dispute_value: int
    reason: str


class PaymentDisputeClosed(PaymentEvent, frozen=True, kw_only=True):
    """A dispute has ended: `won` is true if `dispute_value` is the merchant's again.

    `disputed` is true while another dispute is open or lost. `refunded_total` is the sum of all refunds so far.
    """

    dispute_id: str
    dispute_value: int
    won: bool
    disputed: bool
    refunded_total: int
    reason: str


class PaymentParked(PaymentEvent, frozen=True, kw_only=True):
    """It is unknown whether money moved (`reason`), and retries have ended; an operator must settle the payment."""

    reason: str
