"""One line for each request: those too that are refused before a view runs, and nothing of what a client has sent."""

from dataclasses import replace
from functools import partial

import jwt
import pytest

from app.main import create_app, runtime
from app.observability import logging
from app.observability.metrics import REGISTRY, observations
from app.observability.request_log import RequestLogger

KEY = "a key of 32 bytes, neither more or less"
IDENTITY = {
    "auth_jwt_algorithm": "HS256",
    "auth_jwt_key": KEY,
    "auth_jwt_issuer": "https://issuer.example",
    "auth_jwt_audience": "orderflow",
}
ABSENT = "692000000000000000000000"


@pytest.fixture
def lines(monkeypatch):
    """The lines `request` that are written during the test."""
    found = []

    def write(event, records):
        found.extend(record for record in records if event == "request")

    monkeypatch.setattr(logging, "write_lines", write)
    return found


@pytest.fixture
def serve(shared_settings):
    """A client of the application with other settings; its background work is not started."""
    made = []

    def start(**changes):
        app = create_app(replace(shared_settings, **{"request_log": "failed", **changes}))
        made.append(app)
        return app.test_client()

    yield start
    for app in made:
        runtime(app).stop()


REFUSED = {
    "an unknown route": ({}, ("GET", "/nothing/at/all", {}), (404, "not_found", "(none)")),
    "a doubled slash": ({}, ("GET", "/orders//x", {}), (404, "not_found", "(none)")),
    "a wrong method": ({}, ("DELETE", "/orders", {}), (405, "method_not_allowed", "(none)")),
    "an unknown method": ({}, ("SECRET", "/orders", {}), (405, "method_not_allowed", "(none)")),
    "a wrong host": ({}, ("GET", "/orders/ada", {"headers": {"Host": "evil.example"}}), (421, "misdirected_request", "/orders/<user_id>")),
    "another site": ({}, ("POST", "/orders", {"headers": {"Sec-Fetch-Site": "cross-site"}}), (403, "cross_site_request", "/orders")),
    "no token": (IDENTITY, ("GET", "/orders", {}), (401, "unauthenticated", "/orders")),
    "a wrong token": (IDENTITY, ("GET", "/orders", {"headers": {"Authorization": "Bearer secret"}}), (401, "invalid_token", "/orders")),
    "a token in the query": (IDENTITY, ("GET", "/orders?access_token=secret", {"headers": {"Authorization": "Bearer secret"}}), (400, "invalid_credentials", "/orders")),
    "too large": ({}, ("POST", "/orders", {"data": b"secret" * 20_000, "content_type": "application/json"}), (413, "body_too_large", "/orders")),
    "no JSON": ({}, ("POST", "/orders", {"data": b"secret", "content_type": "application/json"}), (400, "malformed_body", "/orders")),
    "wrong members": ({}, ("POST", "/orders", {"json": {"secret": "secret"}}), (422, "invalid_members", "/orders")),
    "no such order": ({}, ("GET", f"/orders/one/{ABSENT}", {}), (404, "order_not_found", "/orders/one/<order_id>")),
    "no such parameter": ({}, ("GET", f"/orders/one/{ABSENT}?secret=secret", {}), (400, "invalid_parameter", "/orders/one/<order_id>")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_every_refusal_is_one_line_that_repeats_nothing(serve, lines, case):
    settings, (method, path, members), (status, code, route) = REFUSED[case]
    answer = serve(**settings).open(path, method=method, **members)
    [line] = lines
    assert (line["status"], line["code"], line["route"]) == (answer.status_code, answer.json["code"], route)
    assert (line["status"], line["code"]) == (status, code)
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert line["caller"] == "127.0.0.1"
    assert line["took_ms"] >= 0
    assert "secret" not in str(line).lower()
    assert line.get("order_id") == (ABSENT if "order_id" in route else None)


def test_a_request_over_the_rate_limit_is_a_line(serve, lines):
    client = serve(rate_limit="1/hour")
    runtime(client.application).prepare()
    answers = [client.get("/state-machine", environ_base={"REMOTE_ADDR": "192.0.2.77"}) for _ in range(2)]
    assert answers[-1].status_code == 429
    [line] = lines
    assert (line["status"], line["code"], line["caller"]) == (429, "rate_limited", "192.0.2.77")


def test_a_view_that_fails_is_a_line(serve, lines, monkeypatch):
    client = serve()

    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("app.gateway.routes.explain.explanation", fail)
    monkeypatch.setattr(runtime(client.application).bus, "request", lambda _: None)
    answer = client.get(f"/orders/one/{ABSENT}/explain")
    assert (answer.status_code, [line["code"] for line in lines]) == (500, ["internal_error"])


def test_the_line_of_a_change_names_its_order_and_the_user_of_the_token(serve, lines, new_order):
    client = serve(request_log="all", **IDENTITY)
    claims = {"sub": "user-7", "iss": IDENTITY["auth_jwt_issuer"], "aud": "orderflow", "iat": 1, "exp": 4_000_000_000}
    token = jwt.encode({**claims, "scope": "orders:read orders:write"}, KEY, "HS256")
    answer = client.post("/orders", json=new_order(userId="user-7"), headers={"Authorization": f"Bearer {token}"})
    order_id = answer.json["created"]["id"]
    cancelled = {"orderId": order_id, "orderStatus": "Cancelled"}
    client.put("/orders", json=cancelled, headers={"Authorization": f"Bearer {token}"})
    found = client.get(f"/orders/one/{order_id}/events", headers={"Authorization": f"Bearer {token}"}).json["events"]
    assert [entry["caller"] for entry in found] == ["user-7", "user-7"]
    assert [(line["method"], line["status"], line["caller"]) for line in lines] == [
        ("POST", 201, "user-7"),
        ("PUT", 200, "user-7"),
        ("GET", 200, "user-7"),
    ]
    assert {line["order_id"] for line in lines} == {order_id}
    assert all("code" not in line and token not in str(line) for line in lines)


@pytest.mark.parametrize(
    ("setting", "answered", "failed"),
    [("all", 20, 20), ("failed", 0, 20), ("off", 0, 0), ("1.0", 20, 20), ("0", 0, 20)],
)
def test_the_setting_says_which_requests_have_lines(serve, lines, setting, answered, failed):
    client = serve(request_log=setting)
    for _ in range(20):
        client.get("/state-machine")
    assert len(lines) == answered
    for _ in range(20):
        client.get("/nothing")
    assert len(lines) == answered + failed


def test_a_share_of_the_answered_requests_has_lines():
    logger = RequestLogger("0.25")
    assert all(logger.wants(status) for status in (400, 404, 503) for _ in range(100))
    assert 2_000 < sum(logger.wants(200) for _ in range(10_000)) < 3_000


def test_all_requests_are_counted_whatever_has_lines(serve, lines):
    client = serve(request_log="off")
    name, labels = (
        "orderflow_http_request_duration_seconds_count",
        {"route": "(none)", "method": "GET", "status": "404"},
    )
    counted = partial(REGISTRY.get_sample_value, name, labels)
    observations.flush()
    before = counted() or 0
    client.get("/nothing")
    observations.flush()
    assert (counted(), lines) == (before + 1, [])


def test_probes_have_no_lines(serve, lines):
    client = serve(request_log="all")
    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 503]
    assert lines == []
