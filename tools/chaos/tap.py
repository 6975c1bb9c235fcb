"""Deliveries as a network may make them: events that come twice, late, and in the wrong order."""

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
REVERSED = (2, 5)
LOOK_SECONDS = 0.05
CONNECT_SECONDS = 2.0


class Tap(threading.Thread):
    """Listens to all events of a fleet and sends some once more: at once, later, or several in reversed order."""

    def __init__(self, url: str, prefix: str, random: Random, share: float = 0.5) -> None:
        super().__init__(name="tap", daemon=True)
        self._url = urlsplit(url)
        self._exchange = f"{prefix}.events"
        self._random = random
        self._share = share
        self._due: list[tuple[float, int, amqp.Message]] = []
        self._numbers = count()
        self._crowd: list[amqp.Message] = []
        self._stopping = threading.Event()
        self.copies = 0

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self.join(4 * CONNECT_SECONDS)

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (OSError, amqp.AMQPError):
                self._stopping.wait(LOOK_SECONDS)

    def _listen(self) -> None:
        at = self._url
        with amqp.Connection(
            f"{at.hostname}:{at.port}",
            at.username,
            at.password,
            virtual_host=at.path[1:],
            connect_timeout=CONNECT_SECONDS,
        ) as connection:
            channel = connection.channel()
            queue, _, _ = channel.queue_declare(exclusive=True)
            channel.queue_bind(queue, self._exchange, "#")
            channel.basic_consume(queue, no_ack=True, callback=self._take)
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=LOOK_SECONDS)
                self._send_due(channel)

    def _take(self, message: amqp.Message) -> None:
        headers = message.properties.get("application_headers") or {}
        if COPY in headers or self._random.random() >= self._share:
            return
        way = self._random.choice(("at once", "late", "reversed"))
        if way == "reversed":
            self._crowd.append(message)
            if len(self._crowd) >= self._random.randint(*REVERSED):
                for each in reversed(self._crowd):
                    self._plan(0.0, each)
                self._crowd.clear()
            return
        self._plan(0.0 if way == "at once" else self._random.uniform(*LATE_SECONDS), message)

    def _plan(self, seconds: float, message: amqp.Message) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), message))

    def _send_due(self, channel: Any) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            _, _, message = heapq.heappop(self._due)
            headers = {**(message.properties.get("application_headers") or {}), COPY: 1}
            copy = amqp.Message(message.body, **{**message.properties, "application_headers": headers})
            channel.basic_publish(copy, self._exchange, message.delivery_info["routing_key"])
            self.copies += 1
