"""Every message, reply and refusal that may cross a module boundary.

Messages are data and nothing else: frozen, keyword-only, made of strings, integers and booleans (and tuples of
such), so that each survives JSON both ways and may travel between processes. Times are milliseconds since
1970 in UTC where they are integers, RFC 3339 where they are strings. Money is an integer of ISO 4217 minor units
beside its currency code. Ids of orders are 24 hexadecimal digits.

Requests about an existing order are made `on_behalf_of` a user, whose orders alone are found then; empty stands for
anybody's. `expected_versions` are those of which the order must have one; none are asked for where it is empty.
`traceparent` is the W3C trace that a message is a part of, empty for none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

R = TypeVar("R", bound="Reply")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a request is answered with."""


@dataclass(frozen=True, kw_only=True)
class Request(Generic[R]):
    """Something that exactly one module must do or tell; named in the imperative.

    `repeatable` says that handling the same request twice is the same as once, also where others came in between. One
    that is not is refused when it may have been handled by a process that was lost before it answered.
    """

    owner: ClassVar[str]
    reply: ClassVar[type[Reply]]
    repeatable: ClassVar[bool] = True

    request_id: str
    traceparent: str = ""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to one order; named in the past tense.

    `sequence` rises within what the sending module has to say of that order; a receiver ignores what it has seen.
    `heard_by` are modules that must take it in, whether they run at the moment or not; others may listen as well.
    """

    heard_by: ClassVar[tuple[str, ...]] = ()

    event_id: str
    order_id: str
    sequence: int
    request_id: str
    at: int
    traceparent: str = ""


# --- replies ---------------------------------------------------------------------------------------------------


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
class Backlog(Reply):
    """Work that is due and not begun: how much (counted up to the limit), and the oldest's age in milliseconds.

    `unfinished` is all work that is due, retried later, parked or a dead letter; `overloaded` tells whether that is too
    much to accept more.
    """

    due: int
    oldest_ms: int
    overloaded: bool
    unfinished: int = 0


@dataclass(frozen=True, kw_only=True)
class Queue(Reply):
    """Work that is open, each counted up to a limit: how much in all, due and not begun, repeated later, and why not.

    `parked` waits for an operator, `dead` could not be delivered.
    """

    open: int
    due: int
    retrying: int
    parked: int
    dead: int


@dataclass(frozen=True, kw_only=True)
class OrderIds(Reply):
    """Ids of some orders; `more` where there are others."""

    order_ids: tuple[str, ...]
    more: bool


@dataclass(frozen=True, kw_only=True)
class OrderPage(Reply):
    """Orders of all users, newest first; older ones may follow `last_id` where that is not empty."""

    orders: tuple["OrderView", ...]
    last_id: str


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


# --- requests --------------------------------------------------------------------------------------------------


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
    StaleVersion, IllegalStep, RefundExceedsBalance, TooManyRefunds, WrongCurrency, IdempotencyKeyReused, Conflict.
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
class CheckPaymentBacklog(Request[Backlog]):
    """Tell how far payments are behind with calling the provider."""

    owner = "payments"
    reply = Backlog


@dataclass(frozen=True, kw_only=True)
class UpdateOrder(Request[OrderUpdated]):
    """Take the step to `order_status`; `may_refund` is whether the asker may give money back after fulfilment began.

    Refused with NotFound, StaleVersion, MisleadingStatus, IllegalStep, RefundNotAllowed, TimelineFull, Conflict.

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
class ListStuckPayments(Request[OrderIds]):
    """Tell orders whose payment is open since `overdue_ms` or waits for an operator, or (`dead`) cannot be told of."""

    owner = "payments"
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
class ExplainPayment(Request[PaymentExplanation]):
    """Tell where an order's payment stands."""

    owner = "payments"
    reply = PaymentExplanation

    order_id: str
    on_behalf_of: str


@dataclass(frozen=True, kw_only=True)
class DescribeStates(Request[StateMachine]):
    """Tell every step that an order may take."""

    owner = "orders"
    reply = StateMachine


# --- events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PaymentEvent(Event):
    """News from payments. `order_sequence` is the newest event of the order that payments had taken in by then.

    It acknowledges that event and all before it, so that orders can forget them with the very write that the news
    makes; 0 acknowledges nothing. `user_id` says where the order is kept, where orders are spread by user; empty where
    that is not known.
    """

    heard_by = ("orders",)

    order_sequence: int = 0
    user_id: str = ""


@dataclass(frozen=True, kw_only=True)
class OrderCreated(Event):
    """An order was stored and waits for its payment."""

    heard_by = ("payments",)

    user_id: str
    product_id: str
    total_value: int
    total_currency: str


@dataclass(frozen=True, kw_only=True)
class OrderCancelled(Event):
    """An order was cancelled: whatever was or will be captured for it goes back."""

    heard_by = ("payments",)


@dataclass(frozen=True, kw_only=True)
class RefundRequested(Event):
    """A part of an order's captured total is reserved to go back."""

    heard_by = ("payments",)

    refund_id: str
    refund_value: int


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


# --- refusals --------------------------------------------------------------------------------------------------
#
# Refused
# ├── NotFound               there is no such order
# ├── StaleVersion           the order is not as the asker believes
# ├── IllegalStep            the order's state does not allow it
# ├── TimelineFull           the order has had as many texts as it may have
# ├── RefundExceedsBalance   more than is left of what was captured
# ├── TooManyRefunds         the order was refunded in as many parts as it may be
# ├── RefundNotAllowed       cancelling now gives money back, which the asker may not
# ├── WrongCurrency          an order is refunded in its own currency
# ├── MisleadingStatus       the status reads like one that only the system sets
# ├── IdempotencyKeyReused   the key stands for another request
# ├── Conflict               others changed the order again and again meanwhile
# ├── TooManyOpenOrders      as many orders of the user wait to be paid as may
# ├── Overloaded             more is waiting than can be worked off soon
# └── Unavailable            nobody can answer now; repeating later may help


class Refused(Exception):
    """An answer that says no: `code` names the kind, `detail` is one sentence, `members` are further facts."""

    code: ClassVar[str] = "refused"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class NotFound(Refused):
    """There is no such order."""

    code = "order_not_found"


class StaleVersion(Refused):
    """The order is not as the asker believes; members `order_id` and `version`, as it is."""

    code = "precondition_failed"


class IllegalStep(Refused):
    """The order's state does not allow the step; members `from`, `to`, `allowed`."""

    code = "illegal_step"


class TimelineFull(Refused):
    """The order has had as many steps as texts of clients may bring it to; what moves money is never refused so."""

    code = "timeline_full"


class RefundExceedsBalance(Refused):
    """More than is left of what was captured; member `remaining` in minor units."""

    code = "refund_exceeds_balance"


class TooManyRefunds(Refused):
    """The order was refunded in as many parts as it may be; all that is left can still go back at once."""

    code = "too_many_refunds"


class RefundNotAllowed(Refused):
    """Cancelling the order now would give money back, and the asker may not."""

    code = "refund_not_allowed"


class WrongCurrency(Refused):
    """An order is refunded in its own currency."""

    code = "wrong_currency"


class IdempotencyKeyReused(Refused):
    """The key stands for another request."""

    code = "idempotency_key_reused"


class MisleadingStatus(Refused):
    """The status reads like one that only the system sets."""

    code = "misleading_status"


class Conflict(Refused):
    """Others changed the order again and again meanwhile."""

    code = "conflict"


class TooManyOpenOrders(Refused):
    """As many orders of the user wait to be paid as may; member `retry_after` in seconds."""

    code = "too_many_open_orders"


class Overloaded(Refused):
    """More is waiting than can be worked off soon; member `retry_after` in seconds."""

    code = "overloaded"


class Unavailable(Refused):
    """Nobody can answer now; member `retry_after` in seconds says when it may be worth another try."""

    code = "unavailable"


def concrete(kind: type[Any]) -> Iterator[type[Any]]:
    """Every message class below `kind` that is sent as itself."""
    for child in kind.__subclasses__():
        yield from [*concrete(child)] or [child]


def by_name(kind: type[Any]) -> dict[str, type[Any]]:
    """The same, each by what it is called."""
    return {child.__name__: child for child in concrete(kind)}
