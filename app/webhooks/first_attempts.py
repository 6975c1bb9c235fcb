"""Deliveries that are attempted before they are stored, so that one write stores a delivery and its result."""

import threading
from collections.abc import Iterable

from app.system import SYSTEM, System
from app.webhooks.delivery import AttemptResult, Delivery

# The events behind these deliveries wait for them at most so long.
WAIT_SECONDS = 0.25


class FirstAttempts:
    """The first attempts of some deliveries, and what they led to until the deliveries are stored.

    After `close`, `results` has the results that came in time, and `unfinished` the ids of the deliveries that may still be attempted.
    What comes later is kept until `mark_stored`: before, there is no document to record it in.
    """

    def __init__(self, deliveries: Iterable[Delivery], system: System = SYSTEM) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._late: list[tuple[Delivery, AttemptResult | None]] = []
        self._is_closed = False
        self._is_stored = False
        self.results: list[tuple[Delivery, AttemptResult]] = []
        self.unfinished = {one.delivery_id for one in deliveries}

    def take(self, delivery: Delivery, result: AttemptResult | None) -> bool:
        """Keep a result, None where no attempt was made; false if the deliveries are stored, so that the caller records it."""
        with self._lock:
            if self._is_stored:
                return False
            if self._is_closed:
                self._late.append((delivery, result))
                return True
            if result:
                self.results.append((delivery, result))
            self.unfinished.discard(delivery.delivery_id)
            if not self.unfinished:
                self._ended.set()
            return True

    def close(self) -> None:
        """Wait until all attempts have ended, WAIT_SECONDS at most."""
        if self.unfinished:
            self._system.wait(self._ended, WAIT_SECONDS)
        with self._lock:
            self._is_closed = True

    def mark_stored(self) -> list[tuple[Delivery, AttemptResult | None]]:
        """The deliveries are stored: returns what came since `close`, which the caller records."""
        with self._lock:
            self._is_stored = True
            return self._late
