"""API4:2023 again, for connections: few clients that never pause, or many that never finish, do not delay other clients.

No figure decides here but an order of events: what others ask for is answered, and what they order is paid, while the flood goes on.
"""

import json
import statistics
import time
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPResponse

import pytest

from tests.security.conftest import AUDIENCE, ISSUER
from tests.security.flood import CHUNKED, ENDLESS, FROM, GET, KINDS, POST, flooding
from tests.security.served import PATIENCE, connect, get, served, settled_order

pytestmark = pytest.mark.extended

ASKED = 20
WORKERS = ["gevent", "gthread", "gevent with identity"]


@pytest.fixture(scope="module", params=WORKERS)
def defended(request, mongodb_uri, mongo, tmp_path_factory, issuer):
    """A server that ends no connection for its many requests: its port, and the headers that its users send."""
    worker, _, identity = request.param.partition(" with ")
    environ, headers = {"WORKER_CLASS": worker, "REQUESTS_PER_CONNECTION": "1000000"}, {}
    if identity:
        environ |= {
            "AUTH_JWT_ALGORITHM": "RS256",
            "AUTH_JWT_KEY": issuer.public_pem.decode(),
            "AUTH_JWT_ISSUER": ISSUER,
            "AUTH_JWT_AUDIENCE": AUDIENCE,
            "RATE_LIMIT": "1000/second",
        }
        headers = {"Authorization": f"Bearer {issuer.token('ada')}"}
    with served(mongodb_uri, mongo, tmp_path_factory.mktemp("defended"), **environ) as port:
        yield port, headers


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_over_few_connections_keeps_nobody_waiting(defended, kind, tmp_path, record_property):
    port, headers = defended
    with flooding(kind, port, tmp_path) as flood:
        times = [timed(get, port, "/orders/ada", **headers) for _ in range(ASKED)]
        settled = timed(settled_order, port, **headers)
        assert flood.goes_on()
    assert [answer.status for _, answer in times] == [200] * ASKED
    assert settled[1] == "Success"
    record_property("median_ms", round(statistics.median(took for took, _ in times) * 1000, 1))
    record_property("settled_ms", round(settled[0] * 1000, 1))


@pytest.mark.parametrize("defended", ["gevent", "gevent with identity"], indirect=True)
@pytest.mark.parametrize("kind", ["pipelined requests", "chunks of one byte"])
def test_nor_does_a_flood_over_many(defended, kind, tmp_path):
    port, headers = defended
    with flooding(kind, port, tmp_path, connections=100) as flood:
        assert get(port, "/orders/ada", **headers).status == 200
        assert settled_order(port, **headers) == "Success"
        assert flood.goes_on()


def timed(call, *what, **more):
    began = time.monotonic()
    answer = call(*what, **more)
    return time.monotonic() - began, answer


REQUESTS, PER_ADDRESS, PLACES = 30, 20, 60
TRUSTED = "127.0.0.9"


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def strict(request, mongodb_uri, mongo, tmp_path_factory):
    """The port of a server with small limits and long deadlines, behind a proxy that lets connections idle."""
    with served(
        mongodb_uri,
        mongo,
        tmp_path_factory.mktemp("strict"),
        WORKER_CLASS=request.param,
        HEAD_DEADLINE="2",
        BODY_DEADLINE="60",
        REQUESTS_PER_CONNECTION=str(REQUESTS),
        CONNECTIONS_PER_ADDRESS=str(PER_ADDRESS),
        FORWARDED_ALLOW_IPS=TRUSTED,
        GUNICORN_CMD_ARGS=f"--keep-alive 75 --worker-connections {PLACES}",
    ) as port:
        yield port


only_gevent = pytest.mark.parametrize("strict", ["gevent"], indirect=True)


def answers(opened):
    """All answers that come until the server closes, as status, headers and body."""
    with opened, opened.makefile("rb") as came:
        found = []
        while came.peek(1):
            response = HTTPResponse(_Sock(came))
            response.begin()
            found.append((response.status, response.headers, response.read()))
        return found


class _Sock:
    """One stream under all the answers that it holds."""

    def __init__(self, stream):
        self._stream = stream

    def makefile(self, _mode):
        return _Unclosed(self._stream)


class _Unclosed:
    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def close(self):
        pass


def test_a_connection_ends_after_so_many_requests_and_says_so(strict):
    found = answers(connect(strict, (GET + b"\r\n") * (2 * REQUESTS)))
    assert [status for status, *_ in found] == [200] * REQUESTS
    assert [headers["Connection"] for _, headers, _ in found] == ["keep-alive"] * (REQUESTS - 1) + ["close"]


def test_a_slow_head_ends_while_an_idle_connection_stays(strict):
    """The head's deadline, however long connections may idle."""
    idle = HTTPConnection("127.0.0.1", strict, timeout=PATIENCE)
    idle.request("GET", "/healthz")
    idle.getresponse().read()
    same = idle.sock
    with connect(strict, GET) as slow:
        slow.settimeout(0.05)
        while not ended(slow, b"a"):
            pass
    idle.request("GET", "/healthz")
    assert idle.getresponse().status == 200
    assert idle.sock is same
    idle.close()


def ended(opened, drip):
    """Send a little more; whether the server has closed."""
    try:
        opened.send(drip)
        return not opened.recv(4096)
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("head", [POST + ENDLESS, GET + ENDLESS], ids=["that is refused", "that is not read"])
def test_an_endless_body_is_not_read_but_ends_the_connection(strict, head):
    with connect(strict, head) as opened:
        response = HTTPResponse(opened)
        response.begin()
        assert (response.status, response.headers["Connection"]) in {(413, "close"), (200, "close")}
        response.read()
        sent = 0
        while not over(opened):
            sent += 1
            assert sent < 10_000, "it is read on and on"


def over(opened):
    try:
        opened.sendall(b" " * 65536)
    except OSError:
        return True
    return False


def chunks(data, size):
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_chunks_may_cost_only_so_much_on_the_wire(strict):
    body = json.dumps({"userId": "ada", "productId": "1", "productName": "p", "totalOrderAmount": "RM 9"}).encode()
    large = body + b" " * (64 * 1024 - len(body))
    [(coarse, *_)] = answers(
        connect(
            strict, CHUNKED.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close") + chunks(large, 100)
        )
    )
    assert coarse == 201
    with connect(strict, CHUNKED) as opened:
        with suppress(OSError):
            opened.sendall(chunks(large, 1))
        response = HTTPResponse(opened)
        response.begin()
        assert response.status == 413


@only_gevent
def test_an_address_has_only_so_many_connections_and_others_have_theirs(strict):
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(strict, b"", FROM)) for _ in range(PER_ADDRESS)]
        one_more = answers(connect(strict, b"", FROM))
        assert [(status, json.loads(body)["code"]) for status, _, body in one_more] == [(429, "rate_limited")]
        assert get(strict, "/healthz").status == 200
        opened.pop().close()
        while get(strict, "/healthz", FROM).status != 200:
            pass


@only_gevent
def test_a_trusted_proxy_has_as_many_as_it_needs(strict):
    with ExitStack() as stack:
        for _ in range(2 * PER_ADDRESS):
            stack.enter_context(connect(strict, b"", TRUSTED))
        assert get(strict, "/healthz", TRUSTED).status == 200


@only_gevent
def test_half_open_bodies_from_many_addresses_take_no_places_from_those_who_send_theirs(strict):
    """More connections than allowed, each with a distant deadline: the oldest are closed with a problem."""
    half = POST + b"Content-Length: 100\r\n\r\n{"
    with ExitStack() as stack:
        opened = [
            stack.enter_context(connect(strict, half, f"127.0.1.{number % 7}")) for number in range(7 * PER_ADDRESS)
        ]
        for _ in range(ASKED):
            assert get(strict, "/healthz").status == 200
        assert settled_order(strict) == "Success"
        status, _, body = answers(opened[0])[0]
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        opened[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            opened[-1].recv(1)
