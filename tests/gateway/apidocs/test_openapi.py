"""The OpenAPI document is valid and complete, real responses match it; and its page."""

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from uuid import uuid4

import jwt
import pytest
from bson import ObjectId
from flask import Flask
from pymongo.monitoring import CommandListener

from app import __version__, gateway
from app.config import Settings
from app.contracts.orders import OrderCreated
from app.contracts.payments import PaymentStatus
from app.contracts.webhooks import EVENT_TYPES
from app.gateway.apidocs.openapi import document as document_of
from app.gateway.http.problem_catalogue import PROBLEMS
from app.main import create_app, runtime
from app.messaging.signal_bus import SignalBus
from app.orders.documents import metadata_pairs
from app.orders.order import EVENT_PHRASES, PAYMENT_STATUSES, STATUSES, TRANSITIONS
from app.payments import payment as domain
from app.payments.provider_port import CallKind
from app.payments.providers import signed_notifications
from app.payments.providers.signed_notifications import NotificationMessage
from app.payments.providers.simulated import CAPABILITIES
from app.webhooks.event_types import order_body
from tests.webhooks.conftest import a_change, an_order

UNKNOWN = "692000000000000000000000"
NEW = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
URL = "https://shop.example/webhooks"
COMMAND = {"operator": "Ada", "reason": "seen in the dashboard"}
PAGES = {
    *("/api", "/api/", "/api-json", "/api/assets/{name}", "/metrics", "/", "/console/{name}", "/console/stream"),
    *("/console/orders/{name}", "/console/desk"),
    *("/console/webhooks", "/console/webhooks/{name}", "/console/deliveries/{name}"),
    "/providers/simulated/actions/{token}",
}

# A request to each documented operation that gets as far as the database, with what fills the path.
SAMPLES = {
    "place_order": {"json": NEW},
    "update_order": {"json": {"orderId": UNKNOWN, "orderStatus": "Cancelled"}},
    "update_metadata": {"json": {"metadata": {"cart": "A-1207"}}},
    "refund_order": {"json": {}},
    "capture_order": {"json": {}},
    "list_orders_of": {"query_string": {"userId": "user-7"}},
    "export_orders": {"query_string": {"userId": "user-7"}, "buffered": True},
    "retry_payment": {"json": COMMAND},
    "resolve_payment": {"json": {**COMMAND, "outcome": "captured"}},
    "drop_refund": {"json": {**COMMAND, "refundId": "r-1"}},
    "replay_dead_letters": {"json": COMMAND},
    "create_endpoint": {"json": {"url": URL}},
    "change_endpoint": {"json": {"description": "The warehouse"}},
    "rotate_secret": {"json": {}},
    "replay_deliveries": {"json": {"since": "2026-11-22T15:00:00Z", "until": "2026-11-22T16:00:00Z"}},
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

    def paid(self, **state):
        """An order with a payment; no background work runs here."""
        order_id = self.placed()
        payments = runtime(self.made[0]).modules["payments"]
        total = {"total_value": 9900, "total_currency": "MYR"}
        base = {"event_id": "e", "order_id": order_id, "sequence": 1, "request_id": "r", "at": 1}
        created = OrderCreated(**base, user_id="user-7", product_id="1", **total)
        payments._payments.insert([domain.open_payment(created, CAPABILITIES)], 0)
        self.mongo[self.settings.database].payments.update_one(
            {"_id": order_id}, {"$set": state, "$unset": {"dueAt": ""}}
        )
        return order_id

    def parked(self):
        return self.paid(status="Unknown", parkedReason="no response")

    def parked_refund(self):
        refund = {"refund_id": "r-1", "value": 100, "status": "requested", "reference": ""}
        return self.paid(status="Unknown", parkedReason="declined", captured=9900, refunds=[refund])

    def dead_letter(self):
        letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": datetime(2026, 1, 1, tzinfo=UTC)}
        return self.placed(deadLetter=letter)

    def endpoint(self):
        return self.http.post("/webhooks/endpoints", json={"url": URL, "userId": uuid4().hex}).json["endpoint"]["id"]

    def delivery(self):
        """A delivery that has failed, with all that one has."""
        endpoint_id, at = self.endpoint(), datetime(2026, 11, 26, 9, tzinfo=UTC)
        delivery_id = f"{uuid4().hex}.{endpoint_id}"
        attempts = [
            {"at": at, "tookMs": 7, "status": 500, "response": "no"},
            {"at": at, "tookMs": 7, "error": "no connection"},
        ]
        known = {"endpointId": endpoint_id, "eventId": "e", "type": "order.updated", "body": "{}", "status": "failed"}
        self.mongo[self.settings.database].webhook_deliveries.insert_one(
            {"_id": delivery_id, **known, "createdAt": at, "tries": 2, "orderId": UNKNOWN, "attempts": attempts}
        )
        return delivery_id

    def close(self):
        for app in self.made:
            runtime(app).stop()


class Meddler(CommandListener):
    """Changes every order after each command but the first `ignored`, so that what is based on the reply always fails."""

    def __init__(self, orders, command, update, ignored=0):
        self.orders, self.command, self.update, self.ignored = orders, command, update, ignored

    def started(self, event):
        pass

    def succeeded(self, event):
        if (event.command_name, event.database_name) != (self.command, self.orders.database.name):
            return
        self.ignored -= 1
        if self.ignored < 0:
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


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def template(rule):
    """A route's address as the document writes it."""
    words = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), words)


def fill(path, order_id=UNKNOWN, code="conflict", provider="simulated"):
    """A path with ids; the id of an endpoint or a delivery is given as that of an order."""
    names = {"orderId": order_id, "refundId": "r1", "userId": "user-7", "code": code, "provider": provider}
    names |= {"endpointId": order_id, "deliveryId": order_id}
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
    """An absent order; the list or the data of another user."""
    if operation == "erase_personal_data":
        return bearing(world, operation, "orders:write")
    return (
        bearing(world, operation, "orders:read") if operation.startswith(("list", "export")) else call(world, operation)
    )


def crowded(world, operation):
    if operation == "export_orders":
        client = world.changed(exports_max=1)
        with client.get("/orders/export", buffered=False):
            return call(world, operation, client=client)
    client = world.changed(streams_max=0, streams_per_caller=0)
    waiting = {"query_string": {"wait": 1}} if operation == "check_order_status" else {}
    streaming = {"headers": {"Accept": "text/event-stream"}, **waiting}
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
    body = answer.get_json() if answer.is_json else answer.text
    fits(document, content["schema"], body)


def fits(document, schema, value):
    """Check a value by a schema of the document."""
    whole = {**schema, "components": document["components"]}
    validator(whole).validate(value)


def validator(schema):
    """Holds values against a schema; imported here, for it takes seconds and most workers hold none."""
    kind = import_module("openapi_schema_validator").OAS31Validator
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def raw(text, kind="application/json"):
    return {"json": None, "data": text, "content_type": kind}


def overloaded(world, operation):
    if operation != "place_order":
        return call(world, operation)
    # Long enough ago for clocks that differ by some milliseconds.
    order_id = world.placed(relayDue=world.orders().database.command("hello")["localTime"] - timedelta(minutes=1))
    try:
        return call(world, operation, client=world.serve(backlog_limit=1))
    finally:
        world.orders().delete_one({"_id": ObjectId(order_id)})


def one_open_order_too_many(world, operation):
    if operation != "place_order":
        return call(world, operation)
    client = world.serve(open_orders_per_user=1)
    answers = [call(world, operation, client=client) for _ in range(2)]
    return answers[-1]


def meddled(world, command, update, ignored=0):
    return world.serve(event_listeners=[Meddler(world.orders(), command, update, ignored)])


def in_conflict(world, operation):
    if operation in ("change_endpoint", "rotate_secret"):
        endpoint_id, endpoints = world.endpoint(), world.mongo[world.settings.database].webhook_endpoints
        client = world.serve(event_listeners=[Meddler(endpoints, "find", {"$inc": {"version": 1}})])
        return call(world, operation, endpoint_id, client)
    if operation == "place_order":
        headers = {"Idempotency-Key": "cleared"}
        call(world, operation, headers=headers)
        # A document that is rejected alone is inserted a second time, to learn why.
        client = meddled(world, "insert", {"$unset": {"idempotency": ""}}, ignored=1)
        return call(world, operation, client=client, headers=headers)
    if operation == "replay_dead_letters":
        return call(world, operation, world.dead_letter(), meddled(world, "find", {"$inc": {"version": 1}}))
    authorized = {"paymentStatus": "Authorized", "authorized": 9900}
    captured = {"orderStatus": "Success", "paymentStatus": "Captured"}
    order_id = world.placed(**authorized if operation == "capture_order" else captured)
    client = meddled(world, "find", {"$inc": {"version": 1}})
    return call(world, operation, order_id, client, json=body_of(operation, order_id))


def body_of(operation, order_id):
    bodies = {
        "update_order": {"orderId": order_id, "orderStatus": "Packed"},
        "update_metadata": {"metadata": {"a": "1"}},
    }
    return bodies.get(operation, {})


def stuck(world, operation, **state):
    order_id = world.placed(**state)
    return call(world, operation, order_id, json=body_of(operation, order_id))


def reused_key(world, operation):
    order_id = world.placed(orderStatus="Success", paymentStatus="Captured")
    bodies = {
        "place_order": [NEW, {**NEW, "productId": "2"}],
        "create_endpoint": [{"url": URL}, {"url": f"{URL}/2"}],
    }.get(operation, [{"amount": "RM 1"}, {"amount": "RM 2"}])
    headers = {"Idempotency-Key": operation}
    return [call(world, operation, order_id, json=body, headers=headers) for body in bodies][-1]


def invalid(world, operation):
    if operation in ("list_orders", "erase_personal_data"):
        address = "/orders/%00" if operation == "list_orders" else "/users/%00/personal-data"
        return world.http.open(address, method="GET" if operation == "list_orders" else "DELETE")
    return call(world, operation, json={"userId": 1, "orderId": 1, "amount": 1})


def without_endpoint(world, operation):
    """An endpoint that is absent, or was deleted since it was added with the same key."""
    if operation != "create_endpoint":
        return call(world, operation)
    headers = {"Idempotency-Key": "deleted"}
    made = call(world, operation, headers=headers)
    if made.status_code == 201:
        world.http.delete(made.headers["Location"])
    return call(world, operation, headers=headers)


def one_endpoint_too_many(world, operation):
    if operation != "create_endpoint":
        return call(world, operation)
    body = {"url": URL, "userId": "of-many"}
    return [call(world, operation, json=body) for _ in range(17)][-1]


def endpoint_for_somebody_else(world, operation):
    return bearing(world, operation, "webhooks:manage", json={"url": URL, "userId": "bob"})


def not_allowed(world, operation):
    return call(world, operation, world.endpoint(), json={"url": "http://shop.example/"})


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
        world,
        operation,
        query_string={"cursor": "WyJ4Il0.x", **({"userId": "user-7"} if operation == "list_orders_of" else {})},
    ),
    "invalid_credentials": lambda world, operation: bearing(
        world, operation, headers=[("Authorization", "Bearer x"), ("Authorization", "Bearer y")]
    ),
    "unauthenticated": lambda world, operation: bearing(world, operation, headers={}),
    "invalid_token": lambda world, operation: bearing(world, operation, headers={"Authorization": "Bearer x"}),
    "insufficient_scope": bearing,
    "wrong_user": lambda world, operation: (
        endpoint_for_somebody_else(world, operation)
        if operation == "create_endpoint"
        else bearing(world, operation, "orders:write")
    ),
    "endpoint_not_found": without_endpoint,
    "delivery_not_found": lambda world, operation: call(world, operation),
    "invalid_endpoint": not_allowed,
    "too_many_endpoints": one_endpoint_too_many,
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
    "refund_not_found": lambda world, operation: call(
        world, operation, world.placed(orderStatus="Success", paymentStatus="Captured")
    ),
    "illegal_transition": stuck,
    "orders_in_progress": lambda world, operation: world.placed() and call(world, operation),
    "too_much_metadata": lambda world, operation: call(
        world,
        operation,
        world.placed(metadata=metadata_pairs({str(at): "v" for at in range(20)})),
        json={"metadata": {"one more": "v"}},
    ),
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
    "not_possible": lambda world, operation: call(world, operation, world.paid()),
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
    "unavailable": lambda world, operation: call(
        world, operation, client=gateway_alone().test_client() if operation == "list_event_types" else world.gone
    ),
}


# The server answers these before the application: tests/security/test_api4_resources.py.
OF_THE_SERVER = {"bad_request", "address_too_long", "headers_too_large", "request_timeout"}


def gateway_alone():
    """A gateway whose requests nobody handles."""
    app = Flask(__name__, static_folder=None)
    gateway.install(app, SignalBus(), lambda: None, Settings(), lambda *_: (), bytes)
    return app


def declared():
    """Every problem that the document declares, as address, method, operation and code."""
    for path, method, operation in operations(document_of(gateway_alone())):
        for response in operation["responses"].values():
            if "application/problem+json" in response.get("content", ()):
                for code in sorted(set(response["description"].split(" or ")) - OF_THE_SERVER):
                    yield pytest.param(
                        path, method, operation["operationId"], code, id=f"{operation['operationId']}-{code}"
                    )


def test_it_is_a_valid_openapi_document(document):
    assert document["openapi"] == "3.1.0"
    assert not list(import_module("openapi_spec_validator").OpenAPIV31SpecValidator(document).iter_errors())
    assert document["info"]["version"] == __version__


def test_it_is_a_valid_document_of_openapi_3_0_as_well(http, document):
    former = http.get("/api-json?openapi=3.0").json
    assert (former["openapi"], "webhooks" in former) == ("3.0.3", False)
    assert not list(import_module("openapi_spec_validator").OpenAPIV30SpecValidator(former).iter_errors())
    assert former["paths"].keys() == document["paths"].keys()
    assert http.get("/api-json?openapi=3.1").json == document


@pytest.mark.parametrize("query", ["openapi=2.0", "openapi=", "openapi=3.0&openapi=3.1"])
def test_another_version_is_refused(http, refused, query):
    assert refused(http.get(f"/api-json?{query}"), 400, "invalid_parameter")["parameter"] == "openapi"


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


@pytest.mark.extended
def test_whatever_problem_is_met_is_declared(world, document):
    for _, _, operation in operations(document):
        texts = " ".join(response["description"] for response in operation["responses"].values()).split()
        for code in REACH.keys() - {"unavailable"}:
            answer = REACH[code](world, operation["operationId"])
            if answer.mimetype == "application/problem+json":
                assert answer.get_json()["code"] in texts, (operation["operationId"], answer.text)


def test_every_good_answer_looks_as_described(world, document):
    order_id = world.placed(orderStatus="Success", paymentStatus="Captured")
    refund = {"id": "r1", "value": 900, "requested": "900 MYR", "at": datetime.now(UTC), "status": "failed"}
    refund |= {"reason": "damaged", "failure": "the card was closed"}
    refunded = world.placed(orderStatus="Success", paymentStatus="Captured", refunds=[refund])
    waiting = world.parked(), world.parked(), world.dead_letter()
    answers = {
        "list_refunds": call(world, "list_refunds", refunded),
        "find_refund": call(world, "find_refund", refunded),
        "place_order": call(world, "place_order"),
        "find_order": call(world, "find_order", order_id),
        "check_order_status": call(world, "check_order_status", order_id),
        "list_orders": call(world, "list_orders"),
        "refund_order": call(world, "refund_order", order_id),
        "capture_order": capture(world, "capture_order", "RM 40"),
        "update_metadata": call(world, "update_metadata", order_id),
        "update_order": call(world, "update_order", json={"orderId": order_id, "orderStatus": "Packed"}),
        "list_orders_of": call(world, "list_orders_of", query_string={"userId": "user-7", "limit": 1}),
        "export_orders": call(world, "export_orders"),
        "show_timeline": call(world, "show_timeline", order_id),
        "explain_order": call(world, "explain_order", order_id),
        "show_latency": call(world, "show_latency", order_id),
        "list_requests": call(world, "list_requests", order_id),
        "show_state_machine": call(world, "show_state_machine"),
        "list_problems": call(world, "list_problems"),
        "show_problem": call(world, "show_problem", headers={"Accept": "application/json"}),
        "receive_notifications": call(world, "receive_notifications", **signed(world)),
        "retry_payment": call(world, "retry_payment", world.parked()),
        "resolve_payment": call(world, "resolve_payment", world.parked()),
        "drop_refund": call(world, "drop_refund", world.parked_refund()),
        "replay_dead_letters": call(world, "replay_dead_letters", world.dead_letter()),
        "erase_personal_data": world.http.delete("/users/nobody/personal-data"),
        "list_erasures": call(world, "list_erasures"),
        "list_parked": call(world, "list_parked", query_string={"limit": 1}),
        "list_dead_letters": call(world, "list_dead_letters"),
        "create_endpoint": call(world, "create_endpoint"),
        "list_endpoints": call(world, "list_endpoints"),
        "find_endpoint": call(world, "find_endpoint", world.endpoint()),
        "change_endpoint": call(world, "change_endpoint", world.endpoint(), json={"enabled": False}),
        "delete_endpoint": call(world, "delete_endpoint", world.endpoint()),
        "rotate_secret": call(world, "rotate_secret", world.endpoint()),
        "send_test_event": call(world, "send_test_event", world.endpoint()),
        "replay_deliveries": call(world, "replay_deliveries", world.endpoint()),
        "list_deliveries": call(world, "list_deliveries", world.delivery().partition(".")[2]),
        "find_delivery": call(world, "find_delivery", world.delivery()),
        "retry_delivery": call(world, "retry_delivery", world.delivery()),
        "list_event_types": call(world, "list_event_types"),
        "healthz": call(world, "healthz"),
        "readyz": call(world, "readyz"),
    }
    assert answers["list_orders"].json["orders"]
    assert answers["list_parked"].json["nextCursor"]
    assert {row["orderId"] for row in answers["list_dead_letters"].json["deadLetters"]} >= {waiting[-1]}
    for path, method, operation in operations(document):
        answer = answers[operation["operationId"]]
        assert answer.status_code < 300, answer.text
        conforms(document, path, method, answer)


def test_other_kinds_of_answers_look_as_described(world, document):
    for accept, operation, path in (
        ("text/vnd.mermaid", "show_state_machine", "/state-machine"),
        ("text/html", "show_problem", "/problems/{code}"),
        ("text/csv", "export_orders", "/orders/export"),
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
            usual = "orders:read" if method == "GET" else written
            special = {"operations": "orders:admin", "webhooks": "webhooks:manage"}
            assert operation["x-scope"] == special.get(operation["tags"][0], usual)
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


def words_of(document, schema, member):
    """The words that the document gives for a member, without those of custom texts."""
    [*path] = member.split(".")
    found = document["components"]["schemas"][schema]
    for name in path:
        found = found["properties"][name]
    return found.get("enum") or found["anyOf"][0]["enum"]


WAITS_FOR = {"the relay", "the provider", "the customer", "a capture", "the payer's bank", "an operator", "nothing"}


@pytest.mark.parametrize(
    ("schema", "member", "words"),
    [
        ("Order", "orderStatus", STATUSES),
        ("Order", "paymentStatus", PaymentStatus),
        ("OrderStatus", "orderStatus", STATUSES),
        ("TimelineEntry", "type", EVENT_PHRASES),
        ("TimelineEntry", "from", ["(new)", *STATUSES]),
        ("TimelineEntry", "to", STATUSES),
        ("TimelineEntry", "paymentStatus", PaymentStatus),
        ("RequestChange", "type", EVENT_PHRASES),
        ("Explanation", "waitsFor", WAITS_FOR),
        ("Explanation", "orderStatus", STATUSES),
        ("Explanation", "paymentStatus", PaymentStatus),
        ("PaymentStatus", "status", [rule.status for rule in PAYMENT_STATUSES]),
        ("Transition", "from", {"(new)", *(rule.target for rule in TRANSITIONS)}),
        ("Transition", "to", {rule.target for rule in TRANSITIONS}),
        ("PaymentReviewed", "paymentStatus", PaymentStatus),
        ("ParkedPayment", "paymentStatus", PaymentStatus),
        ("Problem", "code", PROBLEMS),
        ("ProblemKind", "code", PROBLEMS),
    ],
)
def test_the_words_of_a_member_are_those_of_the_code(document, schema, member, words):
    told = words_of(document, schema, member)
    assert len(told) == len({*told})
    assert {*told} == {str(word) for word in words}


# --- webhooks ---


def test_every_type_of_event_is_a_webhook_with_its_headers_and_an_example_that_fits(document):
    assert document["webhooks"].keys() == EVENT_TYPES.keys()
    for name, item in document["webhooks"].items():
        operation = item["post"]
        assert operation["summary"] == EVENT_TYPES[name]
        headers = {one["name"]: one for one in operation["parameters"] if one["in"] == "header" and one["required"]}
        assert headers.keys() == {"webhook-id", "webhook-timestamp", "webhook-signature"}
        content = operation["requestBody"]["content"]["application/json"]
        fits(document, content["schema"], content["example"])
        assert content["example"]["type"] == name
        assert {"2XX", "410", "default"} == operation["responses"].keys()


def test_a_webhook_of_another_type_does_not_fit(document):
    schemas = {
        name: item["post"]["requestBody"]["content"]["application/json"] for name, item in document["webhooks"].items()
    }
    for name, content in schemas.items():
        whole = validator({**content["schema"], "components": document["components"]})
        fitting = [other for other, told in schemas.items() if whole.is_valid(told["example"])]
        assert fitting == [name]


def test_the_example_of_every_event_type_fits_its_webhook(document, http):
    for told in http.get("/event-types").json["eventTypes"]:
        content = document["webhooks"][told["name"]]["post"]["requestBody"]["content"]["application/json"]
        fits(document, content["schema"], json.loads(told["example"]))


def test_what_is_told_of_an_order_fits_its_webhook(document):
    """A real change, with the order as it is."""
    event = a_change()
    content = document["webhooks"]["order.succeeded"]["post"]["requestBody"]["content"]["application/json"]
    told = json.loads(order_body(event, an_order(event.order_id)))
    fits(document, content["schema"], told)
    described = document["components"]["schemas"]["ToldOrder"]["properties"]
    assert told["data"]["order"].keys() <= described.keys()


@pytest.mark.parametrize(("text", "right"), [("Success", True), ("On the way", True), (1, False)])
def test_an_order_status_may_be_custom_text(document, text, right):
    schema = document["components"]["schemas"]["Order"]["properties"]["orderStatus"]
    assert validator(schema).is_valid(text) is right


def test_a_status_to_select_is_described_with_its_words(document):
    for path in ("/orders", "/orders/{userId}"):
        [status] = [one for one in document["paths"][path]["get"]["parameters"] if one["name"] == "status"]
        assert {*status["schema"]["anyOf"][0]["enum"]} == {*STATUSES}


def test_the_members_of_every_problem_are_described(document):
    described = document["components"]["schemas"]["Problem"]["properties"]
    further = {"parameter", "from", "to", "allowed", "paymentStatus", "version", "remaining", "authorized", "scope"}
    assert further <= described.keys()


def test_the_pending_calls_are_those_that_payments_makes(document):
    words = document["components"]["schemas"]["ParkedPayment"]["properties"]["pendingCall"]["enum"]
    assert words == ["", *CallKind]
