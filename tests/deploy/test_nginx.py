"""nginx before two gateways: a real one, before servers that do what a test wants of them."""

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

pytestmark = pytest.mark.extended

FILE = Path(__file__).parents[2] / "deploy/nginx/nginx.conf"
CONF = FILE.read_text()
STATUSES = {int(status): json.loads(f"{{{told}}}") for status, told in re.findall(r"(?m)^\s+(\d{3}) '(\".*)';$", CONF)}


def setting(name, text=CONF):
    return re.search(rf"(?m)^\s*{name}\s+(.*);$", text)[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Gateway:
    """A server that notes what it is asked, and answers 200 unless a path says otherwise."""

    def __init__(self):
        self.asked = []
        self.go_on = threading.Event()
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
                gateway.asked.append((self.command, self.path, self.headers, self.client_address, len(sent)))
                if self.path == "/dies" and not gateway.go_on.is_set():
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
                gateway.go_on.wait(10)
                self.wfile.write(b"id: 2\n\n")

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def gateways():
    """Two of them."""
    both = [Gateway(), Gateway()]
    yield both
    for one in both:
        one.go_on.set()
        one.stop()


@pytest.fixture(scope="session")
def nginx():
    """The program."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None and not os.environ.get("CI"):
        pytest.skip("nginx is missing; on Debian: apt-get install nginx")
    return found


def configured(folder, port, *upstreams):
    """The configuration with everything in a folder, and gateways where they are here."""
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
        ends = time.monotonic() + 10
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
    """Where nginx serves, before both gateways."""
    with serving(nginx, tmp_path, *(each.port for each in gateways)) as port:
        yield port


def ask(port, method="GET", path="/", sent=None, **headers):
    """Status, headers and body of an answer."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, sent, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def raw(port, sent):
    """The answer to these very bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, told = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), told


def problem(answer, status, code):
    got, headers, told = answer
    read = json.loads(told)
    assert (got, read["status"], read["code"]) == (status, status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Request-Id"] == read["requestId"]
    return read


def test_nginx_understands_its_configuration(nginx, tmp_path):
    checked = subprocess.run(
        [nginx, "-t", *configured(tmp_path, 7000, 1, 2)], capture_output=True, text=True, check=False
    )
    said = (tmp_path / "error.log").read_text() + checked.stderr
    assert checked.returncode == 0, said
    assert "warn" not in said


def test_a_request_comes_to_a_gateway_as_it_was_and_with_where_it_is_from(port, gateways):
    ask(
        port,
        path="/orders//%2e%2E/a%2Fb?c=%20",
        Host="shop.example",
        X_Request_Id="shop:7",
        X_Forwarded_For="192.0.2.1",
    )
    [(method, path, headers, _, _)] = [asked for each in gateways for asked in each.asked]
    assert (method, path) == ("GET", "/orders//%2e%2E/a%2Fb?c=%20")
    assert headers["Host"] == "shop.example"
    assert headers["X-Request-Id"] == "shop:7"
    # Whom to believe how much of it the gateways are told.
    assert headers["X-Forwarded-For"] == "192.0.2.1, 127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"


@pytest.mark.parametrize("given", [{}, {"X_Request_Id": "<script>"}, {"X_Request_Id": "x" * 65}], ids=str)
def test_a_request_without_a_sane_name_is_given_one(port, gateways, given):
    ask(port, **given)
    [(_, _, headers, _, _)] = [asked for each in gateways for asked in each.asked]
    assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-Id"])


def test_where_tls_ends_is_told_in_one_way_alone(port, gateways):
    ask(port, X_Forwarded_Proto="https", X_Forwarded_Ssl="off", X_Forwarded_Protocol="spdy")
    ask(port, X_Forwarded_Proto="gopher")
    first, second = sorted(
        (asked[2] for each in gateways for asked in each.asked), key=lambda h: h["X-Forwarded-Proto"]
    )
    assert (first["X-Forwarded-Proto"], second["X-Forwarded-Proto"]) == ("http", "https")
    assert not {"X-Forwarded-Ssl", "X-Forwarded-Protocol"} & {*first, *second}


def test_connections_to_gateways_are_kept(port, gateways):
    for _ in range(40):
        ask(port)
    assert all(each.asked for each in gateways)
    assert len({asked[3] for each in gateways for asked in each.asked}) <= 8


def test_nobody_notices_that_one_gateway_is_not_there(nginx, tmp_path, gateways):
    with serving(nginx, tmp_path, gateways[0].port, free_port()) as port:
        answers = [ask(port, method, "/orders", "{}")[0] for _ in range(10) for method in ("POST", "PUT", "GET")]
    assert answers == [200] * 30
    assert len(gateways[0].asked) == 30


def test_a_post_that_was_sent_is_not_sent_again(port, gateways):
    status, headers, told = ask(port, "POST", "/dies", "{}", X_Request_Id="once")
    assert problem((status, headers, told), 503, "unavailable")["requestId"] == "once"
    assert headers["Retry-After"] == "1"
    assert [asked[0] for each in gateways for asked in each.asked] == ["POST"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_may_be_repeated_is_tried_at_the_other_gateway(port, gateways, method):
    gateways[1].go_on.set()
    for _ in range(2):
        assert ask(port, method, "/dies", "{}")[0] == 200


def test_an_event_comes_through_at_once(port, gateways):
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/stream")
        stream = connection.getresponse()
        assert stream.readline() == b"id: 1\n"
        for each in gateways:
            each.go_on.set()
        assert stream.read() == b"\nid: 2\n\n"


def test_a_body_may_be_as_large_as_for_a_gateway(port, gateways):
    assert int(setting("client_max_body_size").removesuffix("k")) * 1024 == body.MAX_BYTES
    assert ask(port, "POST", "/orders", "x" * body.MAX_BYTES)[0] == 200
    assert [asked[4] for each in gateways for asked in each.asked] == [body.MAX_BYTES]
    problem(ask(port, "POST", "/orders", "x" * (body.MAX_BYTES + 1)), 413, "body_too_large")
    assert sum(len(each.asked) for each in gateways) == 1


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
def test_what_nginx_refuses_itself_reads_like_a_gateways_refusal(port, gateways, sent, status, code):
    problem(raw(port, sent), status, code)
    assert not any(each.asked for each in gateways)


def test_where_no_gateway_answers_clients_are_told_when_to_come_again(nginx, tmp_path):
    with serving(nginx, tmp_path, free_port(), free_port()) as port:
        status, headers, told = ask(port, "POST", "/orders", "{}")
    problem((status, headers, told), 503, "unavailable")
    assert headers["Retry-After"] == "1"


def test_its_refusals_are_those_that_gateways_document():
    default = json.loads(f"{{{setting('default', CONF.partition('map $status $refusal')[2])[1:-1]}}}")
    assert {*STATUSES} == {400, 404, 405, 413, 414, 431, 500, 501}
    for told in [*STATUSES.values(), default]:
        kind = PROBLEMS[told["code"]]
        assert (told["status"], told["title"]) == (kind.status, kind.title)
        assert told["type"] == f"/problems/{told['code']}"
        assert told["detail"]
    assert all(status == told["status"] for status, told in STATUSES.items())


def test_its_patience_fits_that_of_gateways_and_clients(gunicorn):
    times = {name: int(seconds) for name, seconds in re.findall(r"(?m)^\s*(\w+_timeout) (\d+)s;", CONF)}
    upstream = int(re.search(r"keepalive 64;[^}]*keepalive_timeout (\d+)s", CONF)[1])
    assert upstream < gunicorn()["keepalive"]
    assert times["proxy_read_timeout"] > max(MAX_WAIT_SECONDS, HEARTBEAT_SECONDS) + 10
    assert times["worker_shutdown_timeout"] >= MAX_WAIT_SECONDS
