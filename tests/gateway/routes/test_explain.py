"""Explanations: in plain words, why an order is where it is, what it waits for and what may be done."""

from datetime import timedelta

import pytest
from bson import ObjectId

from app.main import create_app, runtime


def explain(client, order_id):
    answer = client.get(f"/orders/one/{order_id}/explain")
    assert answer.status_code == 200, answer.text
    return answer.json


@pytest.fixture
def payment(shared_settings, mongo, orders, place, http):
    """Place an order and put its payment into a state by hand."""
    payments = mongo[shared_settings.database].payments
    order_id = place(http)

    def make(order=None, **state):
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"outbox": [], **(order or {})}})
        stored = {
            "_id": order_id,
            "userId": "user-7",
            "productId": "1",
            "total": {"value": 9900, "currency": "MYR"},
            "status": "Processing",
            "cancelled": False,
            "keySent": True,
            "captured": 0,
            "refunds": [],
            "parkedReason": "",
            **dict.fromkeys(("generation", "fencingToken", "retryCount", "sequence", "orderSequence", "version"), 1),
            "requestId": "r",
            "reference": "",
            "attempts": [],
            "outbox": [],
            "requestedAt": orders.find_one({"_id": ObjectId(order_id)})["createdAt"],
        }
        payments.replace_one({"_id": order_id}, {**stored, **state}, upsert=True)
        return order_id

    yield make
    payments.delete_one({"_id": order_id})


def test_a_new_order_waits_for_the_relay(http, place):
    order_id = place(http)
    told = explain(http, order_id)
    created = http.get(f"/orders/one/{order_id}").json["order"]["createdAt"]
    assert told == {
        "ok": True,
        "sentence": f"The order is Processing and its payment Processing, since a client placed it at {created}; "
        "payments has not received it yet.",
        "orderStatus": "Processing",
        "paymentStatus": "Processing",
        "because": http.get(f"/orders/one/{order_id}/events").json["events"][-1],
        "waitsFor": "the relay",
        "attempts": None,
        "nextAttemptAt": None,
        "allowed": ["Cancelled"],
        "actions": [],
        "onCancel": "the payment is voided, or refunded if it lands later",
    }


def test_a_payment_to_be_retried_waits_for_the_provider_until_a_time(http, payment, orders):
    due = orders.database.command("hello")["localTime"] + timedelta(seconds=90)
    told = explain(http, payment(fencingToken=3, dueAt=due))
    at = f"{due:%Y-%m-%dT%H:%M:%S}.{due.microsecond // 1000:03d}Z"
    assert (told["waitsFor"], told["attempts"], told["nextAttemptAt"]) == ("the provider", 3, at)
    assert f"the provider is called next at {at}, 3 attempts so far." in told["sentence"]
    told = explain(http, payment(fencingToken=1, dueAt=due, owner="somebody"))
    assert (told["waitsFor"], told["nextAttemptAt"]) == ("the provider", None)
    assert told["sentence"].endswith("the provider is being called, 1 attempt so far.")


def test_what_needs_an_operator_says_so(http, payment, orders):
    order_id = payment(order={"paymentStatus": "Unknown"}, status="Unknown", parkedReason="no answer", fencingToken=12)
    told = explain(http, order_id)
    assert told["waitsFor"] == "an operator"
    assert "waits for an operator (no answer), 12 attempts so far" in told["sentence"]
    letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": orders.find_one()["createdAt"]}
    told = explain(http, payment(deadLetter=letter, outbox=[{"type": "PaymentCaptured", "event_id": "e"}]))
    assert told["waitsFor"] == "an operator"
    payment(order={"deadLetter": letter})
    assert explain(http, order_id)["waitsFor"] == "an operator"


def test_a_result_on_its_way_waits_for_the_relay(http, payment, orders):
    due = orders.find_one()["createdAt"]
    event = {"type": "PaymentCaptured", "event_id": "e"}
    told = explain(http, payment(status="Captured", outbox=[event], relayDue=due))
    assert told["waitsFor"] == "the relay"
    assert told["sentence"].endswith("the result of its payment is on its way to orders.")


def test_an_order_that_payments_refuses_to_record_says_so(http, place, orders):
    order_id = place(http)
    orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"relayFailures": 0}})
    told = explain(http, order_id)
    assert told["waitsFor"] == "the relay"
    assert "payments has not taken it in so far and is tried again; " in told["sentence"]


@pytest.mark.parametrize(
    ("status", "allowed", "on_cancel"),
    [
        ("Success", ["Confirm", "Cancelled", "(custom)"], "a refund is started"),
        ("Confirm", ["(custom)", "Cancelled"], "a refund is started"),
        ("Packed", ["(custom)", "Cancelled"], "a refund is started"),
        ("Declined", ["Cancelled"], "no money is involved"),
        ("Cancelled", [], None),
    ],
)
def test_what_may_be_done_and_what_becomes_of_the_money_is_of_the_table(http, payment, status, allowed, on_cancel):
    told = explain(http, payment(order={"orderStatus": status, "paymentStatus": "Captured"}, status="Captured"))
    assert (told["allowed"], told["onCancel"], told["waitsFor"]) == (allowed, on_cancel, "nothing")
    assert told["sentence"].endswith("; nothing is left to do for its payment.")


def test_without_payments_it_is_half_an_explanation(shared_settings, place, monkeypatch):
    app = create_app(shared_settings)
    monkeypatch.setattr("app.payments.repository.PaymentRepository.diagnostics", lambda *_: 1 / 0)
    try:
        client = app.test_client()
        told = explain(client, place(client))
    finally:
        runtime(app).stop()
    assert told["sentence"].endswith("; payments cannot say at the moment where the money is.")
    assert (told["attempts"], told["nextAttemptAt"], told["allowed"]) == (None, None, ["Cancelled"])
