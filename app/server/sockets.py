"""The socket of one client: every wait for the client has a deadline, and a client that never pauses waits for its turn."""

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RD, SHUT_WR
from typing import Any, Protocol

READ_BYTES = 8192
# How many requests or reads of a body may follow each other without a wait before others run: a head and a body in two packets.
MAX_READY_READS = 2


@dataclass(frozen=True, kw_only=True)
class ClientLimits:
    """What one client may cost. Times are in seconds."""

    head_seconds: float = 5.0
    body_seconds: float = 10.0
    send_seconds: float = 30.0
    # Bytes on the wire, the framing of chunks included: twice the largest body.
    body_bytes: int = 128 * 1024
    # How many bytes that the application did not read are discarded to keep the connection open.
    unread_bytes: int = 64 * 1024
    linger_seconds: float = 2.0
    requests: int = 1000
    per_address: int = 500


class Scheduler(Protocol):
    """How a connection whose client never pauses lets others run."""

    def record_wait(self, now: float) -> None:
        """Note that a connection waited for its client until `now` on the monotonic clock, while others ran."""

    def yield_if_due(self) -> None:
        """Return when everything else that is ready has run."""

    def wait_for_turn(self, ran_seconds: float) -> None:
        """Wait for the turn of this connection, which has run for `ran_seconds` since its last wait."""


class PreemptiveScheduler:
    """The scheduler of threads: the system interrupts them, so nothing has to yield."""

    def record_wait(self, now: float) -> None:
        """Do nothing."""

    def yield_if_due(self) -> None:
        """Return at once."""

    def wait_for_turn(self, ran_seconds: float) -> None:
        """Return at once."""


class DeadlineSocket:
    """A client's socket.

    A request has three phases: idle until its first byte, then its head, then its body. Each phase has a deadline that no
    later byte moves. A client that always has more to read keeps its connection running without a wait: such a
    connection yields before each request, and waits for its turn if several requests, or a body in many pieces, are ready.
    An idle connection may stay so for `idle_seconds`.
    """

    def __init__(self, sock: Any, limits: ClientLimits, idle_seconds: float, scheduler: Scheduler) -> None:
        self._sock = sock
        self._limits = limits
        self._idle_seconds = idle_seconds
        self._scheduler = scheduler
        self._pending_head = b""
        self._restart_run()
        self._aborted = False
        self.unread = False
        # When the phase began whose bytes are awaited, on the monotonic clock; 0 while no bytes are.
        self.waiting_since = 0.0
        sock.setblocking(True)
        self.start_idle(begun=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def start_idle(self, *, begun: bool) -> None:
        """Expect the next request. If it has `begun` already, start the deadline of its head."""
        self._reading_body, self._idle = False, not begun
        self._start_deadline(self._limits.head_seconds if begun else self._idle_seconds)

    def start_body(self) -> None:
        """Start the deadline of the body, and count its bytes."""
        self._reading_body, self._idle = True, False
        self._start_deadline(self._limits.body_seconds)
        self._bytes_left = self._limits.body_bytes

    def recv(self, size: int, flags: int = 0) -> Any:
        """Read up to `size` bytes. A late head reads as a closed connection.

        Raises TimeoutError for a late body and OverflowError for one with too many bytes on the wire.
        """
        return self._recv_body(size, flags) if self._reading_body else self._recv_head(size, flags)

    def count_ready_read(self) -> None:
        """Count a request or read that needed no wait. After MAX_READY_READS of them, wait for a turn."""
        self._ready_reads += 1
        if self._ready_reads > MAX_READY_READS:
            self._scheduler.wait_for_turn(time.monotonic() - self._running_since)
            self._restart_run()

    def abort(self) -> None:
        """End the wait for the client from outside, as if its deadline had passed."""
        self._aborted = True
        with suppress(OSError):
            self._sock.shutdown(SHUT_RD)

    def close(self) -> None:
        """Linger, then close."""
        self.linger()
        self._sock.close()

    def linger(self) -> None:
        """If data is unread, send no more and discard what comes, until the client closes or the time has passed.

        A connection that is closed with data unread is reset, and the client may then lose the response.
        """
        if not self.unread:
            return
        self.unread = self._idle = False
        self._start_deadline(self._limits.linger_seconds)
        self._bytes_left = self._limits.unread_bytes
        with suppress(OSError, OverflowError):
            self._sock.shutdown(SHUT_WR)
            while self._recv_body(READ_BYTES):
                pass

    def sendall(self, data: bytes) -> None:
        """Send `data`. Raises ConnectionResetError if the client does not take it within `send_seconds`.

        The head of a response is held back until its body follows: one packet instead of two.
        """
        if data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n"):
            self._pending_head += data
            return
        data, self._pending_head = self._pending_head + data, b""
        # Nearly every response fits into the system's buffer, and then needs no timer.
        self._sock.settimeout(0)
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        finally:
            self._sock.settimeout(None)
        if sent < len(data):
            self._send_within_limit(self._sock.sendall, data[sent:])

    def flush(self) -> None:
        """Send a head that no body follows."""
        if self._pending_head:
            self.sendall(b"")

    def sendfile(self, *args: Any, **kwargs: Any) -> Any:
        """Send a file, after the head that was held back."""
        self.flush()
        return self._send_within_limit(self._sock.sendfile, *args, **kwargs)

    def _recv_head(self, size: int, flags: int) -> Any:
        try:
            data = self._recv_before_deadline(size, flags)
        except TimeoutError:
            return b""
        if data and self._idle:
            self.start_idle(begun=True)
        return data

    def _recv_body(self, size: int, flags: int = 0) -> Any:
        if self._bytes_left <= 0:
            raise OverflowError
        data = self._recv_before_deadline(min(size, self._bytes_left), flags)
        self._bytes_left -= len(data)
        return data

    def _recv_before_deadline(self, size: int, flags: int) -> Any:
        left = self._deadline - time.monotonic()
        if left <= 0 or self._aborted:
            raise TimeoutError
        try:
            self._sock.settimeout(0)
            data = self._sock.recv(size, flags)
        except BlockingIOError:
            return self._wait_and_recv(size, flags, left)
        finally:
            self._sock.settimeout(None)
        if self._idle:
            self._scheduler.yield_if_due()
        elif data:
            self.count_ready_read()
        return data

    def _wait_and_recv(self, size: int, flags: int, seconds: float) -> Any:
        self._sock.settimeout(seconds)
        self.waiting_since = self._phase_began
        try:
            data = self._sock.recv(size, flags)
        except OSError as exc:
            if self._aborted:
                raise TimeoutError from exc
            raise
        finally:
            self.waiting_since = 0.0
            self._restart_run()
            self._scheduler.record_wait(self._running_since)
        if self._aborted:
            raise TimeoutError
        return data

    def _start_deadline(self, seconds: float) -> None:
        self._phase_began = time.monotonic()
        self._deadline = self._phase_began + seconds

    def _restart_run(self) -> None:
        self._ready_reads, self._running_since = 0, time.monotonic()

    def _send_within_limit(self, send: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._sock.settimeout(self._limits.send_seconds)
        try:
            return send(*args, **kwargs)
        except TimeoutError as exc:
            raise ConnectionResetError(errno.ECONNRESET, "the client takes too long") from exc
        finally:
            self._sock.settimeout(None)
