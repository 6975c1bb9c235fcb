"""Webhooks: a user's endpoints."""

import json
import secrets
from hashlib import sha256
from typing import Any

import msgspec
from flask import Blueprint, Response, g, request

from app.contracts.webhooks import (
    ChangeEndpoint,
    CreateEndpoint,
    DeleteEndpoint,
    EndpointView,
    FindEndpoint,
    ListEndpoints,
    ListEventTypes,
    RotateSecret,
    SendTestEvent,
)
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http import webhook_schemas as schemas
from app.gateway.http.body import json_object
from app.gateway.http.cursors import CursorCodec
from app.gateway.http.idempotency import IDEMPOTENCY_KEY, idempotency_key
from app.gateway.http.pages import CURSOR, LIMIT, page_limit, page_position
from app.gateway.http.problem_catalogue import CHANGE_ENDPOINT, PUBLIC, READ_ENDPOINT, WITH_IDEMPOTENCY_KEY
from app.gateway.http.query import MAX_USER_LENGTH, text_parameter
from app.gateway.http.responses import json_response
from app.gateway.routes import webhook_deliveries
from app.gateway.security.caller import WEBHOOKS, WrongUser, caller, request_origin
from app.messaging.bus import RequestClient

NEW_ENDPOINT = schemas.NewEndpointSchema()
ENDPOINT_CHANGE = schemas.EndpointChangeSchema()
ROTATION = schemas.RotationSchema()
SECONDS_PER_HOUR = 3600
TOLD_OF = Parameter(
    name="userId",
    where="query",
    description="Only endpoints that are told this user's orders: the user's own and, for an administrator, those of all users.",
    schema={"type": "string", "minLength": 1, "maxLength": MAX_USER_LENGTH},
    example="user-7",
)


def blueprint(bus: RequestClient, cursors: CursorCodec) -> Blueprint:
    """The routes under /webhooks, and /event-types."""
    routes = Blueprint("webhooks", __name__)
    _add_event_types(routes, bus)
    _add_endpoints(routes, bus, cursors)
    _add_commands(routes, bus)
    webhook_deliveries.add_routes(routes, bus, cursors)
    return routes


def _add_event_types(routes: Blueprint, bus: RequestClient) -> None:
    @routes.get("/event-types")
    @Operation(
        "List the types of events that webhooks tell",
        scope=None,
        responses={200: schemas.EventTypeListSchema},
        problems=(*PUBLIC, "unavailable"),
    )
    def list_event_types() -> Response:
        return json_response({"ok": True, "eventTypes": bus.request(ListEventTypes(request_id=g.request_id)).types})


def _add_endpoints(routes: Blueprint, bus: RequestClient, cursors: CursorCodec) -> None:
    @routes.post("/webhooks/endpoints")
    @Operation(
        "Add an endpoint for webhooks",
        description="It is told what becomes of its user's orders from about three seconds on. The response has its secret, which "
        "is shown only once, and to the same request with the same Idempotency-Key for a day.",
        scope=WEBHOOKS,
        body=schemas.NewEndpointSchema,
        responses={201: schemas.EndpointFoundSchema},
        parameters=(IDEMPOTENCY_KEY,),
        headers=("Location", "Idempotent-Replayed"),
        problems=(
            *WITH_IDEMPOTENCY_KEY,
            "endpoint_not_found",
            "invalid_endpoint",
            "too_many_endpoints",
            "wrong_user",
            "unavailable",
        ),
    )
    def create_endpoint() -> Response:
        key = idempotency_key(request)
        members = NEW_ENDPOINT.load(json_object(request))
        user_id = _owner(members.pop("user_id", ""))
        made = bus.request(
            CreateEndpoint(
                request_id=g.request_id,
                endpoint_id=_endpoint_id(user_id, key),
                user_id=user_id,
                fingerprint=_digest(members) if key else "",
                **members,
            )
        )
        headers = {"Idempotent-Replayed": "true"} if made.replayed and key else {}
        shown = msgspec.structs.replace(made, replayed=False)
        return _endpoint(shown, 201, Location=f"/webhooks/endpoints/{made.id}", **headers)

    @routes.get("/webhooks/endpoints")
    @Operation(
        "List the endpoints, oldest first",
        description="A user's own; an administrator's token lists all.",
        scope=WEBHOOKS,
        responses={200: schemas.EndpointListSchema},
        parameters=(TOLD_OF, LIMIT, CURSOR),
        problems=("invalid_parameter", "invalid_cursor", "unavailable"),
    )
    def list_endpoints() -> Response:
        told_of = text_parameter(TOLD_OF.name, MAX_USER_LENGTH)
        # What makes a cursor one of this list with this filter.
        this_list = repr(["endpoints", told_of])
        after_at, after_id = page_position(cursors, caller().on_behalf_of, this_list)
        found = bus.request(
            ListEndpoints(limit=page_limit(), told_of=told_of, after_at=after_at, after_id=after_id, **request_origin())
        )
        body: dict[str, Any] = {"ok": True, "endpoints": found.endpoints, "hasMore": bool(found.last_id)}
        if found.last_id:
            last = found.endpoints[-1]
            body["nextCursor"] = cursors.encode(caller().on_behalf_of, this_list, last.created_at, last.id)
        return json_response(body)

    @routes.get("/webhooks/endpoints/<endpoint_id>")
    @Operation("Show an endpoint", scope=WEBHOOKS, responses={200: schemas.EndpointFoundSchema}, problems=READ_ENDPOINT)
    def find_endpoint(endpoint_id: str) -> Response:
        return _endpoint(bus.request(FindEndpoint(endpoint_id=endpoint_id, **request_origin())))

    @routes.patch("/webhooks/endpoints/<endpoint_id>")
    @Operation(
        "Change an endpoint",
        description="Members that are absent stay as they are. While it is disabled its deliveries are held; enabling it sends them.",
        scope=WEBHOOKS,
        body=schemas.EndpointChangeSchema,
        responses={200: schemas.EndpointFoundSchema},
        problems=(*CHANGE_ENDPOINT, "invalid_endpoint"),
    )
    def change_endpoint(endpoint_id: str) -> Response:
        members = ENDPOINT_CHANGE.load(json_object(request))
        change = ChangeEndpoint(endpoint_id=endpoint_id, members=tuple(members), **members, **request_origin())
        return _endpoint(bus.request(change))

    @routes.delete("/webhooks/endpoints/<endpoint_id>")
    @Operation(
        "Delete an endpoint",
        description="What was not delivered to it is deleted as well.",
        scope=WEBHOOKS,
        responses={200: schemas.EndpointFoundSchema},
        problems=READ_ENDPOINT,
    )
    def delete_endpoint(endpoint_id: str) -> Response:
        return _endpoint(bus.request(DeleteEndpoint(endpoint_id=endpoint_id, **request_origin())))


def _add_commands(routes: Blueprint, bus: RequestClient) -> None:
    @routes.post("/webhooks/endpoints/<endpoint_id>/rotate-secret")
    @Operation(
        "Give an endpoint a new secret",
        description="The former one signs as well for `overlapHours`, so that the receiver can change over. The response has the "
        "new one.",
        scope=WEBHOOKS,
        body=schemas.RotationSchema,
        responses={200: schemas.EndpointFoundSchema},
        problems=CHANGE_ENDPOINT,
    )
    def rotate_secret(endpoint_id: str) -> Response:
        seconds = ROTATION.load(json_object(request))["overlap_hours"] * SECONDS_PER_HOUR
        return _endpoint(
            bus.request(RotateSecret(endpoint_id=endpoint_id, overlap_seconds=seconds, **request_origin()))
        )

    @routes.post("/webhooks/endpoints/<endpoint_id>/test")
    @Operation(
        "Send a test event to an endpoint",
        description="Of type `endpoint.test`, whatever events the endpoint wants.",
        scope=WEBHOOKS,
        responses={202: schemas.DeliveryFoundSchema},
        headers=("Location",),
        problems=READ_ENDPOINT,
    )
    def send_test_event(endpoint_id: str) -> Response:
        event_id = secrets.token_hex(16)
        sent = bus.request(SendTestEvent(endpoint_id=endpoint_id, event_id=event_id, **request_origin()))
        return json_response({"ok": True, "delivery": sent}, 202, Location=f"/webhooks/deliveries/{sent.id}")


def _endpoint(endpoint: EndpointView, status: int = 200, **headers: str) -> Response:
    return json_response({"ok": True, "endpoint": endpoint}, status, **headers)


def _owner(user_id: str) -> str:
    """Whose orders a new endpoint is told: the caller's, or for an administrator those of the user that is named, or all."""
    if user_id and not caller().may_act_for(user_id):
        raise WrongUser("this token adds endpoints for its own user only")
    return user_id or caller().on_behalf_of


def _endpoint_id(user_id: str, key: str) -> str:
    """The id of an endpoint that is added with this key by this caller; a new one where the key is empty."""
    return f"we_{_digest([caller().user_id, user_id, key])[:24] if key else secrets.token_hex(12)}"


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
