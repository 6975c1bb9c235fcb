"""The worker classes: gunicorn's own, with limits on every connection.

gunicorn's gevent worker gives a client `keepalive` seconds for a head, which is long behind a load balancer, and unlimited time
for its body and for taking the response. It also reads an unread body to its end, however long that is.
"""

import time
from contextlib import AbstractContextManager, nullcontext, suppress
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any
from uuid import uuid4

from gevent.server import StreamServer
from gunicorn import util
from gunicorn.workers.base import Worker
from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.gthread import DEFAULT_WORKER_DATA_TIMEOUT, ThreadWorker

from app.observability.request_log import FAILED, RequestLogger
from app.server import once
from app.server.connections import ALL_NETWORKS, ConnectionRegistry, FairScheduler
from app.server.refusals import INTERNAL_ERROR, REFUSALS, TOO_MANY_CONNECTIONS, ServerProblem, problem_response
from app.server.sockets import READ_BYTES, ClientLimits, DeadlineSocket, PreemptiveScheduler

# Set when the server is configured.
limits = ClientLimits()
request_logger = RequestLogger(FAILED)

REFUSED_ROUTE = "(refused)"

WARNING_SECONDS = 1.0
# How many bytes of a chunked body are read at once: parsing each chunk costs time, however small it is.
CHUNKED_READ_BYTES = 1024


class ProblemWorker(Worker):  # type: ignore[misc]
    """A worker that answers malformed requests with problems, and bounds the memory that the system uses for each client."""

    cfg: Any

    def init_process(self) -> None:
        """Limit the receive buffer of each connection, then start."""
        self.cfg = once.install(self.cfg)
        for listener in self.sockets:
            listener.setsockopt(SOL_SOCKET, SO_RCVBUF, limits.unread_bytes)
        super().init_process()

    def handle_error(self, _req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Log the error, and answer with a problem that repeats nothing of the request."""
        refusal = next((refusal for kind, refusal in REFUSALS if isinstance(exc, kind)), INTERNAL_ERROR)
        request_id = uuid4().hex
        if refusal is INTERNAL_ERROR:
            self.log.error("error handling a request", exc_info=exc, extra={"request_id": request_id})
        count_refusal(refusal)
        log_refusal(refusal, request_id, addr, type(exc).__name__)
        client.unread = True
        try:
            util.write_nonblock(client, problem_response(refusal, request_id))
        except Exception:
            self.log.debug("the client has closed the connection")


class WatchdogWorker(Worker):  # type: ignore[misc]
    """A worker that stops in order when its background work makes no progress; gunicorn then starts another."""

    alive: bool

    def notify(self) -> None:
        """Signal once a second that the worker lives, and check the background work."""
        super().notify()
        runtime = self.wsgi.extensions["orderflow"]
        failing = runtime.failing() if self.alive else []
        if failing:
            names = ", ".join(heartbeat.name for heartbeat in failing)
            self.log.critical("no progress in %s: this worker ends and is replaced", names)
            runtime.give_up(failing)
            self.alive = False


class BoundedGeventWorker(ProblemWorker, WatchdogWorker, GeventWorker):  # type: ignore[misc]
    """Many clients at once, with deadlines for each, and fair scheduling among those that never pause."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scheduler = FairScheduler()
        trusted = ALL_NETWORKS if "*" in self.cfg.forwarded_allow_ips else self.cfg.forwarded_allow_networks()
        self._connections = ConnectionRegistry(self.worker_connections, limits.per_address, trusted)
        self._warned_at = 0.0

    def init_process(self) -> None:
        """Accept one client at a time, as gunicorn does with several workers, then start."""
        StreamServer.max_accept = 1
        super().init_process()

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """Do nothing: the socket has its own deadlines."""
        return nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection until it ends, or refuse it if its address has too many."""
        sock = DeadlineSocket(client, limits, self.cfg.keepalive or limits.head_seconds, self._scheduler)
        with self._connections.register(sock, addr) as admitted:
            if admitted:
                # GeventWorker.handle would remove the timeouts of the socket.
                super(GeventWorker, self).handle(listener, sock, addr)
            else:
                self._refuse(sock, addr)

    def handle_request(self, listener_name: Any, req: Any, sock: DeadlineSocket, addr: Any) -> Any:
        """Answer one request. Raises StopIteration if the connection must end with it."""
        begin_request(req, sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
            sock.flush()
            discard_body(req.body)
        finally:
            end_request(req, sock)
        if sock.unread:
            raise StopIteration

    def _refuse(self, sock: DeadlineSocket, addr: Any) -> None:
        request_id = uuid4().hex
        with suppress(OSError):
            sock.sendall(problem_response(TOO_MANY_CONNECTIONS, request_id))
        sock.close()
        count_refusal(TOO_MANY_CONNECTIONS)
        if time.monotonic() - self._warned_at > WARNING_SECONDS:
            self._warned_at = time.monotonic()
            self.log.warning("refused a connection of %s, which has %s open", addr[0], limits.per_address)
            log_refusal(TOO_MANY_CONNECTIONS, request_id, addr, "too many connections")


class BoundedThreadWorker(ProblemWorker, WatchdogWorker, ThreadWorker):  # type: ignore[misc]
    """As many clients at once as there are threads, with deadlines for each. For use behind a proxy that buffers requests."""

    def handle(self, conn: Any) -> Any:
        """Serve the requests that are ready on a connection."""
        if not isinstance(conn.sock, DeadlineSocket):
            self._wrap_socket(conn)
        # Until now gunicorn's poller has waited, with a timeout of its own.
        conn.sock.start_idle(begun=conn.parser is not None and _has_read_ahead(conn.parser.unreader))
        keep = super().handle(conn)
        if not keep:
            conn.sock.linger()
        return keep

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Answer one request, and return whether the connection may stay open."""
        begin_request(req, conn.sock)
        try:
            keep = super().handle_request(req, conn)
            conn.sock.flush()
            discard_body(req.body)
        finally:
            end_request(req, conn.sock)
        return bool(keep and not conn.sock.unread)

    def _wrap_socket(self, conn: Any) -> None:
        idle_seconds = DEFAULT_WORKER_DATA_TIMEOUT + limits.head_seconds
        conn.sock = DeadlineSocket(conn.sock, limits, idle_seconds, PreemptiveScheduler())
        # gunicorn's own close waits for the client up to two seconds, in the one thread that serves all connections.
        conn.close = lambda **_: util.close(conn.sock)


def log_refusal(refusal: ServerProblem, request_id: str, addr: Any, reason: str) -> None:
    """Log a request that the application has not seen; nothing that the client has sent is repeated."""
    if not request_logger.wants(refusal.status):
        return
    request_logger.write(
        {
            "request_id": request_id,
            "caller": addr[0] if isinstance(addr, tuple) else "",
            "method": "other",
            "route": REFUSED_ROUTE,
            "status": refusal.status,
            "took_ms": 0.0,
            "code": refusal.code,
            "reason": reason,
        }
    )


def count_refusal(refusal: ServerProblem) -> None:
    """Count a request that the application has not seen."""
    # Imported in the worker only: the folder that all workers share for their metrics must be known before.
    from app.observability import metrics

    metrics.problem_counter(refusal.code).inc()
    metrics.observe_request(REFUSED_ROUTE, "other", refusal.status, 0.0)


def begin_request(req: Any, sock: DeadlineSocket) -> None:
    """Start the body's deadline. Close the connection after its last request, and after a body that is too large to discard."""
    sock.start_body()
    req.unreader.mxchunk = READ_BYTES if hasattr(req.body.reader, "length") else CHUNKED_READ_BYTES
    if req.req_number >= limits.requests or getattr(req.body.reader, "length", 0) > limits.unread_bytes:
        req.force_close()


def discard_body(body: Any) -> None:
    """Discard what the application has not read of a small body, so that the next request can be found."""
    left = getattr(body.reader, "length", None)
    if left == 0 or body.failed:
        return
    if left is None or left <= limits.unread_bytes:
        with suppress(Exception):
            body.read(limits.unread_bytes)


def end_request(req: Any, sock: DeadlineSocket) -> None:
    """Note whether the whole body was read, and expect the next request."""
    sock.flush()
    sock.unread = not _fully_read(req.body)
    req.unreader.mxchunk = READ_BYTES
    begun = _has_read_ahead(req.unreader)
    sock.start_idle(begun=begun)
    if begun:
        sock.count_ready_read()


def _has_read_ahead(unreader: Any) -> bool:
    """Whether part of the next request has been read already."""
    return bool(unreader.buf.getvalue())


def _fully_read(body: Any) -> bool:
    # After the last chunk a reader of chunks drops its parser; a reader of a known length counts down to 0.
    return not (body.failed or getattr(body.reader, "length", 0) or getattr(body.reader, "parser", None))
