"""What the auditor reads from decoded answers and from the provider's ledger."""

import pytest

from tools.auditor.history import (
    CAPTURE,
    DISPUTE,
    FAILED_REFUND,
    LOST_DISPUTE,
    REFUND,
    WON_DISPUTE,
    FinalOrder,
    Movement,
    TimelineStep,
)
from tools.auditor.reading import movements, read_order, read_orders

STATUSES = {"orderStatus": "Success", "paymentStatus": "Captured"}
EVENT = {"sequence": 1, "from": "(new)", "to": "Success", "paymentStatus": "Captured"}


def found(*events):
    """Returns how an order with these entries of its timeline is read."""
    order = {**STATUSES, "version": len(events), "total": {"value": 900, "currency": "MYR"}}
    paths = {"/orders/one/1": {"order": order}, "/orders/one/1/events": {"events": events}}
    return paths.get


@pytest.mark.parametrize(
    ("kind", "amount", "value"),
    [
        ("RefundRequested", {"amount": {"value": 250, "currency": "MYR"}}, 250),
        ("PaymentCaptured", {"amount": {"value": 900, "currency": "MYR"}}, 900),
        ("PaymentParked", {}, 0),
    ],
)
def test_an_order_is_read_with_its_timeline(kind, amount, value):
    assert read_order(found({**EVENT, "type": kind, "detail": "250", **amount}), "1") == FinalOrder(
        order_status="Success",
        payment_status="Captured",
        version=1,
        value=900,
        timeline=[
            TimelineStep(
                sequence=1, type=kind, from_status="(new)", to_status="Success", payment_status="Captured", value=value
            )
        ],
    )


@pytest.mark.parametrize(
    ("kind", "detail", "won", "until"),
    [
        ("PaymentDisputeClosed", "dispute won: 3", True, ""),
        ("PaymentDisputeClosed", "dispute lost: the payer has won", False, ""),
        ("PaymentAuthorized", "sim_a:1, until 2026-01-01T12:00:00.000Z", False, "2026-01-01T12:00:00.000Z"),
        ("PaymentDelayed", "awaited, until 2026-01-01T12:00:00.000Z", False, "2026-01-01T12:00:00.000Z"),
    ],
)
def test_the_end_of_a_dispute_and_of_a_wait_is_read(kind, detail, won, until):
    [step] = read_order(found({**EVENT, "type": kind, "detail": detail}), "1").timeline
    assert (step.won, step.until) == (won, until)


def test_an_order_that_is_not_found_is_left_out():
    assert read_orders(found(), ["1", "2"]).keys() == {"1"}


def test_each_capture_and_each_refund_in_the_ledger_is_a_movement():
    ledger = [
        {
            "_id": "a",
            "orderId": "1",
            "answer": "captured",
            "value": 900,
            "refunds": [{"key": "r", "value": 1}, {"key": "s", "value": 2}],
        },
        {"_id": "b", "orderId": "2", "answer": "declined", "value": 900, "refunds": []},
    ]
    assert list(movements(ledger)) == [
        Movement(order_id="1", kind=CAPTURE, value=900, key="a"),
        Movement(order_id="1", kind=REFUND, value=1, key="r"),
        Movement(order_id="1", kind=REFUND, value=2, key="s"),
    ]


@pytest.mark.parametrize(("status", "ends"), [("open", []), ("won", [WON_DISPUTE]), ("lost", [LOST_DISPUTE])])
def test_a_dispute_and_a_refund_that_failed_later_are_movements(status, ends):
    entry = {"_id": "a", "orderId": "1", "answer": "captured", "value": 900, "refunds": []}
    entry |= {"failedRefunds": [{"key": "r", "value": 2}], "dispute": {"value": 898, "status": status}}
    [_, made, failed, *disputes] = movements([entry])

    assert [(one.kind, one.value, one.key) for one in (made, failed)] == [(REFUND, 2, "r"), (FAILED_REFUND, 2, "r")]
    assert [one.kind for one in disputes] == [DISPUTE, *ends]


@pytest.mark.parametrize(
    ("refund_id", "elsewhere"), [({}, False), ({"refundId": "r"}, False), ({"refundId": ""}, True)]
)
def test_a_refund_without_an_id_of_ours_was_made_elsewhere(refund_id, elsewhere):
    refund = {"key": "r", "value": 1, **refund_id}
    [made] = movements([{"_id": "a", "orderId": "1", "answer": "voided", "value": 9, "refunds": [refund]}])
    assert made.elsewhere == elsewhere
