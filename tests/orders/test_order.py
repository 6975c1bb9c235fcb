"""The states of an order: every way of moving from every state, against a table written out by hand."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contracts.base import Event
from app.contracts.orders import (
    IdempotencyKeyReused,
    IllegalTransition,
    MisleadingStatus,
    OrderCreated,
    RefundExceedsBalance,
    RefundNotAllowed,
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
from app.orders import order
from app.orders.order import OrderState
from app.orders.refunds import OrderRefund

TOTAL = 9900

# One row a status, one column a text that a client may send: "=" there already, ">" goes there, "x" refused.
TEXTS = ("Processing", "Success", "Declined", "Cancelled", "Confirm", "Shipped", "Packed")
CLIENT = {
    "Processing": "= x x > x x x",
    "Success": "   x = x > > > >",
    "Declined": "  x x = > x x x",
    "Cancelled": " x x x = x x x",
    "Confirm": "   x x x > = > >",
    "Shipped": "   x x x > x = >",
}
# No client means a status of its own by these: they are slips of the pen.
LOOK_ALIKES = (
    "cancelled",
    "CANCELLED",
    " Cancelled",
    "Confirm ",
    " Confirm ",
    "confirm",
    "success",
    "PROCESSING",
    "declined\t",
)
ALLOWED = {
    "Processing": ["Cancelled"],
    "Success": ["Confirm", "Cancelled", "(custom)"],
    "Declined": ["Cancelled"],
    "Cancelled": [],
    "Confirm": ["(custom)", "Cancelled"],
    "Shipped": ["(custom)", "Cancelled"],
}
STATUSES = tuple(CLIENT)
MOVES = {
    (status, text): mark
    for status, row in CLIENT.items()
    for text, mark in zip((*TEXTS, *LOOK_ALIKES), (*row.split(), *("x" * len(LOOK_ALIKES))), strict=True)
}

# What news makes of `order status / payment status`. Where nothing can have been charged, a settled order stays put.
BEFORE = ("Processing/Processing", "Success/Captured", "Declined/Declined", "Cancelled/Processing", "Cancelled/Refunding", "Confirm/Captured", "Shipped/Captured", "Processing/Unknown", "Cancelled/Unknown")  # fmt: skip
MEMBERS = {
    "captured": ("Success/Captured", "Success/Captured", "Declined/Refunding", "Cancelled/Refunding", "Cancelled/Refunding", "Confirm/Captured", "Shipped/Captured", "Success/Captured", "Cancelled/Refunding"),
    "declined": ("Declined/Declined", "Success/Declined", "Declined/Declined", "Cancelled/Declined", "Cancelled/Declined", "Confirm/Declined", "Shipped/Declined", "Declined/Declined", "Cancelled/Declined"),
    "voided": ("Declined/Voided", "Success/Voided", "Declined/Voided", "Cancelled/Voided", "Cancelled/Voided", "Confirm/Voided", "Shipped/Voided", "Declined/Voided", "Cancelled/Voided"),
    "parked": ("Processing/Unknown", "Success/Unknown", "Declined/Unknown", "Cancelled/Unknown", "Cancelled/Unknown", "Confirm/Unknown", "Shipped/Unknown", "Processing/Unknown", "Cancelled/Unknown"),
    "refunded": ("Processing/Refunded", "Success/Refunded", "Declined/Refunded", "Cancelled/Refunded", "Cancelled/Refunded", "Confirm/Refunded", "Shipped/Refunded", "Processing/Refunded", "Cancelled/Refunded"),
    "refunded in part": ("Processing/Captured", "Success/Captured", "Declined/Refunding", "Cancelled/Refunding", "Cancelled/Refunding", "Confirm/Captured", "Shipped/Captured", "Processing/Captured", "Cancelled/Refunding"),
}  # fmt: skip
HEARD = {(before, kind): after for kind, row in MEMBERS.items() for before, after in zip(BEFORE, row, strict=True)}


def state(order_status: str, payment_status: str = "Captured", **members) -> OrderState:
    defaults = {"version": 4, "sequence": 4, "payment_sequence": 2, "total_value": TOTAL, "total_currency": "MYR"}
    return OrderState(order_status=order_status, payment_status=payment_status, **defaults | members)


def refund(refund_id: str, value: int, status: str = "pending") -> OrderRefund:
    """A refund as a client asked for it."""
    return OrderRefund(refund_id=refund_id, value=value, status=status, requested=f"{value} MYR")


def added(change: order.OrderTransition) -> tuple[str, int]:
    """The refund that a change adds."""
    return change.refunds[-1].refund_id, change.refunds[-1].value


def failed(change: order.OrderTransition) -> list[str]:
    """The refunds that have failed after a change."""
    return [one.refund_id for one in change.refunds if one.status == "failed"]


def event(kind: str, sequence: int = 3) -> Event:
    base = {"event_id": f"e-{kind}-{sequence}", "order_id": "0" * 24, "sequence": sequence, "request_id": "r", "at": 1}
    return {
        "captured": lambda: PaymentCaptured(**base, reference="ref-1", took_ms=5),
        "declined": lambda: PaymentDeclined(**base, reason="no cover", took_ms=5),
        "voided": lambda: PaymentVoided(**base),
        "parked": lambda: PaymentParked(**base, reason="nobody answered"),
        "refunded": lambda: PaymentRefunded(**base, refund_id="cancel", refund_value=TOTAL, refunded_total=TOTAL),
        "refunded in part": lambda: PaymentRefunded(**base, refund_id="r1", refund_value=1, refunded_total=TOTAL - 1),
    }[kind]()


def moved(before: OrderState, change: order.OrderTransition, **members) -> OrderState:
    """The state after a change, as the repository stores it."""
    return dataclasses.replace(
        before,
        order_status=change.order_status,
        payment_status=change.payment_status,
        version=before.version + 1,
        sequence=before.sequence + 1,
        **members,
    )


def test_the_table_is_the_documented_one():
    assert {(rule.source, rule.by.value, rule.target) for rule in order.TRANSITIONS} == {
        ("(new)", "POST", "Processing"),
        ("Processing", "payment captured", "Success"),
        ("Processing", "payment declined", "Declined"),
        ("Processing", "PUT Cancelled", "Cancelled"),
        ("Success", "PUT Confirm", "Confirm"),
        ("Success", "PUT Cancelled", "Cancelled"),
        ("Success", "PUT any other text", "(custom)"),
        ("Confirm", "PUT any other text", "(custom)"),
        ("Confirm", "PUT Cancelled", "Cancelled"),
        ("(custom)", "PUT any other text", "(custom)"),
        ("(custom)", "PUT Cancelled", "Cancelled"),
        ("Declined", "PUT Cancelled", "Cancelled"),
        ("Declined", "operator corrects: captured", "Success"),
        ("Success", "operator corrects: nothing taken", "Declined"),
        ("Confirm", "operator corrects: nothing taken", "Declined"),
        ("(custom)", "operator corrects: nothing taken", "Declined"),
    }
    assert len(order.TRANSITIONS) == len(order.NEXT_TRANSITION)


def test_the_payment_statuses_are_the_documented_ones():
    documented = {"Processing", "Captured", "Declined", "Voided", "Refunding", "Refunded", "Unknown"}
    documented |= {"ActionRequired", "Pending", "Authorized", "Disputed"}
    assert {status.value for status in order.PaymentStatus} == documented
    assert [rule.status for rule in order.PAYMENT_STATUSES] == list(order.PaymentStatus)
    assert all(rule.meaning for rule in order.PAYMENT_STATUSES)


def test_every_order_begins_as_processing():
    change = order.initial_transition()
    assert (change.type, change.actor) == ("OrderCreated", "client")
    assert (change.order_status, change.payment_status) == ("Processing", "Processing")
    assert not change.cancels_payment


@pytest.mark.parametrize(("status", "wanted"), [move for move, mark in MOVES.items() if mark == ">"])
def test_a_legal_step_goes_where_the_client_asks(status, wanted):
    change = order.client_transition(state(status), wanted)
    assert change.order_status == wanted
    assert change.actor == "client"
    assert change.type == ("OrderCancelled" if wanted == "Cancelled" else "OrderUpdated")


@pytest.mark.parametrize("status", STATUSES)
def test_the_same_state_again_records_nothing(status):
    assert order.client_transition(state(status), status) is None


@pytest.mark.parametrize(("status", "wanted"), [move for move, mark in MOVES.items() if mark == "x"])
def test_an_illegal_step_is_refused_and_says_what_is_allowed(status, wanted):
    with pytest.raises(IllegalTransition) as refusal:
        order.client_transition(state(status), wanted)
    assert refusal.value.members["from"] == status
    assert refusal.value.members["to"] == wanted
    assert sorted(refusal.value.members["allowed"]) == sorted(ALLOWED[status])
    assert set(refusal.value.members) == {"from", "to", "allowed"}


@pytest.mark.parametrize("status", STATUSES)
def test_what_is_allowed_is_what_works(status):
    for text in order.allowed(status):
        wanted = "Gift-wrapped" if text == "(custom)" else text
        assert order.client_transition(state(status), wanted).order_status == wanted
    assert sorted(order.allowed(status)) == sorted(ALLOWED[status])


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "Cancelled"])
@pytest.mark.parametrize("name", ["Processing", "Success", "Declined"])
def test_no_client_ever_moves_an_order_into_a_state_of_the_payment(status, name):
    try:
        change = order.client_transition(state(status), name)
    except IllegalTransition:
        return
    assert change is None
    assert status == name


def test_a_status_called_like_a_mark_of_the_table_is_just_another_custom_one():
    for text in ("(new)", "(custom)"):
        assert order.client_transition(state("Success"), text).order_status == text
        assert sorted(order.allowed(text)) == sorted(ALLOWED["Shipped"])
        with pytest.raises(IllegalTransition):
            order.client_transition(state("Processing", "Processing"), text)
        with pytest.raises(IllegalTransition):
            order.client_transition(state(text), "Confirm")


@pytest.mark.parametrize(
    ("before", "payment_status"),
    [
        ("Processing/Processing", "Processing"),
        ("Processing/Unknown", "Unknown"),
        ("Success/Captured", "Refunding"),
        ("Success/Refunded", "Refunded"),
        ("Processing/ActionRequired", "Processing"),
        ("Processing/Pending", "Processing"),
        ("Processing/Authorized", "Processing"),
        ("Success/Disputed", "Disputed"),
        ("Confirm/Captured", "Refunding"),
        ("Shipped/Captured", "Refunding"),
        ("Declined/Declined", "Declined"),
    ],
)
def test_what_cancelling_means_for_the_money(before, payment_status):
    change = order.client_transition(state(*before.split("/")), "Cancelled")
    assert (change.order_status, change.payment_status) == ("Cancelled", payment_status)
    assert change.cancels_payment


@pytest.mark.parametrize(("status", "wanted"), [move for move, mark in MOVES.items() if mark == ">"])
def test_only_a_cancellation_touches_the_money(status, wanted):
    change = order.client_transition(state(status, "Captured"), wanted)
    if wanted != "Cancelled":
        assert change.payment_status == "Captured"
        assert not change.cancels_payment


@pytest.mark.parametrize(("before", "kind"), HEARD)
def test_what_news_from_payments_makes_of_an_order(before, kind):
    heard = event(kind)
    change = order.apply_payment_event(state(*before.split("/")), heard)
    assert f"{change.order_status}/{change.payment_status}" == HEARD[before, kind]
    assert (change.type, change.actor) == (type(heard).__name__, "payments")
    assert not change.cancels_payment


def test_news_leaves_its_reason_in_the_timeline():
    processing = state("Processing", "Processing")
    assert order.apply_payment_event(processing, event("captured")).detail == "ref-1"
    assert order.apply_payment_event(processing, event("declined")).detail == "no cover"
    assert order.apply_payment_event(processing, event("parked")).detail == "nobody answered"


@pytest.mark.parametrize(("before", "kind"), HEARD)
def test_news_heard_twice_or_older_changes_nothing(before, kind):
    held = state(*before.split("/"), payment_sequence=3)
    assert order.apply_payment_event(held, event(kind, sequence=3)) is None
    assert order.apply_payment_event(held, event(kind, sequence=2)) is None
    assert order.apply_payment_event(held, event(kind, sequence=4)) is not None


def test_an_event_that_orders_does_not_know_is_not_swallowed():
    stranger = OrderCreated(
        event_id="e", order_id="0" * 24, sequence=9, request_id="r", at=1,
        user_id="u", product_id="1", total_value=1, total_currency="MYR",
    )  # fmt: skip
    with pytest.raises(TypeError):
        order.apply_payment_event(state("Processing"), stranger)


TEXT_MOVES = [move for move, mark in MOVES.items() if mark == ">" and move[1] not in {"Confirm", "Cancelled"}]
OTHER_STEPS = [move for move, mark in MOVES.items() if mark == ">" and move not in TEXT_MOVES]


@pytest.mark.parametrize(("status", "wanted"), TEXT_MOVES)
def test_a_full_timeline_takes_no_more_texts_of_clients(status, wanted):
    assert order.client_transition(state(status, sequence=order.TEXT_LIMIT - 1), wanted).order_status == wanted
    for sequence in (order.TEXT_LIMIT, order.TEXT_LIMIT + 3):
        with pytest.raises(TimelineFull):
            order.client_transition(state(status, sequence=sequence), wanted)


@pytest.mark.parametrize(("status", "wanted"), OTHER_STEPS)
def test_a_full_timeline_has_room_for_what_can_happen_only_once(status, wanted):
    for sequence in (order.TEXT_LIMIT, order.TIMELINE_LIMIT, order.TIMELINE_LIMIT + 5):
        assert order.client_transition(state(status, sequence=sequence), wanted).order_status == wanted


MISLEADING = [
    *("Refunded", "refunded", "REFUNDING", "Captured", " Voided ", "unknown"),
    *("\uff23\uff41\uff4e\uff43\uff45\uff4c\uff4c\uff45\uff44", "\uff32\uff45\uff46\uff55\uff4e\uff44\uff45\uff44"),
    *(
        "Cancelled\u200b",
        "\u202eSuccess",
        "Suc\u00adcess",
        "C\u1d52nfirm",
        "\u2060Processing",
        "Declined\u200d",
    ),
    *("Cancelled\ufe0f", "\U0001d402onfirm", "\U0001d4e1efunded", "\u24b8ancelled"),
]


@pytest.mark.parametrize("wanted", MISLEADING, ids=ascii)
@pytest.mark.parametrize("status", ["Processing", "Success", "Shipped"])
def test_a_text_that_reads_like_what_only_the_system_sets_is_refused(status, wanted):
    with pytest.raises(MisleadingStatus):
        order.client_transition(state(status), wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        "Refunded in cash",
        "Success!",
        "Confirmed",
        "\u914d\u9001\u4e2d\uff08\u6771\u4eac\uff09",
        "\u0915\u094d\u0937",
        "Cancell\u00e9d",
        "\u2460",
    ],
)
def test_a_text_of_ones_own_in_any_script_is_taken_as_it_is(wanted):
    assert order.client_transition(state("Success"), wanted).order_status == wanted


@pytest.mark.parametrize(
    ("status", "refused"),
    [("Processing", False), ("Success", False), ("Declined", False), ("Confirm", True), ("Shipped", True)],
)
def test_who_may_not_refund_cancels_only_until_fulfilment_begins(status, refused):
    assert order.client_transition(state(status), "Cancelled").order_status == "Cancelled"
    if refused:
        with pytest.raises(RefundNotAllowed):
            order.client_transition(state(status), "Cancelled", may_refund=False)
    else:
        assert order.client_transition(state(status), "Cancelled", may_refund=False).order_status == "Cancelled"
    assert order.client_transition(state("Cancelled"), "Cancelled", may_refund=False) is None


def test_a_full_timeline_still_tells_same_from_illegal():
    assert order.client_transition(state("Shipped", sequence=200), "Shipped") is None
    with pytest.raises(IllegalTransition):
        order.client_transition(state("Shipped", sequence=200), "Success")


def test_all_that_clients_can_cause_is_within_the_size_that_a_timeline_is_meant_to_have():
    """Placed, captured, confirmed, cancelled and refunded in the end, beside all texts and all refunds asked for."""
    assert order.TEXT_LIMIT + 2 * (order.REFUND_LIMIT + 1) + 5 <= order.TIMELINE_LIMIT


@pytest.mark.parametrize("kind", MEMBERS)
def test_news_from_payments_always_fits(kind):
    for sequence in (199, 200, 205):
        assert order.apply_payment_event(state("Shipped", sequence=sequence), event(kind)) is not None


def test_an_empty_timeline_folds_to_a_new_order():
    assert order.fold([]) == ("(new)", "")


def test_a_timeline_folds_to_its_last_entry():
    entries = [("Processing", "Processing"), ("Success", "Captured"), ("Cancelled", "Refunding")]
    assert order.fold(entries) == ("Cancelled", "Refunding")


WAYS = st.lists(
    st.one_of(
        st.tuples(st.just("client"), st.sampled_from((*TEXTS, *LOOK_ALIKES))),
        st.tuples(st.sampled_from(tuple(MEMBERS)), st.integers(-1, 2)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(WAYS)
def test_whatever_happens_the_timeline_folds_to_the_state_and_no_order_comes_back(ways):
    first = order.initial_transition()
    held = state(first.order_status, first.payment_status, version=1, sequence=1, payment_sequence=0)
    timeline = [(first.order_status, first.payment_status)]
    for kind, what in ways:
        before = held
        if kind == "client":
            try:
                change = order.client_transition(held, what)
            except IllegalTransition:
                continue
            seen = held.payment_sequence
        else:
            seen = held.payment_sequence + what
            change = order.apply_payment_event(held, event(kind, seen))
        if change is None:
            continue
        held = moved(held, change, payment_sequence=seen)
        timeline.append((change.order_status, change.payment_status))
        assert held.order_status != "Processing" or before.order_status == "Processing"
        assert before.order_status != "Cancelled" or held.order_status == "Cancelled"
    assert order.fold(timeline) == (held.order_status, held.payment_status)
    assert len(timeline) == held.sequence


# Where a refund may be asked for, by `order status / payment status`.
REFUNDABLE = ("Success/Captured", "Confirm/Captured", "Shipped/Captured", "Success/Refunding")
NOT_REFUNDABLE = (
    "Processing/Processing",
    "Processing/Unknown",
    "Success/Unknown",
    "Declined/Declined",
    "Cancelled/Processing",
    "Cancelled/Voided",
    "Cancelled/Refunding",
    "Cancelled/Captured",
    "Cancelled/Refunded",
    "Cancelled/Declined",
)


@pytest.mark.parametrize("before", REFUNDABLE)
@pytest.mark.parametrize("value", [1, 900, TOTAL])
def test_a_refund_is_reserved_and_leaves_the_order_where_it_is(before, value):
    status, payment_status = before.split("/")
    change = order.refund_reservation(state(status, payment_status), "r1", value, "MYR")
    assert (change.order_status, change.payment_status, added(change)) == (status, "Refunding", ("r1", value))
    assert (change.type, change.actor, change.cancels_payment) == ("RefundRequested", "client", False)


@pytest.mark.parametrize("before", NOT_REFUNDABLE)
def test_where_nothing_was_captured_or_all_goes_back_anyway_no_refund_is_reserved(before):
    with pytest.raises(IllegalTransition):
        order.refund_reservation(state(*before.split("/")), "r1", 1, "MYR")


@pytest.mark.parametrize(
    ("reserved", "wanted", "granted"),
    [
        ((), TOTAL, TOTAL),
        ((), TOTAL + 1, None),
        ((), 0, TOTAL),
        ((900,), 9000, 9000),
        ((900,), 9001, None),
        ((900,), 0, 9000),
        ((900, 9000), 1, None),
        ((900, 9000), 0, None),
        ((), -1, None),
    ],
)
def test_refunds_together_never_exceed_the_total(reserved, wanted, granted):
    held = state("Success", "Refunding", refunds=tuple(refund(f"r{at}", value) for at, value in enumerate(reserved)))
    if granted is None:
        with pytest.raises(RefundExceedsBalance) as refusal:
            order.refund_reservation(held, "new", wanted, "MYR")
        assert refusal.value.members == {"remaining": TOTAL - sum(reserved)}
    else:
        assert added(order.refund_reservation(held, "new", wanted, "MYR")) == ("new", granted)


def test_a_refund_asked_for_again_is_reserved_once():
    held = state("Success", "Refunding", refunds=(refund("r1", 900),))
    assert order.refund_reservation(held, "r1", 900, "MYR") is None
    for other in ((901, "MYR"), (0, "MYR"), (900, "SGD"), (900, "MYR", "damaged")):
        with pytest.raises(IdempotencyKeyReused):
            order.refund_reservation(held, "r1", *other)


def test_a_refund_asked_for_again_after_the_order_was_cancelled_is_still_the_same():
    assert (
        order.refund_reservation(state("Cancelled", "Refunding", refunds=(refund("r1", 900),)), "r1", 900, "MYR")
        is None
    )


def test_an_order_is_refunded_in_its_own_currency():
    with pytest.raises(WrongCurrency):
        order.refund_reservation(state("Success"), "r1", 900, "SGD")


def test_a_full_timeline_has_room_for_refunds():
    for sequence in (order.TEXT_LIMIT, order.TIMELINE_LIMIT, order.TIMELINE_LIMIT + 5):
        assert order.refund_reservation(state("Success", sequence=sequence), "r1", 900, "MYR")


def refunded_often(times):
    return state("Success", "Refunding", refunds=tuple(refund(f"r{at}", 1) for at in range(times)))


def test_an_order_is_refunded_in_so_many_parts_and_no_more():
    assert order.refund_reservation(refunded_often(order.REFUND_LIMIT - 1), "new", 1, "MYR")
    with pytest.raises(TooManyRefunds):
        order.refund_reservation(refunded_often(order.REFUND_LIMIT), "new", 1, "MYR")


def test_after_the_last_part_all_that_is_left_can_still_go_back():
    left = TOTAL - order.REFUND_LIMIT
    for value in (0, left):
        assert added(order.refund_reservation(refunded_often(order.REFUND_LIMIT), "new", value, "MYR")) == ("new", left)
    assert order.refund_reservation(refunded_often(order.REFUND_LIMIT), "r1", 1, "MYR") is None


@pytest.mark.parametrize(
    ("status", "reserved", "refunded_total", "payment_status"),
    [
        ("Success", (900,), 900, "Captured"),
        ("Success", (900, 100), 900, "Refunding"),
        ("Success", (900, 100), 1000, "Captured"),
        ("Success", (900, 9000), 9900, "Refunded"),
        ("Cancelled", (900,), 900, "Refunding"),
        ("Cancelled", (900,), 9900, "Refunded"),
        ("Cancelled", (), 9900, "Refunded"),
    ],
)
def test_a_payment_is_refunding_until_all_that_shall_go_back_has(status, reserved, refunded_total, payment_status):
    held = state(status, "Refunding", refunds=tuple(refund(f"r{at}", value) for at, value in enumerate(reserved)))
    base = {"event_id": "e", "order_id": "0" * 24, "sequence": 3, "request_id": "r", "at": 1}
    payment_event = PaymentRefunded(**base, refund_id="r0", refund_value=1, refunded_total=refunded_total)
    assert order.apply_payment_event(held, payment_event).payment_status == payment_status


def test_cancelling_an_order_whose_refund_is_under_way_sends_the_rest_back():
    change = order.client_transition(state("Success", "Refunding", refunds=(refund("r1", 900),)), "Cancelled")
    assert (change.payment_status, change.cancels_payment) == ("Refunding", True)


@pytest.mark.parametrize(
    ("status", "refunded_total", "others", "payment_status"),
    [
        ("Success", 0, (), "Captured"),
        ("Confirm", 500, (refund("r0", 500),), "Captured"),
        ("Success", 0, (refund("r0", 500),), "Refunding"),
        ("Cancelled", 0, (), "Refunding"),
        ("Cancelled", TOTAL, (refund("r0", TOTAL),), "Refunded"),
    ],
)
def test_a_refund_that_was_given_up_is_no_longer_reserved(status, refunded_total, others, payment_status):
    held = state(status, "Unknown", refunds=(*others, refund("r1", 900)))
    base = {"event_id": "e", "order_id": "0" * 24, "sequence": 3, "request_id": "r", "at": 1}
    payment_event = PaymentRefundFailed(
        **base, refund_id="r1", refund_value=900, refunded_total=refunded_total, reason="the card was closed"
    )
    change = order.apply_payment_event(held, payment_event)
    assert (change.order_status, change.payment_status, failed(change)) == (status, payment_status, ["r1"])
    assert "the card was closed" in change.detail
    after = moved(held, change, refunds=change.refunds)
    assert after.reserved == held.reserved - 900


def test_what_a_refund_that_was_given_up_had_reserved_can_be_refunded_again():
    held = state("Success", "Captured", refunds=(refund("r1", TOTAL, status="failed"),))
    assert added(order.refund_reservation(held, "r2", 0, "")) == ("r2", TOTAL)


def test_a_refund_that_was_given_up_is_still_the_answer_to_its_own_request():
    held = state("Success", "Captured", refunds=(refund("r1", 900, status="failed"),))
    assert order.refund_reservation(held, "r1", 900, "MYR") is None
