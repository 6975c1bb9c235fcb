"""The composition root: the one file that names every module. Start reading at `create_app`."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask

from app import cli, gateway, orders, payments
from app.config import BadSettings, Settings
from app.doctor import Doctor
from app.messaging.bus import Bus
from app.messaging.live_feed import LiveFeed
from app.messaging.outbox import Outbox
from app.messaging.signal_bus import SignalBus
from app.observability import metrics, stages, tracing
from app.observability.logging import configure
from app.payments import providers
from app.payments.providers import Provider
from app.runtime import BackgroundModule, Runtime
from app.storage import embedded_mongod
from app.storage.mongodb import Database, Store
from app.storage.rate_limits import RateLimitCounters

# Where nothing ever listens: commands that need no database work, the others say that there is none.
NO_DATABASE = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500"

MakeProvider = Callable[[Settings, Store], Provider]


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
    gateway_here = settings.runs("gateway")
    feed = LiveFeed(_collection(database, settings, "gateway", "stages"), creates_collection=gateway_here)
    rate_limits = RateLimitCounters(_collection(database, settings, "gateway", "rate_limits"))
    modules: dict[str, BackgroundModule] = {}
    outboxes: dict[str, Outbox] = {}
    preparations: list[Callable[[], object]] = []
    worker = manual_review = None
    if settings.runs("orders"):
        store = _collection(database, settings, "orders", "orders", settings.request_deadline)
        orders_module = orders.Orders(bus, bus, store, settings)
        modules["orders"], outboxes["orders"] = orders_module, orders_module.outbox
    if settings.runs("payments"):
        provider = make_provider(settings, _collection(database, settings, "payments", "ledger"))
        store = _collection(database, settings, "payments", "payments")
        payments_module = payments.install(bus, bus, store, provider, settings)
        modules["payments"], outboxes["payments"] = payments_module, payments_module.outbox
        worker, manual_review = payments_module.worker, payments_module.desk
        preparations += [provider.prepare] if hasattr(provider, "prepare") else []
    if gateway_here and settings.counts_callers:
        preparations.append(rate_limits.prepare)
    running = Runtime(
        settings,
        bus,
        database,
        feed,
        modules,
        preparations,
        set_gauges=[worker.measure] if worker else [],
        hung_calls=lambda: worker.hung if worker else 0,
    )
    app = Flask("app", static_folder=None)
    app.extensions["orderflow"] = running
    if gateway_here:
        cursor_key = partial(_cursor_key, database, settings)
        gateway.install(app, bus, running.ready, settings, rate_limits.take, cursor_key, live=feed, alive=running.alive)
    else:
        gateway.install_probes(app, bus, running.ready, settings, running.alive)
    cli.install(app, bus, feed, partial(_doctor, database, settings), manual_review, outboxes)
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
