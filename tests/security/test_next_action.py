"""What a customer must do to pay is a secret of the order's own user: no administrator, no other user and no list gets it."""

from datetime import UTC, datetime

import pytest
from bson import ObjectId

from tests.security import surface
from tests.security.conftest import USER_SCOPES, User

SECRET = "pi_1_secret_2"
ACTION = {
    "type": "confirm",
    "url": "https://bank.example/3ds",
    "clientSecret": SECRET,
    "expiresAt": datetime(2027, 1, 15, tzinfo=UTC),
}
WAITING = {"orderStatus": "Processing", "paymentStatus": "ActionRequired", "nextAction": ACTION}
READS = [route for route in surface.PROTECTED if route[0] == "GET" and route[1] not in ("/metrics", "/console/stream")]


@pytest.fixture
def of_ada(order_of, orders):
    """An order of Ada that waits for her."""
    order_id = order_of("ada")
    orders.update_one({"_id": ObjectId(order_id)}, {"$set": WAITING})
    return order_id


def shown(user, order_id):
    answer = user.open("GET", f"/orders/one/{order_id}")
    return answer.status_code, answer.json.get("order", {}).get("nextAction")


@pytest.mark.parametrize("scope", ["orders:read", USER_SCOPES, "orders:admin", f"{USER_SCOPES} orders:admin"])
def test_the_orders_own_user_sees_it_whatever_the_token_allows(fort, issuer, of_ada, scope):
    status, action = shown(User(fort.test_client(), issuer.token("ada", scope)), of_ada)
    assert (status, action) == (200, {
        "type": "confirm", "url": "https://bank.example/3ds", "clientSecret": SECRET, "expiresAt": "2027-01-15T00:00:00.000Z",
    })  # fmt: skip


@pytest.mark.parametrize("sub", ["olga", "ADA", "ada2"])
def test_no_administrator_sees_it(fort, issuer, of_ada, sub):
    assert shown(User(fort.test_client(), issuer.token(sub, "orders:admin")), of_ada) == (200, None)


def test_no_other_user_sees_anything(bob, of_ada):
    assert shown(bob, of_ada) == (404, None)


@pytest.mark.parametrize(("method", "rule"), READS, ids=surface.named(READS))
def test_no_route_but_the_orders_own_has_it(ada, operator, of_ada, method, rule):
    for user in (ada, operator):
        answer = user.open(method, surface.address(rule, order_id=of_ada))
        forbidden = user is ada and surface.ROWS[method, rule] is surface.ADMIN
        # The order has no refund, and Ada no endpoint.
        absent = any(name in rule for name in ("<refund_id>", "<endpoint_id>", "<delivery_id>"))
        assert answer.status_code == (403 if forbidden else 404 if absent else 200)
        owned = user is ada and rule == "/orders/one/<order_id>"
        assert (SECRET in answer.text, "bank.example" in answer.text) == (owned, owned)


def test_an_administrator_who_places_an_order_for_a_user_and_waits_does_not_see_it(operator, ada, orders):
    headers = {"Prefer": "wait=0", "Idempotency-Key": "next-action"}
    sent = {"json": surface.BODIES["POST", "/orders"], "headers": headers}
    order_id = operator.open("POST", "/orders", **sent).json["created"]["id"]
    orders.update_one({"_id": ObjectId(order_id)}, {"$set": WAITING})
    replayed = operator.open("POST", "/orders", **sent)
    assert (replayed.json["order"]["paymentStatus"], "nextAction" in replayed.json["order"]) == (
        "ActionRequired",
        False,
    )
    own = ada.open("POST", "/orders", **sent)
    assert own.json["order"]["nextAction"]["clientSecret"] == SECRET
