"""The states of an order, the transitions between them, and what each means for the money. Pure.

TRANSITIONS is the only list of them: code, tests, documentation and pages are made from it.
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
    PaymentStatus,
    PaymentVoided,
)

NEW = "(new)"
PROCESSING = "Processing"
SUCCESS = "Success"
DECLINED = "Declined"
CANCELLED = "Cancelled"
CONFIRM = "Confirm"
CUSTOM = "(custom)"

STATUSES = (PROCESSING, SUCCESS, DECLINED, CANCELLED, CONFIRM)
# States after fulfilment has begun.
FULFILMENT = frozenset({CONFIRM, CUSTOM})
CASEFOLDED_STATUSES = frozenset(status.casefold() for status in STATUSES) | {"canceled"}
# The length of a timeline. Clients may set custom statuses up to TEXT_LIMIT, and refund an order in at most REFUND_LIMIT
# parts and once more for all the rest; each part takes two entries, one for the request and one for the refund. The remaining
# entries are for changes that happen once. Payment events are recorded even beyond the limit.
TIMELINE_LIMIT = 200
TEXT_LIMIT = 100
REFUND_LIMIT = 40


class Trigger(StrEnum):
    """What causes a transition."""

    POST = "POST"
    CAPTURE = "payment captured"
    DECLINE = "payment declined"
    CONFIRM = "PUT Confirm"
    CANCEL = "PUT Cancelled"
    TEXT = "PUT any other text"


# Words about money that only payments may use; a client cannot set them as a status.
CASEFOLDED_PAYMENT_STATUSES = frozenset(status.casefold() for status in PaymentStatus)
# Unicode categories of characters that are not visible themselves: formats and marks.
INVISIBLE = frozenset({"Cf", "Mn"})
REFUNDABLE = frozenset({PaymentStatus.CAPTURED, PaymentStatus.REFUNDING, PaymentStatus.REFUNDED})


@dataclass(frozen=True)
class Transition:
    """`by` takes an order from `source` to `target`; `money` says what that means for the payment."""

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
NEXT_TRANSITION = {(rule.source, rule.by): rule for rule in TRANSITIONS}
CLIENT_TRIGGERS = {CONFIRM: Trigger.CONFIRM, CANCELLED: Trigger.CANCEL}

# How a sentence names the actors and events of a timeline.
ACTOR_PHRASES = {"client": "a client"}
EVENT_PHRASES = {
    "OrderCreated": "placed it",
    "OrderUpdated": "updated it",
    "OrderCancelled": "cancelled it",
    "RefundRequested": "asked for a refund",
    "PaymentCaptured": "took the total",
    "PaymentDeclined": "could not take the total",
    "PaymentVoided": "voided the payment",
    "PaymentRefunded": "gave money back",
    "PaymentRefundFailed": "could not give money back",
    "PaymentParked": "could not find out whether money moved",
}


@dataclass(frozen=True, kw_only=True)
class OrderState:
    """The members of an order that decide its next transition.

    `refunds` are ids and values of the refunds that were requested, `refund_requests` are ids and how the amount was requested:
    the same id with another amount is another request. `failed_refunds` are ids of refunds that were given up.
    """

    order_status: str
    payment_status: str
    version: int
    sequence: int
    payment_sequence: int
    total_value: int
    total_currency: str = ""
    refunds: tuple[tuple[str, int], ...] = ()
    refund_requests: tuple[tuple[str, str], ...] = ()
    failed_refunds: tuple[str, ...] = ()

    @property
    def reserved(self) -> int:
        """How much of the total is refunded or reserved for refunds, in minor units."""
        return sum(value for refund_id, value in self.refunds if refund_id not in self.failed_refunds)


@dataclass(frozen=True, kw_only=True)
class OrderTransition:
    """A change to record: the statuses after it, and whether payments must receive a cancellation.

    `refund` is the id and the value of a new refund, `failed_refund` the id of one that was given up.
    """

    type: str
    actor: str
    order_status: str
    payment_status: str
    detail: str = ""
    cancels_payment: bool = False
    refund: tuple[str, int] | None = None
    refund_request: str = ""
    failed_refund: str = ""


def allowed(order_status: str) -> tuple[str, ...]:
    """The statuses that a client may set next; `(custom)` stands for any other text."""
    rules = (rule for rule in TRANSITIONS if rule.source == _kind(order_status))
    targets = {Trigger.CONFIRM: CONFIRM, Trigger.CANCEL: CANCELLED, Trigger.TEXT: CUSTOM}
    return tuple(targets[rule.by] for rule in rules if rule.by in targets)


def on_cancel(order_status: str) -> str:
    """What cancelling the order now would mean for the money; empty if it cannot be cancelled."""
    rule = NEXT_TRANSITION.get((_kind(order_status), Trigger.CANCEL))
    return rule.money if rule else ""


def explanation(order_status: str, payment_status: str, last: TimelineEntry) -> str:
    """One sentence, without its full stop, that explains the present state by the last change."""
    cause = f"{ACTOR_PHRASES.get(last.actor, last.actor)} {EVENT_PHRASES.get(last.type, last.type)} at {last.at}"
    return f"The order is {order_status} and its payment {payment_status}, since {cause}"


def check_version(order_id: str, state: OrderState, expected: tuple[int, ...]) -> None:
    """Raise StaleVersion unless the order has one of the expected versions; an empty tuple allows any."""
    if expected and state.version not in expected:
        raise StaleVersion("the order is not at the version you named", order_id=order_id, version=state.version)


def initial_transition() -> OrderTransition:
    """The transition of every new order."""
    return OrderTransition(
        type="OrderCreated",
        actor="client",
        order_status=NEXT_TRANSITION[NEW, Trigger.POST].target,
        payment_status=PaymentStatus.PROCESSING,
        detail=NEXT_TRANSITION[NEW, Trigger.POST].money,
    )


def client_transition(state: OrderState, order_status: str, may_refund: bool = True) -> OrderTransition | None:
    """The transition to a status that a client sets; None if the order has it already.

    A client that may not refund can cancel only until fulfilment begins. Raises MisleadingStatus, IllegalTransition,
    RefundNotAllowed and TimelineFull.
    """
    if order_status == state.order_status:
        return None
    if _is_misleading(order_status):
        raise MisleadingStatus("this reads like a status that only the system sets")
    rule = NEXT_TRANSITION.get((_kind(state.order_status), _client_trigger(order_status)))  # type: ignore[arg-type]
    if rule is None:
        raise _illegal_transition(state.order_status, order_status)
    if rule.by == Trigger.TEXT and state.sequence >= TEXT_LIMIT:
        raise TimelineFull(f"an order with {TEXT_LIMIT} changes takes no further custom status; it can be cancelled")
    if rule.target == CANCELLED and rule.source in FULFILMENT and not may_refund:
        raise RefundNotAllowed("fulfilment of this order has begun: cancelling it gives money back")
    cancels = rule.target == CANCELLED and state.order_status != DECLINED
    return OrderTransition(
        type="OrderCancelled" if rule.target == CANCELLED else "OrderUpdated",
        actor="client",
        order_status=order_status,
        payment_status=_payment_on_cancel(state) if cancels else state.payment_status,
        detail=rule.money,
        cancels_payment=cancels,
    )


def refund_reservation(state: OrderState, refund_id: str, value: int, currency: str) -> OrderTransition | None:
    """The reservation of a refund; `value` 0 stands for all that is left. None if it was made before.

    Raises IllegalTransition if nothing was captured or the order is cancelled, RefundExceedsBalance, WrongCurrency,
    IdempotencyKeyReused and TooManyRefunds.
    """
    refund_request = f"{value} {currency}".strip()
    earlier = dict(state.refunds).get(refund_id)
    if earlier is not None:
        if dict(state.refund_requests).get(refund_id, refund_request) != refund_request or value not in (0, earlier):
            raise IdempotencyKeyReused("this Idempotency-Key stands for a refund of another amount")
        return None
    if state.order_status == CANCELLED or state.payment_status not in REFUNDABLE:
        raise _illegal_transition(state.order_status, "refunded")
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
        refund_request=refund_request,
    )


def apply_payment_event(state: OrderState, event: Event) -> OrderTransition | None:
    """The transition by a payment event; None if the event was applied before."""
    if event.sequence <= state.payment_sequence:
        return None
    order_status, payment_status, detail = _payment_effect(state, event)
    return OrderTransition(
        type=type(event).__name__,
        actor="payments",
        order_status=order_status,
        payment_status=payment_status,
        detail=detail,
        failed_refund=event.refund_id if isinstance(event, PaymentRefundFailed) else "",
    )


def fold(entries: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The order status and payment status after the timeline entries `(order status, payment status)`."""
    last = (NEW, "")
    for entry in entries:
        last = entry
    return last


def _payment_effect(state: OrderState, event: Event) -> tuple[str, str, str]:
    status, cancelled = state.order_status, state.order_status == CANCELLED
    match event:
        case PaymentCaptured():
            payment = PaymentStatus.REFUNDING if cancelled else PaymentStatus.CAPTURED
            return _status_after(status, Trigger.CAPTURE), payment, event.reference
        case PaymentDeclined():
            return _status_after(status, Trigger.DECLINE), PaymentStatus.DECLINED, event.reason
        case PaymentVoided():
            # Without a cancellation an operator voided it: as after a decline, nothing was taken.
            return _status_after(status, Trigger.DECLINE), PaymentStatus.VOIDED, "voided before any money moved"
        case PaymentParked():
            return status, PaymentStatus.UNKNOWN, event.reason
        case PaymentRefunded():
            return status, _payment_after_refund(state, event), f"refunded {event.refund_value}"
        case PaymentRefundFailed():
            released = replace(state, failed_refunds=(*state.failed_refunds, event.refund_id))
            detail = f"refund of {event.refund_value} given up: {event.reason}"
            return status, _payment_after_refund(released, event), detail
    raise TypeError(f"orders does not know {type(event).__name__}")


def _payment_after_refund(state: OrderState, event: PaymentRefunded | PaymentRefundFailed) -> PaymentStatus:
    if event.refunded_total >= state.total_value:
        return PaymentStatus.REFUNDED
    going_back = state.total_value if state.order_status == CANCELLED else state.reserved
    return PaymentStatus.REFUNDING if event.refunded_total < going_back else PaymentStatus.CAPTURED


def _status_after(order_status: str, by: Trigger) -> str:
    rule = NEXT_TRANSITION.get((order_status, by))
    return rule.target if rule else order_status


def _payment_on_cancel(state: OrderState) -> str:
    captured = state.payment_status == PaymentStatus.CAPTURED
    return PaymentStatus.REFUNDING if captured else state.payment_status


def _client_trigger(order_status: str) -> Trigger | None:
    if order_status in CLIENT_TRIGGERS:
        return CLIENT_TRIGGERS[order_status]
    # A known status in other letters, such as "cancelled", is a mistake and never a custom status.
    return None if order_status.strip().casefold() in CASEFOLDED_STATUSES else Trigger.TEXT


def _is_misleading(order_status: str) -> bool:
    """Whether a text looks like a status of an order or a payment and is not a mere misspelling of it."""
    if order_status.strip().casefold() in CASEFOLDED_STATUSES:
        return False
    read = "".join(char for char in normalize("NFKC", order_status) if category(char) not in INVISIBLE)
    return " ".join(read.split()).casefold() in CASEFOLDED_STATUSES | CASEFOLDED_PAYMENT_STATUSES


def _kind(order_status: str) -> str:
    return order_status if order_status in STATUSES else CUSTOM


def _illegal_transition(current: str, order_status: str) -> IllegalTransition:
    may = allowed(current)
    detail = f"an order that is {current} cannot become {order_status}"
    return IllegalTransition(detail, **{"from": current, "to": order_status, "allowed": list(may)})
