"""`GET /metrics`, for Prometheus."""

from flask import Blueprint, Response, g

from app import metrics
from app.bus import Asks
from app.contracts import Backlog, CheckOrderBacklog, CheckPaymentBacklog, Request, Unavailable
from app.gateway.caller import open_to

CHECKS: dict[str, type[Request[Backlog]]] = {"orders": CheckOrderBacklog, "payments": CheckPaymentBacklog}


def blueprint(bus: Asks, scope: str | None) -> Blueprint:
    """The metrics of all workers; the backlogs are looked up, and left out where nobody can tell them."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    @open_to(scope)
    def show() -> Response:
        return Response(metrics.exposition(_backlogs(bus)), content_type=metrics.CONTENT_TYPE)

    return routes


def _backlogs(bus: Asks) -> dict[str, tuple[int, float]]:
    known = {}
    for module, check in CHECKS.items():
        try:
            backlog = bus.ask(check(request_id=g.request_id))
        except Unavailable:
            continue
        known[module] = (backlog.due, backlog.oldest_ms / 1000)
    return known
