"""The auditor notices every kind of wrong webhook, and nothing in right ones."""

import json
from dataclasses import replace

import pytest

from tools.auditor.history import FinalOrder, TimelineStep
from tools.auditor.webhooks import ReceivedWebhook, audit_webhooks

ORDER = "a" * 24
STEPS = (
    ("OrderCreated", "(new)", "Processing", "Processing"),
    ("PaymentCaptured", "Processing", "Success", "Captured"),
)
FINAL = {
    ORDER: FinalOrder(
        order_status="Success",
        payment_status="Captured",
        version=2,
        value=9900,
        timeline=[
            TimelineStep(sequence=number, type=kind, from_status=before, to_status=after, payment_status=payment)
            for number, (kind, before, after, payment) in enumerate(STEPS, 1)
        ],
    )
}


def webhook(step: int, receiver: str = "living", **members: object) -> ReceivedWebhook:
    _, before, after, payment = STEPS[step - 1]
    webhook_id = members.pop("webhook_id", f"event-{step}")
    data = {
        "order": {"id": ORDER, "orderStatus": after, "paymentStatus": payment},
        "sequence": step,
        "previousStatus": before,
    }
    body = {"id": webhook_id, "type": "order.updated", "data": {**data, **members}}
    return ReceivedWebhook(receiver=receiver, webhook_id=webhook_id, body=json.dumps(body).encode())


CREATED, PAID = webhook(1), webhook(2)
TEST = ReceivedWebhook(
    receiver="living",
    webhook_id="test",
    body=b'{"id": "test", "type": "endpoint.test", "data": {"endpointId": "we_1"}}',
)


@pytest.mark.parametrize(
    "received",
    [
        (CREATED, PAID),
        (PAID, CREATED, PAID, CREATED),
        (CREATED, PAID, TEST),
        (CREATED, PAID, webhook(2, "dead")),
    ],
    ids=["once", "again and in another order", "with a test", "part of it elsewhere"],
)
def test_right_webhooks_violate_nothing(received):
    assert audit_webhooks(received, FINAL, ["living"]) == []


WRONG = {
    "never told [2] of 2 steps": (CREATED,),
    "never told [1, 2] of 2 steps": (TEST,),
    "2 came as event-2 and as another": (CREATED, PAID, webhook(2, webhook_id="another")),
    "event-2 came with two bodies": (CREATED, PAID, replace(PAID, body=PAID.body + b" ")),
    "other has the body of event-2": (CREATED, PAID, replace(PAID, webhook_id="other")),
    "2 was told as coming from (new) and comes from Processing": (CREATED, webhook(2, previousStatus="(new)")),
    "3 was told and is not in the timeline": (CREATED, PAID, webhook(2, webhook_id="event-3", sequence=3)),
    "was told as ('Declined', 'Declined') and is ('Success', 'Captured')": (
        CREATED,
        webhook(2, order={"id": ORDER, "orderStatus": "Declined", "paymentStatus": "Declined"}),
    ),
}


@pytest.mark.parametrize(("expected", "received"), WRONG.items(), ids=WRONG.keys())
def test_a_wrong_webhook_is_noticed(expected, received):
    found = [str(violation) for violation in audit_webhooks(received, FINAL, ["living"])]
    assert any(expected in violation for violation in found), found


def test_what_a_dead_receiver_got_must_be_true_as_well():
    received = (CREATED, PAID, webhook(2, "dead", previousStatus="Success"))
    [violation] = audit_webhooks(received, FINAL, ["living"])
    assert "dead: 2 was told as coming from Success" in violation.detail
