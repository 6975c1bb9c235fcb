"""The server's own refusals, and how long it waits for a client."""

import json
import socket
import time
from types import SimpleNamespace

import pytest
from gunicorn.http import errors

from app import server
from app.gateway import HEADERS
from app.gateway.errors import PROBLEMS


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


@pytest.mark.parametrize("refusal", [refusal for _, refusal in server.REFUSALS], ids=lambda refusal: refusal[1])
def test_the_servers_problems_are_the_applications(refusal):
    status, code, title, detail = refusal
    assert PROBLEMS[code] == (status, title)
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
    worker = server.Problems.__new__(server.Problems)
    worker.log = log
    worker.handle_error(None, pair[0], ("192.0.2.7", 1234), error)
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
    worker = server.Problems.__new__(server.Problems)
    worker.log = log
    pair[0].close()
    worker.handle_error(None, pair[0], None, errors.InvalidRequestLine("x"))
    assert [level for level, _ in log.told] == ["warning", "debug"]


def test_a_body_has_to_come_in_time_however_it_drips(pair, monkeypatch):
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    patient = server.Patience(pair[0])
    patient.hurry()
    started = time.monotonic()
    for _ in range(5):
        pair[1].sendall(b"x")
        assert patient.recv(1) == b"x"
        time.sleep(0.02)
    with pytest.raises(TimeoutError):
        patient.recv(1)
    assert 0.19 <= time.monotonic() - started < 0.5


def test_once_it_is_answered_the_next_request_may_take_its_time(pair, monkeypatch):
    monkeypatch.setattr(server, "BODY_SECONDS", 0.0)
    patient = server.Patience(pair[0])
    patient.hurry()
    with pytest.raises(TimeoutError):
        patient.recv(1)
    patient.relax()
    pair[1].sendall(b"next")
    assert patient.recv(4) == b"next"
    assert patient.gettimeout() is None


def test_a_client_that_does_not_take_its_answer_counts_as_gone(pair, monkeypatch):
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.1)
    with pytest.raises(ConnectionResetError):
        server.Patience(pair[0]).sendall(b"x" * 10_000_000)


def test_the_head_of_an_answer_goes_before_the_file_that_follows_it(pair, tmp_path):
    (tmp_path / "page").write_bytes(b"<html>")
    patient = server.Patience(pair[0])
    patient.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    with (tmp_path / "page").open("rb") as page:
        patient.sendfile(page, offset=0, count=6)
    patient.flush()
    pair[0].close()
    assert b"".join(iter(lambda: pair[1].recv(100), b"")) == b"HTTP/1.1 200 OK\r\n\r\n<html>"


def test_a_client_that_does_not_take_a_file_counts_as_gone(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.1)
    (tmp_path / "page").write_bytes(bytes(16 * 1024 * 1024))
    with (tmp_path / "page").open("rb") as page, pytest.raises(ConnectionResetError):
        server.Patience(pair[0]).sendfile(page)
