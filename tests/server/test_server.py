"""The server's own refusals, and how long it waits for a client."""

import json
import socket
import threading
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_network
from types import SimpleNamespace

import gevent
import pytest
from gunicorn.http import errors

from app.gateway import HEADERS
from app.gateway.http.problem_catalogue import PROBLEMS
from app.observability import logging
from app.observability.metrics import REGISTRY
from app.observability.request_log import RequestLogger
from app.server import sockets, workers
from app.server.connections import ALL_NETWORKS, ConnectionRegistry, FairScheduler
from app.server.refusals import REFUSALS, TOO_MANY_CONNECTIONS
from app.server.sockets import ClientLimits, DeadlineSocket, PreemptiveScheduler
from app.server.workers import ProblemWorker


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    with here, there:
        yield here, there


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "write_lines", lambda event, records: lines.extend((event, one) for one in records))
    return SimpleNamespace(
        lines=lines,
        warning=lambda *line: lines.append(("warning", line)),
        error=lambda *line, **_: lines.append(("error", line)),
        debug=lambda *line: lines.append(("debug", line)),
    )


def read_response(sock):
    """Reads a response from a socket: status, headers and body."""
    head, _, body = sock.recv(65536).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return int(status.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    "refusal", [*(refusal for _, refusal in REFUSALS), TOO_MANY_CONNECTIONS], ids=lambda refusal: refusal[1]
)
def test_the_servers_problems_are_the_applications(refusal):
    status, code, title, detail = refusal
    assert (status, title) == (PROBLEMS[code].status, PROBLEMS[code].title)
    assert detail


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidRequestLine("<script>"), 400, "bad_request"),
        (errors.InvalidRequestMethod("<script>"), 400, "bad_request"),
        (errors.InvalidHTTPVersion("<script>"), 400, "bad_request"),
        (errors.InvalidHeader("<script>"), 400, "bad_request"),
        (errors.InvalidHeaderName("<script>"), 400, "bad_request"),
        (errors.LimitRequestLine(9000, 4094), 414, "address_too_long"),
        (errors.LimitRequestHeaders("<script>"), 431, "headers_too_large"),
        (errors.ExpectationFailed("<script>"), 417, "expectation_failed"),
        (errors.UnsupportedTransferCoding("<script>"), 501, "not_implemented"),
        (errors.InvalidResponseHeader("<script>"), 500, "internal_error"),
        (errors.ConfigurationProblem("<script>"), 500, "internal_error"),
        (RuntimeError("<script>"), 500, "internal_error"),
        (SystemExit("<script>"), 500, "internal_error"),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, BaseException) else str(part),
)
def test_the_problem_of_a_refusal_repeats_nothing_of_the_request(pair, log, error, status, code):
    worker = ProblemWorker.__new__(ProblemWorker)
    worker.log = log
    worker.handle_error(None, bounded(pair[0]), ("192.0.2.7", 1234), error)
    found, headers, body = read_response(pair[1])
    assert (found, body["status"], body["code"], body["ok"]) == (status, status, code, False)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Connection"] == "close"
    assert headers["X-Request-Id"] == body["requestId"]
    assert headers.items() >= HEADERS.items()
    assert "script" not in json.dumps(body)
    *errors_logged, (event, line) = log.lines
    assert [level for level, _ in errors_logged] == (["error"] if status == 500 else [])
    assert (event, line["request_id"], line["caller"]) == ("request", body["requestId"], "192.0.2.7")
    assert (line["status"], line["code"], line["reason"]) == (status, code, type(error).__name__)
    assert "script" not in str(log.lines)


def test_a_refusal_is_counted_also_where_no_line_is_wanted(pair, log, monkeypatch):
    monkeypatch.setattr(workers, "request_logger", RequestLogger("off"))
    counted = partial(REGISTRY.get_sample_value, "orderflow_http_problems_total", {"code": "address_too_long"})
    before = counted() or 0
    worker = ProblemWorker.__new__(ProblemWorker)
    worker.log = log
    worker.handle_error(None, bounded(pair[0]), ("192.0.2.7", 1234), errors.LimitRequestLine(9000, 4094))
    assert (log.lines, counted()) == ([], before + 1)


def test_a_client_that_has_closed_the_connection_is_no_error(pair, log):
    worker = ProblemWorker.__new__(ProblemWorker)
    worker.log = log
    client = bounded(pair[0])
    pair[0].close()
    worker.handle_error(None, client, None, errors.InvalidRequestLine("x"))
    assert [event for event, _ in log.lines] == ["request", "debug"]


def bounded(sock, idle_seconds=60.0, scheduler=None, **limits):
    """A client's socket with limits."""
    return DeadlineSocket(sock, ClientLimits(**limits), idle_seconds, scheduler or PreemptiveScheduler())


class CountingScheduler:
    """A scheduler that counts its calls."""

    def __init__(self):
        self.yields, self.turns = 0, 0

    def record_wait(self, now):
        """Others have run."""

    def yield_if_due(self):
        self.yields += 1

    def wait_for_turn(self, _ran):
        self.turns += 1


def test_a_body_has_to_come_in_time_however_it_drips(pair, monkeypatch):
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(sockets, "time", clock)
    slow = bounded(pair[0], body_seconds=10.0)
    slow.start_body()
    for _ in range(5):
        clock.now += 1.9
        pair[1].sendall(b"x")
        assert slow.recv(1) == b"x"
    clock.now = 109.99
    with pytest.raises(TimeoutError):
        slow.recv(1)
    clock.now = 110.0
    pair[1].sendall(b"x")
    with pytest.raises(TimeoutError):
        slow.recv(1)


def test_a_body_that_never_stops_coming_is_late_all_the_same(pair):
    endless = bounded(pair[0], body_seconds=0.05)
    endless.start_body()
    with pytest.raises(TimeoutError):
        read_on(endless, pair[1])


def test_a_body_has_only_so_many_bytes_on_the_wire(pair):
    large = bounded(pair[0], body_bytes=10)
    large.start_body()
    pair[1].sendall(b"x" * 20)
    assert large.recv(8) + large.recv(8) == b"x" * 10
    with pytest.raises(OverflowError):
        large.recv(8)


def test_a_head_has_a_deadline_from_its_first_byte_on_that_no_byte_moves(pair):
    slow = bounded(pair[0], idle_seconds=60.0, head_seconds=0.1)
    pair[1].sendall(b"GET /")
    assert slow.recv(5) == b"GET /"
    read_on(slow, pair[1])


def read_on(bounded, client):
    """Read byte by byte what the client goes on sending, until that counts as its end."""
    more = True
    while more:
        client.sendall(b"x")
        more = bounded.recv(1)


def test_an_idle_client_counts_as_gone_in_the_end(pair):
    assert bounded(pair[0], idle_seconds=0.01).recv(1) == b""


def test_what_was_read_ahead_of_the_next_head_starts_its_deadline(pair):
    slow = bounded(pair[0], idle_seconds=60.0, head_seconds=0.01)
    slow.start_idle(begun=True)
    assert slow.recv(1) == b""


def test_once_it_is_answered_the_next_request_may_take_its_time(pair):
    patient = bounded(pair[0], body_seconds=0.001)
    patient.start_body()
    with pytest.raises(TimeoutError):
        patient.recv(1)
    patient.start_idle(begun=False)
    pair[1].sendall(b"next")
    assert patient.recv(4) == b"next"
    assert patient.gettimeout() is None


def test_a_client_that_sends_one_request_after_the_other_yields_before_each(pair):
    scheduler = CountingScheduler()
    sock = bounded(pair[0], scheduler=scheduler)
    for _ in range(5):
        pair[1].sendall(b"GET")
        assert sock.recv(10) == b"GET"
        sock.start_idle(begun=False)
    assert (scheduler.yields, scheduler.turns) == (5, 0)


def test_a_client_that_always_has_more_waits_for_its_turn(pair):
    scheduler = CountingScheduler()
    sock = bounded(pair[0], scheduler=scheduler)
    sock.start_body()
    pair[1].sendall(b"x" * 100)
    for expected in (0, 0, 1, 1, 1, 2):
        sock.recv(1)
        assert scheduler.turns == expected
    sock.start_idle(begun=True)
    for expected in (2, 2, 3):
        sock.count_ready_read()
        assert scheduler.turns == expected


class Pausing:
    """A socket whose client always pauses first."""

    def __init__(self, sock):
        self._sock = sock

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def recv(self, *what):
        if self._sock.gettimeout() == 0:
            raise BlockingIOError
        return self._sock.recv(*what)


def test_a_client_that_pauses_waits_for_no_turn(pair):
    scheduler = CountingScheduler()
    sock = bounded(Pausing(pair[0]), scheduler=scheduler)
    sock.start_body()
    pair[1].sendall(b"x" * 100)
    for _ in range(10):
        sock.recv(1)
    assert (scheduler.yields, scheduler.turns) == (0, 0)


def test_a_wait_that_is_aborted_ends_as_if_its_deadline_had_passed(pair, eventually):
    sock = bounded(pair[0], body_seconds=60.0)
    sock.start_body()
    assert not sock.waiting_since
    threading.Thread(target=lambda: eventually(lambda: sock.waiting_since) and sock.abort()).start()
    with pytest.raises(TimeoutError):
        sock.recv(1)
    assert not sock.waiting_since


def test_a_client_that_does_not_take_its_answer_counts_as_gone(pair):
    with pytest.raises(ConnectionResetError):
        bounded(pair[0], send_seconds=0.1).sendall(b"x" * 10_000_000)


def test_the_head_of_an_answer_goes_before_the_file_that_follows_it(pair, tmp_path):
    (tmp_path / "page").write_bytes(b"<html>")
    sock = bounded(pair[0])
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    with (tmp_path / "page").open("rb") as page:
        sock.sendfile(page, offset=0, count=6)
    sock.flush()
    pair[0].close()
    assert b"".join(iter(lambda: pair[1].recv(100), b"")) == b"HTTP/1.1 200 OK\r\n\r\n<html>"


def test_a_client_that_does_not_take_a_file_counts_as_gone(pair, tmp_path):
    (tmp_path / "page").write_bytes(bytes(16 * 1024 * 1024))
    with (tmp_path / "page").open("rb") as page, pytest.raises(ConnectionResetError):
        bounded(pair[0], send_seconds=0.1).sendfile(page)


def test_the_loop_runs_although_requests_follow_each_other_at_once():
    scheduler, rounds = FairScheduler(), []

    def background():
        for _ in range(3):
            rounds.append(scheduler)
            gevent.sleep(0)

    def requests():
        while len(rounds) < 3:
            scheduler.yield_if_due()

    gevent.joinall([gevent.spawn(requests), gevent.spawn(background)], raise_error=True)


def test_turns_come_one_at_a_time_in_the_order_of_asking_and_the_loop_runs_between():
    scheduler, done = FairScheduler(), []

    def busy(name):
        for _ in range(3):
            scheduler.wait_for_turn(0.0)
            done.append(name)

    def background():
        while len(done) < 9:
            done_then = len(done)
            gevent.sleep(0)
            assert len(done) - done_then <= 1

    greenlets = [gevent.spawn(busy, name) for name in "abc"] + [gevent.spawn(background)]
    gevent.joinall(greenlets, raise_error=True)
    assert "".join(done) == "abcabcabc"


class WaitingConnection:
    """A connection that has waited for its client since a time."""

    def __init__(self, since=0.0):
        self.waiting_since, self.is_aborted = since, False

    def abort(self):
        self.is_aborted = True


def register(registry, stack, address, since=0.0):
    connection = WaitingConnection(since)
    return stack.enter_context(registry.register(connection, (address, 1))), connection


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"),
        ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),
        ("fe80::1%eth0", "fe80::1", "192.0.2.7"),
    ],
)
def test_an_address_has_only_so_many_connections(address, same, other):
    registry = ConnectionRegistry(100, 2, [])
    with ExitStack() as stack:
        admitted = [register(registry, stack, each)[0] for each in (address, same, same, other)]
        assert admitted == [True, True, False, True]
    with ExitStack() as stack:
        assert register(registry, stack, same)[0]


@pytest.mark.parametrize(
    "trusted",
    [[ip_network("192.0.2.0/24")], [ip_network("::ffff:192.0.2.0/120")], ALL_NETWORKS],
    ids=["named", "named as of IPv6", "everyone"],
)
@pytest.mark.parametrize("address", ["192.0.2.7", "::ffff:192.0.2.7"])
def test_a_trusted_proxy_has_as_many_as_it_wants(trusted, address):
    registry = ConnectionRegistry(100, 1, trusted)
    with ExitStack() as stack:
        assert all(register(registry, stack, address)[0] for _ in range(3))


def test_a_nearly_full_worker_evicts_the_connection_that_has_waited_longest():
    registry = ConnectionRegistry(5, 10, [ip_network("192.0.2.9")])
    with ExitStack() as stack:
        _, proxy = register(registry, stack, "192.0.2.9", since=1.0)
        _, busy = register(registry, stack, "192.0.2.1")
        _, late = register(registry, stack, "192.0.2.2", since=3.0)
        _, early = register(registry, stack, "192.0.2.3", since=2.0)
        _, fifth = register(registry, stack, "192.0.2.4")
        assert not any(each.is_aborted for each in (proxy, busy, late, early, fifth))
        register(registry, stack, "192.0.2.5")
        assert early.is_aborted
        assert not any(each.is_aborted for each in (proxy, busy, late, fifth))
