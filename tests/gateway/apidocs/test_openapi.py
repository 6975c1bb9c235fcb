"""The OpenAPI document is valid and complete, real responses match it; and its page."""

import json
import re
import time
from dataclasses import replace
from datetime import timedelta
from importlib import import_module

import jwt
import pytest
from bson import ObjectId
from flask import Flask
from pymongo.monitoring import CommandListener

from app import __version__, gateway
from app.config import Settings
from app.gateway.apidocs.openapi import document as document_of
from app.gateway.http.problem_catalogue import PROBLEMS
from app.main import create_app, runtime
from app.messaging.signal_bus import SignalBus
from app.payments.providers import signed_notifications
from app.payments.providers.signed_notifications import NotificationMessage

UNKNOWN = "692000000000000000000000"
NEW = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
PAGES = {
    *("/api", "/api/", "/api-json", "/api/assets/{name}", "/metrics", "/", "/console/{name}", "/console/stream"),
    "/providers/simulated/actions/{token}",
}

# A request to each documented operation that gets as far as the database, with what fills the path.
SAMPLES = {
    "place_order": {"json": NEW},
    "update_order": {"json": {"orderId": UNKNOWN, "orderStatus": "Cancelled"}},
    "refund_order": {"json": {}},
    "capture_order": {"json": {}},
    "list_orders_of": {"query_string": {"userId": "user-7"}},
}
ISSUED = {
    "auth_jwt_algorithm": "HS256",
    "auth_jwt_key": "k" * 32,
    "auth_jwt_issuer": "i",
    "auth_jwt_audience": "a",
    "auth_failure_limit": "1000000/second",
}


class World:
    """Applications and orders in the states that problems need; made once, closed at the end."""

    def __init__(self, document, settings, mongo):
        self.document, self.settings, self.mongo = document, settings, mongo
        self.made = []
        self.served = {}
        self.http = self.serve()
        nowhere = "mongodb://127.0.0.1:9/?replicaSet=orderflow"
        self.gone = self.serve(mongodb_uri=nowhere, request_deadline=0.1, background_deadline=0.1)

    def serve(self, *, event_listeners=(), **changes):
        app = create_app(replace(self.settings, **changes), event_listeners=list(event_listeners))
        self.made.append(app)
        return app.test_client()

    def changed(self, **changes):
        """The application with other settings; the same one each time."""
        key = tuple(changes.items())
        if key not in self.served:
            self.served[key] = self.serve(**changes)
        return self.served[key]

    def orders(self):
        return self.mongo[self.settings.database].orders

    def placed(self, **state):
        order_id = self.http.post("/orders", json=NEW).json["created"]["id"]
        if state:
            self.orders().update_one({"_id": ObjectId(order_id)}, {"$set": state})
        return order_id

    def close(self):
        for app in self.made:
            runtime(app).stop()


class Meddler(CommandListener):
    """Changes every order after each command, so that a compare-and-set based on its reply always fails."""

    def __init__(self, orders, command, update):
        self.orders, self.command, self.update = orders, command, update

    def started(self, event):
        pass

    def succeeded(self, event):
        if (event.command_name, event.database_name) == (self.command, self.orders.database.name):
            self.orders.update_many({}, self.update)

    def failed(self, event):
        pass


@pytest.fixture(scope="session")
def document(shared_app):
    return shared_app.test_client().get("/api-json").get_json()


@pytest.fixture(scope="session")
def world(document, shared_settings, mongo):
    settings = replace(shared_settings, database=f"{shared_settings.database}_openapi")
    world = World(document, settings, mongo)
    runtime(world.made[0]).prepare()
    yield world
    world.close()
    mongo.drop_database(settings.database)


@pytest.fixture(autouse=True)
def patient_counters(monkeypatch):
    """On a busy machine a count may take longer than a request waits for it, and an uncounted request passes."""
    monkeypatch.setattr("app.storage.rate_limits.TIMEOUT_SECONDS", 20.0)


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def template(rule):
    """A route's address as the document writes it."""
    words = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), words)


def fill(path, order_id=UNKNOWN, code="conflict", provider="simulated"):
    names = {"orderId": order_id, "userId": "user-7", "code": code, "provider": provider}
    return re.sub(r"{(\w+)}", lambda found: names[found[1]], path)


def call(world, operation_id, order_id=UNKNOWN, client=None, code="conflict", provider="simulated", **changes):
    [(path, method, _)] = [found for found in operations(world.document) if found[2]["operationId"] == operation_id]
    return (client or world.http).open(
        fill(path, order_id, code, provider), method=method, **{**SAMPLES.get(operation_id, {}), **changes}
    )


def signed(world):
    """A notification as the simulated provider signs it, as arguments of a client."""
    database = runtime(world.made[0]).database
    message = NotificationMessage(id="n-1", type="payment.captured", reference="sim_1", order_id=UNKNOWN)
    body, headers = signed_notifications.encode(
        message, database.secret("simulated-notifications"), database.clock.now()
    )
    return {"data": body, "headers": headers}


def cut_short(world, operation):
    """A request whose body is no JSON, or shorter than it says."""
    if operation == "receive_notifications":
        return call(world, operation, data=b"{", environ_overrides={"CONTENT_LENGTH": "9"})
    return call(world, operation, **raw("{"))


def bearing(world, operation, scope="", **changes):
    """Call an application with authentication, with a token of these scopes."""
    now = int(time.time())
    claims = {"iss": "i", "aud": "a", "sub": "eve", "iat": now, "exp": now + 60, "scope": scope}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, ISSUED['auth_jwt_key'])}"}
    return call(world, operation, client=world.changed(**ISSUED), **{"headers": headers, **changes})


def absent(world, operation):
    """An absent order; the list of another user."""
    return bearing(world, operation, "orders:read") if operation.startswith("list") else call(world, operation)


def crowded(world, operation):
    client = world.changed(streams_max=0, streams_per_caller=0)
    streaming = {"headers": {"Accept": "text/event-stream"}, "query_string": {"wait": 1}}
    return (
        call(world, operation, world.placed(), client, **streaming) if operation in WAITING else call(world, operation)
    )


def too_often(world, operation):
    client = world.changed(rate_limit="1/day")
    return [call(world, operation, client=client) for _ in range(2)][-1]


WAITING = ("show_timeline", "check_order_status")
ODD = dict.fromkeys(("limit", "after", "wait", "format"), "x")


def conforms(document, path, method, answer):
    """Check an answer's status, type and body by the document."""
    response = document["paths"][path][method.lower()]["responses"][str(answer.status_code)]
    assert {"X-Request-Id"} <= response["headers"].keys()
    content = response["content"][answer.mimetype]
    body = answer.get_json() if answer.mimetype.endswith("json") else answer.text
    fits(document, content["schema"], body)


def fits(document, schema, value):
    """Check a value by a schema of the document."""
    whole = {**schema, "components": document["components"]}
    validator(whole).validate(value)


def validator(schema):
    """Holds values against a schema; imported here, for it takes seconds and most workers hold none."""
    kind = import_module("openapi_schema_validator").OAS30Validator
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def raw(text, kind="application/json"):
    return {"json": None, "data": text, "content_type": kind}


def overloaded(world, operation):
    # Long enough ago for clocks that differ by some milliseconds.
    order_id = world.placed(relayDue=world.orders().database.command("hello")["localTime"] - timedelta(minutes=1))
    try:
        return call(world, operation, client=world.serve(backlog_limit=1))
    finally:
        world.orders().delete_one({"_id": ObjectId(order_id)})


def one_open_order_too_many(world, operation):
    client = world.serve(open_orders_per_user=1)
    answers = [call(world, operation, client=client) for _ in range(2)]
    return answers[-1]


def meddled(world, command, update):
    return world.serve(event_listeners=[Meddler(world.orders(), command, update)])


def in_conflict(world, operation):
    if operation == "place_order":
        headers = {"Idempotency-Key": "cleared"}
        call(world, operation, headers=headers)
        return call(world, operation, client=meddled(world, "insert", {"$unset": {"idempotency": ""}}), headers=headers)
    authorized = {"paymentStatus": "Authorized", "authorized": 9900}
    captured = {"orderStatus": "Success", "paymentStatus": "Captured"}
    order_id = world.placed(**authorized if operation == "capture_order" else captured)
    client = meddled(world, "find", {"$inc": {"version": 1}})
    return call(world, operation, order_id, client, json=body_of(operation, order_id))


def body_of(operation, order_id):
    return {"orderId": order_id, "orderStatus": "Packed"} if operation == "update_order" else {}


def stuck(world, operation, **state):
    order_id = world.placed(**state)
    return call(world, operation, order_id, json=body_of(operation, order_id))


def reused_key(world, operation):
    order_id = world.placed(orderStatus="Success", paymentStatus="Captured")
    bodies = (
        [NEW, {**NEW, "productId": "2"}] if operation == "place_order" else [{"amount": "RM 1"}, {"amount": "RM 2"}]
    )
    headers = {"Idempotency-Key": operation}
    return [call(world, operation, order_id, json=body, headers=headers) for body in bodies][-1]


def invalid(world, operation):
    if operation == "list_orders":
        return world.http.get("/orders/%00")
    return call(world, operation, json={"userId": 1, "orderId": 1, "amount": 1})


def refund(world, operation, amount, **state):
    order_id = world.placed(**{"orderStatus": "Success", "paymentStatus": "Captured", **state})
    return call(world, operation, order_id, json={"amount": amount})


def capture(world, operation, amount, **state):
    order_id = world.placed(paymentStatus="Authorized", authorized=9900, **state)
    return call(world, operation, order_id, json={"amount": amount})


def in_wrong_currency(world, operation):
    ask = capture if operation == "capture_order" else refund
    return ask(world, operation, "USD 1")


# How to come by each code, whatever the operation.
REACH = {
    "malformed_body": cut_short,
    "notification_rejected": lambda world, operation: call(world, operation, **raw("{}")),
    "unknown_provider": lambda world, operation: call(world, operation, provider="nobody"),
    "malformed_idempotency_key": lambda world, operation: call(world, operation, headers={"Idempotency-Key": "é"}),
    "malformed_condition": lambda world, operation: call(
        world, operation, world.placed(), headers={"If-Match": "x", "If-None-Match": "x"}
    ),
    "invalid_parameter": lambda world, operation: call(world, operation, query_string=ODD),
    "invalid_cursor": lambda world, operation: call(
        world, operation, query_string={"userId": "user-7", "cursor": "WyJ4Il0.x"}
    ),
    "invalid_credentials": lambda world, operation: bearing(
        world, operation, headers=[("Authorization", "Bearer x"), ("Authorization", "Bearer y")]
    ),
    "unauthenticated": lambda world, operation: bearing(world, operation, headers={}),
    "invalid_token": lambda world, operation: bearing(world, operation, headers={"Authorization": "Bearer x"}),
    "insufficient_scope": bearing,
    "wrong_user": lambda world, operation: bearing(world, operation, "orders:write"),
    "misdirected_request": lambda world, operation: call(world, operation, base_url="http://evil.example"),
    "cross_site_request": lambda world, operation: call(world, operation, headers={"Sec-Fetch-Site": "cross-site"}),
    "not_found": lambda world, operation: call(world, operation, code="no_such_code"),
    "refund_not_allowed": lambda world, operation: bearing(
        world,
        operation,
        "orders:write",
        json={"orderId": world.placed(userId="eve", orderStatus="Confirm"), "orderStatus": "Cancelled"},
    ),
    "misleading_status": lambda world, operation: call(
        world,
        operation,
        json={"orderId": world.placed(orderStatus="Success", paymentStatus="Captured"), "orderStatus": "Refunded"},
    ),
    "order_not_found": absent,
    "illegal_transition": stuck,
    "timeline_full": lambda world, operation: stuck(
        world, operation, orderStatus="Success", paymentStatus="Captured", sequence=200
    ),
    "payment_disputed": lambda world, operation: refund(
        world, operation, "RM 1", paymentStatus="Disputed", disputed=True
    ),
    "capture_exceeds_authorization": lambda world, operation: capture(world, operation, "RM 99.01"),
    "already_captured": lambda world, operation: capture(world, operation, "RM 1", captureRequested=200),
    "card_number_refused": lambda world, operation: call(world, operation, json={"x": "4242 4242 4242 4242"}),
    "refund_exceeds_balance": lambda world, operation: refund(world, operation, "RM 99.01"),
    "too_many_refunds": lambda world, operation: refund(
        world, operation, "RM 1", refunds=[{"id": f"r{at}", "value": 1, "requested": "1 MYR"} for at in range(40)]
    ),
    "conflict": in_conflict,
    "precondition_failed": lambda world, operation: call(
        world,
        operation,
        order_id := world.placed(),
        headers={"If-Match": '"x"'},
        json=body_of(operation, order_id),
    ),
    "too_many_streams": crowded,
    "rate_limited": too_often,
    "body_too_large": lambda world, operation: call(world, operation, **raw(" " * 70_000)),
    "unsupported_media_type": lambda world, operation: call(world, operation, **raw("{}", "text/plain")),
    "invalid_members": invalid,
    "wrong_currency": in_wrong_currency,
    "idempotency_key_reused": reused_key,
    "too_many_open_orders": one_open_order_too_many,
    "overloaded": overloaded,
    "unavailable": lambda world, operation: call(world, operation, client=world.gone),
}


# The server answers these before the application: tests/security/test_api4_resources.py.
OF_THE_SERVER = {"bad_request", "address_too_long", "headers_too_large", "request_timeout"}


def declared():
    """Every problem that the document declares, as address, method, operation and code."""
    app = Flask(__name__, static_folder=None)
    gateway.install(app, SignalBus(), lambda: True, Settings(), lambda *_: (), bytes)
    for path, method, operation in operations(document_of(app)):
        for response in operation["responses"].values():
            if "application/problem+json" in response.get("content", ()):
                for code in sorted(set(response["description"].split(" or ")) - OF_THE_SERVER):
                    yield pytest.param(
                        path, method, operation["operationId"], code, id=f"{operation['operationId']}-{code}"
                    )


def test_it_is_a_valid_openapi_document(document):
    assert not list(import_module("openapi_spec_validator").OpenAPIV30SpecValidator(document).iter_errors())
    assert document["info"]["version"] == __version__


def test_it_is_served_as_json(http):
    answer = http.get("/api-json")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.get_json()["openapi"].startswith("3.")


def test_it_has_every_route_and_no_other(shared_app, document):
    served = {
        (template(rule), method)
        for rule in shared_app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if template(rule) not in PAGES
    }
    assert {(path, method) for path, method, _ in operations(document)} == served


def test_no_two_operations_have_one_name(document):
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] for _, _, operation in operations(document))


def test_every_parameter_of_a_path_is_described(document):
    for path, _, operation in operations(document):
        described = [parameter for parameter in operation["parameters"] if parameter["in"] == "path"]
        assert sorted(parameter["name"] for parameter in described) == sorted(re.findall(r"\{(\w+)\}", path))
        assert all(parameter["required"] is True for parameter in described)


def test_every_problem_is_declared_under_its_own_status(document):
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if "application/problem+json" in response.get("content", ()):
                assert response["content"]["application/problem+json"]["examples"].keys() == set(
                    response["description"].split(" or ")
                )
                assert {PROBLEMS[code].status for code in response["description"].split(" or ")} == {int(status)}


@pytest.mark.parametrize(("path", "method", "operation", "code"), list(declared()))
def test_a_declared_problem_is_really_met_and_looks_as_described(
    world, document, refused, path, method, operation, code
):
    answer = REACH[code](world, operation)
    refused(answer, PROBLEMS[code].status, code)
    conforms(document, path, method, answer)


def test_whatever_problem_is_met_is_declared(world, document):
    for _, _, operation in operations(document):
        texts = " ".join(response["description"] for response in operation["responses"].values()).split()
        for code in REACH.keys() - {"unavailable"}:
            answer = REACH[code](world, operation["operationId"])
            if answer.mimetype == "application/problem+json":
                assert answer.get_json()["code"] in texts, (operation["operationId"], answer.text)


def test_every_good_answer_looks_as_described(world, document):
    order_id = world.placed(orderStatus="Success", paymentStatus="Captured")
    answers = {
        "place_order": call(world, "place_order"),
        "find_order": call(world, "find_order", order_id),
        "check_order_status": call(world, "check_order_status", order_id),
        "list_orders": call(world, "list_orders"),
        "refund_order": call(world, "refund_order", order_id),
        "capture_order": capture(world, "capture_order", "RM 40"),
        "update_order": call(world, "update_order", json={"orderId": order_id, "orderStatus": "Packed"}),
        "list_orders_of": call(world, "list_orders_of", query_string={"userId": "user-7", "limit": 1}),
        "show_timeline": call(world, "show_timeline", order_id),
        "explain_order": call(world, "explain_order", order_id),
        "show_latency": call(world, "show_latency", order_id),
        "show_state_machine": call(world, "show_state_machine"),
        "show_problem": call(world, "show_problem", headers={"Accept": "application/json"}),
        "receive_notifications": call(world, "receive_notifications", **signed(world)),
        "healthz": call(world, "healthz"),
        "readyz": call(world, "readyz"),
    }
    assert answers["list_orders"].json["orders"]
    for path, method, operation in operations(document):
        answer = answers[operation["operationId"]]
        assert answer.status_code < 300, answer.text
        conforms(document, path, method, answer)


def test_other_kinds_of_answers_look_as_described(world, document):
    for accept, operation, path in (
        ("text/vnd.mermaid", "show_state_machine", "/state-machine"),
        ("text/html", "show_problem", "/problems/{code}"),
    ):
        answer = call(world, operation, headers={"Accept": accept})
        assert (answer.status_code, answer.mimetype) == (200, accept)
        conforms(document, path, "GET", answer)


def test_an_answer_without_news_looks_as_described(world, document):
    order_id = world.placed()
    for operation, path in (
        ("find_order", "/orders/one/{orderId}"),
        ("check_order_status", "/orders/status/{orderId}"),
    ):
        answer = call(world, operation, order_id, headers={"If-None-Match": "*"})
        assert (answer.status_code, answer.data) == (304, b"")
        assert "content" not in document["paths"][path]["get"]["responses"]["304"]


def examples(document):
    """Every example of the document, with its schema."""
    for _, _, operation in operations(document):
        for parameter in operation["parameters"]:
            yield parameter["schema"], parameter["example"]
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in [content for body in bodies for content in body.get("content", {}).values()]:
            named = [example["value"] for example in content.get("examples", {}).values()]
            shown = named or [content["example"]]
            yield from ((content["schema"], value) for value in shown)


def test_every_parameter_request_and_answer_has_an_example_that_fits(document):
    found = list(examples(document))
    assert len(found) > 100
    for schema, value in found:
        fits(document, schema, value)


def test_an_example_says_something_of_every_member(document):
    for schema, value in examples(document):
        name = schema.get("$ref", "").rpartition("/")[2]
        if name and name not in ("Problem", "NewOrder"):
            assert value.keys() == document["components"]["schemas"][name]["properties"].keys()


def test_scopes_and_authentication_are_described(world, document):
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["security"] == [{}, {"bearer": []}]
    asked = world.changed(**ISSUED).get("/api-json").json
    assert asked["security"] == [{"bearer": []}]
    for _, method, operation in operations(asked):
        if "x-scope" in operation:
            own = {"refund_order": "orders:refund", "capture_order": "orders:fulfil"}
            written = own.get(operation["operationId"], "orders:write")
            assert operation["x-scope"] == ("orders:read" if method == "GET" else written)
            assert operation["x-scope"] in operation["description"]
            assert {"401", "403"} <= operation["responses"].keys()
        else:
            assert operation["security"] == []


def test_not_being_ready_looks_as_described(world, document):
    answer = call(world, "readyz", client=world.gone)
    assert answer.status_code == 503
    conforms(document, "/readyz", "GET", answer)


def test_the_example_of_a_new_order_can_be_placed(document, http):
    properties = document["components"]["schemas"]["NewOrder"]["properties"]
    example = {name: described["example"] for name, described in properties.items() if "example" in described}
    assert set(document["components"]["schemas"]["NewOrder"]["required"]) <= example.keys()
    assert http.post("/orders", json=example).status_code == 201


@pytest.mark.parametrize(
    "changes",
    [
        {"userId": "x" * 129},
        {"productName": "x" * 513},
        {"userId": ""},
        {"userId": 7},
        {"totalOrderAmount": 99},
        {"totalOrderAmount": {"value": 0, "currency": "MYR"}},
        {"totalOrderAmount": {"value": 1}},
        {"totalOrderAmount": "RM " + "9" * 62},
    ],
    ids=str,
)
def test_what_the_document_forbids_is_refused(document, http, changes):
    schema = {**document["components"]["schemas"]["NewOrder"], "components": document["components"]}
    assert validator(schema).is_valid(NEW)
    assert not validator(schema).is_valid({**NEW, **changes})
    assert http.post("/orders", json={**NEW, **changes}).status_code == 422


def test_the_page_and_all_it_needs_come_from_here(http):
    page = http.get("/api")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    needed = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)""", page.text)
    assert {address.rpartition(".")[2] for address in needed} == {"css", "js", "png"}
    start = http.get("/api/assets/start.js").text
    for address in [*needed, *re.findall(r'url: "([^"]+)"', start)]:
        assert re.match(r"/[^/]", address)
        with http.get(address) as answer:
            assert answer.status_code == 200
            assert len(answer.data) > 100
    assert "//" not in (page.text + start).replace("<!doctype html>", "")


def test_the_page_has_no_script_within_and_its_policy_allows_none(http):
    page = http.get("/api")
    assert re.findall(r"<script(?![^>]* src=)[^>]*>", page.text) == []
    assert re.findall(r"\son\w+=|javascript:", page.text) == []
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    sources = {source for value in policy.values() for source in value.split()}
    assert sources <= {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert [name for name, value in policy.items() if "'unsafe-inline'" in value] == ["style-src"]


@pytest.mark.parametrize(
    ("name", "kind"), [("start.js", "javascript"), ("swagger-ui.css", "css"), ("favicon-32x32.png", "png")]
)
def test_assets_have_their_media_types(http, name, kind):
    with http.get(f"/api/assets/{name}") as answer:
        assert (answer.status_code, kind in answer.headers["Content-Type"]) == (200, True)


@pytest.mark.parametrize(
    "name",
    [
        *["nothing.js", "../__init__.py", "%2e%2e/__init__.py", "..%2f__init__.py"],
        *["%2e%2e%2f%2e%2e%2f__init__.py", "..%5c__init__.py", "/etc/passwd", "%2Fetc%2Fpasswd"],
        *["swagger-ui.css%00", ".", "%2e%2e", "%FF"],
    ],
)
def test_no_other_file_is_served(http, refused, name):
    refused(http.get(f"/api/assets/{name}"), 404, "not_found")


def test_the_document_is_the_same_each_time(http):
    assert json.dumps(http.get("/api-json").json) == json.dumps(http.get("/api-json").json)
