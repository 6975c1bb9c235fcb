"""What the auditor reads from decoded answers and from the provider's ledger."""

import pytest

from tools.auditor.history import CAPTURE, REFUND, FinalOrder, Movement, TimelineStep
from tools.auditor.reading import movements, read_order, read_orders

STATUSES = {"orderStatus": "Success", "paymentStatus": "Captured"}
EVENT = {"sequence": 1, "from": "(new)", "to": "Success", "paymentStatus": "Captured"}


def found(*events):
    """Returns how an order with these entries of its timeline is read."""
    order = {**STATUSES, "version": len(events), "total": {"value": 900, "currency": "MYR"}}
    paths = {"/orders/one/1": {"order": order}, "/orders/one/1/events": {"events": events}}
    return paths.get


@pytest.mark.parametrize(
    ("kind", "detail", "value"),
    [
        ("RefundRequested", "refund of 250", 250),
        ("PaymentRefunded", "refunded 250", 250),
        ("PaymentRefundFailed", "refund of 250 given up: answer 5", 250),
        ("PaymentCaptured", "250", 0),
    ],
)
def test_an_order_is_read_with_its_timeline(kind, detail, value):
    assert read_order(found({**EVENT, "type": kind, "detail": detail}), "1") == FinalOrder(
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
