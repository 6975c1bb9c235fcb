"""The gateway: the HTTP interface. It has no data of orders and payments but what it requests over the bus."""

import re
import time
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import Any

from flask import Flask, Response, g, request
from flask.sessions import NullSession

from app.config import Settings
from app.gateway import console
from app.gateway.apidocs import openapi, problem_pages
from app.gateway.console import StageFeed
from app.gateway.http import body, canonical_paths, problems, query, request_tracing, url_adapters
from app.gateway.http.cursors import CursorCodec
from app.gateway.http.request_log import RequestReporter
from app.gateway.http.return_urls import ReturnUrlPolicy
from app.gateway.routes import (
    health,
    metrics,
    operations,
    orders,
    provider_notifications,
    simulated_provider,
    states,
    users,
    webhooks,
)
from app.gateway.security import allowed_hosts, authentication, cors, rate_limits
from app.gateway.security.admission import Admission
from app.gateway.security.caller import ADMIN
from app.gateway.security.client_addresses import ClientAddresses
from app.gateway.security.stream_limits import StreamLimits
from app.messaging.bus import RequestClient
from app.observability import tracing
from app.observability.logging import log
from app.observability.request_log import RequestLogger

Wsgi = Callable[[Any, Any], Any]

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
NO_SESSION = NullSession()
HSTS = ("Strict-Transport-Security", "max-age=31536000")


def install(
    app: Flask,
    bus: RequestClient,
    unready: health.Unready,
    settings: Settings,
    increment: rate_limits.Increment,
    cursor_key: Callable[[], bytes],
    live: StageFeed | None = None,
    alive: Callable[[], bool] = lambda: True,
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Give `app` its routes, error handlers and headers.

    `unready` is why requests cannot be served, `alive` whether the process works at all, `stopping` whether it is ending. `increment` counts requests for the rate
    limits, `cursor_key` returns the key that signs cursors. Without a `live` feed there is no console.
    """
    _prepare(app, settings)
    if tracing.tracer:
        bus = request_tracing.TracedBus(bus, tracing.tracer)
    addresses = ClientAddresses(settings.forwarded_allow_ips)
    limits = StreamLimits(settings.streams_max, settings.streams_per_caller, addresses)
    # One caller leaves places for others.
    exports = StreamLimits(settings.exports_max, max(1, settings.exports_max // 2), addresses)
    return_urls = ReturnUrlPolicy(settings.return_origins)
    stages_of_order = live.stages_of_order if live else lambda _: []
    cursors = CursorCodec(cursor_key)
    for blueprint in (
        orders.blueprint(bus, Admission(bus), limits, cursors, return_urls, stages_of_order, exports, stopping),
        operations.blueprint(bus, cursors),
        users.blueprint(bus),
        states.blueprint(bus),
        provider_notifications.blueprint(bus),
        *([webhooks.blueprint(bus, cursors)] if settings.webhooks_wanted else []),
        problem_pages.blueprint(),
        health.blueprint(unready, alive),
        metrics.blueprint(bus, None if settings.metrics_public else ADMIN, _checked_modules(settings)),
        openapi.blueprint(),
        *([console.blueprint(bus, limits, live, settings)] if live else []),
        *([simulated_provider.blueprint(bus)] if settings.demonstrations else []),
    ):
        app.register_blueprint(blueprint)
    if tracing.tracer:
        request_tracing.install(app, tracing.tracer)
    allowed_hosts.install(app, settings)
    cors.install(app, settings)
    canonical_paths.install(app)
    authentication.install(app, settings, rate_limits.authentication_failure_limit(settings, increment))
    rate_limits.install(app, settings, increment)
    query.install(app)
    app.after_request(partial(_finish_request, _reporter(settings)))


def install_probes(
    app: Flask,
    bus: RequestClient,
    unready: health.Unready,
    settings: Settings,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Give `app`, which runs other modules and serves no clients, health and metrics."""
    _prepare(app, settings)
    app.register_blueprint(health.blueprint(unready, alive))
    modules = [module for module in metrics.MODULE_CHECKS if settings.runs(module)]
    app.register_blueprint(metrics.blueprint(bus, None, modules))
    app.after_request(partial(_finish_request, _reporter(settings)))


def _checked_modules(settings: Settings) -> list[str]:
    """The modules that a scrape asks: all that some process runs."""
    return [module for module in metrics.MODULE_CHECKS if module != "webhooks" or settings.webhooks_wanted]


def _prepare(app: Flask, settings: Settings) -> None:
    app.config["IDENTITY"] = settings.identity
    app.config["STRICT_BODIES"] = settings.strict_bodies
    app.config["MAX_CONTENT_LENGTH"] = body.MAX_BYTES + 1
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    problems.install(app)
    app.before_request(_start_request)
    app.wsgi_app = _with_headers(app.wsgi_app)  # type: ignore[assignment]
    url_adapters.install(app)
    # No route has a session, and Flask would make an empty one for each request.
    app.session_interface.open_session = lambda *_: NO_SESSION  # type: ignore[method-assign]


def _start_request() -> None:
    client_id = request.environ.get("HTTP_X_REQUEST_ID", "")
    g.started = time.perf_counter()
    g.request_id = client_id if REQUEST_ID.match(client_id) else token_hex(16)


def _reporter(settings: Settings) -> RequestReporter:
    return RequestReporter(RequestLogger(settings.request_log), ClientAddresses(settings.forwarded_allow_ips))


def _finish_request(reporter: RequestReporter, response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    try:
        reporter.report(request, response)
    except Exception:
        # The request has had its effect: a failure of its record must not replace its response.
        log.exception("request not recorded", module="gateway")
    return response


def _with_headers(serve: Wsgi) -> Wsgi:
    """The same WSGI application; each response gets HEADERS, unless it has its own header of that name."""
    # Not in Flask, which searches all headers for each one that is set.
    defaults = [*HEADERS.items()]
    defaults_by_scheme = {"https": [*defaults, HSTS]}

    def respond(environ: Any, start_response: Any) -> Any:
        added = defaults_by_scheme.get(environ["wsgi.url_scheme"], defaults)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            names = {name for name, _ in headers}
            return start_response(status, headers + [pair for pair in added if pair[0] not in names], *more)

        return serve(environ, start)

    return respond
