"""JSON responses, and the entity tags of orders."""

from typing import Any

import msgspec
from flask import Response

JSON = "application/json"
encode_json = msgspec.json.encode


def json_response(body: dict[str, Any], status: int = 200, /, content_type: str = JSON, **headers: str) -> Response:
    """A JSON response with these headers. Messages in the body are encoded with their JSON names."""
    return Response(encode_json(body), status, headers, content_type=content_type)


def etag(order_id: str, version: int) -> str:
    """The strong entity tag of an order's version."""
    return f'"{order_id}-{version}"'
