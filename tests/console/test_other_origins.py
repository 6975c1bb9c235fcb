"""Pages of other origins in a real browser: what CORS_ORIGINS lets them do, and that it lets no other page do it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.console.pages import IDENTITY, token
from tests.console.server import Server, running

pytestmark = pytest.mark.extended

# What a front end does, with all headers that it may send. It resolves to what the page could read, or to the browser's refusal.
CALL = """
async ([url, options]) => {
  try {
    const response = await fetch(url, options);
    return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
  } catch (error) {
    return { refused: String(error) };
  }
}
"""
FOLLOW = """
(url) => new Promise((resolve) => {
  const source = new EventSource(url), types = [];
  source.onerror = () => { source.close(); resolve(types); };
  for (const type of ["OrderCreated", "PaymentCaptured"]) {
    source.addEventListener(type, () => {
      types.push(type);
      if (type === "PaymentCaptured") { source.close(); resolve(types); }
    });
  }
})
"""
READ_STREAM = """
async ([url, headers]) => {
  const reader = (await fetch(url, { headers })).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("event: PaymentCaptured")) text += (await reader.read()).value;
  await reader.cancel();
  return text.split("\\n").filter((line) => line.startsWith("event:"));
}
"""
ORDER = '{"userId": "ada", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}'


class EmptyPage(BaseHTTPRequestHandler):
    """Serves a page without any content or policy, as a front end's own server would."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>shop</title><link rel=icon href=data:,>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def front_end() -> Iterator[str]:
    """The origin of a front end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    """The origin that the server lists."""
    with front_end() as origin:
        yield origin


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    """Another origin: only its port differs."""
    with front_end() as origin:
        yield origin


@pytest.fixture(scope="module")
def api(chromium, shop, mongodb_uri, mongo, console_database, tmp_path_factory) -> Iterator[Server]:
    """A server with authentication, whose front end is `shop`."""
    name, folder = f"{console_database}_api", tmp_path_factory.mktemp("api")
    with running(mongodb_uri, name, folder, CORS_ORIGINS=shop, RATE_LIMIT="1000/minute", **IDENTITY) as started:
        yield started
    mongo.drop_database(name)


@pytest.fixture
def call(open_page, api) -> Callable[..., dict[str, Any]]:
    """Call the API from a page of an origin."""

    def made(origin: str, method: str, path: str, body: str = "", **headers: str) -> dict[str, Any]:
        page: Page = open_page(origin)
        options = {"method": method, "headers": headers, **({"body": body} if body else {})}
        found: dict[str, Any] = page.evaluate(CALL, [f"{api.url}{path}", options])
        return found

    return made


@pytest.fixture
def mine() -> dict[str, str]:
    return {"Authorization": f"Bearer {token('ada', 'orders:read orders:write orders:fulfil')}"}


def placed(call, origin, mine) -> dict[str, Any]:
    json = {"Content-Type": "application/json", "Prefer": "wait=20", "Idempotency-Key": "from-a-page"}
    return call(origin, "POST", "/orders", ORDER, **json, **mine, **{"X-Request-Id": "shop:1"})


def test_a_listed_page_places_changes_and_reads_an_order(call, shop, mine):
    first, again = placed(call, shop, mine), placed(call, shop, mine)
    assert (first["status"], again["status"]) == (201, 201)
    headers = again["headers"]
    assert headers["x-request-id"] == "shop:1"
    assert headers["idempotent-replayed"] == "true"
    assert headers["preference-applied"].startswith("wait")
    assert "ratelimit" in headers
    one = headers["location"]
    found = call(shop, "GET", one, **mine, **{"If-None-Match": headers["etag"]})
    assert found["status"] == 304
    body = '{"orderId": "' + one.rpartition("/")[2] + '", "orderStatus": "Packed"}'
    changed = call(shop, "PUT", "/orders", body, **mine, **{"Content-Type": "application/json", "If-Match": '"x"'})
    assert changed["status"] == 412
    assert changed["headers"]["etag"] == headers["etag"]


def test_a_listed_page_reads_errors(call, shop, mine):
    assert call(shop, "GET", "/orders")["status"] == 401
    missing = call(shop, "GET", "/orders/one/692000000000000000000000", **mine)
    assert (missing["status"], "order_not_found" in missing["body"]) == (404, True)
    large = call(shop, "POST", "/orders", "x" * 70_000, **mine, **{"Content-Type": "application/json"})
    assert large["status"] == 413


def test_a_listed_page_reads_a_stream_of_events(open_page, call, api, shop, mine):
    one = placed(call, shop, mine)["headers"]["location"]
    headers = {**mine, "Accept": "text/event-stream", "Last-Event-ID": "1"}
    assert open_page(shop).evaluate(READ_STREAM, [f"{api.url}{one}/events", headers]) == ["event: PaymentCaptured"]


def test_a_browser_refuses_every_answer_to_a_page_of_another_origin(call, stranger, shop, mine):
    refusal = {"refused": "TypeError: Failed to fetch"}
    assert call(stranger, "GET", "/orders") == refusal
    assert call(stranger, "GET", "/orders", **mine) == refusal
    assert placed(call, stranger, mine) == refusal
    assert call(shop, "GET", "/orders", **mine)["status"] == 200


def test_where_nobody_is_authenticated_only_the_listed_page_changes_anything(
    open_page, mongodb_uri, mongo, console_database, tmp_path, shop, stranger
):
    name = f"{console_database}_open"
    simple = {"method": "POST", "body": ORDER, "headers": {"Content-Type": "text/plain"}}
    json = {**simple, "headers": {"Content-Type": "application/json", "Prefer": "wait=20"}}
    with running(mongodb_uri, name, tmp_path, CORS_ORIGINS=shop, WEB_CONCURRENCY="1") as open_server:
        address = f"{open_server.url}/orders"
        for options in (simple, json):
            assert "refused" in open_page(stranger).evaluate(CALL, [address, options])
        assert open_server.get("/orders")["orders"] == []
        page = open_page(shop)
        made = page.evaluate(CALL, [address, json])
        assert made["status"] == 201
        events = f"{open_server.url}{made['headers']['location']}/events"
        assert page.evaluate(FOLLOW, events) == ["OrderCreated", "PaymentCaptured"]
        assert open_page(stranger).evaluate(FOLLOW, events) == []
    mongo.drop_database(name)
