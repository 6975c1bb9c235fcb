"""Whether the process is alive, and whether it is ready to serve."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response

from app.gateway.apidocs.operation import Operation
from app.gateway.http.responses import json_response
from app.gateway.http.schemas import HealthSchema, ReadinessSchema
from app.observability.readiness import UnreadyResult

Unready = Callable[[], UnreadyResult | None]


def blueprint(unready: Unready, alive: Callable[[], bool]) -> Blueprint:
    """`/healthz`, which is 503 unless `alive()` and calls no other process, and `/readyz`, which is 503 with what `unready()` says."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    @Operation(
        "Whether the process and its background threads are alive",
        scope=None,
        responses={200: HealthSchema, 503: HealthSchema},
        any_query=True,
    )
    def healthz() -> Response:
        return _response(alive())

    @routes.get("/readyz")
    @Operation(
        "Whether the process is ready to serve",
        scope=None,
        responses={200: HealthSchema, 503: ReadinessSchema},
        any_query=True,
    )
    def readyz() -> Response:
        found = unready()
        return _response(not found, **(found._asdict() if found else {}))

    return routes


def _response(ok: bool, **members: Any) -> Response:
    return json_response({"ok": ok, **members}, 200 if ok else 503)
