"""API3:2023 Broken object property level authorization: clients cannot write or read members that are not theirs."""

import json

import pytest
from bson import ObjectId

from tests.security import surface
from tests.security.surface import ADMIN, ROWS, named

WRITING = [route for route in surface.WRITING if "orders" in route[1] and ROWS[route] is not ADMIN]
# What an order has and a client may not set, with values that would pay.
VALUES = [
    ("692000000000000000000001", "_id id orderId order_id"),
    ("bob", "owner user user_id onBehalfOf on_behalf_of sub actor"),
    ("Success", "status order_status state"),
    ("Captured", "paymentStatus payment_status"),
    (999, "version sequence paymentSequence expected_versions attempts"),
    ({"value": 1, "currency": "MYR"}, "total refunded balance captured authorized"),
    ({"type": "redirect", "url": "https://evil.example"}, "nextAction next_action"),
    (True, "disputed manualCapture manual_capture"),
    (1, "total_value amount_cents price refund_value"),
    ("2001-01-01T00:00:00Z", "createdAt created_at updatedAt relayDue changesDue expireAt"),
    ([{"sequence": 1}], "events outbox refunds wishes"),
    ("mine", "requestId request_id idempotency idempotency_key key fingerprint refund_id refundId currency reference"),
    ("orders:admin", "scope scopes admin isAdmin role roles"),
    ({"a": 1}, "__proto__ constructor __class__ $set $where lease leaseUntil"),
]
FORBIDDEN = {name: value for value, names in VALUES for name in names.split()}
# What a route takes: not forbidden there.
TAKEN = {
    ("POST", "/orders"): {"createdAt"},
    ("PUT", "/orders"): {"orderId"},
    ("PATCH", "/orders/one/<order_id>"): set(),
    ("POST", "/orders/one/<order_id>/refunds"): set(),
    ("POST", "/orders/one/<order_id>/capture"): set(),
}
INHERENT = {
    "updatedAt",
    "version",
    "sequence",
    "events",
    "outbox",
    "relayDue",
    "changes",
    "changesDue",
    "refunds",
    "orderStatus",
    "paymentStatus",
}
# Its answer is no object: each line is an order.
EXPORT = ("GET", "/orders/export")
ANSWERS = {
    ("POST", "/orders"): {"ok", "created", "payment"},
    ("PUT", "/orders"): {"ok", "message"},
    ("GET", "/orders"): {"ok", "orders", "hasMore", "nextCursor"},
    ("GET", "/orders/<user_id>"): {"ok", "orders", "hasMore", "nextCursor"},
    ("GET", "/orders/one/<order_id>"): {"ok", "order"},
    ("PATCH", "/orders/one/<order_id>"): {"ok", "metadata"},
    ("GET", "/orders/one/<order_id>/events"): {"ok", "events", "version"},
    ("GET", "/orders/one/<order_id>/explain"): {
        *("ok", "sentence", "orderStatus", "paymentStatus", "because", "waitsFor"),
        *("attempts", "nextAttemptAt", "allowed", "actions", "onCancel"),
    },
    ("GET", "/orders/one/<order_id>/latency"): {"ok", "attempts", "stages"},
    ("GET", "/orders/one/<order_id>/refunds"): {"ok", "refunds"},
    ("GET", "/orders/one/<order_id>/refunds/<refund_id>"): {"ok", "refund"},
    ("GET", "/orders/one/<order_id>/requests"): {"ok", "requests"},
    ("POST", "/orders/one/<order_id>/refunds"): {"ok", "refund"},
    ("POST", "/orders/one/<order_id>/capture"): {"ok", "capture"},
    ("GET", "/orders/status/<order_id>"): {"ok", "orderStatus"},
}
ORDER = {
    *("id", "userId", "productId", "productName", "totalOrderAmount", "total"),
    *("orderStatus", "paymentStatus", "version", "createdAt", "updatedAt"),
    *("captured", "refunded", "pending", "refundable"),
}
REFUND = {"id", "amount", "status", "at", "reason", "failure"}
AUTHORIZED = {"orderStatus": "Processing", "paymentStatus": "Authorized", "authorized": 9900}
EVENT = {"orderId", "sequence", "type", "at", "actor", "from", "to", "paymentStatus", "detail", "requestId", "caller"}


@pytest.fixture
def of_ada(order_of):
    return order_of("ada")


def write(client, method, rule, order_id, extra):
    sent = surface.body(method, rule)["json"] | extra
    if rule == "/orders" and method == "PUT" and "orderId" not in extra:
        sent["orderId"] = order_id
    lenient = "?strict=false" if rule == "/orders" else ""
    return client.open(method, surface.address(rule, order_id=order_id) + lenient, json=sent)


def stored(orders, order_id):
    return orders.find_one({"_id": ObjectId(order_id)})


@pytest.mark.parametrize("member", FORBIDDEN)
@pytest.mark.parametrize(("method", "rule"), WRITING, ids=named(WRITING))
def test_a_member_that_is_not_theirs_to_set_sets_nothing(ada, orders, of_ada, refused, method, rule, member):
    if member in TAKEN[method, rule]:
        return
    plain, forged = of_ada, of_ada
    if method == "POST" and rule == "/orders":
        plain = write(ada, method, rule, "", {}).json["created"]["id"]
        answer = write(ada, method, rule, "", {member: FORBIDDEN[member]})
        assert answer.status_code == 201, answer.text
        forged = answer.json["created"]["id"]
        check_alike(stored(orders, plain), stored(orders, forged))
        return
    before = stored(orders, of_ada)
    answer = write(ada, method, rule, of_ada, {member: FORBIDDEN[member]})
    after = stored(orders, of_ada)
    if rule.endswith(("/refunds", "/capture")) or method == "PATCH":
        # Where money moves nothing is ignored: it might have been meant as the amount. And only metadata is changed by PATCH.
        refused(answer, 422, "invalid_members")
        assert after == before
        return
    assert answer.status_code in {200, 201}, answer.text
    assert {name for name in after if after[name] != before.get(name)} <= INHERENT
    assert (after["version"], after["sequence"]) == (before["version"] + 1, before["sequence"] + 1)
    assert after["paymentStatus"] in ("Captured", "Refunding")


def check_alike(one, other):
    """Two orders that differ in nothing but what differs from order to order."""
    own = {"_id", "createdAt", "updatedAt", "requestId", "events", "outbox", "relayDue", "changes", "changesDue"}
    assert one.keys() == other.keys()
    assert {name: one[name] for name in one if name not in own} == {
        name: other[name] for name in one if name not in own
    }
    assert [event.keys() for event in one["events"]] == [event.keys() for event in other["events"]]
    assert str(other["_id"]) != FORBIDDEN["_id"]
    assert other["createdAt"].year > 2001


@pytest.mark.parametrize("status", ["Success", "Captured", "Confirm", 7, None, {"$ne": 1}])
def test_a_new_order_is_processing_whatever_the_client_says(ada, orders, status):
    answer = write(ada, "POST", "/orders", "", {"orderStatus": status})
    found = stored(orders, answer.json["created"]["id"])
    assert (found["orderStatus"], found["paymentStatus"]) == ("Processing", "Processing")


@pytest.mark.parametrize("status", ["Processing", "Success", "Declined"])
def test_a_state_that_payments_decide_is_not_a_clients_to_set(ada, orders, of_ada, refused, status):
    orders.update_one({"_id": ObjectId(of_ada)}, {"$set": {"orderStatus": "Declined", "paymentStatus": "Declined"}})
    before = stored(orders, of_ada)
    answer = write(ada, "PUT", "/orders", of_ada, {"orderStatus": status})
    assert answer.status_code == (200 if status == "Declined" else 409), answer.text
    assert stored(orders, of_ada) == before


def test_nobody_places_an_order_for_somebody_else(ada, operator, orders, refused):
    before = orders.count_documents({"userId": "bob"})
    refused(write(ada, "POST", "/orders", "", {"userId": "bob"}), 403, "wrong_user")
    assert orders.count_documents({"userId": "bob"}) == before
    assert write(operator, "POST", "/orders", "", {"userId": "bob"}).status_code == 201


@pytest.mark.parametrize("user", ["ADA", " ada", "ada ", "\u0430da", "ada\u200b", "a\u0301da"])
def test_a_name_that_looks_like_ones_own_is_somebody_elses(ada, refused, user):
    answer = write(ada, "POST", "/orders", "", {"userId": user})
    assert answer.status_code in {403, 422}
    refused(answer, answer.status_code)


@pytest.mark.parametrize(("method", "rule"), ANSWERS, ids=named(ANSWERS))
def test_an_answer_has_no_member_that_it_should_not(ada, orders, of_ada, method, rule):
    address = surface.address(rule, order_id=of_ada)
    sent = surface.body(method, rule)
    if method == "PUT":
        sent["json"]["orderId"] = of_ada
    if rule.endswith("/capture"):
        orders.update_one({"_id": ObjectId(of_ada)}, {"$set": AUTHORIZED})
    if method == "GET" and "/refunds" in rule:
        orders.update_one({"_id": ObjectId(of_ada)}, {"$set": surface.REFUNDED})
    told = ada.open(method, address, **sent).json
    assert told.keys() <= ANSWERS[method, rule]
    for order in [told["order"]] if "order" in told else told.get("orders", []):
        assert order.keys() == (ORDER | {"refunds"} if "order" in told else ORDER)
        assert order["total"].keys() == {"value", "currency"}
    for event in told.get("events", []):
        assert event.keys() == EVENT
    assert told.get("refund", {}).keys() <= ({"id", "amount"} if method == "POST" else REFUND)
    for refund in told.get("refunds", []):
        assert refund.keys() <= REFUND
    assert told.get("capture", {}).keys() <= {"amount"}
    assert told.get("because", {}).keys() <= EVENT


def test_a_line_of_an_export_has_the_members_of_a_list(ada, of_ada):
    lines = map(json.loads, ada.open(*EXPORT).text.splitlines())
    assert [order.keys() for order in lines if order["id"] == of_ada] == [ORDER]


def test_every_protected_route_of_orders_is_tested():
    assert {*ANSWERS, EXPORT} == {route for route in surface.PROTECTED if route[1].startswith("/orders")}
