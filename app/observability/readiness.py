"""Whether a process is ready to serve, which part of it is not, and a log line for each change."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from app.observability.logging import log


class UnreadyResult(NamedTuple):
    """The `part` of a process that is not ready, and one sentence that says why."""

    part: str
    reason: str


class ReadinessMonitor:
    """Asks each of `parts` why it is not ready; its answer is empty where it is.

    Logs a change once, however often it is asked: as a warning, unless the part is one that is `expected` not to be ready.
    """

    def __init__(self, parts: Mapping[str, Callable[[], str]], expected: str = "") -> None:
        self._parts = parts
        self._expected = expected
        self._lock = threading.Lock()
        self._before: UnreadyResult | None = None
        self._since = time.monotonic()
        self._observed = False

    def check(self) -> UnreadyResult | None:
        """The first part that is not ready; None if all are."""
        asked = ((part, reason_of()) for part, reason_of in self._parts.items())
        found = next((UnreadyResult(part, reason) for part, reason in asked if reason), None)
        self._observe(found)
        return found

    def _observe(self, found: UnreadyResult | None) -> None:
        with self._lock:
            if self._observed and found == self._before:
                return
            before, seconds = self._before, time.monotonic() - self._since
            self._before, self._since, self._observed = found, time.monotonic(), True
        if found:
            (log.info if found.part == self._expected else log.warning)("not ready", **found._asdict())
        else:
            log.info("ready", **({"was": before.part, "seconds": round(seconds, 1)} if before else {}))
