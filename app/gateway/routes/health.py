"""Whether the process is alive, and whether it is ready to serve."""

from collections.abc import Callable

from flask import Blueprint, Response

from app.gateway.apidocs.operation import Operation
from app.gateway.http.responses import json_response
from app.gateway.http.schemas import HealthSchema

RESPONSES = {200: HealthSchema, 503: HealthSchema}


def blueprint(ready: Callable[[], bool], alive: Callable[[], bool]) -> Blueprint:
    """`/healthz`, which is 503 unless `alive()` and calls no other process, and `/readyz`, which is 503 unless `ready()`."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    @Operation("Whether the process and its background threads are alive", scope=None, responses=RESPONSES)
    def healthz() -> Response:
        return _response(alive())

    @routes.get("/readyz")
    @Operation("Whether the process is ready to serve", scope=None, responses=RESPONSES)
    def readyz() -> Response:
        return _response(ready())

    return routes


def _response(ok: bool) -> Response:
    return json_response({"ok": ok}, 200 if ok else 503)
