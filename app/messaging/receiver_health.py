"""Tells single events that fail from a receiver that refuses every event of a type."""

import time
from collections.abc import Callable, Hashable, Iterable

from app.observability import metrics
from app.observability.logging import log

# A receiver counts as broken when events of so many documents failed and none of that type succeeded in between.
DISTINCT_DOCUMENTS = 5
# Seconds until events for a broken receiver are retried: as long as it has been broken, within these bounds.
MIN_DELAY = 1.0
MAX_DELAY = 30.0


class ReceiverHealth:
    """The recent deliveries from one module's outbox, by event type. Not thread-safe: the relay's thread uses it."""

    def __init__(self, module: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._module = module
        self._clock = clock
        self._failed: dict[str, set[Hashable]] = {}
        self._broken_since: dict[str, float] = {}
        self._succeeded: set[str] = set()

    def record_success(self, event_type: str) -> None:
        """Note that an event of this type was delivered."""
        self._succeeded.add(event_type)

    def end_batch(self, failures: Iterable[tuple[str, Hashable]]) -> None:
        """Evaluate a batch. `failures` has the event type and the document key of each event that was refused.

        A success in the same batch clears the failures of its type, whichever came first.
        """
        for event_type in self._succeeded:
            self._recover(event_type)
        for event_type, key in failures:
            if event_type not in self._succeeded:
                self._add_failure(event_type, key)
        self._succeeded.clear()

    def is_broken(self, event_type: str) -> bool:
        """Whether every delivery of this type fails."""
        return event_type in self._broken_since

    def retry_delay(self, event_type: str) -> float:
        """Seconds until the next try of a type of which every delivery fails."""
        duration = self._clock() - self._broken_since[event_type]
        return min(max(MIN_DELAY, duration), MAX_DELAY)

    def _add_failure(self, event_type: str, key: Hashable) -> None:
        if self.is_broken(event_type):
            return
        keys = self._failed.setdefault(event_type, set())
        keys.add(key)
        if len(keys) >= DISTINCT_DOCUMENTS:
            self._broken_since[event_type] = self._clock()
            self._update_gauge()
            log.error("every delivery fails", module=self._module, event_type=event_type)

    def _recover(self, event_type: str) -> None:
        self._failed.pop(event_type, None)
        if self._broken_since.pop(event_type, None) is not None:
            self._update_gauge()
            log.warning("deliveries succeed again", module=self._module, event_type=event_type)

    def _update_gauge(self) -> None:
        metrics.deliveries_failing.labels(self._module).set(len(self._broken_since))
