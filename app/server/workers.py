"""The worker classes: gunicorn's own, with bounds on every connection.

gunicorn itself gives a gevent worker's client `keepalive` seconds for a head, which are many behind a load balancer, any time for its
body and for taking the answer, and reads an unread body to its end, however long that is.
"""

import time
from contextlib import AbstractContextManager, nullcontext, suppress
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any

from gevent.server import StreamServer
from gunicorn import util
from gunicorn.workers.base import Worker
from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.gthread import DEFAULT_WORKER_DATA_TIMEOUT, ThreadWorker

from app.server.connections import EVERYONE, Places, Turns
from app.server.refusals import OURS, REFUSALS, TOO_MANY, problem
from app.server.sockets import ConnectionLimits, DeadlineSocket, Preemptive

# Set when the server is configured.
limits = ConnectionLimits()

WARNING_SECONDS = 1.0
# How much is read at once while the framing of chunks is looked through, in bytes: each chunk costs time, however small.
FRAMING_BYTES, READ_BYTES = 1024, 8192


class Problems(Worker):  # type: ignore[misc]
    """A worker whose own refusals are problems as well, and whose clients fill little of the system's memory."""

    def init_process(self) -> None:
        """Begin, with a bound on what the system holds of each connection before it is read."""
        for listener in self.sockets:
            listener.setsockopt(SOL_SOCKET, SO_RCVBUF, limits.unread_bytes)
        super().init_process()

    def handle_error(self, _req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Tell the log what is wrong, and the client as little as it needs."""
        refusal = next((refusal for kind, refusal in REFUSALS if isinstance(exc, kind)), OURS)
        if refusal is OURS:
            self.log.error("error handling a request", exc_info=exc)
        else:
            self.log.warning("refused a request of %s: %s", (addr or ("",))[0], type(exc).__name__)
        client.unread = True
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
    """Many clients at once, with a deadline for each and turns among those that never pause."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._turns = Turns()
        trusted = EVERYONE if "*" in self.cfg.forwarded_allow_ips else self.cfg.forwarded_allow_networks()
        self._places = Places(self.worker_connections, limits.per_address, trusted)
        self._warned = 0.0

    def init_process(self) -> None:
        """Begin; one client at a time is let in, as gunicorn does it where there are several workers."""
        StreamServer.max_accept = 1
        super().init_process()

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """The socket has its own deadlines."""
        return nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection until it ends, if its address may have one more."""
        sock = DeadlineSocket(client, limits, self.cfg.keepalive or limits.head_seconds, self._turns)
        with self._places.place(sock, addr) as admitted:
            if admitted:
                # GeventWorker's own would take all limits off the socket.
                super(GeventWorker, self).handle(listener, sock, addr)
            else:
                self._turn_away(sock, addr)

    def handle_request(self, listener_name: Any, req: Any, sock: DeadlineSocket, addr: Any) -> Any:
        """Answer one request; raises StopIteration where the connection must end with it."""
        begin(req, sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
            sock.flush()
            discard(req.body)
        finally:
            end(req, sock)
        if sock.unread:
            raise StopIteration

    def _turn_away(self, sock: DeadlineSocket, addr: Any) -> None:
        with suppress(OSError):
            sock.sendall(problem(TOO_MANY))
        sock.close()
        if time.monotonic() - self._warned > WARNING_SECONDS:
            self._warned = time.monotonic()
            self.log.warning("refused a connection of %s, which has %s open", addr[0], limits.per_address)


class Threads(Problems, Watched, ThreadWorker):  # type: ignore[misc]
    """As many clients at once as there are threads, each with deadlines: for behind a proxy that reads requests whole."""

    def handle(self, conn: Any) -> Any:
        """Serve what has come over a connection."""
        if not isinstance(conn.sock, DeadlineSocket):
            self._bound(conn)
        # Until now gunicorn's poller has waited, with a time-out of its own.
        conn.sock.start_idle(begun=conn.parser is not None and _ahead(conn.parser.unreader))
        goes_on = super().handle(conn)
        if not goes_on:
            conn.sock.linger()
        return goes_on

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Answer one request; whether the connection may go on."""
        begin(req, conn.sock)
        try:
            keep = super().handle_request(req, conn)
            conn.sock.flush()
            discard(req.body)
        finally:
            end(req, conn.sock)
        return bool(keep and not conn.sock.unread)

    def _bound(self, conn: Any) -> None:
        idle_seconds = DEFAULT_WORKER_DATA_TIMEOUT + limits.head_seconds
        conn.sock = DeadlineSocket(conn.sock, limits, idle_seconds, Preemptive())
        # gunicorn would wait for the client here, up to two seconds, in the one thread that serves all connections.
        conn.close = lambda **_: util.close(conn.sock)


def begin(req: Any, sock: DeadlineSocket) -> None:
    """The head has come. The last request of a connection says so, and one whose body is too large to be read off."""
    sock.start_body()
    req.unreader.mxchunk = READ_BYTES if hasattr(req.body.reader, "length") else FRAMING_BYTES
    if req.req_number >= limits.requests or getattr(req.body.reader, "length", 0) > limits.unread_bytes:
        req.force_close()


def discard(body: Any) -> None:
    """Read off what the application has left of a body, if that is little; without it the next request cannot be found."""
    if not body.failed and getattr(body.reader, "length", 0) <= limits.unread_bytes:
        with suppress(Exception):
            body.read(limits.unread_bytes)


def end(req: Any, sock: DeadlineSocket) -> None:
    """The request is answered: note whether its body has been read, and expect the next one."""
    sock.flush()
    sock.unread = not _whole(req.body)
    req.unreader.mxchunk = READ_BYTES
    begun = _ahead(req.unreader)
    sock.start_idle(begun=begun)
    if begun:
        sock.count_piece()


def _ahead(unreader: Any) -> bool:
    """Whether some of the next request has been read already."""
    return bool(unreader.buf.getvalue())


def _whole(body: Any) -> bool:
    # A reader of chunks lets its parser go after the last one; one of a known length counts down.
    return not (body.failed or getattr(body.reader, "length", 0) or getattr(body.reader, "parser", None))
