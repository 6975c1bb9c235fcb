"""One client's connection: every wait for the client has a deadline, and a client that never pauses waits for its turn."""

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RD, SHUT_WR
from typing import Any, Protocol

READ_BYTES = 8192
# How many requests or reads of a body in a row may be there at once before others go first: enough for a head and a body in
# two packets.
PIECES_AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What one client may cost. Times are in seconds."""

    head_seconds: float = 5.0
    body_seconds: float = 10.0
    answer_seconds: float = 30.0
    # Bytes on the wire, the framing of chunks included: twice the largest body.
    body_bytes: int = 128 * 1024
    # How much of a body that the application did not read is read off, so that the connection can go on.
    unread_bytes: int = 64 * 1024
    linger_seconds: float = 2.0
    requests: int = 1000
    per_address: int = 500


class Scheduler(Protocol):
    """How a connection whose client never pauses lets others run."""

    def waited(self, now: float) -> None:
        """A connection had to wait for its client, until `now` on the monotonic clock: others have run meanwhile."""

    def give_way(self) -> None:
        """Return when everything else that is ready has run."""

    def take_turn(self, ran: float) -> None:
        """Return when it is this connection's turn among all that ask for one; it `ran` for so many seconds."""


class Preemptive:
    """For threads, which the system interrupts by itself."""

    def waited(self, now: float) -> None:
        """Go on."""

    def give_way(self) -> None:
        """Go on."""

    def take_turn(self, ran: float) -> None:
        """Go on."""


class DeadlineSocket:
    """A client's socket.

    A request has three phases: idle until its first byte, then its head, then its body. Each has a deadline that no amount of
    trickling bytes moves. A client that always has more to read makes its connection run on without ever waiting: it gives way
    before each request, and where more is there than one request, or a body in many pieces, waits for its turn.
    An idle connection may stay so for `idle_seconds`.
    """

    def __init__(self, sock: Any, limits: ConnectionLimits, idle_seconds: float, scheduler: Scheduler) -> None:
        self._sock = sock
        self._limits = limits
        self._idle_seconds = idle_seconds
        self._scheduler = scheduler
        self._answer_head = b""
        self._resume()
        self._cut_off = False
        self.unread = False
        # When the phase began whose bytes are being waited for; 0 while nothing is.
        self.waiting_since = 0.0
        sock.setblocking(True)
        self.start_idle(begun=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def start_idle(self, *, begun: bool) -> None:
        """The next request may come; where it has `begun` already, the deadline of its head holds."""
        self._reading_body, self._idle = False, not begun
        self._set_deadline(self._limits.head_seconds if begun else self._idle_seconds)

    def start_body(self) -> None:
        """The head has come: from now on the body has its time, and a number of bytes."""
        self._reading_body, self._idle = True, False
        self._set_deadline(self._limits.body_seconds)
        self._bytes_left = self._limits.body_bytes

    def recv(self, size: int, flags: int = 0) -> Any:
        """What has come. A head that is late reads as a closed connection.

        Raises TimeoutError for a body that is late and OverflowError for one that has too many bytes on the wire.
        """
        return self._recv_body(size, flags) if self._reading_body else self._recv_head(size, flags)

    def count_piece(self) -> None:
        """One more request or read was there without a wait; after a few, others go first."""
        self._pieces += 1
        if self._pieces > PIECES_AT_ONCE:
            self._scheduler.take_turn(time.monotonic() - self._resumed)
            self._resume()

    def cut_off(self) -> None:
        """End the wait for the client from outside, as if its deadline had passed."""
        self._cut_off = True
        with suppress(OSError):
            self._sock.shutdown(SHUT_RD)

    def close(self) -> None:
        """Close, where the client is still sending after its answer had time to arrive."""
        self.linger()
        self._sock.close()

    def linger(self) -> None:
        """Wait a little for the client to take its answer and go, if it is still sending; no more is sent to it.

        A connection that is closed with data unread is reset, and a client may then lose the answer.
        """
        if not self.unread:
            return
        self.unread = self._idle = False
        self._set_deadline(self._limits.linger_seconds)
        self._bytes_left = self._limits.unread_bytes
        with suppress(OSError, OverflowError):
            self._sock.shutdown(SHUT_WR)
            while self._recv_body(READ_BYTES):
                pass

    def sendall(self, data: bytes) -> None:
        """Send; a client that does not take it in time counts as gone.

        The head of an answer waits for what follows: one packet instead of two.
        """
        if data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n"):
            self._answer_head += data
            return
        data, self._answer_head = self._answer_head + data, b""
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
        if self._answer_head:
            self.sendall(b"")

    def sendfile(self, *what: Any, **more: Any) -> Any:
        """Send a file, after the head that waits for it."""
        self.flush()
        return self._in_time(self._sock.sendfile, *what, **more)

    def _recv_head(self, size: int, flags: int) -> Any:
        try:
            data = self._recv_in_time(size, flags)
        except TimeoutError:
            return b""
        if data and self._idle:
            self.start_idle(begun=True)
        return data

    def _recv_body(self, size: int, flags: int = 0) -> Any:
        if self._bytes_left <= 0:
            raise OverflowError
        data = self._recv_in_time(min(size, self._bytes_left), flags)
        self._bytes_left -= len(data)
        return data

    def _recv_in_time(self, size: int, flags: int) -> Any:
        left = self._ends - time.monotonic()
        if left <= 0 or self._cut_off:
            raise TimeoutError
        try:
            self._sock.settimeout(0)
            data = self._sock.recv(size, flags)
        except BlockingIOError:
            return self._wait_and_recv(size, flags, left)
        finally:
            self._sock.settimeout(None)
        if self._idle:
            self._scheduler.give_way()
        elif data:
            self.count_piece()
        return data

    def _wait_and_recv(self, size: int, flags: int, seconds: float) -> Any:
        self._sock.settimeout(seconds)
        self.waiting_since = self._began
        try:
            data = self._sock.recv(size, flags)
        except OSError as exc:
            if self._cut_off:
                raise TimeoutError from exc
            raise
        finally:
            self.waiting_since = 0.0
            self._resume()
            self._scheduler.waited(self._resumed)
        if self._cut_off:
            raise TimeoutError
        return data

    def _set_deadline(self, seconds: float) -> None:
        self._began = time.monotonic()
        self._ends = self._began + seconds

    def _resume(self) -> None:
        self._pieces, self._resumed = 0, time.monotonic()

    def _send_slowly(self, data: bytes) -> None:
        self._in_time(self._sock.sendall, data)

    def _in_time(self, send: Callable[..., Any], *what: Any, **more: Any) -> Any:
        self._sock.settimeout(self._limits.answer_seconds)
        try:
            return send(*what, **more)
        except TimeoutError as exc:
            raise ConnectionResetError(errno.ECONNRESET, "the client takes too long") from exc
        finally:
            self._sock.settimeout(None)
