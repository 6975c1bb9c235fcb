"""Sends webhooks over HTTP: to allowed addresses only, within a time, and reading little of the answer."""

import re
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from app.webhooks.connection import AddressRefused, CheckedNetwork, ConnectionFailed, Origin, Stream
from app.webhooks.delivery import AttemptResult
from app.webhooks.public_addresses import AddressRules
from app.webhooks.received_response import MalformedResponse, ReceivedResponse
from app.webhooks.resolver import NameNotFound, Resolve, Resolver

TOTAL_SECONDS = 15.0
# How long a connection is kept that is not used, and how long one is used: its name may lead elsewhere by then.
KEEP_ALIVE_SECONDS = 30.0
MAX_AGE_SECONDS = 300.0
MAX_KEPT_CONNECTIONS = 64
PORTS = {"http": 80, "https": 443}
# Nothing else may be in a request's head: a line break would begin another header, or another request.
TARGET = re.compile(r"[!-~]+")
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [ -~]*")


class UnusableUrl(ValueError):
    """No request can be sent to this URL."""


class UnusableHeaders(ValueError):
    """A header has a character that would end it."""


class _PostAddress(NamedTuple):
    """Where a URL leads: `head` is how the head of a request begins."""

    origin: Origin
    head: bytes


class _Connection:
    """A connection to a receiver. Times are of the monotonic clock: when it was made, and last used."""

    def __init__(self, origin: Origin, stream: Stream) -> None:
        self.origin = origin
        self.stream = stream
        self.made_at = self.used_at = time.monotonic()

    @property
    def expired(self) -> bool:
        """Whether it was kept for too long."""
        now = time.monotonic()
        return now > self.used_at + KEEP_ALIVE_SECONDS or now > self.made_at + MAX_AGE_SECONDS

    def send(self, address: _PostAddress, headers: Mapping[str, str], body: bytes) -> None:
        """Send a request. Raises UnusableHeaders."""
        lines = [f"{name}: {value}" for name, value in headers.items()]
        if not all(map(HEADER.fullmatch, lines)):
            raise UnusableHeaders
        fields = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode()
        self.stream.send(address.head + fields + body)

    def receive(self) -> ReceivedResponse:
        """The answer: its head, and the beginning of its body. Raises MalformedResponse.

        Once the status has been received, the end of the time is no error: a body that never ends does not make it another.
        """
        response = ReceivedResponse()
        try:
            while response.wants_more:
                response.feed(self.stream.receive())
        except TimeoutError:
            if not response.status:
                raise
        self.used_at = time.monotonic()
        return response


class WebhookClient:
    """Posts webhooks. Redirects are answers like others: nothing follows them.

    `resolve` looks up the addresses of a host; `seconds` is how long a request may take in all. Connections are kept for the next
    requests to the same host and port: they lead to addresses that were checked.
    """

    def __init__(self, rules: AddressRules, resolve: Resolve | None = None, seconds: float = TOTAL_SECONDS) -> None:
        self._seconds = seconds
        self._network = CheckedNetwork(rules, resolve or Resolver())
        self._lock = threading.Lock()
        # Those that are not in use, the one that was used last at the end.
        self._kept: list[_Connection] = []
        self._closed = False

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AttemptResult:
        """Post a body; what went wrong is in the result. Never raises."""
        started = time.monotonic()
        try:
            return self._post(_address_of(url), headers, body, started)
        except Exception as exc:
            # How long a lookup took would tell whether a name exists in a network that is not public.
            took_ms = 0 if isinstance(exc, UNREACHABLE) else _ms_since(started)
            return AttemptResult(error=_reason(exc), took_ms=took_ms)

    def close(self) -> None:
        """Close the connections that are not in use, and the others after their requests."""
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, []
        _close(kept)

    def _post(self, address: _PostAddress, headers: Mapping[str, str], body: bytes, started: float) -> AttemptResult:
        ends = started + self._seconds
        connection = self._take(address.origin) or _Connection(
            address.origin, self._network.connect(address.origin, ends)
        )
        connection.stream.ends = ends
        reusable = False
        try:
            connection.send(address, headers, body)
            response = connection.receive()
            reusable = response.reusable and not connection.expired
        finally:
            if reusable:
                self._keep(connection)
            else:
                connection.stream.close()
        return AttemptResult(
            status=response.status,
            response=response.body.decode("utf-8", "replace"),
            retry_after=response.retry_after,
            took_ms=_ms_since(started),
        )

    def _take(self, origin: Origin) -> _Connection | None:
        """A kept connection that still leads there."""
        while True:
            with self._lock:
                places = range(len(self._kept) - 1, -1, -1)
                place = next((one for one in places if self._kept[one].origin == origin), None)
                if place is None:
                    return None
                found = self._kept.pop(place)
            if not found.expired and found.stream.is_quiet():
                return found
            found.stream.close()

    def _keep(self, connection: _Connection) -> None:
        with self._lock:
            self._kept.append(connection)
            surplus = []
            while self._kept and (self._closed or self._kept[0].expired or len(self._kept) > MAX_KEPT_CONNECTIONS):
                surplus.append(self._kept.pop(0))
        _close(surplus)


def _close(connections: list[_Connection]) -> None:
    for connection in connections:
        connection.stream.close()


@lru_cache(maxsize=1024)
def _address_of(url: str) -> _PostAddress:
    parts = urlsplit(url)
    scheme, host = parts.scheme, parts.hostname
    if scheme not in PORTS or not host or "@" in parts.netloc:
        raise UnusableUrl
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    if not TARGET.fullmatch(parts.netloc + path):
        raise UnusableUrl
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode()
    return _PostAddress(Origin(scheme, host, parts.port or PORTS[scheme]), head)


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


# One reason for both: it must not tell which names exist in a network that is not public.
UNREACHABLE = (AddressRefused, NameNotFound)
NO_PUBLIC_ADDRESS = "the host has no address, or one that is not public"
REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (UNREACHABLE, NO_PUBLIC_ADDRESS),
    (TimeoutError, "no answer in time"),
    (MalformedResponse, "the answer is not HTTP, or ended early"),
    (OSError, "the connection broke before the answer"),
)


def _reason(error: Exception) -> str:
    """One short text, without anything that the receiver sent."""
    if isinstance(error, ConnectionFailed):
        return str(error)
    return next((text for kind, text in REASONS if isinstance(error, kind)), f"failed: {type(error).__name__}")
