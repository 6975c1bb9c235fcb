"""The HTTP requests that changed an order: what each one changed, and the calls to the provider that it caused."""

from collections.abc import Iterable
from typing import Any

from flask import Blueprint, Response

from app.contracts.orders import AwaitTimeline, TimelineEntry
from app.contracts.payments import Attempt, ListAttempts
from app.gateway.apidocs.operation import Operation
from app.gateway.http import schemas
from app.gateway.http.problem_catalogue import READ_ONE
from app.gateway.http.responses import json_response
from app.gateway.security.caller import READ, request_origin
from app.messaging.bus import RequestClient


def add_routes(routes: Blueprint, bus: RequestClient) -> None:
    """Add the requests to the routes under /orders."""

    @routes.get("/one/<order_id>/requests")
    @Operation(
        "List the requests that changed an order",
        scope=READ,
        responses={200: schemas.RequestsSchema},
        problems=READ_ONE,
    )
    def list_requests(order_id: str) -> Response:
        # Raises NotFound if the caller may not see the order, and so may not see its attempts.
        timeline = bus.request(AwaitTimeline(order_id=order_id, after=0, wait_ms=0, **request_origin()))
        attempts = bus.request(ListAttempts(order_id=order_id, **request_origin())).attempts
        return json_response({"ok": True, "requests": by_request(timeline.entries, attempts)})


def by_request(entries: Iterable[TimelineEntry], attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    """Changes and attempts by the request that caused them, oldest first. Leaves out those whose request is not known."""
    found: dict[str, dict[str, Any]] = {}

    def request_of(one: TimelineEntry | Attempt) -> dict[str, Any]:
        empty = {"requestId": one.request_id, "at": one.at, "caller": "", "changes": [], "attempts": []}
        request = found.setdefault(one.request_id, empty)
        request["at"] = min(request["at"], one.at)
        return request

    for entry in entries:
        request = request_of(entry)
        request["caller"] = request["caller"] or entry.caller
        request["changes"].append({"sequence": entry.sequence, "type": entry.type})
    for attempt in attempts:
        request_of(attempt)["attempts"].append({"at": attempt.at, "call": attempt.call, "answer": attempt.answer})
    found.pop("", None)
    return sorted(found.values(), key=lambda request: request["at"])
