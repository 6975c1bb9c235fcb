"""The sending side of requests: many in one message, each with a reply of its own."""

import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import msgspec
from kombu.transport.pyamqp import Connection as Driver
from kombu.transport.pyamqp import Message as AmqpMessage

from app.contracts.base import Request, Unavailable
from app.messaging.bus import R
from app.messaging.rabbitmq import codec
from app.messaging.rabbitmq.codec import MalformedMessage, decode, decode_error, encode_error
from app.messaging.rabbitmq.connection import send
from app.messaging.rabbitmq.topology import LONG_POLLS, REPLY_TO, REQUESTS, REQUESTS_QUEUE, Topology
from app.observability import metrics
from app.observability.logging import log
from app.storage.group_commit import GroupCommit

# Requests in one message at most.
MAX_BATCH = 32
# The timeout of requests to a module that did not reply to the last one, until its next reply, timely or late.
UNRESPONSIVE_TIMEOUT = 0.5
CONNECTION_LOST = encode_error(Unavailable("the connection to the message broker was lost", retry_after=1))


class PendingRequest:
    """A request that waits for its reply."""

    __slots__ = ("body", "done", "key", "kind", "outcome", "seconds")

    def __init__(self, key: str, request: Request[Any], seconds: float) -> None:
        self.key = key
        self.kind = type(request)
        self.body = msgspec.json.encode(request)
        self.seconds = seconds
        self.done = threading.Event()
        self.outcome: tuple[str, bytes | msgspec.Raw] = CONNECTION_LOST

    def complete(self, error: str, payload: bytes | msgspec.Raw) -> None:
        """Set the outcome: a reply if `error` is empty, otherwise an error of that name."""
        self.outcome = (error, payload)
        self.done.set()

    def reply(self) -> Any:
        """Return the reply. Raises the error that was received, and Unavailable if the outcome is malformed."""
        name, payload = self.outcome
        try:
            if not name:
                return decode(codec.REPLIES[self.kind.__name__], payload)
            error = decode_error(name, payload)
        except MalformedMessage as exc:
            log.error("malformed reply", request=self.kind.__name__, reason=str(exc))
            raise Unavailable(f"the answer to {self.kind.__name__} was not understood") from exc
        raise error


class RequestSender:
    """Sends requests to the modules that run in other processes."""

    def __init__(self, topology: Topology, timeout: float, ensure_connected: Callable[[], None]) -> None:
        self._topology = topology
        self._timeout = timeout
        self._ensure_connected = ensure_connected
        self._duration = metrics.broker_round_trip.labels("request")
        self._keys = count(1)
        self._pending: dict[str, PendingRequest] = {}
        self._unresponsive: set[str] = set()
        self._channel: Any = None
        self._batches = {
            (owner, waits): GroupCommit(f"requests to {owner}", partial(self._send_batch, owner, waits), MAX_BATCH)
            for owner in {kind.owner for kind in codec.REQUEST_TYPES.values()}
            for waits in (False, True)
        }

    def request(self, request: Request[R]) -> R:
        """Return the owner's reply. Raises its ApplicationErrors, and Unavailable if it does not reply in time."""
        owner, wait_ms = type(request).owner, getattr(request, "wait_ms", 0)
        started = time.monotonic()
        seconds = self._timeout + wait_ms / 1000
        # The owner has the full time: its reply, even if it is too late for this caller, ends the reduced timeout.
        pending = PendingRequest(f"{owner}:{next(self._keys)}", request, seconds)
        if owner in self._unresponsive:
            seconds = min(seconds, UNRESPONSIVE_TIMEOUT)
        self._ensure_connected()
        self._pending[pending.key] = pending
        try:
            self._batches[owner, wait_ms > 0](pending, seconds)
            if not pending.done.wait(max(0.0, started + seconds - time.monotonic())):
                self._unresponsive.add(owner)
                metrics.broker_timeouts.labels("request").inc()
                raise Unavailable(f"{owner} did not answer in time", retry_after=1)
        finally:
            self._pending.pop(pending.key, None)
        if not wait_ms:
            metrics.observations.add(self._duration, (time.monotonic() - started,))
        reply: R = pending.reply()
        return reply

    def on_connected(self, connection: Driver) -> None:
        """Receive replies over a new connection."""
        channel = connection.channel()
        channel.basic_consume(REPLY_TO, no_ack=True, callback=self._on_replies)
        channel.events["basic_return"].add(self._on_return)
        self._channel = channel

    def on_lost(self) -> None:
        """Fail all pending requests: their replies cannot arrive any more."""
        for pending in list(self._pending.values()):
            pending.complete(*CONNECTION_LOST)

    def _send_batch(self, owner: str, waits: bool, batch: list[PendingRequest]) -> list[None]:
        longest = max(pending.seconds for pending in batch)
        body = [(one.key, one.kind.__name__, int(one.seconds * 1000), msgspec.Raw(one.body)) for one in batch]
        send(
            self._channel,
            msgspec.json.encode(body),
            "",
            self._topology.queue_name(owner, REQUESTS_QUEUE),
            mandatory=True,
            type=LONG_POLLS if waits else REQUESTS,
            reply_to=REPLY_TO,
            correlation_id=batch[0].key,
            # The broker drops the message when no caller waits for a reply any more.
            expiration=str(int(longest * 1000)),
        )
        return [None] * len(batch)

    def _on_return(self, _reason: Exception, _exchange: str, _queue: str, message: AmqpMessage) -> None:
        """There is no such queue: the first process of the module declares it."""
        for key, *_ in decode(codec.REQUEST_BATCH, message.body):
            pending = self._pending.get(key)
            if pending:
                detail = f"no process of {pending.kind.owner} has run yet"
                pending.complete(*encode_error(Unavailable(detail, retry_after=1)))

    def _on_replies(self, message: AmqpMessage) -> None:
        try:
            replies = decode(codec.REPLY_BATCH, message.body)
        except MalformedMessage as exc:
            log.error("malformed replies", reason=str(exc))
            return
        for key, error, payload in replies:
            self._unresponsive.discard(key.partition(":")[0])
            pending = self._pending.get(key)
            if pending:
                pending.complete(error, payload)
