"""Connections to receivers: to checked addresses only, and with an end for each operation."""

import ssl
import time
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket
from typing import Any, NamedTuple, Protocol

from app.webhooks.public_addresses import AddressRules
from app.webhooks.resolver import NameNotFound, Resolve

CONNECT_SECONDS = 5.0
MAX_ADDRESSES = 2
READ_BYTES = 16 * 1024


class AddressRefused(Exception):
    """The host has an address that webhooks may not be sent to."""


class ConnectionFailed(Exception):
    """There is no connection; the text says why, without anything that the peer sent."""


class Origin(NamedTuple):
    """What a connection leads to."""

    scheme: str
    host: str
    port: int


class Stream(Protocol):
    """A connection. Its operations raise TimeoutError at the time `ends`, of the monotonic clock, and OSError."""

    ends: float

    def send(self, data: bytes) -> None:
        """Send everything."""

    def receive(self) -> bytes:
        """Some bytes; none at the end."""

    def is_quiet(self) -> bool:
        """Whether the peer has neither sent anything nor closed the connection."""

    def close(self) -> None:
        """Close the connection."""


class TcpStream:
    """A connection whose every operation ends in time: a peer cannot prolong it by sending a byte now and then."""

    def __init__(self, sock: socket, ends: float) -> None:
        self._sock = sock
        self.ends = ends

    def send(self, data: bytes) -> None:
        self._sock.settimeout(remaining(self.ends))
        self._sock.sendall(data)

    def receive(self) -> bytes:
        self._sock.settimeout(remaining(self.ends))
        return self._sock.recv(READ_BYTES)

    def is_quiet(self) -> bool:
        self._sock.settimeout(0.0)
        try:
            self._sock.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        self._sock.close()


class TlsStream:
    """TLS over a connection.

    Not an SSLSocket: under gevent its time limit begins anew with each byte that comes.
    """

    def __init__(self, stream: TcpStream, context: ssl.SSLContext, host: str) -> None:
        self._stream = stream
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host)
        self._run(self._tls.do_handshake)

    @property
    def ends(self) -> float:
        return self._stream.ends

    @ends.setter
    def ends(self, ends: float) -> None:
        self._stream.ends = ends

    def send(self, data: bytes) -> None:
        # What is written goes to memory, so all of it is taken at once.
        self._run(self._tls.write, data)

    def receive(self) -> bytes:
        try:
            received: bytes = self._run(self._tls.read, READ_BYTES)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        return received

    def is_quiet(self) -> bool:
        return self._stream.is_quiet()

    def close(self) -> None:
        self._stream.close()

    def _run(self, operation: Any, *args: Any) -> Any:
        while True:
            try:
                result = operation(*args)
            except ssl.SSLWantReadError:
                self._flush()
                self._feed(self._stream.receive())
            else:
                self._flush()
                return result

    def _feed(self, data: bytes) -> None:
        if data:
            self._received.write(data)
        else:
            self._received.write_eof()

    def _flush(self) -> None:
        if self._to_send.pending:
            self._stream.send(self._to_send.read())


class CheckedNetwork:
    """Resolves names when it connects, checks every address, and connects to a checked one.

    A name that resolves otherwise a moment later changes nothing: it is not resolved again. TLS still verifies the name.
    """

    def __init__(self, rules: AddressRules, resolve: Resolve) -> None:
        self._rules = rules
        self._resolve = resolve
        self._context = ssl.create_default_context()

    def connect(self, origin: Origin, ends: float) -> Stream:
        """A new connection. Raises AddressRefused, NameNotFound and ConnectionFailed."""
        connected_by = min(ends, time.monotonic() + CONNECT_SECONDS)
        stream: TcpStream | None = None
        try:
            stream = self._connect(origin, connected_by)
            if origin.scheme == "http":
                return stream
            return TlsStream(stream, self._context, origin.host)
        except (OSError, NameNotFound, AddressRefused) as exc:
            if stream:
                stream.close()
            if isinstance(exc, OSError):
                raise ConnectionFailed(_reason(exc)) from exc
            raise

    def _connect(self, origin: Origin, ends: float) -> TcpStream:
        addresses = self._resolve(origin.host, remaining(ends))
        if not all(map(self._rules.allow, addresses)):
            raise AddressRefused
        error: Exception = NameNotFound()
        for address in addresses[:MAX_ADDRESSES]:
            try:
                sock = create_connection((address, origin.port), remaining(ends))
            except OSError as exc:
                error = exc
            else:
                sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
                return TcpStream(sock, ends)
        raise error


def remaining(ends: float) -> float:
    """The seconds until `ends`. Raises TimeoutError where there are none."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {getattr(error, 'verify_message', '') or error.reason or 'handshake'}"
    return "no connection in time" if isinstance(error, TimeoutError) else "no connection"
