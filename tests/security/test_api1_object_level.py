"""API1:2023 Broken object level authorization: an order of another user and an absent order have the same response."""

import json
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from bson import ObjectId

from tests.security import surface
from tests.security.conftest import User
from tests.security.surface import ABSENT, OF_ONE_DELIVERY, OF_ONE_ENDPOINT, OF_ONE_ORDER, OF_ONE_USER, named

every_route_to_an_order = pytest.mark.parametrize(("method", "rule"), OF_ONE_ORDER, ids=named(OF_ONE_ORDER))

LISTS_OF_ONE_USER = [route for route in OF_ONE_USER if route[0] == "GET"]
# Spellings of the id of another user's order.
SPELLINGS = {
    "plain": lambda order_id: order_id,
    "upper case": str.upper,
    "one letter in upper case": lambda order_id: (
        order_id[:-1] + order_id[-1].upper() if order_id[-1].isalpha() else order_id.upper()
    ),
    "percent-encoded": lambda order_id: "".join(f"%{ord(char):02x}" for char in order_id),
    "encoded twice": lambda order_id: "".join(f"%25{ord(char):02x}" for char in order_id),
    "with a NUL": lambda order_id: f"{order_id}%00",
    "with a space": lambda order_id: f"{order_id}%20",
    "with a line feed": lambda order_id: f"{order_id}%0a",
    "full-width digits": lambda order_id: quote(order_id.translate({ord(str(n)): chr(0xFF10 + n) for n in range(10)})),
    "as an extended JSON id": lambda order_id: quote(f'{{"$oid":"{order_id}"}}'),
    "in quotes": lambda order_id: f"%22{order_id}%22",
    "too short": lambda order_id: order_id[:-1],
    "too long": lambda order_id: f"{order_id}0",
    "with a second id": lambda order_id: f"{order_id},{order_id}",
    "with dots": lambda order_id: f"{order_id}%2f..%2f{order_id}",
}
# The query parameter of WAYS that a route has.
PARAMETERS = {"/orders/status/<order_id>": "wait", "/orders/one/<order_id>/events": "after"}
WAYS = {
    "": {},
    "with a wait": {"query": "wait=0"},
    "from a version": {"headers": {"If-None-Match": "*"}},
    "if it is of any version": {"headers": {"If-Match": "*"}},
    "if it is of this version": {"headers": {"If-Match": '"{order_id}-1"'}},
    "as a stream": {"headers": {"Accept": "text/event-stream"}},
    "after a step": {"query": "after=0", "headers": {"Last-Event-ID": "0"}},
    "with a key": {"headers": {"Idempotency-Key": "probe"}},
    "on the owner's behalf": {"query": "userId=bob&on_behalf_of=bob&owner=bob", "headers": {"X-User-Id": "bob"}},
    "by another method": {"headers": {"X-HTTP-Method-Override": "GET", "X-Original-URL": "/orders/bob"}},
}


@pytest.fixture(scope="module")
def of_ada(order_of):
    return order_of("ada")


@pytest.fixture(scope="module")
def of_bob(order_of):
    return order_of("bob", productName="A secret of Bob's")


def ask(user, method, rule, order_id, query="", headers=None):
    """Ask for an order, by its path or in the body."""
    sent = surface.body(method, rule)
    if rule == "/orders":
        sent["json"]["orderId"] = order_id
    asked = {name: value.format(order_id=order_id) for name, value in (headers or {}).items()}
    address = surface.address(rule, order_id=order_id) + (f"?{query}" if query else "")
    return user.open(method, address, headers=asked, **sent)


def neighbour(order_id):
    """An id of no order, as like to this one as can be: a digit for a digit, a letter for a letter."""
    return order_id[:-1] + {"9": "8", "f": "e"}.get(order_id[-1], chr(ord(order_id[-1]) + 1))


def whole(answer):
    """Everything by which a client can distinguish responses."""
    return answer.status_code, sorted(answer.headers.items()), answer.data


@pytest.fixture
def ready_of(order_of, orders):
    """Place an order of a user, and bring it into the state that a route needs."""

    def place(user_id, rule):
        order_id = order_of(user_id)
        if rule.endswith("/capture"):
            authorized = {"orderStatus": "Processing", "paymentStatus": "Authorized", "authorized": 9900}
            orders.update_one({"_id": ObjectId(order_id)}, {"$set": authorized})
        if rule.endswith("/<refund_id>"):
            orders.update_one({"_id": ObjectId(order_id)}, {"$set": surface.REFUNDED})
        return order_id

    return place


@every_route_to_an_order
def test_ones_own_order_is_there(ada, ready_of, method, rule):
    assert ask(ada, method, rule, ready_of("ada", rule)).status_code in {200, 201, 202}


@every_route_to_an_order
def test_an_operator_may_see_and_move_every_order(operator, ready_of, method, rule):
    assert ask(operator, method, rule, ready_of("bob", rule)).status_code in {200, 201, 202}


@pytest.mark.usefixtures("untouched")
@every_route_to_an_order
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_foreign_order_and_an_absent_one_have_the_same_response(ada, of_bob, refused, method, rule, way):
    foreign = ask(ada, method, rule, of_bob, **way)
    if foreign.status_code == 400:
        # Refused before any order is looked for, and only where the route does not have the parameter.
        refused(foreign, 400, "invalid_parameter")
        assert way["query"].split("=")[0] != PARAMETERS.get(rule)
    else:
        refused(foreign, 404, "order_not_found")
    assert whole(foreign) == whole(ask(ada, method, rule, ABSENT, **way))
    assert "secret" not in foreign.text


@pytest.mark.usefixtures("untouched")
@every_route_to_an_order
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_no_spelling_of_its_id_opens_an_order_of_somebody_else(ada, of_bob, refused, method, rule, spelling):
    foreign = ask(ada, method, rule, spelling(of_bob))
    assert foreign.status_code in {404, 422}, foreign.text
    refused(foreign, foreign.status_code)
    assert whole(foreign) == whole(ask(ada, method, rule, spelling(neighbour(of_bob))))


@pytest.mark.parametrize(("method", "rule"), OF_ONE_USER, ids=named(OF_ONE_USER))
@pytest.mark.parametrize("user", ["bob", "nobody", "ADA", "ada%20", "ada%00", "*", "olga"])
def test_the_orders_of_every_other_user_are_absent_alike(ada, of_bob, refused, method, rule, user):
    other = ada.open(method, surface.address(rule, user_id=user))
    assert other.status_code in {400, 404, 422}
    refused(other, other.status_code)
    if other.status_code == 404:
        assert whole(other) == whole(ada.open(method, surface.address(rule, user_id="never-was")))


def orders_in(answer) -> list[dict]:
    """The orders of a list, or of an export in lines."""
    return answer.json["orders"] if answer.is_json else [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize(("method", "rule"), LISTS_OF_ONE_USER, ids=named(LISTS_OF_ONE_USER))
def test_ones_own_list_holds_ones_own_orders_alone(ada, operator, of_ada, of_bob, method, rule):
    listed = orders_in(ada.open(method, surface.address(rule)))
    assert {order["userId"] for order in listed} == {"ada"}
    assert of_ada in {order["id"] for order in listed}
    seen = orders_in(operator.open(method, surface.address(rule, user_id="bob")))
    assert of_bob in {order["id"] for order in seen}


def test_a_cursor_of_somebody_elses_list_opens_neither_list(ada, bob, order_of, refused):
    order_of("bob"), order_of("bob")
    page = bob.open("GET", "/orders/bob?limit=1").json
    assert page["hasMore"] is True
    refused(ada.open("GET", f"/orders/ada?cursor={page['nextCursor']}"), 400, "invalid_cursor")
    refused(ada.open("GET", f"/orders/bob?cursor={page['nextCursor']}"), 404)


def test_a_key_of_somebody_else_is_free(ada, bob, new_order):
    """Neither the order of that key nor that there is one can be learnt."""
    named = {"headers": {"Idempotency-Key": "shared"}}
    first = bob.open("POST", "/orders", json=new_order(userId="bob"), **named)
    second = ada.open("POST", "/orders", json=new_order(userId="ada", productName="Other"), **named)
    assert (first.status_code, second.status_code) == (201, 201)
    assert "Idempotent-Replayed" not in second.headers
    assert first.json["created"] != second.json["created"]


def test_a_key_of_a_refund_opens_no_refund_of_somebody_else(ada, bob, of_bob, refused):
    address, named = f"/orders/one/{of_bob}/refunds", {"Idempotency-Key": "refund", "X-Request-Id": "same"}
    assert bob.open("POST", address, json={"amount": "RM 1"}, headers=named).status_code == 201
    refused(ada.open("POST", address, json={"amount": "RM 1"}, headers=named), 404, "order_not_found")


def test_database_commands_contain_the_owner(fort, fort_settings, mongo, ada, of_bob):
    """The filter contains the owner, so that a missing comparison cannot reveal an order."""
    database = mongo[fort_settings.database]
    database.command("profile", 2)
    try:
        ask(ada, "PUT", "/orders", of_bob)
        ask(ada, "POST", "/orders/one/<order_id>/refunds", of_bob)
    finally:
        database.command("profile", 0)
    about = {"ns": f"{fort_settings.database}.orders", "command.filter._id": {"$exists": True}}
    filters = [entry["command"]["filter"] for entry in database["system.profile"].find(about)]
    assert filters
    assert all(filter_.get("userId") == "ada" for filter_ in filters)


def test_without_a_name_a_user_sees_their_own_orders_and_an_operator_everybodys(ada, operator, of_ada, of_bob):
    own = ada.open("GET", "/orders").json["orders"]
    assert {order["userId"] for order in own} == {"ada"}
    every = operator.open("GET", "/orders").json["orders"]
    assert {of_ada, of_bob} <= {order["id"] for order in every}


@pytest.mark.parametrize("query", ["stuck=true", "deadLetter=true"])
def test_what_waits_of_everybody_is_for_operators(ada, operator, refused, query):
    assert refused(ada.open("GET", f"/orders?{query}"), 403, "insufficient_scope")["scope"] == "orders:admin"
    assert operator.open("GET", f"/orders?{query}").status_code == 200


# --- endpoints of webhooks, and what was delivered to them ---

OF_WEBHOOKS = [*OF_ONE_ENDPOINT, *OF_ONE_DELIVERY]
every_route_of_webhooks = pytest.mark.parametrize(("method", "rule"), OF_WEBHOOKS, ids=named(OF_WEBHOOKS))


@pytest.fixture
def webhooks_of(fort, fort_settings, mongo, issuer, endpoints):
    """Add an endpoint of a user and a delivery to it; returns their ids."""
    deliveries = mongo[fort_settings.database].webhook_deliveries

    def add(user_id):
        user = User(fort.test_client(), issuer.token(user_id))
        endpoint_id = user.open("POST", "/webhooks/endpoints", json={"url": "https://shop.example/"}).json["endpoint"][
            "id"
        ]
        delivery_id = f"e1.{endpoint_id}"
        known = {"eventId": "e1", "type": "order.updated", "body": "{}", "status": "failed", "tries": 1}
        deliveries.insert_one({"_id": delivery_id, "endpointId": endpoint_id, "createdAt": datetime.now(UTC), **known})
        return endpoint_id, delivery_id

    yield add
    endpoints.delete_many({})
    deliveries.delete_many({})


def ask_about(user, method, rule, endpoint_id, delivery_id):
    address = surface.address(rule, endpoint_id=endpoint_id, delivery_id=delivery_id)
    return user.open(method, address, **surface.body(method, rule))


@every_route_of_webhooks
def test_ones_own_endpoint_is_there(ada, operator, webhooks_of, method, rule):
    for user in (ada, operator):
        assert ask_about(user, method, rule, *webhooks_of("ada")).status_code in {200, 202}


@every_route_of_webhooks
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_foreign_endpoint_and_an_absent_one_have_the_same_response(
    ada, webhooks_of, endpoints, refused, method, rule, spelling
):
    of_bob = webhooks_of("bob")
    before = [*endpoints.find()]
    foreign = ask_about(ada, method, rule, *map(spelling, of_bob))
    refused(foreign, 404)
    absent = (neighbour(of_bob[0]), f"e2.{of_bob[0]}")
    assert whole(foreign) == whole(ask_about(ada, method, rule, *map(spelling, absent)))
    assert [*endpoints.find()] == before


def test_ones_own_list_of_endpoints_holds_ones_own_alone(ada, operator, webhooks_of):
    (of_ada, _), (of_bob, _) = webhooks_of("ada"), webhooks_of("bob")
    assert [one["id"] for one in ada.open("GET", "/webhooks/endpoints").json["endpoints"]] == [of_ada]
    assert [one["id"] for one in operator.open("GET", "/webhooks/endpoints").json["endpoints"]] == [of_ada, of_bob]
