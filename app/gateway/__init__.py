"""The gateway: HTTP in, HTTP out. Knows nothing of orders but what the bus tells it."""

import re
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from flask import Flask, Response, g, request

from app.config import Settings
from app.gateway import console
from app.gateway.apidocs import openapi, problem_pages
from app.gateway.console import Live
from app.gateway.http import body, problems, request_tracing
from app.gateway.http.cursors import Cursors
from app.gateway.routes import health, metrics, orders, states
from app.gateway.security import allowed_hosts, authentication, client_addresses, rate_limits
from app.gateway.security.admission import Admission
from app.gateway.security.caller import ADMIN
from app.gateway.security.connection_limits import Streams
from app.messaging.bus import RequestClient
from app.observability import tracing
from app.observability.logging import log

Wsgi = Callable[[Any, Any], Any]

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
TLS_ONLY = ("Strict-Transport-Security", "max-age=31536000")


def install(
    app: Flask,
    bus: RequestClient,
    ready: Callable[[], bool],
    settings: Settings,
    take: rate_limits.Take,
    cursor_key: Callable[[], bytes],
    live: Live | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Give `app` its routes, errors and headers.

    `ready` tells whether requests can be served, `alive` whether the process works at all, `take` counts callers,
    `cursor_key` tells what cursors are sealed with.
    Without a `live` feed there is no console.
    """
    _prepare(app, settings)
    if tracing.tracer:
        bus = request_tracing.TracedBus(bus, tracing.tracer)
    callers = rate_limits.Addresses(settings.forwarded_allow_ips)
    streams = Streams(settings.streams_max, settings.streams_per_caller, callers)
    for blueprint in (
        orders.blueprint(
            bus, Admission(bus), streams, Cursors(cursor_key), live.stages_of_order if live else lambda _: []
        ),
        states.blueprint(bus),
        problem_pages.blueprint(),
        health.blueprint(ready, alive),
        metrics.blueprint(bus, None if settings.metrics_public else ADMIN, metrics.CHECKS),
        openapi.blueprint(),
        *([console.blueprint(bus, streams, live)] if live else []),
    ):
        app.register_blueprint(blueprint)
    if tracing.tracer:
        request_tracing.install(app, tracing.tracer)
    allowed_hosts.install(app, settings)
    client_addresses.install(app)
    authentication.install(app, settings, rate_limits.failures(settings, take))
    rate_limits.install(app, settings, take)
    app.after_request(_tell_request)


def install_probes(
    app: Flask,
    bus: RequestClient,
    ready: Callable[[], bool],
    settings: Settings,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Give `app`, which serves no clients, what operators ask of a process that runs other modules: health and metrics."""
    _prepare(app, settings)
    app.register_blueprint(health.blueprint(ready, alive))
    app.register_blueprint(metrics.blueprint(bus, None, [module for module in metrics.CHECKS if settings.runs(module)]))
    app.after_request(_tell_request)


def _prepare(app: Flask, settings: Settings) -> None:
    app.config["IDENTITY"] = settings.identity
    app.config["MAX_CONTENT_LENGTH"] = body.LARGEST + 1
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    problems.install(app)
    app.before_request(_name_request)
    app.wsgi_app = _with_headers(app.wsgi_app)  # type: ignore[assignment]


def _name_request() -> None:
    given = request.environ.get("HTTP_X_REQUEST_ID", "")
    g.started = time.perf_counter()
    g.request_id = given if SANE_ID.match(given) else token_hex(16)


def _tell_request(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    try:
        metrics.measure(request, response)
    except Exception:
        # What was done for the client is done: no answer is lost for a figure.
        log.exception("request not measured", module="gateway")
    return response


def _with_headers(serve: Wsgi) -> Wsgi:
    """The same application, each of whose answers has HEADERS, unless it has its own of that name."""
    # Here and not in Flask, whose headers are searched from end to end for each one that is set.
    usual = [*HEADERS.items()]
    by_scheme = {"https": [*usual, TLS_ONLY]}

    def answer(environ: Any, start_response: Any) -> Any:
        always = by_scheme.get(environ["wsgi.url_scheme"], usual)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            own = {name for name, _ in headers}
            return start_response(status, headers + [pair for pair in always if pair[0] not in own], *more)

        return serve(environ, start)

    return answer
