"""Injection of operators, paths and lines, into every member, header, query parameter and path segment there is."""

import json
import re
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from tests.security import surface
from tests.security.surface import ABSENT, BODIES, ROUTES, WRITING

pytestmark = pytest.mark.extended

# What a database, a shell, a template, a file system or a log might take for an order.
STRINGS = [
    *('{"$ne": null}', '{"$gt": ""}', "[$ne]=1", "$where", "$ne", "'; return true; //", "1; sleep(60000)"),
    *("' || '1'=='1", '" || "1"=="1', "'; db.orders.drop(); //", "this.userId == 'bob'", "function() { return 1 }"),
    *("{$function: {body: 'x', args: [], lang: 'js'}}", "a.b", "a.$", "$set", "$$ROOT", "$$NOW", "$userId"),
    *("' OR 1=1 --", "'; DROP TABLE orders; --", "1 UNION SELECT 1", "admin'--", "*)(uid=*", "/*", "%' AND 1=1"),
    *(
        "../../../../etc/passwd",
        "..\\..\\windows\\win.ini",
        "file:///etc/passwd",
        "php://filter",
        "|id",
        "`id`",
        "$(id)",
    ),
    *("{{7*7}}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{0.__class__}", "%s%s%n", "%x" * 20, "{user}", "\\u0000"),
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "javascript:alert(1)", "<!--#exec cmd='id'-->"),
    *("<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>", "${jndi:ldap://x/a}"),
    *("=cmd|'/c calc'!A0", "__proto__", "constructor", "__class__.__mro__", "true", "null", "NaN", "-1", "0", "1e999"),
    *("\ufeffx", "a" * 129, "é" * 64, "\u202egnp.exe", "ﬁ", "I" * 64, "%00", "%0d%0aSet-Cookie: x=1", "\ud7ff"),
]
# What would be an operator if a member's value went to the database as it is.
VALUES = [
    *({operator: 1} for operator in ("$ne", "$gt", "$gte", "$lt", "$exists", "$size", "$type", "$bit", "$meta")),
    *({operator: [1, "bob"]} for operator in ("$in", "$nin", "$all", "$or", "$and", "$nor", "$mod")),
    *({"$regex": ".*", "$options": "s"}, {"$where": "sleep(60000) || true"}, {"$expr": {"$eq": [1, 1]}}),
    *(
        {"$function": {"body": "x", "args": [], "lang": "js"}},
        {"$jsonSchema": {}},
        {"$elemMatch": {}},
        {"$not": {"$eq": 1}},
    ),
    *(
        {"$oid": ABSENT},
        {"$numberLong": "1"},
        {"$date": 0},
        {"$binary": {"base64": "", "subType": "00"}},
        {"$code": "x"},
    ),
    *(
        {"$set": {"orderStatus": "Success"}},
        {"$rename": {"a": "b"}},
        {"$literal": "bob"},
        {"": ""},
        {"a.b": 1},
        {"$": 1},
    ),
    *([], [""], ["bob"], [{"$ne": 1}], {}, {"$ref": "orders", "$id": ABSENT}, True, False, 7, -1, 1.5, 2**63, 2**200),
]
PAYLOADS = [*STRINGS, *VALUES]
# Which query parameters a route looks at.
PARAMETERS = {
    "/orders": ("userId", "limit", "cursor", "status", "stuck", "deadLetter"),
    "/orders/<user_id>": ("limit", "cursor", "status"),
    "/orders/status/<order_id>": ("wait",),
    "/orders/one/<order_id>/events": ("after",),
    "/state-machine": ("format",),
    "/webhooks/endpoints": ("limit", "cursor", "userId"),
    "/webhooks/endpoints/<endpoint_id>/deliveries": ("limit", "cursor", "status", "orderId", "since", "until"),
}
# What members take that is no text; whether an event type exists is looked at later.
TAKES = {"enabled": [True, False], "overlapHours": [7], "events": [["bob"]]}
HEADERS = (
    *("Idempotency-Key", "X-Request-Id", "If-Match", "If-None-Match", "Last-Event-ID", "Prefer", "Accept"),
    *("Content-Type", "Authorization", "X-Forwarded-For", "Forwarded", "Host", "User-Agent", "Referer", "Cookie"),
    *("Origin", "traceparent", "Range", "Accept-Language", "X-User-Id"),
)
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
READING = [rule for method, rule in ROUTES if method == "GET" and not rule.startswith("/api")]
NEW_ORDER = BODIES["POST", "/orders"]
CONSOLE_PAGES = ("/console/orders/<name>", "/console/webhooks/<name>", "/console/deliveries/<name>")
PATHS = [(method, rule) for method, rule in ROUTES if "<" in rule]
# A status that is not one of ours: text that a client may choose for an order that is its own.
UNHARMED = {200, 201, 304, 308, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422}
INSIDES = re.compile(r"Traceback|pymongo|bson|E11000|\$err|errmsg|OperationFailure|root:x:0|uid=\d", re.IGNORECASE)


def spelt(payload):
    return payload if isinstance(payload, str) else json.dumps(payload)


def check(answer, payload):
    """No failure, no delay, no internals in the response, and no new header."""
    assert answer.status_code in UNHARMED, (answer.status_code, answer.text)
    assert not INSIDES.search(answer.text), answer.text
    assert "Set-Cookie" not in answer.headers
    assert answer.text != "49"
    assert payload not in ("", None) or answer.status_code >= 400


@pytest.fixture(scope="module")
def of_bob(order_of):
    return order_of("bob")


@pytest.fixture
def bobs(orders, of_bob):
    """Checks after the test that Bob's orders are unchanged, that there are no new ones, and no other users."""
    before, users = list(orders.find({"userId": "bob"}).sort("_id")), {"ada", "bob", "gina", "flood", "calm", "olga"}
    yield
    assert list(orders.find({"userId": "bob"}).sort("_id")) == before
    assert set(orders.distinct("userId")) <= users


@pytest.mark.usefixtures("bobs")
@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_a_member_is_what_it_says_and_nothing_else(ada, orders, endpoints, number):
    payload = PAYLOADS[number]
    # Other attacks have changed the endpoint that is there.
    endpoints.update_many({"userId": "ada"}, {"$set": {"url": BODIES["POST", "/webhooks/endpoints"]["url"]}})
    began = datetime.now(UTC)
    for method, rule in WRITING:
        for member in [*BODIES[method, rule], "x"]:
            answer = ada.open(method, surface.address(rule), **surface.body(method, rule, **{member: payload}))
            check(answer, payload)
            if member == "userId":
                assert answer.status_code in {403, 422}
            if member == "orderId":
                assert answer.status_code in {404, 422}
            taken = any(repr(payload) == repr(value) for value in TAKES.get(member, ())) or (
                # Any text may be a key of metadata: it is stored as the value of a member.
                member == "metadata"
                and isinstance(payload, dict)
                and all(isinstance(one, str) for one in payload.values())
            )
            if not isinstance(payload, str) and member in BODIES[method, rule] and not taken:
                assert answer.status_code in {403, 422}, (member, payload, answer.text)
        check(ada.open(method, surface.address(rule), **surface.body(method, rule, **{spelt(payload): 1})), payload)
        check(ada.open(method, surface.address(rule), json=payload), payload)
    # Some ask the database to sleep for a minute.
    assert (datetime.now(UTC) - began).total_seconds() < 50
    for stored in orders.find({"userId": "ada"}, {"productId": 1, "productName": 1, "totalOrderAmount": 1}):
        assert all(isinstance(stored[name], str) for name in ("productId", "productName", "totalOrderAmount"))
    for stored in endpoints.find({"userId": "ada"}):
        assert stored["url"] == BODIES["POST", "/webhooks/endpoints"]["url"] or stored["url"] == payload
        assert isinstance(stored["description"], str)
    orders.delete_many({"userId": "ada"})
    endpoints.delete_many({})


@pytest.mark.usefixtures("bobs")
@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_an_address_is_what_it_says_and_nothing_else(ada, number):
    payload = PAYLOADS[number]
    text = quote(spelt(payload), safe="")
    for method, rule in PATHS:
        name = surface.ARGUMENT.search(rule)[1]
        answer = ada.open(method, surface.address(rule, **{name: text}), buffered=True, **surface.body(method, rule))
        check(answer, payload)
        # These pages are the same files whatever the id; what they then ask for is refused.
        assert answer.status_code >= 400 or rule in CONSOLE_PAGES
    for rule in READING:
        given = [f"{name}={text}" for name in PARAMETERS.get(rule, ())]
        for query in [*given, f"x={text}&status[$ne]={text}&userId[$in][]={text}&{text}=1&{text}"]:
            mark = "&" if "?" in surface.address(rule) else "?"
            answer = ada.open("GET", f"{surface.address(rule)}{mark}{query}", buffered=True)
            check(answer, payload)
            assert "bob" not in answer.text or "bob" in spelt(payload)


@pytest.mark.usefixtures("bobs")
@pytest.mark.parametrize("number", range(len(STRINGS)))
def test_a_header_is_what_it_says_and_nothing_else(fort, issuer, number):
    """Through the test client as far as it lets one; the wire has tests of its own."""
    text = STRINGS[number].encode().decode("latin-1")
    client, token = fort.test_client(), f"Bearer {issuer.token()}"
    for header in HEADERS:
        answer = client.post("/orders", json=NEW_ORDER, headers={"Authorization": token, header: text})
        check(answer, STRINGS[number])
        assert SANE_ID.fullmatch(answer.headers["X-Request-Id"])
    all_at_once = {**dict.fromkeys(HEADERS, text), "Authorization": token, "Accept": "*/*"}
    for rule in READING:
        answer = client.get(surface.address(rule), headers=all_at_once, buffered=True)
        check(answer, STRINGS[number])
        assert SANE_ID.fullmatch(answer.headers["X-Request-Id"])


def test_there_are_a_hundred_payloads_at_least():
    assert len({json.dumps(payload) for payload in PAYLOADS}) == len(PAYLOADS) >= 100


def test_database_filters_contain_text_and_ids_only(fort_settings, mongo, ada, order_of):
    """However the request looks, filters on a user, an id or a key compare with plain values."""
    database, order_id = mongo[fort_settings.database], order_of("ada")
    database.command("profile", 2)
    try:
        for payload in PAYLOADS:
            ada.open("GET", surface.address("/orders/<user_id>", user_id=quote(spelt(payload), safe="")))
            ada.open("GET", f"/orders/ada?status={quote(spelt(payload), safe='')}")
            ada.open("PUT", "/orders", json={"orderId": payload, "orderStatus": "Packed"})
            ada.open("PUT", "/orders", json={"orderId": order_id, "orderStatus": payload})
    finally:
        database.command("profile", 0)
    asked = database["system.profile"].find(
        {"ns": f"{fort_settings.database}.orders", "command.filter": {"$exists": True}}
    )
    filters = [entry["command"]["filter"] for entry in asked]
    assert filters
    for filter_ in filters:
        assert isinstance(filter_.get("userId", ""), str)
        assert isinstance(filter_.get("orderStatus", ""), str)
        assert not {"$where", "$expr", "$function", "$jsonSchema"} & filter_.keys()
