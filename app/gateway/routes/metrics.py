"""`GET /metrics` for Prometheus."""

from collections.abc import Iterable
from typing import Any

from flask import Blueprint, Response, g

from app.contracts.base import Request as BusRequest
from app.contracts.base import Unavailable
from app.contracts.orders import CheckOrderBacklog, CheckOrderQueue
from app.contracts.payments import CheckPaymentBacklog, CheckPaymentQueue
from app.contracts.webhooks import CheckWebhookBacklog, CheckWebhookQueue
from app.gateway.security.caller import requires_scope
from app.messaging.bus import RequestClient
from app.observability import prometheus
from app.observability.prometheus import ModuleGauges

MODULE_CHECKS = {
    "orders": (CheckOrderBacklog, CheckOrderQueue),
    "payments": (CheckPaymentBacklog, CheckPaymentQueue),
    "webhooks": (CheckWebhookBacklog, CheckWebhookQueue),
}


def blueprint(bus: RequestClient, scope: str | None, modules: Iterable[str]) -> Blueprint:
    """`/metrics`: the metrics of all workers, and gauges of `modules` as far as these answer."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    @requires_scope(scope)
    def show() -> Response:
        gauges = {module: _module_gauges(bus, *MODULE_CHECKS[module]) for module in modules}
        return Response(prometheus.exposition(gauges), content_type=prometheus.CONTENT_TYPE)

    return routes


def _module_gauges(
    bus: RequestClient, backlog_check: type[BusRequest[Any]], queue_check: type[BusRequest[Any]]
) -> ModuleGauges:
    backlog, queue = _reply_or_none(bus, backlog_check), _reply_or_none(bus, queue_check)
    return ModuleGauges(
        due=backlog and backlog.due,
        oldest_seconds=backlog.oldest_ms / 1000 if backlog else 0.0,
        retrying=queue and queue.retrying,
        parked=queue.parked if queue else 0,
        dead=queue.dead if queue else 0,
    )


def _reply_or_none(bus: RequestClient, message: type[BusRequest[Any]]) -> Any:
    try:
        return bus.request(message(request_id=g.request_id))
    except Unavailable:
        return None
