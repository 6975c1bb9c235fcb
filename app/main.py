"""The composition root: `create_app` makes every part and connects them. Start reading there."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask

from app import cli, gateway, orders, payments, webhooks
from app.config import BadSettings, Settings
from app.doctor import Doctor
from app.messaging.bus import Bus
from app.messaging.live_feed import LiveFeed
from app.messaging.signal_bus import SignalBus
from app.observability import metrics, stages, tracing
from app.observability.logging import configure
from app.orders.erasure_repository import ErasureRepository
from app.orders.erasures import ErasureService
from app.orders.subscribers import SubscribedUsers
from app.payments import providers
from app.payments.provider_port import Provider
from app.runtime import BackgroundModule, Runtime
from app.server.running_servers import server_url
from app.storage import embedded_mongod
from app.storage.mongodb import Database, Store
from app.storage.rate_limits import RateLimitCounters

# An address on which nothing listens, for when there is no database: the commands that need none still work.
NO_DATABASE = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=500"

MakeProvider = Callable[[Settings, Store], Provider]


def create_app(
    settings: Settings | None = None,
    *,
    make_provider: MakeProvider = providers.make,
    **client_options: Any,
) -> Flask:
    """Make the application. Opens no connection and starts no thread: `runtime(app).start()` does.

    `make_provider` replaces the payment provider; `client_options` are passed to pymongo's client.
    """
    settings = settings or Settings.read(os.environ)
    configure(settings.log_format, settings.log_level)
    stages.subscribe(metrics.observe_stages)
    if tracing.enabled(os.environ):
        _start_tracing()
    uri = settings.mongodb_uri or embedded_mongod.running_uri(settings.data) or NO_DATABASE
    database = Database(uri, settings.database, **client_options)
    open_collection = partial(_collection, database, settings)
    bus = _make_bus(settings)
    runs_gateway = settings.runs("gateway")
    feed = LiveFeed(open_collection("gateway", "stages"), creates_collection=runs_gateway)
    rate_limits = RateLimitCounters(open_collection("gateway", "rate_limits"))
    modules: dict[str, BackgroundModule] = {}
    preparations: list[Callable[[], object]] = []
    set_gauges: list[Callable[[], None]] = []
    readiness: dict[str, Callable[[], str]] = {}
    payments_module: payments.Payments | None = None
    if settings.runs("orders"):
        store = open_collection("orders", "orders", settings.request_deadline)
        subscribed = SubscribedUsers(bus) if settings.webhooks_wanted else None
        set_gauges += [subscribed.set_gauges] if subscribed else []
        erasures = ErasureService(
            ErasureRepository(store, open_collection("orders", "erasures")), bus, webhooks=settings.webhooks_wanted
        )
        modules["orders"] = orders.Orders(bus, bus, store, settings, subscribed=subscribed, erasures=erasures)
    if settings.runs("payments"):
        provider = make_provider(settings, open_collection("payments", "ledger"))
        payments_module = payments.Payments(
            bus,
            bus,
            open_collection("payments", "payments"),
            open_collection("payments", "notifications"),
            provider,
            settings,
        )
        modules["payments"] = payments_module
        set_gauges.append(payments_module.worker.set_gauges)
        preparations += [provider.prepare] if hasattr(provider, "prepare") else []
    if settings.runs("webhooks"):
        webhooks_module = webhooks.Webhooks(bus, *_webhook_collections(database, settings), settings)
        modules["webhooks"] = webhooks_module
        set_gauges.append(webhooks_module.sender.set_gauges)
        if not runs_gateway:
            # Not where clients are served: orders are taken whether webhooks are sent or not.
            readiness["webhooks"] = webhooks_module.unready_reason
    if runs_gateway and settings.counts_requests:
        preparations.append(rate_limits.prepare)
    made = Runtime(
        settings,
        bus,
        database,
        feed,
        modules,
        preparations,
        set_gauges=set_gauges,
        readiness=readiness,
        hung_calls=lambda: payments_module.worker.hung if payments_module else 0,
    )
    app = Flask("app", static_folder=None)
    app.extensions["orderflow"] = made
    if runs_gateway:
        cursor_key = partial(_cursor_key, database, settings)
        gateway.install(
            app,
            bus,
            made.unready,
            settings,
            rate_limits.increment,
            cursor_key,
            live=feed,
            alive=made.alive,
            stopping=lambda: made.stopping,
        )
    else:
        gateway.install_probes(app, bus, made.unready, settings, made.alive)
    cli.install(
        app,
        bus,
        feed,
        partial(server_url, settings),
        partial(make_doctor, database, settings),
        payments_module,
        settings,
    )
    return app


def runtime(app: Flask) -> Runtime:
    """Return what runs behind `app`."""
    found: Runtime = app.extensions["orderflow"]
    return found


def make_doctor(database: Database, settings: Settings, grace: float) -> Doctor:
    """Make a doctor for all modules' collections; `grace` is how many seconds work may take before it counts as stuck."""
    return Doctor(
        _collection(database, settings, "orders", "orders"),
        _collection(database, settings, "payments", "payments"),
        _collection(database, settings, "payments", "ledger"),
        grace,
        *(_webhook_collections(database, settings) if settings.webhooks else ()),
    )


def _make_bus(settings: Settings) -> Bus:
    if not settings.bus_url:
        return SignalBus()
    # Imported here, so that a process with all modules does not load the driver of RabbitMQ.
    from app.messaging.rabbitmq.bus import RabbitMqBus

    return RabbitMqBus(
        settings.bus_url,
        settings.bus_prefix,
        request_seconds=settings.request_deadline,
        event_seconds=settings.background_deadline,
        absent=() if settings.webhooks_wanted else ("webhooks",),
    )


def _collection(database: Database, settings: Settings, module: str, name: str, deadline: float | None = None) -> Store:
    return database.collection(name, deadline or settings.background_deadline, settings.database_of(module))


def _webhook_collections(database: Database, settings: Settings) -> tuple[Store, Store]:
    """The collections of endpoints and of deliveries."""
    endpoints, deliveries = (
        _collection(database, settings, "webhooks", f"webhook_{name}") for name in ("endpoints", "deliveries")
    )
    return endpoints, deliveries


def _start_tracing() -> None:
    """Record traces from now on, for all applications of this process. Raises BadSettings if the library is missing."""
    try:
        from app.observability.opentelemetry import OpenTelemetryTracer
    except ImportError as exc:
        raise BadSettings(f"OTEL_… enables traces, which need a library: pip install orderflow[otel] ({exc})") from exc
    if tracing.tracer is None:
        tracing.tracer = OpenTelemetryTracer.from_environment(os.environ)
    stages.subscribe(tracing.tracer.record_stages)


def _cursor_key(database: Database, settings: Settings) -> bytes:
    if settings.cursor_key:
        return settings.cursor_key.encode()
    return database.secret("cursors", settings.database_of("gateway"))
