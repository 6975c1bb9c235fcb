"""The pulse: twice a second a process books what it has observed, and tells how much it has under way."""

import threading
from collections.abc import Callable

from app.observability import metrics
from app.observability.logging import writer
from app.observability.supervision import BackgroundThread

SECONDS = 0.5


class MetricsFlusher:
    """Calls each of `looks`, which set gauges, and books what was gathered."""

    def __init__(self, *looks: Callable[[], None]) -> None:
        self._looks = looks
        self._stopping = threading.Event()
        self._lines_dropped = 0
        self.thread = BackgroundThread("pulse", self._run)

    def start(self) -> None:
        """Start beating."""
        metrics.workers.set(1)
        self.thread.start()

    def stop(self) -> None:
        """Beat once more, then end."""
        self._stopping.set()
        self.thread.join(2.0)
        self.beat()
        metrics.workers.set(0)

    def beat(self) -> None:
        """Tell and book, once."""
        for look in self._looks:
            look()
        dropped, self._lines_dropped = self._lines_dropped, writer.dropped
        metrics.log_lines_dropped.inc(self._lines_dropped - dropped)
        metrics.tally.book()

    def _run(self) -> None:
        while True:
            self.beat()
            self.thread.beat()
            if self._stopping.wait(SECONDS):
                return
