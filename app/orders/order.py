"""An order's states, the steps between them, and what each step means for the money. Pure.

TABLE is the one place that knows them: code, tests, documentation and pages draw from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from unicodedata import category, normalize

from app.contracts.base import Event
from app.contracts.orders import (
    IdempotencyKeyReused,
    IllegalTransition,
    MisleadingStatus,
    RefundExceedsBalance,
    RefundNotAllowed,
    StaleVersion,
    TimelineEntry,
    TimelineFull,
    TooManyRefunds,
    WrongCurrency,
)
from app.contracts.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentVoided,
)

NEW = "(new)"
PROCESSING = "Processing"
SUCCESS = "Success"
DECLINED = "Declined"
CANCELLED = "Cancelled"
CONFIRM = "Confirm"
CUSTOM = "(custom)"

KNOWN = (PROCESSING, SUCCESS, DECLINED, CANCELLED, CONFIRM)
# What an order is once a client with the order in hand has moved it on.
FULFILMENT = frozenset({CONFIRM, CUSTOM})
FOLDED = frozenset(status.casefold() for status in KNOWN) | {"canceled"}
# A timeline is meant to have so many steps at the most. Texts of clients end at TEXT_LIMIT, and an order is refunded in
# at most REFUND_LIMIT parts and once more for all the rest; each part takes two steps, asked for and given back. The
# rest of the room is for steps that happen once. What payments report is recorded even beyond it.
TIMELINE_LIMIT = 200
TEXT_LIMIT = 100
REFUND_LIMIT = 40


class Trigger(StrEnum):
    """What moves an order."""

    POST = "POST"
    CAPTURE = "payment captured"
    DECLINE = "payment declined"
    CONFIRM = "PUT Confirm"
    CANCEL = "PUT Cancelled"
    TEXT = "PUT any other text"


class PaymentStatus(StrEnum):
    """Where the money of an order is, as far as its orders know."""

    PROCESSING = "Processing"
    CAPTURED = "Captured"
    DECLINED = "Declined"
    VOIDED = "Voided"
    REFUNDING = "Refunding"
    REFUNDED = "Refunded"
    UNKNOWN = "Unknown"


# What only payments say of an order's money: no text of a client's own.
PAYMENT_WORDS = frozenset(status.casefold() for status in PaymentStatus)
# Categories of Unicode that show nothing of their own: formats and marks.
UNSEEN = frozenset({"Cf", "Mn"})
REFUNDABLE = frozenset({PaymentStatus.CAPTURED, PaymentStatus.REFUNDING, PaymentStatus.REFUNDED})


@dataclass(frozen=True)
class Transition:
    """From `source`, moved by `by`, an order comes to `target`; `money` says what that means for the payment."""

    source: str
    by: Trigger
    target: str
    money: str = ""


TRANSITIONS = (
    Transition(NEW, Trigger.POST, PROCESSING, "a payment is started"),
    Transition(PROCESSING, Trigger.CAPTURE, SUCCESS, "the total was taken"),
    Transition(PROCESSING, Trigger.DECLINE, DECLINED, "nothing was taken"),
    Transition(PROCESSING, Trigger.CANCEL, CANCELLED, "the payment is voided, or refunded if it lands later"),
    Transition(SUCCESS, Trigger.CONFIRM, CONFIRM),
    Transition(SUCCESS, Trigger.CANCEL, CANCELLED, "a refund is started"),
    Transition(SUCCESS, Trigger.TEXT, CUSTOM),
    Transition(CONFIRM, Trigger.TEXT, CUSTOM),
    Transition(CONFIRM, Trigger.CANCEL, CANCELLED, "a refund is started"),
    Transition(CUSTOM, Trigger.TEXT, CUSTOM),
    Transition(CUSTOM, Trigger.CANCEL, CANCELLED, "a refund is started"),
    Transition(DECLINED, Trigger.CANCEL, CANCELLED, "no money is involved"),
)
NEXT = {(rule.source, rule.by): rule for rule in TRANSITIONS}
WANTED = {CONFIRM: Trigger.CONFIRM, CANCELLED: Trigger.CANCEL}

# How the timeline's actors and their deeds are called in a sentence.
ACTORS = {"client": "a client"}
DEEDS = {
    "OrderCreated": "placed it",
    "OrderUpdated": "moved it on",
    "OrderCancelled": "cancelled it",
    "RefundRequested": "asked for a refund",
    "PaymentCaptured": "took the total",
    "PaymentDeclined": "could not take the total",
    "PaymentVoided": "called the payment off",
    "PaymentRefunded": "gave money back",
    "PaymentRefundFailed": "could not give money back",
    "PaymentParked": "could not learn what became of the money",
}


@dataclass(frozen=True, kw_only=True)
class State:
    """What of an order decides its next step; `refunds` are the ids and values of those asked for.

    `wishes` are how they were asked for, by id: the same id with another wish is another request. `failed` are the ids
    of refunds that were given up.
    """

    order_status: str
    payment_status: str
    version: int
    sequence: int
    payment_sequence: int
    total_value: int
    total_currency: str = ""
    refunds: tuple[tuple[str, int], ...] = ()
    wishes: tuple[tuple[str, str], ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def reserved(self) -> int:
        """How much of the total goes back on request, or has gone."""
        return sum(value for refund_id, value in self.refunds if refund_id not in self.failed)


@dataclass(frozen=True, kw_only=True)
class OrderTransition:
    """A step to record: the order's statuses after it, and whether payments must hear of the cancellation."""

    type: str
    actor: str
    order_status: str
    payment_status: str
    detail: str = ""
    cancels_payment: bool = False
    refund: tuple[str, int] | None = None
    wish: str = ""
    failed_refund: str = ""


def allowed(order_status: str) -> tuple[str, ...]:
    """What a client may set this order to, next; `(custom)` stands for any text of its own."""
    rules = (rule for rule in TRANSITIONS if rule.source == _kind(order_status))
    targets = {Trigger.CONFIRM: CONFIRM, Trigger.CANCEL: CANCELLED, Trigger.TEXT: CUSTOM}
    return tuple(targets[rule.by] for rule in rules if rule.by in targets)


def on_cancel(order_status: str) -> str:
    """What cancelling the order now would mean for the money; empty where it cannot be cancelled."""
    rule = NEXT.get((_kind(order_status), Trigger.CANCEL))
    return rule.money if rule else ""


def sentence(order_status: str, payment_status: str, last: TimelineEntry) -> str:
    """In one sentence, without its full stop, how an order came to be where it is."""
    deed = f"{ACTORS.get(last.actor, last.actor)} {DEEDS.get(last.type, last.type)} at {last.at}"
    return f"The order is {order_status} and its payment {payment_status}, since {deed}"


def check_version(order_id: str, state: State, expected: tuple[int, ...]) -> None:
    """Raise StaleVersion unless the order has one of the expected versions; any will do where none is named."""
    if expected and state.version not in expected:
        raise StaleVersion("the order is not at the version you named", order_id=order_id, version=state.version)


def created() -> OrderTransition:
    """The first step of every order."""
    return OrderTransition(
        type="OrderCreated",
        actor="client",
        order_status=NEXT[NEW, Trigger.POST].target,
        payment_status=PaymentStatus.PROCESSING,
        detail=NEXT[NEW, Trigger.POST].money,
    )


def requested(state: State, wanted: str, may_refund: bool = True) -> OrderTransition | None:
    """The step a client asks for; None where the order is there already.

    A client that may not refund cancels only until fulfilment begins. Raises MisleadingStatus, IllegalTransition,
    RefundNotAllowed and TimelineFull.
    """
    if wanted == state.order_status:
        return None
    if _misleads(wanted):
        raise MisleadingStatus("this reads like a status that only the system sets")
    rule = NEXT.get((_kind(state.order_status), _client_step(wanted)))  # type: ignore[arg-type]
    if rule is None:
        raise _illegal(state.order_status, wanted)
    if rule.by == Trigger.TEXT and state.sequence >= TEXT_LIMIT:
        raise TimelineFull(f"an order that has had {TEXT_LIMIT} steps takes no further text; it can be cancelled")
    if rule.target == CANCELLED and rule.source in FULFILMENT and not may_refund:
        raise RefundNotAllowed("fulfilment of this order has begun: cancelling it gives money back")
    cancels = rule.target == CANCELLED and state.order_status != DECLINED
    return OrderTransition(
        type="OrderCancelled" if rule.target == CANCELLED else "OrderUpdated",
        actor="client",
        order_status=wanted,
        payment_status=_payment_on_cancel(state) if cancels else state.payment_status,
        detail=rule.money,
        cancels_payment=cancels,
    )


def refunded(state: State, refund_id: str, value: int, currency: str) -> OrderTransition | None:
    """The reservation of a refund, `value` 0 for all that is left; None where it was made before.

    Raises IllegalTransition where nothing was captured or the order is cancelled, RefundExceedsBalance, WrongCurrency,
    IdempotencyKeyReused and TooManyRefunds.
    """
    wish = f"{value} {currency}".strip()
    earlier = dict(state.refunds).get(refund_id)
    if earlier is not None:
        if dict(state.wishes).get(refund_id, wish) != wish or value not in (0, earlier):
            raise IdempotencyKeyReused("this Idempotency-Key stands for a refund of another amount")
        return None
    if state.order_status == CANCELLED or state.payment_status not in REFUNDABLE:
        raise _illegal(state.order_status, "refunded")
    if value and currency != state.total_currency:
        raise WrongCurrency(f"this order is refunded in {state.total_currency}")
    remaining = state.total_value - state.reserved
    value = value or remaining
    if not 0 < value <= remaining:
        raise RefundExceedsBalance("this is more than is left of what was captured", remaining=remaining)
    if len(state.refunds) >= REFUND_LIMIT and value < remaining:
        raise TooManyRefunds(f"the order was refunded in {REFUND_LIMIT} parts; ask for all that is left, or cancel it")
    return OrderTransition(
        type="RefundRequested",
        actor="client",
        order_status=state.order_status,
        payment_status=PaymentStatus.REFUNDING,
        detail=f"refund of {value}",
        refund=(refund_id, value),
        wish=wish,
    )


def heard(state: State, news: Event) -> OrderTransition | None:
    """What news from payments changes; None where it was heard before."""
    if news.sequence <= state.payment_sequence:
        return None
    order_status, payment_status, detail = _outcome(state, news)
    return OrderTransition(
        type=type(news).__name__,
        actor="payments",
        order_status=order_status,
        payment_status=payment_status,
        detail=detail,
        failed_refund=news.refund_id if isinstance(news, PaymentRefundFailed) else "",
    )


def fold(entries: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The order's and the payment's status after the timeline entries `(order status, payment status)`."""
    last = (NEW, "")
    for entry in entries:
        last = entry
    return last


def _outcome(state: State, news: Event) -> tuple[str, str, str]:
    status, cancelled = state.order_status, state.order_status == CANCELLED
    match news:
        case PaymentCaptured():
            payment = PaymentStatus.REFUNDING if cancelled else PaymentStatus.CAPTURED
            return _moved(status, Trigger.CAPTURE), payment, news.reference
        case PaymentDeclined():
            return _moved(status, Trigger.DECLINE), PaymentStatus.DECLINED, news.reason
        case PaymentVoided():
            # Without a cancellation an operator called it off: as after a decline, nothing was taken.
            return _moved(status, Trigger.DECLINE), PaymentStatus.VOIDED, "called off before any money moved"
        case PaymentParked():
            return status, PaymentStatus.UNKNOWN, news.reason
        case PaymentRefunded():
            return status, _payment_after_refund(state, news), f"refunded {news.refund_value}"
        case PaymentRefundFailed():
            released = replace(state, failed=(*state.failed, news.refund_id))
            detail = f"refund of {news.refund_value} given up: {news.reason}"
            return status, _payment_after_refund(released, news), detail
    raise TypeError(f"orders does not know {type(news).__name__}")


def _payment_after_refund(state: State, news: PaymentRefunded | PaymentRefundFailed) -> PaymentStatus:
    if news.refunded_total >= state.total_value:
        return PaymentStatus.REFUNDED
    going_back = state.total_value if state.order_status == CANCELLED else state.reserved
    return PaymentStatus.REFUNDING if news.refunded_total < going_back else PaymentStatus.CAPTURED


def _moved(order_status: str, by: Trigger) -> str:
    rule = NEXT.get((order_status, by))
    return rule.target if rule else order_status


def _payment_on_cancel(state: State) -> str:
    captured = state.payment_status == PaymentStatus.CAPTURED
    return PaymentStatus.REFUNDING if captured else state.payment_status


def _client_step(wanted: str) -> Trigger | None:
    if wanted in WANTED:
        return WANTED[wanted]
    # "cancelled" is a slip of the pen, never a status of one's own.
    return None if wanted.strip().casefold() in FOLDED else Trigger.TEXT


def _misleads(wanted: str) -> bool:
    """Whether a text reads like a known status of an order or a payment, and is not simply a slip in writing it."""
    if wanted.strip().casefold() in FOLDED:
        return False
    read = "".join(char for char in normalize("NFKC", wanted) if category(char) not in UNSEEN)
    return " ".join(read.split()).casefold() in FOLDED | PAYMENT_WORDS


def _kind(order_status: str) -> str:
    return order_status if order_status in KNOWN else CUSTOM


def _illegal(current: str, wanted: str) -> IllegalTransition:
    may = allowed(current)
    detail = f"an order that is {current} cannot become {wanted}"
    return IllegalTransition(detail, **{"from": current, "to": wanted, "allowed": list(may)})
