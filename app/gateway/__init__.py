"""The gateway: HTTP in, HTTP out. Knows nothing of orders but what the bus tells it."""

import re
from collections.abc import Callable
from uuid import uuid4

from flask import Flask, Response, g, request

from app.bus import Asks
from app.config import Settings
from app.gateway import auth, body, errors, health, limits, metrics, openapi, problems, routes, states
from app.gateway.admission import Admission
from app.gateway.caller import ADMIN
from app.gateway.cursors import Cursors
from app.gateway.streams import Streams

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def install(
    app: Flask,
    bus: Asks,
    ready: Callable[[], bool],
    settings: Settings,
    take: limits.Take,
    cursor_key: Callable[[], bytes],
) -> None:
    """Give `app` its routes, errors and headers.

    `ready` tells whether requests can be served, `take` counts callers, `cursor_key` tells what cursors are sealed with.
    """
    streams = Streams(settings.streams_max, settings.streams_per_caller)
    app.config["IDENTITY"] = settings.identity
    app.config["MAX_CONTENT_LENGTH"] = body.LARGEST + 1
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    errors.install(app)
    for blueprint in (
        routes.blueprint(bus, Admission(bus), streams, Cursors(cursor_key)),
        states.blueprint(bus),
        problems.blueprint(),
        health.blueprint(ready),
        metrics.blueprint(bus, None if settings.metrics_public else ADMIN),
        openapi.blueprint(),
    ):
        app.register_blueprint(blueprint)
    app.before_request(_name_request)
    auth.install(app, settings, limits.failures(settings, take))
    limits.install(app, settings, take)
    app.after_request(_add_headers)


def _name_request() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if SANE_ID.match(given) else uuid4().hex


def _add_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.environ["wsgi.url_scheme"] == "https":
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response
