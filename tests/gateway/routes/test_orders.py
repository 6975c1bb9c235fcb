"""The inherited contract: every route's answers, their headers, and what is not there."""

import re
from datetime import UTC, datetime
from types import SimpleNamespace
from urllib.parse import quote
from uuid import uuid4

import pytest
from bson import ObjectId

from app.contracts.base import Money
from app.gateway.http.money import CURRENCIES, format_money, parse_money
from app.gateway.routes import orders as routes

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")

# Each address with the methods it has, written down here anew; tests/security/test_api5 tries all others.
ADDRESSES = {
    "/orders": {"GET", "HEAD", "POST", "PUT"},
    "/orders/one/692000000000000000000000": {"GET", "HEAD", "PATCH"},
    "/orders/one/692000000000000000000000/refunds": {"GET", "HEAD", "POST"},
    "/orders/one/692000000000000000000000/refunds/r1": {"GET", "HEAD"},
    "/orders/one/692000000000000000000000/capture": {"POST"},
    "/orders/one/692000000000000000000000/events": {"GET", "HEAD"},
    "/orders/one/692000000000000000000000/explain": {"GET", "HEAD"},
    "/orders/one/692000000000000000000000/requests": {"GET", "HEAD"},
    "/orders/status/692000000000000000000000": {"GET", "HEAD"},
    "/orders/user-7": {"GET", "HEAD"},
    "/api": {"GET", "HEAD"},
    "/api/": {"GET", "HEAD"},
    "/api-json": {"GET", "HEAD"},
    "/api/assets/swagger-ui.css": {"GET", "HEAD"},
    "/healthz": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
    "/state-machine": {"GET", "HEAD"},
    "/problems": {"GET", "HEAD"},
    "/problems/illegal_transition": {"GET", "HEAD"},
}

NO_IDS = {
    "unknown": "692000000000000000000000",
    "one digit short": "69200000000000000000000",
    "one digit long": "6920000000000000000000000",
    "no digit at the end": "69200000000000000000000g",
    "twelve letters": "twelve bytes",
    "spaces": " " * 24,
    "digits and spaces": "69 " * 8,
    "a sign": "+69200000000000000000000",
    "Arabic digits": "\u0661" * 24,
    "full-width digits": "\uff16" * 24,
    "an emoji": "\U0001f980",
    "NUL": "\0" * 24,
    "NUL behind an id": "692000000000000000000000\0",
    "an operator": '{"$gt":""}',
    "dots": "..",
    "a word": "null",
    "as MongoDB shows it": "ObjectId('692000000000000000000000')",
}


def mine() -> str:
    """A user of this test only."""
    return f"user-{uuid4().hex}"


def step(client, order_id, order_status, **more):
    return client.put("/orders?strict=false", json={"orderId": order_id, "orderStatus": order_status, **more})


def test_a_new_order_is_answered_with_its_id_its_address_and_its_version(http, new_order):
    answer = http.post("/orders", json=new_order())
    order_id = answer.json["created"]["id"]
    assert answer.status_code == 201
    assert re.fullmatch("[0-9a-f]{24}", order_id)
    assert answer.json == {
        "ok": True,
        "created": {"id": order_id},
        "payment": "Create order success, payment processing",
    }
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == f"/orders/one/{order_id}"
    assert answer.headers["ETag"] == f'"{order_id}-1"'
    assert http.get(answer.headers["Location"]).json["order"]["id"] == order_id


def test_two_equal_requests_are_two_orders(http, place):
    user = mine()
    placed = {place(http, userId=user), place(http, userId=user)}
    assert {order["id"] for order in http.get(f"/orders/{user}").json["orders"]} == placed
    assert len(placed) == 2


def test_an_order_is_shown_as_it_was_placed(http, new_order):
    sent, before = new_order(productName="Kaffeemühle № 5 ☕"), datetime.now(UTC)
    order_id = http.post("/orders", json=sent).json["created"]["id"]
    answer = http.get(f"/orders/one/{order_id}")
    order = answer.json["order"]
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["ETag"] == f'"{order_id}-1"'
    assert answer.json.keys() == {"ok", "order"}
    assert answer.json["ok"] is True
    assert {member: order[member] for member in sent} == sent
    assert order["id"] == order_id
    assert order["total"] == {"value": 9900, "currency": "MYR"}
    assert (order["orderStatus"], order["paymentStatus"], order["version"]) == ("Processing", "Processing", 1)
    assert order["createdAt"] == order["updatedAt"]
    assert RFC3339.match(order["createdAt"])
    assert abs((datetime.fromisoformat(order["createdAt"]) - before).total_seconds()) < 60


def test_nothing_of_the_inside_is_shown(http, place):
    order = http.get(f"/orders/one/{place(http)}").json["order"]
    inside = {"_id", "outbox", "events", "sequence", "paymentSequence", "relayDue", "relayClaim", "requestId"}
    assert not inside & order.keys()


def test_a_status_has_the_etag_of_the_order(http, place):
    order_id = place(http)
    answer = http.get(f"/orders/status/{order_id}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == {"ok": True, "orderStatus": "Processing"}
    assert answer.headers["ETag"] == http.get(f"/orders/one/{order_id}").headers["ETag"]


def test_a_list_holds_the_users_orders_just_as_each_is_shown_alone(http, place):
    user = mine()
    placed = {place(http, userId=user, productId=str(number)) for number in range(3)}
    place(http, userId=mine())
    answer = http.get(f"/orders/{user}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json["ok"] is True
    listed = {order["id"]: order for order in answer.json["orders"]}
    shown = {order_id: http.get(f"/orders/one/{order_id}").json["order"] for order_id in placed}
    assert [order.pop("refunds") for order in shown.values()] == [[], [], []]
    assert listed == shown


def test_order_ids_begin_with_their_time_and_sort_by_it(monkeypatch):
    times = [1_700_000_000 + at / 1000 for at in range(2000)]
    clock = iter(times)
    monkeypatch.setattr(routes, "time", SimpleNamespace(time=lambda: next(clock)))
    ids = [routes._new_order_id() for _ in times]
    assert ids == sorted(ids)
    assert [int(ObjectId(one).generation_time.timestamp()) for one in ids] == [int(at) for at in times]


def test_order_ids_of_one_moment_differ(monkeypatch):
    monkeypatch.setattr(routes, "time", SimpleNamespace(time=lambda: 1_700_000_000.5))
    assert len({routes._new_order_id() for _ in range(10_000)}) == 10_000


def test_a_list_is_newest_first_and_at_most_a_hundred(http, place, orders):
    user = mine()
    placed = [place(http, userId=user) for _ in range(101)]
    for number, order_id in enumerate(placed):
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"createdAt": datetime(2030, 1, 1, 0, 0, number // 2)}})
    listed = [order["id"] for order in http.get(f"/orders/{user}").json["orders"]]
    newest = sorted(placed, key=lambda order_id: (placed.index(order_id) // 2, order_id), reverse=True)
    assert listed == newest[:100]


def test_a_user_without_orders_has_an_empty_list(http):
    answer = http.get(f"/orders/{mine()}")
    assert (answer.status_code, answer.json["ok"], answer.json["orders"]) == (200, True, [])


@pytest.mark.parametrize(
    "user",
    [
        *["a b", " edges ", "Ünïcode", "用户", "🦀", "$where", "$ne", "a.b.c", ".", "one", "status", "a%b"],
        *["a%20b", "a+b", "a?b=c", "a#b", "a&b", "a;b", "a\\b", "{}", "[$ne]", "'\"`", "<b>", "a@b.example"],
        *["null", "0"],
    ],
)
def test_a_user_may_be_called_anything_printable(http, place, user):
    order_id = place(http, userId=user)
    listed = http.get(f"/orders/{quote(user, safe='')}").json["orders"]
    assert order_id in [order["id"] for order in listed]
    assert {order["userId"] for order in listed} == {user}


@pytest.mark.parametrize("user", ["%20", "%09", "%00", "a%00b", "%0A", "a%0D%0AX:b", "%7F", "%C2%85", "%E2%80%A8"])
def test_a_user_of_blanks_or_control_characters_is_refused(http, pointers, user):
    assert pointers(http.get(f"/orders/{user}")) == ["/userId"]


@pytest.mark.parametrize("letter", ["a", "é", "用", "🦀"])
def test_a_user_of_128_characters_is_listed_and_one_of_129_refused(http, place, pointers, letter):
    order_id = place(http, userId=letter * 128)
    assert http.get(f"/orders/{letter * 128}").json["orders"][0]["id"] == order_id
    assert pointers(http.get(f"/orders/{letter * 129}")) == ["/userId"]


def test_a_step_is_answered_and_changes_the_status_alone(http, place):
    order_id = place(http)
    before = http.get(f"/orders/one/{order_id}").json["order"]
    answer = step(http, order_id, "Cancelled")
    after = http.get(f"/orders/one/{order_id}").json["order"]
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == {"ok": True, "message": "Update order success"}
    assert answer.headers["ETag"] == f'"{order_id}-2"'
    changes = {"orderStatus": "Cancelled", "version": 2, "updatedAt": after["updatedAt"]}
    assert after == {**before, **changes}
    assert after["updatedAt"] >= before["updatedAt"]
    assert http.get(f"/orders/status/{order_id}").json["orderStatus"] == "Cancelled"


def test_a_step_to_where_the_order_is_already_changes_nothing(http, place, orders):
    order_id = place(http)
    step(http, order_id, "Cancelled")
    before = orders.find_one({"_id": ObjectId(order_id)})
    answer = step(http, order_id, "Cancelled")
    assert (answer.status_code, answer.json) == (200, {"ok": True, "message": "Update order success"})
    assert answer.headers["ETag"] == f'"{order_id}-2"'
    assert orders.find_one({"_id": ObjectId(order_id)}) == before


@pytest.mark.parametrize(
    "extra",
    [
        {"totalOrderAmount": "RM 1"},
        {"total": {"value": 1, "currency": "MYR"}},
        {"userId": "thief"},
        {"productId": "2", "productName": "Something else"},
        {"paymentStatus": "Captured"},
        {"version": 99, "sequence": 99, "paymentSequence": 99},
        {"_id": "692000000000000000000000", "id": "692000000000000000000000"},
        {"createdAt": "1999-01-01T00:00:00Z", "updatedAt": "1999-01-01T00:00:00Z"},
        {"$set": {"userId": "thief"}, "$unset": {"userId": ""}},
        {"total.value": 1},
        {"outbox": [], "events": []},
    ],
    ids=lambda extra: ",".join(extra),
)
def test_a_step_takes_nothing_else_over(http, place, orders, extra):
    order_id, twin_id = place(http), place(http)
    assert step(http, order_id, "Cancelled", **extra).status_code == 200
    assert step(http, twin_id, "Cancelled").status_code == 200
    own = {"_id", "createdAt", "updatedAt", "requestId", "events", "outbox", "relayDue", "changes", "changesDue"}
    order, twin = (orders.find_one({"_id": ObjectId(one)}) for one in (order_id, twin_id))
    assert order.keys() == twin.keys()
    assert {name: order[name] for name in order.keys() - own} == {name: twin[name] for name in twin.keys() - own}
    assert [entry["type"] for entry in order["events"]] == ["OrderCreated", "OrderCancelled"]
    assert [entry["type"] for entry in order["outbox"]] == ["OrderCreated", "OrderCancelled"]


@pytest.mark.parametrize(
    "order_status", ["Success", "Declined", "Confirm", "Packed", "cancelled", " Cancelled ", "(new)"]
)
def test_an_illegal_step_is_refused_with_what_is_allowed(http, place, orders, refused, order_status):
    order_id = place(http)
    before = orders.find_one({"_id": ObjectId(order_id)})
    body = refused(step(http, order_id, order_status), 409, "illegal_transition")
    assert (body["from"], body["to"], body["allowed"]) == ("Processing", order_status, ["Cancelled"])
    assert orders.find_one({"_id": ObjectId(order_id)}) == before


def test_a_refund_is_answered_with_its_id_and_what_goes_back(http, captured):
    answer = http.post(f"/orders/one/{captured}/refunds", json={"amount": "RM 10"})
    refund_id = answer.json["refund"]["id"]
    assert answer.status_code == 201
    assert answer.json == {"ok": True, "refund": {"id": refund_id, "amount": {"value": 1000, "currency": "MYR"}}}
    assert re.fullmatch("[0-9a-f]{24}", refund_id)
    assert answer.headers["Location"] == f"/orders/one/{captured}/refunds/{refund_id}"
    assert answer.headers["ETag"] == http.get(f"/orders/one/{captured}").headers["ETag"] == f'"{captured}-2"'


def test_refunds_add_up_to_the_total_and_never_further(http, captured, orders, refused):
    address = f"/orders/one/{captured}/refunds"
    assert http.post(address, json={"amount": {"value": 9000, "currency": "MYR"}}).status_code == 201
    body = refused(http.post(address, json={"amount": "RM 9.01"}), 409, "refund_exceeds_balance")
    assert body["remaining"] == 900
    rest = http.post(address, json={})
    assert rest.json["refund"]["amount"] == {"value": 900, "currency": "MYR"}
    refused(http.post(address, json={}), 409, "refund_exceeds_balance")
    stored = orders.find_one({"_id": ObjectId(captured)})
    assert [refund["value"] for refund in stored["refunds"]] == [9000, 900]
    assert [entry["type"] for entry in stored["outbox"]] == ["OrderCreated", "RefundRequested", "RefundRequested"]


def test_a_refund_in_another_currency_is_refused(http, captured, refused):
    refused(http.post(f"/orders/one/{captured}/refunds", json={"amount": "USD 10"}), 422, "wrong_currency")


def test_what_was_not_captured_is_not_refunded(http, place, refused):
    refused(http.post(f"/orders/one/{place(http)}/refunds", json={}), 409, "illegal_transition")


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("order_id", NO_IDS.values(), ids=NO_IDS)
def test_no_order_is_found_by_a_wrong_id(http, refused, order_id):
    path = quote(order_id, safe="")
    refused(http.get(f"/orders/one/{path}"), 404, "order_not_found")
    refused(http.get(f"/orders/status/{path}"), 404, "order_not_found")
    refused(http.get(f"/orders/status/{path}?wait=30"), 404, "order_not_found")
    refused(http.get(f"/orders/one/{path}/explain"), 404, "order_not_found")
    for kind in ("application/json", "text/event-stream"):
        refused(http.get(f"/orders/one/{path}/events", headers={"Accept": kind}), 404, "order_not_found")
    refused(http.post(f"/orders/one/{path}/refunds", json={}), 404, "order_not_found")
    refused(http.post(f"/orders/one/{path}/capture", json={}), 404, "order_not_found")


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("name", [name for name in NO_IDS if "NUL" not in name and name != "spaces"])
def test_no_order_is_moved_by_a_wrong_id(http, refused, name):
    refused(step(http, NO_IDS[name], "Cancelled"), 404, "order_not_found")


def test_an_id_is_matched_by_its_exact_digits(http, place, orders, refused):
    order_id = place(http)
    while order_id.upper() == order_id:
        order_id = place(http)
    before = orders.find_one({"_id": ObjectId(order_id)})
    for wrong in (order_id.upper(), f" {order_id}", f"{order_id} ", f"0x{order_id}", f'"{order_id}"'):
        refused(http.get(f"/orders/one/{quote(wrong)}"), 404, "order_not_found")
        refused(http.get(f"/orders/status/{quote(wrong)}"), 404, "order_not_found")
        refused(http.post(f"/orders/one/{quote(wrong)}/refunds", json={}), 404, "order_not_found")
        refused(http.post(f"/orders/one/{quote(wrong)}/capture", json={}), 404, "order_not_found")
        refused(step(http, wrong, "Cancelled"), 404, "order_not_found")
    assert orders.find_one({"_id": ObjectId(order_id)}) == before


@pytest.mark.parametrize(
    "address",
    [
        *["/order", "/Orders", "/orders/a/b", "/orders/one/a/b", "/api/assets", "/api/assets/", "/api/assets/x/y"],
        *["/orders/one/a%2Fb", "/orders/user%2F7", "/orders.json", "/favicon.ico", "/static/x"],
        *["/.env", "/problems/no_such_code", "/%00", "/%FF"],
        *["/orders/one/692000000000000000000000/event", "/orders/one/692000000000000000000000/explain/x"],
    ],
)
def test_there_is_nothing_at_other_addresses(http, refused, address):
    refused(http.get(address), 404, "not_found")


@pytest.mark.parametrize("address", ["/orders//one", "/orders/one//692000000000000000000000", "/api//assets/x"])
def test_an_address_with_a_doubled_slash_leads_nowhere(http, refused, address):
    refused(http.get(address), 404, "not_found")


@pytest.mark.parametrize("address", ADDRESSES)
def test_options_lists_the_methods(http, address):
    answer = http.options(address)
    assert (answer.status_code, answer.data) == (200, b"")
    assert set(answer.headers["Allow"].split(", ")) == ADDRESSES[address] | {"OPTIONS"}


def test_head_answers_as_get_does_but_without_the_body(http, place):
    order_id = place(http)
    addresses = [f"/orders/one/{order_id}", f"/orders/status/{order_id}", "/orders/user-7", "/healthz", "/readyz"]
    addresses += [f"/orders/one/{order_id}/events", f"/orders/one/{order_id}/explain", "/orders?userId=user-7"]
    for address in [
        *addresses,
        "/state-machine",
        "/problems/conflict",
        "/api",
        "/api-json",
        "/orders/one/nothing",
        "/nothing",
    ]:
        head, get = http.head(address), http.get(address)
        assert (head.status_code, head.data) == (get.status_code, b"")
        same = set(get.headers.keys()) - {"X-Request-Id"}
        assert {name: head.headers[name] for name in same} == {name: get.headers[name] for name in same}


def test_the_process_lives_and_can_serve(http):
    for address in ("/healthz", "/readyz"):
        answer = http.get(address)
        assert (answer.status_code, answer.json) == (200, {"ok": True})
        assert answer.headers["Content-Type"] == "application/json"


def test_money_of_every_currency_comes_out_as_it_went_in(http, new_order):
    for currency, places in CURRENCIES.items():
        value = 10 ** (places + 2) + (1 if places else 0)
        for sent in (format_money(Money(value, currency)), {"value": value, "currency": currency}):
            placed = http.post("/orders", json=new_order(totalOrderAmount=sent))
            order = http.get(placed.headers["Location"]).json["order"]
            assert order["total"] == {"value": value, "currency": currency}
            assert parse_money(order["totalOrderAmount"]) == Money(value, currency)
