"""Counters of unfinished work: of a process, and of the requests in one message."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.observability.logging import log


class InFlightTracker:
    """Runs work in thread pools, and counts what is queued or running."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = threading.Condition()

    def submit(self, pool: ThreadPoolExecutor, work: Callable[..., None], *args: Any) -> None:
        """Run `work` in a thread of the pool."""
        with self._idle:
            self._count += 1
        try:
            pool.submit(self._run, work, *args)
        except RuntimeError:  # The pool was shut down meanwhile: the broker redelivers the message to another process.
            self._finish()

    def wait_idle(self, timeout: float) -> None:
        """Wait until nothing is queued or running."""
        with self._idle:
            self._idle.wait_for(lambda: self._count == 0, timeout)

    def _run(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except Exception:
            log.exception("message not handled")
        finally:
            self._finish()

    def _finish(self) -> None:
        with self._idle:
            self._count -= 1
            self._idle.notify_all()


class BatchAcknowledgement:
    """Acknowledges a message when the last of its `count` requests is finished. `received` is when it arrived."""

    def __init__(self, count: int, acknowledge: Callable[[], None]) -> None:
        self.received = time.monotonic()
        self._count = count
        self._acknowledge = acknowledge
        self._lock = threading.Lock()

    def finish_one(self) -> None:
        """One of the requests is finished."""
        with self._lock:
            self._count -= 1
            last = not self._count
        if last:
            self._acknowledge()
