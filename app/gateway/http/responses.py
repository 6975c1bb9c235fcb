"""How orders look as JSON, and the tags that name their versions."""

from typing import Any

import orjson
from flask import Response

from app.contracts.orders import OrderView, TimelineEntry


def json_answer(body: dict[str, Any], status: int, **headers: str) -> Response:
    """A JSON answer; `headers` go with it."""
    return Response(orjson.dumps(body), status, headers, content_type="application/json")


def order_members(order: OrderView) -> dict[str, Any]:
    """An order as clients see it."""
    return {
        "id": order.order_id,
        "userId": order.user_id,
        "productId": order.product_id,
        "productName": order.product_name,
        "totalOrderAmount": order.total_text,
        "total": {"value": order.total_value, "currency": order.total_currency},
        "orderStatus": order.order_status,
        "paymentStatus": order.payment_status,
        "version": order.version,
        "createdAt": order.created_at,
        "updatedAt": order.updated_at,
    }


def entry_members(entry: TimelineEntry) -> dict[str, Any]:
    """A step of an order's timeline as clients see it."""
    return {
        "orderId": entry.order_id,
        "sequence": entry.sequence,
        "type": entry.type,
        "at": entry.at,
        "actor": entry.actor,
        "from": entry.came_from,
        "to": entry.to,
        "paymentStatus": entry.payment_status,
        "detail": entry.detail,
    }


def etag(order_id: str, version: int) -> str:
    """The strong entity tag of an order's version."""
    return f'"{order_id}-{version}"'
