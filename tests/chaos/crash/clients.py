"""What clients and operators ask for, by the interfaces they have: HTTP and the command line."""

import json
from typing import Any

TOTAL = 9900
REASON = "looked up at the provider"


def place(client: Any, product: str = "1", key: str = "only-one") -> str:
    """Place an order of TOTAL and return its id."""
    body = {"userId": "user-7", "productId": product, "productName": "Espresso", "totalOrderAmount": "MYR 99.00"}
    answer = client.post("/orders", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 201, answer.text
    return answer.json["created"]["id"]


def cancel(client: Any, order_id: str) -> None:
    """Cancel an order."""
    answer = client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
    assert answer.status_code == 200, answer.text


def refund(client: Any, order_id: str, value: int, key: str) -> None:
    """Ask for `value` minor units of an order's total back."""
    answer = client.post(
        f"/orders/one/{order_id}/refunds",
        json={"amount": {"value": value, "currency": "MYR"}},
        headers={"Idempotency-Key": key},
    )
    assert answer.status_code == 201, answer.text


def retry(client: Any, order_id: str) -> None:
    """An operator takes a parked payment up again."""
    _command(client, "payments", "retry", order_id)


def retry_parked(client: Any, order_id: str) -> None:
    """The same, where it is parked."""
    if order_id in parked(client):
        retry(client, order_id)


def resolve(client: Any, order_id: str, answer: str) -> None:
    """An operator settles a parked payment by what the provider knows of it."""
    _command(client, "payments", "resolve", order_id, answer, "--reason", REASON, "--yes")


def drop_refused(client: Any, order_id: str) -> None:
    """An operator gives up the refund that a payment is parked over, if it is."""
    for row in json.loads(_command(client, "payments", "list", "--json")):
        if row["orderId"] == order_id:
            _command(client, "payments", "drop-refund", order_id, row["refundId"], "--reason", REASON)


def replay(client: Any, order_id: str) -> None:
    """An operator has a dead letter delivered again."""
    _command(client, "dead-letters", "replay", order_id)


def parked(client: Any) -> set[str]:
    """The orders whose payment waits for an operator."""
    return _orders(client, "payments")


def dead_letters(client: Any) -> set[str]:
    """The orders with an event that waits for an operator."""
    return _orders(client, "dead-letters")


def _orders(client: Any, group: str) -> set[str]:
    return {row["orderId"] for row in json.loads(_command(client, group, "list", "--json"))}


def _command(client: Any, *arguments: str) -> str:
    done = client.application.test_cli_runner().invoke(args=arguments)
    assert done.exit_code == 0, done.output
    return done.stdout
