"""A real nginx in front of two gateways, which tests control."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.gateway.http import body
from app.gateway.http.long_poll import MAX_WAIT_SECONDS
from app.gateway.http.problem_catalogue import PROBLEMS
from app.gateway.routes.timeline import HEARTBEAT_SECONDS
from tools.cluster.processes import free_port

pytestmark = pytest.mark.extended

FILE = Path(__file__).parents[2] / "deploy/nginx/nginx.conf"
CONF = FILE.read_text()
STATUSES = {
    int(status): json.loads(f"{{{members}}}") for status, members in re.findall(r"(?m)^\s+(\d{3}) '(\".*)';$", CONF)
}


def setting(name, text=CONF):
    return re.search(rf"(?m)^\s*{name}\s+(.*);$", text)[1]


class Gateway:
    """A server that records its requests and answers 200 unless the path says otherwise."""

    def __init__(self):
        self.requests = []
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def _handler(self):
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                gateway.requests.append((self.command, self.path, self.headers, self.client_address, len(sent)))
                if self.path == "/dies" and not gateway.released.is_set():
                    self.close_connection = True
                    return
                self.send_response(200)
                if self.path == "/stream":
                    self.stream()
                    return
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def stream(self):
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("X-Accel-Buffering", "no")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"id: 1\n\n")
                gateway.released.wait(60)
                self.wfile.write(b"id: 2\n\n")

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def gateways():
    """Two gateways."""
    both = [Gateway(), Gateway()]
    yield both
    for one in both:
        one.released.set()
        one.stop()


@pytest.fixture(scope="session")
def nginx():
    """The path of the nginx program."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None and not os.environ.get("CI"):
        pytest.skip("nginx is missing; on Debian: apt-get install nginx")
    return found


def configured(folder, port, *upstreams):
    """Returns nginx's arguments for a configuration with all files in a folder and these gateways."""
    text = CONF.replace("/tmp/", f"{folder}/").replace("listen 7000", f"listen 127.0.0.1:{port}")
    for number, upstream in enumerate(upstreams, 1):
        text = text.replace(f"gateway-{number}:7000", f"127.0.0.1:{upstream}")
    (folder / "nginx.conf").write_text(text)
    return [f"-e{folder}/error.log", f"-c{folder}/nginx.conf", "-gdaemon off;"]


@contextmanager
def serving(nginx, folder, *upstreams):
    port = free_port()
    process = subprocess.Popen([nginx, *configured(folder, port, *upstreams)], stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < ends
                time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def port(nginx, tmp_path, gateways):
    """The port of an nginx in front of both gateways."""
    with serving(nginx, tmp_path, *(each.port for each in gateways)) as port:
        yield port


def send(port, method="GET", path="/", sent=None, **headers):
    """Sends a request; returns status, headers and body of the answer."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, sent, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def raw(port, sent):
    """Sends bytes; returns status, headers and body of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body_bytes = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body_bytes


def problem(answer, status, code):
    actual_status, headers, text = answer
    read = json.loads(text)
    assert (actual_status, read["status"], read["code"]) == (status, status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Request-Id"] == read["requestId"]
    return read


def test_nginx_accepts_its_configuration(nginx, tmp_path):
    checked = subprocess.run(
        [nginx, "-t", *configured(tmp_path, 7000, 1, 2)], capture_output=True, text=True, check=False
    )
    output = (tmp_path / "error.log").read_text() + checked.stderr
    assert checked.returncode == 0, output
    assert "warn" not in output


def test_a_request_reaches_a_gateway_unchanged_and_with_its_origin(port, gateways):
    send(
        port,
        path="/orders//%2e%2E/a%2Fb?c=%20",
        Host="shop.example",
        X_Request_Id="shop:7",
        X_Forwarded_For="192.0.2.1",
    )
    [(method, path, headers, _, _)] = [request for each in gateways for request in each.requests]
    assert (method, path) == ("GET", "/orders//%2e%2E/a%2Fb?c=%20")
    assert headers["Host"] == "shop.example"
    assert headers["X-Request-Id"] == "shop:7"
    # The settings of the gateways say which part of it they trust.
    assert headers["X-Forwarded-For"] == "192.0.2.1, 127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"


@pytest.mark.parametrize("headers_sent", [{}, {"X_Request_Id": "<script>"}, {"X_Request_Id": "x" * 65}], ids=str)
def test_a_request_without_a_valid_id_gets_one(port, gateways, headers_sent):
    send(port, **headers_sent)
    [(_, _, headers, _, _)] = [request for each in gateways for request in each.requests]
    assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-Id"])


def test_only_one_header_says_where_tls_ends(port, gateways):
    send(port, X_Forwarded_Proto="https", X_Forwarded_Ssl="off", X_Forwarded_Protocol="spdy")
    send(port, X_Forwarded_Proto="gopher")
    first, second = sorted(
        (request[2] for each in gateways for request in each.requests), key=lambda h: h["X-Forwarded-Proto"]
    )
    assert (first["X-Forwarded-Proto"], second["X-Forwarded-Proto"]) == ("http", "https")
    assert not {"X-Forwarded-Ssl", "X-Forwarded-Protocol"} & {*first, *second}


def test_connections_to_gateways_are_kept(port, gateways):
    for _ in range(40):
        send(port)
    assert all(each.requests for each in gateways)
    assert len({request[3] for each in gateways for request in each.requests}) <= 8


def test_clients_do_not_notice_that_one_gateway_is_down(nginx, tmp_path, gateways):
    with serving(nginx, tmp_path, gateways[0].port, free_port()) as port:
        answers = [send(port, method, "/orders", "{}")[0] for _ in range(10) for method in ("POST", "PUT", "GET")]
    assert answers == [200] * 30
    assert len(gateways[0].requests) == 30


def test_a_post_that_was_sent_is_not_sent_again(port, gateways):
    status, headers, text = send(port, "POST", "/dies", "{}", X_Request_Id="once")
    assert problem((status, headers, text), 503, "unavailable")["requestId"] == "once"
    assert headers["Retry-After"] == "1"
    assert [request[0] for each in gateways for request in each.requests] == ["POST"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_idempotent_requests_are_tried_at_the_other_gateway(port, gateways, method):
    gateways[1].released.set()
    for _ in range(2):
        assert send(port, method, "/dies", "{}")[0] == 200


def test_an_event_comes_through_at_once(port, gateways):
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/stream")
        stream = connection.getresponse()
        assert stream.readline() == b"id: 1\n"
        for each in gateways:
            each.released.set()
        assert stream.read() == b"\nid: 2\n\n"


def test_a_body_may_be_as_large_as_for_a_gateway(port, gateways):
    assert int(setting("client_max_body_size").removesuffix("k")) * 1024 == body.MAX_BYTES
    assert send(port, "POST", "/orders", "x" * body.MAX_BYTES)[0] == 200
    assert [request[4] for each in gateways for request in each.requests] == [body.MAX_BYTES]
    problem(send(port, "POST", "/orders", "x" * (body.MAX_BYTES + 1)), 413, "body_too_large")
    assert sum(len(each.requests) for each in gateways) == 1


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/3.7\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
        (b"GET /refused HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404, "not_found"),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405, "method_not_allowed"),
        (b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 9000), 414, "address_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: %s\r\n\r\n" % (b"x" * 9000), 431, "headers_too_large"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
    ],
)
def test_refusals_of_nginx_look_like_those_of_a_gateway(port, gateways, sent, status, code):
    problem(raw(port, sent), status, code)
    assert not any(each.requests for each in gateways)


def test_without_a_gateway_clients_are_told_when_to_try_again(nginx, tmp_path):
    with serving(nginx, tmp_path, free_port(), free_port()) as port:
        status, headers, text = send(port, "POST", "/orders", "{}")
    problem((status, headers, text), 503, "unavailable")
    assert headers["Retry-After"] == "1"


def test_its_refusals_are_those_that_gateways_document():
    default = json.loads(f"{{{setting('default', CONF.partition('map $status $refusal')[2])[1:-1]}}}")
    assert {*STATUSES} == {400, 404, 405, 413, 414, 431, 500, 501}
    for refusal in [*STATUSES.values(), default]:
        kind = PROBLEMS[refusal["code"]]
        assert (refusal["status"], refusal["title"]) == (kind.status, kind.title)
        assert refusal["type"] == f"/problems/{refusal['code']}"
        assert refusal["detail"]
    assert all(status == refusal["status"] for status, refusal in STATUSES.items())


def test_its_timeouts_fit_those_of_gateways_and_clients(gunicorn):
    times = {name: int(seconds) for name, seconds in re.findall(r"(?m)^\s*(\w+_timeout) (\d+)s;", CONF)}
    upstream = int(re.search(r"keepalive 64;[^}]*keepalive_timeout (\d+)s", CONF)[1])
    assert upstream < gunicorn()["keepalive"]
    assert times["proxy_read_timeout"] > max(MAX_WAIT_SECONDS, HEARTBEAT_SECONDS) + 10
    assert times["worker_shutdown_timeout"] >= MAX_WAIT_SECONDS
