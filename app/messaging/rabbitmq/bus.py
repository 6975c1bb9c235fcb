"""RabbitMqBus: the bus of a process of which some modules run in other processes."""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

from kombu.transport.pyamqp import Connection as Driver

from app.contracts.base import Event, Reply, Request, Unavailable
from app.messaging.bus import DeliveryResult, E, Q, R
from app.messaging.rabbitmq.connection import CONNECT_SECONDS, BrokerConnection
from app.messaging.rabbitmq.consumer import Consumer
from app.messaging.rabbitmq.publisher import Publisher
from app.messaging.rabbitmq.requests import RequestSender
from app.messaging.rabbitmq.topology import Topology
from app.messaging.signal_bus import SignalBus
from app.observability.supervision import BackgroundThread, Heartbeat

TICK_SECONDS = 0.25
# Added to the receiver's own deadline for the way there and back.
TRAVEL_SECONDS = 0.5


class RabbitMqBus:
    """Carries requests and events between processes. Requests to a module of the same process do not leave it.

    `absent` are modules that no process runs: no queue is declared for them. It has one connection for sending and,
    once `start_consuming` is called, another for receiving.
    """

    def __init__(
        self, url: str, prefix: str, *, request_seconds: float, event_seconds: float, absent: Sequence[str] = ()
    ) -> None:
        self._local: dict[str, SignalBus] = defaultdict(SignalBus)
        self._stopping = threading.Event()
        topology, request_timeout = Topology(prefix), request_seconds + TRAVEL_SECONDS
        self._requests = RequestSender(topology, request_timeout, self._ensure_connected)
        self._publisher = Publisher(topology, event_seconds + TRAVEL_SECONDS, self._ensure_connected, absent)
        self._consumer = Consumer(topology, self._local, request_timeout, self._stopping)
        urls = url.split(";")
        self._sending = BrokerConnection("send", urls, self._on_connected, self._on_lost)
        self._receiving = BrokerConnection("receive", urls, self._consumer.on_connected, self._consumer.on_lost)
        self._heartbeat = BackgroundThread("broker-heartbeat", self._run_heartbeat)
        self._start_lock = threading.Lock()
        self._started = self._consuming = self._draining = False

    def register_handler(self, request: type[Q], handler: Callable[[Q], Reply]) -> None:
        self._local[request.owner].register_handler(request, handler)

    def subscribe(self, module: str, event: type[E], handler: Callable[[tuple[E, ...]], None]) -> None:
        self._local[module].subscribe(module, event, handler)

    def request(self, request: Request[R]) -> R:
        owner = type(request).owner
        return self._local[owner].request(request) if owner in self._local else self._requests.request(request)

    def publish(self, events: Sequence[Event]) -> DeliveryResult:
        return self._publisher.publish(events)

    def start(self) -> None:
        """Connect for sending, unless done before. The first request or publish calls this too."""
        with self._start_lock:
            if not (self._started or self._stopping.is_set()):
                self._started = True
                self._heartbeat.start()
                self._sending.start()

    def start_consuming(self) -> None:
        self.start()
        if self._local and not (self._consuming or self._stopping.is_set()):
            self._consuming = True
            self._receiving.start()

    @property
    def ready(self) -> bool:
        """Whether messages can be sent, and are received if a module of this process handles any."""
        alive = not any(heartbeat.dead for heartbeat in self.heartbeats)
        return alive and self._sending.usable and (self._receiving.connected.is_set() or not self._local)

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """Of the thread that sends heartbeats to the broker, and of the reading thread of each connection."""
        return self._heartbeat, self._sending.thread, self._receiving.thread

    def drain(self) -> None:
        self._draining = self._publisher.draining = True

    def drain_and_wait(self, timeout: float) -> None:
        self.drain()
        self._consumer.cancel()
        self._consumer.wait_idle(timeout)

    def stop(self) -> None:
        """Close the connections. The broker redelivers messages that are not acknowledged by then."""
        with self._start_lock:
            self._stopping.set()
        for connection in (self._receiving, self._sending):
            connection.stop()
        self._consumer.shut_down()

    def _run_heartbeat(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            self._heartbeat.beat()
            for connection in (self._receiving, self._sending):
                connection.check()
            if self._draining:
                self._consumer.cancel()

    def _ensure_connected(self) -> None:
        """Start if necessary and wait for the first attempt to connect. Raises Unavailable if there is no connection."""
        if self._sending.usable:
            return
        self.start()
        self._sending.attempted.wait(2 * CONNECT_SECONDS)
        if not self._sending.usable:
            raise Unavailable("the message broker cannot be reached at the moment", retry_after=1)

    def _on_connected(self, connection: Driver) -> None:
        self._publisher.on_connected(connection)
        self._requests.on_connected(connection)

    def _on_lost(self) -> None:
        self._publisher.on_lost()
        self._requests.on_lost()
