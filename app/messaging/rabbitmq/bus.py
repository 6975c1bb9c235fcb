"""The bus between processes: the asks, answers and events of bus.py, carried by RabbitMQ.

A request goes to its owner's queue, many of those made at the same time in one message, and is answered to whoever
asked by RabbitMQ's direct reply-to. A batch of events is one message too: to a durable topic exchange, and from there
into one quorum queue for each module that listens.

An event counts as delivered only once the receiving module has handled it and said so. Until then it stays in the
sender's outbox, whose relay repeats it: the broker may lose all it has and no event is lost, and events of one order
arrive in sequence, since the next is sent when the one before has been taken in. What arrives twice its receiver
ignores, by that sequence.
"""

import random
import ssl
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count, cycle
from socket import SHUT_RDWR
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import msgspec
from amqp import spec
from kombu.connection import Connection
from kombu.entity import Exchange, Queue, binding
from kombu.transport.pyamqp import Channel
from kombu.transport.pyamqp import Connection as Driver
from kombu.transport.pyamqp import Message as Delivered

from app.contracts.base import ApplicationError, Event, Reply, Request, Unavailable, by_name
from app.messaging.bus import Delivery
from app.messaging.signal_bus import SignalBus
from app.observability import metrics
from app.observability.logging import log
from app.observability.supervision import BackgroundThread, Heartbeat
from app.storage.group_commit import GroupCommit

R = TypeVar("R", bound=Reply)
Q = TypeVar("Q", bound=Request[Any])
E = TypeVar("E", bound=Event)
T = TypeVar("T")

REQUESTS, EVENTS, REFUSALS = map(by_name, (Request, Event, ApplicationError))
DECODERS = {
    **{name: msgspec.json.Decoder(kind) for name, kind in REQUESTS.items()},
    **{name: msgspec.json.Decoder(tuple[kind, ...]) for name, kind in EVENTS.items()},  # type: ignore[valid-type]
}
# How long a request may take, in milliseconds: an integer of any size would not fit into a float of seconds.
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
ASKS = msgspec.json.Decoder(list[tuple[str, str, Milliseconds, msgspec.Raw]])
ANSWERS = msgspec.json.Decoder(list[tuple[str, str, msgspec.Raw]])
RECEIPT = msgspec.json.Decoder(tuple[str, str, str])
REPLIES = {name: msgspec.json.Decoder(kind.reply) for name, kind in REQUESTS.items()}

# RabbitMQ's name for "to whoever sent this, over the channel it came from".
REPLY_TO = "amq.rabbitmq.reply-to"
JSON = "application/json"
PERSISTENT = 2
REQUESTS_QUEUE, EVENTS_QUEUE = "requests", "events"
ASKED, WAITING = "requests", "waiting requests"
CONNECT_SECONDS = 2.0
HEARTBEAT_SECONDS = 6
TICK_SECONDS = 0.25
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 3.0
# Beyond the receiver's own deadline: for the way there and back.
TRAVEL_SECONDS = 0.5
# A module that did not answer the last request is not waited for longer than this, until it answers one, late or not.
SILENT_SECONDS = 0.5
# So long a process that ends waits for receipts: what it does not get is sent again by others.
LAST_SECONDS = 1.0
# Messages a process takes ahead of what it has answered; each may hold many requests.
REQUESTS_AHEAD = 64
TOGETHER = 32
HANDS = 128
WAITERS = 1024
# Few: what a process has taken and does not handle its siblings cannot handle either.
EVENTS_AHEAD = 4
# So often a message may be given back, mostly because whoever took it died. Then it is not handled again.
DELIVERIES = 6
DELIVERED = "x-delivery-count"
# What was given back is handled up to so many seconds later for each time: processes that die of one message then have
# time for the others that they had taken along with it.
AGAIN_SECONDS = 0.1
# Who must take a message in: their sender waits for each to say so, and repeats it otherwise.
AWAITED = "awaited"
LONGEST_REST = 5.0


class DeliveryRejected(Exception):
    """A module could not take events in; the text names what it stumbled over."""


class NotUnderstood(Exception):
    """A message is not what it should be; the text says why."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal as it travels, beside the name of its class."""

    detail: str
    members: dict[str, Any] = {}


REFUSAL = msgspec.json.Decoder(Refusal)


def decoded(decoder: msgspec.json.Decoder[T], body: bytes | str | msgspec.Raw) -> T:
    """What a message says. Raises NotUnderstood whatever is wrong with it, and nothing else."""
    try:
        return decoder.decode(body)
    except Exception as exc:
        # Not MsgspecError alone: RecursionError where it is nested too deeply, UnicodeError where it is no text.
        raise NotUnderstood(f"{type(exc).__name__}: {str(exc)[:200]}") from exc


def refused(refusal: ApplicationError) -> tuple[str, bytes]:
    """A refusal as it travels: the name of its class, and the rest as JSON."""
    return type(refusal).__name__, msgspec.json.encode(Refusal(detail=refusal.detail, members=refusal.members))


def refusal_of(kind: str, payload: bytes | msgspec.Raw) -> ApplicationError:
    """The refusal that has travelled; Unavailable where its class is not known here. Raises NotUnderstood."""
    told = decoded(REFUSAL, payload)
    try:
        refusal: ApplicationError = REFUSALS.get(kind, Unavailable)(told.detail, **told.members)
    except TypeError as exc:
        raise NotUnderstood(f"members of a refusal: {exc}") from exc
    return refusal


LOST = refused(Unavailable("the broker was lost meanwhile", retry_after=1))


class Question:
    """One request that waits for its answer."""

    __slots__ = ("body", "done", "key", "kind", "outcome", "seconds")

    def __init__(self, key: str, request: Request[Any], seconds: float) -> None:
        self.key = key
        self.kind = type(request)
        self.body = msgspec.json.encode(request)
        self.seconds = seconds
        self.done = threading.Event()
        self.outcome: tuple[str, bytes | msgspec.Raw] = LOST

    def end(self, kind: str, payload: bytes | msgspec.Raw) -> None:
        """Let the asker go on: with a reply where `kind` is empty, else with a refusal of that name."""
        self.outcome = (kind, payload)
        self.done.set()

    def reply(self) -> Any:
        """What it was answered with. Raises the refusal, and Unavailable where the answer is not understood."""
        kind, payload = self.outcome
        try:
            if not kind:
                return decoded(REPLIES[self.kind.__name__], payload)
            refusal = refusal_of(kind, payload)
        except NotUnderstood as exc:
            log.error("answer not understood", request=self.kind.__name__, reason=str(exc))
            raise Unavailable(f"the answer to {self.kind.__name__} was not understood") from exc
        raise refusal


class Posted:
    """A batch of events under way, and what the modules that must take it in have said of it."""

    def __init__(self, key: str, awaited: set[str]) -> None:
        self.key = key
        self.awaited = awaited
        self.delivery: dict[str, Exception | None] = {}
        self.done = threading.Event()
        self._lock = threading.Lock()

    def confirm(self) -> None:
        """The broker has it, which is enough where nobody must say more."""
        if not self.awaited:
            self.done.set()

    def receipt(self, module: str, trouble: Exception | None) -> None:
        """A module has taken it in, or could not."""
        with self._lock:
            if not self.done.is_set():
                self.delivery[module] = trouble
                if self.awaited <= self.delivery.keys():
                    self.done.set()

    def fail(self, detail: str) -> None:
        """Nothing more will be heard of it."""
        with self._lock:
            if not self.done.is_set():
                for module in (self.awaited or {"broker"}) - self.delivery.keys():
                    self.delivery[module] = Unavailable(detail, retry_after=1)
                self.done.set()


class LateReceipts:
    """What modules could not take in, where they said so after the sender had stopped waiting.

    Processes that die of an event are replaced more slowly than its sender waits. Each attempt would count as a module
    that is away, and the event would be repeated without end; so the sender is given the late refusal at its next attempt.
    """

    LIMIT = 512

    def __init__(self) -> None:
        self._batches: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._refusals: OrderedDict[str, tuple[bool, DeliveryRejected]] = OrderedDict()
        self._lock = threading.Lock()

    def expect(self, key: str, events: Sequence[Event]) -> None:
        """Nobody waits any longer for the receipt of the message `key`, which held these events."""
        with self._lock:
            _keep(self._batches, key, tuple(event.event_id for event in events), self.LIMIT)

    def receipt(self, key: str, refusal: DeliveryRejected) -> None:
        """The message `key` could not be taken in."""
        with self._lock:
            event_ids = self._batches.pop(key, ())
            for event_id in event_ids:
                _keep(self._refusals, event_id, (len(event_ids) == 1, refusal), self.LIMIT)

    def refusal(self, events: Sequence[Event]) -> DeliveryRejected | None:
        """Why these events need not be sent now; None where they are to be.

        A batch is refused when one of it was. An event that is sent alone is refused once for each time that it was
        refused alone: in a batch another event may have been the reason.
        """
        with self._lock:
            if len(events) > 1:
                found = (self._refusals[event.event_id] for event in events if event.event_id in self._refusals)
                return next((refusal for _, refusal in found), None)
            alone, refusal = self._refusals.pop(events[0].event_id, (False, None))
            return refusal if alone else None


def _keep(entries: OrderedDict[str, T], key: str, value: T, limit: int) -> None:
    """Add an entry; the oldest go where there are more than `limit`."""
    entries[key] = value
    while len(entries) > limit:
        entries.popitem(last=False)


class Link:
    """One connection to the broker, kept up: where it is lost it is made anew, after ever longer pauses.

    `prepare` is given each new connection before anything is read from it, `lost` is called after its end. One thread
    reads; any may write, since a frame is written under the driver's lock.
    """

    def __init__(
        self, name: str, urls: Sequence[str], prepare: Callable[[Driver], None], lost: Callable[[], None]
    ) -> None:
        self._name = name
        self._urls = cycle(urls)
        self._pause = FIRST_PAUSE
        self._prepare = prepare
        self._lost = lost
        self._connection: Driver | None = None
        self._received = 0
        self._stopping = threading.Event()
        self.thread = BackgroundThread(f"broker-{name}", self._run)
        self.up = threading.Event()
        self.tried = threading.Event()
        self.blocked = False

    def start(self) -> None:
        """Start connecting."""
        self.thread.start()

    def stop(self) -> None:
        """Close the connection and end."""
        self._stopping.set()
        with suppress(Exception):
            if self._connection:
                self._connection.send_method(spec.Connection.Close, "BsBB", (200, "the process ends", 0, 0))
        self.thread.join(CONNECT_SECONDS)
        self._break()
        self.thread.join(CONNECT_SECONDS)

    @property
    def usable(self) -> bool:
        """Whether the broker takes what is sent."""
        return self.up.is_set() and not self.blocked

    def check(self) -> None:
        """Send a heartbeat where one is due; break off where none has come for too long.

        What the reader has read is its progress: the driver keeps the broker's heartbeats to itself.
        """
        connection = self._connection
        if connection is None or not self.up.is_set():
            return
        try:
            connection.heartbeat_tick()
        except Exception as exc:
            log.warning("broker silent", link=self._name, reason=str(exc)[:200])
            self._break()
        if connection.bytes_recv != self._received:
            self._received = connection.bytes_recv
            self.thread.beat()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.thread.beat()
            try:
                self._serve(next(self._urls))
            finally:
                # Whatever was raised: what nothing is read from any more must not pass for a connection.
                self._let_go()
            self._stopping.wait(self._pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load  # nosec B311
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _serve(self, url: str) -> None:
        """Connect, and read until the connection ends."""
        try:
            self._connect(url)
            self._pause = FIRST_PAUSE
            self._read()
        except Exception as exc:
            # The driver raises whatever it stumbles over when a connection ends.
            if not self._stopping.is_set():
                event = "broker lost" if self.up.is_set() else "broker not reached"
                log.warning(event, link=self._name, reason=str(exc)[:200])

    def _connect(self, url: str) -> None:
        secure = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None} if url.startswith("amqps:") else False
        # The driver's own connection: kombu's would quietly make another where one ends, without our queues.
        connection: Driver = Connection(
            url,
            ssl=secure,
            connect_timeout=CONNECT_SECONDS,
            heartbeat=HEARTBEAT_SECONDS,
            transport_options={
                "on_blocked": self._on_blocked,
                "on_unblocked": self._on_unblocked,
                "client_properties": {"connection_name": f"orderflow {self._name}"},
            },
        ).transport.establish_connection()
        self._connection = connection
        # With this the driver would read before each write, in whatever thread; it has told the broker of it by now.
        connection.client_properties["capabilities"].pop("connection.blocked", None)
        self._prepare(connection)
        log.info("broker reached", link=self._name)
        self.up.set()
        self.tried.set()
        metrics.broker_connections.inc()

    def _read(self) -> None:
        while not self._stopping.is_set() and self._connection:
            self._connection.drain_events()

    def _let_go(self) -> None:
        was_up = self.up.is_set()
        self.up.clear()
        self.tried.set()
        self.blocked = False
        connection, self._connection = self._connection, None
        if connection:
            with suppress(Exception):
                connection.collect()
        if was_up:
            metrics.broker_connections.dec()
            metrics.broker_connections_lost.inc()
        self._lost()

    def _break(self) -> None:
        """Wake the reader: it finds the connection at its end."""
        with suppress(Exception):
            if self._connection:
                self._connection.transport.sock.shutdown(SHUT_RDWR)

    def _on_blocked(self, reason: str) -> None:
        self.blocked = True
        log.warning("broker takes nothing", link=self._name, reason=reason)

    def _on_unblocked(self) -> None:
        self.blocked = False


class RabbitMqBus:
    """The bus of a process whose modules, or some of them, run elsewhere."""

    def __init__(self, url: str, prefix: str, *, request_seconds: float, event_seconds: float) -> None:
        self._prefix = prefix
        self._request_seconds = request_seconds + TRAVEL_SECONDS
        self._event_seconds = event_seconds + TRAVEL_SECONDS
        self._local: dict[str, SignalBus] = defaultdict(SignalBus)
        self._request_times, self._event_times = map(metrics.broker_round_trip.labels, ("request", "events"))
        self._silent: set[str] = set()
        self._keys = count(1)
        self._asked: dict[str, Question] = {}
        self._posted: dict[str, Posted] = {}
        self._late = LateReceipts()
        self._unconfirmed: dict[int, Posted] = {}
        self._tags = count(1)
        self._posting = threading.Lock()
        self._asks = {
            (owner, waits): GroupCommit(f"requests to {owner}", partial(self._send_requests, owner, waits), TOGETHER)
            for owner in {kind.owner for kind in REQUESTS.values()}
            for waits in (False, True)
        }
        self._answers = GroupCommit("answers", self._send_answers)
        self._hands = ThreadPoolExecutor(HANDS, thread_name_prefix="requests")
        self._waiters = ThreadPoolExecutor(WAITERS, thread_name_prefix="waiting")
        self._takers = ThreadPoolExecutor(EVENTS_AHEAD, thread_name_prefix="events")
        self._work = Work()
        self._out = Link("out", url.split(";"), self._prepare_out, self._lost_out)
        self._in = Link("in", url.split(";"), self._prepare_in, self._lost_in)
        self._calls: Any = None
        self._events: Any = None
        self._consumers: list[tuple[Channel, str]] = []
        self._starting = threading.Lock()
        self._heart = BackgroundThread("broker-heart", self._beat)
        self._sending = self._receiving = False
        self._stopping = threading.Event()
        self._draining = False

    # --- what modules see of it ---

    def register_handler(self, request: type[Q], handler: Callable[[Q], Reply]) -> None:
        """Let `handler` answer every request of this type that reaches this process; a second one here is an error."""
        self._local[request.owner].register_handler(request, handler)

    def subscribe(self, module: str, event: type[E], handler: Callable[[tuple[E, ...]], None]) -> None:
        """Let `handler` have every batch of events of this type, on behalf of `module`."""
        self._local[module].subscribe(module, event, handler)

    def request(self, request: Request[R]) -> R:
        """The owner's reply. Raises its refusals, and Unavailable where nobody answers in time."""
        owner, wait_ms = type(request).owner, getattr(request, "wait_ms", 0)
        if owner in self._local:
            return self._local[owner].request(request)
        started = time.monotonic()
        seconds = self._request_seconds + wait_ms / 1000
        # Who asks waits less; the request may still be answered in its time, and that ends the silence.
        question = Question(f"{owner}:{next(self._keys)}", request, seconds)
        if owner in self._silent:
            seconds = min(seconds, SILENT_SECONDS)
        self._reach()
        self._asked[question.key] = question
        try:
            self._asks[owner, wait_ms > 0](question, seconds)
            if not question.done.wait(max(0.0, started + seconds - time.monotonic())):
                self._silent.add(owner)
                metrics.broker_timeouts.labels("request").inc()
                raise Unavailable(f"{owner} did not answer in time", retry_after=1)
        finally:
            self._asked.pop(question.key, None)
        if not wait_ms:
            metrics.observations.add(self._request_times, (time.monotonic() - started,))
        reply: R = question.reply()
        return reply

    def publish(self, events: Sequence[Event]) -> Delivery:
        """Hand a batch of events of one type to each module that listens; tells what those that must made of it."""
        started, name = time.monotonic(), type(events[0]).__name__
        posted = Posted(str(next(self._keys)), {*type(events[0]).required_consumers})
        late = self._late.refusal(events)
        if late:
            return dict.fromkeys(posted.awaited, late)
        try:
            self._reach()
            self._post(posted, name, events)
        except Unavailable as exc:
            posted.fail(exc.detail)
        if not posted.done.wait(LAST_SECONDS if self._draining else self._event_seconds):
            metrics.broker_timeouts.labels("events").inc()
            self._late.expect(posted.key, events)
        self._posted.pop(posted.key, None)
        posted.fail("no receipt in time")
        metrics.observations.add(self._event_times, (time.monotonic() - started,))
        return posted.delivery

    # --- its life ---

    def start(self) -> None:
        """Connect for sending, after any fork; whoever asks first does so too."""
        with self._starting:
            if not (self._sending or self._stopping.is_set()):
                self._sending = True
                self._heart.start()
                self._out.start()

    def receive(self) -> None:
        """Begin to answer requests and to take events in."""
        self.start()
        if self._local and not (self._receiving or self._stopping.is_set()):
            self._receiving = True
            self._in.start()

    @property
    def ready(self) -> bool:
        """Whether it can send, and receives what it should."""
        works = not any(heartbeat.dead for heartbeat in self.heartbeats)
        return works and self._out.usable and (self._in.up.is_set() or not self._receiving)

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """Of its threads: the one that keeps both connections alive, and the reader of each."""
        return self._heart, self._out.thread, self._in.thread

    def drain(self) -> None:
        """Take up nothing more. Safe in a signal handler: sets a flag only."""
        self._draining = True

    def finish(self, timeout: float) -> None:
        """Take up nothing more, and let end what was taken up."""
        self._draining = True
        self._cancel()
        self._work.wait(timeout)

    def stop(self) -> None:
        """Close the connections. What is not acknowledged by then is given to others."""
        with self._starting:
            self._stopping.set()
        for link in (self._in, self._out):
            link.stop()
        for pool in (self._hands, self._waiters, self._takers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _beat(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            self._heart.beat()
            for link in (self._in, self._out):
                link.check()
            if self._draining:
                self._cancel()

    def _reach(self) -> None:
        """Be connected, or raise Unavailable at once; the first of all waits for the connection."""
        if self._out.usable:
            return
        self.start()
        self._out.tried.wait(2 * CONNECT_SECONDS)
        if not self._out.usable:
            raise Unavailable("the message broker cannot be reached at the moment", retry_after=1)

    # --- the sending side ---

    def _prepare_out(self, connection: Driver) -> None:
        calls, events = connection.channel(), connection.channel()
        calls.basic_consume(REPLY_TO, no_ack=True, callback=self._on_answers)
        events.basic_consume(REPLY_TO, no_ack=True, callback=self._on_receipt)
        events.confirm_select()
        events.events["basic_ack"].add(self._on_confirmed)
        events.events["basic_nack"].add(self._on_refused)
        events.events["basic_return"].add(self._on_returned)
        # Who must hear may never have run yet: the broker keeps it for them from the first event on.
        for name, kind in EVENTS.items():
            for module in kind.required_consumers:
                self._declare_events(events, module, [name])
        with self._posting:
            self._calls, self._events, self._tags = calls, events, count(1)

    def _lost_out(self) -> None:
        with self._posting:
            self._unconfirmed.clear()
        for question in list(self._asked.values()):
            question.end(*LOST)
        for posted in list(self._posted.values()):
            posted.fail("the broker was lost meanwhile")

    def _send_requests(self, owner: str, waits: bool, questions: list[Question]) -> list[None]:
        longest = max(question.seconds for question in questions)
        body = [(one.key, one.kind.__name__, int(one.seconds * 1000), msgspec.Raw(one.body)) for one in questions]
        self._put(
            self._calls,
            msgspec.json.encode(body),
            "",
            self._queue_name(owner, REQUESTS_QUEUE),
            type=WAITING if waits else ASKED,
            reply_to=REPLY_TO,
            correlation_id=questions[0].key,
            # Nobody waits any longer for an answer: the broker drops it.
            expiration=str(int(longest * 1000)),
        )
        return [None] * len(questions)

    def _on_answers(self, delivered: Delivered) -> None:
        try:
            answers = decoded(ANSWERS, delivered.body)
        except NotUnderstood as exc:
            log.error("answers not understood", reason=str(exc))
            return
        for key, kind, payload in answers:
            self._silent.discard(key.partition(":")[0])
            question = self._asked.get(key)
            if question:
                question.end(kind, payload)

    def _post(self, posted: Posted, name: str, events: Sequence[Event]) -> None:
        body = msgspec.json.encode(events)
        self._posted[posted.key] = posted
        with self._posting:
            self._put(
                self._events,
                body,
                f"{self._prefix}.events",
                name,
                mandatory=bool(posted.awaited),
                type=name,
                message_id=uuid4().hex,
                reply_to=REPLY_TO,
                correlation_id=posted.key,
                delivery_mode=PERSISTENT,
                headers={AWAITED: sorted(posted.awaited)},
            )
            # Only what was sent has a number at the broker. Its confirmation waits for the lock.
            self._unconfirmed[next(self._tags)] = posted

    def _on_receipt(self, delivered: Delivered) -> None:
        try:
            module, kind, detail = decoded(RECEIPT, delivered.body)
        except NotUnderstood as exc:
            log.error("receipt not understood", reason=str(exc))
            return
        key = delivered.properties.get("correlation_id", "")
        posted = self._posted.get(key)
        troubles: dict[str, Exception | None] = {"": None, "Unavailable": Unavailable(detail, retry_after=1)}
        trouble = troubles.get(kind, DeliveryRejected(f"{kind}: {detail}"))
        if posted:
            posted.receipt(module, trouble)
        elif isinstance(trouble, DeliveryRejected):
            self._late.receipt(key, trouble)

    def _on_confirmed(self, tag: int, multiple: bool) -> None:
        for posted in self._confirmed(tag, multiple):
            posted.confirm()

    def _on_refused(self, tag: int, multiple: bool) -> None:
        for posted in self._confirmed(tag, multiple):
            posted.fail("the broker does not take it at the moment")

    def _confirmed(self, tag: int, multiple: bool) -> list[Posted]:
        with self._posting:
            tags = [one for one in self._unconfirmed if one <= tag] if multiple else [tag]
            return [self._unconfirmed.pop(one) for one in tags if one in self._unconfirmed]

    def _on_returned(self, _reason: Exception, _exchange: str, _key: str, delivered: Delivered) -> None:
        posted = self._posted.get(delivered.properties.get("correlation_id", ""))
        if posted:
            posted.fail("there is no queue for it")

    def _put(
        self,
        channel: Channel,
        body: bytes,
        exchange: str,
        key: str,
        *,
        mandatory: bool = False,
        headers: dict[str, Any] | None = None,
        **properties: Any,
    ) -> None:
        message = channel.prepare_message(
            body, content_type=JSON, content_encoding="utf-8", headers=headers, properties=properties
        )
        try:
            channel.basic_publish(message, exchange=exchange, routing_key=key, mandatory=mandatory)
        except Exception as exc:
            # The driver raises whatever it stumbles over while a connection ends.
            raise Unavailable("the message broker was lost meanwhile", retry_after=1) from exc

    # --- the receiving side ---

    def _prepare_in(self, connection: Driver) -> None:
        consumers = []
        for module, bus in self._local.items():
            if bus.answered:
                channel = connection.channel()
                self._declare_requests(channel, module)
                consumers.append(self._consume(channel, module, REQUESTS_QUEUE, REQUESTS_AHEAD, self._on_requests))
            if bus.subscribers:
                channel = connection.channel()
                self._declare_events(channel, module, bus.subscribers)
                consumers.append(self._consume(channel, module, EVENTS_QUEUE, EVENTS_AHEAD, self._on_events))
        self._consumers = consumers

    def _lost_in(self) -> None:
        self._consumers = []

    def _consume(
        self, channel: Channel, module: str, kind: str, ahead: int, take: Callable[[str, Delivered], None]
    ) -> tuple[Channel, str]:
        channel.basic_qos(0, ahead, False)
        tag = channel.basic_consume(self._queue_name(module, kind), callback=partial(take, module))
        return channel, tag

    def _cancel(self) -> None:
        consumers, self._consumers = self._consumers, []
        for channel, tag in consumers:
            with suppress(Exception):
                channel.basic_cancel(tag, nowait=True)

    def _on_requests(self, module: str, delivered: Delivered) -> None:
        try:
            asked = decoded(ASKS, delivered.body)
        except NotUnderstood as exc:
            _reject(delivered)
            log.error("request not understood", module=module, reason=str(exc))
            return
        if delivered.properties.get("type") == WAITING or not asked:
            # Those that wait would hold up the others for as long as they do; lost, they are asked again.
            # Where there are none, none would be the last to be answered.
            _acknowledge(delivered)
            pool, batch = self._waiters, Batch(len(asked), lambda: None)
        else:
            pool, batch = self._hands, Batch(len(asked), partial(_acknowledge, delivered))
        for one in asked:
            self._work.submit(pool, self._answer, module, delivered, batch, *one)

    def _answer(
        self,
        module: str,
        delivered: Delivered,
        batch: "Batch",
        key: str,
        name: str,
        deadline_ms: int,
        body: msgspec.Raw,
    ) -> None:
        try:
            if time.monotonic() - batch.received < deadline_ms / 1000:
                kind, payload = self._handled(module, name, body, delivered.delivery_info["redelivered"])
                self._answers((delivered, (key, kind, msgspec.Raw(payload))), self._request_seconds)
        except Unavailable:
            log.warning("answer not sent", module=module, request=name)
        finally:
            batch.one_done()

    def _handled(self, module: str, name: str, body: msgspec.Raw, again: bool) -> tuple[str, bytes]:
        try:
            if name not in REQUESTS:
                raise Unavailable(f"{module} does not know {name}")
            request = decoded(DECODERS[name], body)
            if again and not request.repeatable:
                raise Unavailable("whoever took this on was lost meanwhile: look whether it was done", retry_after=1)
            return "", msgspec.json.encode(self._local[module].request(request))
        except ApplicationError as refusal:
            return refused(refusal)
        except NotUnderstood as exc:
            log.error("request not understood", module=module, request=name, reason=str(exc))
            return refused(Unavailable(f"{name} was not understood"))
        except BaseException:
            # SystemExit and its like pass the bus of one process. Here they must not leave the asker without an answer.
            log.exception("request failed", module=module, request=name)
            return refused(Unavailable(f"{name} could not be answered"))

    def _send_answers(self, answers: list[tuple[Delivered, tuple[str, str, msgspec.Raw]]]) -> list[None]:
        # Over the channel that brought the request: where that is gone, the broker gives the request to others.
        by_asker: dict[tuple[Channel, str], list[tuple[str, str, msgspec.Raw]]] = defaultdict(list)
        for delivered, answer in answers:
            by_asker[delivered.channel, delivered.properties.get("reply_to", "")].append(answer)
        for (channel, reply_to), some in by_asker.items():
            self._put(channel, msgspec.json.encode(some), "", reply_to)
        return [None] * len(answers)

    def _on_events(self, module: str, delivered: Delivered) -> None:
        if _times_delivered(delivered) >= DELIVERIES:
            # Refused here, before another message of the same kind can end this process: the broker discards a message
            # that was given back once more, and its sender would never learn why.
            self._take_in(module, delivered)
        else:
            self._work.submit(self._takers, self._take_in, module, delivered)

    def _take_in(self, module: str, delivered: Delivered) -> None:
        try:
            self._take(module, delivered)
        except BaseException:
            # Whoever sent it does not speak as we do: kept aside, so that it takes up no place here.
            _reject(delivered)
            log.exception("message not understood", module=module)

    def _take(self, module: str, delivered: Delivered) -> None:
        headers = delivered.properties.get("application_headers") or {}
        times = _times_delivered(delivered)
        if 0 < times < DELIVERIES:
            self._stopping.wait(random.uniform(0, AGAIN_SECONDS * times))  # noqa: S311 - spreads load  # nosec B311
        trouble = self._trouble(module, delivered, times)
        if module in headers.get(AWAITED, ()):
            # The sender repeats what could not be taken in, in its time; it keeps count, and the dead letters.
            self._send_receipt(module, delivered, trouble)
            _acknowledge(delivered)
        elif trouble is None:
            _acknowledge(delivered)
        elif isinstance(trouble, DeliveryRejected):
            _reject(delivered)
        else:
            self._stopping.wait(min(LONGEST_REST, 0.1 * 2**times))
            _reject(delivered, again=True)

    def _trouble(self, module: str, delivered: Delivered, times: int) -> Exception | None:
        name = delivered.properties.get("type", "")
        if times >= DELIVERIES:
            return DeliveryRejected(f"{name} was given back {times} times: whoever takes it may die of it")
        try:
            events = self._events_of(name, delivered)
        except NotUnderstood as exc:
            log.error("events not understood", module=module, event_type=name, reason=str(exc))
            return DeliveryRejected(f"{name or 'a message without a type'} was not understood: {exc}")
        return self._given_to(module, events) if events else None

    def _given_to(self, module: str, events: Sequence[Event]) -> Exception | None:
        try:
            return self._local[module].publish(events).get(module)
        except BaseException as exc:
            # SystemExit and its like pass the bus of one process. Here they must not cost a place for events.
            name = type(events[0]).__name__
            log.exception("events not handled", module=module, event_type=name)
            return DeliveryRejected(f"{name}: {exc!r}")

    def _events_of(self, name: str, delivered: Delivered) -> tuple[Event, ...]:
        if name not in EVENTS:
            raise NotUnderstood("there is no such event")
        events: tuple[Event, ...] = decoded(DECODERS[name], delivered.body)
        return events

    def _send_receipt(self, module: str, delivered: Delivered, trouble: Exception | None) -> None:
        kind = type(trouble).__name__ if trouble else ""
        reply_to, key = (delivered.properties.get(name, "") for name in ("reply_to", "correlation_id"))
        detail = str(trouble or "")[:500].encode(errors="replace").decode()
        body = msgspec.json.encode((module, kind, detail))
        try:
            self._put(delivered.channel, body, "", reply_to, correlation_id=key)
        except Unavailable:
            log.warning("receipt not sent", module=module)

    # --- exchanges and queues ---

    def _queue_name(self, module: str, kind: str) -> str:
        return f"{self._prefix}.{module}.{kind}"

    def _declare_requests(self, channel: Channel, module: str) -> None:
        # Quorum as well, though requests are not kept: such a queue outlives the node that leads it.
        Queue(
            self._queue_name(module, REQUESTS_QUEUE),
            durable=True,
            queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": DELIVERIES},
        ).declare(channel=channel)

    def _declare_events(self, channel: Channel, module: str, names: Iterable[str]) -> None:
        dead = Exchange(f"{self._prefix}.dead", "direct", durable=True)
        Queue(
            self._queue_name(module, "dead"), dead, module, durable=True, queue_arguments={"x-queue-type": "quorum"}
        ).declare(channel=channel)
        exchange = Exchange(f"{self._prefix}.events", "topic", durable=True)
        Queue(
            self._queue_name(module, EVENTS_QUEUE),
            bindings=[binding(exchange, name) for name in names],
            durable=True,
            queue_arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": DELIVERIES,
                "x-dead-letter-exchange": dead.name,
                "x-dead-letter-routing-key": module,
                # A dead letter leaves this queue only once it lies in the other.
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        ).declare(channel=channel)


def _times_delivered(delivered: Delivered) -> int:
    """How often the broker has delivered the message before this time."""
    headers = delivered.properties.get("application_headers") or {}
    times: int = headers.get(DELIVERED, 0)
    return times


class Work:
    """Counts what is under way."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = threading.Condition()

    def submit(self, pool: ThreadPoolExecutor, work: Callable[..., None], *what: Any) -> None:
        """Have it done by one of the pool's threads."""
        with self._idle:
            self._count += 1
        try:
            pool.submit(self._do, work, *what)
        except RuntimeError:  # The pool has shut down meanwhile: the broker gives the message to others.
            self._done()

    def wait(self, timeout: float) -> None:
        """Wait until nothing is under way."""
        with self._idle:
            self._idle.wait_for(lambda: self._count == 0, timeout)

    def _do(self, work: Callable[..., None], *what: Any) -> None:
        try:
            work(*what)
        except Exception:
            log.exception("message not handled")
        finally:
            self._done()

    def _done(self) -> None:
        with self._idle:
            self._count -= 1
            self._idle.notify_all()


class Batch:
    """The requests of one message, received at a moment: `done` is called when all are answered."""

    def __init__(self, left: int, done: Callable[[], None]) -> None:
        self.received = time.monotonic()
        self._left = left
        self._done = done
        self._lock = threading.Lock()

    def one_done(self) -> None:
        """One of them is answered."""
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._done()


def _acknowledge(delivered: Delivered) -> None:
    # Where the connection has gone meanwhile, the message is delivered again.
    with suppress(Exception):
        delivered.channel.basic_ack(delivered.delivery_info["delivery_tag"])


def _reject(delivered: Delivered, again: bool = False) -> None:
    with suppress(Exception):
        delivered.channel.basic_reject(delivered.delivery_info["delivery_tag"], requeue=again)
