"""The pulse: twice a second a process books what it has observed, and tells how much it has under way."""

import threading
from collections.abc import Callable

from app import metrics, story

SECONDS = 0.5


class Pulse:
    """Calls each of `looks`, which set gauges, and books what was gathered."""

    def __init__(self, *looks: Callable[[], None]) -> None:
        self._looks = looks
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Start beating."""
        metrics.workers.set(1)
        self._thread.start()

    def stop(self) -> None:
        """Beat once more, then end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        self.beat()
        metrics.workers.set(0)

    def beat(self) -> None:
        """Tell and book, once."""
        for look in self._looks:
            look()
        metrics.tally.book()

    def _run(self) -> None:
        over = False
        while not over:
            try:
                self.beat()
            except Exception:
                story.log.exception("metrics not told")
            over = self._stopping.wait(SECONDS)
