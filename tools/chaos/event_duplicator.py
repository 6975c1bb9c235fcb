"""Sends copies of events over RabbitMQ: duplicates that come at once, late or in reversed order."""

import heapq
import threading
import time
from contextlib import suppress
from itertools import count
from random import Random
from typing import Any
from urllib.parse import urlsplit

import amqp

COPY = "x-copy"
LATE_SECONDS = (0.2, 8.0)
REVERSED_COUNT = (2, 5)
POLL_SECONDS = 0.05
CONNECT_SECONDS = 2.0


class EventDuplicator(threading.Thread):
    """Consumes all events of a cluster and sends a `share` of them again: at once, later, or several in reversed order."""

    def __init__(self, url: str, prefix: str, random: Random, share: float = 0.5) -> None:
        super().__init__(name="event-duplicator", daemon=True)
        self._url = urlsplit(url)
        self._exchange = f"{prefix}.events"
        self._random = random
        self._share = share
        self._due: list[tuple[float, int, amqp.Message]] = []
        self._numbers = count()
        self._to_reverse: list[amqp.Message] = []
        self._stopping = threading.Event()
        self.copies = 0

    def stop(self) -> None:
        """Stops sending copies and ends the thread."""
        self._stopping.set()
        self.join(4 * CONNECT_SECONDS)

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._consume()
            except (OSError, amqp.AMQPError):
                self._stopping.wait(POLL_SECONDS)

    def _consume(self) -> None:
        url = self._url
        with amqp.Connection(
            f"{url.hostname}:{url.port}",
            url.username,
            url.password,
            virtual_host=url.path[1:],
            connect_timeout=CONNECT_SECONDS,
        ) as connection:
            channel = connection.channel()
            queue, _, _ = channel.queue_declare(exclusive=True)
            channel.queue_bind(queue, self._exchange, "#")
            channel.basic_consume(queue, no_ack=True, callback=self._receive)
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=POLL_SECONDS)
                self._send_due(channel)

    def _receive(self, message: amqp.Message) -> None:
        headers = message.properties.get("application_headers") or {}
        if COPY in headers or self._random.random() >= self._share:
            return
        timing = self._random.choice(("at once", "late", "reversed"))
        if timing == "reversed":
            self._to_reverse.append(message)
            if len(self._to_reverse) >= self._random.randint(*REVERSED_COUNT):
                for reversed_message in reversed(self._to_reverse):
                    self._schedule(0.0, reversed_message)
                self._to_reverse.clear()
            return
        self._schedule(0.0 if timing == "at once" else self._random.uniform(*LATE_SECONDS), message)

    def _schedule(self, seconds: float, message: amqp.Message) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), message))

    def _send_due(self, channel: Any) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            _, _, message = heapq.heappop(self._due)
            headers = {**(message.properties.get("application_headers") or {}), COPY: 1}
            copy = amqp.Message(message.body, **{**message.properties, "application_headers": headers})
            channel.basic_publish(copy, self._exchange, message.delivery_info["routing_key"])
            self.copies += 1
