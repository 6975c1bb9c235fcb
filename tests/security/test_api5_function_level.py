"""API5:2023 Broken function level authorization: who may use which route, by which method."""

from dataclasses import replace
from itertools import product
from urllib.parse import unquote

import pytest
from bson import ObjectId
from flask import Flask
from pymongo import ReturnDocument

from app import gateway
from app.config import Settings
from app.gateway.security.authentication import UndeclaredRoute, required_scopes
from app.main import create_app, runtime
from app.messaging.signal_bus import SignalBus
from tests.security import surface
from tests.security.conftest import User
from tests.security.surface import ADMIN, FULFIL, PUBLIC, READ, REFUND, ROUTES, ROWS, WEBHOOKS, WRITE, named

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "BREW")
ALIKE = {"HEAD": "GET"}
# Public, and refused without the provider's signature.
UNSIGNED = {("POST", "/providers/<provider>/notifications"): 400}
# Who calls, and what each has.
CALLERS = {
    "nobody": None,
    "without scopes": set(),
    "who reads": {READ},
    "who writes": {WRITE},
    "who reads and writes": {READ, WRITE},
    "who fulfils": {FULFIL},
    "who refunds": {REFUND},
    "who does all but refund": {READ, WRITE, FULFIL},
    "who manages webhooks": {WEBHOOKS},
    "an operator": {ADMIN},
    "with scopes of another service": {"orders", "orders:*", "admin", "Orders:Admin", "orders:admin2", "*"},
}
RULES = sorted({rule for _, rule in ROUTES})
every_route = pytest.mark.parametrize(("method", "rule"), ROUTES, ids=named(ROUTES))


def test_every_route_has_a_row_and_every_row_a_route():
    assert set(ROUTES) == set(ROWS)


def test_every_row_is_what_the_application_asks(fort):
    asked = required_scopes(fort)
    found = {}
    for rule in fort.url_map.iter_rules():
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            found[method, surface.ARGUMENT.sub(r"<\1>", rule.rule)] = asked[rule.endpoint]
    assert found == ROWS


def open_as(fort, issuer, scopes, method, rule):
    headers = {}
    if scopes is not None:
        headers["Authorization"] = f"Bearer {issuer.token(scope=' '.join(scopes))}"
    # What needs a further scope is tried below.
    changes = {"orderStatus": "Cancelled"} if method == "PUT" else {}
    sent = surface.body(method, rule, **changes)
    return fort.test_client().open(surface.address(rule), method=method, headers=headers, buffered=True, **sent)


@every_route
@pytest.mark.parametrize("scopes", CALLERS.values(), ids=CALLERS)
def test_a_route_admits_exactly_the_callers_with_its_scope(fort, issuer, refused, method, rule, scopes):
    answer = open_as(fort, issuer, scopes, method, rule)
    wanted = ROWS[method, rule]
    if wanted is PUBLIC or (scopes or set()) & {wanted, ADMIN}:
        assert answer.status_code not in {401, 403}, answer.text
    elif scopes is None:
        refused(answer, 401, "unauthenticated")
    else:
        assert refused(answer, 403, "insufficient_scope")["scope"] == wanted
        assert f'error="insufficient_scope", scope="{wanted}"' in answer.headers["WWW-Authenticate"]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("verb", "rule"), list(product(VERBS, RULES)), ids=lambda part: part)
def test_a_method_that_a_route_has_not_is_405_and_says_which_it_has(fort, operator, refused, verb, rule):
    known = {method for method, other in ROUTES if other == rule}
    if verb == "OPTIONS" or ALIKE.get(verb, verb) in known:
        # HEAD asks for what GET does, and OPTIONS for no less.
        public = all(ROWS[route] is PUBLIC for route in ROUTES if route[1] == rule)
        answer = fort.test_client().open(surface.address(rule), method=verb, buffered=True)
        assert answer.status_code == UNSIGNED.get((verb, rule), 200 if public else 401)
        return
    answer = operator.open(verb, surface.address(rule))
    assert (answer.status_code, answer.headers["Content-Type"]) == (405, "application/problem+json")
    if verb != "HEAD":
        refused(answer, 405, "method_not_allowed")
    head = {"HEAD"} if "GET" in known else set()
    assert {*answer.headers["Allow"].split(", ")} == known | head | {"OPTIONS"}


@pytest.mark.parametrize("override", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"])
def test_a_method_is_not_overridden(fort, issuer, override):
    headers = {"Authorization": f"Bearer {issuer.token(scope=READ)}", override: "PUT"}
    assert fort.test_client().get("/orders/ada", headers=headers).status_code == 200
    answer = fort.test_client().get("/orders/ada?_method=DELETE", headers=headers)
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_parameter")


SPELLINGS = [
    "/ORDERS/ada",
    "/orders/",
    "//orders/ada",
    "/orders/ada/",
    "/./orders/ada",
    "/orders/../orders/ada",
    "/%6frders/ada",
    "/orders%2fada",
    "/orders;/ada",
    "/orders/ada;v=1",
    "/orders/ada.json",
    "/orders/one/",
    "/metrics/",
    "/METRICS",
    "/%6detrics",
    "/metrics%00",
    "/metrics;",
    "/api/../metrics",
    "/api/assets/../../metrics",
]


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_spelling_of_a_path_goes_around_the_question(stranger, path):
    """Another spelling of a path is not found, needs the same scope, or redirects to the canonical path, which needs it."""
    answer = stranger.open("GET", path, environ_overrides={"PATH_INFO": unquote(path)})
    assert answer.status_code in {308, 401, 404, 405}
    if answer.status_code == 308:
        assert answer.headers["Location"] == path.rstrip("/")
        assert stranger.open("GET", answer.headers["Location"]).status_code == 401


def test_a_route_without_a_declared_scope_prevents_the_start():
    app = Flask("app", static_folder=None)
    app.add_url_rule("/secret", view_func=lambda: "all of it")
    with pytest.raises(UndeclaredRoute, match="/secret"):
        gateway.install(app, SignalBus(), lambda: None, Settings(), lambda *_: (), lambda: b"")


def test_a_route_that_came_later_is_for_operators(fort_settings, issuer):
    app = Flask("app", static_folder=None)
    gateway.install(app, SignalBus(), lambda: None, fort_settings, lambda *_: (), lambda: b"")
    app.add_url_rule("/secret", view_func=lambda: "all of it")
    assert open_as(app, issuer, None, "GET", "/secret").status_code == 401
    assert open_as(app, issuer, {READ, WRITE}, "GET", "/secret").status_code == 403
    assert open_as(app, issuer, {ADMIN}, "GET", "/secret").status_code == 200


def test_metrics_are_for_all_where_that_is_set(fort_settings):
    app = create_app(replace(fort_settings, metrics_public=True))
    assert app.test_client().get("/metrics").status_code == 200
    runtime(app).stop()


# Who may take an order from one status to another: what each needs beside the scope to write.
MOVES = {
    ("Processing", "Cancelled"): set(),
    ("Success", "Cancelled"): set(),
    ("Declined", "Cancelled"): set(),
    ("Confirm", "Cancelled"): {REFUND},
    ("Packed", "Cancelled"): {REFUND},
    ("Success", "Confirm"): {FULFIL},
    ("Success", "Packed"): {FULFIL},
    ("Confirm", "Packed"): {FULFIL},
}


@pytest.mark.parametrize(
    "scopes", [set(), {FULFIL}, {REFUND}, {FULFIL, REFUND}, {ADMIN}], ids=lambda each: " ".join(sorted(each))
)
@pytest.mark.parametrize(("status", "wanted"), MOVES, ids="-".join)
def test_a_customer_cancels_in_time_and_neither_confirms_nor_takes_money_back(
    fort, issuer, orders, order_of, refused, status, wanted, scopes
):
    order_id = order_of("ada")
    before = orders.find_one_and_update(
        {"_id": ObjectId(order_id)}, {"$set": {"orderStatus": status}}, return_document=ReturnDocument.AFTER
    )
    user = User(fort.test_client(), issuer.token("ada", " ".join({READ, WRITE, *scopes})))
    answer = user.open("PUT", "/orders", json={"orderId": order_id, "orderStatus": wanted})
    if MOVES[status, wanted] <= scopes or ADMIN in scopes:
        assert answer.status_code == 200, answer.text
        return
    refused(answer, 403, "refund_not_allowed" if wanted == "Cancelled" else "insufficient_scope")
    assert orders.find_one({"_id": ObjectId(order_id)}) == before


def test_whose_orders_a_scope_is_for_does_not_change_with_it(fort, issuer, order_of, refused):
    """Only orders:admin reaches orders of other users."""
    of_bob = order_of("bob")
    ada = User(fort.test_client(), issuer.token("ada", " ".join((READ, WRITE, FULFIL, REFUND))))
    refused(ada.open("PUT", "/orders", json={"orderId": of_bob, "orderStatus": "Confirm"}), 404, "order_not_found")
    refused(ada.open("POST", f"/orders/one/{of_bob}/refunds", json={}), 404, "order_not_found")
