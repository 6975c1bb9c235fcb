"""Nobody reaches through webhooks what is not public: by names that change, redirects, spellings of addresses, or answers.

An address of this machine, OUTSIDE, stands for a public one; the rest of this machine is what must not be reached.
"""

import gzip
import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network

import pytest

from app.contracts.webhooks import DeleteEndpoint, FindDelivery
from app.webhooks.delivery import AttemptResult
from app.webhooks.http_client import NO_PUBLIC_ADDRESS, WebhookClient
from app.webhooks.public_addresses import AddressRules
from app.webhooks.received_response import MAX_KEPT
from app.webhooks.resolver import Resolver
from tests.webhooks.conftest import StillTime, a_change
from tests.webhooks.name_server import NameServer, serving
from tests.webhooks.receiver import Receiver, raw, running
from tests.webhooks.test_public_addresses import REFUSED

pytestmark = pytest.mark.extended

OUTSIDE = "127.0.0.2"
RULES = AddressRules(networks=(ip_network(f"{OUTSIDE}/32"),))
HEADERS = {"webhook-id": "evt_1"}
BODY = b"{}"
NOTHING_LEARNED = AttemptResult(error=NO_PUBLIC_ADDRESS)
SECRET = (200, {"X-Secret": "token"}, json.dumps({"token": "secret"}).encode())


@pytest.fixture
def make_client(monkeypatch):
    """Make clients that ask a name server of the test and may call OUTSIDE; closed at the end."""
    # A busy machine may answer late.
    monkeypatch.setattr("app.webhooks.connection.CONNECT_SECONDS", 15.0)
    made = []

    def make(names: NameServer, rules: AddressRules = RULES, **options) -> WebhookClient:
        made.append(WebhookClient(rules, Resolver(names.resolver), **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def inside():
    with running(Receiver(answer=lambda *_: SECRET)) as receiver:
        yield receiver


@pytest.fixture
def outside(inside):
    """A receiver that may be called, on the port of the one that may not; it closes each connection."""
    closing = (204, {"Connection": "close"}, b"")
    with running(Receiver(answer=lambda *_: closing), OUTSIDE, inside.port) as receiver:
        yield receiver


def rebinding(asked_before: int) -> tuple[str, ...]:
    """A name that leads to the public address when it is looked up first, and to this machine ever after."""
    return (f"A {OUTSIDE}",) if asked_before == 0 else ("A 127.0.0.1",)


def test_a_name_that_changes_its_address_leads_to_the_checked_one_or_nowhere(make_client, inside, outside):
    with serving(shop_example=rebinding) as names:
        client = make_client(names)
        first, *later = [client.post(f"http://shop.example:{inside.port}/", HEADERS, BODY) for _ in range(3)]
    assert first.status == 204
    assert later == [NOTHING_LEARNED] * 2
    assert (len(outside.requests), inside.requests) == (1, [])
    assert names.questions.count(("shop.example", "A")) == 3


def test_without_the_check_at_the_connection_the_same_name_reaches_this_machine(
    make_client, inside, outside, monkeypatch
):
    """The negative control of the test above: what it refuses is there, and answers."""
    monkeypatch.setattr(AddressRules, "allow", lambda *_: True)
    with serving(shop_example=rebinding) as names:
        client = make_client(names)
        results = [client.post(f"http://shop.example:{inside.port}/", HEADERS, BODY) for _ in range(2)]
    assert [result.status for result in results] == [204, 200]
    assert len(inside.requests) == 1


def test_what_was_resolved_for_the_check_is_what_is_connected_to(make_client, inside, outside):
    """A name is not looked up again between the check and the connection."""
    with serving(shop_example=rebinding) as names:
        make_client(names).post(f"http://shop.example:{inside.port}/", HEADERS, BODY)
    assert names.questions == [("shop.example", "A"), ("shop.example", "AAAA")]
    assert inside.requests == []


REFUSED_RECORDS = {
    name: f"{'AAAA' if ':' in address else 'A'} {address}"
    for name, address in REFUSED.items()
    if address and "%" not in address and address != "internal"
}


@pytest.mark.parametrize("record", REFUSED_RECORDS.values(), ids=REFUSED_RECORDS.keys())
def test_a_name_that_leads_to_such_an_address_leads_nowhere(make_client, record):
    ip_address(record.split()[1])
    with serving(shop_example=(record,)) as names:
        assert make_client(names, AddressRules()).post("http://shop.example/", HEADERS, BODY) == NOTHING_LEARNED
    assert names.questions


NAMES = {
    "one of several addresses": (f"A {OUTSIDE}", "A 127.0.0.1"),
    "one of two families": (f"A {OUTSIDE}", "AAAA ::1"),
    "an alias": ("CNAME inside.example.", "inside.example. A 127.0.0.1"),
    "IPv4-mapped": ("AAAA ::ffff:127.0.0.1",),
    "no address": (),
    "no answer": None,
}


@pytest.mark.parametrize("lines", NAMES.values(), ids=NAMES.keys())
def test_nothing_is_learned_of_a_name_that_leads_inside(make_client, inside, lines):
    with serving(shop_example=lines) as names:
        result = make_client(names, seconds=0.5).post(f"http://shop.example:{inside.port}/", HEADERS, BODY)
    assert result == NOTHING_LEARNED
    assert inside.requests == []


HOSTS = {
    "loopback": "127.0.0.1",
    "localhost": "localhost",
    "localhost in capitals": "LOCALHOST",
    "localhost with a dot": "localhost.",
    "decimal": "2130706433",
    "octal": "0177.0.0.1",
    "octal without dots": "017700000001",
    "hexadecimal": "0x7f000001",
    "hexadecimal with dots": "0x7f.0x0.0x0.0x1",
    "short": "127.1",
    "a dot at the end": "127.0.0.1.",
    "IPv6": "[::1]",
    "IPv6 in full": "[0:0:0:0:0:0:0:1]",
    "IPv6 with a zone": "[::1%25lo]",
    "IPv4-mapped": "[::ffff:127.0.0.1]",
    "IPv4-mapped in hexadecimal": "[::ffff:7f00:1]",
    "IPv4-compatible": "[::127.0.0.1]",
    "NAT64": "[64:ff9b::7f00:1]",
    "6to4": "[2002:7f00:1::]",
    "no address": "0.0.0.0",
    "an address of four numbers and a name": "127.0.0.1.unknown.example",
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
def test_this_machine_is_refused_in_every_spelling(make_client, inside, host):
    with serving() as names:
        assert make_client(names).post(f"http://{host}:{inside.port}/", HEADERS, BODY) == NOTHING_LEARNED
    assert inside.requests == []


ODD_URLS = {
    "user name": "http://127.0.0.2@127.0.0.1:{port}/",
    "user name with an escaped @": "http://127.0.0.2%40127.0.0.1:{port}/",
    "backslash": "http://127.0.0.2\\@127.0.0.1:{port}/",
    "line break": "http://127.0.0.2:{port}/\r\nHost: 127.0.0.1\r\n\r\nPOST / HTTP/1.1",
    "full-width digits": "http://１27.0.0.1:{port}/",
    "another scheme": "file:///etc/passwd",
    "gopher": "gopher://127.0.0.1:{port}/_POST",
}


@pytest.mark.parametrize("url", ODD_URLS.values(), ids=ODD_URLS.keys())
def test_an_odd_url_that_was_stored_somehow_reaches_nothing_inside(make_client, inside, outside, url):
    with serving() as names:
        result = make_client(names).post(url.format(port=inside.port), HEADERS, BODY)
    assert (result.status, result.response) == (0, "")
    assert inside.requests == outside.requests == []


@pytest.mark.extended
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_by_nginx_is_a_failure_and_is_not_followed(make_client, inside, tmp_path, status):
    with serving() as names, nginx(tmp_path, f"return {status} {inside.url};") as url:
        result = make_client(names).post(url, HEADERS, BODY)
    assert (result.status, result.succeeded) == (status, False)
    assert inside.requests == []


@pytest.mark.extended
def test_nginx_before_a_dead_server_is_a_failure(make_client, tmp_path):
    with serving() as names, nginx(tmp_path, "proxy_pass http://127.0.0.1:9;") as url:
        result = make_client(names).post(url, HEADERS, BODY)
    assert (result.status, result.overloaded) == (502, True)


def test_a_user_sees_the_same_of_a_name_inside_and_of_one_that_does_not_exist(make_client, make_process, inside):
    """Neither the answer, nor a header, nor how long it took reaches the user; nor whether there is such a name."""
    inside.answer = lambda *_: time.sleep(0.2) or SECRET
    seen = []
    with serving(internal_example=("A 127.0.0.1",)) as names:
        process = make_process(clock=StillTime())
        process.module.sender._post = make_client(names, AddressRules()).post
        process.start()
        for host in ("internal.example", "unknown.example"):
            endpoint = process.add_endpoint(f"http://{host}:{inside.port}/")
            event = a_change()
            process.tell(event)
            delivery = f"{event.event_id}.{endpoint.id}"
            seen.append(attempted(process, delivery))
            process.bus.request(DeleteEndpoint(request_id="", on_behalf_of="shop", endpoint_id=endpoint.id))
    assert seen[0] == seen[1] == [(0, NO_PUBLIC_ADDRESS, "", 0)]
    assert inside.requests == []


def test_lookups_that_hang_delay_no_other(make_client, outside):
    """As many as there are threads for attempts ask a name server that never answers."""
    with serving(hangs_example=None, shop_example=(f"A {OUTSIDE}",)) as names:
        client = make_client(names, seconds=10.0)
        ended: list[str] = []

        def post(host: str) -> None:
            client.post(f"http://{host}:{outside.port}/", HEADERS, BODY)
            ended.append(host)

        threads = [threading.Thread(target=post, args=("hangs.example",)) for _ in range(64)]
        for thread in threads:
            thread.start()
        post("shop.example")
        for thread in threads:
            thread.join()
    assert ended[0] == "shop.example"
    assert len(ended) == 65
    assert len(outside.requests) == 1


def test_a_bomb_is_not_unpacked(make_client):
    bomb = gzip.compress(bytes(20_000_000))
    headers = {"Content-Encoding": "gzip"}
    with serving() as names, running(Receiver(answer=lambda *_: (200, headers, bomb)), OUTSIDE) as receiver:
        result = make_client(names).post(receiver.url, HEADERS, BODY)
        [request] = receiver.requests
    assert result.status == 200
    assert len(result.response) <= MAX_KEPT
    assert "accept-encoding" not in request.headers


def send(*parts: bytes, last: bytes = b"", pause: float = 0.0):
    """Sends parts of an answer, then `last` again and again until the connection ends."""

    def respond(connection: socket.socket) -> None:
        with suppress(OSError):
            for part in parts:
                connection.sendall(part)
            while last:
                connection.sendall(last)
                time.sleep(pause)

    return respond


OK_HEAD = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "no status": (send(last=b"H", pause=0.02), AttemptResult(error="the answer is not HTTP, or ended early")),
    "slow in the status": (send(b"HTTP/1.1 200 O", last=b"K", pause=0.02), AttemptResult(error="no answer in time")),
    "slow in the header": (send(OK_HEAD, b"X-A: ", last=b"a", pause=0.02), AttemptResult(error="no answer in time")),
    "endless headers": (
        send(OK_HEAD, last=b"X-A: a\r\n" * 5000),
        AttemptResult(error="the answer is not HTTP, or ended early"),
    ),
    "endless continues": (
        send(last=b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.001),
        AttemptResult(error="no answer in time"),
    ),
    "endless continues without a pause": (
        send(last=b"HTTP/1.1 100 Continue\r\n\r\n" * 5000),
        AttemptResult(error="the answer is not HTTP, or ended early"),
    ),
    "an endless extension of a chunk": (
        send(OK_HEAD, b"Transfer-Encoding: chunked\r\n\r\n1;", last=b"a" * 5000),
        AttemptResult(status=200),
    ),
    "slow body": (send(OK_HEAD, b"\r\n", last=b"a", pause=0.02), AttemptResult(status=200)),
    "slow chunks": (
        send(OK_HEAD, b"Transfer-Encoding: chunked\r\n\r\n", last=b"1\r\na\r\n", pause=0.02),
        AttemptResult(status=200),
    ),
    "another protocol": (
        send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
        AttemptResult(error="the answer is not HTTP, or ended early"),
    ),
    "dies in the body": (
        send(OK_HEAD, b"Content-Length: 100\r\n\r\nhalf"),
        AttemptResult(error="the answer is not HTTP, or ended early"),
    ),
    "dies in a chunk": (
        send(OK_HEAD, b"Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"),
        AttemptResult(error="the answer is not HTTP, or ended early"),
    ),
    "two lengths": (
        send(OK_HEAD, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        AttemptResult(error="the answer is not HTTP, or ended early"),
    ),
}


@pytest.mark.parametrize(("respond", "expected"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_a_receiver_answers_ends_with_the_request_and_means_what_its_status_says(make_client, respond, expected):
    # What comes before the time is over may be late on a busy machine.
    seconds = 2.0 if expected.error == "no answer in time" else 6.0
    with serving() as names, raw(respond) as (url, _):
        result = make_client(names, AddressRules(loopback=True), seconds=seconds).post(url, HEADERS, BODY)
    assert (result.status, result.error) == (expected.status, expected.error)
    assert len(result.response) <= MAX_KEPT


def test_a_handshake_that_never_ends_ends_with_the_request(make_client):
    with serving() as names, raw(lambda connection: connection.recv(1)) as (url, _):
        client = make_client(names, AddressRules(loopback=True), seconds=0.5)
        result = client.post(url.replace("http:", "https:"), HEADERS, BODY)
    assert result.error == "no connection in time"


def attempted(process, delivery_id: str) -> list[tuple[int, str, str, int]]:
    """What the user sees of the first attempts of a delivery."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        view = process.bus.request(FindDelivery(request_id="", on_behalf_of="shop", delivery_id=delivery_id))
        if view.attempts:
            return [(one.status, one.error, one.response, one.took_ms) for one in view.attempts]
        time.sleep(0.01)
    raise AssertionError("nothing was attempted")


@contextmanager
def nginx(folder, directive: str):
    """A real nginx on OUTSIDE that does this with every request; yields its URL."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert binary, "install nginx"
    with socket.create_server((OUTSIDE, 0)) as probe:
        port = probe.getsockname()[1]
    conf = folder / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary} server {{ listen {OUTSIDE}:{port}; location / {{ {directive} }} }} }}\n"
    )
    process = subprocess.Popen([binary, "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(conf)])
    try:
        while True:
            assert process.poll() is None, (folder / "error.log").read_text()
            with suppress(OSError), socket.create_connection((OUTSIDE, port), 0.2):
                break
            time.sleep(0.01)
        yield f"http://{OUTSIDE}:{port}/hooks"
    finally:
        process.terminate()
        process.wait()
