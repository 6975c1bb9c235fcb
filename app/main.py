"""The composition root: the one file that names every module. Start reading at `create_app`."""

import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flask import Flask

from app import cli, gateway, orders, payments
from app.config import BadSettings, Settings
from app.doctor import Doctor
from app.messaging.bus import Bus
from app.messaging.live_feed import LiveFeed
from app.messaging.signal_bus import SignalBus
from app.observability import metrics, stages, tracing
from app.observability.logging import configure, log
from app.observability.metrics_flusher import MetricsFlusher
from app.observability.supervision import BackgroundThread, Heartbeat, Watchdog
from app.payments import providers
from app.payments.providers import Provider
from app.storage import embedded_mongod
from app.storage.mongodb import Database, ForeignDocuments, Store
from app.storage.rate_limits import RateLimitCounters

# Where nothing ever listens: commands that need no database work, the others say that there is none.
NO_DATABASE = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500"

MakeProvider = Callable[[Settings, Store], Provider]


class Runtime:
    """What runs behind the app: started once in each process that serves, stopped in order.

    `orders` and `payments` are None where they run in other processes.
    """

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        database: Database,
        modules: tuple[orders.Orders | None, payments.Payments | None],
        provider: Provider | None,
        feed: LiveFeed,
        quota: RateLimitCounters,
    ) -> None:
        self.settings = settings
        self.bus = bus
        self.database = database
        self.orders, self.payments = modules
        self.provider = provider
        self.feed = feed
        self.quota = quota
        self._metrics_flusher = MetricsFlusher(*([self.payments.worker.measure] if self.payments else []))
        self._watchdog = Watchdog(settings.background_stall)
        self._preparing = BackgroundThread("start", self._start_when_prepared)
        self._started = False
        self._prepared = False
        self._stopping = False
        self._on_unusable: Callable[[], object]

    def prepare(self) -> None:
        """Create collections, validators and indexes; safe to repeat."""
        for module in self._background:
            module.prepare()
        if self.settings.runs("gateway"):
            self.feed.prepare()
            if self.settings.counts_callers:
                self.quota.prepare()
        prepare = getattr(self.provider, "prepare", None)
        if prepare:
            prepare()
        self._prepared = True

    def start(self, on_unusable: Callable[[], object] = lambda: None) -> None:
        """Start the relays and the worker. Call it after any fork.

        `on_unusable` is called if the database can never be used as it is; then nothing is started, and it is never ready.
        """
        self._started = True
        self._on_unusable = on_unusable
        stages.subscribe(self.feed.ingest)
        self._metrics_flusher.start()
        self.bus.start()
        self._preparing.start()

    @property
    def stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stopping

    def drain(self) -> None:
        """Take up no more payments, let waiters go, be not ready. Safe in a signal handler: sets flags only."""
        self._stopping = True
        self.bus.drain()
        for module in self._background:
            module.drain()
        self.feed.draining = True

    def stop(self) -> None:
        """Stop taking work up, end what runs, give back the rest, close."""
        self.drain()
        timeout = self.settings.payment_timeout + self.settings.background_deadline
        if self._started:
            self._started = False
            self.bus.drain_and_wait(timeout)
            for module in self._background:
                module.stop(timeout)
            self.feed.stop()
            stages.unsubscribe(self.feed.ingest)
            self._metrics_flusher.stop()
            if tracing.tracer:
                tracing.tracer.flush()
        self.bus.stop()
        self.database.close()

    def ready(self) -> bool:
        """Whether requests can be served."""
        return self._prepared and not self._stopping and self.bus.ready and self.database.reachable()

    def failing(self) -> list[Heartbeat]:
        """The background work that has died or makes no progress; a process with such work should be replaced."""
        return self._watchdog.failing(self._heartbeats) if self._started and not self._stopping else []

    def give_up(self, failing: Iterable[Heartbeat]) -> None:
        """Count what made no progress, and take up no more: the process is about to end."""
        for heartbeat in failing:
            heartbeat.count_replacement()
        self.drain()

    def alive(self) -> bool:
        """Whether all background work makes progress."""
        return not self.failing()

    @property
    def hung_calls(self) -> int:
        """How many calls to the provider may never come back; they keep the process from ending by itself."""
        return self.payments.worker.hung if self.payments else 0

    @property
    def _heartbeats(self) -> list[Heartbeat]:
        if not self._prepared:
            return [self._metrics_flusher.thread, self._preparing, *self.bus.heartbeats]
        modules = [heartbeat for module in self._background for heartbeat in module.heartbeats]
        return [self._metrics_flusher.thread, self._preparing, self.feed.thread, *self.bus.heartbeats, *modules]

    @property
    def _background(self) -> list[orders.Orders | payments.Payments]:
        return [module for module in (self.orders, self.payments) if module]

    def _start_when_prepared(self) -> None:
        wait = threading.Event()
        while not self._stopping:
            try:
                self.prepare()
            except ForeignDocuments as exc:
                log.critical(str(exc))
                self._on_unusable()
                return
            except Exception as exc:
                # A client that was closed meanwhile is no news.
                level = "debug" if self.stopping else "warning"
                getattr(log, level)("database not ready", reason=str(exc)[:200])
                self._preparing.beat()
                wait.wait(1.0)
                continue
            self.feed.start()
            for module in self._background:
                module.start()
            self.bus.start_consuming()
            return


def create_app(
    settings: Settings | None = None,
    *,
    make_provider: MakeProvider = providers.make,
    **client_options: Any,
) -> Flask:
    """The whole application. Opens no connection and starts no thread: `runtime(app).start()` does.

    `make_provider` and `client_options` (for pymongo's client) let tests and embedders hand in their own.
    """
    settings = settings or Settings.read(os.environ)
    configure(settings.log_format, settings.log_level)
    stages.subscribe(metrics.observe_stages)
    if tracing.enabled(os.environ):
        _trace()
    uri = settings.mongodb_uri or embedded_mongod.running(settings.data) or NO_DATABASE
    database = Database(uri, settings.database, **client_options)
    bus = _bus(settings)
    of_orders = of_payments = provider = None
    if settings.runs("orders"):
        store = _collection(database, settings, "orders", "orders", settings.request_deadline)
        of_orders = orders.Orders(bus, bus, store, settings)
    if settings.runs("payments"):
        provider = make_provider(settings, _collection(database, settings, "payments", "ledger"))
        store = _collection(database, settings, "payments", "payments")
        of_payments = payments.install(bus, bus, store, provider, settings)
    feed = LiveFeed(_collection(database, settings, "gateway", "stages"))
    quota = RateLimitCounters(_collection(database, settings, "gateway", "rate_limits"))
    running = Runtime(settings, bus, database, (of_orders, of_payments), provider, feed, quota)
    app = Flask("app", static_folder=None)
    app.extensions["orderflow"] = running
    if settings.runs("gateway"):
        cursor_key = partial(_cursor_key, database, settings)
        gateway.install(app, bus, running.ready, settings, quota.take, cursor_key, live=feed, alive=running.alive)
    else:
        gateway.install_probes(app, bus, running.ready, settings, running.alive)
    cli.install(
        app,
        bus,
        feed,
        partial(_doctor, database, settings),
        of_payments.desk if of_payments else None,
        {name: module.outbox for name, module in (("orders", of_orders), ("payments", of_payments)) if module},
    )
    return app


def _bus(settings: Settings) -> Bus:
    if not settings.bus_url:
        return SignalBus()
    # Known only where it is wanted: the driver is not loaded for one process.
    from app.messaging.rabbitmq.bus import RabbitMqBus

    return RabbitMqBus(
        settings.bus_url,
        settings.bus_prefix,
        request_seconds=settings.request_deadline,
        event_seconds=settings.background_deadline,
    )


def _collection(database: Database, settings: Settings, module: str, name: str, deadline: float | None = None) -> Store:
    return database.collection(name, deadline or settings.background_deadline, settings.database_of(module))


def _trace() -> None:
    """Have traces made from now on, for all applications of this process."""
    try:
        from app.observability.opentelemetry import OpenTelemetryTracer
    except ImportError as exc:
        raise BadSettings(f"OTEL_… asks for traces: pip install orderflow[otel] ({exc})") from exc
    if tracing.tracer is None:
        tracing.tracer = OpenTelemetryTracer.from_environment(os.environ)
    stages.subscribe(tracing.tracer.record_stages)


def _cursor_key(database: Database, settings: Settings) -> bytes:
    if settings.cursor_key:
        return settings.cursor_key.encode()
    return database.secret("cursors", settings.database_of("gateway"))


def _doctor(database: Database, settings: Settings, grace: float) -> Doctor:
    of_orders, of_payments, books = (
        _collection(database, settings, module, name)
        for module, name in (("orders", "orders"), ("payments", "payments"), ("payments", "ledger"))
    )
    return Doctor(of_orders, of_payments, books, grace)


def runtime(app: Flask) -> Runtime:
    """What runs behind `app`."""
    running: Runtime = app.extensions["orderflow"]
    return running
