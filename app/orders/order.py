"""The states of an order and of its payment, the transitions between them, and what each means for the money. Pure.

TRANSITIONS is the only list of an order's transitions, PAYMENT_STATUSES of what a payment's statuses mean: code, tests,
documentation and pages are made from them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from unicodedata import category, normalize

from app.contracts.base import Event, rfc3339
from app.contracts.orders import (
    AlreadyCaptured,
    CaptureExceedsAuthorization,
    IdempotencyKeyReused,
    IllegalTransition,
    MisleadingStatus,
    NextActionView,
    RefundDuringDispute,
    RefundExceedsBalance,
    RefundNotAllowed,
    StaleVersion,
    TimelineEntry,
    TimelineFull,
    TooManyRefunds,
    WrongCurrency,
)
from app.contracts.payments import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
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
# States in which the payer gets back all that was taken, also what is taken later.
NOTHING_KEPT = frozenset({CANCELLED, DECLINED})
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


@dataclass(frozen=True)
class Transition:
    """`by` takes an order from `source` to `target`; `money` says what that means for the payment."""

    source: str
    by: Trigger
    target: str
    money: str = ""


TRANSITIONS = (
    Transition(NEW, Trigger.POST, PROCESSING, "a payment is started"),
    Transition(PROCESSING, Trigger.CAPTURE, SUCCESS, "the total was taken, or the part that was captured"),
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

# What clients may do with the money.
CAPTURE = "capture"
REFUND = "refund"


@dataclass(frozen=True)
class PaymentStatusRule:
    """What a payment's status means, and what a client may do with the money then.

    `on_cancel` is what cancelling the order means for the money, where the order's transition does not say it.
    """

    status: PaymentStatus
    meaning: str
    actions: tuple[str, ...] = ()
    on_cancel: str = ""


PAYMENT_STATUSES = (
    PaymentStatusRule(PaymentStatus.PROCESSING, "the provider is asked for the total, or to void the payment"),
    PaymentStatusRule(PaymentStatus.ACTION_REQUIRED, "the customer must act: nextAction says how and until when"),
    PaymentStatusRule(PaymentStatus.PENDING, "a bank has not answered yet"),
    PaymentStatusRule(PaymentStatus.AUTHORIZED, "the amount is held until it is captured", (CAPTURE,)),
    PaymentStatusRule(PaymentStatus.CAPTURED, "the amount was taken", (REFUND,)),
    PaymentStatusRule(PaymentStatus.DECLINED, "the provider refused; nothing was taken"),
    PaymentStatusRule(PaymentStatus.VOIDED, "the payment was voided before money moved"),
    PaymentStatusRule(PaymentStatus.REFUNDING, "money is going back", (REFUND,)),
    PaymentStatusRule(PaymentStatus.REFUNDED, "all that was taken went back"),
    PaymentStatusRule(
        PaymentStatus.DISPUTED,
        "the payer has objected to the charge, and the dispute is open or lost",
        on_cancel="a refund is started if the dispute is won",
    ),
    PaymentStatusRule(PaymentStatus.UNKNOWN, "it is unknown whether money moved; an operator finds out"),
)
PAYMENT_STATUS_RULES = {rule.status: rule for rule in PAYMENT_STATUSES}
# While the payment waits, a cancellation has it voided.
WAITING = frozenset({PaymentStatus.ACTION_REQUIRED, PaymentStatus.PENDING, PaymentStatus.AUTHORIZED})
# A refund of what is fully refunded is refused for its amount, not for the status.
REFUNDABLE = frozenset({rule.status for rule in PAYMENT_STATUSES if REFUND in rule.actions} | {PaymentStatus.REFUNDED})
CLIENT_TRIGGERS = {CONFIRM: Trigger.CONFIRM, CANCELLED: Trigger.CANCEL}

# How a sentence names the actors and events of a timeline.
ACTOR_PHRASES = {"client": "a client"}
EVENT_PHRASES = {
    "OrderCreated": "placed it",
    "OrderUpdated": "updated it",
    "OrderCancelled": "cancelled it",
    "CaptureRequested": "asked for the capture",
    "RefundRequested": "asked for a refund",
    "PaymentActionRequired": "asked the customer to act",
    "PaymentDelayed": "began to wait for a bank",
    "PaymentAuthorized": "had the amount authorized",
    "PaymentCaptured": "took the money",
    "PaymentDeclined": "could not take the total",
    "PaymentVoided": "voided the payment",
    "PaymentRefunded": "gave money back",
    "PaymentRefundFailed": "could not give money back",
    "PaymentDisputed": "recorded a dispute",
    "PaymentDisputeClosed": "recorded the end of a dispute",
    "PaymentParked": "could not find out whether money moved",
}


@dataclass(frozen=True, kw_only=True)
class OrderState:
    """The members of an order that decide its next transition.

    `refunds` are ids and values of the refunds that were requested, `refund_requests` are ids and how the amount was requested:
    the same id with another amount is another request. `failed_refunds` are ids of refunds that were given up.

    In minor units: `authorized` is what is held for a capture, `capture_value` what a client asked to capture, and `captured` what
    was taken where that is not the total; each is 0 where there is no such amount. `disputed`: a dispute is open or lost.
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
    authorized: int = 0
    capture_value: int = 0
    captured: int = 0
    disputed: bool = False

    @property
    def taken(self) -> int:
        """How much the provider took, or will take where it has not yet, in minor units."""
        return self.captured or self.total_value

    @property
    def reserved(self) -> int:
        """How much of it is refunded or reserved for refunds, in minor units."""
        return sum(value for refund_id, value in self.refunds if refund_id not in self.failed_refunds)


@dataclass(frozen=True, kw_only=True)
class OrderTransition:
    """A change to record: the statuses after it, and whether payments must receive a cancellation.

    `refund` is the id and the value of a new refund, `failed_refund` the id of one that was given up. `authorized`,
    `capture_value` and `captured` are new amounts, as in OrderState; 0 leaves them as they are, and so does None for `disputed`.
    `next_action` is what the customer must do; an earlier one ends with every change of a payment.
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
    authorized: int = 0
    capture_value: int = 0
    captured: int = 0
    disputed: bool | None = None
    next_action: NextActionView | None = None


def allowed(order_status: str) -> tuple[str, ...]:
    """The statuses that a client may set next; `(custom)` stands for any other text."""
    rules = (rule for rule in TRANSITIONS if rule.source == _kind(order_status))
    targets = {Trigger.CONFIRM: CONFIRM, Trigger.CANCEL: CANCELLED, Trigger.TEXT: CUSTOM}
    return tuple(targets[rule.by] for rule in rules if rule.by in targets)


def actions(order_status: str, payment_status: str, capture_requested: bool = False) -> tuple[str, ...]:
    """What a client may do with the money now: `capture` what is authorized, `refund` what was taken."""
    if order_status in NOTHING_KEPT:
        return ()
    possible = PAYMENT_STATUS_RULES[PaymentStatus(payment_status)].actions
    return tuple(action for action in possible if not (action == CAPTURE and capture_requested))


def on_cancel(order_status: str, payment_status: str) -> str:
    """What cancelling the order now would mean for the money; empty if it cannot be cancelled."""
    rule = NEXT_TRANSITION.get((_kind(order_status), Trigger.CANCEL))
    return (PAYMENT_STATUS_RULES[PaymentStatus(payment_status)].on_cancel or rule.money) if rule else ""


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
        detail=on_cancel(state.order_status, state.payment_status) if cancels else rule.money,
        cancels_payment=cancels,
    )


def capture_request(state: OrderState, value: int, currency: str) -> OrderTransition | None:
    """The request to capture `value` of what is authorized, once; 0 stands for all of it. None if it was made before.

    Raises IllegalTransition if nothing is authorized or the order is cancelled, CaptureExceedsAuthorization, WrongCurrency and
    AlreadyCaptured.
    """
    if not state.capture_value and (
        state.order_status != PROCESSING or state.payment_status != PaymentStatus.AUTHORIZED
    ):
        raise _illegal_transition(state.order_status, "captured")
    if value and currency != state.total_currency:
        raise WrongCurrency(f"this order is captured in {state.total_currency}")
    value = value or state.authorized
    if state.capture_value:
        if value != state.capture_value:
            raise AlreadyCaptured("a capture of another amount was asked for before")
        return None
    if not 0 < value <= state.authorized:
        raise CaptureExceedsAuthorization("this is more than is authorized", authorized=state.authorized)
    return OrderTransition(
        type="CaptureRequested",
        actor="client",
        order_status=state.order_status,
        payment_status=state.payment_status,
        detail=f"capture of {value}",
        capture_value=value,
    )


def refund_reservation(state: OrderState, refund_id: str, value: int, currency: str) -> OrderTransition | None:
    """The reservation of a refund; `value` 0 stands for all that is left. None if it was made before.

    Raises IllegalTransition if nothing was captured or all of it goes back anyway, RefundDuringDispute, RefundExceedsBalance,
    WrongCurrency, IdempotencyKeyReused and TooManyRefunds.
    """
    refund_request = f"{value} {currency}".strip()
    earlier = dict(state.refunds).get(refund_id)
    if earlier is not None:
        if dict(state.refund_requests).get(refund_id, refund_request) != refund_request or value not in (0, earlier):
            raise IdempotencyKeyReused("this Idempotency-Key stands for a refund of another amount")
        return None
    if state.disputed and state.order_status not in NOTHING_KEPT:
        raise RefundDuringDispute("the payer disputes this payment: the provider has taken the money back for now")
    if state.order_status in NOTHING_KEPT or state.payment_status not in REFUNDABLE:
        raise _illegal_transition(state.order_status, "refunded")
    if value and currency != state.total_currency:
        raise WrongCurrency(f"this order is refunded in {state.total_currency}")
    remaining = max(0, state.taken - state.reserved)
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
    match event:
        case PaymentActionRequired() | PaymentDelayed() | PaymentAuthorized():
            return _on_wait(state, event)
        case PaymentCaptured():
            return _on_capture(state, event)
        case PaymentDeclined() | PaymentVoided():
            return _on_nothing_taken(state, event)
        case PaymentRefunded():
            refund = _unknown_refund(state, event)
            payment_status = _payment_after_refund(_with_refund(state, refund), event)
            return _by_payments(state, event, payment_status, f"refunded {event.refund_value}", refund=refund)
        case PaymentRefundFailed():
            return _on_failed_refund(state, event)
        case PaymentDisputed():
            detail = f"dispute of {event.dispute_value}{_because(event.reason)}"
            return _by_payments(state, event, PaymentStatus.DISPUTED, detail, disputed=True)
        case PaymentDisputeClosed():
            payment_status = _payment_after_refund(replace(state, disputed=event.disputed), event)
            detail = f"dispute of {event.dispute_value} {'won' if event.won else 'lost'}{_because(event.reason)}"
            return _by_payments(state, event, payment_status, detail, disputed=event.disputed)
        case PaymentParked():
            return _by_payments(state, event, PaymentStatus.UNKNOWN, event.reason)
    raise TypeError(f"orders does not know {type(event).__name__}")


def fold(entries: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The order status and payment status after the timeline entries `(order status, payment status)`."""
    last = (NEW, "")
    for entry in entries:
        last = entry
    return last


def _by_payments(
    state: OrderState, event: Event, payment_status: PaymentStatus, detail: str, **changes: Any
) -> OrderTransition:
    return OrderTransition(
        type=type(event).__name__,
        actor="payments",
        payment_status=payment_status,
        detail=detail,
        **{"order_status": state.order_status, **changes},
    )


def _on_wait(state: OrderState, event: PaymentActionRequired | PaymentDelayed | PaymentAuthorized) -> OrderTransition:
    """The payment waits for its customer, a bank or a capture; that of a cancelled order is about to be voided."""
    cancelled = state.order_status == CANCELLED
    changes: dict[str, Any] = {}
    match event:
        case PaymentActionRequired():
            action = NextActionView(
                type=event.action_type,
                url=event.action_url,
                client_secret=event.client_secret,
                expires_at=_rfc3339(event.expires_at),
            )
            detail = f"{event.action_type}, until {action.expires_at}"
            status, changes["next_action"] = PaymentStatus.ACTION_REQUIRED, None if cancelled else action
        case PaymentDelayed():
            detail = f"{event.reason or 'awaited'}, until {_rfc3339(event.expires_at)}"
            status = PaymentStatus.PENDING
        case PaymentAuthorized():
            detail = f"{event.reference}, {event.authorized_value} until {_rfc3339(event.expires_at)}"
            status, changes["authorized"] = PaymentStatus.AUTHORIZED, event.authorized_value
    return _by_payments(state, event, PaymentStatus.PROCESSING if cancelled else status, detail, **changes)


def _on_capture(state: OrderState, event: PaymentCaptured) -> OrderTransition:
    # Payments gives back by itself what is taken for an order that is cancelled or declined.
    payment_status = PaymentStatus.REFUNDING if state.order_status in NOTHING_KEPT else PaymentStatus.CAPTURED
    captured = event.captured_value if event.captured_value != state.total_value else 0
    detail = f"{event.reference}, {captured} of {state.total_value}" if captured else event.reference
    order_status = _status_after(state.order_status, Trigger.CAPTURE)
    return _by_payments(state, event, payment_status, detail, order_status=order_status, captured=captured)


def _on_nothing_taken(state: OrderState, event: PaymentDeclined | PaymentVoided) -> OrderTransition:
    # A payment that was voided although nobody cancelled its order counts as declined: nothing was taken.
    order_status = _status_after(state.order_status, Trigger.DECLINE)
    if isinstance(event, PaymentDeclined):
        return _by_payments(state, event, PaymentStatus.DECLINED, event.reason, order_status=order_status)
    detail = event.reason or "voided before any money moved"
    return _by_payments(state, event, PaymentStatus.VOIDED, detail, order_status=order_status)


def _on_failed_refund(state: OrderState, event: PaymentRefundFailed) -> OrderTransition:
    refund = _unknown_refund(state, event)
    after = _with_refund(state, refund)
    after = replace(after, failed_refunds=(*after.failed_refunds, event.refund_id))
    return _by_payments(
        state,
        event,
        _payment_after_refund(after, event),
        f"refund of {event.refund_value} given up: {event.reason}",
        refund=refund,
        failed_refund=event.refund_id,
    )


def _unknown_refund(state: OrderState, event: PaymentRefunded | PaymentRefundFailed) -> tuple[str, int] | None:
    """A refund that was made at the provider; None for a requested one, and where all goes back and nothing is reserved."""
    known = event.refund_id in dict(state.refunds) or state.order_status in NOTHING_KEPT
    return None if known else (event.refund_id, event.refund_value)


def _with_refund(state: OrderState, refund: tuple[str, int] | None) -> OrderState:
    return replace(state, refunds=(*state.refunds, refund)) if refund else state


def _payment_after_refund(
    state: OrderState, event: PaymentRefunded | PaymentRefundFailed | PaymentDisputeClosed
) -> PaymentStatus:
    if state.disputed:
        return PaymentStatus.DISPUTED
    if event.refunded_total >= state.taken:
        return PaymentStatus.REFUNDED
    going_back = state.taken if state.order_status in NOTHING_KEPT else state.reserved
    return PaymentStatus.REFUNDING if event.refunded_total < going_back else PaymentStatus.CAPTURED


def _status_after(order_status: str, by: Trigger) -> str:
    rule = NEXT_TRANSITION.get((order_status, by))
    return rule.target if rule else order_status


def _payment_on_cancel(state: OrderState) -> str:
    if state.payment_status in WAITING:
        return PaymentStatus.PROCESSING
    return PaymentStatus.REFUNDING if state.payment_status == PaymentStatus.CAPTURED else state.payment_status


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


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _rfc3339(milliseconds: int) -> str:
    return rfc3339(datetime.fromtimestamp(milliseconds / 1000, UTC))
