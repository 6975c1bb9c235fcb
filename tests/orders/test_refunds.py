"""The money of an order, against a book that moves it by hand between what is free, under way and with the payer."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contracts.base import ApplicationError, Money
from app.contracts.payments import (
    PaymentCaptured,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
)
from app.orders import order
from app.orders.documents import (
    OrderSnapshot,
    payment_event_patch,
    state_of,
    transition_update,
    view_of,
    whole_view_of,
)
from app.orders.order import OrderTransition

TOTAL = 9900
START = datetime(2026, 11, 26, tzinfo=UTC)


def stored(**members) -> dict:
    """The document of a new order."""
    defaults = {
        "_id": ObjectId(),
        **dict.fromkeys(("userId", "productId", "productName", "totalOrderAmount"), "x"),
        "total": {"value": TOTAL, "currency": "JPY"},
        "orderStatus": "Processing",
        "paymentStatus": "Processing",
        "version": 1,
        "sequence": 1,
        "paymentSequence": 0,
        "createdAt": START,
        "updatedAt": START,
        "events": [],
        "outbox": [],
    }
    return defaults | members


def amounts(doc: dict) -> tuple[int, int, int, int, int]:
    """What was captured, is refunded, pending, refundable and blocked, as a list shows it."""
    view = view_of(doc)
    shown = (view.captured, view.refunded, view.pending, view.refundable)
    assert {amount.currency for amount in shown} == {"JPY"}
    return *(amount.value for amount in shown), view.blocked.value if view.blocked else 0


@dataclass
class Book:
    """An order's document, and the pockets that its money is in: `free`, `under_way` and `with_payer`.

    `rest` is what of `under_way` goes back for a cancellation, and `ended` counts the refunds that it has made or failed to make.
    """

    doc: dict = field(default_factory=stored)
    captured: int = 0
    free: int = 0
    under_way: int = 0
    with_payer: int = 0
    refunds: dict[str, list] = field(default_factory=dict)
    rest: int = 0
    ended: int = 0
    cancelled: bool = False
    disputed: bool = False
    lost: bool = False
    parked: bool = False
    at: datetime = START

    @property
    def locked(self) -> bool:
        return self.disputed or self.parked

    def apply(self, change: OrderTransition | None) -> bool:
        """Store a change that a client has asked for."""
        if change is None:
            return False
        self.at += timedelta(seconds=1)
        update = transition_update(state_of(self.doc), change, self.at)
        for name, entry in update["$push"].items():
            self.doc[name] = [*self.doc[name], entry]
        for name, step in update["$inc"].items():
            self.doc[name] += step
        self.doc |= update["$set"]
        return True

    def tell(self, kind: type[PaymentEvent], **members) -> None:
        """Apply an event of payments, and store what it changes."""
        self.at += timedelta(seconds=1)
        state = state_of(self.doc)
        event = kind(
            event_id="e",
            order_id=str(self.doc["_id"]),
            sequence=state.payment_sequence + 1,
            request_id="r",
            at=1,
            **members,
        )
        snapshot = OrderSnapshot(state=state, user_id="ada", newest_undelivered=0, created_at=START, updated_at=START)
        patch = payment_event_patch(snapshot, event, order.apply_payment_event(state, event), self.at)
        self.doc |= patch.sets
        self.doc["events"] = [*self.doc["events"], *patch.pushes["events"]]
        for name in patch.unsets:
            self.doc.pop(name, None)

    def sweep(self) -> None:
        """All that is free goes back where the order is cancelled, unless a dispute is open or lost."""
        if self.cancelled and not self.disputed:
            self.free, self.under_way, self.rest = 0, self.under_way + self.free, self.rest + self.free

    def capture(self, value: int) -> None:
        if self.captured:
            return
        # Payments tells of the whole total by the value or by 0.
        self.tell(PaymentCaptured, reference="ref", took_ms=1, captured_value=0 if value == TOTAL else value)
        self.captured = self.free = value
        self.parked = False
        self.sweep()

    def request(self, value: int) -> None:
        refund_id = f"r{len(self.doc['events'])}"
        count = len(self.doc.get("refunds", ()))
        granted = 0 < value <= self.free and not self.locked and not self.cancelled and self.captured
        if granted and count >= order.REFUND_LIMIT and value < self.free:
            granted = False
        try:
            change = order.refund_reservation(state_of(self.doc), refund_id, value, "JPY", "damaged")
        except ApplicationError:
            assert not granted
            return
        assert granted
        self.apply(change)
        self.free -= value
        self.under_way += value
        self.refunds[refund_id] = [value, "pending"]

    def cancel(self, _: int) -> None:
        if self.cancelled or not self.apply(order.client_transition(state_of(self.doc), "Cancelled")):
            return
        self.cancelled = True
        self.sweep()

    def succeed(self, number: int) -> None:
        pending = [name for name, (_, status) in self.refunds.items() if status == "pending"]
        if self.disputed:
            return
        if not pending:
            self.return_rest()
            return
        name = pending[number % len(pending)]
        value = self.refunds[name][0]
        self.under_way -= value
        self.with_payer += value
        self.refunds[name][1] = "succeeded"
        self.parked = False
        self.tell(PaymentRefunded, refund_id=name, refund_value=value, refunded_total=self.with_payer)

    def return_rest(self) -> None:
        if not self.rest:
            return
        name = f"cancel-{self.ended + 1}" if self.ended else "cancel"
        self.under_way -= self.rest
        self.with_payer += self.rest
        self.refunds[name] = [self.rest, "succeeded"]
        self.parked = False
        self.tell(PaymentRefunded, refund_id=name, refund_value=self.rest, refunded_total=self.with_payer)
        self.rest, self.ended = 0, self.ended + 1

    def fail(self, number: int) -> None:
        """A refund fails, also one that had succeeded; that of a cancelled order is parked."""
        known = [name for name, (_, status) in self.refunds.items() if status != "failed"]
        if not known:
            return
        name = known[number % len(known)]
        value, status = self.refunds[name]
        if status == "pending":
            self.under_way -= value
        else:
            self.with_payer -= value
        self.free += value
        self.refunds[name][1] = "failed"
        if self.cancelled and not self.disputed:
            self.tell(PaymentParked, reason="closed", failed_refund_id=name, failed_refund_value=value)
            self.parked = True
        else:
            members = {"refund_value": value, "refunded_total": self.with_payer, "reason": "closed"}
            self.tell(PaymentRefundFailed, refund_id=name, **members)
            self.parked = False
        self.sweep()

    def refund_elsewhere(self, value: int) -> None:
        if not 0 < value <= self.free:
            return
        name = f"re_{len(self.doc['events'])}"
        self.free -= value
        self.with_payer += value
        self.refunds[name] = [value, "succeeded"]
        self.parked = False
        self.tell(PaymentRefunded, refund_id=name, refund_value=value, refunded_total=self.with_payer)
        self.sweep()

    def dispute(self, value: int) -> None:
        if self.captured and not self.disputed:
            self.tell(PaymentDisputed, dispute_id="d", dispute_value=value, reason="")
            self.disputed, self.parked = True, False

    def close_dispute(self, value: int) -> None:
        if not self.disputed or self.lost:
            return
        self.disputed, self.lost, self.parked = value % 2 == 1, value % 2 == 1, False
        members = {"won": not self.lost, "disputed": self.lost, "refunded_total": self.with_payer, "reason": ""}
        self.tell(PaymentDisputeClosed, dispute_id="d", dispute_value=value, **members)
        self.sweep()

    def park(self, _: int) -> None:
        # Before the capture no money is known to have moved; afterwards a refund may have.
        self.tell(PaymentParked, reason="no answer")
        self.parked = True

    def check(self) -> None:
        """What clients see is what is in the pockets."""
        blocked = self.free if self.locked else 0
        assert self.captured == self.free + self.under_way + self.with_payer
        shown = amounts(self.doc)
        assert shown == (self.captured, self.with_payer, self.under_way, self.free - blocked, blocked)
        assert min(shown) >= 0
        assert sum(shown[1:]) == shown[0]
        listed = whole_view_of(self.doc).refunds
        for status, total in (("succeeded", self.with_payer), ("pending", self.under_way)):
            assert sum(one.amount.value for one in listed if one.status == status) == total
        assert {one.id: [one.amount.value, one.status] for one in listed if one.id in self.refunds} == self.refunds
        ages = [one.at for one in listed]
        assert ages == sorted(ages)


ACTIONS = (
    Book.capture,
    Book.request,
    Book.succeed,
    Book.fail,
    Book.refund_elsewhere,
    Book.cancel,
    Book.dispute,
    Book.close_dispute,
    Book.park,
)
VALUES = st.one_of(st.integers(1, TOTAL), st.integers(1, 60))


@settings(deadline=None, max_examples=400)
@given(
    st.integers(0, 3),
    st.sampled_from((TOTAL, 4000, 1)),
    st.lists(st.tuples(st.sampled_from(ACTIONS), VALUES), max_size=40),
)
def test_the_amounts_are_what_the_money_did(before, captured, steps):
    book = Book()
    for action, value in steps[:before]:
        action(book, value)
        book.check()
    book.capture(captured)
    book.check()
    for action, value in steps[before:]:
        action(book, value)
        book.check()


# What was captured, is refunded, pending, refundable and blocked, by `order status / payment status`, of an untouched order.
UNTOUCHED = {
    "Processing/Processing": (0, 0, 0, 0, 0),
    "Processing/ActionRequired": (0, 0, 0, 0, 0),
    "Processing/Authorized": (0, 0, 0, 0, 0),
    "Processing/Unknown": (0, 0, 0, 0, 0),
    "Declined/Declined": (0, 0, 0, 0, 0),
    "Declined/Voided": (0, 0, 0, 0, 0),
    "Cancelled/Voided": (0, 0, 0, 0, 0),
    "Success/Captured": (9900, 0, 0, 9900, 0),
    "Shipped/Captured": (9900, 0, 0, 9900, 0),
    "Success/Disputed": (9900, 0, 0, 0, 9900),
    "Success/Unknown": (9900, 0, 0, 0, 9900),
}


@pytest.mark.parametrize("before", UNTOUCHED)
def test_an_untouched_order_has_all_that_was_taken_or_nothing(before):
    order_status, payment_status = before.split("/")
    disputed = {"disputed": True} if payment_status == "Disputed" else {}
    doc = stored(orderStatus=order_status, paymentStatus=payment_status, **disputed)
    assert amounts(doc) == UNTOUCHED[before]


@pytest.mark.parametrize(
    ("before", "members", "shown", "statuses"),
    [
        ("Success/Captured", {}, (9900, 3000, 0, 6900, 0), ["succeeded", "succeeded"]),
        ("Success/Captured", {"failedRefunds": ["b"]}, (9900, 1000, 0, 8900, 0), ["succeeded", "failed"]),
        ("Success/Captured", {"captured": 4000}, (4000, 3000, 0, 1000, 0), ["succeeded", "succeeded"]),
        ("Success/Refunding", {}, (9900, 0, 3000, 6900, 0), ["pending", "pending"]),
        ("Success/Refunded", {"captured": 3000}, (3000, 3000, 0, 0, 0), ["succeeded", "succeeded"]),
        ("Cancelled/Refunding", {}, (9900, 0, 9900, 0, 0), ["pending", "pending"]),
        ("Cancelled/Refunded", {}, (9900, 9900, 0, 0, 0), ["succeeded", "succeeded"]),
    ],
)
def test_an_order_whose_refunds_were_stored_without_a_status_is_read(before, members, shown, statuses):
    order_status, payment_status = before.split("/")
    pair = [{"id": name, "value": value, "requested": "x", "at": START} for name, value in (("a", 1000), ("b", 2000))]
    doc = stored(orderStatus=order_status, paymentStatus=payment_status, refunds=pair, **members)
    assert amounts(doc) == shown
    assert [one.status for one in whole_view_of(doc).refunds] == statuses


def test_a_refund_of_an_order_that_was_stored_earlier_keeps_the_others_as_they_were():
    pair = [{"id": name, "value": 1000, "requested": "1000 JPY", "at": START} for name in ("a", "b")]
    book = Book(stored(orderStatus="Success", paymentStatus="Captured", refunds=pair, failedRefunds=["b"]))
    book.apply(order.refund_reservation(state_of(book.doc), "c", 500, "JPY"))
    assert amounts(book.doc) == (9900, 1000, 500, 8400, 0)
    book.tell(PaymentRefunded, refund_id="c", refund_value=500, refunded_total=1500)
    assert amounts(book.doc) == (9900, 1500, 0, 8400, 0)
    assert [one.status for one in whole_view_of(book.doc).refunds] == ["succeeded", "failed", "succeeded"]


def test_refunds_at_the_provider_that_exceed_what_was_captured_leave_nothing_below_zero():
    book = Book()
    book.capture(TOTAL)
    book.request(6000)
    book.tell(PaymentRefunded, refund_id="re_1", refund_value=5000, refunded_total=5000)
    assert amounts(book.doc) == (9900, 5000, 4900, 0, 0)
    book.tell(PaymentRefunded, refund_id="re_2", refund_value=9000, refunded_total=14_000)
    assert amounts(book.doc) == (9900, 9900, 0, 0, 0)
    book.tell(PaymentDisputed, dispute_id="d", dispute_value=9900, reason="")
    assert amounts(book.doc) == (9900, 9900, 0, 0, 0)


def test_a_refund_shows_why_it_was_asked_for_made_and_failed():
    book = Book()
    book.capture(TOTAL)
    book.request(1000)
    book.tell(PaymentRefunded, refund_id="re_1", refund_value=500, refunded_total=500)
    [asked, elsewhere] = whole_view_of(book.doc).refunds
    assert (asked.amount, asked.reason, asked.status) == (Money(1000, "JPY"), "damaged", "pending")
    assert (elsewhere.amount, elsewhere.reason, elsewhere.status) == (
        Money(500, "JPY"),
        "made at the provider",
        "succeeded",
    )
    book.tell(
        PaymentRefundFailed, refund_id=asked.id, refund_value=1000, refunded_total=500, reason="the card was closed"
    )
    book.cancel(0)
    [asked, _, cancellation] = whole_view_of(book.doc).refunds
    assert (asked.status, asked.failure, asked.reason) == ("failed", "the card was closed", "damaged")
    assert (cancellation.id, cancellation.amount, cancellation.status) == ("cancel", Money(9400, "JPY"), "pending")
    assert cancellation.reason == "the order was cancelled"


def test_a_cancellation_that_gives_back_less_than_was_left_is_shown_as_it_was_made():
    book = Book()
    book.capture(TOTAL)
    book.cancel(0)
    book.tell(PaymentRefunded, refund_id="re_1", refund_value=900, refunded_total=900)
    assert amounts(book.doc) == (9900, 900, 9000, 0, 0)
    # Payments had already given up its own first one for it.
    book.tell(PaymentRefunded, refund_id="cancel-2", refund_value=9000, refunded_total=9900)
    assert amounts(book.doc) == (9900, 9900, 0, 0, 0)
    shown = {one.id: (one.amount.value, one.status) for one in whole_view_of(book.doc).refunds}
    assert shown == {"re_1": (900, "succeeded"), "cancel-2": (9000, "succeeded")}
