"""Flushes buffered metrics and refreshes gauges every 0.5 s."""

import threading
from collections.abc import Callable

from app.observability import metrics
from app.observability.logging import writer
from app.observability.supervision import BackgroundThread

FLUSH_SECONDS = 0.5


class MetricsFlusher:
    """Calls each of `set_gauges` and flushes the buffered observations, every FLUSH_SECONDS in a thread."""

    def __init__(self, *set_gauges: Callable[[], None]) -> None:
        self._set_gauges = set_gauges
        self._stopping = threading.Event()
        self._lines_dropped = 0
        self.thread = BackgroundThread("metrics-flusher", self._run)

    def start(self) -> None:
        """Count this process as a worker and start the thread."""
        metrics.workers.set(1)
        self.thread.start()

    def stop(self) -> None:
        """End the thread and flush once more."""
        self._stopping.set()
        self.thread.join(2.0)
        self.flush()
        metrics.workers.set(0)

    def flush(self) -> None:
        """Set all gauges and flush all observations."""
        for set_gauge in self._set_gauges:
            set_gauge()
        before, self._lines_dropped = self._lines_dropped, writer.dropped
        metrics.log_lines_dropped.inc(self._lines_dropped - before)
        metrics.observations.flush()

    def _run(self) -> None:
        while True:
            self.flush()
            self.thread.beat()
            if self._stopping.wait(FLUSH_SECONDS):
                return
