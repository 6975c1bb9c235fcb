"""Who may wait: so many requests at once in a process, and so many of one caller."""

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
from app.gateway.security.rate_limits import Addresses
from app.observability import metrics


class TooManyStreams(ApplicationError):
    """As many requests wait as may; member `retry_after` in seconds."""

    code = "too_many_streams"


def hung_up(environ: Mapping[str, Any]) -> bool:
    """Whether the client has gone, as far as the server lets one see; what is written would tell only much later."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return False
    readable = select.poll()
    try:
        readable.register(connection, select.POLLIN)
        return bool(readable.poll(0)) and not connection.recv(1, socket.MSG_PEEK)
    except (OSError, ValueError):
        return True


class Streams:
    """Places for requests that wait; who waits is told by the token, else by the address."""

    def __init__(self, most: int, per_caller: int, addresses: Addresses) -> None:
        self._most = most
        self._per_caller = per_caller
        self._addresses = addresses
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many wait."""
        return self._taken.total()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for the present request. Raises TooManyStreams."""
        who = self.take()
        g.waits = True
        try:
            yield
        finally:
            self.leave(who)

    def take(self) -> str:
        """Take a place; tells for whom, to be handed to `leave`. Raises TooManyStreams."""
        who = caller().user_id or self._addresses.of(request)
        with self._lock:
            if self._taken[who] >= self._per_caller or self._taken.total() >= self._most:
                raise TooManyStreams("as many requests are waiting as may; end one of yours first", retry_after=5)
            self._taken[who] += 1
        metrics.streams_open.inc()
        return who

    def leave(self, who: str) -> None:
        """Give the place back."""
        with self._lock:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]
        metrics.streams_open.dec()
