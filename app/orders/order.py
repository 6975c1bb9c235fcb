"""The states of an order and of its payment, the transitions between them, and what each means for the money. Pure.

TRANSITIONS is the only list of an order's transitions, PAYMENT_STATUSES of what a payment's statuses mean: code, tests,
documentation and pages are made from them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from unicodedata import category, normalize

from app.contracts.base import Event, rfc3339
from app.contracts.orders import (
    METADATA_PAIRS,
    AlreadyCaptured,
    CaptureExceedsAuthorization,
    IdempotencyKeyReused,
    IllegalTransition,
    MisleadingStatus,
    NextActionView,
    OrderStatus,
    RefundDuringDispute,
    RefundExceedsBalance,
    RefundNotAllowed,
    StaleVersion,
    TimelineEntry,
    TimelineFull,
    TooManyRefunds,
    TooMuchMetadata,
    WrongCurrency,
)
from app.contracts.payments import (
    DeadLetterReplayed,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRetried,
    PaymentStatus,
    PaymentVoided,
)
from app.orders import refunds
from app.orders.refunds import OrderAmounts, OrderRefund

NEW = "(new)"
PROCESSING = OrderStatus.PROCESSING.value
SUCCESS = OrderStatus.SUCCESS.value
DECLINED = OrderStatus.DECLINED.value
CANCELLED = OrderStatus.CANCELLED.value
CONFIRM = OrderStatus.CONFIRM.value
CUSTOM = "(custom)"

STATUSES = tuple(status.value for status in OrderStatus)
# States after fulfilment has begun.
FULFILMENT = frozenset({CONFIRM, CUSTOM})
# States in which the payer gets back all that was taken, also what is taken later.
NOTHING_KEPT = frozenset({CANCELLED, DECLINED})
CASEFOLDED_STATUSES = frozenset(status.casefold() for status in STATUSES) | {"canceled"}
# The length of a timeline. Clients may set custom statuses and metadata up to TEXT_LIMIT, and refund an order in at most REFUND_LIMIT
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
    CORRECT_CAPTURED = "operator corrects: captured"
    CORRECT_NOTHING_TAKEN = "operator corrects: nothing taken"


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
    Transition(DECLINED, Trigger.CORRECT_CAPTURED, SUCCESS, "it was taken, other than recorded before"),
    Transition(SUCCESS, Trigger.CORRECT_NOTHING_TAKEN, DECLINED, "nothing was taken, other than recorded before"),
    Transition(CONFIRM, Trigger.CORRECT_NOTHING_TAKEN, DECLINED, "nothing was taken, other than recorded before"),
    Transition(CUSTOM, Trigger.CORRECT_NOTHING_TAKEN, DECLINED, "nothing was taken, other than recorded before"),
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
NOTHING_TAKEN = frozenset({PaymentStatus.DECLINED, PaymentStatus.VOIDED})
# A refund of what is fully refunded is refused for its amount, not for the status.
REFUNDABLE = frozenset({rule.status for rule in PAYMENT_STATUSES if REFUND in rule.actions} | {PaymentStatus.REFUNDED})
# The provider has taken money, and part of it may be back. Of a payment that is Unknown this is not known by its status.
TAKEN = frozenset({PaymentStatus.CAPTURED, PaymentStatus.REFUNDING, PaymentStatus.REFUNDED, PaymentStatus.DISPUTED})
NOT_TAKEN = frozenset(PaymentStatus) - TAKEN - {PaymentStatus.UNKNOWN}
# Then no refund is under way.
REFUNDS_MADE = frozenset({PaymentStatus.CAPTURED, PaymentStatus.REFUNDED})
CLIENT_TRIGGERS = {CONFIRM: Trigger.CONFIRM, CANCELLED: Trigger.CANCEL}

METADATA_UPDATED = "MetadataUpdated"
PERSONAL_DATA_ERASED = "PersonalDataErased"
# Changes that are no reason for a state.
NO_CAUSE = frozenset({METADATA_UPDATED, PERSONAL_DATA_ERASED})
# How a sentence names the actors and events of a timeline.
ACTOR_PHRASES = {"client": "a client"}
OPERATOR = "operator "
EVENT_PHRASES = {
    "OrderCreated": "placed it",
    "OrderUpdated": "updated it",
    "OrderCancelled": "cancelled it",
    "CaptureRequested": "asked for the capture",
    "RefundRequested": "asked for a refund",
    "MetadataUpdated": "changed its metadata",
    "PersonalDataErased": "had its personal data erased",
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
    "PaymentParked": "left its payment to an operator",
    "PaymentRetried": "had the payment called for again",
    "DeadLetterReplayed": "had events delivered again",
}


# Events that without their reason do not explain a state.
EXPLAINED_BY_DETAIL = frozenset(
    kind.__name__
    for kind in (
        PaymentDeclined,
        PaymentVoided,
        PaymentRefundFailed,
        PaymentDisputed,
        PaymentDisputeClosed,
        PaymentParked,
    )
)


@dataclass(frozen=True, kw_only=True)
class OrderState:
    """The members of an order that decide its next transition.

    `refunds` are all refunds, oldest first. In minor units: `authorized` is what is held for a capture, `capture_value` what a client
    asked to capture, and `captured` what was taken where that is not the total or the statuses do not tell that it was; each is
    0 where there is no such amount. `disputed`: a dispute is open or lost. `metadata` is None where the order has none.
    """

    order_status: str
    payment_status: str
    version: int
    sequence: int
    payment_sequence: int
    total_value: int
    total_currency: str = ""
    refunds: tuple[OrderRefund, ...] = ()
    authorized: int = 0
    capture_value: int = 0
    captured: int = 0
    disputed: bool = False
    metadata: Mapping[str, str] | None = None

    @property
    def taken(self) -> int:
        """How much the provider took, or will take where it has not yet, in minor units."""
        return self.captured or self.total_value

    @property
    def taken_so_far(self) -> int:
        """How much the provider is known to have taken, in minor units."""
        return taken_so_far(self.order_status, self.payment_status, self.total_value, self.captured)

    @property
    def reserved(self) -> int:
        """How much of it is refunded or reserved for refunds, in minor units."""
        return refunds.reserved(self.refunds)


NOT_STORED = OrderState(order_status=NEW, payment_status="", version=0, sequence=0, payment_sequence=0, total_value=0)


@dataclass(frozen=True, kw_only=True)
class OrderTransition:
    """A change to record: the statuses after it, and whether payments must receive a cancellation.

    `amount` is the money that it is about, in minor units; 0 for none. `refunds` are all refunds after it, None where they stay as
    they are. `authorized`, `capture_value` and `captured` are new amounts, as in OrderState; 0 leaves them as they are, and so does
    None for `disputed`. `next_action` is what the customer must do; an earlier one ends with every change of a payment's status.
    `uncaptured`: what was recorded as captured was not. `request_id` is the HTTP request that caused the change, and `caller` its
    user; each is empty where there is none, or where it is not known. `metadata` is all that there is after it, None where it stays.
    """

    type: str
    actor: str
    order_status: str
    payment_status: str
    detail: str = ""
    cancels_payment: bool = False
    amount: int = 0
    refunds: tuple[OrderRefund, ...] | None = None
    authorized: int = 0
    capture_value: int = 0
    captured: int = 0
    disputed: bool | None = None
    next_action: NextActionView | None = None
    request_id: str = ""
    caller: str = ""
    uncaptured: bool = False
    metadata: Mapping[str, str] | None = None


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


def explanation(order_status: str, payment_status: str, last: TimelineEntry, nothing_known: bool = False) -> str:
    """One sentence, without its full stop, that explains the present state by the last change.

    `nothing_known`: it is not known whether money was taken.
    """
    if last.actor.startswith(OPERATOR):
        cause = f"{last.actor} acted at {last.at} ({last.detail})"
    else:
        cause = f"{ACTOR_PHRASES.get(last.actor, last.actor)} {EVENT_PHRASES.get(last.type, last.type)} at {last.at}"
        cause += f" ({last.detail})" if last.type in EXPLAINED_BY_DETAIL and last.detail else ""
    unknown = "; it is not known whether its money was taken" if nothing_known else ""
    link = "; last, " if last.type in NO_CAUSE else ", since "
    return f"The order is {order_status} and its payment {payment_status}{link}{cause}{unknown}"


def taken_so_far(order_status: str, payment_status: str, total: int, captured: int) -> int:
    """How much the provider is known to have taken; `captured` as in OrderState."""
    if captured or payment_status in TAKEN:
        return captured or total
    parked = payment_status == PaymentStatus.UNKNOWN
    return total if parked and order_status != PROCESSING and order_status not in NOTHING_KEPT else 0


def unknown_capture(payment_status: str, taken: int, wanted: int) -> int:
    """The part of the `wanted` amount of which it is not known whether it was taken, beside what was `taken`."""
    return wanted if payment_status == PaymentStatus.UNKNOWN and not taken else 0


def amounts(
    order_status: str, payment_status: str, taken: int, all_refunds: tuple[OrderRefund, ...], disputed: bool
) -> OrderAmounts:
    """What became of the money that was `taken` so far, in minor units."""
    if not taken:
        return refunds.NOTHING
    all_returns = order_status in NOTHING_KEPT and not disputed
    # An order that was stored before refunds had a status may lack some of them.
    if payment_status == PaymentStatus.REFUNDED:
        return OrderAmounts(taken, taken, 0, 0, 0)
    refundable = payment_status in REFUNDABLE and not disputed
    return refunds.divided(taken, all_refunds, all_returns=all_returns, refundable=refundable)


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
    # Payments learns also of a declined order's cancellation: an operator may correct a decline that was recorded by mistake.
    cancels = rule.target == CANCELLED
    return OrderTransition(
        type="OrderCancelled" if rule.target == CANCELLED else "OrderUpdated",
        actor="client",
        order_status=order_status,
        payment_status=_payment_on_cancel(state) if cancels else state.payment_status,
        detail=on_cancel(state.order_status, state.payment_status) if cancels else rule.money,
        cancels_payment=cancels,
        # The statuses of a cancelled order whose payment is Unknown do not tell whether money was taken.
        captured=state.taken_so_far if cancels and state.payment_status == PaymentStatus.UNKNOWN else 0,
        refunds=_refunds_after(state, state.refunds, order_status=order_status) if cancels else None,
    )


def metadata_change(state: OrderState, changes: Mapping[str, str]) -> OrderTransition | None:
    """The change of an order's metadata; an empty value removes its pair. None if nothing would change.

    The timeline names the keys and not the values. Raises TooMuchMetadata and TimelineFull.
    """
    before = state.metadata or {}
    after = {key: value for key, value in {**before, **changes}.items() if value}
    if after == before:
        return None
    if len(after) > METADATA_PAIRS:
        raise TooMuchMetadata(f"an order has at most {METADATA_PAIRS} pairs of metadata")
    if state.sequence >= TEXT_LIMIT:
        raise TimelineFull(f"the metadata of an order with {TEXT_LIMIT} changes stays as it is")
    keys = {
        "set": [key for key, value in after.items() if before.get(key) != value],
        "removed": [key for key in before if key not in after],
    }
    return OrderTransition(
        type=METADATA_UPDATED,
        actor="client",
        order_status=state.order_status,
        payment_status=state.payment_status,
        detail="; ".join(f"{what}: {', '.join(names)}" for what, names in keys.items() if names),
        metadata=after,
    )


def capture_request(state: OrderState, value: int, currency: str) -> OrderTransition | None:
    """The request to capture `value` of what is authorized, once; 0 stands for all of it. None if it was made before.

    Raises IllegalTransition if nothing is authorized or the order is cancelled, CaptureExceedsAuthorization, WrongCurrency and
    AlreadyCaptured.
    """
    if not state.capture_value and (
        state.order_status != PROCESSING or state.payment_status != PaymentStatus.AUTHORIZED
    ):
        raise _not_possible_now(state, "captured", PaymentStatus.AUTHORIZED)
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
        amount=value,
        capture_value=value,
    )


def refund_reservation(
    state: OrderState, refund_id: str, value: int, currency: str, reason: str = ""
) -> OrderTransition | None:
    """The reservation of a refund; `value` 0 stands for all that is left. None if it was made before.

    Raises IllegalTransition if nothing was captured or all of it goes back anyway, RefundDuringDispute, RefundExceedsBalance,
    WrongCurrency, IdempotencyKeyReused and TooManyRefunds.
    """
    refund = OrderRefund(refund_id=refund_id, value=value, requested=f"{value} {currency}".strip(), reason=reason)
    earlier = refunds.find(state.refunds, refund_id)
    if earlier:
        _check_repetition(earlier, refund)
        return None
    if state.disputed and state.order_status not in NOTHING_KEPT:
        raise RefundDuringDispute("the payer disputes this payment: the provider has taken the money back for now")
    if state.order_status in NOTHING_KEPT or state.payment_status not in REFUNDABLE:
        raise _not_possible_now(state, "refunded", PaymentStatus.CAPTURED)
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
        detail=reason,
        amount=value,
        refunds=(*state.refunds, replace(refund, value=value)),
    )


def apply_payment_event(state: OrderState, event: Event) -> OrderTransition | None:
    """The transition by a payment event; None if the event was applied before."""
    if event.sequence <= state.payment_sequence:
        return None
    state = _before_correction(state, event)
    match event:
        case PaymentActionRequired() | PaymentDelayed() | PaymentAuthorized():
            return _on_wait(state, event)
        case PaymentCaptured():
            return _on_capture(state, event)
        case PaymentDeclined() | PaymentVoided():
            return _on_nothing_taken(state, event)
        case PaymentRefunded() | PaymentRefundFailed():
            return _on_refund(state, event)
        case PaymentDisputed():
            return _by_payments(
                state, event, PaymentStatus.DISPUTED, event.reason, amount=event.dispute_value, disputed=True
            )
        case PaymentDisputeClosed():
            return _on_closed_dispute(state, event)
        case PaymentParked():
            return _on_parked(state, event)
    return _by_operator(state, event)


def dead_letter_replay(state: OrderState, operator: str, reason: str, request_id: str = "") -> OrderTransition:
    """The entry for an event of orders that an operator has delivered again; it changes no status."""
    return OrderTransition(
        type=DeadLetterReplayed.__name__,
        actor=f"{OPERATOR}{operator}",
        order_status=state.order_status,
        payment_status=state.payment_status,
        detail=f"dead letter of orders delivered again: {reason}",
        request_id=request_id,
    )


def fold(entries: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The order status and payment status after the timeline entries `(order status, payment status)`."""
    last = (NEW, "")
    for entry in entries:
        last = entry
    return last


def _by_payments(
    state: OrderState, event: PaymentEvent, payment_status: PaymentStatus, detail: str, **changes: Any
) -> OrderTransition:
    note = (event.operator_note,) if event.operator else ()
    return OrderTransition(
        type=type(event).__name__,
        actor=f"{OPERATOR}{event.operator}" if event.operator else "payments",
        request_id=event.request_id,
        payment_status=payment_status,
        detail="; ".join(filter(None, (detail, *note))),
        uncaptured=bool(event.corrects) and payment_status in NOTHING_TAKEN,
        **{"order_status": state.order_status, **changes},
    )


def _before_correction(state: OrderState, event: Event) -> OrderState:
    """The state before the outcome that an operator corrects; a cancelled order stays cancelled.

    TRANSITIONS says what that leads to. Whether a refund was made concerns no outcome of the charge.
    """
    charge = isinstance(event, PaymentCaptured | PaymentDeclined | PaymentVoided)
    if not (charge and isinstance(event, PaymentEvent) and event.corrects) or state.order_status == CANCELLED:
        return state
    return replace(state, order_status=PROCESSING, payment_status=PaymentStatus.UNKNOWN, captured=0)


def _by_operator(state: OrderState, event: Event) -> OrderTransition:
    """What an operator did that settles nothing."""
    match event:
        case PaymentRetried():
            return _on_retry(state, event)
        case DeadLetterReplayed():
            return _by_payments(state, event, PaymentStatus(state.payment_status), "")
    raise TypeError(f"orders does not know {type(event).__name__}")


def _on_retry(state: OrderState, event: PaymentRetried) -> OrderTransition:
    status = PaymentStatus(event.payment_status)
    # The payment of a cancelled order is about to be voided.
    voids = state.order_status == CANCELLED and status in WAITING
    return _by_payments(state, event, PaymentStatus.PROCESSING if voids else status, "")


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
            detail = f"{event.reference}, until {_rfc3339(event.expires_at)}"
            status = PaymentStatus.AUTHORIZED
            changes = {"authorized": event.authorized_value, "amount": event.authorized_value}
    return _by_payments(state, event, PaymentStatus.PROCESSING if cancelled else status, detail, **changes)


def _on_capture(state: OrderState, event: PaymentCaptured) -> OrderTransition:
    # Payments gives back by itself what is taken for an order that is cancelled or declined.
    payment_status = PaymentStatus.REFUNDING if state.order_status in NOTHING_KEPT else PaymentStatus.CAPTURED
    captured = event.captured_value if event.captured_value != state.total_value else 0
    order_status = _status_after(state.order_status, Trigger.CAPTURE)
    after = replace(state, captured=captured, payment_status=payment_status)
    return _by_payments(
        state,
        event,
        payment_status,
        event.reference,
        order_status=order_status,
        captured=captured,
        amount=captured,
        refunds=_refunds_after(after, state.refunds, order_status=order_status),
    )


def _on_nothing_taken(state: OrderState, event: PaymentDeclined | PaymentVoided) -> OrderTransition:
    # A payment that was voided although nobody cancelled its order counts as declined: nothing was taken.
    order_status = _status_after(state.order_status, Trigger.DECLINE)
    if isinstance(event, PaymentDeclined):
        status, detail = PaymentStatus.DECLINED, event.reason
    else:
        status, detail = PaymentStatus.VOIDED, event.reason or "voided before any money moved"
    # Where an operator corrects a capture, nothing of it goes back.
    after = replace(state, payment_status=status, captured=0)
    returned = _refunds_after(after, state.refunds, order_status=order_status)
    return _by_payments(state, event, status, detail, order_status=order_status, refunds=returned)


def _on_refund(state: OrderState, event: PaymentRefunded | PaymentRefundFailed) -> OrderTransition:
    after = refunds.with_outcome(
        state.refunds,
        event.refund_id,
        event.refund_value,
        failure=event.reason if isinstance(event, PaymentRefundFailed) else None,
    )
    ended = next(one for one in after if one.refund_id == event.refund_id)
    return _by_payments(
        state,
        event,
        _payment_after_refund(replace(state, refunds=after), event),
        f"given up: {ended.failure}" if isinstance(event, PaymentRefundFailed) else ended.reason,
        amount=event.refund_value,
        refunds=_refunds_after(state, after),
    )


def _on_closed_dispute(state: OrderState, event: PaymentDisputeClosed) -> OrderTransition:
    after = replace(state, disputed=event.disputed)
    return _by_payments(
        state,
        event,
        _payment_after_refund(after, event),
        f"dispute {'won' if event.won else 'lost'}{_because(event.reason)}",
        amount=event.dispute_value,
        disputed=event.disputed,
        refunds=_refunds_after(after, state.refunds),
    )


def _on_parked(state: OrderState, event: PaymentParked) -> OrderTransition:
    """The statuses no longer tell whether money was taken, so that it is recorded."""
    after = state.refunds
    if event.failed_refund_id:
        failure = event.failed_refund_reason or event.reason
        after = refunds.with_outcome(after, event.failed_refund_id, event.failed_refund_value, failure=failure)
    return _by_payments(
        state,
        event,
        PaymentStatus.UNKNOWN,
        event.reason,
        captured=state.taken_so_far,
        refunds=_refunds_after(state, after),
    )


def _refunds_after(
    state: OrderState, after: tuple[OrderRefund, ...], order_status: str = ""
) -> tuple[OrderRefund, ...] | None:
    """The refunds to record: where everything goes back, one of the cancellation covers the rest. None for no change."""
    if (order_status or state.order_status) in NOTHING_KEPT and not state.disputed:
        after = refunds.with_rest(after, state.taken_so_far)
    return None if after == state.refunds else after


def _check_repetition(earlier: OrderRefund, refund: OrderRefund) -> None:
    """Raise IdempotencyKeyReused unless a refund is requested as it was before."""
    if earlier.requested != refund.requested:
        raise IdempotencyKeyReused("this Idempotency-Key stands for a refund of another amount")
    if earlier.reason != refund.reason:
        raise IdempotencyKeyReused("this Idempotency-Key stands for a refund with another reason")


def _payment_after_refund(
    state: OrderState, event: PaymentRefunded | PaymentRefundFailed | PaymentDisputeClosed
) -> PaymentStatus:
    if state.payment_status in NOTHING_TAKEN and isinstance(event, PaymentRefundFailed):
        # An operator has corrected the capture while the refund was requested.
        return PaymentStatus(state.payment_status)
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


def _not_possible_now(state: OrderState, what: str, required: PaymentStatus) -> IllegalTransition:
    """The error for a capture or a refund that the order's payment does not allow."""
    if state.order_status in NOTHING_KEPT:
        why = f"it is {state.order_status}"
    else:
        why = f"its payment is {state.payment_status}, not {required}"
    members = {"from": state.order_status, "paymentStatus": state.payment_status}
    return IllegalTransition(f"the order cannot be {what}: {why}", **members, allowed=list(allowed(state.order_status)))


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _rfc3339(milliseconds: int) -> str:
    return rfc3339(datetime.fromtimestamp(milliseconds / 1000, UTC))
