"""Webhooks: what was delivered to an endpoint, and what is sent again."""

from typing import Any

from flask import Blueprint, Response, request

from app.contracts.base import milliseconds
from app.contracts.webhooks import DeliveryStatus, FindDelivery, ListDeliveries, ReplayDeliveries, RetryDelivery
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http import webhook_schemas as schemas
from app.gateway.http.body import json_object
from app.gateway.http.cursors import CursorCodec
from app.gateway.http.pages import CURSOR, LIMIT, page_limit, page_position
from app.gateway.http.problem_catalogue import READ_DELIVERY, READ_ENDPOINT
from app.gateway.http.query import InvalidParameter, query_parameter, text_parameter, time_parameter
from app.gateway.http.responses import json_response
from app.gateway.security.caller import WEBHOOKS, request_origin
from app.messaging.bus import RequestClient

STATUSES = [status.value for status in DeliveryStatus]
STATUS = Parameter(
    name="status",
    where="query",
    description="Only deliveries with this status.",
    schema={"type": "string", "enum": STATUSES},
    example="failed",
)
ORDER = Parameter(
    name="orderId",
    where="query",
    description="Only deliveries about this order.",
    schema={"type": "string", "minLength": 1, "maxLength": 24},
    example="6920c1b05be0d3a1f2c4e687",
)
SINCE = Parameter(
    name="since",
    where="query",
    description="Only deliveries that were recorded at this time or later, RFC 3339.",
    schema={"type": "string", "format": "date-time"},
    example="2026-11-22T15:00:00Z",
)
UNTIL = Parameter(
    name="until",
    where="query",
    description="Only deliveries that were recorded before this time, RFC 3339.",
    schema={"type": "string", "format": "date-time"},
    example="2026-11-22T16:00:00Z",
)
FILTERS = (STATUS, ORDER, SINCE, UNTIL)
REPLAY = schemas.ReplayRangeSchema()


def add_routes(routes: Blueprint, bus: RequestClient, cursors: CursorCodec) -> None:
    """Add the deliveries to the routes of webhooks."""

    @routes.get("/webhooks/endpoints/<endpoint_id>/deliveries")
    @Operation(
        "List an endpoint's deliveries, newest first",
        scope=WEBHOOKS,
        responses={200: schemas.DeliveryListSchema},
        parameters=(LIMIT, *FILTERS, CURSOR),
        problems=(*READ_ENDPOINT, "invalid_parameter", "invalid_cursor"),
    )
    def list_deliveries(endpoint_id: str) -> Response:
        # What makes a cursor one of this list with these filters.
        this_list = repr(["deliveries", endpoint_id, *(query_parameter(one.name) for one in FILTERS)])
        before_at, before_id = page_position(cursors, "", this_list)
        found = bus.request(
            ListDeliveries(
                endpoint_id=endpoint_id,
                limit=page_limit(),
                status=_status(),
                order_id=text_parameter("orderId", 24),
                since=time_parameter("since"),
                until=time_parameter("until"),
                before_at=before_at,
                before_id=before_id,
                **request_origin(),
            )
        )
        body: dict[str, Any] = {"ok": True, "deliveries": found.deliveries, "hasMore": bool(found.last_id)}
        if found.last_id:
            body["nextCursor"] = cursors.encode("", this_list, found.deliveries[-1].created_at, found.last_id)
        return json_response(body)

    @routes.get("/webhooks/deliveries/<delivery_id>")
    @Operation(
        "Show a delivery with its attempts and its body",
        scope=WEBHOOKS,
        responses={200: schemas.DeliveryFoundSchema},
        problems=READ_DELIVERY,
    )
    def find_delivery(delivery_id: str) -> Response:
        found = bus.request(FindDelivery(delivery_id=delivery_id, **request_origin()))
        return json_response({"ok": True, "delivery": found})

    @routes.post("/webhooks/deliveries/<delivery_id>/retry")
    @Operation(
        "Send a delivery again at once",
        description="Whatever became of it, unless an attempt is being made.",
        scope=WEBHOOKS,
        responses={202: schemas.DeliveryFoundSchema},
        problems=READ_DELIVERY,
    )
    def retry_delivery(delivery_id: str) -> Response:
        due = bus.request(RetryDelivery(delivery_id=delivery_id, **request_origin()))
        return json_response({"ok": True, "delivery": due}, 202)

    @routes.post("/webhooks/endpoints/<endpoint_id>/replay")
    @Operation(
        "Send again what an endpoint has not taken of a time",
        scope=WEBHOOKS,
        body=schemas.ReplayRangeSchema,
        responses={202: schemas.ReplayAcceptedSchema},
        problems=READ_ENDPOINT,
    )
    def replay_deliveries(endpoint_id: str) -> Response:
        times = REPLAY.load(json_object(request))
        since, until = milliseconds(times["since"]), milliseconds(times["until"])
        scheduled = bus.request(ReplayDeliveries(endpoint_id=endpoint_id, since=since, until=until, **request_origin()))
        return json_response({"ok": True, "count": scheduled.count}, 202)


def _status() -> str:
    value = text_parameter("status", 16)
    if value and value not in STATUSES:
        raise InvalidParameter(f"status is one of {', '.join(STATUSES)}", parameter="status")
    return value
