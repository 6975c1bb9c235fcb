"""How gunicorn's workers treat clients: its own refusals as problems, and a bound on the time that a slow one may take.

`BODY_SECONDS` is set when the server is configured.

gunicorn itself gives a gevent worker's client `keepalive` seconds for the head of a request, but all the time in the
world for its body, and for taking the answer.
"""

import errno
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import errors
from gunicorn.workers.base import Worker
from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.gthread import ThreadWorker

from app.log_writer import LogWriter

BODY_SECONDS = 10.0
ANSWER_SECONDS = 30.0

# By kind of error, the first that fits: status, code, title and detail. What the client sent is never told back.
Refusal = tuple[int, str, str, str]
OURS: Refusal = (500, "internal_error", "Something went wrong on our side", "this should not have happened")
REFUSALS: list[tuple[type[Exception], Refusal]] = [
    (errors.InvalidResponseHeader, OURS),
    (errors.InvalidResponseHeaderName, OURS),
    (errors.ConfigurationProblem, OURS),
    (errors.LimitRequestLine, (414, "address_too_long", "The address is too long", "a request line may have 4 KiB")),
    (
        errors.LimitRequestHeaders,
        (431, "headers_too_large", "The headers are too large", "there may be 64 headers, each of 8 KiB"),
    ),
    (
        errors.ExpectationFailed,
        (417, "expectation_failed", "The expectation cannot be met", "the one that can is 100-continue"),
    ),
    (
        errors.UnsupportedTransferCoding,
        (501, "not_implemented", "This is not understood here", "the transfer coding that is understood is chunked"),
    ),
    (errors.ParseException, (400, "bad_request", "The request cannot be read", "this is not HTTP as it should be")),
]
HEADERS = (
    "Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
)


class Patience:
    """A client's socket on which waiting ends in time."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._ends: float | None = None
        self._head = b""
        sock.setblocking(True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def hurry(self) -> None:
        """From now on, the rest of the request has to come."""
        self._ends = time.monotonic() + BODY_SECONDS

    def relax(self) -> None:
        """The request is answered; for the next one gunicorn has a limit of its own."""
        self._ends = None

    def recv(self, size: int, flags: int = 0) -> Any:
        """What has come; raises TimeoutError once a body takes too long."""
        if self._ends is None:
            return self._sock.recv(size, flags)
        self._sock.settimeout(max(0.001, self._ends - time.monotonic()))
        try:
            return self._sock.recv(size, flags)
        finally:
            self._sock.settimeout(None)

    def sendall(self, data: bytes) -> None:
        """Send; a client that does not take it in time counts as gone.

        The head of an answer waits for what follows: one packet instead of two.
        """
        if data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n"):
            self._head += data
            return
        data, self._head = self._head + data, b""
        # What fits into the system's buffer, and nearly all does, needs no timer.
        self._sock.settimeout(0)
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        finally:
            self._sock.settimeout(None)
        if sent < len(data):
            self._send_slowly(data[sent:])

    def flush(self) -> None:
        """Send a head that nothing follows."""
        if self._head:
            self.sendall(b"")

    def sendfile(self, *what: Any, **more: Any) -> Any:
        """Send a file, after the head that waits for it."""
        self.flush()
        return self._in_time(self._sock.sendfile, *what, **more)

    def _send_slowly(self, data: bytes) -> None:
        self._in_time(self._sock.sendall, data)

    def _in_time(self, send: Callable[..., Any], *what: Any, **more: Any) -> Any:
        self._sock.settimeout(ANSWER_SECONDS)
        try:
            return send(*what, **more)
        except TimeoutError as exc:
            raise ConnectionResetError(errno.ECONNRESET, "the client takes too long") from exc
        finally:
            self._sock.settimeout(None)


server_log = LogWriter(lambda: sys.stderr)


class ServerLogger(Logger):  # type: ignore[misc]
    """gunicorn's own lines, written so that a log that nobody reads blocks neither the master nor a worker."""

    def _set_handler(self, log: Any, output: str | None, fmt: Any, stream: Any = None) -> None:
        super()._set_handler(log, output, fmt, stream or server_log)


class Problems(Worker):  # type: ignore[misc]
    """A worker whose own refusals are problems as well."""

    def handle_error(self, _req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Tell the log what is wrong, and the client as little as it needs."""
        refusal = next((refusal for kind, refusal in REFUSALS if isinstance(exc, kind)), OURS)
        if refusal is OURS:
            self.log.error("error handling a request", exc_info=exc)
        else:
            self.log.warning("refused a request of %s: %s", (addr or ("",))[0], type(exc).__name__)
        try:
            util.write_nonblock(client, problem(refusal))
        except Exception:
            self.log.debug("the client is gone")


class Watched(Worker):  # type: ignore[misc]
    """A worker that ends in order when its background work makes no progress; gunicorn then starts another."""

    alive: bool

    def notify(self) -> None:
        """Say that the worker lives, once a second."""
        super().notify()
        running = self.wsgi.extensions["orderflow"]
        failing = running.failing() if self.alive else []
        if failing:
            self.log.critical(
                "no progress in %s: this worker ends and is replaced", ", ".join(one.name for one in failing)
            )
            running.give_up(failing)
            self.alive = False


class Gevent(Problems, Watched, GeventWorker):  # type: ignore[misc]
    """Many clients at once, each of whom has to hurry."""

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection until it ends."""
        # GeventWorker's own would take all limits off the socket.
        super(GeventWorker, self).handle(listener, Patience(client), addr)

    def handle_request(self, listener_name: Any, req: Any, sock: Patience, addr: Any) -> Any:
        """Answer one request, whose body has to come in time."""
        sock.hurry()
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            sock.flush()
            sock.relax()


class Threads(Problems, Watched, ThreadWorker):  # type: ignore[misc]
    """As many clients at once as there are threads; nobody hurries them: for behind a proxy that reads requests whole."""


def problem(refusal: Refusal) -> bytes:
    """The whole answer that tells of a refusal."""
    status, code, title, detail = refusal
    request_id = uuid4().hex
    told = {"ok": False, "type": f"/problems/{code}", "title": title, "status": status, "detail": detail}
    body = json.dumps({**told, "code": code, "requestId": request_id}, separators=(",", ":"))
    head = f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{HEADERS}X-Request-Id: {request_id}\r\n\r\n{body}".encode()
