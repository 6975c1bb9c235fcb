"""Messages of orders: the requests it handles, the events it publishes, and its errors."""

import re
from enum import StrEnum

from app.contracts.base import (
    ApplicationError,
    Backlog,
    DeadLetterList,
    DeadLetterRequeued,
    Event,
    Money,
    OrderIds,
    QueueCounts,
    Reply,
    Request,
    WaitsFor,
)

# The names of a timeline entry's members in JSON.
TIMELINE_NAMES = {
    "order_id": "orderId",
    "from_status": "from",
    "to_status": "to",
    "payment_status": "paymentStatus",
    "request_id": "requestId",
}
# The types of changes in a timeline, beside those of payments (PAYMENT_EVENT_TYPES).
ORDER_CHANGE_TYPES = (
    "OrderCreated",
    "OrderUpdated",
    "OrderCancelled",
    "CaptureRequested",
    "RefundRequested",
    "MetadataUpdated",
    "PersonalDataErased",
)
# What stands in place of a user's id from then on: no user's id may look like that.
PSEUDONYM = re.compile(r"erased-[0-9a-f]+")
# The beginning of the detail of such an entry; who asked for it follows.
ERASED_DETAIL = "personal data erased, as asked for"
# How many items an order may have.
ORDER_ITEMS = 100
# How many pairs of metadata an order may have, and how many characters a key and a value.
METADATA_PAIRS, METADATA_KEY_LENGTH, METADATA_VALUE_LENGTH = 20, 40, 500


class OrderStatus(StrEnum):
    """The statuses that have a meaning here. Clients may give an order other texts, its custom statuses."""

    PROCESSING = "Processing"
    SUCCESS = "Success"
    DECLINED = "Declined"
    CANCELLED = "Cancelled"
    CONFIRM = "Confirm"


class OrderAccepted(Reply, frozen=True, kw_only=True):
    """The order is stored durably and its payment has started. `replayed` if an earlier request stored it."""

    order_id: str
    version: int
    replayed: bool


class OrderUpdated(Reply, frozen=True, kw_only=True):
    """The order after an update; `changed` is false if it had that status before."""

    order_id: str
    order_status: str
    version: int
    changed: bool


class MetadataUpdated(Reply, frozen=True, kw_only=True):
    """The metadata of an order after an update; `changed` is false if it was the same before."""

    withheld = frozenset({"metadata"})

    order_id: str
    metadata: dict[str, str]
    version: int
    changed: bool


class CaptureAccepted(Reply, frozen=True, kw_only=True):
    """The capture is recorded durably and will be made. `replayed` if an earlier request asked for the same."""

    order_id: str
    capture_value: int
    currency: str
    version: int
    replayed: bool


class RefundAccepted(Reply, frozen=True, kw_only=True):
    """The refund is reserved durably and will be made. `replayed` if an earlier request reserved it."""

    order_id: str
    refund_id: str
    refund_value: int
    currency: str
    version: int
    replayed: bool


class OrderPage(Reply, frozen=True, kw_only=True):
    """Orders of all users; others may follow after the order `last_id`, created at `last_at`, unless it is empty."""

    orders: tuple["OrderView", ...]
    last_id: str
    last_at: str = ""


class OrderStatusView(Reply, frozen=True, kw_only=True):
    """The statuses of an order, without its other members."""

    order_id: str
    order_status: str
    payment_status: str
    version: int


class NextActionView(Reply, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the customer must do until `expires_at`, RFC 3339 in UTC; for the customer's eyes only.

    `type` is `redirect`, to `url`, or `confirm`, with `client_secret` in a page of the shop.
    """

    withheld = frozenset({"url", "client_secret"})

    type: str
    expires_at: str
    url: str = ""
    client_secret: str = ""


class OrderItem(Reply, frozen=True, kw_only=True, rename="camel"):
    """`quantity` of a product that were ordered, each for `unit_amount`, in the order's currency."""

    product_id: str
    product_name: str
    quantity: int
    unit_amount: Money


class RefundView(Reply, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of what was taken that goes back to the payer; in JSON its members have the names that clients know.

    `status` is `pending`, `succeeded` or `failed`; one that has succeeded can still fail. `at`, RFC 3339 in UTC, is when it was
    recorded. `reason` is why it was asked for, or what else made it; `failure` is why it failed. Both are left out of the JSON
    where they are empty.
    """

    id: str
    amount: Money
    status: str
    at: str
    reason: str = ""
    failure: str = ""


class RefundList(Reply, frozen=True, kw_only=True):
    """All refunds of an order, oldest first: those that were asked for, made at the provider, or made for a cancellation."""

    order_id: str
    refunds: tuple[RefundView, ...]


class OrderView(Reply, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An order as clients see it; in JSON its members have the names that clients know.

    `total_order_amount` is the amount as the client wrote it. `created_at` and `updated_at` are RFC 3339 in UTC.

    `captured` is what was taken so far. Of that, `refunded` went back, `pending` is going back, and `refundable` is what a refund can
    ask for now; these are zero where there is nothing. What remains is `blocked`: by a dispute, or until an operator has found
    out what happened.

    `product_id` and `product_name` are those of the first item, where there are `items`; these lists do not have.

    Left out of the JSON where they are None: `items`; `metadata`, what the client has noted with the order; `authorized`, what is or was held for a capture; `blocked`; `uncertain`, of which it is not
    known whether it was taken, beside what is known to be `captured`; `refunds`, oldest first, which lists do not have; `next_action`, which is for the order's user only.
    """

    withheld = frozenset({"metadata"})

    id: str
    user_id: str
    product_id: str
    product_name: str
    total_order_amount: str
    total: Money
    order_status: str
    payment_status: str
    version: int
    created_at: str
    updated_at: str
    captured: Money
    refunded: Money
    pending: Money
    refundable: Money
    blocked: Money | None = None
    authorized: Money | None = None
    refunds: tuple[RefundView, ...] | None = None
    next_action: NextActionView | None = None
    uncertain: Money | None = None
    metadata: dict[str, str] | None = None
    items: tuple[OrderItem, ...] | None = None


class OrderList(Reply, frozen=True, kw_only=True):
    """Orders of one user; `more` if others follow."""

    orders: tuple[OrderView, ...]
    more: bool


class TimelineEntry(Reply, frozen=True, kw_only=True, rename=TIMELINE_NAMES, omit_defaults=True):
    """One change of an order, as clients see it. `at` is RFC 3339 in UTC.

    `amount` is the money that it is about: authorized, captured, to capture, to refund, refunded, disputed. It is left out of the
    JSON where it is None.
    `request_id` is the HTTP request that caused the change, and `caller` the user who sent it, for a change by a client; both are
    left out of the JSON where they are not known.
    """

    order_id: str
    sequence: int
    type: str
    at: str
    actor: str
    from_status: str
    to_status: str
    payment_status: str
    detail: str
    amount: Money | None = None
    request_id: str = ""
    caller: str = ""


class Timeline(Reply, frozen=True, kw_only=True):
    """Changes of an order, oldest first; `ending` if the process is stopping and no longer waits for more."""

    order_id: str
    version: int
    entries: tuple[TimelineEntry, ...]
    ending: bool


class OrderExplanation(Reply, frozen=True, kw_only=True):
    """Why an order is in its state, as far as orders knows.

    `waits_for` is what delays its events, empty for nothing. `allowed` are statuses that a client may set, `actions` what it may do
    with the money: `capture`, `refund`. `on_cancel` is what cancelling would mean for the money, empty if the order cannot be
    cancelled. `sentence` has no full stop, so that the gateway can append to it.
    """

    order_id: str
    order_status: str
    payment_status: str
    because: TimelineEntry
    sentence: str
    waits_for: WaitsFor
    allowed: tuple[str, ...]
    actions: tuple[str, ...]
    on_cancel: str


class TransitionView(Reply, frozen=True, kw_only=True, rename={"source": "from", "target": "to"}):
    """`by` takes an order from `source` to `target`; `money` says what that means for the payment."""

    source: str
    by: str
    target: str
    money: str


class PaymentStatusView(Reply, frozen=True, kw_only=True, rename="camel"):
    """What a payment's `status` means, and the `actions` that a client may take then.

    `on_cancel` is what cancelling the order means for the money, empty where its transition says it.
    """

    status: str
    meaning: str
    actions: tuple[str, ...]
    on_cancel: str


class StateMachine(Reply, frozen=True, kw_only=True):
    """All transitions that an order may make, and the statuses that its payment may have."""

    transitions: tuple[TransitionView, ...]
    payment_statuses: tuple[PaymentStatusView, ...]


class CreateOrder(Request[OrderAccepted], frozen=True, kw_only=True):
    """Store a new order and start its payment.

    The sender makes the `order_id`, so that every log line about the order can name it. `total_text` is the amount as the
    client wrote it. With an `idempotency_key` (empty for none) that the user has used before, the reply is about the earlier
    order. Raises IdempotencyKeyReused if that was a different order, TooManyOpenOrders, Conflict.

    `payment_method` is a token of the payment provider, and `return_url` the page that the customer comes back to; empty for
    none. With `manual_capture` the total is authorized first, and taken by CaptureOrder. `metadata` is what the client notes with
    the order, None for nothing. The total is that of the `items`, if there are any, and the product is the first of them.
    """

    withheld = frozenset({"payment_method", "metadata", "items"})

    order_id: str
    user_id: str
    product_id: str
    product_name: str
    total_text: str
    total_value: int
    total_currency: str
    idempotency_key: str
    payment_method: str = ""
    return_url: str = ""
    manual_capture: bool = False
    caller: str = ""
    metadata: dict[str, str] | None = None
    items: tuple[OrderItem, ...] = ()


class CaptureOrder(Request[CaptureAccepted], frozen=True, kw_only=True):
    """Take `capture_value` of what is authorized, once, and release the rest; 0 stands for all, in the order's currency.

    Raises NotFound, StaleVersion, IllegalTransition, CaptureExceedsAuthorization, AlreadyCaptured, WrongCurrency, Conflict.
    """

    order_id: str
    on_behalf_of: str
    expected_versions: tuple[int, ...]
    capture_value: int
    currency: str
    caller: str = ""


class RefundOrder(Request[RefundAccepted], frozen=True, kw_only=True):
    """Refund a part of the captured total; `refund_value` 0 stands for all that is left, in the order's currency.

    `reason` is shown with the refund; empty for none. The sender makes the `refund_id`; the same id again gets the reply of the
    earlier refund. Raises NotFound, StaleVersion,
    IllegalTransition, RefundDuringDispute, RefundExceedsBalance, TooManyRefunds, WrongCurrency, IdempotencyKeyReused, Conflict.
    """

    order_id: str
    on_behalf_of: str
    expected_versions: tuple[int, ...]
    refund_id: str
    refund_value: int
    currency: str
    reason: str = ""
    caller: str = ""


class ListRefunds(Request[RefundList], frozen=True, kw_only=True):
    """All refunds of an order. Raises NotFound."""

    order_id: str
    on_behalf_of: str


class FindRefund(Request[RefundView], frozen=True, kw_only=True):
    """One refund of an order. Raises NotFound for the order, RefundNotFound."""

    order_id: str
    on_behalf_of: str
    refund_id: str


class CheckOrderBacklog(Request[Backlog], frozen=True, kw_only=True):
    """How far the delivery of orders' events is behind."""


class UpdateOrder(Request[OrderUpdated], frozen=True, kw_only=True):
    """Set an order's status; `may_refund` is whether the client may cause a refund after fulfilment has begun.

    Raises NotFound, StaleVersion, MisleadingStatus, IllegalTransition, RefundNotAllowed, TimelineFull, Conflict.

    Not repeatable: the second time would undo a change that another client has made in between.
    """

    repeatable = False

    order_id: str
    on_behalf_of: str
    expected_versions: tuple[int, ...]
    order_status: str
    may_refund: bool = True
    caller: str = ""


class UpdateMetadata(Request[MetadataUpdated], frozen=True, kw_only=True):
    """Set pairs of an order's metadata; an empty value removes its pair, and pairs that are not named stay.

    Raises NotFound, StaleVersion, TooMuchMetadata, TimelineFull, Conflict.

    Not repeatable: the second time would undo a change that another client has made in between.
    """

    repeatable = False
    withheld = frozenset({"metadata"})

    order_id: str
    on_behalf_of: str
    expected_versions: tuple[int, ...]
    metadata: dict[str, str]
    caller: str = ""


class FindOrder(Request[OrderView], frozen=True, kw_only=True):
    """One order with its refunds, `with_next_action` if the sender shows that to the order's user only. Raises NotFound."""

    order_id: str
    on_behalf_of: str
    with_next_action: bool = False


class CheckOrderStatus(Request[OrderStatusView], frozen=True, kw_only=True):
    """The status of one order. Raises NotFound."""

    order_id: str
    on_behalf_of: str


class ListOrders(Request[OrderList], frozen=True, kw_only=True):
    """At most `limit` of a user's newest orders; only those with `order_status` and `payment_status`, unless they are empty.

    With `refund_failed`, only those of which a refund has failed, and with `metadata` only those that have all these pairs. Only those
    created at `created_from` or later and before `created_to`, in milliseconds since 1970, 0 for no bound. With `oldest_first` they
    begin with the oldest instead. With a `before_id`, only orders that follow that order in the list, which was created at `before_at`.
    """

    withheld = frozenset({"metadata"})

    user_id: str
    limit: int
    order_status: str
    before_at: str
    before_id: str
    payment_status: str = ""
    refund_failed: bool = False
    metadata: dict[str, str] | None = None
    created_from: int = 0
    created_to: int = 0
    oldest_first: bool = False


class ListAllOrders(Request[OrderPage], frozen=True, kw_only=True):
    """At most `limit` of the newest orders of all users; the fields are those of ListOrders.

    What no index selects is searched among some thousands: a page may be short or empty although more follow.
    """

    withheld = frozenset({"metadata"})

    limit: int
    order_status: str
    before_id: str
    before_at: str = ""
    payment_status: str = ""
    refund_failed: bool = False
    metadata: dict[str, str] | None = None
    created_from: int = 0
    created_to: int = 0
    oldest_first: bool = False


class FindOrders(Request[OrderList], frozen=True, kw_only=True):
    """Those of `order_ids` that exist, newest first, and their items `with_items`."""

    order_ids: tuple[str, ...]
    with_items: bool = False


class ListStuckOrders(Request[OrderIds], frozen=True, kw_only=True):
    """Orders with an event that is overdue by `overdue_ms`, or with `dead` those with a dead letter."""

    dead: bool
    overdue_ms: int
    limit: int


class ListOrderDeadLetters(Request[DeadLetterList], frozen=True, kw_only=True):
    """At most `limit` dead letters of orders."""

    limit: int


class ReplayOrderEvents(Request[DeadLetterRequeued], frozen=True, kw_only=True):
    """Deliver an order's dead letter again; its timeline shows who did that (`operator`) and why (`reason`).

    Not repeatable: the same event may have become a dead letter again in between.
    """

    repeatable = False

    order_id: str
    operator: str
    reason: str


class CheckOrderQueue(Request[QueueCounts], frozen=True, kw_only=True):
    """How many orders have events that are not delivered yet."""


class AwaitOrder(Request[OrderStatusView], frozen=True, kw_only=True):
    """The status of an order once it is not Processing, after `wait_ms`, or when the process stops. Raises NotFound.

    `or_waiting`: also once its payment waits for the customer, a bank or a capture.
    """

    order_id: str
    on_behalf_of: str
    wait_ms: int
    or_waiting: bool = False


class AwaitTimeline(Request[Timeline], frozen=True, kw_only=True):
    """An order's changes after the sequence `after`, once there are any, or none after `wait_ms`. Raises NotFound."""

    order_id: str
    on_behalf_of: str
    after: int
    wait_ms: int


class ExplainOrder(Request[OrderExplanation], frozen=True, kw_only=True):
    """Why an order is in its state, and what a client may do. Raises NotFound."""

    order_id: str
    on_behalf_of: str


class DescribeStates(Request[StateMachine], frozen=True, kw_only=True):
    """All transitions that an order may make, and the statuses that its payment may have."""


class OrderCreated(Event, frozen=True, kw_only=True):
    """An order was stored and waits for its payment."""

    required_consumers = ("payments",)
    withheld = frozenset({"payment_method"})

    user_id: str
    product_id: str
    total_value: int
    total_currency: str
    payment_method: str = ""
    return_url: str = ""
    manual_capture: bool = False


class CaptureRequested(Event, frozen=True, kw_only=True):
    """A client asks to take `capture_value` of what is authorized for the order."""

    required_consumers = ("payments",)

    capture_value: int


class OrderCancelled(Event, frozen=True, kw_only=True):
    """An order was cancelled: what is captured for it, now or later, is refunded."""

    required_consumers = ("payments",)


class RefundRequested(Event, frozen=True, kw_only=True):
    """A part of an order's captured total is reserved for a refund."""

    required_consumers = ("payments",)

    refund_id: str
    refund_value: int


class OrderChanged(Event, frozen=True, kw_only=True):
    """An order changed, as its timeline says at `sequence`. Published only for users whose changes somebody wants to hear.

    `change` is the type of the timeline entry. The statuses, the `version` and the amounts, in minor units, are those after it.
    `has_metadata` is whether the order had metadata then. `order` is the order as it was then, without its refunds, where the
    process that publishes the change has it at hand: it is not stored with the event.
    """

    required_consumers = ("webhooks",)
    withheld = frozenset({"order"})

    user_id: str
    change: str
    previous_status: str
    order_status: str
    payment_status: str
    version: int
    captured_value: int = 0
    refunded_value: int = 0
    refundable_value: int = 0
    pending_value: int = 0
    authorized_value: int = 0
    blocked_value: int = 0
    uncertain_value: int = 0
    has_metadata: bool = False
    order: OrderView | None = None


class ErasureRecord(Reply, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The erasure of a user's personal data, without the user's id; `orders` had it, and have the `pseudonym` in its place.

    `requested_by` is an administrator or an operator, or `the user`; empty where authentication is off. `requested_at` and
    `completed_at` are RFC 3339 in UTC. Until it is complete `completed_at` is empty and `orders` is not known.
    """

    id: str
    pseudonym: str
    requested_by: str
    requested_at: str
    completed_at: str = ""
    orders: int = 0


class ErasureList(Reply, frozen=True, kw_only=True):
    """Erasures, the newest first."""

    erasures: tuple[ErasureRecord, ...]


class EraseOrders(Request[ErasureRecord], frozen=True, kw_only=True):
    """Erase a user's personal data in all modules. The same request again, while that goes on, changes nothing.

    `requested_by` is the caller, or an operator. Raises OrdersInProgress.
    """

    withheld = frozenset({"user_id", "requested_by"})

    user_id: str
    requested_by: str


class ListErasureRecords(Request[ErasureList], frozen=True, kw_only=True):
    """At most `limit` of the newest erasures."""

    limit: int


class OrdersInProgress(ApplicationError):
    """The money of an order of the user moves, or may move."""

    code = "orders_in_progress"


class StaleVersion(ApplicationError):
    """The order has another version than expected; members `order_id` and `version`, the present one."""

    code = "precondition_failed"


class IllegalTransition(ApplicationError):
    """The order's state does not allow this; members `from`, `allowed`, and `to`, or `paymentStatus` where money was to move."""

    code = "illegal_transition"


class TimelineFull(ApplicationError):
    """The order takes no further custom status or metadata; changes that move money are never refused for this reason."""

    code = "timeline_full"


class TooMuchMetadata(ApplicationError):
    """The order would have more pairs of metadata than an order may have."""

    code = "too_much_metadata"


class RefundNotFound(ApplicationError):
    """The order has no refund with this id."""

    code = "refund_not_found"


class RefundExceedsBalance(ApplicationError):
    """The refund is more than is left of the captured total; member `remaining` in minor units."""

    code = "refund_exceeds_balance"


class RefundDuringDispute(ApplicationError):
    """The payer disputes the payment: the provider has taken the money back and makes no refund."""

    code = "payment_disputed"


class CaptureExceedsAuthorization(ApplicationError):
    """The capture is more than is authorized; member `authorized` in minor units."""

    code = "capture_exceeds_authorization"


class AlreadyCaptured(ApplicationError):
    """Another capture of the order was asked for before: an authorization is captured once."""

    code = "already_captured"


class TooManyRefunds(ApplicationError):
    """The order has the most refunds that it may have; all that is left can still be refunded at once."""

    code = "too_many_refunds"


class RefundNotAllowed(ApplicationError):
    """Cancelling the order now would cause a refund, which the client may not."""

    code = "refund_not_allowed"


class WrongCurrency(ApplicationError):
    """A refund or a capture must be in the currency of its order."""

    code = "wrong_currency"


class IdempotencyKeyReused(ApplicationError):
    """The key belongs to another request."""

    code = "idempotency_key_reused"


class MisleadingStatus(ApplicationError):
    """The status looks like one that only the system sets."""

    code = "misleading_status"


class TooManyOpenOrders(ApplicationError):
    """The user has the most open orders that a user may have; member `retry_after` in seconds."""

    code = "too_many_open_orders"
