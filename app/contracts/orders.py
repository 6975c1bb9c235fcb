"""Messages of orders: the requests it answers, the events it publishes, and its errors."""

from dataclasses import dataclass

from app.contracts.base import ApplicationError, Backlog, Event, OrderIds, Queue, Reply, Request


@dataclass(frozen=True, kw_only=True)
class OrderAccepted(Reply):
    """The order is stored durably; its payment is under way. `replayed` where an earlier request had done it."""

    order_id: str
    version: int
    replayed: bool


@dataclass(frozen=True, kw_only=True)
class OrderUpdated(Reply):
    """The order as it is after the step; `changed` is false where it was in that state before."""

    order_id: str
    order_status: str
    version: int
    changed: bool


@dataclass(frozen=True, kw_only=True)
class RefundAccepted(Reply):
    """The refund is reserved durably; the provider will be told. `replayed` where an earlier request had done it."""

    order_id: str
    refund_id: str
    refund_value: int
    currency: str
    version: int
    replayed: bool


@dataclass(frozen=True, kw_only=True)
class OrderPage(Reply):
    """Orders of all users, newest first; older ones may follow `last_id` where that is not empty."""

    orders: tuple["OrderView", ...]
    last_id: str


@dataclass(frozen=True, kw_only=True)
class OrderStatusView(Reply):
    """The least one can ask of an order."""

    order_id: str
    order_status: str
    payment_status: str
    version: int


@dataclass(frozen=True, kw_only=True)
class OrderView(Reply):
    """An order as clients see it."""

    order_id: str
    user_id: str
    product_id: str
    product_name: str
    total_text: str
    total_value: int
    total_currency: str
    order_status: str
    payment_status: str
    version: int
    created_at: str
    updated_at: str


@dataclass(frozen=True, kw_only=True)
class OrderList(Reply):
    """Orders of one user, newest first; `more` where older ones follow."""

    orders: tuple[OrderView, ...]
    more: bool


@dataclass(frozen=True, kw_only=True)
class TimelineEntry(Reply):
    """One step that an order has taken."""

    order_id: str
    sequence: int
    type: str
    at: str
    actor: str
    came_from: str
    to: str
    payment_status: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Timeline(Reply):
    """An order's steps, oldest first; `ending` where the asked process ends and waits no more."""

    order_id: str
    version: int
    entries: tuple[TimelineEntry, ...]
    ending: bool


@dataclass(frozen=True, kw_only=True)
class OrderExplanation(Reply):
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


@dataclass(frozen=True, kw_only=True)
class StateRule(Reply):
    """From `source`, moved by `by`, an order comes to `target`; `money` says what that means for the payment."""

    source: str
    by: str
    target: str
    money: str


@dataclass(frozen=True, kw_only=True)
class StateMachine(Reply):
    """Every step that an order may take."""

    rules: tuple[StateRule, ...]


@dataclass(frozen=True, kw_only=True)
class CreateOrder(Request[OrderAccepted]):
    """Store a new order and have it paid for.

    The asker makes the `order_id`, 24 hexadecimal digits, so that every line about the order can name it from the
    first; `total_text` is the amount as the client wrote it. With an `idempotency_key` (empty for none) the user's
    earlier order of that key is told instead. Refused with IdempotencyKeyReused where that was another order.
    """

    owner = "orders"
    reply = OrderAccepted

    order_id: str
    user_id: str
    product_id: str
    product_name: str
    total_text: str
    total_value: int
    total_currency: str
    idempotency_key: str


@dataclass(frozen=True, kw_only=True)
class RefundOrder(Request[RefundAccepted]):
    """Give a part of the captured total back; `refund_value` 0 stands for all that is left, in the order's currency.

    The asker makes the `refund_id`: the same id again tells of the earlier refund. Refused with NotFound,
    StaleVersion, IllegalTransition, RefundExceedsBalance, TooManyRefunds, WrongCurrency, IdempotencyKeyReused, Conflict.
    """

    owner = "orders"
    reply = RefundAccepted

    order_id: str
    on_behalf_of: str
    expected_versions: tuple[int, ...]
    refund_id: str
    refund_value: int
    currency: str


@dataclass(frozen=True, kw_only=True)
class CheckOrderBacklog(Request[Backlog]):
    """Tell how far orders are behind with handing on their events."""

    owner = "orders"
    reply = Backlog


@dataclass(frozen=True, kw_only=True)
class UpdateOrder(Request[OrderUpdated]):
    """Take the step to `order_status`; `may_refund` is whether the asker may give money back after fulfilment began.

    Refused with NotFound, StaleVersion, MisleadingStatus, IllegalTransition, RefundNotAllowed, TimelineFull, Conflict.

    Not repeatable: a second time it would undo the step that another client has taken since.
    """

    owner = "orders"
    reply = OrderUpdated
    repeatable = False

    order_id: str
    on_behalf_of: str
    expected_versions: tuple[int, ...]
    order_status: str
    may_refund: bool = True


@dataclass(frozen=True, kw_only=True)
class FindOrder(Request[OrderView]):
    """Tell one order. Refused with NotFound."""

    owner = "orders"
    reply = OrderView

    order_id: str
    on_behalf_of: str


@dataclass(frozen=True, kw_only=True)
class CheckOrderStatus(Request[OrderStatusView]):
    """Tell the status of one order. Refused with NotFound."""

    owner = "orders"
    reply = OrderStatusView

    order_id: str
    on_behalf_of: str


@dataclass(frozen=True, kw_only=True)
class ListOrders(Request[OrderList]):
    """Tell a user's newest orders, `limit` at the most, of one status where `order_status` is not empty.

    Where `before_id` is not empty, those older than the order of that id, which was made `before_at`.
    """

    owner = "orders"
    reply = OrderList

    user_id: str
    limit: int
    order_status: str
    before_at: str
    before_id: str


@dataclass(frozen=True, kw_only=True)
class ListAllOrders(Request[OrderPage]):
    """Tell the newest orders of all users, `limit` at the most; where `before_id` is not empty, those older than it.

    Of one status where `order_status` is not empty: those among some thousands, so that a page may have few or none
    and others still follow.
    """

    owner = "orders"
    reply = OrderPage

    limit: int
    order_status: str
    before_id: str


@dataclass(frozen=True, kw_only=True)
class FindOrders(Request[OrderList]):
    """Tell those of these orders that there are, newest first."""

    owner = "orders"
    reply = OrderList

    order_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ListStuckOrders(Request[OrderIds]):
    """Tell orders with an event that should have been handed on `overdue_ms` ago, or (`dead`) that never will be."""

    owner = "orders"
    reply = OrderIds

    dead: bool
    overdue_ms: int
    limit: int


@dataclass(frozen=True, kw_only=True)
class CheckOrderQueue(Request[Queue]):
    """Tell what of the orders' events is yet to be handed on."""

    owner = "orders"
    reply = Queue


@dataclass(frozen=True, kw_only=True)
class AwaitOrder(Request[OrderStatusView]):
    """Tell the status of one order once it is no longer Processing, or after `wait_ms`, or when the process ends."""

    owner = "orders"
    reply = OrderStatusView

    order_id: str
    on_behalf_of: str
    wait_ms: int


@dataclass(frozen=True, kw_only=True)
class AwaitTimeline(Request[Timeline]):
    """Tell an order's steps after the sequence `after` once there are any, or that there are none after `wait_ms`."""

    owner = "orders"
    reply = Timeline

    order_id: str
    on_behalf_of: str
    after: int
    wait_ms: int


@dataclass(frozen=True, kw_only=True)
class ExplainOrder(Request[OrderExplanation]):
    """Tell why an order is in its state and what may be done now. Refused with NotFound."""

    owner = "orders"
    reply = OrderExplanation

    order_id: str
    on_behalf_of: str


@dataclass(frozen=True, kw_only=True)
class DescribeStates(Request[StateMachine]):
    """Tell every step that an order may take."""

    owner = "orders"
    reply = StateMachine


@dataclass(frozen=True, kw_only=True)
class OrderCreated(Event):
    """An order was stored and waits for its payment."""

    required_consumers = ("payments",)

    user_id: str
    product_id: str
    total_value: int
    total_currency: str


@dataclass(frozen=True, kw_only=True)
class OrderCancelled(Event):
    """An order was cancelled: whatever was or will be captured for it goes back."""

    required_consumers = ("payments",)


@dataclass(frozen=True, kw_only=True)
class RefundRequested(Event):
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
