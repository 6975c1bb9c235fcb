"""Whether the process lives, and whether it can serve."""

from collections.abc import Callable

import orjson
from flask import Blueprint, Response

from app.gateway.apidocs.operation import documented
from app.gateway.http import schemas


def blueprint(ready: Callable[[], bool], alive: Callable[[], bool]) -> Blueprint:
    """`/healthz`, which answers 503 unless `alive()` and asks no other process; `/readyz`, likewise for `ready()`."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    @documented(
        "Whether the process and its background work live",
        scope=None,
        answers={200: schemas.HealthSchema, 503: schemas.HealthSchema},
    )
    def healthz() -> Response:
        return _answer(alive())

    @routes.get("/readyz")
    @documented(
        "Whether the process can serve", scope=None, answers={200: schemas.HealthSchema, 503: schemas.HealthSchema}
    )
    def readyz() -> Response:
        return _answer(ready())

    return routes


def _answer(ok: bool) -> Response:
    return Response(orjson.dumps({"ok": ok}), 200 if ok else 503, content_type="application/json")
