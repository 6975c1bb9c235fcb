"""`GET /metrics`, for Prometheus, and what it tells of requests."""

import time
from collections.abc import Iterable
from typing import Any

from flask import Blueprint, Request, Response, g

from app.contracts.base import Request as Question
from app.contracts.base import Unavailable
from app.contracts.orders import CheckOrderBacklog, CheckOrderQueue
from app.contracts.payments import CheckPaymentBacklog, CheckPaymentQueue
from app.gateway.security.caller import open_to
from app.messaging.bus import RequestClient
from app.observability import metrics, prometheus
from app.observability.prometheus import ModuleGauges

CHECKS = {
    "orders": (CheckOrderBacklog, CheckOrderQueue),
    "payments": (CheckPaymentBacklog, CheckPaymentQueue),
}
NO_ROUTE = "(none)"


def blueprint(bus: RequestClient, scope: str | None, modules: Iterable[str]) -> Blueprint:
    """The metrics of all workers; what is looked up of `modules` is left out where nobody can tell it."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    @open_to(scope)
    def show() -> Response:
        looked = {module: _looked(bus, *CHECKS[module]) for module in modules}
        return Response(prometheus.exposition(looked), content_type=prometheus.CONTENT_TYPE)

    return routes


def measure(request: Request, response: Response) -> None:
    """Count a request and its time, under its route's template."""
    started = g.get("started")
    if started is None:
        return
    rule = request.url_rule
    route = rule.rule if rule else NO_ROUTE
    # Who asks to wait would make all others look slow.
    route = f"{route} (waiting)" if "waits" in g else route
    metrics.observe_request(route, request.method, response.status_code, time.perf_counter() - started)


def _looked(bus: RequestClient, backlog: type[Question[Any]], queue: type[Question[Any]]) -> ModuleGauges:
    due, stuck = _asked(bus, backlog), _asked(bus, queue)
    return ModuleGauges(
        due=due and due.due,
        oldest_seconds=due.oldest_ms / 1000 if due else 0.0,
        retrying=stuck and stuck.retrying,
        parked=stuck.parked if stuck else 0,
        dead=stuck.dead if stuck else 0,
    )


def _asked(bus: RequestClient, question: type[Question[Any]]) -> Any:
    try:
        return bus.request(question(request_id=g.request_id))
    except Unavailable:
        return None
