"""Messages of payments: the requests it answers and the events it publishes."""

from enum import StrEnum

from app.contracts.base import (
    ApplicationError,
    Backlog,
    DeadLetterList,
    DeadLetterRequeued,
    Event,
    Money,
    OrderIds,
    PersonalDataErased,
    QueueCounts,
    Reply,
    Request,
    WaitsFor,
)


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


# The calls to a provider whose outcome may be unknown while a payment is parked.
PENDING_CALLS = ("open", "charge", "capture", "void", "refund", "retrieve")


class Attempt(Reply, frozen=True, kw_only=True):
    """One call to the provider and its answer. The call ended at `at` and took `took_us` microseconds.

    `request_id` is the HTTP request that caused it, empty where that is not known.
    """

    attempt: int
    at: str
    call: str
    answer: str
    reason: str
    took_us: int
    request_id: str = ""


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
    waits_for: WaitsFor
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


class ParkedPayment(Reply, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A payment that waits for an operator since `since`, for the `reason` given.

    `pending_call` is the call whose outcome is not known, empty where none is, `amount` what it moves, and `provider_key` the key
    that it was sent with. `provider_reference` is the provider's id of the payment, empty where it is not known. `attempts`
    counts the calls so far; `last_answer` is the answer to the last one. Until `call_ends` that call may still reach the
    provider; left out of the JSON where it cannot, as `refund_id` is where no refund is pending. Times are RFC 3339 in UTC.
    """

    order_id: str
    user_id: str
    amount: Money
    payment_status: str
    since: str
    age_seconds: int
    reason: str
    pending_call: str
    provider_key: str
    provider_reference: str
    attempts: int
    last_answer: str
    call_ends: str = ""
    refund_id: str = ""


class ParkedPaymentList(Reply, frozen=True, kw_only=True):
    """Parked payments in the order of their order ids; `more` if there are further ones."""

    payments: tuple[ParkedPayment, ...]
    more: bool


class PaymentReviewed(Reply, frozen=True, kw_only=True):
    """The status of a payment after an operator's command."""

    payment_status: str


class ListParkedPayments(Request[ParkedPaymentList], frozen=True, kw_only=True):
    """At most `limit` parked payments, of orders with an id greater than `after_id`; empty for the first ones."""

    limit: int
    after_id: str = ""


class ErasePayments(Request[PersonalDataErased], frozen=True, kw_only=True):
    """Replace the user's id in the payments of these orders, and remove how the user pays and comes back."""

    withheld = frozenset({"former_user_id"})

    former_user_id: str
    pseudonym: str
    order_ids: tuple[str, ...]


class ReviewRequest(Request[PaymentReviewed], frozen=True, kw_only=True):
    """A command of an operator about one payment; the order's timeline shows `operator` and `reason`.

    Raises NotFound where the order has no payment, NotPossible, and Conflict where the payment changed meanwhile.

    Not repeatable: the second time would act on a payment that another operator has settled in between.
    """

    repeatable = False

    order_id: str
    operator: str
    reason: str


class RetryPayment(ReviewRequest, frozen=True, kw_only=True):
    """Call the provider again for a parked payment, with the same key."""


class ResolvePayment(ReviewRequest, frozen=True, kw_only=True):
    """Settle a parked payment as an operator found it at the provider, or correct an earlier resolution.

    `outcome` is `captured`, `declined`, `voided` or `refunded`; `reference` is the provider's id, empty where there is none.
    """

    outcome: str
    reference: str = ""


class DropRefund(ReviewRequest, frozen=True, kw_only=True):
    """Give up the refund that a parked payment waits for."""

    refund_id: str


class ListPaymentDeadLetters(Request[DeadLetterList], frozen=True, kw_only=True):
    """At most `limit` dead letters of payments."""

    limit: int


class ReplayPaymentEvents(Request[DeadLetterRequeued], frozen=True, kw_only=True):
    """Deliver the dead letter of an order's payment again; the order's timeline shows `operator` and `reason`.

    Not repeatable: the same event may have become a dead letter again in between.
    """

    repeatable = False

    order_id: str
    operator: str
    reason: str


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

    Where an operator caused it, `operator` is the operator's name and `operator_note` what was done and why; `corrects` is the
    outcome that an operator had recorded before, and that was wrong. Each is empty otherwise.
    """

    required_consumers = ("orders",)

    order_sequence: int = 0
    user_id: str = ""
    operator: str = ""
    operator_note: str = ""
    corrects: str = ""


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
    """It is unknown whether money moved (`reason`), and retries have ended; an operator must settle the payment.

    `failed_refund_id` is a refund of `failed_refund_value` that has failed (`failed_refund_reason`), maybe after it had succeeded; empty
    for none.
    """

    reason: str
    failed_refund_id: str = ""
    failed_refund_value: int = 0
    failed_refund_reason: str = ""


class PaymentRetried(PaymentEvent, frozen=True, kw_only=True):
    """An operator has a parked payment called for again; `payment_status` is its status until that call is answered."""

    payment_status: str


class DeadLetterReplayed(PaymentEvent, frozen=True, kw_only=True):
    """An operator has an event of payments that could not be delivered delivered again; this event comes behind it."""


# The types of changes in a timeline that payments causes.
PAYMENT_EVENT_TYPES = tuple(event.__name__ for event in PaymentEvent.__subclasses__())
