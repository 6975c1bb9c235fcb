"""The audit of a chaos run finds each kind of violation, and none in sound data."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import ObjectId

from tools.chaos import audit
from tools.chaos.clients import ClientRecord
from tools.chaos.time_jump import age_open_work

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOTAL = {"value": 900, "currency": "MYR"}


class Stored:
    """A paid order with its payment and its charge, for tests to change."""

    def __init__(self, order_id=None):
        self.key = ObjectId(order_id)
        self.id = str(self.key)
        steps = [("(new)", "Processing", "Processing"), ("Processing", "Success", "Captured")]
        self.order = {
            "_id": self.key,
            "orderStatus": "Success",
            "paymentStatus": "Captured",
            "sequence": 2,
            "total": TOTAL,
            "refunds": [],
            "events": [
                {"sequence": number, "at": AT, "from": before, "to": after, "paymentStatus": payment}
                for number, (before, after, payment) in enumerate(steps, 1)
            ],
            "outbox": [],
        }
        self.payment = {"_id": self.id, "status": "Captured", "parkedReason": "", "requestedAt": AT, "outbox": []}
        self.charge = {
            "_id": f"{self.id}:1",
            "orderId": self.id,
            "answer": "captured",
            "refunds": [],
            "at": AT,
            **TOTAL,
        }

    def move(self, order_status, payment_status):
        """Adds a transition of the order and its payment."""
        before, sequence = self.order["orderStatus"], self.order["sequence"] + 1
        self.order |= {"orderStatus": order_status, "paymentStatus": payment_status, "sequence": sequence}
        self.order["events"].append(
            {"sequence": sequence, "at": AT, "from": before, "to": order_status, "paymentStatus": payment_status}
        )
        self.payment["status"] = payment_status
        return self

    def request_refund(self, refund_id, value):
        self.order["refunds"].append({"id": refund_id, "value": value, "status": "pending"})
        return self

    def give_up_refund(self, refund_id):
        """The order knows that a refund has failed."""
        for refund in self.order["refunds"]:
            if refund["id"] == refund_id:
                refund["status"] = "failed"
        return self

    def refund(self, refund_id, value):
        self.charge["refunds"].append({"key": f"{self.id}:1:refund:{refund_id}", "value": value, "at": AT})
        return self

    def fail_refund(self, refund_id, value, known=True):
        """A refund that was made and failed later; `known` to the order."""
        self.charge.setdefault("failedRefunds", []).append({"key": f"{self.id}:1:refund:{refund_id}", "value": value})
        if known:
            self.give_up_refund(refund_id)
        return self

    def dispute(self, status, known=None, value=900):
        """A dispute in the ledger, and as the payment knows it."""
        self.charge["dispute"] = {"value": value, "status": status, "at": AT}
        self.payment["disputes"] = [{"dispute_id": "d", "value": value, "status": known or status}]
        return self


@pytest.fixture
def stored():
    return Stored()


@pytest.fixture
def judge(database):
    """Audits the stored documents, with more charges if given, against the answers that clients received."""

    def judged(stored, *more_charges, cancelled=False, refunded=(), aged=()):
        charges = [charge for charge in (stored.charge, *more_charges) if charge]
        database.orders.insert_one(stored.order)
        database.payments.insert_one(stored.payment)
        if charges:
            database.ledger.insert_many(charges)
        record = ClientRecord(
            acknowledged={stored.id},
            cancelled={stored.id} if cancelled else set(),
            refunded={(stored.id, refund_id): value for refund_id, value in refunded},
        )
        return audit.audit(database.orders, database.payments, database.ledger, record, aged)

    return judged


def kinds(result):
    return {finding.kind for finding in result.findings}


def test_a_paid_order_is_settled(stored, judge):
    result = judge(stored)

    assert not result.findings
    assert result.settled == {stored.id}


def test_acknowledged_refunds_that_are_made_once_are_counted(stored, judge):
    stored.request_refund("one", 300).request_refund("two", 200).refund("one", 300).refund("two", 200)
    result = judge(stored, refunded=[("one", 300), ("two", 200)])

    assert not result.findings
    assert result.refunds_made == 2


def test_an_order_that_is_not_stored_is_lost(database):
    result = audit.audit(database.orders, database.payments, database.ledger, ClientRecord(acknowledged={"a" * 24}))

    assert result.orders_with(audit.LOST) == {"a" * 24}


def test_a_second_charge_counts_as_charged_twice(stored, judge):
    result = judge(stored, {**stored.charge, "_id": f"{stored.id}:1~2"})

    assert result.orders_with(audit.CHARGED) == {stored.id}


def test_a_charge_of_another_amount_is_wrong(stored, judge):
    stored.charge["value"] = 901

    assert audit.MONEY in kinds(judge(stored))


def test_success_without_a_charge_is_wrong(stored, judge):
    stored.charge = None

    assert kinds(judge(stored)) == {audit.MONEY}


def test_a_refund_under_a_key_that_was_used_before_is_one_too_many(stored, judge):
    stored.request_refund("one", 300).refund("one", 300).refund("one", 300)

    assert audit.OVER_REFUNDED in kinds(judge(stored))


def test_a_refund_that_nobody_requested_is_one_too_many(stored, judge):
    stored.refund("cancel", 900)

    assert kinds(judge(stored)) == {audit.OVER_REFUNDED}


def test_requested_refunds_above_the_total_are_too_much(stored, judge):
    stored.request_refund("one", 500).request_refund("two", 500)

    assert audit.OVER_REFUNDED in kinds(judge(stored))


def test_an_acknowledged_refund_that_the_order_does_not_know_is_missed(stored, judge):
    assert kinds(judge(stored, refunded=[("one", 300)])) == {audit.REFUND}


def test_an_acknowledged_refund_that_the_provider_never_made_is_missed(stored, judge):
    stored.request_refund("one", 300)

    assert audit.REFUND in kinds(judge(stored, refunded=[("one", 300)]))


def test_a_cancelled_order_whose_money_went_back_is_settled(stored, judge):
    stored.move("Cancelled", "Refunding").move("Cancelled", "Refunded").refund("cancel", 900)
    result = judge(stored, cancelled=True)

    assert not result.findings
    assert result.settled == {stored.id}


def test_an_acknowledged_cancellation_that_is_not_there_is_missed(stored, judge):
    assert kinds(judge(stored, cancelled=True)) == {audit.CANCEL}


def test_an_acknowledged_cancellation_whose_money_did_not_go_back_is_missed(stored, judge):
    stored.move("Cancelled", "Refunded")

    assert audit.CANCEL in kinds(judge(stored, cancelled=True))


def test_a_part_that_was_asked_for_is_captured(stored, judge):
    stored.order |= {"captureRequested": 400, "captured": 400}
    stored.charge |= {"value": 400, "authorized": 900}

    assert not judge(stored).findings


@pytest.mark.parametrize("members", [{}, {"captureRequested": 500, "captured": 500}])
def test_a_part_that_nobody_asked_for_is_wrong(stored, judge, members):
    stored.order |= members
    stored.charge |= {"value": 400, "authorized": 900}

    assert audit.MONEY in kinds(judge(stored))


def test_a_charge_of_another_amount_is_wrong_also_while_its_payment_is_parked(stored, judge):
    stored.move("Success", "Unknown").payment["parkedReason"] = "the provider did not answer in time"
    stored.order["captureRequested"] = 500
    stored.charge["value"] = 400

    assert kinds(judge(stored, aged={stored.id})) == {audit.MONEY}


def test_a_refund_that_was_given_up_is_never_made(stored, judge):
    stored.request_refund("one", 300).give_up_refund("one")

    assert not judge(stored, refunded=[("one", 300)]).findings


def test_a_refund_that_failed_later_is_the_merchants_again_and_is_counted(stored, judge):
    stored.request_refund("one", 300).fail_refund("one", 300)
    result = judge(stored, refunded=[("one", 300)])

    assert not result.findings
    assert (result.settled, result.refunds_failed_later) == ({stored.id}, 1)


def test_a_refund_that_failed_later_and_that_the_order_still_counts_is_wrong(stored, judge):
    stored.request_refund("one", 300).fail_refund("one", 300, known=False)

    assert audit.MONEY in kinds(judge(stored))


def test_a_refund_that_failed_and_was_made_again_under_its_key_is_one_too_many(stored, judge):
    stored.request_refund("one", 300).fail_refund("one", 300, known=False).refund("one", 300)

    assert audit.OVER_REFUNDED in kinds(judge(stored))


@pytest.mark.parametrize(
    ("status", "payment_status"), [("open", "Disputed"), ("lost", "Disputed"), ("won", "Captured")]
)
def test_a_dispute_that_the_order_knows_is_settled(stored, judge, status, payment_status):
    result = judge(stored.move("Success", payment_status).dispute(status))

    assert not result.findings
    assert (result.settled, result.disputes) == ({stored.id}, {status: 1})


def test_a_refund_waits_while_a_dispute_is_open(stored, judge):
    stored.request_refund("one", 300).move("Success", "Disputed").dispute("open")

    assert not judge(stored, refunded=[("one", 300)]).findings


@pytest.mark.parametrize(
    ("status", "known", "payment_status"),
    [("open", "open", "Captured"), ("won", "open", "Disputed"), ("lost", "won", "Captured")],
)
def test_a_dispute_that_the_order_does_not_know_is_wrong(stored, judge, status, known, payment_status):
    assert audit.MONEY in kinds(judge(stored.move("Success", payment_status).dispute(status, known)))


def test_a_refund_of_what_a_dispute_has_taken_back_is_too_much(stored, judge):
    stored.request_refund("one", 300).refund("one", 300).move("Success", "Disputed").dispute("lost")

    assert audit.OVER_REFUNDED in kinds(judge(stored))


def test_a_payment_that_still_waits_at_the_end_is_stuck(stored, judge):
    stored.move("Success", "Authorized").payment["dueAt"] = AT

    assert judge(stored).orders_with(audit.STUCK) == {stored.id}


def test_a_payment_may_be_parked_where_the_refund_of_a_cancellation_has_failed(stored, judge):
    stored.move("Cancelled", "Unknown").fail_refund("cancel", 900, known=False)
    stored.payment["parkedReason"] = "refund cancel failed, resolve it as refunded, then give it back by other means"
    result = judge(stored, cancelled=True)

    assert not result.findings
    assert result.failed_cancellations == result.parked == {stored.id}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one.order.update(outbox=[{"type": "OrderCreated"}]),
        lambda one: one.payment.update(outbox=[{"type": "PaymentCaptured"}]),
        lambda one: one.payment.update(dueAt=AT),
        lambda one: one.order.update(deadLetter={"reason": "x"}),
        lambda one: one.move("Success", "Refunding"),
        lambda one: one.move("Cancelled", "Captured"),
        lambda one: one.move("Processing", "Processing"),
    ],
    ids=["event", "payment event", "due", "dead letter", "refunding", "cancelled and kept", "processing"],
)
def test_work_that_is_not_settled_is_stuck(stored, judge, spoil):
    spoil(stored)
    result = judge(stored)

    assert result.orders_with(audit.STUCK) == {stored.id}
    assert not result.settled


@pytest.mark.parametrize("spoil", ["gap", "from", "end"])
def test_a_broken_timeline_is_found(stored, judge, spoil):
    events = stored.order["events"]
    if spoil == "gap":
        events[1]["sequence"] = 3
    if spoil == "from":
        events[1]["from"] = "Cancelled"
    if spoil == "end":
        events[1]["paymentStatus"] = "Refunded"

    assert kinds(judge(stored)) == {audit.TIMELINE}


def test_a_payment_may_be_parked_only_if_its_provider_key_has_expired(stored, judge, database):
    stored.move("Success", "Unknown")
    stored.payment["parkedReason"] = "the provider did not answer in time"

    assert judge(stored).orders_with(audit.STUCK) == {stored.id}
    record = ClientRecord(acknowledged={stored.id})
    result = audit.audit(database.orders, database.payments, database.ledger, record, {stored.id})
    assert not result.findings
    assert (result.parked, result.settled) == ({stored.id}, set())


@pytest.mark.parametrize("missing", ["reason", "order"])
def test_a_parked_payment_without_a_reason_or_out_of_view_is_stuck(stored, judge, missing):
    stored.move("Success", "Unknown")
    stored.payment["parkedReason"] = "" if missing == "reason" else "the provider did not answer in time"
    if missing == "order":
        stored.order["paymentStatus"] = stored.order["events"][-1]["paymentStatus"] = "Processing"

    assert judge(stored, aged={stored.id}).orders_with(audit.STUCK) == {stored.id}


def test_a_parked_payment_that_was_charged_twice_is_found_all_the_same(stored, judge):
    stored.move("Success", "Unknown")
    stored.payment["parkedReason"] = "the provider did not answer in time"
    result = judge(stored, {**stored.charge, "_id": f"{stored.id}:1~2"}, aged={stored.id})

    assert result.orders_with(audit.CHARGED) == result.parked == {stored.id}


def test_a_payment_and_a_charge_without_an_order_are_found(database):
    database.payments.insert_one({"_id": "a" * 24})
    database.ledger.insert_one({"_id": "1", "orderId": "b" * 24})
    result = audit.audit(database.orders, database.payments, database.ledger, ClientRecord())

    assert result.orders_with(audit.ORPHAN) == {"a" * 24, "b" * 24}


def test_a_jump_makes_all_times_of_open_work_older_and_no_others(database, settings, mongodb_uri, stored):
    settled = Stored()
    stored.payment |= {"dueAt": AT, "status": "Processing"}
    event = {"type": "OrderCreated", "at": int(AT.timestamp() * 1000)}
    stored.order |= {"paymentStatus": "Processing", "createdAt": AT, "outbox": [event]}
    stored.refund("one", 1)
    for one in (stored, settled):
        database.orders.insert_one(one.order)
        database.payments.insert_one(one.payment)
        database.ledger.insert_one(one.charge)
    by = timedelta(hours=30)

    assert age_open_work(mongodb_uri, settings.database, by) == {stored.id}

    payment = database.payments.find_one({"_id": stored.id})
    order, charge = database.orders.find_one({"_id": stored.key}), database.ledger.find_one({"orderId": stored.id})
    assert order["outbox"][0]["at"] == event["at"] - by.total_seconds() * 1000
    times = [payment["dueAt"], payment["requestedAt"], order["createdAt"], order["events"][0]["at"], charge["at"]]
    assert [*times, charge["refunds"][0]["at"]] == [AT - by] * 6
    assert database.orders.find_one({"_id": settled.key})["events"][0]["at"] == AT


def test_the_audit_loads_nothing_of_the_application():
    code = "import sys, tools.chaos.audit; print(*(name for name in sys.modules if name.startswith(('app', 'tools.chaos'))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert set(done.stdout.split()) == {"tools.chaos", "tools.chaos.audit", "tools.chaos.clients"}
