"""JSON responses, and the entity tags of orders."""

from typing import Any

import msgspec
from flask import Response


def json_answer(body: dict[str, Any], status: int, **headers: str) -> Response:
    """A JSON response with these headers. Messages in the body are encoded with their names in JSON."""
    return Response(msgspec.json.encode(body), status, headers, content_type="application/json")


def etag(order_id: str, version: int) -> str:
    """The strong entity tag of an order's version."""
    return f'"{order_id}-{version}"'
