"""The money of an order: payments that wait, captures, late facts and disputes, against tables written out by hand."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contracts.base import ApplicationError, Event
from app.contracts.orders import (
    AlreadyCaptured,
    CaptureExceedsAuthorization,
    IllegalTransition,
    RefundDuringDispute,
    RefundExceedsBalance,
    TimelineEntry,
    WrongCurrency,
)
from app.contracts.payments import (
    DeadLetterReplayed,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRetried,
    PaymentVoided,
)
from app.orders import order
from app.orders.order import OrderState
from app.orders.refunds import OrderRefund

TOTAL = 9900
SECRET = "pi_1_secret_2"
EXPIRES = 1_800_000_000_000
EXPIRES_TEXT = "2027-01-15T08:00:00.000Z"

# What each event makes of `order status / payment status`; the columns are BEFORE.
BEFORE = ("Processing/Processing", "Processing/ActionRequired", "Processing/Pending", "Processing/Authorized", "Processing/Unknown", "Cancelled/Processing", "Success/Captured", "Success/Disputed", "Cancelled/Disputed", "Declined/Voided")  # fmt: skip
AFTER = {
    "action required": ("Processing/ActionRequired", "Processing/ActionRequired", "Processing/ActionRequired", "Processing/ActionRequired", "Processing/ActionRequired", "Cancelled/Processing", "Success/ActionRequired", "Success/ActionRequired", "Cancelled/Processing", "Declined/ActionRequired"),
    "delayed": ("Processing/Pending", "Processing/Pending", "Processing/Pending", "Processing/Pending", "Processing/Pending", "Cancelled/Processing", "Success/Pending", "Success/Pending", "Cancelled/Processing", "Declined/Pending"),
    "authorized": ("Processing/Authorized", "Processing/Authorized", "Processing/Authorized", "Processing/Authorized", "Processing/Authorized", "Cancelled/Processing", "Success/Authorized", "Success/Authorized", "Cancelled/Processing", "Declined/Authorized"),
    "captured": ("Success/Captured", "Success/Captured", "Success/Captured", "Success/Captured", "Success/Captured", "Cancelled/Refunding", "Success/Captured", "Success/Captured", "Cancelled/Refunding", "Declined/Refunding"),
    "captured in part": ("Success/Captured", "Success/Captured", "Success/Captured", "Success/Captured", "Success/Captured", "Cancelled/Refunding", "Success/Captured", "Success/Captured", "Cancelled/Refunding", "Declined/Refunding"),
    "voided": ("Declined/Voided", "Declined/Voided", "Declined/Voided", "Declined/Voided", "Declined/Voided", "Cancelled/Voided", "Success/Voided", "Success/Voided", "Cancelled/Voided", "Declined/Voided"),
    "parked": ("Processing/Unknown", "Processing/Unknown", "Processing/Unknown", "Processing/Unknown", "Processing/Unknown", "Cancelled/Unknown", "Success/Unknown", "Success/Unknown", "Cancelled/Unknown", "Declined/Unknown"),
    "disputed": ("Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Cancelled/Disputed", "Success/Disputed", "Success/Disputed", "Cancelled/Disputed", "Declined/Disputed"),
    "dispute won": ("Processing/Captured", "Processing/Captured", "Processing/Captured", "Processing/Captured", "Processing/Captured", "Cancelled/Refunding", "Success/Captured", "Success/Captured", "Cancelled/Refunding", "Declined/Refunding"),
    "dispute lost": ("Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Cancelled/Disputed", "Success/Disputed", "Success/Disputed", "Cancelled/Disputed", "Declined/Disputed"),
    "one dispute of two won": ("Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Processing/Disputed", "Cancelled/Disputed", "Success/Disputed", "Success/Disputed", "Cancelled/Disputed", "Declined/Disputed"),
    "refunded elsewhere": ("Processing/Captured", "Processing/Captured", "Processing/Captured", "Processing/Captured", "Processing/Captured", "Cancelled/Refunding", "Success/Captured", "Success/Disputed", "Cancelled/Disputed", "Declined/Refunding"),
    "refund failed": ("Processing/Captured", "Processing/Captured", "Processing/Captured", "Processing/Captured", "Processing/Captured", "Cancelled/Refunding", "Success/Captured", "Success/Disputed", "Cancelled/Disputed", "Declined/Voided"),
    "retried": ("Processing/Processing", "Processing/Processing", "Processing/Processing", "Processing/Processing", "Processing/Processing", "Cancelled/Processing", "Success/Processing", "Success/Processing", "Cancelled/Processing", "Declined/Processing"),
    "dead letter replayed": BEFORE,
}  # fmt: skip
TABLE = {(before, kind): after for kind, row in AFTER.items() for before, after in zip(BEFORE, row, strict=True)}

DISPUTE = {"dispute_id": "d1", "dispute_value": 500}
EVENTS = {
    "action required": (PaymentActionRequired, {"action_type": "confirm", "action_url": "", "client_secret": SECRET, "expires_at": EXPIRES}),
    "delayed": (PaymentDelayed, {"reason": "a bank debit", "expires_at": EXPIRES}),
    "authorized": (PaymentAuthorized, {"reference": "ref-1", "authorized_value": TOTAL, "expires_at": EXPIRES}),
    "captured": (PaymentCaptured, {"reference": "ref-1", "took_ms": 5}),
    "captured in part": (PaymentCaptured, {"reference": "ref-1", "took_ms": 5, "captured_value": 4000}),
    "voided": (PaymentVoided, {"reason": "it waited too long"}),
    "parked": (PaymentParked, {"reason": "no answer"}),
    "disputed": (PaymentDisputed, {**DISPUTE, "reason": "fraudulent"}),
    "dispute won": (PaymentDisputeClosed, {**DISPUTE, "won": True, "disputed": False, "refunded_total": 0, "reason": ""}),
    "dispute lost": (PaymentDisputeClosed, {**DISPUTE, "won": False, "disputed": True, "refunded_total": 0, "reason": "no reply"}),
    "one dispute of two won": (PaymentDisputeClosed, {**DISPUTE, "won": True, "disputed": True, "refunded_total": 0, "reason": ""}),
    "refunded elsewhere": (PaymentRefunded, {"refund_id": "re_9", "refund_value": 500, "refunded_total": 500}),
    "refund failed": (PaymentRefundFailed, {"refund_id": "re_9", "refund_value": 500, "refunded_total": 0, "reason": "closed"}),
    "retried": (PaymentRetried, {"payment_status": "Processing"}),
    "dead letter replayed": (DeadLetterReplayed, {}),
}  # fmt: skip


def state(before: str, **members) -> OrderState:
    order_status, payment_status = before.split("/")
    defaults = {"version": 4, "sequence": 4, "payment_sequence": 2, "total_value": TOTAL, "total_currency": "MYR"}
    held = {"disputed": payment_status == "Disputed", "authorized": TOTAL if payment_status == "Authorized" else 0}
    return OrderState(order_status=order_status, payment_status=payment_status, **defaults | held | members)


def refund(refund_id: str, value: int, status: str = "pending") -> OrderRefund:
    """A refund as a client asked for it."""
    return OrderRefund(refund_id=refund_id, value=value, status=status, requested=f"{value} MYR")


def added(change: order.OrderTransition) -> tuple[str, int]:
    """The refund that a change adds."""
    return change.refunds[-1].refund_id, change.refunds[-1].value


def statuses(held: OrderState) -> dict[str, tuple[int, str]]:
    """The value and the status of each refund."""
    return {one.refund_id: (one.value, one.status) for one in held.refunds}


def event(kind: str, sequence: int = 3, **changes) -> PaymentEvent:
    base = {"event_id": f"e-{kind}", "order_id": "0" * 24, "sequence": sequence, "request_id": "r", "at": 1}
    message, members = EVENTS[kind]
    return message(**base | members | changes)


def moved(before: OrderState, change: order.OrderTransition) -> OrderState:
    """The state after a change, as the repository stores it."""
    kept = {
        name: getattr(change, name) for name in ("authorized", "capture_value", "captured") if getattr(change, name)
    }
    return dataclasses.replace(
        before,
        order_status=change.order_status,
        payment_status=change.payment_status,
        version=before.version + 1,
        sequence=before.sequence + 1,
        payment_sequence=before.payment_sequence + (change.actor == "payments"),
        refunds=before.refunds if change.refunds is None else change.refunds,
        disputed=before.disputed if change.disputed is None else change.disputed,
        **kept,
    )


def applied(held: OrderState, told: Event) -> OrderState:
    return moved(held, order.apply_payment_event(held, told))


@pytest.mark.parametrize(("before", "kind"), TABLE)
def test_what_an_event_makes_of_an_order(before, kind):
    told = event(kind)
    change = order.apply_payment_event(state(before), told)
    assert f"{change.order_status}/{change.payment_status}" == TABLE[before, kind]
    assert (change.type, change.actor, change.cancels_payment) == (type(told).__name__, "payments", False)


@pytest.mark.parametrize(("before", "kind"), TABLE)
def test_an_event_that_was_applied_changes_nothing(before, kind):
    held = state(before, payment_sequence=3)
    assert order.apply_payment_event(held, event(kind, 3)) is None
    assert order.apply_payment_event(held, event(kind, 4)) is not None


def test_every_event_of_payments_has_a_row_or_is_one_that_test_order_has():
    elsewhere = {"PaymentDeclined"}
    assert {kind.__name__ for kind in PaymentEvent.__subclasses__()} == elsewhere | {
        kind.__name__ for kind, _ in EVENTS.values()
    }


@pytest.mark.parametrize("kind", EVENTS)
def test_every_event_has_its_words_in_the_sentence(kind):
    change = order.apply_payment_event(state("Processing/Processing"), event(kind))
    entry = TimelineEntry(
        order_id="0" * 24, sequence=5, type=change.type, at="2026-11-26T00:00:00.000Z", actor=change.actor,
        from_status="Processing", to_status=change.order_status, payment_status=change.payment_status, detail="",
    )  # fmt: skip
    sentence = order.explanation(change.order_status, change.payment_status, entry)
    assert f"since payments {order.EVENT_PHRASES[change.type]} at" in sentence
    assert change.type not in sentence


def test_what_the_customer_must_do_is_held_beside_the_timeline_and_not_in_it():
    change = order.apply_payment_event(state("Processing/Processing"), event("action required"))
    assert (change.next_action.type, change.next_action.client_secret) == ("confirm", SECRET)
    assert (change.next_action.url, change.next_action.expires_at) == ("", EXPIRES_TEXT)
    assert change.detail == f"confirm, until {EXPIRES_TEXT}"
    other = {"action_type": "redirect", "action_url": "https://bank.example/3ds", "client_secret": ""}
    change = order.apply_payment_event(state("Processing/ActionRequired"), event("action required", **other))
    assert (change.next_action.type, change.next_action.url) == ("redirect", "https://bank.example/3ds")
    assert "bank.example" not in change.detail


def test_the_customer_of_a_cancelled_order_has_nothing_to_do():
    assert order.apply_payment_event(state("Cancelled/Processing"), event("action required")).next_action is None


@pytest.mark.parametrize(
    ("kind", "amount", "detail"),
    [
        ("delayed", 0, f"a bank debit, until {EXPIRES_TEXT}"),
        ("authorized", TOTAL, f"ref-1, until {EXPIRES_TEXT}"),
        ("captured", 0, "ref-1"),
        ("captured in part", 4000, "ref-1"),
        ("voided", 0, "it waited too long"),
        ("disputed", 500, "fraudulent"),
        ("dispute won", 500, "dispute won"),
        ("dispute lost", 500, "dispute lost: no reply"),
        ("refunded elsewhere", 500, "made at the provider"),
        ("refund failed", 500, "given up: closed"),
        ("parked", 0, "no answer"),
    ],
)
def test_an_event_leaves_its_amount_and_its_reason_in_the_timeline(kind, amount, detail):
    change = order.apply_payment_event(state("Processing/Processing"), event(kind))
    assert (change.amount, change.detail) == (amount, detail)


def test_a_payment_that_is_voided_without_a_reason_says_that_no_money_moved():
    told = event("voided", reason="")
    assert order.apply_payment_event(state("Cancelled/Processing"), told).detail == "voided before any money moved"


@pytest.mark.parametrize(("kind", "changes", "captured"), [
    ("captured", {}, 0),
    ("captured", {"captured_value": TOTAL}, 0),
    ("captured in part", {}, 4000),
])  # fmt: skip
def test_what_was_captured_is_kept_only_where_it_is_not_the_total(kind, changes, captured):
    change = order.apply_payment_event(state("Processing/Authorized"), event(kind, **changes))
    assert change.captured == captured
    assert moved(state("Processing/Authorized"), change).taken == (captured or TOTAL)


# What a capture of 0 (all), 1, 4000, 9900, 9901 is answered with.
VALUES = (0, 1, 4000, TOTAL, TOTAL + 1, -1)
CAPTURES = {
    "Processing/Authorized": (TOTAL, 1, 4000, TOTAL, CaptureExceedsAuthorization, CaptureExceedsAuthorization),
    **dict.fromkeys(
        (
            *("Processing/Processing", "Processing/ActionRequired", "Processing/Pending", "Processing/Unknown"),
            *("Success/Captured", "Success/Disputed", "Declined/Voided", "Declined/Declined", "Cancelled/Processing"),
            *("Cancelled/Voided", "Cancelled/Authorized", "Confirm/Captured", "Shipped/Captured"),
        ),
        (IllegalTransition,) * len(VALUES),
    ),
}


@pytest.mark.parametrize(
    ("before", "value", "outcome"),
    [(before, value, outcome) for before, row in CAPTURES.items() for value, outcome in zip(VALUES, row, strict=True)],
)
def test_what_is_authorized_is_captured_whole_or_in_part(before, value, outcome):
    if not isinstance(outcome, int):
        with pytest.raises(outcome):
            order.capture_request(state(before), value, "MYR")
        return
    change = order.capture_request(state(before), value, "MYR")
    assert (change.type, change.actor, change.amount, change.detail) == ("CaptureRequested", "client", outcome, "")
    assert (change.order_status, change.payment_status) == ("Processing", "Authorized")
    assert (change.capture_value, change.cancels_payment, change.refunds) == (outcome, False, None)


def test_a_capture_that_exceeds_what_is_authorized_is_told_how_much_is():
    with pytest.raises(CaptureExceedsAuthorization) as refusal:
        order.capture_request(state("Processing/Authorized", authorized=5000), 5001, "MYR")
    assert refusal.value.members == {"authorized": 5000}
    assert order.capture_request(state("Processing/Authorized", authorized=5000), 0, "").capture_value == 5000


@pytest.mark.parametrize(
    "before", ["Processing/Authorized", "Success/Captured", "Cancelled/Processing", "Declined/Voided"]
)
def test_a_capture_is_asked_for_once(before):
    asked = state(before, authorized=TOTAL, capture_value=4000)
    assert order.capture_request(asked, 4000, "MYR") is None
    for value in (0, 1, TOTAL, TOTAL + 1):
        with pytest.raises(AlreadyCaptured):
            order.capture_request(asked, value, "MYR")
    whole = state(before, authorized=TOTAL, capture_value=TOTAL)
    assert order.capture_request(whole, 0, "") is None
    assert order.capture_request(whole, TOTAL, "MYR") is None


def test_an_order_is_captured_in_its_own_currency():
    for asked in (0, 4000):
        with pytest.raises(WrongCurrency):
            order.capture_request(state("Processing/Authorized", capture_value=asked), 4000, "SGD")


def test_what_is_left_of_a_capture_in_part_is_all_that_can_be_refunded():
    held = applied(state("Processing/Authorized"), event("captured in part"))
    assert added(order.refund_reservation(held, "r1", 0, "")) == ("r1", 4000)
    with pytest.raises(RefundExceedsBalance) as refusal:
        order.refund_reservation(held, "r1", 4001, "MYR")
    assert refusal.value.members == {"remaining": 4000}
    held = moved(held, order.refund_reservation(held, "r1", 4000, "MYR"))
    told = event("refunded elsewhere", 4, refund_id="r1", refund_value=4000, refunded_total=4000)
    assert applied(held, told).payment_status == "Refunded"


def test_all_of_a_capture_in_part_goes_back_with_a_cancellation():
    held = applied(state("Processing/Authorized"), event("captured in part"))
    held = moved(held, order.client_transition(held, "Cancelled"))
    assert held.payment_status == "Refunding"
    told = event("refunded elsewhere", 4, refund_id="cancel", refund_value=4000, refunded_total=4000)
    assert applied(held, told).payment_status == "Refunded"


def test_a_refund_made_at_the_provider_counts_for_the_balance():
    held = applied(state("Success/Captured"), event("refunded elsewhere"))
    assert statuses(held) == {"re_9": (500, "succeeded")}
    with pytest.raises(RefundExceedsBalance) as refusal:
        order.refund_reservation(held, "r1", TOTAL, "MYR")
    assert refusal.value.members == {"remaining": TOTAL - 500}
    held = moved(held, order.refund_reservation(held, "r1", 0, ""))
    assert held.payment_status == "Refunding"
    told = event("refunded elsewhere", 4, refund_id="r1", refund_value=TOTAL - 500, refunded_total=TOTAL)
    assert applied(held, told).payment_status == "Refunded"


def test_refunds_of_which_more_was_made_at_the_provider_than_is_left_reserve_nothing_below_zero():
    held = state("Success/Refunding", refunds=(refund("r1", TOTAL),))
    held = applied(held, event("refunded elsewhere"))
    with pytest.raises(RefundExceedsBalance) as refusal:
        order.refund_reservation(held, "r2", 0, "")
    assert refusal.value.members == {"remaining": 0}


@pytest.mark.parametrize("before", ["Cancelled/Refunding", "Declined/Refunding"])
def test_where_all_goes_back_no_refund_is_asked_for(before):
    told = event("refunded elsewhere", refund_value=TOTAL, refunded_total=TOTAL)
    held = applied(state(before), told)
    assert (statuses(held), held.payment_status) == ({"re_9": (TOTAL, "succeeded")}, "Refunded")
    with pytest.raises(IllegalTransition):
        order.refund_reservation(state(before), "r1", 1, "MYR")


def test_a_refund_that_fails_after_it_had_succeeded_can_be_made_again():
    held = state("Success/Refunded", refunds=(refund("r1", TOTAL),))
    held = applied(held, event("refund failed", refund_id="r1", refund_value=TOTAL))
    assert (held.payment_status, statuses(held), held.reserved) == ("Captured", {"r1": (TOTAL, "failed")}, 0)
    assert added(order.refund_reservation(held, "r2", 0, "")) == ("r2", TOTAL)


def test_a_refund_made_at_the_provider_that_fails_later_reserves_nothing():
    held = applied(state("Success/Captured"), event("refunded elsewhere"))
    held = applied(held, event("refund failed", 4))
    assert (statuses(held), held.reserved) == ({"re_9": (500, "failed")}, 0)
    held = applied(state("Success/Captured"), event("refund failed"))
    assert (statuses(held), held.reserved) == ({"re_9": (500, "failed")}, 0)


def test_nothing_is_refunded_while_a_dispute_is_open_or_lost():
    held = applied(state("Success/Captured", refunds=(refund("r1", 500),)), event("disputed"))
    with pytest.raises(RefundDuringDispute):
        order.refund_reservation(held, "r2", 1, "MYR")
    assert order.refund_reservation(held, "r1", 500, "MYR") is None
    parked = applied(held, event("parked", 4))
    assert parked.payment_status == "Unknown"
    with pytest.raises(RefundDuringDispute):
        order.refund_reservation(parked, "r2", 1, "MYR")
    lost = applied(held, event("dispute lost", 4))
    with pytest.raises(RefundDuringDispute):
        order.refund_reservation(lost, "r2", 1, "MYR")
    won = applied(held, event("dispute won", 4, refunded_total=500))
    assert won.payment_status == "Captured"
    assert added(order.refund_reservation(won, "r2", 0, "")) == ("r2", TOTAL - 500)


@pytest.mark.parametrize(
    ("refunds", "refunded_total", "payment_status"),
    [((), 0, "Captured"), ((refund("r1", 500),), 0, "Refunding"), ((refund("r1", 500),), 500, "Captured"), ((refund("r1", TOTAL),), TOTAL, "Refunded")],
)  # fmt: skip
def test_a_dispute_that_is_won_leaves_the_status_that_the_refunds_make(refunds, refunded_total, payment_status):
    told = event("dispute won", refunded_total=refunded_total)
    assert applied(state("Success/Disputed", refunds=refunds), told).payment_status == payment_status


def test_a_disputed_order_that_is_cancelled_is_refunded_if_the_dispute_is_won():
    change = order.client_transition(state("Success/Disputed"), "Cancelled")
    assert (change.payment_status, change.cancels_payment) == ("Disputed", True)
    assert change.detail == order.on_cancel("Success", "Disputed") == "a refund is started if the dispute is won"
    held = applied(moved(state("Success/Disputed"), change), event("dispute won"))
    assert held.payment_status == "Refunding"


# What a client may do with the money, by `order status / payment status`.
ACTIONS = {
    "Processing/Processing": (),
    "Processing/ActionRequired": (),
    "Processing/Pending": (),
    "Processing/Authorized": ("capture",),
    "Processing/Unknown": (),
    "Success/Captured": ("refund",),
    "Confirm/Refunding": ("refund",),
    "Shipped/Refunded": (),
    "Success/Disputed": (),
    "Success/Unknown": (),
    "Cancelled/Refunding": (),
    "Cancelled/Authorized": (),
    "Declined/Refunding": (),
    "Declined/Declined": (),
}


@pytest.mark.parametrize("before", ACTIONS)
def test_the_actions_that_are_named_are_those_that_work(before):
    held = state(before, refunds=(refund("r0", TOTAL),) if before.endswith("Refunded") else ())
    named = order.actions(*before.split("/"))
    assert named == ACTIONS[before]
    tries = {
        "capture": lambda: order.capture_request(held, 0, ""),
        "refund": lambda: order.refund_reservation(held, "r1", 0, ""),
    }
    for action, ask in tries.items():
        if action in named:
            assert ask() is not None
        else:
            with pytest.raises((IllegalTransition, RefundDuringDispute, RefundExceedsBalance)):
                ask()


def test_a_capture_that_was_asked_for_is_no_action_any_more():
    assert order.actions("Processing", "Authorized", capture_requested=True) == ()


@pytest.mark.parametrize("payment_status", ["Processing", "ActionRequired", "Pending", "Authorized", "Unknown"])
def test_cancelling_before_the_outcome_has_the_payment_voided(payment_status):
    money = "the payment is voided, or refunded if it lands later"
    assert order.on_cancel("Processing", payment_status) == money
    assert order.client_transition(state(f"Processing/{payment_status}"), "Cancelled").detail == money


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.sampled_from(tuple(EVENTS)), st.integers(1, TOTAL)),
        st.tuples(st.just("status"), st.sampled_from(("Cancelled", "Confirm", "Packed")), st.just(0)),
        st.tuples(st.just("capture"), st.just(""), st.integers(0, TOTAL + 1)),
        st.tuples(st.just("refund"), st.uuids().map(str), st.integers(0, TOTAL + 1)),
    ),
    max_size=30,
)


def taken(held: OrderState, step: tuple[str, str, int]) -> order.OrderTransition | None:
    """The transition by a step; a refusal is none."""
    kind, what, value = step
    try:
        if kind == "status":
            return order.client_transition(held, what)
        if kind == "capture":
            return order.capture_request(held, value, "MYR")
        if kind == "refund":
            return order.refund_reservation(held, what, value, "MYR")
    except ApplicationError:
        return None
    values = {"captured in part": {"captured_value": value}, "authorized": {"authorized_value": value}}
    return order.apply_payment_event(held, event(what, held.payment_sequence + 1, **values.get(what, {})))


@settings(deadline=None, max_examples=300)
@given(STEPS)
def test_whatever_happens_clients_reserve_no_more_than_was_taken_and_nothing_while_disputed(steps):
    held = state("Processing/Processing", version=1, sequence=1, payment_sequence=0)
    timeline, asked = [("Processing", "Processing")], 0
    for step in steps:
        before, change = held, taken(held, step)
        if change is None:
            continue
        held = moved(held, change)
        timeline.append((change.order_status, change.payment_status))
        asked += change.type == "CaptureRequested"
        if step[0] == "refund":
            assert not before.disputed
            assert before.order_status not in ("Cancelled", "Declined")
            assert held.reserved <= held.taken
        if change.next_action:
            assert (held.order_status, held.payment_status) != ("Cancelled", "ActionRequired")
        if step[0] == "capture":
            assert (before.order_status, before.payment_status, asked) == ("Processing", "Authorized", 1)
            assert 0 < held.capture_value <= held.authorized
        assert before.order_status != "Cancelled" or held.order_status == "Cancelled"
        assert set(order.actions(held.order_status, held.payment_status)) <= {"capture", "refund"}
    assert order.fold(timeline) == (held.order_status, held.payment_status)
    assert len(timeline) == held.sequence
