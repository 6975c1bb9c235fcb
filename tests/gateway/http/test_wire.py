"""HTTP as it comes over the wire, through the real server: chunks, broken requests, connections kept open."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, parse_headers
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from tools.cluster.processes import free_port

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[3]
NEW = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
GOOD = json.dumps(NEW).encode()
LARGEST = 64 * 1024
# On a busy machine a test may be slow to send its next request.
KEEP_ALIVE = "--keep-alive 75"
MADE = re.compile(r"[0-9a-f]{32}\Z")


class Connection:
    """One connection; answers are read off it one by one, so that none can hide behind another."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        """The next answer, as status, headers and content."""
        status = int(self.file.readline().split()[1])
        headers = parse_headers(self.file)
        return Answer(status, headers, self.file.read(int(headers["Content-Length"])))

    def ended(self):
        """Whether the server says no more and has closed."""
        return self.file.read() == b""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    content: bytes


@pytest.fixture(scope="module")
def name():
    return f"test_{uuid4().hex}"


@contextmanager
def served(uri, name, folder, **environ):
    """The server, as it is run, with one worker; the port it listens on."""
    port = free_port()
    own = {
        "MONGODB_URI": uri,
        "MONGODB_DATABASE": name,
        "ORDERFLOW_DATA": str(folder),
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "LOG_LEVEL": "error",
        "REQUEST_DEADLINE": "10",
        "GUNICORN_CMD_ARGS": KEEP_ALIVE,
    }
    given = {variable: value.format(port=port) for variable, value in environ.items()}
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own, **given}, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        server.terminate()
        assert server.wait(60) == 0


@pytest.fixture(scope="module")
def port(mongodb_uri, mongo, name, tmp_path_factory):
    with served(mongodb_uri, name, tmp_path_factory.mktemp("data")) as port:
        yield port
    mongo.drop_database(name)


def ready(port):
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as probe:
            probe.request("GET", "/readyz")
            return probe.getresponse().status == 200
    except OSError:
        return False


@pytest.fixture
def connection(port, eventually):
    """A connection to the server once it can serve."""
    eventually(lambda: ready(port), 60)
    with Connection(port) as opened:
        yield opened


@pytest.fixture
def stored(mongo, name):
    """How many orders there are."""
    return lambda: mongo[name].orders.count_documents({})


def request(method, path, *headers, body=b""):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode() + body


def post(*headers, body=b"", kind="application/json"):
    return request("POST", "/orders", f"Content-Type: {kind}", *headers, body=body)


def sized(body, **more):
    return post(f"Content-Length: {len(body)}", body=body, **more)


def chunked(body, size=8000):
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return post("Transfer-Encoding: chunked", body=chunks + b"0\r\n\r\n")


def check_problem(answer, status, code):
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.content
    body = json.loads(answer.content)
    assert (body["code"], body["requestId"]) == (code, answer.headers["X-Request-Id"])


def check_lives(connection):
    connection.send(request("GET", "/healthz"))
    assert json.loads(connection.answer().content) == {"ok": True}


@pytest.mark.parametrize("way", [sized, chunked])
@pytest.mark.parametrize("size", [len(GOOD), LARGEST])
def test_a_body_is_read_completely(connection, stored, way, size):
    before = stored()
    connection.send(way(GOOD.ljust(size)))
    assert connection.answer().status == 201
    assert stored() == before + 1
    check_lives(connection)


@pytest.mark.parametrize("way", [sized, chunked])
@pytest.mark.parametrize("size", [LARGEST + 1, LARGEST + 3000])
def test_a_body_above_64_kib_is_refused_and_not_cut(connection, stored, way, size):
    before = stored()
    connection.send(way(GOOD.ljust(size)))
    check_problem(connection.answer(), 413, "body_too_large")
    assert stored() == before


def test_a_body_above_64_kib_is_refused_before_it_is_sent(connection, stored):
    before = stored()
    connection.send(post("Content-Length: 1000000000"))
    check_problem(connection.answer(), 413, "body_too_large")
    assert stored() == before


def test_chunks_that_cannot_be_read_are_refused(connection, stored):
    before = stored()
    connection.send(post("Transfer-Encoding: chunked", body=b"zz\r\n%s\r\n0\r\n\r\n" % GOOD))
    answer = connection.answer()
    assert answer.status == 400
    check_problem(answer, 400, json.loads(answer.content)["code"])
    assert stored() == before


@pytest.mark.parametrize(
    "broken_off",
    [
        post("Content-Length: 1000", body=GOOD),
        post("Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n" % (len(GOOD), GOOD)),
        post("Transfer-Encoding: chunked", body=b"fff\r\n%s" % GOOD),
    ],
    ids=["by length", "between chunks", "within a chunk"],
)
def test_an_order_whose_sending_broke_off_is_not_stored(connection, stored, broken_off):
    before = stored()
    connection.send(broken_off)
    connection.socket.shutdown(socket.SHUT_WR)
    answer = connection.answer()
    assert answer.status == 400, answer.content
    assert stored() == before


@pytest.mark.parametrize(
    "lengths",
    [
        ("Content-Length: 2", "Transfer-Encoding: chunked"),
        ("Content-Length: 2", "Content-Length: 3"),
        ("Content-Length: -1",),
        ("Content-Length: x",),
        ("Transfer-Encoding: chunked, identity",),
    ],
    ids=",".join,
)
def test_a_request_of_doubtful_length_is_refused(connection, stored, lengths):
    before = stored()
    connection.send(post(*lengths, body=b"0\r\n\r\n"))
    assert 400 <= connection.answer().status < 502
    assert stored() == before


@pytest.mark.parametrize("body", [b"[" * 65_000, b'{"a":' * 13_000, b"[" * 32_000 + b"]" * 32_000])
def test_deep_nesting_is_refused_and_the_server_lives_on(connection, body):
    connection.send(sized(body))
    check_problem(connection.answer(), 400, "malformed_body")
    check_lives(connection)


@pytest.mark.parametrize("hidden", [request("DELETE", "/orders"), sized(GOOD)], ids=["a request", "an order"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_the_rest_of_a_rejected_body_is_not_read_as_a_request(connection, stored, hidden, kind):
    before = stored()
    connection.send(sized(hidden, kind=kind) + request("GET", "/healthz", "X-Request-Id: next"))
    refusal = connection.answer()
    assert refusal.status in {400, 415}
    if refusal.headers["Connection"] == "close":
        assert connection.ended()
    else:
        assert connection.answer().headers["X-Request-Id"] == "next"
    assert stored() == before


@pytest.mark.parametrize("header", ["a,b", "a b", "x" * 65, "é", "<x>", ""])
def test_an_invalid_request_id_is_replaced(connection, header):
    connection.send(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {header}\r\n\r\n".encode())
    assert MADE.match(connection.answer().headers["X-Request-Id"])


def test_two_request_ids_are_none(connection):
    connection.send(request("GET", "/healthz", "X-Request-Id: a", "X-Request-Id: b"))
    assert MADE.match(connection.answer().headers["X-Request-Id"])


@pytest.mark.parametrize("header", ["a\r\n folded", "a\rSet-Cookie: x=1", "a\nSet-Cookie: x=1", "a\0"])
def test_a_request_id_never_becomes_a_header_of_its_own(connection, header):
    connection.send(request("GET", "/healthz", f"X-Request-Id: {header}"))
    answer = connection.answer()
    assert "Set-Cookie" not in answer.headers
    assert (
        answer.headers.get("X-Request-Id") is None
        or MADE.match(answer.headers["X-Request-Id"])
        or (answer.headers["X-Request-Id"] == "a")
    )


def test_a_user_in_the_path_is_decoded_once(connection):
    connection.send(sized(json.dumps({**NEW, "userId": "a%20b ü"}).encode()))
    assert connection.answer().status == 201
    connection.send(request("GET", "/orders/a%2520b%20%C3%BC"))
    assert [order["userId"] for order in json.loads(connection.answer().content)["orders"]] == ["a%20b ü"]


def test_an_address_with_a_doubled_slash_leads_nowhere(connection):
    connection.send(request("GET", "/orders//one"))
    check_problem(connection.answer(), 404, "not_found")


def test_an_order_settles_behind_the_real_server(connection, eventually):
    connection.send(sized(GOOD))
    order_id = json.loads(connection.answer().content)["created"]["id"]

    def status():
        connection.send(request("GET", f"/orders/status/{order_id}"))
        return json.loads(connection.answer().content)["orderStatus"]

    eventually(lambda: status() == "Success")


@pytest.mark.parametrize(
    "host",
    [
        *("Host: evil.example", "Host: evil.example:7000", "Host: 192.0.2.7", "Host: localhost.evil.example", "Host:"),
        *(
            "Host: localhost@evil.example",
            "Host: 2130706433",
            "X-Forwarded-Host: localhost",
            "Forwarded: host=localhost",
        ),
    ],
)
def test_a_request_for_another_host_or_for_none_is_refused(connection, stored, host):
    before = stored()
    connection.send(sized(GOOD).replace(b"Host: localhost", host.encode()))
    check_problem(connection.answer(), 421, "misdirected_request")
    connection.send(request("GET", "/orders").replace(b"Host: localhost", host.encode()))
    check_problem(connection.answer(), 421, "misdirected_request")
    assert stored() == before
    connection.send(request("GET", "/readyz").replace(b"Host: localhost", host.encode()))
    assert connection.answer().status == 200


@pytest.mark.parametrize("host", ["Host: localhost:1", "Host: 127.0.0.1", "Host: [::1]:7000", "host:LOCALHOST"])
def test_this_machine_has_several_names(connection, host):
    connection.send(request("GET", "/orders").replace(b"Host: localhost", host.encode()))
    assert connection.answer().status == 200


def test_of_two_hosts_neither_counts(connection, stored):
    before = stored()
    connection.send(sized(GOOD).replace(b"Host: localhost", b"Host: localhost\r\nHost: evil.example"))
    assert connection.answer().status in {400, 421}
    assert stored() == before


@pytest.mark.parametrize(
    ("target", "status", "location"),
    [
        ("//orders", 404, None),
        ("//orders/", 404, None),
        ("/%2Forders", 404, None),
        ("//evil.example/", 404, None),
        ("//evil.example/orders/", 404, None),
        ("http://evil.example//orders", 404, None),
        ("/orders//", 404, None),
        ("/orders/?limit=1&cursor=a%2Bb", 308, "/orders?limit=1&cursor=a%2Bb"),
        ("/orders/user-7/", 308, "/orders/user-7"),
        ("http://localhost/healthz/", 308, "/healthz"),
        ("/orders/user-7%2F", 404, None),
        ("/api/", 200, None),
    ],
)
def test_every_route_has_one_address(connection, target, status, location):
    connection.send(request("GET", target))
    answer = connection.answer()
    assert (answer.status, answer.headers["Location"]) == (status, location)
    check_lives(connection)


@pytest.fixture(scope="module")
def dual(mongodb_uri, mongo, name, tmp_path_factory):
    """A server that listens on IPv6 and IPv4 at once, behind a proxy on 127.0.0.1; its port."""
    environ = {
        "GUNICORN_CMD_ARGS": f"{KEEP_ALIVE} --bind [::]:{{port}}",
        "ALLOW_UNSAFE": "no_identity",
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "RATE_LIMIT": "2/hour",
    }
    with served(mongodb_uri, f"{name}_dual", tmp_path_factory.mktemp("dual"), **environ) as port:
        yield port
    mongo.drop_database(f"{name}_dual")


def test_behind_a_listener_on_ipv6_clients_of_ipv4_count_separately(dual, eventually):
    """They and their proxy are seen as ::ffff:127.0.0.1 there; ports that a proxy adds make no other client."""
    eventually(lambda: ready(dual), 60)
    with Connection(dual) as opened:

        def status(client):
            opened.send(request("GET", "/state-machine", f"X-Forwarded-For: {client}", "X-Forwarded-Proto: https"))
            answer = opened.answer()
            assert "Strict-Transport-Security" in answer.headers
            return answer.status

        first = [status(f"198.51.100.1:{port}") for port in (4711, 4712)]
        assert first == [200, 200]
        # One that could not be counted in time has passed.
        ports = count(4713)
        eventually(lambda: status(f"198.51.100.1:{next(ports)}") == 429)
        assert [status("198.51.100.2"), status("[2001:db8::1]:443"), status("::ffff:198.51.100.3")] == [200] * 3
