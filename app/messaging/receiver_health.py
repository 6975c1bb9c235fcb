"""Whether events fail one by one or all of them: a broken receiver is not the fault of the events it refuses."""

import time
from collections.abc import Callable, Hashable, Iterable

from app.observability import metrics
from app.observability.logging import log

# So many different documents must fail, with no success of the same event type in between.
DIFFERENT = 5
# Seconds until what waits for a broken receiver is tried again: as long as it has been broken, within these bounds.
SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class ReceiverHealth:
    """What became of one module's deliveries lately, by event type. Used by one thread."""

    def __init__(self, module: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._module = module
        self._clock = clock
        self._failed: dict[str, set[Hashable]] = {}
        self._since: dict[str, float] = {}
        self._succeeded: set[str] = set()

    def succeeded(self, event_type: str) -> None:
        """An event of this type was delivered."""
        self._succeeded.add(event_type)

    def end_batch(self, failures: Iterable[tuple[str, Hashable]]) -> None:
        """Judge a batch: `failures` has the event type and the document's key of each event that was refused in it.

        What succeeded in the same batch counts as in between, whichever came first.
        """
        for event_type in self._succeeded:
            self._recover(event_type)
        for event_type, key in failures:
            if event_type not in self._succeeded:
                self._add(event_type, key)
        self._succeeded.clear()

    def failing(self, event_type: str) -> bool:
        """Whether every delivery of this type fails."""
        return event_type in self._since

    def pause(self, event_type: str) -> float:
        """How many seconds to wait before the next try of a type that is failing."""
        lasted = self._clock() - self._since[event_type]
        return min(max(SHORTEST_PAUSE, lasted), LONGEST_PAUSE)

    def _add(self, event_type: str, key: Hashable) -> None:
        if self.failing(event_type):
            return
        keys = self._failed.setdefault(event_type, set())
        keys.add(key)
        if len(keys) >= DIFFERENT:
            self._since[event_type] = self._clock()
            self._report()
            log.error("every delivery fails", module=self._module, event_type=event_type)

    def _recover(self, event_type: str) -> None:
        self._failed.pop(event_type, None)
        if self._since.pop(event_type, None) is not None:
            self._report()
            log.warning("deliveries succeed again", module=self._module, event_type=event_type)

    def _report(self) -> None:
        metrics.deliveries_failing.labels(self._module).set(len(self._since))
