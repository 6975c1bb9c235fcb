"""An order's states, the steps between them, and what each step means for the money. Pure.

TABLE is the one place that knows them: code, tests, documentation and pages draw from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from app.contracts import (
    Event,
    IllegalStep,
    PaymentCaptured,
    PaymentDeclined,
    PaymentParked,
    PaymentRefunded,
    PaymentVoided,
    TimelineFull,
)

NEW = "(new)"
PROCESSING = "Processing"
SUCCESS = "Success"
DECLINED = "Declined"
CANCELLED = "Cancelled"
CONFIRM = "Confirm"
CUSTOM = "(custom)"

KNOWN = (PROCESSING, SUCCESS, DECLINED, CANCELLED, CONFIRM)
FOLDED = frozenset(status.casefold() for status in KNOWN)
TIMELINE_LIMIT = 200


class By(StrEnum):
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


@dataclass(frozen=True)
class Rule:
    """From `source`, moved by `by`, an order comes to `target`; `money` says what that means for the payment."""

    source: str
    by: By
    target: str
    money: str = ""


TABLE = (
    Rule(NEW, By.POST, PROCESSING, "a payment is started"),
    Rule(PROCESSING, By.CAPTURE, SUCCESS, "the total was taken"),
    Rule(PROCESSING, By.DECLINE, DECLINED, "nothing was taken"),
    Rule(PROCESSING, By.CANCEL, CANCELLED, "the payment is voided, or refunded if it lands later"),
    Rule(SUCCESS, By.CONFIRM, CONFIRM),
    Rule(SUCCESS, By.CANCEL, CANCELLED, "a refund is started"),
    Rule(SUCCESS, By.TEXT, CUSTOM),
    Rule(CONFIRM, By.TEXT, CUSTOM),
    Rule(CONFIRM, By.CANCEL, CANCELLED, "a refund is started"),
    Rule(CUSTOM, By.TEXT, CUSTOM),
    Rule(CUSTOM, By.CANCEL, CANCELLED, "a refund is started"),
    Rule(DECLINED, By.CANCEL, CANCELLED, "no money is involved"),
)
NEXT = {(rule.source, rule.by): rule for rule in TABLE}
WANTED = {CONFIRM: By.CONFIRM, CANCELLED: By.CANCEL}


@dataclass(frozen=True, kw_only=True)
class State:
    """What of an order decides its next step."""

    order_status: str
    payment_status: str
    version: int
    sequence: int
    payment_sequence: int
    total_value: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """A step to record: the order's statuses after it, and whether payments must hear of the cancellation."""

    type: str
    actor: str
    order_status: str
    payment_status: str
    detail: str = ""
    cancels_payment: bool = False


def allowed(order_status: str) -> tuple[str, ...]:
    """What a client may set this order to, next; `(custom)` stands for any text of its own."""
    rules = (rule for rule in TABLE if rule.source == _kind(order_status))
    targets = {By.CONFIRM: CONFIRM, By.CANCEL: CANCELLED, By.TEXT: CUSTOM}
    return tuple(targets[rule.by] for rule in rules if rule.by in targets)


def created() -> Change:
    """The first step of every order."""
    return Change(
        type="OrderCreated",
        actor="client",
        order_status=NEXT[NEW, By.POST].target,
        payment_status=PaymentStatus.PROCESSING,
        detail=NEXT[NEW, By.POST].money,
    )


def requested(state: State, wanted: str) -> Change | None:
    """The step a client asks for; None where the order is there already. Raises IllegalStep and TimelineFull."""
    if wanted == state.order_status:
        return None
    rule = NEXT.get((_kind(state.order_status), _client_step(wanted)))  # type: ignore[arg-type]
    if rule is None:
        raise _illegal(state.order_status, wanted)
    if state.sequence >= TIMELINE_LIMIT:
        raise TimelineFull(f"the order has had {TIMELINE_LIMIT} steps, which is as many as it may have")
    cancels = rule.target == CANCELLED and state.order_status != DECLINED
    return Change(
        type="OrderCancelled" if rule.target == CANCELLED else "OrderUpdated",
        actor="client",
        order_status=wanted,
        payment_status=_payment_on_cancel(state) if cancels else state.payment_status,
        detail=rule.money,
        cancels_payment=cancels,
    )


def heard(state: State, news: Event) -> Change | None:
    """What news from payments changes; None where it was heard before."""
    if news.sequence <= state.payment_sequence:
        return None
    order_status, payment_status, detail = _outcome(state, news)
    return Change(
        type=type(news).__name__,
        actor="payments",
        order_status=order_status,
        payment_status=payment_status,
        detail=detail,
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
            return _moved(status, By.CAPTURE), payment, news.reference
        case PaymentDeclined():
            return _moved(status, By.DECLINE), PaymentStatus.DECLINED, news.reason
        case PaymentVoided():
            return status, PaymentStatus.VOIDED, "called off before any money moved"
        case PaymentParked():
            return status, PaymentStatus.UNKNOWN, news.reason
        case PaymentRefunded():
            whole = news.refunded_total >= state.total_value
            partial = PaymentStatus.REFUNDING if cancelled else PaymentStatus.CAPTURED
            return status, PaymentStatus.REFUNDED if whole else partial, f"refunded {news.refund_value}"
    raise TypeError(f"orders does not know {type(news).__name__}")


def _moved(order_status: str, by: By) -> str:
    rule = NEXT.get((order_status, by))
    return rule.target if rule else order_status


def _payment_on_cancel(state: State) -> str:
    captured = state.payment_status == PaymentStatus.CAPTURED
    return PaymentStatus.REFUNDING if captured else state.payment_status


def _client_step(wanted: str) -> By | None:
    if wanted in WANTED:
        return WANTED[wanted]
    # "cancelled" is a slip of the pen, never a status of one's own.
    return None if wanted.strip().casefold() in FOLDED else By.TEXT


def _kind(order_status: str) -> str:
    return order_status if order_status in KNOWN else CUSTOM


def _illegal(current: str, wanted: str) -> IllegalStep:
    may = allowed(current)
    detail = f"an order that is {current} cannot become {wanted}"
    return IllegalStep(detail, **{"from": current, "to": wanted, "allowed": list(may)})
