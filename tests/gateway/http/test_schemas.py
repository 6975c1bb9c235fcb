"""Members of requests: what is refused with a pointer, what is ignored, and that neither is stored."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId

from app.gateway.http.schemas import NewOrderSchema, OrderUpdateSchema
from app.main import create_app, runtime

UNKNOWN_ORDER = "692000000000000000000000"
NEW = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
STEP = {"orderId": UNKNOWN_ORDER, "orderStatus": "Cancelled"}
ROUTE = {"POST": NEW, "PUT": STEP}
SCHEMAS = {"POST": NewOrderSchema(), "PUT": OrderUpdateSchema()}
TEXTS = [("POST", "userId", 128), ("POST", "productId", 128), ("POST", "productName", 512)]
TEXTS += [("PUT", "orderId", 128), ("PUT", "orderStatus", 64)]

every_member = pytest.mark.parametrize(
    ("method", "member"), [(method, name) for method in ROUTE for name in ROUTE[method]]
)
every_text = pytest.mark.parametrize(("method", "member", "longest"), TEXTS)
untouched = pytest.mark.usefixtures("nothing_stored")

NO_TEXT = {
    "null": None,
    "a number": 7,
    "zero": 0,
    "a fraction": 1.5,
    "beyond 64 bits": 2**63,
    "beyond 64 bits, negative": -(2**63) - 1,
    "true": True,
    "false": False,
    "a list": ["user-7"],
    "an empty list": [],
    "an object": {"a": "b"},
    "an empty object": {},
    "nested lists": [[[[[[]]]]]],
    "$gt": {"$gt": ""},
    "$ne": {"$ne": None},
    "$in": {"$in": ["user-7"]},
    "$regex": {"$regex": ".*"},
    "$where": {"$where": "sleep(1000)"},
    "$oid": {"$oid": UNKNOWN_ORDER},
    "$expr": {"$expr": {"$function": {"body": "function() {}", "args": [], "lang": "js"}}},
}
BLANK = {"nothing": "", "a space": " ", "spaces": " " * 9, "no-break spaces": "\u00a0\u00a0", "wide spaces": "\u3000"}
CONTROLS = {
    "NUL": "\0",
    "bell": "\x07",
    "backspace": "\b",
    "tab": "\t",
    "line feed": "\n",
    "carriage return": "\r",
    "escape": "\x1b[31m",
    "unit separator": "\x1f",
    "DEL": "\x7f",
    "next line": "\x85",
    "CSI": "\x9b",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "a high surrogate": "\ud800",
    "a low surrogate": "\udfff",
    "surrogates in the wrong order": "\udc00\ud800",
}
NO_MONEY = {
    **NO_TEXT,
    **BLANK,
    "no currency": "99",
    "no number": "RM",
    "zero money": "RM 0",
    "negative": "RM -1",
    "too many decimals": "RM 9.999",
    "decimals of yen": "JPY 1.5",
    "an exponent": "RM 1e3",
    "NaN": "RM NaN",
    "an unknown currency": "XYZ 1",
    "an ambiguous currency": "$ 1",
    "two currencies": "RM 1 USD",
    "a comma as the mark": "RM 1,5",
    "Arabic digits": "RM \u0661",
    "too long": f"RM {'9' * 62}",
    "too much": "RM 99999999999999.99",
    "a NUL": "RM 9\0",
    "a surrogate": "\ud800 9",
    "minor units as text": {"value": "9900", "currency": "MYR"},
    "minor units as a fraction": {"value": 99.5, "currency": "MYR"},
    "minor units as a whole fraction": {"value": 9900.0, "currency": "MYR"},
    "minor units as true": {"value": True, "currency": "MYR"},
    "no minor units": {"value": 0, "currency": "MYR"},
    "negative minor units": {"value": -1, "currency": "MYR"},
    "more than a number holds": {"value": 2**63, "currency": "MYR"},
    "minor units alone": {"value": 9900},
    "a currency alone": {"currency": "MYR"},
    "a currency in lower case": {"value": 9900, "currency": "myr"},
    "a currency as an operator": {"value": 9900, "currency": {"$ne": ""}},
    "minor units as an operator": {"value": {"$gt": 0}, "currency": "MYR"},
}
IGNORED = {
    **NO_TEXT,
    **BLANK,
    **CONTROLS,
    "a status": "Success",
    "a time": "1999-12-31T23:59:59Z",
    "long": "x" * 9000,
    "deep": json.loads("[" * 19 + "]" * 19),
}


def send(client, method, query="", **changes):
    body = {**ROUTE[method], **changes}
    return client.open(f"/orders{query}", method=method, data=json.dumps(body), content_type="application/json")


def without(method, *members):
    return {name: value for name, value in ROUTE[method].items() if name not in members}


@untouched
@every_member
def test_a_missing_member_is_pointed_at(http, pointers, method, member):
    answer = http.open("/orders", method=method, json=without(method, member))
    assert pointers(answer) == [f"/{member}"]


@untouched
@pytest.mark.parametrize("method", ROUTE)
def test_all_errors_are_reported_together(http, pointers, method):
    everything = sorted(f"/{member}" for member in ROUTE[method])
    assert pointers(http.open("/orders", method=method, json={})) == everything
    assert pointers(send(http, method, **dict.fromkeys(ROUTE[method], 7))) == everything


@untouched
@every_member
@pytest.mark.parametrize("value", NO_TEXT.values(), ids=NO_TEXT)
def test_a_member_of_another_type_is_refused(http, pointers, method, member, value):
    assert pointers(send(http, method, **{member: value})) == [f"/{member}"]


@untouched
@every_text
@pytest.mark.parametrize("value", BLANK.values(), ids=BLANK)
def test_blank_text_is_refused(http, pointers, method, member, longest, value):
    assert pointers(send(http, method, **{member: value})) == [f"/{member}"]


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
@pytest.mark.parametrize("text", ["{}", "x{}", "{}x", "x{}x"])
def test_no_text_may_have_a_control_character_or_half_a_character_anywhere(control, text):
    for method, member, _ in TEXTS:
        wrong = SCHEMAS[method].validate({**ROUTE[method], member: text.format(control)})
        assert wrong.keys() == {member}


@untouched
@every_text
def test_control_characters_are_refused_in_every_text_of_a_request(http, pointers, method, member, longest):
    assert pointers(send(http, method, **{member: "x\x07x"})) == [f"/{member}"]


@untouched
@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_every_control_character_and_half_character_is_refused_as_json_brings_it(http, pointers, control):
    assert pointers(send(http, "POST", userId=f"x{control}x")) == ["/userId"]


@untouched
@every_text
@pytest.mark.parametrize("letter", ["x", "é", "用", "🦀"])
def test_text_a_character_too_long_is_refused(http, pointers, method, member, longest, letter):
    assert pointers(send(http, method, **{member: letter * (longest + 1)})) == [f"/{member}"]


@untouched
@every_text
def test_endless_text_is_refused_without_being_repeated(http, pointers, method, member, longest):
    answer = send(http, method, **{member: "x" * 60_000})
    assert pointers(answer) == [f"/{member}"]
    assert len(answer.data) < 1000


@pytest.mark.parametrize(
    ("member", "longest"), [(member, longest) for method, member, longest in TEXTS if method == "POST"]
)
@pytest.mark.parametrize("letter", ["x", "é", "🦀"])
def test_the_longest_text_is_accepted_and_returned(http, member, longest, letter):
    answer = send(http, "POST", **{member: letter * longest})
    assert answer.status_code == 201
    assert http.get(answer.headers["Location"]).json["order"][member] == letter * longest


def test_the_longest_status_is_accepted_and_returned(http, captured):
    assert send(http, "PUT", orderId=captured, orderStatus="🦀" * 64).status_code == 200
    assert http.get(f"/orders/status/{captured}").json["orderStatus"] == "🦀" * 64


@untouched
def test_the_longest_order_id_is_not_found(http, refused):
    refused(send(http, "PUT", orderId="x" * 128), 404, "order_not_found")


def test_two_halves_of_a_character_are_one(http):
    body = json.dumps(NEW).replace("Espresso", "\\ud83e\\udd80")
    answer = http.post("/orders", data=body, content_type="application/json")
    assert http.get(answer.headers["Location"]).json["order"]["productName"] == "🦀 machine"


@untouched
@pytest.mark.parametrize("amount", NO_MONEY.values(), ids=NO_MONEY)
def test_what_is_not_exactly_an_amount_of_money_is_refused(http, pointers, amount):
    assert pointers(send(http, "POST", totalOrderAmount=amount)) == ["/totalOrderAmount"]


@pytest.mark.parametrize("amount", NO_MONEY.values(), ids=NO_MONEY)
def test_what_is_not_exactly_an_amount_of_money_is_not_refunded(http, captured, orders, pointers, amount):
    before = orders.find_one({"_id": ObjectId(captured)})
    body = json.dumps({"amount": amount})
    answer = http.post(f"/orders/one/{captured}/refunds", data=body, content_type="application/json")
    assert pointers(answer) == ["/amount"]
    assert orders.find_one({"_id": ObjectId(captured)}) == before


@pytest.mark.parametrize(
    ("amount", "text", "total"),
    [
        ("RM 99", "RM 99", {"value": 9900, "currency": "MYR"}),
        ("  99.90 USD ", "  99.90 USD ", {"value": 9990, "currency": "USD"}),
        ("JPY 500", "JPY 500", {"value": 500, "currency": "JPY"}),
        ({"value": 9900, "currency": "MYR"}, "MYR 99.00", {"value": 9900, "currency": "MYR"}),
        ({"value": 5, "currency": "KWD"}, "KWD 0.005", None),
        ({"value": 999_999_999_999_999, "currency": "JPY"}, "JPY 999999999999999", None),
    ],
)
def test_money_comes_back_as_text_and_in_minor_units(http, amount, text, total):
    order = http.get(send(http, "POST", totalOrderAmount=amount).headers["Location"]).json["order"]
    assert order["totalOrderAmount"] == text
    assert order["total"] == (total or amount)


@pytest.mark.parametrize(
    "extra",
    [
        {"_id": UNKNOWN_ORDER, "id": UNKNOWN_ORDER, "orderId": UNKNOWN_ORDER, "order_id": UNKNOWN_ORDER},
        {"version": 99, "sequence": 99, "paymentSequence": 99},
        {"paymentStatus": "Captured", "payment": "Captured"},
        {"total": {"value": 1, "currency": "MYR"}, "total_value": 1, "total_text": "RM 1"},
        {"$set": {"userId": "thief"}, "$where": "1", "$comment": "x"},
        {"a.b": 1, "total.value": 1, "": 1, ".": 1},
        {"outbox": [{"type": "PaymentCaptured"}], "events": [], "refunds": [{"id": "x", "value": 1}]},
        {"idempotency": {"key": "x", "fingerprint": "x"}, "idempotency_key": "x", "requestId": "x"},
        {"relayDue": None, "deadLetter": {"reason": "x"}},
        {"user_id": "thief", "UserId": "thief", "userid": "thief", "userId ": "thief"},
        {"__proto__": {"userId": "thief"}, "__class__": "x", "constructor": 1},
        {"\0": 1, "a\0b": 1, "\ud800": 1, "x" * 9000: 1},
        {"big": 2**200, "deep": json.loads("[" * 19 + "]" * 19)},
    ],
    ids=lambda extra: ascii(next(iter(extra))),
)
def test_unknown_members_are_ignored_where_leniency_is_asked_for_and_never_stored(http, orders, extra):
    plain = send(http, "POST").json["created"]["id"]
    odd = send(http, "POST", "?strict=false", **extra).json["created"]["id"]
    assert odd != UNKNOWN_ORDER
    plain, odd = orders.find_one({"_id": ObjectId(plain)}), orders.find_one({"_id": ObjectId(odd)})
    own = {"_id", "createdAt", "updatedAt", "requestId", "events", "outbox", "relayDue", "changes", "changesDue"}
    assert odd.keys() == plain.keys()
    assert {name: odd[name] for name in odd.keys() - own} == {name: plain[name] for name in plain.keys() - own}
    assert [entry.keys() for entry in odd["events"]] == [entry.keys() for entry in plain["events"]]
    assert [entry.keys() for entry in odd["outbox"]] == [entry.keys() for entry in plain["outbox"]]


@untouched
@pytest.mark.parametrize("method", ROUTE)
@pytest.mark.parametrize("query", ["", "?strict=true"])
@pytest.mark.parametrize(
    "extra",
    [
        {"x": None},
        {"captrue": "manual"},
        {"paymentStatus": "Captured"},
        {"": 1},
        {"a/b~c": 1},
        {"\0": 1},
        {"x" * 9000: 1},
    ],
    ids=lambda extra: ascii(next(iter(extra)))[:20],
)
def test_an_unknown_member_is_refused_with_its_name(http, pointers, method, query, extra):
    [name] = extra
    pointer = f"/{name[:64]}".replace("a/b~c", "a~1b~0c")
    answer = send(http, method, query, **extra)
    assert pointers(answer) == [pointer]
    assert pointer in answer.json["detail"]


@untouched
def test_an_unknown_member_of_an_amount_is_refused_with_its_name(http, pointers):
    amount = {"value": 5, "currency": "KWD", "valeu": 1}
    assert pointers(send(http, "POST", totalOrderAmount=amount)) == ["/totalOrderAmount/valeu"]
    address = f"/orders/one/{UNKNOWN_ORDER}/refunds"
    assert pointers(http.post(address, json={"amount": amount})) == ["/amount/valeu"]


def test_an_unknown_member_of_an_amount_is_ignored_where_leniency_is_asked_for(http):
    placed = send(http, "POST", "?strict=false", totalOrderAmount={"value": 5, "currency": "KWD", "$gt": 1})
    assert http.get(placed.headers["Location"]).json["order"]["total"] == {"value": 5, "currency": "KWD"}


@pytest.mark.parametrize("method", ROUTE)
def test_the_members_of_the_inherited_bodies_are_never_unknown(http, place, method):
    inherited = {"POST": {"orderStatus": "Success", "createdAt": "now"}, "PUT": {"orderId": place(http)}}
    assert send(http, method, "?strict=true", **inherited[method]).json["ok"] is True


@untouched
@pytest.mark.parametrize("strict", ["", "1", "False", "no", "true&strict=true"])
def test_strict_is_true_or_false(http, refused, strict):
    body = refused(send(http, "POST", f"?strict={strict}"), 400, "invalid_parameter")
    assert body["parameter"] == "strict"


@untouched
@pytest.mark.parametrize("path", ["refunds", "capture"])
def test_where_money_moves_there_is_no_leniency(http, refused, path):
    answer = http.post(f"/orders/one/{UNKNOWN_ORDER}/{path}?strict=false", json={})
    assert refused(answer, 400, "invalid_parameter")["parameter"] == "strict"


def test_the_setting_keeps_the_leniency_and_a_request_can_refuse_it(shared_settings, refused):
    app = create_app(replace(shared_settings, strict_bodies=False))
    try:
        client = app.test_client()
        assert send(client, "POST", x=1).status_code == 201
        refused(send(client, "POST", "?strict=true", x=1), 422, "invalid_members")
    finally:
        runtime(app).stop()


MISSPELT = [
    {"amout": "RM 1"},
    {"value": 100, "currency": "MYR"},
    {"Amount": "RM 1"},
    {"amount": "RM 1", "currency": "MYR"},
    {"amount": "all", "reasons": "broken"},
    {"amount ": "RM 1"},
    {"refund": {"amount": "RM 1"}},
    {"": 1},
    {"a/b~c": 1},
    {"\ud800": 1},
    {"x" * 60_000: 1},
    {f"member {at}": 1 for at in range(3000)},
]


@pytest.mark.parametrize("body", MISSPELT, ids=lambda body: ascii(next(iter(body)))[:20])
def test_a_misspelt_refund_gives_nothing_back(http, captured, orders, pointers, body):
    before = orders.find_one({"_id": ObjectId(captured)})
    answer = http.post(f"/orders/one/{captured}/refunds", data=json.dumps(body), content_type="application/json")
    unknown = [name for name in body if name != "amount"]
    named = {f"/{name[:64]}".replace("\ud800", "?").replace("a/b~c", "a~1b~0c") for name in unknown}
    told = pointers(answer)
    assert set(told) <= named
    assert len(told) == min(len(named), 20)
    assert len(answer.data) < 8000
    assert orders.find_one({"_id": ObjectId(captured)}) == before


@pytest.mark.parametrize("body", [{}, {"amount": "all"}])
def test_a_full_refund_says_nothing_or_that_it_is_all(http, captured, body):
    answer = http.post(f"/orders/one/{captured}/refunds", json=body)
    assert (answer.status_code, answer.json["refund"]["amount"]) == (201, {"value": 9900, "currency": "MYR"})


@pytest.mark.parametrize("amount", ["ALL", " all", "all ", "everything", "", None, True, ["all"], {"all": True}])
def test_all_has_one_spelling(http, captured, orders, pointers, amount):
    before = orders.find_one({"_id": ObjectId(captured)})
    assert pointers(http.post(f"/orders/one/{captured}/refunds", json={"amount": amount})) == ["/amount"]
    assert orders.find_one({"_id": ObjectId(captured)}) == before


@pytest.mark.parametrize("member", ["orderStatus", "createdAt"])
@pytest.mark.parametrize("value", IGNORED.values(), ids=IGNORED)
def test_the_status_and_time_of_a_new_order_are_the_servers(http, orders, member, value):
    answer = send(http, "POST", **{member: value})
    assert answer.status_code == 201, answer.text
    stored = orders.find_one({"_id": ObjectId(answer.json["created"]["id"])})
    assert (stored["orderStatus"], stored["paymentStatus"]) == ("Processing", "Processing")
    assert abs(stored["createdAt"] - datetime.now(UTC)) < timedelta(minutes=1)
    assert http.get(answer.headers["Location"]).json["order"]["orderStatus"] == "Processing"
