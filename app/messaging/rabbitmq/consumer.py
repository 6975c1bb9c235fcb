"""The receiving side: handles requests and events for the modules that run in this process."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import msgspec
from kombu.transport.pyamqp import Channel
from kombu.transport.pyamqp import Connection as Driver
from kombu.transport.pyamqp import Message as AmqpMessage

from app.contracts.base import ApplicationError, Event, Unavailable
from app.messaging.bus import DeliveryRejected
from app.messaging.rabbitmq import codec
from app.messaging.rabbitmq.codec import MalformedMessage, WireReply, decode, encode_error
from app.messaging.rabbitmq.connection import send
from app.messaging.rabbitmq.in_flight import BatchAcknowledgement, InFlightTracker
from app.messaging.rabbitmq.topology import (
    DELIVERY_COUNT,
    DELIVERY_LIMIT,
    EVENTS_QUEUE,
    LONG_POLLS,
    REQUESTS_QUEUE,
    REQUIRED_CONSUMERS,
    Topology,
)
from app.messaging.signal_bus import SignalBus
from app.observability.logging import log
from app.storage.group_commit import GroupCommit

# Unacknowledged messages that the broker sends to one process; each may hold many requests.
REQUESTS_PREFETCH = 64
# Small, because other processes cannot handle the events that this one has prefetched.
EVENTS_PREFETCH = 4
REQUEST_THREADS = 128
LONG_POLL_THREADS = 1024
# A redelivered batch of events is handled after a random delay of up to so many seconds for each earlier delivery.
# Processes that die of one message then have time to handle the others that they prefetched with it.
REDELIVERY_DELAY = 0.1
MAX_REQUEUE_DELAY = 5.0


class Consumer:
    """Consumes the queues of the modules in `buses`, and calls their handlers in thread pools.

    `stopping` ends the delays before redelivered messages.
    """

    def __init__(
        self, topology: Topology, buses: Mapping[str, SignalBus], reply_timeout: float, stopping: threading.Event
    ) -> None:
        self._topology = topology
        self._buses = buses
        self._reply_timeout = reply_timeout
        self._stopping = stopping
        self._subscriptions: list[tuple[Channel, str]] = []
        self._replies = GroupCommit("replies", self._send_replies)
        self._in_flight = InFlightTracker()
        self._request_pool = ThreadPoolExecutor(REQUEST_THREADS, thread_name_prefix="requests")
        self._long_poll_pool = ThreadPoolExecutor(LONG_POLL_THREADS, thread_name_prefix="long-polls")
        self._event_pool = ThreadPoolExecutor(EVENTS_PREFETCH, thread_name_prefix="events")

    def on_connected(self, connection: Driver) -> None:
        """Declare the queues and consume them over a new connection."""
        subscriptions = []
        for module, bus in self._buses.items():
            if bus.handled_requests:
                channel = connection.channel()
                self._topology.declare_requests(channel, module)
                queue = self._topology.queue_name(module, REQUESTS_QUEUE)
                subscriptions.append(_consume(channel, queue, REQUESTS_PREFETCH, partial(self._on_requests, module)))
            if bus.subscribers:
                channel = connection.channel()
                self._topology.declare_events(channel, module, bus.subscribers)
                queue = self._topology.queue_name(module, EVENTS_QUEUE)
                subscriptions.append(_consume(channel, queue, EVENTS_PREFETCH, partial(self._on_events, module)))
        self._subscriptions = subscriptions

    def on_lost(self) -> None:
        """The subscriptions have ended with their connection."""
        self._subscriptions = []

    def cancel(self) -> None:
        """Receive no further messages."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for channel, tag in subscriptions:
            with suppress(Exception):
                channel.basic_cancel(tag, nowait=True)

    def wait_idle(self, timeout: float) -> None:
        """Wait until all received messages are handled."""
        self._in_flight.wait_idle(timeout)

    def shut_down(self) -> None:
        """End the thread pools without waiting for them."""
        for pool in (self._request_pool, self._long_poll_pool, self._event_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    # --- requests ---

    def _on_requests(self, module: str, message: AmqpMessage) -> None:
        try:
            requests = decode(codec.REQUEST_BATCH, message.body)
        except MalformedMessage as exc:
            _reject(message)
            log.error("malformed requests", module=module, reason=str(exc))
            return
        if message.properties.get("type") == LONG_POLLS or not requests:
            # Acknowledged before they are handled: unacknowledged for as long as clients wait, they would use up the
            # prefetch limit. If they are lost, clients ask again. An empty batch has no last request to acknowledge it.
            _acknowledge(message)
            pool, batch = self._long_poll_pool, BatchAcknowledgement(len(requests), lambda: None)
        else:
            pool, batch = self._request_pool, BatchAcknowledgement(len(requests), partial(_acknowledge, message))
        for request in requests:
            self._in_flight.submit(pool, self._answer, module, message, batch, *request)

    def _answer(
        self,
        module: str,
        message: AmqpMessage,
        batch: BatchAcknowledgement,
        key: str,
        name: str,
        deadline_ms: int,
        body: msgspec.Raw,
    ) -> None:
        try:
            if time.monotonic() - batch.received < deadline_ms / 1000:
                error, payload = self._handle_request(module, name, body, message.delivery_info["redelivered"])
                self._replies((message, (key, error, msgspec.Raw(payload))), self._reply_timeout)
        except Unavailable:
            log.warning("reply not sent", module=module, request=name)
        finally:
            batch.finish_one()

    def _handle_request(self, module: str, name: str, body: msgspec.Raw, redelivered: bool) -> tuple[str, bytes]:
        """The name of an error, empty for none, and the encoded reply or error."""
        try:
            if name not in codec.REQUEST_TYPES:
                raise Unavailable(f"{module} does not know {name}")
            request = decode(codec.REQUESTS[name], body)
            if redelivered and not request.repeatable:
                raise Unavailable("the process that handled this was lost: check whether it was done", retry_after=1)
            return "", msgspec.json.encode(self._buses[module].request(request))
        except ApplicationError as exc:
            return encode_error(exc)
        except MalformedMessage as exc:
            log.error("malformed request", module=module, request=name, reason=str(exc))
            return encode_error(Unavailable(f"{name} was not understood"))
        except BaseException:
            # The SignalBus lets SystemExit and its like pass. The caller must get a reply nevertheless.
            log.exception("request failed", module=module, request=name)
            return encode_error(Unavailable(f"{name} could not be answered"))

    def _send_replies(self, replies: list[tuple[AmqpMessage, WireReply]]) -> list[None]:
        # Over the channel of the request: if it is closed, the broker redelivers the request to another process.
        by_sender: dict[tuple[Channel, str], list[WireReply]] = defaultdict(list)
        for message, reply in replies:
            by_sender[message.channel, message.properties.get("reply_to", "")].append(reply)
        for (channel, reply_to), batch in by_sender.items():
            send(channel, msgspec.json.encode(batch), "", reply_to)
        return [None] * len(replies)

    # --- events ---

    def _on_events(self, module: str, message: AmqpMessage) -> None:
        if _delivery_count(message) >= DELIVERY_LIMIT:
            # Rejected here, at once: if another message like it ended this process first, the broker would discard
            # this one at its next delivery, and the sender would never learn why.
            self._process_events(module, message)
        else:
            self._in_flight.submit(self._event_pool, self._process_events, module, message)

    def _process_events(self, module: str, message: AmqpMessage) -> None:
        try:
            self._try_events(module, message)
        except BaseException:
            # The sender does not use this wire format: the message becomes a dead letter of the broker.
            _reject(message)
            log.exception("malformed message", module=module)

    def _try_events(self, module: str, message: AmqpMessage) -> None:
        """Handle a batch of events, and report the result to the sender or the broker."""
        headers = message.properties.get("application_headers") or {}
        deliveries = _delivery_count(message)
        if 0 < deliveries < DELIVERY_LIMIT:
            self._stopping.wait(random.uniform(0, REDELIVERY_DELAY * deliveries))  # noqa: S311 - spreads load  # nosec B311
        error = self._handle_events(module, message, deliveries)
        if module in headers.get(REQUIRED_CONSUMERS, ()):
            # The sender repeats failed events; it counts the failures and keeps the dead letters.
            self._send_receipt(module, message, error)
            _acknowledge(message)
        elif error is None:
            _acknowledge(message)
        elif isinstance(error, DeliveryRejected):
            _reject(message)
        else:
            self._stopping.wait(min(MAX_REQUEUE_DELAY, 0.1 * 2**deliveries))
            _reject(message, requeue=True)

    def _handle_events(self, module: str, message: AmqpMessage, deliveries: int) -> Exception | None:
        name = message.properties.get("type", "")
        if deliveries >= DELIVERY_LIMIT:
            return DeliveryRejected(
                f"{name} was delivered {deliveries} times without an answer: it may end the process that handles it"
            )
        try:
            events = _decode_events(name, message)
        except MalformedMessage as exc:
            log.error("malformed events", module=module, event_type=name, reason=str(exc))
            return DeliveryRejected(f"{name or 'a message without a type'} was not understood: {exc}")
        return self._deliver(module, events) if events else None

    def _deliver(self, module: str, events: Sequence[Event]) -> Exception | None:
        try:
            return self._buses[module].publish(events).get(module)
        except BaseException as exc:
            # The SignalBus lets SystemExit and its like pass. They must not end a thread of the pool.
            name = type(events[0]).__name__
            log.exception("events not handled", module=module, event_type=name)
            return DeliveryRejected(f"{name}: {exc!r}")

    def _send_receipt(self, module: str, message: AmqpMessage, error: Exception | None) -> None:
        name = type(error).__name__ if error else ""
        reply_to, key = (message.properties.get(each, "") for each in ("reply_to", "correlation_id"))
        detail = str(error or "")[:500].encode(errors="replace").decode()
        body = msgspec.json.encode((module, name, detail))
        try:
            send(message.channel, body, "", reply_to, correlation_id=key)
        except Unavailable:
            log.warning("receipt not sent", module=module)


def _consume(
    channel: Channel, queue: str, prefetch: int, callback: Callable[[AmqpMessage], None]
) -> tuple[Channel, str]:
    channel.basic_qos(0, prefetch, False)
    return channel, channel.basic_consume(queue, callback=callback)


def _decode_events(name: str, message: AmqpMessage) -> tuple[Event, ...]:
    if name not in codec.EVENTS:
        raise MalformedMessage("there is no such event")
    events: tuple[Event, ...] = decode(codec.EVENTS[name], message.body)
    return events


def _delivery_count(message: AmqpMessage) -> int:
    """How often the broker has delivered the message before."""
    headers = message.properties.get("application_headers") or {}
    deliveries: int = headers.get(DELIVERY_COUNT, 0)
    return deliveries


def _acknowledge(message: AmqpMessage) -> None:
    # If the connection is lost, the message is redelivered.
    with suppress(Exception):
        message.channel.basic_ack(message.delivery_info["delivery_tag"])


def _reject(message: AmqpMessage, requeue: bool = False) -> None:
    with suppress(Exception):
        message.channel.basic_reject(message.delivery_info["delivery_tag"], requeue=requeue)
