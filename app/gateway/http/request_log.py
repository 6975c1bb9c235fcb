"""What the log says of an HTTP request: who sent it, to which route, and how it was answered. Never its path, query or body."""

import re
import time
from typing import Any

from flask import Request, Response, g

from app.gateway.security.caller import caller
from app.gateway.security.client_addresses import ClientAddresses
from app.observability import metrics
from app.observability.request_log import RequestLogger

NO_ROUTE = "(none)"
ORDER_ID = re.compile(r"[0-9a-f]{24}")
# Answered every few seconds; what changes of them is on the log's lines `ready` and `not ready`.
PROBES = frozenset({"health.healthz", "health.readyz"})


class RequestReporter:
    """Measures every request, and logs those that `logger` wants."""

    def __init__(self, logger: RequestLogger, addresses: ClientAddresses) -> None:
        self._logger = logger
        self._addresses = addresses

    def report(self, request: Request, response: Response) -> None:
        """Record a request that was answered, under its route's template."""
        started = g.get("started")
        if started is None:
            return
        seconds, status, rule = time.perf_counter() - started, response.status_code, request.url_rule
        route = rule.rule if rule else NO_ROUTE
        # A label of their own keeps long polls out of the durations of other requests.
        label = f"{route} (waiting)" if "long_poll" in g else route
        metrics.observe_request(label, request.method, status, seconds)
        if self._logger.wants(status) and request.endpoint not in PROBES:
            self._logger.write(self._record(request, route, status, seconds))

    def _record(self, request: Request, route: str, status: int, seconds: float) -> dict[str, Any]:
        record = {
            "request_id": g.request_id,
            "caller": caller().user_id or self._addresses.address_of(request),
            # Clients choose the method freely.
            "method": request.method if request.method in metrics.METHODS else "other",
            "route": route,
            "status": status,
            "took_ms": round(seconds * 1000, 2),
        }
        code = g.get("problem_code")
        if code:
            record["code"] = code
        order_id = g.get("order_id") or (request.view_args or {}).get("order_id", "")
        if ORDER_ID.fullmatch(order_id):
            record["order_id"] = order_id
        return record
