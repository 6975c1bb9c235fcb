"""Requests of clients and operators, over HTTP and the command line."""

import json
from typing import Any

from app.main import runtime
from app.payments.providers import signed_notifications
from app.payments.providers.signed_notifications import NotificationMessage

TOTAL = 9900
REASON = "outcome queried at the provider"


def place(client: Any, product: str = "1", key: str = "only-one", *, manual: bool = False) -> str:
    """Places an order of TOTAL, with `manual` to be captured later; returns its id."""
    body = {"userId": "user-7", "productId": product, "productName": "Espresso", "totalOrderAmount": "MYR 99.00"}
    if manual:
        body["capture"] = "manual"
    answer = client.post("/orders", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 201, answer.text
    return answer.json["created"]["id"]


def cancel(client: Any, order_id: str) -> None:
    """Cancels an order."""
    answer = client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
    assert answer.status_code == 200, answer.text


def capture(client: Any, order_id: str, value: int) -> None:
    """Captures `value` minor units of what is authorized."""
    answer = client.post(f"/orders/one/{order_id}/capture", json={"amount": {"value": value, "currency": "MYR"}})
    assert answer.status_code == 202, answer.text


def refund(client: Any, order_id: str, value: int, key: str) -> None:
    """Requests a refund of `value` minor units."""
    answer = client.post(
        f"/orders/one/{order_id}/refunds",
        json={"amount": {"value": value, "currency": "MYR"}},
        headers={"Idempotency-Key": key},
    )
    assert answer.status_code == 201, answer.text


def add_endpoint(client: Any, url: str) -> None:
    """Adds an endpoint for the webhooks of all orders."""
    answer = client.post("/webhooks/endpoints", json={"url": url})
    assert answer.status_code == 201, answer.text


def enable_endpoint(client: Any, *, enabled: bool) -> None:
    """Enables or disables the endpoint."""
    [endpoint] = client.get("/webhooks/endpoints").json["endpoints"]
    if endpoint["enabled"] != enabled:
        answer = client.patch(f"/webhooks/endpoints/{endpoint['id']}", json={"enabled": enabled})
        assert answer.status_code == 200, answer.text


def approve(client: Any, order_id: str) -> None:
    """The customer pays, or the bank decides for the merchant, on the simulated provider's page."""
    _decide(client, order_id, "approve")


def refuse(client: Any, order_id: str) -> None:
    """The bank decides for the payer, on the simulated provider's page."""
    _decide(client, order_id, "refuse")


def notify(client: Any, order_id: str, kind: str = "payment.changed") -> None:
    """Sends a notification about the payment of an order, signed as the simulated provider signs it."""
    database = runtime(client.application).database
    reference = f"sim_{order_id}:1"
    message = NotificationMessage(id=f"evt-{order_id}", type=kind, reference=reference, order_id=order_id)
    body, headers = signed_notifications.encode(
        message, database.secret("simulated-notifications"), database.clock.now()
    )
    answer = client.post("/providers/simulated/notifications", data=body, headers=headers)
    assert answer.status_code == 200, answer.text


def retry(client: Any, order_id: str) -> None:
    """Retries a parked payment as an operator."""
    _command(client, "payments", "retry", order_id, "--reason", REASON, "--yes")


def retry_parked(client: Any, order_id: str) -> None:
    """Retries a payment if it is parked."""
    if order_id in parked(client):
        retry(client, order_id)


def resolve(client: Any, order_id: str, answer: str) -> None:
    """Resolves a parked payment as an operator, with the outcome known by the provider."""
    _command(client, "payments", "resolve", order_id, answer, "--reason", REASON, "--yes")


def drop_refused(client: Any, order_id: str) -> None:
    """Drops, as an operator, the refund for which a payment is parked."""
    for row in json.loads(_command(client, "payments", "list", "--json")):
        if row["orderId"] == order_id:
            _command(client, "payments", "drop-refund", order_id, row["refundId"], "--reason", REASON, "--yes")


def replay(client: Any, order_id: str) -> None:
    """Replays a dead letter as an operator."""
    _command(client, "dead-letters", "replay", order_id, "--reason", REASON, "--yes")


def parked(client: Any) -> set[str]:
    """Returns the ids of the orders with a parked payment."""
    return _orders(client, "payments")


def dead_letters(client: Any) -> set[str]:
    """Returns the ids of the orders with a dead letter."""
    return _orders(client, "dead-letters")


def _decide(client: Any, order_id: str, decision: str) -> None:
    entry = runtime(client.application).database.collection("ledger", 10.0).collection.find_one({"orderId": order_id})
    answer = client.post(f"/providers/simulated/actions/{entry['token']}", data={"decision": decision})
    assert answer.status_code == 303, answer.text


def _orders(client: Any, group: str) -> set[str]:
    return {row["orderId"] for row in json.loads(_command(client, group, "list", "--json"))}


def _command(client: Any, *arguments: str) -> str:
    done = client.application.test_cli_runner().invoke(args=arguments)
    assert done.exit_code == 0, done.output
    return done.stdout
