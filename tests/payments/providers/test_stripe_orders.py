"""Orders paid with Stripe, through the whole application: what a customer, a shop and Stripe do, over HTTP."""

from collections.abc import Iterator

import pytest

from app.main import create_app, runtime
from tests.payments.providers.stripe_contract import event, signed

pytestmark = [pytest.mark.extended, pytest.mark.long]


@pytest.fixture
def app(settings, provider) -> Iterator:
    """The application with Stripe, whose connections the tests share and close."""
    made = create_app(settings, make_provider=lambda settings, ledger: provider)
    runtime(made).prepare()
    yield made
    runtime(made).stop()


@pytest.fixture
def payment_of(database, eventually):
    """Waits until an order's payment is open at Stripe and has a status."""

    def find(order_id: str, status: str) -> dict:
        return eventually(lambda: database.payments.find_one({"_id": order_id, "status": status}))

    return find


@pytest.fixture
def notify(live, client):
    """Notifies of a payment, as Stripe does."""

    def post(kind: str, reference: str, event_id: str) -> int:
        intent = client.v1.payment_intents.retrieve(reference).to_dict()
        body = event(kind, intent, event_id)
        return live.post("/providers/stripe/notifications", data=body, headers=signed(body)).status_code

    return post


@pytest.fixture
def card(standin):
    def make(number: str = "4242424242424242") -> str:
        members = {"card[number]": number, "card[exp_month]": 12, "card[exp_year]": 2030, "card[cvc]": "123"}
        return standin.request("POST", "payment_methods", type="card", **members)["id"]

    return make


def order_of(live, order_id: str) -> dict:
    return live.get(f"/orders/one/{order_id}").json["order"]


def test_an_order_is_paid_at_a_page_and_refunded(live, place, client, card, payment_of, notify, eventually):
    order_id = place(live)
    reference = payment_of(order_id, "ActionRequired")["reference"]
    eventually(lambda: order_of(live, order_id)["paymentStatus"] == "ActionRequired")
    client.v1.payment_intents.confirm(reference, {"payment_method": card()})
    assert notify("payment_intent.succeeded", reference, "evt_paid") == 200
    eventually(lambda: order_of(live, order_id)["orderStatus"] == "Success")
    assert live.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
    eventually(lambda: order_of(live, order_id)["paymentStatus"] == "Refunded")
    [refund] = client.v1.refunds.list({"payment_intent": reference}).data
    assert (refund.amount, refund.metadata["order_id"], refund.metadata["refund_id"]) == (9900, order_id, "cancel")


def test_what_happens_at_stripe_afterwards_is_recorded(
    live, place, client, standin, card, payment_of, notify, eventually
):
    order_id = place(live)
    reference = payment_of(order_id, "ActionRequired")["reference"]
    client.v1.payment_intents.confirm(reference, {"payment_method": card()})
    notify("payment_intent.succeeded", reference, f"evt_{order_id}_1")
    payment_of(order_id, "Captured")
    # In the dashboard, and then by the customer's bank.
    client.v1.refunds.create({"payment_intent": reference, "amount": 900})
    notify("payment_intent.succeeded", reference, f"evt_{order_id}_2")
    refunded = eventually(lambda: (payment := payment_of(order_id, "Captured"))["refunds"] and payment)
    assert [refund["value"] for refund in refunded["refunds"]] == [900]
    dispute = {"id": f"dp_{order_id}", "payment_intent": reference, "amount": 9000, "currency": "myr"}
    standin.control("disputes", **dispute, status="needs_response")
    notify("payment_intent.succeeded", reference, f"evt_{order_id}_3")
    payment_of(order_id, "Disputed")
    standin.control("disputes", **dispute, status="won")
    notify("payment_intent.succeeded", reference, f"evt_{order_id}_4")
    payment_of(order_id, "Captured")


def test_an_order_that_is_cancelled_while_its_customer_pays_cannot_be_paid(live, place, client, payment_of, eventually):
    order_id = place(live)
    reference = payment_of(order_id, "ActionRequired")["reference"]
    assert live.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
    payment_of(order_id, "Voided")
    assert client.v1.payment_intents.retrieve(reference).status == "canceled"


def test_a_forged_notification_is_refused(live):
    body = event("payment_intent.succeeded", {"id": "pi_1", "object": "payment_intent"})
    answer = live.post("/providers/stripe/notifications", data=body, headers=signed(body, secret="whsec_forged"))
    assert answer.status_code == 400


def test_notifications_of_another_provider_are_not_taken(live):
    assert live.post("/providers/simulated/notifications", data=b"{}").status_code == 404
