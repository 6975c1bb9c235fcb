"""Webhooks of the server as it is run, by each kind of worker, while a receiver sends byte by byte without an end.

Under gevent sockets, locks and threads are others than in the tests beside this one. One worker serves and sends, so that what delays
anything delays everything.
"""

import json
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest
from standardwebhooks.webhooks import Webhook

from app.webhooks.http_client import TOTAL_SECONDS
from tests.webhooks.receiver import Receiver, raw, running
from tools.cluster.servers import Server

pytestmark = [pytest.mark.extended, pytest.mark.long, pytest.mark.timeout(400)]

ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
# Of each order that is paid.
EVENTS = {"order.created", "order.succeeded"}
TOGETHER = 10
DRIP_SECONDS = 0.05
# They last for minutes: a head that never ends, and the beginning of a handshake.
ANSWER = b"HTTP/1.1 204 No Content\r\nX-Long: " + b"x" * 8000
HANDSHAKE = b"\x16\x03\x03\x40\x00" + b"\x02" * 8000
SOON = 60.0
ALL_TIMES = {"since": "2026-01-01T00:00:00Z", "until": "2126-01-01T00:00:00Z"}


class Dripping:
    """A receiver that answers byte by byte, until the sender closes the connection, or `release`.

    `tls` is how it speaks TLS: then each byte is one of an encrypted record. Without `handshakes` not even a handshake
    comes to its end.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, handshakes: bool = True) -> None:
        self.url = ""
        self.tls = tls
        self.handshakes = handshakes
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._count = 0
        self._open: set[int] = set()

    def respond(self, connection: socket.socket) -> None:
        """Answer on a connection."""
        with self._lock:
            self._count += 1
            number = self._count
            self._open.add(number)
        try:
            self._drip(connection, self._answer(connection))
        finally:
            with self._lock:
                self._open.remove(number)

    def _answer(self, connection: socket.socket) -> bytes:
        if not self.handshakes:
            return HANDSHAKE
        if self.tls:
            return encrypted(self.tls, connection, ANSWER)
        connection.recv(65_536)
        return ANSWER

    def _drip(self, connection: socket.socket, answer: bytes) -> None:
        for byte in answer:
            connection.sendall(bytes([byte]))
            if self._released.wait(DRIP_SECONDS):
                return

    def hanging(self) -> int | None:
        """The number of a connection that is open now; None without one."""
        with self._lock:
            return next(iter(self._open), None)

    def is_hanging(self, number: int) -> bool:
        """Whether this connection is open."""
        with self._lock:
            return number in self._open

    def release(self) -> None:
        """Let all connections end."""
        self._released.set()


def encrypted(context: ssl.SSLContext, connection: socket.socket, answer: bytes) -> bytes:
    """What is to be sent for an answer over TLS, once the handshake is made and a request has come."""
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, to_send, server_side=True)

    def run(operation):
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                connection.sendall(to_send.read())
                if not received.write(connection.recv(65_536)):
                    received.write_eof()

    run(tls.do_handshake)
    run(tls.read)
    connection.sendall(to_send.read())
    tls.write(answer)
    return to_send.read()


@pytest.fixture(params=["http", "https"])
def tls(request, certificate):
    """How receivers speak TLS; None for plain HTTP."""
    if request.param == "http":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(params=["gevent", "gthread"])
def server(request, settings, tmp_path, certificate):
    """A server with one worker, which trusts the receivers' certificate."""
    environ = {
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        "WEB_CONCURRENCY": "1",
        "WORKER_CLASS": request.param,
        "ALLOW_UNSAFE": "webhook_http",
        # A busy machine may make a command slow.
        "REQUEST_DEADLINE": "10",
        "SSL_CERT_FILE": str(certificate),
    }
    with Server(tmp_path, environ) as started:
        yield started


@contextmanager
def dripping(made):
    """Run a receiver that drips."""
    with raw(made.respond, reads=False) as (url, _):
        made.url = url if made.tls is None and made.handshakes else url.replace("http://127.0.0.1", "https://localhost")
        yield made
        made.release()


@pytest.fixture
def receiver(tls):
    """A receiver that takes everything."""
    with running(Receiver(), tls=tls) as made:
        yield made


@pytest.fixture
def hanging(tls):
    with dripping(Dripping(tls)) as made:
        yield made


@pytest.fixture
def call(server):
    """Send a request to the server; returns the body of the answer, which must be a success."""

    def send(method, path, body=None):
        answer = httpx.request(method, f"{server.url}{path}", json=body, timeout=SOON)
        assert answer.is_success, answer.text
        return answer.json()

    return send


@pytest.fixture
def place(call):
    """Place an order; returns its id."""
    return lambda: call("POST", "/orders", ORDER)["created"]["id"]


@pytest.fixture
def endpoints(call, place, receiver, hanging, eventually):
    """The endpoints, that hangs first and that takes everything, once orders are told to both."""
    added = [call("POST", "/webhooks/endpoints", {"url": one.url})["endpoint"] for one in (hanging, receiver)]

    def is_told():
        order_id = place()
        with suppress(AssertionError):
            return eventually(lambda: told(receiver, [order_id]), 2.0)
        return False

    eventually(is_told, SOON)
    eventually(hanging.hanging, SOON)
    return added


def told(receiver, order_ids) -> bool:
    """Whether the receiver was told all of these orders' events."""
    events = {}
    for one in [*receiver.requests]:
        body = json.loads(one.body)
        events.setdefault(body["data"]["order"]["id"], set()).add(body["type"])
    return all(events.get(order_id) == EVENTS for order_id in order_ids)


def test_while_a_receiver_hangs_orders_are_taken_and_told_to_others_until_its_time_has_passed(
    endpoints, call, place, receiver, hanging, database, eventually
):
    slow, healthy = endpoints

    def all_happens_while_one_attempt_hangs():
        attempt = eventually(hanging.hanging, SOON)
        placed = [place() for _ in range(TOGETHER)]
        eventually(lambda: told(receiver, placed), SOON)
        return hanging.is_hanging(attempt)

    eventually(all_happens_while_one_attempt_hangs, 2 * SOON)

    for one in [*receiver.requests]:
        verified = Webhook(healthy["secret"]).verify(one.body, one.headers)
        assert verified["id"] == one.headers["webhook-id"]

    # The receiver would go on for ever: its attempt has ended because its time has passed.
    # On a busy machine another attempt may have found no connection.
    ended = eventually(
        lambda: database.webhook_deliveries.find_one({"endpointId": slow["id"], "attempts.error": "no answer in time"}),
        SOON,
    )
    attempts = call("GET", f"/webhooks/deliveries/{ended['_id']}")["delivery"]["attempts"]
    attempt = next(one for one in attempts if one.get("error") == "no answer in time")
    assert attempt["tookMs"] >= TOTAL_SECONDS * 1000
    assert database.webhook_deliveries.count_documents({"endpointId": slow["id"], "status": "succeeded"}) == 0


def test_a_handshake_that_comes_byte_by_byte_ends_in_its_time(server, call, database, eventually):
    with dripping(Dripping(handshakes=False)) as hanging:
        endpoint = call("POST", "/webhooks/endpoints", {"url": hanging.url})["endpoint"]
        call("POST", f"/webhooks/endpoints/{endpoint['id']}/test")
        [attempt, *_] = eventually(lambda: (database.webhook_deliveries.find_one() or {}).get("attempts"), SOON)
    assert attempt["error"] == "no connection in time"


def test_a_server_that_is_told_to_stop_while_a_receiver_hangs_ends_by_itself_and_loses_no_delivery(
    endpoints, server, place, call, receiver, hanging, tls, eventually
):
    slow, _ = endpoints
    eventually(hanging.hanging, SOON)
    placed = [place() for _ in range(TOGETHER)]
    processes = server.tree()
    server.terminate()
    _, alive = psutil.wait_procs(processes, SOON)
    log = server.log.read_text()
    assert (alive, "SIGKILL" in log) == ([], False), log
    server.stop()

    server.restart()
    eventually(lambda: told(receiver, placed), SOON)
    with running(Receiver(), tls=tls) as other:
        call("PATCH", f"/webhooks/endpoints/{slow['id']}", {"url": other.url})

        def is_told():
            # What has failed waits for minutes.
            call("POST", f"/webhooks/endpoints/{slow['id']}/replay", ALL_TIMES)
            with suppress(AssertionError):
                return eventually(lambda: told(other, placed), 5.0)
            return False

        eventually(is_told, 2 * SOON)
        for one in [*other.requests]:
            Webhook(slow["secret"]).verify(one.body, one.headers)
