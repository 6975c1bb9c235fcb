"""The server's own refusals, and how long it waits for a client."""

import json
import socket
import threading
import time
from contextlib import ExitStack
from ipaddress import ip_network
from types import SimpleNamespace

import gevent
import pytest
from gunicorn.http import errors

from app.gateway import HEADERS
from app.gateway.http.problem_catalogue import PROBLEMS
from app.server.connections import EVERYONE, Places, Turns
from app.server.refusals import REFUSALS, TOO_MANY
from app.server.sockets import ConnectionLimits, DeadlineSocket, Preemptive
from app.server.workers import Problems


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    with here, there:
        yield here, there


@pytest.fixture
def log():
    told = []
    return SimpleNamespace(
        told=told,
        warning=lambda *line: told.append(("warning", line)),
        error=lambda *line, **_: told.append(("error", line)),
        debug=lambda *line: told.append(("debug", line)),
    )


def answered(sock):
    """What came over a socket, as status, headers and body."""
    head, _, body = sock.recv(65536).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return int(status.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize("refusal", [*(refusal for _, refusal in REFUSALS), TOO_MANY], ids=lambda refusal: refusal[1])
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
def test_what_the_server_refuses_is_a_problem_that_tells_nothing_back(pair, log, error, status, code):
    worker = Problems.__new__(Problems)
    worker.log = log
    worker.handle_error(None, bounded(pair[0]), ("192.0.2.7", 1234), error)
    found, headers, body = answered(pair[1])
    assert (found, body["status"], body["code"], body["ok"]) == (status, status, code, False)
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Connection"] == "close"
    assert headers["X-Request-Id"] == body["requestId"]
    assert headers.items() >= HEADERS.items()
    assert "script" not in json.dumps(body)
    [(level, line)] = log.told
    assert level == ("error" if status == 500 else "warning")
    assert "script" not in str(line)


def test_a_client_that_is_gone_is_no_trouble(pair, log):
    worker = Problems.__new__(Problems)
    worker.log = log
    client = bounded(pair[0])
    pair[0].close()
    worker.handle_error(None, client, None, errors.InvalidRequestLine("x"))
    assert [level for level, _ in log.told] == ["warning", "debug"]


def bounded(sock, idle_seconds=5.0, scheduler=None, **limits):
    """A client's socket with limits."""
    return DeadlineSocket(sock, ConnectionLimits(**limits), idle_seconds, scheduler or Preemptive())


class Asked:
    """A scheduler that takes down what it is asked for."""

    def __init__(self):
        self.ways, self.turns = 0, 0

    def waited(self, now):
        """Others have run."""

    def give_way(self):
        self.ways += 1

    def take_turn(self, _ran):
        self.turns += 1


def test_a_body_has_to_come_in_time_however_it_drips(pair):
    slow = bounded(pair[0], body_seconds=0.2)
    slow.start_body()
    started = time.monotonic()
    for _ in range(5):
        pair[1].sendall(b"x")
        assert slow.recv(1) == b"x"
    with pytest.raises(TimeoutError):
        slow.recv(1)
    assert time.monotonic() - started >= 0.19


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


def test_who_sends_one_request_after_the_other_gives_way_before_each(pair):
    asked = Asked()
    sock = bounded(pair[0], scheduler=asked)
    for _ in range(5):
        pair[1].sendall(b"GET")
        assert sock.recv(10) == b"GET"
        sock.start_idle(begun=False)
    assert (asked.ways, asked.turns) == (5, 0)


def test_who_always_has_more_waits_for_their_turn(pair):
    asked = Asked()
    sock = bounded(pair[0], scheduler=asked)
    sock.start_body()
    pair[1].sendall(b"x" * 100)
    for expected in (0, 0, 1, 1, 1, 2):
        sock.recv(1)
        assert asked.turns == expected
    sock.start_idle(begun=True)
    for expected in (2, 2, 3):
        sock.count_piece()
        assert asked.turns == expected


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


def test_who_pauses_waits_for_no_turn(pair):
    asked = Asked()
    sock = bounded(Pausing(pair[0]), scheduler=asked)
    sock.start_body()
    pair[1].sendall(b"x" * 100)
    for _ in range(10):
        sock.recv(1)
    assert (asked.ways, asked.turns) == (0, 0)


def test_a_wait_that_is_cut_off_ends_as_if_its_deadline_had_passed(pair):
    sock = bounded(pair[0])
    sock.start_body()
    assert not sock.waiting_since
    cut = threading.Timer(0.01, sock.cut_off)
    cut.start()
    with pytest.raises(TimeoutError):
        sock.recv(1)
    assert not sock.waiting_since


def test_a_client_that_does_not_take_its_answer_counts_as_gone(pair):
    with pytest.raises(ConnectionResetError):
        bounded(pair[0], answer_seconds=0.1).sendall(b"x" * 10_000_000)


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
        bounded(pair[0], answer_seconds=0.1).sendfile(page)


def test_the_loop_comes_round_although_requests_follow_each_other_at_once():
    turns, rounds = Turns(), []

    def background():
        for _ in range(3):
            rounds.append(turns)
            gevent.sleep(0)

    def requests():
        while len(rounds) < 3:
            turns.give_way()

    gevent.joinall([gevent.spawn(requests), gevent.spawn(background)], raise_error=True)


def test_turns_come_one_at_a_time_in_the_order_of_asking_and_the_loop_runs_between():
    turns, done = Turns(), []

    def busy(name):
        for _ in range(3):
            turns.take_turn(0.0)
            done.append(name)

    def background():
        while len(done) < 9:
            done_then = len(done)
            gevent.sleep(0)
            assert len(done) - done_then <= 1

    greenlets = [gevent.spawn(busy, name) for name in "abc"] + [gevent.spawn(background)]
    gevent.joinall(greenlets, raise_error=True)
    assert "".join(done) == "abcabcabc"


class Waiting:
    """A connection that waits for its client since some time."""

    def __init__(self, since=0.0):
        self.waiting_since, self.is_cut_off = since, False

    def cut_off(self):
        self.is_cut_off = True


def place(places, stack, address, since=0.0):
    connection = Waiting(since)
    return stack.enter_context(places.place(connection, (address, 1))), connection


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"),
        ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),
        ("fe80::1%eth0", "fe80::1", "192.0.2.7"),
    ],
)
def test_an_address_has_only_so_many_places(address, same, other):
    places = Places(100, 2, [])
    with ExitStack() as stack:
        assert [place(places, stack, each)[0] for each in (address, same, same, other)] == [True, True, False, True]
    with ExitStack() as stack:
        assert place(places, stack, same)[0]


@pytest.mark.parametrize(
    "trusted",
    [[ip_network("192.0.2.0/24")], [ip_network("::ffff:192.0.2.0/120")], EVERYONE],
    ids=["named", "named as of IPv6", "everyone"],
)
@pytest.mark.parametrize("address", ["192.0.2.7", "::ffff:192.0.2.7"])
def test_a_trusted_proxy_has_as_many_as_it_wants(trusted, address):
    places = Places(100, 1, trusted)
    with ExitStack() as stack:
        assert all(place(places, stack, address)[0] for _ in range(3))


def test_where_places_run_out_who_has_waited_for_its_client_the_longest_goes():
    places = Places(5, 10, [ip_network("192.0.2.9")])
    with ExitStack() as stack:
        _, proxy = place(places, stack, "192.0.2.9", since=1.0)
        _, busy = place(places, stack, "192.0.2.1")
        _, late = place(places, stack, "192.0.2.2", since=3.0)
        _, early = place(places, stack, "192.0.2.3", since=2.0)
        _, fifth = place(places, stack, "192.0.2.4")
        assert not any(each.is_cut_off for each in (proxy, busy, late, early, fifth))
        place(places, stack, "192.0.2.5")
        assert early.is_cut_off
        assert not any(each.is_cut_off for each in (proxy, busy, late, fifth))
