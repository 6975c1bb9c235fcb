"""The sending side of events: publishes batches and waits for the receipts of the modules that require them."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
from kombu.transport.pyamqp import Connection as Driver
from kombu.transport.pyamqp import Message as AmqpMessage

from app.contracts.base import Event, Unavailable
from app.messaging.bus import DeliveryRejected, DeliveryResult
from app.messaging.rabbitmq import codec
from app.messaging.rabbitmq.codec import MalformedMessage, decode
from app.messaging.rabbitmq.connection import send
from app.messaging.rabbitmq.topology import REPLY_TO, REQUIRED_CONSUMERS, Topology
from app.observability import metrics
from app.observability.logging import log

T = TypeVar("T")

PERSISTENT = 2
# How long a process that ends waits for receipts: without one, another process publishes the events again.
DRAINING_TIMEOUT = 1.0


class PendingPublish:
    """A batch of events that waits for the receipts of the modules in `required`.

    `result` has the receipts so far: by module the error, or None for success.
    """

    def __init__(self, key: str, required: set[str]) -> None:
        self.key = key
        self.required = required
        self.result: dict[str, Exception | None] = {}
        self.done = threading.Event()
        self._lock = threading.Lock()

    def confirm(self) -> None:
        """The broker has stored the batch, which is enough if no receipt is required."""
        if not self.required:
            self.done.set()

    def add_receipt(self, module: str, error: Exception | None) -> None:
        """A module has handled the batch, or failed with `error`."""
        with self._lock:
            if not self.done.is_set():
                self.result[module] = error
                if self.required <= self.result.keys():
                    self.done.set()

    def fail(self, detail: str) -> None:
        """No further receipts will arrive: the modules without one are unavailable."""
        with self._lock:
            if not self.done.is_set():
                for module in (self.required or {"broker"}) - self.result.keys():
                    self.result[module] = Unavailable(detail, retry_after=1)
                self.done.set()


class LateReceipts:
    """Rejections that arrive after the sender has stopped waiting for them.

    Processes that die of an event are replaced more slowly than its sender waits. So each attempt would look as if the
    module was down, and the event would be repeated without end. Instead the sender gets the late rejection at its next
    attempt.
    """

    LIMIT = 512

    def __init__(self) -> None:
        self._batches: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._rejections: OrderedDict[str, tuple[bool, DeliveryRejected]] = OrderedDict()
        self._lock = threading.Lock()

    def expect(self, key: str, events: Sequence[Event]) -> None:
        """The sender has stopped waiting for the receipts of these events, sent as the message `key`."""
        with self._lock:
            _put(self._batches, key, tuple(event.event_id for event in events), self.LIMIT)

    def add(self, key: str, rejection: DeliveryRejected) -> None:
        """Note a rejection of the message `key`."""
        with self._lock:
            event_ids = self._batches.pop(key, ())
            for event_id in event_ids:
                _put(self._rejections, event_id, (len(event_ids) == 1, rejection), self.LIMIT)

    def rejection(self, events: Sequence[Event]) -> DeliveryRejected | None:
        """The rejection to return instead of sending these events now, or None.

        A batch is rejected if one of its events was, alone or in a batch. An event that is sent alone is rejected once
        for each time that it was rejected alone: in a batch another event may have been the reason.
        """
        with self._lock:
            if len(events) > 1:
                known = (self._rejections[event.event_id] for event in events if event.event_id in self._rejections)
                return next((rejection for _, rejection in known), None)
            alone, rejection = self._rejections.pop(events[0].event_id, (False, None))
            return rejection if alone else None


def _put(entries: OrderedDict[str, T], key: str, value: T, limit: int) -> None:
    """Add an entry, and remove the oldest ones above `limit`."""
    entries[key] = value
    while len(entries) > limit:
        entries.popitem(last=False)


class Publisher:
    """Publishes events to the modules of all processes, but those that are `absent`."""

    def __init__(
        self, topology: Topology, timeout: float, ensure_connected: Callable[[], None], absent: Sequence[str] = ()
    ) -> None:
        self._absent = absent
        self._topology = topology
        self._timeout = timeout
        self._ensure_connected = ensure_connected
        self._duration = metrics.broker_round_trip.labels("events")
        self._keys = count(1)
        self._pending: dict[str, PendingPublish] = {}
        self._late = LateReceipts()
        self._channel: Any = None
        # By the number that the broker gives to each message of a channel.
        self._unconfirmed: dict[int, PendingPublish] = {}
        self._numbers = count(1)
        self._lock = threading.Lock()
        self.draining = False

    def publish(self, events: Sequence[Event]) -> DeliveryResult:
        """Publish a batch of events of one type; returns the receipts of its required consumers."""
        started, kind = time.monotonic(), type(events[0])
        pending = PendingPublish(str(next(self._keys)), {*kind.required_consumers})
        rejection = self._late.rejection(events)
        if rejection:
            return dict.fromkeys(pending.required, rejection)
        try:
            self._ensure_connected()
            self._send(pending, kind.__name__, events)
        except Unavailable as exc:
            pending.fail(exc.detail)
        if not self._wait(pending):
            metrics.broker_timeouts.labels("events").inc()
            self._late.expect(pending.key, events)
        self._pending.pop(pending.key, None)
        pending.fail("no receipt in time")
        metrics.observations.add(self._duration, (time.monotonic() - started,))
        return pending.result

    def _wait(self, pending: PendingPublish) -> bool:
        """Wait for the receipts; whether they came. A process that begins to end meanwhile waits a moment longer only."""
        ends = time.monotonic() + self._timeout
        while (left := ends - time.monotonic()) > 0:
            was_draining = self.draining
            if pending.done.wait(min(left, DRAINING_TIMEOUT)):
                return True
            if was_draining:
                return False
        return pending.done.is_set()

    def on_connected(self, connection: Driver) -> None:
        """Receive confirmations and receipts over a new connection."""
        channel = connection.channel()
        channel.basic_consume(REPLY_TO, no_ack=True, callback=self._on_receipt)
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        # A required consumer may never have run yet: the broker keeps its events from the first one on.
        for name, kind in codec.EVENT_TYPES.items():
            for module in sorted({*kind.required_consumers} - {*self._absent}):
                self._topology.declare_events(channel, module, [name])
        with self._lock:
            self._channel, self._numbers = channel, count(1)

    def on_lost(self) -> None:
        """Fail all pending batches: their receipts cannot arrive any more."""
        with self._lock:
            self._unconfirmed.clear()
        for pending in list(self._pending.values()):
            pending.fail("the connection to the message broker was lost")

    def _send(self, pending: PendingPublish, name: str, events: Sequence[Event]) -> None:
        body = msgspec.json.encode(events)
        self._pending[pending.key] = pending
        with self._lock:
            send(
                self._channel,
                body,
                self._topology.events_exchange,
                name,
                mandatory=bool(pending.required),
                type=name,
                message_id=uuid4().hex,
                reply_to=REPLY_TO,
                correlation_id=pending.key,
                delivery_mode=PERSISTENT,
                headers={REQUIRED_CONSUMERS: sorted(pending.required)},
            )
            # Only messages that were sent have a number. The handlers of confirmations wait for the lock.
            self._unconfirmed[next(self._numbers)] = pending

    def _on_receipt(self, message: AmqpMessage) -> None:
        try:
            module, name, detail = decode(codec.RECEIPT, message.body)
        except MalformedMessage as exc:
            log.error("malformed receipt", reason=str(exc))
            return
        key = message.properties.get("correlation_id", "")
        pending, error = self._pending.get(key), _receipt_error(name, detail)
        if pending:
            pending.add_receipt(module, error)
        elif isinstance(error, DeliveryRejected):
            self._late.add(key, error)

    def _on_ack(self, number: int, multiple: bool) -> None:
        for pending in self._pop_unconfirmed(number, multiple):
            pending.confirm()

    def _on_nack(self, number: int, multiple: bool) -> None:
        for pending in self._pop_unconfirmed(number, multiple):
            pending.fail("the broker refuses it at the moment")

    def _pop_unconfirmed(self, number: int, multiple: bool) -> list[PendingPublish]:
        """Remove the message of this number; with `multiple` all up to it."""
        with self._lock:
            numbers = [one for one in self._unconfirmed if one <= number] if multiple else [number]
            return [self._unconfirmed.pop(one) for one in numbers if one in self._unconfirmed]

    def _on_return(self, _reason: Exception, _exchange: str, _routing_key: str, message: AmqpMessage) -> None:
        pending = self._pending.get(message.properties.get("correlation_id", ""))
        if pending:
            pending.fail("there is no queue for it")


def _receipt_error(name: str, detail: str) -> Exception | None:
    """The error of a receipt: None for success, Unavailable for a temporary one."""
    if not name:
        return None
    return Unavailable(detail, retry_after=1) if name == "Unavailable" else DeliveryRejected(f"{name}: {detail}")
