"""API4:2023 Unrestricted resource consumption: everything a client can make the server spend has a bound."""

import json
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPResponse

import pytest

from app.main import create_app, runtime
from tests.security import surface
from tests.security.conftest import User
from tests.security.served import connect, get, served
from tests.security.surface import ADMIN, ROWS, WRITING, named

HEAD_SECONDS, BODY_SECONDS = 2, 1
SLOW = 200


@pytest.fixture(scope="module")
def port(mongodb_uri, mongo, tmp_path_factory):
    """The port of a server with more patience: on a busy machine a client may be slow against its will."""
    with served(
        mongodb_uri,
        mongo,
        tmp_path_factory.mktemp("patient"),
        HEAD_DEADLINE="60",
        BODY_DEADLINE="60",
        GUNICORN_CMD_ARGS="--keep-alive=75",
    ) as port:
        yield port


@pytest.fixture
def hasty(mongodb_uri, mongo, tmp_path):
    """The port of a server with less patience."""
    with served(
        mongodb_uri,
        mongo,
        tmp_path,
        HEAD_DEADLINE=str(HEAD_SECONDS),
        BODY_DEADLINE=str(BODY_SECONDS),
        CONNECTIONS_PER_ADDRESS="10000",
        GUNICORN_CMD_ARGS=f"--keep-alive={HEAD_SECONDS}",
    ) as port:
        yield port


def answer(opened):
    """What the server answers, as status and body; it must close then, or answer the next."""
    response = HTTPResponse(opened)
    response.begin()
    return response.status, response.headers, response.read()


def exchange(port, data):
    with connect(port, data) as opened:
        return answer(opened)


POST = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
# How a slow client begins, and what it then sends bit by bit.
SLOWLY = {
    "nothing": (b"", b""),
    "a request line": (b"GET /orders/", b"a"),
    "headers": (b"POST /orders HTTP/1.1\r\nHost: localhost\r\n", b"X-A: b\r\n"),
    "a body": (POST + b"Content-Length: 1000\r\n\r\n{", b" "),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a second request": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /", b"a"),
}


@pytest.mark.extended
def test_slow_clients_block_no_other_client_and_are_closed_in_time(hasty, record_property):
    """Two hundred of each kind, dripping; meanwhile others are served, and in the end none is left."""
    slow, seen, served, answers = {}, {}, [], Counter()
    began = time.monotonic()
    with ExitStack() as stack:
        for kind, (begin, _) in SLOWLY.items():
            for _ in range(SLOW):
                opened = stack.enter_context(connect(hasty, begin))
                opened.setblocking(False)
                slow[opened] = kind
        while slow and time.monotonic() - began < 90:
            for opened in list(slow):
                ended, status = look(opened, SLOWLY[slow[opened]][1])
                answers.update([(slow[opened], status)] if status else [])
                if ended:
                    seen[slow.pop(opened)] = time.monotonic() - began
            started = time.monotonic()
            assert get(hasty, "/orders/user-7").status == 200
            # Only what was served while slow ones were still there.
            served += [time.monotonic() - started] * bool(slow)
    assert not slow, Counter(slow.values())
    assert seen.keys() == SLOWLY.keys()
    # How long each took is on record, and no verdict: on a busy machine it says nothing.
    record_property("slowest", max(served))
    record_property("last", max(seen.values()))
    assert len(served) >= 3
    assert answers["a body", 408] > SLOW / 2
    assert answers["chunks", 408] > SLOW / 2


def look(opened, drip):
    """Send a little more and see what came: whether the connection has ended, and the status of an answer."""
    try:
        opened.send(drip)
        came = opened.recv(4096)
    except BlockingIOError:
        return False, None
    except OSError:
        return True, None
    return not came, int(came.split()[1]) if came.startswith(b"HTTP/") else None


MALFORMED = {
    "no version": b"GET /healthz\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/9.9\r\n\r\n",
    "a method in small letters": b"get /healthz HTTP/1.1\r\n\r\n",
    "a long method": b"A" * 30 + b" / HTTP/1.1\r\n\r\n",
    "no slash": b"GET SECRET HTTP/1.1\r\n\r\n",
    "a space in the address": b"GET /a b HTTP/1.1\r\n\r\n",
    "a control character": b"GET /\x01 HTTP/1.1\r\n\r\n",
    "not ASCII": "GET /é HTTP/1.1\r\n\r\n".encode(),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a bare line feed": b"GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nSECRET\r\n\r\n",
    "a header without a name": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n: SECRET\r\n\r\n",
    "a space before the colon": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A : b\r\n\r\n",
    "a NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: y\r\n\r\n",
    "two types": POST + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "a length that is none": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
}
TOO_LARGE = {
    "a request line": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", 414, "address_too_long"),
    "a query": (b"GET /healthz?" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", 414, "address_too_long"),
    "an endless request line": (b"GET /" + b"a" * 100_000, 414, "address_too_long"),
    "a header": (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
        431,
        "headers_too_large",
    ),
    "too many headers": (b"GET /healthz HTTP/1.1\r\n" + b"X-A: b\r\n" * 65 + b"\r\n", 431, "headers_too_large"),
    "an endless header": (b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * 700_000, 431, "headers_too_large"),
    "an unknown coding": (POST + b"Transfer-Encoding: unheard-of\r\n\r\n", 501, "not_implemented"),
    "an unknown expectation": (POST + b"Expect: SECRET\r\n\r\n", 417, "expectation_failed"),
    "an announced body": (POST + b"Content-Length: 65537\r\n\r\n", 413, "body_too_large"),
    "an announced giant": (POST + b"Content-Length: 99999999999999999\r\n\r\n", 413, "body_too_large"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_http_is_a_problem_too(port, data):
    check_problem(exchange(port, data), 400, "bad_request")


@pytest.mark.parametrize(("data", "status", "code"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_is_too_large_or_unknown_is_a_problem_too(port, data, status, code):
    check_problem(exchange(port, data), status, code)


def check_problem(exchanged, status, code):
    found, headers, body = exchanged
    told = json.loads(body)
    assert (found, told["status"], told["code"]) == (status, status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["X-Request-Id"] == told["requestId"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert b"SECRET" not in body
    assert b"<html" not in body


@pytest.mark.parametrize(
    "trailer",
    [b"X-A: " + b"a" * 9000, b"X-A: b\r\n" * 70, b"Host: evil", b"x" * 20_000],
    ids=["long", "many", "host", "none"],
)
def test_trailers_have_bounds_too(port, trailer):
    with connect(port, POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + trailer + b"\r\n\r\n") as opened:
        assert answer(opened)[0] in {400, 422, 431}


def test_a_chunk_size_line_has_a_bound(port):
    with connect(port, POST + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * 20_000) as opened:
        assert answer(opened)[0] == 400


# --- what is inside a request ---


def nested(depth, kind):
    opened, closed = ("[", "]") if kind == "lists" else ('{"a":', "}")
    return f"{opened * depth}1{closed * depth}"


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("method", "rule"), WRITING, ids=named(WRITING))
@pytest.mark.parametrize("kind", ["lists", "objects"])
@pytest.mark.parametrize("depth", [20, 21, 100, 900, 5000])
def test_a_body_is_20_deep_at_the_most(ada, operator, refused, method, rule, kind, depth):
    data = f'{{"x": {nested(depth, kind)}}}'
    user = operator if ROWS[method, rule] is ADMIN else ada
    answer = user.open(method, surface.address(rule), data=data, content_type="application/json")
    refused(answer, 400, "malformed_body")


@pytest.mark.parametrize("kind", ["lists", "objects"])
def test_up_to_20_deep_is_read(ada, kind):
    text = json.dumps(surface.BODIES["POST", "/orders"])[:-1]
    data = f'{text}, "x": {nested(19, kind)}, "y": [{", ".join(["{}"] * 50)}]}}'
    answer = ada.open("POST", "/orders?strict=false", data=data, content_type="application/json")
    assert answer.status_code == 201


@pytest.mark.parametrize("limit", ["0", "101", "1000000", "-1", "1e2", "", "%20", "10&limit=10", "NaN", "0x10", "٣"])
def test_a_page_has_100_orders_at_the_most(ada, refused, limit):
    refused(ada.open("GET", f"/orders/ada?limit={limit}"), 400, "invalid_parameter")


def test_a_query_is_read_to_its_first_unknown_parameter(ada, refused):
    answer = ada.open("GET", f"/orders/ada?{'&'.join(f'x{n}=1' for n in range(300))}&limit=1")
    assert refused(answer, 400, "invalid_parameter")["parameter"] == "x0"


def test_one_caller_has_only_so_many_streams(ada, bob, order_of, refused, fort_settings):
    order_id = order_of("ada")
    stream = {"headers": {"Accept": "text/event-stream"}}
    with ExitStack() as stack:
        for _ in range(fort_settings.streams_per_caller):
            opened = ada.open("GET", f"/orders/one/{order_id}/events", **stream)
            stack.callback(opened.close)
            assert opened.status_code == 200
        one_more = ada.open("GET", f"/orders/one/{order_id}/events", **stream)
        refused(one_more, 429, "too_many_streams")
        assert int(one_more.headers["Retry-After"]) >= 1
        others = bob.open("GET", f"/orders/one/{order_of('bob')}/events", **stream)
        assert others.status_code == 200
        others.close()
    again = ada.open("GET", f"/orders/one/{order_id}/events", **stream)
    assert again.status_code == 200
    again.close()


# --- how often ---


@pytest.fixture(scope="module")
def limited(fort_settings):
    """The application with a limit of 20 an hour, and of 5 failures an hour."""
    made = create_app(replace(fort_settings, rate_limit="20/hour", auth_failure_limit="5/hour"))
    runtime(made).prepare()
    with pytest.MonkeyPatch.context() as patched:
        # On a busy machine a count may take longer than a request waits for it, and an uncounted request passes.
        patched.setattr("app.storage.rate_limits.TIMEOUT_SECONDS", 20.0)
        yield made
    runtime(made).stop()


def test_a_flood_is_turned_away_and_others_notice_nothing(limited, issuer):
    flood, other = (User(limited.test_client(), issuer.token(name)) for name in ("flood", "calm"))
    statuses = Counter(flood.open("GET", "/orders/flood").status_code for _ in range(200))
    assert statuses == {200: 20, 429: 180}
    assert other.open("GET", "/orders/calm").status_code == 200


WITHOUT = {
    "no token": (401, lambda issuer: []),
    "a bad token": (401, lambda issuer: ["Bearer bad"]),
    "another scheme": (401, lambda issuer: ["Basic YTpi"]),
    "a token twice": (400, lambda issuer: [f"Bearer {issuer.token()}"] * 2),
    "two tokens in one header": (400, lambda issuer: [f"Bearer {issuer.token()}, Bearer {issuer.token()}"]),
    "a token without scopes": (403, lambda issuer: [f"Bearer {issuer.token(scope='')}"]),
    "a token with another scope": (403, lambda issuer: [f"Bearer {issuer.token(scope='orders:write')}"]),
}


@pytest.mark.parametrize(("status", "shown"), WITHOUT.values(), ids=WITHOUT)
def test_failed_authentication_is_limited_earlier(limited, issuer, status, shown):
    client = limited.test_client()
    here = {"REMOTE_ADDR": f"192.0.2.{list(WITHOUT.values()).index((status, shown)) + 1}"}
    headers = [("Authorization", each) for each in shown(issuer)]
    bad = [client.get("/orders/ada", headers=headers, environ_overrides=here).status_code for _ in range(10)]
    assert bad == [status] * 5 + [429] * 5
    good = {"Authorization": f"Bearer {issuer.token('gina')}"}
    assert client.get("/orders/gina", headers=good, environ_overrides=here).status_code == 200
    assert client.get("/healthz", environ_overrides=here).status_code == 200
