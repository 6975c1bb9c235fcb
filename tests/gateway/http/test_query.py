"""A query parameter that a route does not have is refused with its name, on every described route."""

import pytest

from app.config import Settings
from app.main import create_app, runtime
from tests.security import surface

# Callers that are no clients of the API: probes, and payment providers.
ANY_QUERY = {"/healthz", "/readyz", "/providers/<provider>/notifications"}


@pytest.fixture(scope="module")
def described(shared_app):
    """The operation of each described route, by method and rule."""
    found = {}
    for rule in shared_app.url_map.iter_rules():
        operation = getattr(shared_app.view_functions[rule.endpoint], "operation", None)
        for method in rule.methods - {"HEAD", "OPTIONS"} if operation else ():
            found[method, surface.ARGUMENT.sub(r"<\1>", rule.rule)] = operation
    return found


@pytest.mark.parametrize(("method", "rule"), surface.ROUTES, ids=surface.named(surface.ROUTES))
def test_an_unknown_parameter_is_refused_with_its_name(http, refused, described, method, rule):
    answer = http.open(f"{surface.address(rule)}?limti=1", method=method, buffered=True, **surface.body(method, rule))
    if (method, rule) not in described or rule in ANY_QUERY:
        assert (answer.json or {}).get("code") != "invalid_parameter"
        return
    body = refused(answer, 400, "invalid_parameter")
    assert body["parameter"] == "limti"
    assert "limti" in body["detail"]
    assert all(name in body["detail"] for name in described[method, rule].query_parameters)


def test_only_those_who_are_no_clients_may_send_any_parameter(described):
    assert {rule for (_, rule), operation in described.items() if operation.any_query} == ANY_QUERY


def test_nothing_is_stored_by_a_request_with_an_unknown_parameter(http, refused, new_order, nothing_stored):
    refused(http.post("/orders?dryRun=true", json=new_order()), 400, "invalid_parameter")


@pytest.mark.parametrize("name", ["$where", "x[$ne]", "x" * 2000, "%00", "%ff", "Limit", "limit%20", ""])
def test_a_strange_name_is_refused_and_cut(http, refused, name):
    body = refused(http.get(f"/orders/user-7?{name}=1"), 400, "invalid_parameter")
    assert len(body["parameter"]) <= 64


def test_a_caller_without_a_token_learns_of_no_parameter(refused):
    identity = {
        "auth_jwt_algorithm": "HS256",
        "auth_jwt_key": "k" * 32,
        "auth_jwt_issuer": "i",
        "auth_jwt_audience": "a",
        "auth_failure_limit": "",
        "log_level": "error",
    }
    app = create_app(Settings(**identity))
    refused(app.test_client().get("/orders/user-7?limti=1"), 401, "unauthenticated")
    runtime(app).stop()
