"""The life cycle of everything that runs behind the application: prepare, start, drain, stop."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from app.config import Settings
from app.messaging.bus import Bus
from app.messaging.live_feed import LiveFeed
from app.observability import stages, tracing
from app.observability.logging import log
from app.observability.metrics_flusher import MetricsFlusher
from app.observability.readiness import ReadinessMonitor, UnreadyResult
from app.observability.supervision import BackgroundThread, Heartbeat, Watchdog
from app.storage.mongodb import Database, ForeignDocuments

RETRY_SECONDS = 1.0


class BackgroundModule(Protocol):
    """A part of the process that works in the background. Its methods are called in this order."""

    def prepare(self) -> None:
        """Create collections, validators and indexes. Safe to repeat."""

    def start(self) -> None:
        """Start the threads."""

    def drain(self) -> None:
        """Take no new work. Safe in a signal handler: sets flags only."""

    def stop(self, timeout: float) -> None:
        """Finish running work within `timeout` seconds, and end the threads."""

    @property
    def heartbeats(self) -> Sequence[Heartbeat]:
        """The heartbeat of each thread."""


class Runtime:
    """What runs behind the app. Each process that serves starts it once, after the fork.

    `modules` run in this process, and start and stop in this order. The `preparations` run after theirs. `stopping` is set
    by `drain` and `stop`. `readiness` has further parts, each with why it is not ready. `hung_calls` returns how many calls to
    the provider may never return; their threads keep the process from ending by itself.
    """

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        database: Database,
        feed: LiveFeed,
        modules: Mapping[str, BackgroundModule],
        preparations: Sequence[Callable[[], object]] = (),
        set_gauges: Sequence[Callable[[], None]] = (),
        hung_calls: Callable[[], int] = lambda: 0,
        readiness: Mapping[str, Callable[[], str]] = MappingProxyType({}),
    ) -> None:
        self.settings = settings
        self.bus = bus
        self.database = database
        self.feed = feed
        self.modules = {**modules, "feed": feed}
        self._preparations = preparations
        self.hung_calls = hung_calls
        self._metrics_flusher = MetricsFlusher(*set_gauges)
        self._watchdog = Watchdog(settings.background_stall)
        self._starter = BackgroundThread("start", self._start_modules)
        self._on_unusable: Callable[[], object] = lambda: None
        self._on_ready: Callable[[], object] = lambda: None
        self._started = False
        self._prepared = False
        self._foreign = False
        self.stopping = False
        self._readiness = ReadinessMonitor(
            {
                "process": lambda: (
                    "it is stopping: no new work is taken, and what runs is finished" if self.stopping else ""
                ),
                "collections": self._preparation_problem,
                "broker": lambda: "" if bus.ready else "messages cannot be sent or received: there is no connection",
                "database": lambda: "" if database.reachable() else "no primary answers within a second",
                **readiness,
            },
            expected="process",
        )

    def prepare(self) -> None:
        """Create collections, validators and indexes. Safe to repeat."""
        for prepare in (*(module.prepare for module in self.modules.values()), *self._preparations):
            prepare()
        self._prepared = True

    def start(
        self, on_unusable: Callable[[], object] = lambda: None, on_ready: Callable[[], object] = lambda: None
    ) -> None:
        """Start the bus and, as soon as the database is prepared, the modules. Call it after any fork.

        If the database holds documents of another program, `on_unusable` is called, no module starts, and the process
        is never ready. `on_ready` is called once, when requests can be served.
        """
        self._started = True
        self._on_unusable, self._on_ready = on_unusable, on_ready
        stages.subscribe(self.feed.ingest)
        self._metrics_flusher.start()
        self.bus.start()
        self._starter.start()

    def drain(self) -> None:
        """Take no new work, end long polls and streams, report not ready. Safe in a signal handler: sets flags only."""
        self.stopping = True
        self.bus.drain()
        for module in self.modules.values():
            module.drain()

    def stop(self) -> None:
        """Drain, finish running work, return the leases of what was not begun, close all connections."""
        self.drain()
        if self._started:
            # No probe may come any more: the log has the change in any case.
            self._readiness.check()
        timeout = self.settings.payment_timeout + self.settings.background_deadline
        if self._started:
            self._started = False
            # What was taken in before the modules have started is handed on by them: they start first, then they stop.
            self._starter.join(timeout)
            self.bus.drain_and_wait(timeout)
            for module in self.modules.values():
                module.stop(timeout)
            stages.unsubscribe(self.feed.ingest)
            self._metrics_flusher.stop()
            if tracing.tracer:
                tracing.tracer.flush()
        self.bus.stop()
        self.database.close()

    def unready(self) -> UnreadyResult | None:
        """The part because of which requests cannot be served; None if they can."""
        return self._readiness.check()

    def failing(self) -> list[Heartbeat]:
        """The background work that has died or makes no progress; a process with such work should be replaced."""
        return self._watchdog.failing(self._heartbeats) if self._started and not self.stopping else []

    def give_up(self, failing: Iterable[Heartbeat]) -> None:
        """Count the failing work and drain: the process is about to end."""
        for heartbeat in failing:
            heartbeat.count_replacement()
        self.drain()

    def alive(self) -> bool:
        """Whether all background work makes progress."""
        return not self.failing()

    def _preparation_problem(self) -> str:
        if self._prepared:
            return ""
        if self._foreign:
            return "the database holds documents of another program"
        return "they are not prepared yet: the database has not answered so far"

    @property
    def _heartbeats(self) -> list[Heartbeat]:
        modules = [heartbeat for module in self.modules.values() for heartbeat in module.heartbeats]
        return [self._metrics_flusher.thread, self._starter, *self.bus.heartbeats, *modules]

    def _start_modules(self) -> None:
        pause = threading.Event()
        while not self.stopping:
            try:
                self.prepare()
            except ForeignDocuments as exc:
                log.critical(str(exc))
                self._foreign = True
                self._on_unusable()
                return
            except Exception as exc:
                # While the process stops, its database client may be closed already: that is no warning.
                level = "debug" if self.stopping else "warning"
                getattr(log, level)("database not ready", reason=str(exc)[:200])
                self._starter.beat()
                pause.wait(RETRY_SECONDS)
                continue
            for module in self.modules.values():
                module.start()
            self.bus.start_consuming()
            break
        while not self.stopping and self._readiness.check():
            self._starter.beat()
            pause.wait(RETRY_SECONDS)
        if not self.stopping:
            self._on_ready()
