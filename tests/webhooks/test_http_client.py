"""The HTTP client against receivers that lie, hang, redirect and never end, and against names that change their address."""

import json
import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from app.webhooks import http_client
from app.webhooks.http_client import NO_PUBLIC_ADDRESS, WebhookClient
from app.webhooks.public_addresses import AddressRules
from app.webhooks.received_response import MAX_KEPT, MAX_READ
from tests.webhooks.receiver import Receiver, raw, running

LOCAL = AddressRules(loopback=True)
HEADERS = {"webhook-id": "evt_1", "Content-Type": "application/json"}
BODY = b'{"type":"endpoint.test"}'


@pytest.fixture
def make_client():
    """Make clients that are closed at the end; by default one that may call this machine."""
    made = []

    def make(rules: AddressRules = LOCAL, **options) -> WebhookClient:
        made.append(WebhookClient(rules, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(make_client):
    return make_client()


def test_a_webhook_arrives_as_it_was_signed(client):
    with running(Receiver()) as receiver:
        result = client.post(receiver.url, HEADERS, BODY)
        [request] = receiver.wait_for(1)
    assert result.succeeded
    assert (request.body, request.headers["webhook-id"]) == (BODY, "evt_1")
    assert request.headers["content-length"] == str(len(BODY))


@pytest.mark.parametrize("value", ["a\r\nX-Injected: b", "a\nX-Injected: b", "a\r", "a\0", "ä"])
def test_a_header_cannot_carry_another_one(client, value):
    with running(Receiver()) as receiver:
        assert client.post(receiver.url, {"X-Value": value}, BODY).error == "failed: UnusableHeaders"
        assert client.post(receiver.url, {value: "a"}, BODY).error == "failed: UnusableHeaders"
    assert receiver.requests == []


@pytest.mark.parametrize("path", ["/a b", "/ä", "/\0", "/\x7f"])
def test_a_target_cannot_carry_more_than_itself(client, path):
    with running(Receiver()) as receiver:
        assert client.post(f"http://127.0.0.1:{receiver.port}{path}", HEADERS, BODY).error == "failed: UnusableUrl"
    assert receiver.requests == []


def test_connections_are_used_again(client):
    with running(Receiver()) as receiver:
        for _ in range(3):
            assert client.post(receiver.url, HEADERS, BODY).succeeded
    assert len({request.port for request in receiver.requests}) == 1


def test_a_redirect_is_a_failure_and_is_not_followed(client):
    with running(Receiver()) as inside:
        with running(Receiver(answer=lambda *_: (302, {"Location": inside.url}, b""))) as receiver:
            result = client.post(receiver.url, HEADERS, BODY)
        assert (result.status, result.succeeded) == (302, False)
        assert inside.requests == []


def test_the_answer_is_kept_in_part_and_is_text(client):
    with running(Receiver(answer=lambda *_: (400, {}, b"\xff\x00" + b"a" * 5000))) as receiver:
        result = client.post(receiver.url, HEADERS, BODY)
    assert len(result.response.encode("utf-8", "replace")) <= MAX_KEPT + 2
    assert result.response.startswith("�")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("17", 17.0), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("x", 0), ("9" * 5000, 999_999_999)],
)
def test_retry_after_is_read_in_seconds(client, value, seconds):
    with running(Receiver(answer=lambda *_: (429, {"Retry-After": value}, b""))) as receiver:
        assert client.post(receiver.url, HEADERS, BODY).retry_after == seconds


def test_an_endless_answer_is_read_to_a_limit_only(client):
    sent = []

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):
            while len(sent) < 10_000:
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                sent.append(4096)

    with raw(endless) as (url, _):
        result = client.post(url, HEADERS, BODY)
    assert (result.status, len(result.response)) == (200, MAX_KEPT)
    assert sum(sent) < 100 * MAX_READ


def test_a_slow_answer_ends_with_the_time_of_the_request(make_client):
    def slow(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while True:
                connection.sendall(b"a")
                time.sleep(0.02)

    with raw(slow) as (url, _):
        result = make_client(seconds=2.0).post(url, HEADERS, BODY)
    assert (result.status, result.error) == (0, "no answer in time")


def test_a_body_that_does_not_end_leaves_the_status_as_it_is(make_client):
    def half(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        while connection.recv(1024):  # What is left of the request, until the client closes.
            pass

    with raw(half) as (url, _):
        result = make_client(seconds=6.0).post(url, HEADERS, BODY)
    assert (result.status, result.response) == (200, "half")


BROKEN = {
    "closes without an answer": b"",
    "closes in the head": b"HTTP/1.1 200 OK\r\nContent-",
    "speaks another language": b"220 mail.example ESMTP\r\n",
    "has a head of a megabyte": b"HTTP/1.1 200 OK\r\nX-Large: " + b"a" * 1_000_000,
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_is_a_failure_without_a_status(client, answer):
    with raw(lambda connection: connection.sendall(answer)) as (url, _):
        result = client.post(url, HEADERS, BODY)
    assert (result.status, result.succeeded) == (0, False)
    assert "mail.example" not in result.error


def test_nobody_listens(client):
    # Its port is taken, so that nobody else begins to listen there.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert client.post(f"http://127.0.0.1:{port}/", HEADERS, BODY).error == "no connection"


def test_a_name_with_one_address_that_is_not_allowed_is_refused_whole(make_client):
    client = make_client(AddressRules(), resolve=lambda *_: ["8.8.8.8", "10.0.0.1"])
    assert client.post("http://shop.example/", HEADERS, BODY).error == NO_PUBLIC_ADDRESS


def test_the_connection_goes_to_the_checked_address_with_the_name_in_the_request(make_client):
    with running(Receiver()) as receiver:
        port = receiver.url.split(":")[2].partition("/")[0]
        client = make_client(resolve=lambda *_: ["127.0.0.1"])
        assert client.post(f"http://shop.example:{port}/hooks", HEADERS, BODY).succeeded
        [request] = receiver.wait_for(1)
    assert request.headers["host"] == f"shop.example:{port}"


def test_tls_verifies_the_name(client):
    with raw(lambda _: None) as (url, _):
        result = client.post(url.replace("http://", "https://"), HEADERS, BODY)
    assert (result.status, result.succeeded) == (0, False)


def test_requests_at_the_same_time_have_each_its_own_end(make_client):
    hasty_ended = threading.Event()

    def slow_for_one(connection: socket.socket) -> None:
        hasty_ended.wait(60)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    results = {}
    with raw(slow_for_one) as (url, _):
        patient, hasty = make_client(seconds=60.0), make_client(seconds=2.0)
        threads = [
            threading.Thread(
                target=lambda name, client: results.update({name: client.post(url, HEADERS, BODY)}), args=one
            )
            for one in (("patient", patient), ("hasty", hasty))
        ]
        for thread in threads:
            thread.start()
        threads[1].join()
        hasty_ended.set()
        threads[0].join()
    assert results["patient"].status == 204
    assert results["hasty"].error == "no answer in time"


def test_a_result_never_shows_what_an_internal_host_said(make_client):
    """A host that is refused was never asked; its answer cannot be in the result."""
    with running(Receiver(answer=lambda *_: (200, {}, json.dumps({"token": "secret"}).encode()))) as receiver:
        result = make_client(AddressRules()).post(receiver.url, HEADERS, BODY)
    assert (result.status, result.response) == (0, "")


@pytest.fixture
def trusting(client, certificate):
    """A client that trusts the certificate."""
    client._network._context.load_verify_locations(certificate)
    return client


@pytest.fixture
def tls(certificate):
    """How a receiver speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_over_tls_a_webhook_arrives_as_it_was_signed_and_connections_are_used_again(trusting, tls):
    large = b"{" + b" " * 300_000 + b"}"
    with running(Receiver(answer=lambda *_: (200, {}, b"taken" * 10_000)), tls=tls) as receiver:
        results = [trusting.post(receiver.url, HEADERS, body) for body in (BODY, large)]
    assert [(result.status, len(result.response)) for result in results] == [(200, MAX_KEPT)] * 2
    assert [request.body for request in receiver.requests] == [BODY, large]
    assert len({request.port for request in receiver.requests}) == 1


def test_a_certificate_of_another_name_is_refused(make_client, certificate, tls):
    with running(Receiver(), tls=tls) as receiver:
        client = make_client(resolve=lambda *_: ["127.0.0.1"])
        client._network._context.load_verify_locations(certificate)
        result = client.post(receiver.url.replace("localhost", "shop.example"), HEADERS, BODY)
    assert result.error.startswith("TLS failed: Hostname mismatch")
    assert receiver.requests == []


def test_a_certificate_of_nobody_known_is_refused(client, tls):
    with running(Receiver(), tls=tls) as receiver:
        result = client.post(receiver.url, HEADERS, BODY)
    assert result.error == "TLS failed: self-signed certificate"
    assert receiver.requests == []


def test_a_peer_that_sends_a_handshake_byte_by_byte_ends_with_the_request(make_client):
    def drip(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")
            while True:
                connection.sendall(b"\x02")
                time.sleep(0.02)

    with raw(drip) as (url, _):
        result = make_client(seconds=0.6).post(url.replace("http:", "https:"), HEADERS, BODY)
    assert (result.status, result.error) == (0, "no connection in time")


def test_a_kept_connection_that_its_receiver_has_closed_is_not_used(client):
    ended = threading.Event()

    def once(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        connection.close()
        ended.set()

    with raw(once) as (url, seen):
        for _ in range(3):
            assert client.post(url, HEADERS, BODY).succeeded
            assert ended.wait(60)
            ended.clear()
    assert len(seen) == 3


def test_what_a_receiver_sends_beyond_its_answer_is_no_answer_to_the_next_request(client):
    def twice(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        connection.recv(1024)

    with raw(twice) as (url, _):
        assert [client.post(url, HEADERS, BODY).status for _ in range(3)] == [204] * 3


def test_a_connection_is_kept_for_a_limited_time(client, monkeypatch):
    with running(Receiver()) as receiver:
        client.post(receiver.url, HEADERS, BODY)
        for limit in ("KEEP_ALIVE_SECONDS", "MAX_AGE_SECONDS"):
            with monkeypatch.context() as patch:
                patch.setattr(http_client, limit, -1.0)
                client.post(receiver.url, HEADERS, BODY)
            client.post(receiver.url, HEADERS, BODY)
    ports = [request.port for request in receiver.requests]
    # Used again only where neither the request before nor the one after finds it too old.
    assert len(set(ports)) == 5


def test_so_many_connections_are_kept_at_most(client, monkeypatch):
    monkeypatch.setattr(http_client, "MAX_KEPT_CONNECTIONS", 2)
    with ExitStack() as stack:
        receivers = [stack.enter_context(running(Receiver())) for _ in range(4)]
        for receiver in receivers:
            client.post(receiver.url, HEADERS, BODY)
        assert [one.origin.port for one in client._kept] == [receiver.port for receiver in receivers[2:]]
        client.close()
        assert client._kept == []
        client.post(receivers[0].url, HEADERS, BODY)
        assert client._kept == []
