"""Pages of other origins: what a browser is told about each response, and what a page may send. tests/console tries a browser."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from app.gateway.apidocs import openapi
from app.gateway.security import cors
from app.main import create_app, runtime
from tests.gateway.security.test_authentication import identity, show, token

SHOP, DESK = "https://shop.example", "http://localhost:5173"
FOREIGN = [
    *("https://evil.example", "https://shop.example.evil.example", "https://evil-shop.example", "http://shop.example"),
    *("https://shop.example:8443", "https://SHOP.example", "https://shop.example/", "null", "", "*", f"{SHOP}, {DESK}"),
]
ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
IDENTITY = {name: value for name, value in vars(identity()).items() if name.startswith("auth_jwt_")}
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,content-type"}


@contextmanager
def _serving(settings, **changes):
    app = create_app(replace(settings, cors_origins=f"{SHOP},{DESK}", **changes))
    try:
        yield app.test_client()
    finally:
        runtime(app).stop()


@pytest.fixture(scope="module")
def shop(shared_settings):
    """A server whose front ends are SHOP and DESK."""
    with _serving(shared_settings) as client:
        yield client


def readable(answer) -> bool:
    """Whether a browser hands the answer to a page of SHOP."""
    assert "Access-Control-Allow-Credentials" not in answer.headers
    varies = answer.headers.get_all("Vary")
    assert len(varies) == 1
    assert "Origin" in varies[0].split(", ")
    return answer.headers.get_all("Access-Control-Allow-Origin") == [SHOP]


def listed(answer, name) -> set[str]:
    return {one.strip() for one in answer.headers[name].split(",")}


@pytest.mark.parametrize("origin", [SHOP, DESK])
def test_a_page_of_a_listed_origin_may_read_the_answer_and_its_headers(shop, origin):
    answer = shop.post("/orders", json=ORDER, headers={"Origin": origin})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (201, origin)
    assert listed(answer, "Access-Control-Expose-Headers") >= {*openapi.HEADERS, "RateLimit", "RateLimit-Policy"}


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_no_other_origin_may(shop, origin):
    for answer in (
        shop.get("/orders", headers={"Origin": origin}),
        shop.options("/orders", headers={"Origin": origin, **PREFLIGHT}),
    ):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control-")]
        assert answer.headers["Vary"] == "Origin"


def test_a_cache_keeps_no_answer_of_one_origin_for_another(shop):
    """Also where the request has no origin: an answer from the cache would lack the headers."""
    assert shop.get("/orders").headers.get_all("Vary") == ["Origin"]
    assert shop.get("/problems").headers.get_all("Vary") == ["Accept, Origin"]
    with shop.get("/api/assets/swagger-ui.css") as asset:
        assert asset.headers.get_all("Vary") == ["Origin"]


def test_without_the_setting_nothing_is_said(http):
    for answer in (http.get("/orders", headers={"Origin": SHOP}), http.options("/orders", headers=PREFLIGHT)):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control-") or name == "Vary"]


def test_a_preflight_allows_all_that_the_api_reads(shop):
    answer = shop.options("/orders", headers={"Origin": SHOP, **PREFLIGHT})
    assert (answer.status_code, answer.data, readable(answer)) == (204, b"", True)
    assert answer.headers["X-Request-Id"]
    assert answer.headers["Access-Control-Max-Age"] == str(cors.MAX_AGE_SECONDS)
    methods, headers = (listed(answer, f"Access-Control-Allow-{name}") for name in ("Methods", "Headers"))
    assert methods == {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
    assert headers >= {"Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "Prefer"}
    document = openapi.document(shop.application)
    declared = {
        parameter["name"]
        for path in document["paths"].values()
        for operation in path.values()
        for parameter in operation["parameters"]
        if parameter["in"] == "header"
    }
    assert headers == declared | {*cors.REQUEST_HEADERS}


def test_a_preflight_needs_no_token_and_counts_against_no_limit(shared_settings):
    with _serving(shared_settings, **IDENTITY, rate_limit="1/hour", auth_failure_limit="1/hour") as client:
        for _ in range(3):
            assert client.options("/orders", headers={"Origin": SHOP, **PREFLIGHT}).status_code == 204
            assert client.options("/orders", headers={"Origin": FOREIGN[0], **PREFLIGHT}).status_code == 204
        # Other requests of that method do.
        assert client.options("/orders", headers={"Origin": SHOP}).status_code == 401


def test_errors_can_be_read_as_well(shared_settings):
    limits = {"rate_limit": "2/hour", "auth_failure_limit": "100/hour", "allowed_hosts": "orders.example"}
    with _serving(shared_settings, **IDENTITY, **limits) as client:
        origin = {"Origin": SHOP}
        mine = {**origin, **show(token(scope="orders:read orders:write"))}

        def failing():
            yield client.get("/orders", headers=origin)
            yield client.get("/orders", headers={**origin, "Host": "elsewhere.example"})
            yield client.get("/orders/one/x", headers=mine)
            yield client.put("/healthz", headers=mine)
            yield client.post("/orders", data=b"x" * 70_000, content_type="application/json", headers=mine)
            yield client.get("/nowhere", headers=mine)
            yield client.get("/orders", headers=mine)

        assert [(answer.status_code, readable(answer)) for answer in failing()] == [
            (status, True) for status in (401, 421, 404, 405, 413, 404, 429)
        ]
        last = client.get("/orders", headers=mine)
        assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= {*last.headers.keys()}


def test_an_unexpected_error_can_be_read(shared_settings, monkeypatch):
    with _serving(shared_settings) as client:
        monkeypatch.setattr("app.gateway.routes.lists.page_limit", lambda: 1 / 0)
        answer = client.get("/orders", headers={"Origin": SHOP})
        assert (answer.status_code, readable(answer)) == (500, True)


def test_a_listed_page_may_change_something_where_nobody_is_authenticated(shop, refused):
    """A browser on this machine marks such a request as one of another site."""
    marked = {"Sec-Fetch-Site": "cross-site"}
    assert shop.post("/orders", json=ORDER, headers={"Origin": SHOP, **marked}).status_code == 201
    refused(shop.post("/orders", json=ORDER, headers={"Origin": FOREIGN[0], **marked}), 403, "cross_site_request")
    refused(shop.post("/orders", json=ORDER, headers=marked), 403, "cross_site_request")
