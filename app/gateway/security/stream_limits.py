"""Limits of requests that wait: how many in this process, and how many of one caller."""

import select
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flask import g, request

from app.contracts.base import ApplicationError
from app.gateway.security.caller import caller
from app.gateway.security.client_addresses import ClientAddresses
from app.observability import metrics


class TooManyStreams(ApplicationError):
    """The limit of waiting requests is reached; member `retry_after` in seconds."""

    code = "too_many_streams"


def client_disconnected(environ: Mapping[str, Any]) -> bool:
    """Whether the client has closed its connection, if the server gives access to it. Writing would notice it much later."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return False
    readable = select.poll()
    try:
        readable.register(connection, select.POLLIN)
        return bool(readable.poll(0)) and not connection.recv(1, socket.MSG_PEEK)
    except (OSError, ValueError):
        return True


class StreamLimits:
    """Counts requests that stream or wait; a caller is the token's user, or the client's address."""

    def __init__(self, maximum: int, per_caller: int, addresses: ClientAddresses) -> None:
        self._maximum = maximum
        self._per_caller = per_caller
        self._addresses = addresses
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    @contextmanager
    def long_poll(self) -> Iterator[None]:
        """Hold a place while the current request waits. Raises TooManyStreams."""
        key = self.acquire()
        g.long_poll = True
        try:
            yield
        finally:
            self.release(key)

    def acquire(self) -> str:
        """Take a place; returns the caller's key for `release`. Raises TooManyStreams."""
        key = caller().user_id or self._addresses.address_of(request)
        with self._lock:
            if self._open[key] >= self._per_caller or self._open.total() >= self._maximum:
                raise TooManyStreams("too many requests are waiting; end one of yours first", retry_after=5)
            self._open[key] += 1
        metrics.streams_open.inc()
        return key

    def release(self, key: str) -> None:
        """Return a place."""
        with self._lock:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
        metrics.streams_open.dec()
