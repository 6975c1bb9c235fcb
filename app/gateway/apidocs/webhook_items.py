"""The section `webhooks` of the OpenAPI document: what is sent to the endpoints of users, by type of event."""

from collections.abc import Callable
from typing import Any

from marshmallow import Schema

from app.contracts.webhooks import EVENT_TYPES, EXAMPLE_STATUSES, TEST_EVENT
from app.gateway.apidocs.examples import schema_example
from app.gateway.http.responses import JSON
from app.gateway.http.webhook_schemas import EVENT_ID, EndpointEventSchema, OrderEventSchema

HEADERS = {
    "webhook-id": ("Names the event: the same at every attempt.", "string", EVENT_ID),
    "webhook-timestamp": ("The time of the attempt, in seconds since 1970.", "integer", 1_795_360_983),
    "webhook-signature": (
        "A signature of id, timestamp and body with dots between them; two with a space between them while a secret is replaced.",
        "string",
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    ),
}
RESPONSES = {
    "2XX": {"description": "The delivery was taken."},
    "410": {"description": "The endpoint is disabled; its deliveries are held."},
    "default": {
        "description": "The delivery is attempted again, for about three days in all; redirects are not followed."
    },
}


def webhook_items(resolve: Callable[[type[Schema]], dict[str, Any]]) -> dict[str, Any]:
    """The path items by type of event; `resolve` returns the reference to a schema."""
    return {
        name: {"post": _operation(name, description, resolve(_schema(name)))}
        for name, description in EVENT_TYPES.items()
    }


def _operation(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    is_this_type = {"type": "object", "properties": {"type": {"const": name}}}
    return {
        "summary": description,
        "operationId": name,
        "tags": ["webhooks"],
        "security": [],
        "parameters": [_header(*header) for header in HEADERS.items()],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": {"allOf": [schema, is_this_type]}, "example": _example(name)}},
        },
        "responses": RESPONSES,
    }


def _header(name: str, described: tuple[str, str, Any]) -> dict[str, Any]:
    description, kind, example = described
    return {
        "in": "header",
        "name": name,
        "description": description,
        "required": True,
        "schema": {"type": kind},
        "example": example,
    }


def _schema(name: str) -> type[Schema]:
    return EndpointEventSchema if name == TEST_EVENT else OrderEventSchema


def _example(name: str) -> dict[str, Any]:
    event = {**schema_example(_schema(name)()), "type": name}
    if name in EXAMPLE_STATUSES:
        before, after, payment = EXAMPLE_STATUSES[name]
        event["data"]["order"] |= {"orderStatus": after, "paymentStatus": payment}
        event["data"]["previousStatus"] = before
    return event
