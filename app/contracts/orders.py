"""Messages of orders: the requests it answers, the events it publishes, and its errors."""

from app.contracts.base import ApplicationError, Backlog, Event, Money, OrderIds, Queue, Reply, Request

# The names of a timeline entry's members in JSON.
TIMELINE_NAMES = {
    "order_id": "orderId",
    "from_status": "from",
    "to_status": "to",
    "payment_status": "paymentStatus",
}


class OrderAccepted(Reply, frozen=True, kw_only=True):
    """The order is stored durably; its payment is under way. `replayed` where an earlier request had done it."""

    order_id: str
    version: int
    replayed: bool


class OrderUpdated(Reply, frozen=True, kw_only=True):
    """The order as it is after the step; `changed` is false where it was in that state before."""

    order_id: str
    order_status: str
    version: int
    changed: bool


class RefundAccepted(Reply, frozen=True, kw_only=True):
    """The refund is reserved durably; the provider will be told. `replayed` where an earlier request had done it."""

    order_id: str
    refund_id: str
    refund_value: int
    currency: str
    version: int
    replayed: bool


class OrderPage(Reply, frozen=True, kw_only=True):
    """Orders of all users, newest first; older ones may follow `last_id` where that is not empty."""

    orders: tuple["OrderView", ...]
    last_id: str


class OrderStatusView(Reply, frozen=True, kw_only=True):
    """The least one can ask of an order."""

    order_id: str
    order_status: str
    payment_status: str
    version: int


class OrderView(Reply, frozen=True, kw_only=True, rename="camel"):
    """An order as clients see it; in JSON its members have the names that clients know.

    `total_order_amount` is the amount as the client wrote it. `created_at` and `updated_at` are RFC 3339 in UTC.
    """

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


class OrderList(Reply, frozen=True, kw_only=True):
    """Orders of one user, newest first; `more` where older ones follow."""

    orders: tuple[OrderView, ...]
    more: bool


class TimelineEntry(Reply, frozen=True, kw_only=True, rename=TIMELINE_NAMES):
    """One change of an order, as clients see it. `at` is RFC 3339 in UTC."""

    order_id: str
    sequence: int
    type: str
    at: str
    actor: str
    from_status: str
    to_status: str
    payment_status: str
    detail: str


class Timeline(Reply, frozen=True, kw_only=True):
    """An order's steps, oldest first; `ending` where the asked process ends and waits no more."""

    order_id: str
    version: int
    entries: tuple[TimelineEntry, ...]
    ending: bool


class OrderExplanation(Reply, frozen=True, kw_only=True):
    """Why an order is in its state, as far as orders knows.

    `waits_for` is what holds up its events, empty for nothing; `on_cancel` is what cancelling would mean for the
    money, empty where it cannot be cancelled. `sentence` has no full stop, since others may have something to add.
    """

    order_id: str
    order_status: str
    payment_status: str
    because: TimelineEntry
    sentence: str
    waits_for: str
    allowed: tuple[str, ...]
    on_cancel: str


class StateRule(Reply, frozen=True, kw_only=True):
    """From `source`, moved by `by`, an order comes to `target`; `money` says what that means for the payment."""

    source: str
    by: str
    target: str
    money: str


class StateMachine(Reply, frozen=True, kw_only=True):
    """Every step that an order may take."""

    rules: tuple[StateRule, ...]


class CreateOrder(Request[OrderAccepted], frozen=True, kw_only=True):
    """Store a new order and have it paid for.

    The asker makes the `order_id`, 24 hexadecimal digits, so that every line about the order can name it from the
    first; `total_text` is the amount as the client wrote it. With an `idempotency_key` (empty for none) the user's
    earlier order of that key is told instead. Refused with IdempotencyKeyReused where that was another order.
    """

    order_id: str
    user_id: str
    product_id: str
    product_name: str
    total_text: str
    total_value: int
    total_currency: str
    idempotency_key: str


class RefundOrder(Request[RefundAccepted], frozen=True, kw_only=True):
    """Give a part of the captured total back; `refund_value` 0 stands for all that is left, in the order's currency.

    The asker makes the `refund_id`: the same id again tells of the earlier refund. Refused with NotFound,
    StaleVersion, IllegalTransition, RefundExceedsBalance, TooManyRefunds, WrongCurrency, IdempotencyKeyReused, Conflict.
    """

    order_id: str
    on_behalf_of: str
    expected_versions: tuple[int, ...]
    refund_id: str
    refund_value: int
    currency: str


class CheckOrderBacklog(Request[Backlog], frozen=True, kw_only=True):
    """Tell how far orders are behind with handing on their events."""


class UpdateOrder(Request[OrderUpdated], frozen=True, kw_only=True):
    """Take the step to `order_status`; `may_refund` is whether the asker may give money back after fulfilment began.

    Refused with NotFound, StaleVersion, MisleadingStatus, IllegalTransition, RefundNotAllowed, TimelineFull, Conflict.

    Not repeatable: a second time it would undo the step that another client has taken since.
    """

    repeatable = False

    order_id: str
    on_behalf_of: str
    expected_versions: tuple[int, ...]
    order_status: str
    may_refund: bool = True


class FindOrder(Request[OrderView], frozen=True, kw_only=True):
    """Tell one order. Refused with NotFound."""

    order_id: str
    on_behalf_of: str


class CheckOrderStatus(Request[OrderStatusView], frozen=True, kw_only=True):
    """Tell the status of one order. Refused with NotFound."""

    order_id: str
    on_behalf_of: str


class ListOrders(Request[OrderList], frozen=True, kw_only=True):
    """Tell a user's newest orders, `limit` at the most, of one status where `order_status` is not empty.

    Where `before_id` is not empty, those older than the order of that id, which was made `before_at`.
    """

    user_id: str
    limit: int
    order_status: str
    before_at: str
    before_id: str


class ListAllOrders(Request[OrderPage], frozen=True, kw_only=True):
    """Tell the newest orders of all users, `limit` at the most; where `before_id` is not empty, those older than it.

    Of one status where `order_status` is not empty: those among some thousands, so that a page may have few or none
    and others still follow.
    """

    limit: int
    order_status: str
    before_id: str


class FindOrders(Request[OrderList], frozen=True, kw_only=True):
    """Tell those of these orders that there are, newest first."""

    order_ids: tuple[str, ...]


class ListStuckOrders(Request[OrderIds], frozen=True, kw_only=True):
    """Tell orders with an event that should have been handed on `overdue_ms` ago, or (`dead`) that never will be."""

    dead: bool
    overdue_ms: int
    limit: int


class CheckOrderQueue(Request[Queue], frozen=True, kw_only=True):
    """Tell what of the orders' events is yet to be handed on."""


class AwaitOrder(Request[OrderStatusView], frozen=True, kw_only=True):
    """Tell the status of one order once it is no longer Processing, or after `wait_ms`, or when the process ends."""

    order_id: str
    on_behalf_of: str
    wait_ms: int


class AwaitTimeline(Request[Timeline], frozen=True, kw_only=True):
    """Tell an order's steps after the sequence `after` once there are any, or that there are none after `wait_ms`."""

    order_id: str
    on_behalf_of: str
    after: int
    wait_ms: int


class ExplainOrder(Request[OrderExplanation], frozen=True, kw_only=True):
    """Tell why an order is in its state and what may be done now. Refused with NotFound."""

    order_id: str
    on_behalf_of: str


class DescribeStates(Request[StateMachine], frozen=True, kw_only=True):
    """Tell every step that an order may take."""


class OrderCreated(Event, frozen=True, kw_only=True):
    """An order was stored and waits for its payment."""

    required_consumers = ("payments",)

    user_id: str
    product_id: str
    total_value: int
    total_currency: str


class OrderCancelled(Event, frozen=True, kw_only=True):
    """An order was cancelled: whatever was or will be captured for it goes back."""

    required_consumers = ("payments",)


class RefundRequested(Event, frozen=True, kw_only=True):
    """A part of an order's captured total is reserved to go back."""

    required_consumers = ("payments",)

    refund_id: str
    refund_value: int


class StaleVersion(ApplicationError):
    """The order is not as the asker believes; members `order_id` and `version`, as it is."""

    code = "precondition_failed"


class IllegalTransition(ApplicationError):
    """The order's state does not allow the step; members `from`, `to`, `allowed`."""

    code = "illegal_transition"


class TimelineFull(ApplicationError):
    """The order has had as many steps as texts of clients may bring it to; what moves money is never refused so."""

    code = "timeline_full"


class RefundExceedsBalance(ApplicationError):
    """More than is left of what was captured; member `remaining` in minor units."""

    code = "refund_exceeds_balance"


class TooManyRefunds(ApplicationError):
    """The order was refunded in as many parts as it may be; all that is left can still go back at once."""

    code = "too_many_refunds"


class RefundNotAllowed(ApplicationError):
    """Cancelling the order now would give money back, and the asker may not."""

    code = "refund_not_allowed"


class WrongCurrency(ApplicationError):
    """An order is refunded in its own currency."""

    code = "wrong_currency"


class IdempotencyKeyReused(ApplicationError):
    """The key stands for another request."""

    code = "idempotency_key_reused"


class MisleadingStatus(ApplicationError):
    """The status reads like one that only the system sets."""

    code = "misleading_status"


class TooManyOpenOrders(ApplicationError):
    """As many orders of the user wait to be paid as may; member `retry_after` in seconds."""

    code = "too_many_open_orders"
