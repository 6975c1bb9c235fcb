"""Background threads that go on whatever is raised in them, and a watchdog that notices when one makes no progress."""

import threading
import time
from collections.abc import Callable, Iterable

from app.observability import metrics
from app.observability.logging import log


class Heartbeat:
    """Counts how often some work came round."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.beats = 0
        # An alert sees a counter rise only where it has seen it before.
        self._replaced = metrics.workers_replaced.labels(name)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to come round for."""
        return False

    @property
    def dead(self) -> bool:
        """Whether it is certain that the work never comes round again."""
        return False

    def beat(self) -> None:
        """Count one more round."""
        self.beats += 1

    def count_replacement(self) -> None:
        """Count that the process is replaced because this work makes no progress."""
        self._replaced.inc()


class BackgroundThread(Heartbeat):
    """A daemon thread that runs `work` until `work` returns. Whatever `work` raises, it is run again.

    `work` calls `beat` each time it comes round.
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
        """Whether there is nothing to watch: the thread has not been started, or has come to its proper end."""
        return self._returned or self._thread.ident is None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, for at most so many seconds."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def dead(self) -> bool:
        """Whether the thread has ended although nobody asked it to."""
        return not self.idle and not self._thread.is_alive()

    def _run(self) -> None:
        while not self._returned:
            try:
                self._work()
                self._returned = True
            except BaseException:
                # SystemExit and its like are no reason to end either: the process depends on this thread.
                self._failures.inc()
                log.exception("background thread failed", thread=self.name)
                time.sleep(self.RESTART_SECONDS)


class Watchdog:
    """Finds background work that has died, or has not come round for `limit` seconds.

    Call `failing` about once a second. Between two calls at most LONGEST_GAP seconds count: where the whole process
    was stopped for a while, nothing could come round.
    """

    LONGEST_GAP = 2.0

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._seen: dict[str, tuple[int, float]] = {}
        self._checked_at = time.monotonic()

    def failing(self, heartbeats: Iterable[Heartbeat]) -> list[Heartbeat]:
        """Those that are dead or have made no progress for too long."""
        now = time.monotonic()
        gap = min(now - self._checked_at, self.LONGEST_GAP)
        self._checked_at = now
        return [one for one in heartbeats if self._silent_for(one, gap) > self._limit or one.dead]

    def _silent_for(self, heartbeat: Heartbeat, gap: float) -> float:
        """For how many seconds the heartbeat has not changed; `gap` of them have passed since the last look."""
        beats, silent = self._seen.get(heartbeat.name, (-1, 0.0))
        silent = silent + gap if beats == heartbeat.beats and not heartbeat.idle else 0.0
        self._seen[heartbeat.name] = (heartbeat.beats, silent)
        return silent
