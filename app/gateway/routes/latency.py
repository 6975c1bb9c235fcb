"""How long the stages of an order took: the recorded calls to the provider, and the stages in the live feed."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response

from app.contracts.base import rfc3339
from app.contracts.orders import CheckOrderStatus
from app.contracts.payments import Attempt, ListAttempts
from app.gateway.apidocs.operation import Operation
from app.gateway.http import schemas
from app.gateway.http.problem_catalogue import READ_ONE
from app.gateway.http.responses import json_response
from app.gateway.security.caller import READ, request_origin
from app.messaging.bus import RequestClient

# The stage records of an order, oldest first; raises Unavailable.
StagesOfOrder = Callable[[str], Sequence[dict[str, Any]]]


def add_routes(routes: Blueprint, bus: RequestClient, stages_of_order: StagesOfOrder) -> None:
    """Add the latency to the routes under /orders."""

    @routes.get("/one/<order_id>/latency")
    @Operation(
        "Show how long an order's stages took",
        scope=READ,
        responses={200: schemas.LatencySchema},
        problems=READ_ONE,
    )
    def show_latency(order_id: str) -> Response:
        # Raises NotFound if the caller may not see the order, and so may not see its stages.
        bus.request(CheckOrderStatus(order_id=order_id, **request_origin()))
        attempts = bus.request(ListAttempts(order_id=order_id, **request_origin())).attempts
        return json_response(
            {
                "ok": True,
                "attempts": [_attempt_members(attempt) for attempt in attempts],
                "stages": [stage_members(record) for record in _of_accepted_requests(stages_of_order(order_id))],
            }
        )


def _of_accepted_requests(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of requests that a module behind the gateway accepted: a rejected request may name any order."""
    accepted = {record["request_id"] for record in records if record["module"] != "gateway"}
    return [record for record in records if record["request_id"] in accepted]


def stage_members(record: dict[str, Any]) -> dict[str, Any]:
    """A stage record of the live feed with the members that clients see."""
    members = {
        "stage": record["stage"],
        "module": record["module"],
        "at": rfc3339(datetime.fromtimestamp(record["at"], UTC), "microseconds"),
        "tookMs": record["took_ms"],
        "requestId": record["request_id"],
    }
    return members | ({"event": record["event_type"]} if "event_type" in record else {})


def _attempt_members(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "at": attempt.at,
        "call": attempt.call,
        "answer": attempt.answer,
        "reason": attempt.reason,
        "tookMs": attempt.took_us / 1000,
    }
