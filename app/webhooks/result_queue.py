"""Results that wait to be recorded: many of them share a command, and the thread that has one goes on with other work."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from app.contracts.base import Unavailable
from app.observability import metrics
from app.observability.logging import log
from app.system import SYSTEM, System

LIMIT = 128
# A pause before a command where the last one had several results, so that it has more: a result in a command of 64 costs the
# database a third of one in a command of 16.
PAUSE_PER_RESULT = 0.002
MAX_PAUSE_SECONDS = 0.1

T = TypeVar("T")


class ResultQueue(Generic[T]):
    """Records results by `record` in the order in which they come, at most LIMIT of them at a time.

    The thread of one of those who have put some does it. A result that cannot be recorded, or that has waited for `seconds`, is
    dropped: what it belongs to is then done again. `name` is that of the batches in the metrics.
    """

    def __init__(
        self,
        record: Callable[[list[T]], object],
        seconds: float,
        system: System = SYSTEM,
        name: str = "webhook results",
    ) -> None:
        self._record = record
        self._seconds = seconds
        self._system = system
        self._sizes = metrics.batch_sizes.labels(name)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, T]] = deque()
        self._is_recording = False
        self._last_size = 0

    @property
    def is_recording(self) -> bool:
        """Whether a result may not be recorded yet."""
        return self._is_recording

    def put(self, result: T) -> bool:
        """Add a result; true where no thread records at present, so that the caller has to call `record_all`."""
        with self._lock:
            self._waiting.append((self._system.monotonic() + self._seconds, result))
            must_record, self._is_recording = not self._is_recording, True
            return must_record

    def record_all(self) -> None:
        """Record until nothing waits."""
        try:
            while batch := self._gathered():
                self._sizes.observe(len(batch))
                self._record_batch(batch)
        except BaseException:
            with self._lock:
                self._is_recording = False
            raise

    def _gathered(self) -> list[T]:
        """The results to record next, after a pause where many come."""
        if self._last_size > 1:
            self._system.sleep(min(self._last_size * PAUSE_PER_RESULT, MAX_PAUSE_SECONDS))
        batch = self._take()
        # After none, the size of the last command still tells how many come with the next one.
        self._last_size = len(batch) or self._last_size
        return batch

    def _take(self) -> list[T]:
        """The results to record next; after none, the next one that is put begins to record again."""
        with self._lock:
            now = self._system.monotonic()
            batch: list[T] = []
            while self._waiting and len(batch) < LIMIT:
                until, result = self._waiting.popleft()
                if until > now:
                    batch.append(result)
                else:
                    log.warning("webhook result not recorded", module="webhooks", reason="it has waited for too long")
            self._is_recording = bool(batch)
            return batch

    def _record_batch(self, batch: list[T]) -> None:
        try:
            self._record(batch)
        except Unavailable as exc:
            # The claims end by themselves; then the deliveries are attempted again.
            log.warning("webhook result not recorded", module="webhooks", count=len(batch), reason=exc.detail)
        except Exception:
            log.exception("webhook failed", module="webhooks", count=len(batch))
