"""How long an order took, and where: the provider's answers on record, and what the live feed still knows."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, g

from app.contracts.orders import CheckOrderStatus
from app.contracts.payments import Attempt, ListAttempts
from app.gateway.apidocs.operation import documented
from app.gateway.http import schemas
from app.gateway.http.responses import json_answer
from app.gateway.security.caller import caller
from app.messaging.bus import RequestClient

# The lines of an order's stages, oldest first; raises Unavailable.
StagesOf = Callable[[str], Sequence[dict[str, Any]]]


def add(routes: Blueprint, bus: RequestClient, stages_of: StagesOf) -> None:
    """Add the way to the routes under /orders."""

    @routes.get("/one/<order_id>/way")
    @documented(
        "Show how long an order's stages took",
        scope="orders:read",
        answers={200: schemas.WaySchema},
        problems=("order_not_found", "unavailable"),
    )
    def show_way(order_id: str) -> Response:
        asked = {"request_id": g.request_id, "order_id": order_id, "on_behalf_of": caller().owner}
        bus.request(CheckOrderStatus(**asked))  # Whoever may not see the order may not see its stages.
        attempts = bus.request(ListAttempts(**asked)).attempts
        return json_answer(
            {
                "ok": True,
                "attempts": [_attempt(attempt) for attempt in attempts],
                "stages": [stage_members(line) for line in _taken_up(stages_of(order_id))],
            },
            200,
        )


def _taken_up(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages of requests that some module behind the gateway took up: others may name an order that is not theirs."""
    behind = {line["request_id"] for line in lines if line["module"] != "gateway"}
    return [line for line in lines if line["request_id"] in behind]


def stage_members(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the live feed as clients see it."""
    members = {"stage": line["stage"], "module": line["module"], "at": _rfc3339(line["at"]), "tookMs": line["took_ms"]}
    return members | ({"event": line["event_type"]} if "event_type" in line else {})


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "at": attempt.at,
        "call": attempt.call,
        "answer": attempt.answer,
        "reason": attempt.reason,
        "tookMs": attempt.took_us / 1000,
    }


def _rfc3339(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC).isoformat(timespec='microseconds').removesuffix('+00:00')}Z"
