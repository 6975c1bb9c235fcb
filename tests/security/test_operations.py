"""An operator's name is the token's user, whatever the body says."""

from datetime import UTC, datetime

import pytest
from bson import ObjectId

LETTER = {"reason": "poison", "event_id": "e", "failures": 8, "at": datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.fixture
def dead_letter(order_of, orders):
    """The id of an order with a dead letter."""
    order_id = order_of("ada")
    orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"deadLetter": LETTER}})
    return order_id


def replay(client, order_id, **members):
    body = {"reason": "it is mended", **members}
    return client.open("POST", f"/operations/dead-letters/{order_id}/replay", json=body)


def test_the_name_on_the_timeline_is_the_user_of_the_token(operator, dead_letter):
    assert replay(operator, dead_letter).json == {"ok": True, "replayedIn": ["orders"]}
    entry = operator.open("GET", f"/orders/one/{dead_letter}/events").json["events"][-1]
    assert (entry["actor"], entry["detail"]) == (
        "operator olga",
        "dead letter of orders delivered again: it is mended",
    )


def test_another_name_is_refused_and_changes_nothing(operator, dead_letter, orders):
    before = orders.find_one({"_id": ObjectId(dead_letter)})
    answer = replay(operator, dead_letter, operator="bob")
    assert (answer.status_code, [error["pointer"] for error in answer.json["errors"]]) == (422, ["/operator"])
    assert orders.find_one({"_id": ObjectId(dead_letter)}) == before
    assert replay(operator, dead_letter, operator="olga").status_code == 200
