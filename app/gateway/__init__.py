"""The gateway: the HTTP interface. It has no data of orders and payments but what it requests over the bus."""

import re
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from flask import Flask, Response, g, request

from app.config import Settings
from app.gateway import console
from app.gateway.apidocs import openapi, problem_pages
from app.gateway.console import StageFeed
from app.gateway.http import body, canonical_paths, problems, request_tracing
from app.gateway.http.cursors import CursorCodec
from app.gateway.http.return_urls import ReturnUrlPolicy
from app.gateway.routes import health, metrics, orders, provider_notifications, simulated_provider, states
from app.gateway.security import allowed_hosts, authentication, rate_limits
from app.gateway.security.admission import Admission
from app.gateway.security.caller import ADMIN
from app.gateway.security.client_addresses import ClientAddresses
from app.gateway.security.stream_limits import StreamLimits
from app.messaging.bus import RequestClient
from app.observability import tracing
from app.observability.logging import log

Wsgi = Callable[[Any, Any], Any]

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
HSTS = ("Strict-Transport-Security", "max-age=31536000")


def install(
    app: Flask,
    bus: RequestClient,
    ready: Callable[[], bool],
    settings: Settings,
    increment: rate_limits.Increment,
    cursor_key: Callable[[], bytes],
    live: StageFeed | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Give `app` its routes, error handlers and headers.

    `ready` is whether requests can be served, `alive` whether the process works at all. `increment` counts requests for the rate
    limits, `cursor_key` returns the key that signs cursors. Without a `live` feed there is no console.
    """
    _prepare(app, settings)
    if tracing.tracer:
        bus = request_tracing.TracedBus(bus, tracing.tracer)
    limits = StreamLimits(
        settings.streams_max, settings.streams_per_caller, ClientAddresses(settings.forwarded_allow_ips)
    )
    return_urls = ReturnUrlPolicy(settings.return_origins)
    stages_of_order = live.stages_of_order if live else lambda _: []
    for blueprint in (
        orders.blueprint(bus, Admission(bus), limits, CursorCodec(cursor_key), return_urls, stages_of_order),
        states.blueprint(bus),
        provider_notifications.blueprint(bus),
        problem_pages.blueprint(),
        health.blueprint(ready, alive),
        metrics.blueprint(bus, None if settings.metrics_public else ADMIN, metrics.MODULE_CHECKS),
        openapi.blueprint(),
        *([console.blueprint(bus, limits, live)] if live else []),
        *([simulated_provider.blueprint(bus)] if settings.demonstrations else []),
    ):
        app.register_blueprint(blueprint)
    if tracing.tracer:
        request_tracing.install(app, tracing.tracer)
    allowed_hosts.install(app, settings)
    canonical_paths.install(app)
    authentication.install(app, settings, rate_limits.authentication_failure_limit(settings, increment))
    rate_limits.install(app, settings, increment)
    app.after_request(_finish_request)


def install_probes(
    app: Flask,
    bus: RequestClient,
    ready: Callable[[], bool],
    settings: Settings,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Give `app`, which runs other modules and serves no clients, health and metrics."""
    _prepare(app, settings)
    app.register_blueprint(health.blueprint(ready, alive))
    modules = [module for module in metrics.MODULE_CHECKS if settings.runs(module)]
    app.register_blueprint(metrics.blueprint(bus, None, modules))
    app.after_request(_finish_request)


def _prepare(app: Flask, settings: Settings) -> None:
    app.config["IDENTITY"] = settings.identity
    app.config["MAX_CONTENT_LENGTH"] = body.MAX_BYTES + 1
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    problems.install(app)
    app.before_request(_start_request)
    app.wsgi_app = _with_headers(app.wsgi_app)  # type: ignore[assignment]


def _start_request() -> None:
    client_id = request.environ.get("HTTP_X_REQUEST_ID", "")
    g.started = time.perf_counter()
    g.request_id = client_id if REQUEST_ID.match(client_id) else token_hex(16)


def _finish_request(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    try:
        metrics.observe_request(request, response)
    except Exception:
        # The request has had its effect: a failure of the metrics must not replace its response.
        log.exception("request not measured", module="gateway")
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
