"""A connection to the broker that is restored when it is lost."""

import random
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from socket import SHUT_RDWR
from typing import Any

from amqp import spec
from kombu.connection import Connection
from kombu.transport.pyamqp import Channel
from kombu.transport.pyamqp import Connection as Driver

from app.contracts.base import Unavailable
from app.observability import metrics
from app.observability.logging import log
from app.observability.supervision import BackgroundThread

CONNECT_SECONDS = 2.0
HEARTBEAT_SECONDS = 6
MIN_PAUSE, MAX_PAUSE = 0.05, 3.0


class BrokerConnection:
    """One connection to the broker. If it is lost, it is restored, with growing pauses between the attempts.

    `on_connected` is called with each new connection before anything is read from it, `on_lost` after its end. One
    thread reads. Any thread may write: the driver writes each frame under a lock.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        on_connected: Callable[[Driver], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._name = name
        self._urls = cycle(urls)
        self._pause = MIN_PAUSE
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._connection: Driver | None = None
        self._bytes_received = 0
        self._stopping = threading.Event()
        self.thread = BackgroundThread(f"broker-{name}", self._run)
        self.connected = threading.Event()
        # Set once the first attempt to connect has ended.
        self.attempted = threading.Event()
        self.blocked = False

    def start(self) -> None:
        """Begin to connect."""
        self.thread.start()

    def stop(self) -> None:
        """Close the connection and end the thread."""
        self._stopping.set()
        with suppress(Exception):
            if self._connection:
                self._connection.send_method(spec.Connection.Close, "BsBB", (200, "the process ends", 0, 0))
        self.thread.join(CONNECT_SECONDS)
        self._abort()
        self.thread.join(CONNECT_SECONDS)

    @property
    def usable(self) -> bool:
        """Whether the broker accepts messages."""
        return self.connected.is_set() and not self.blocked

    def check(self) -> None:
        """Send a heartbeat if one is due; abort the connection if the broker's heartbeats are missing.

        The reading thread makes progress if bytes were received: the driver does not report the broker's heartbeats.
        """
        connection = self._connection
        if connection is None or not self.connected.is_set():
            return
        try:
            connection.heartbeat_tick()
        except Exception as exc:
            log.warning("broker heartbeats missing", connection=self._name, reason=str(exc)[:200])
            self._abort()
        if connection.bytes_recv != self._bytes_received:
            self._bytes_received = connection.bytes_recv
            self.thread.beat()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.thread.beat()
            try:
                self._connect_and_read(next(self._urls))
            finally:
                # Also after SystemExit: a connection that no thread reads must not count as usable.
                self._close()
            self._stopping.wait(self._pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load  # nosec B311
            self._pause = min(2 * self._pause, MAX_PAUSE)

    def _connect_and_read(self, url: str) -> None:
        try:
            self._connect(url)
            self._pause = MIN_PAUSE
            self._read()
        except Exception as exc:
            # The driver raises exceptions of many types when a connection ends.
            if not self._stopping.is_set():
                event = "broker connection lost" if self.connected.is_set() else "broker not reached"
                log.warning(event, connection=self._name, reason=str(exc)[:200])

    def _connect(self, url: str) -> None:
        secure = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None} if url.startswith("amqps:") else False
        # The driver's own connection: kombu's would silently reconnect, without the queues and consumers.
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
        # With this capability the driver would read before each write, in the writing thread. The broker knows it by now.
        connection.client_properties["capabilities"].pop("connection.blocked", None)
        self._on_connected(connection)
        log.info("broker connected", connection=self._name)
        self.connected.set()
        self.attempted.set()
        metrics.broker_connections.inc()

    def _read(self) -> None:
        while not self._stopping.is_set() and self._connection:
            self._connection.drain_events()

    def _close(self) -> None:
        was_connected = self.connected.is_set()
        self.connected.clear()
        self.attempted.set()
        self.blocked = False
        connection, self._connection = self._connection, None
        if connection:
            with suppress(Exception):
                connection.collect()
        if was_connected:
            metrics.broker_connections.dec()
            metrics.broker_connections_lost.inc()
        self._on_lost()

    def _abort(self) -> None:
        """Shut the socket down, so that the reading thread finds the end of the connection."""
        with suppress(Exception):
            if self._connection:
                self._connection.transport.sock.shutdown(SHUT_RDWR)

    def _on_blocked(self, reason: str) -> None:
        self.blocked = True
        log.warning("broker blocked", connection=self._name, reason=reason)

    def _on_unblocked(self) -> None:
        self.blocked = False


def send(
    channel: Channel,
    body: bytes,
    exchange: str,
    routing_key: str,
    *,
    mandatory: bool = False,
    headers: dict[str, Any] | None = None,
    **properties: Any,
) -> None:
    """Send a JSON message. Raises Unavailable if the connection is lost."""
    message = channel.prepare_message(
        body, content_type="application/json", content_encoding="utf-8", headers=headers, properties=properties
    )
    try:
        channel.basic_publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    except Exception as exc:
        # The driver raises exceptions of many types when a connection ends.
        raise Unavailable("the connection to the message broker was lost", retry_after=1) from exc
