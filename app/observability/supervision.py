"""Background threads that survive every exception, and a watchdog that finds those without progress."""

import threading
import time
from collections.abc import Callable, Iterable

from app.observability import metrics
from app.observability.logging import log


class Heartbeat:
    """Counts the rounds of repeated work, as a sign of its progress."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.beats = 0
        # An alert on an increase needs the series to exist before the first increment.
        self._replaced = metrics.workers_replaced.labels(name)

    @property
    def idle(self) -> bool:
        """Whether the work has nothing to do, so that missing beats are no failure."""
        return False

    @property
    def dead(self) -> bool:
        """Whether the work has ended for good although nothing stopped it."""
        return False

    def beat(self) -> None:
        """Count one more round."""
        self.beats += 1

    def count_replacement(self) -> None:
        """Count that the process is replaced because this work makes no progress."""
        self._replaced.inc()


class BackgroundThread(Heartbeat):
    """A daemon thread that runs `work` until it returns, and again after every exception.

    `work` calls `beat` in every round.
    """

    RESTART_SECONDS = 0.5

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        super().__init__(name)
        self._failures = metrics.thread_failures.labels(name)
        self._work = work
        self._returned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def idle(self) -> bool:
        """Whether the thread has not been started, or `work` has returned."""
        return self._returned or self._thread.ident is None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, for at most `timeout` seconds."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def dead(self) -> bool:
        """Whether the thread has ended although `work` has not returned."""
        return not self.idle and not self._thread.is_alive()

    def _run(self) -> None:
        while not self._returned:
            try:
                self._work()
                self._returned = True
            except BaseException:
                # SystemExit too must not end the thread: the process depends on it.
                self._failures.inc()
                log.exception("background thread failed", thread=self.name)
                time.sleep(self.RESTART_SECONDS)


class Watchdog:
    """Finds background work that has died, or has made no progress for `limit` seconds.

    Call `failing` about once a second. At most MAX_GAP_SECONDS count between two calls: when the whole process was
    suspended, no work could make progress.
    """

    MAX_GAP_SECONDS = 2.0

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._last_seen: dict[str, tuple[int, float]] = {}
        self._checked_at = time.monotonic()

    def failing(self, heartbeats: Iterable[Heartbeat]) -> list[Heartbeat]:
        """Returns the heartbeats that are dead or have made no progress for too long."""
        now = time.monotonic()
        gap = min(now - self._checked_at, self.MAX_GAP_SECONDS)
        self._checked_at = now
        return [
            heartbeat
            for heartbeat in heartbeats
            if self._seconds_without_beat(heartbeat, gap) > self._limit or heartbeat.dead
        ]

    def _seconds_without_beat(self, heartbeat: Heartbeat, gap: float) -> float:
        """Seconds since the last beat; `gap` of them since the previous call."""
        beats, silent = self._last_seen.get(heartbeat.name, (-1, 0.0))
        silent = silent + gap if beats == heartbeat.beats and not heartbeat.idle else 0.0
        self._last_seen[heartbeat.name] = (heartbeat.beats, silent)
        return silent
