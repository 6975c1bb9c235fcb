"""The HTTP of orders. Decides nothing: checks what came, asks the bus, shapes the answer."""

import secrets
import time
from hashlib import sha256
from typing import Any

import orjson
from flask import Blueprint, Response, g, request

from app import story
from app.bus import Asks
from app.contracts import CheckOrderStatus, CreateOrder, FindOrder, ListOrders, OrderView, RefundOrder, UpdateOrder
from app.gateway import schemas
from app.gateway.admission import Admission
from app.gateway.body import json_object
from app.gateway.idempotency import idempotency_key
from app.gateway.money import show
from app.gateway.openapi import documented
from app.story import Step

NEW_ORDER = schemas.NewOrderSchema()
ORDER_UPDATE = schemas.OrderUpdateSchema()
REFUND = schemas.RefundRequestSchema()
USER = schemas.UserSchema()
PAGE = 100
IDEMPOTENCY = {"Idempotency-Key": "Makes repeating safe: the same key and body have one effect. Kept for 24 hours."}


def blueprint(bus: Asks, admission: Admission) -> Blueprint:
    """The routes under /orders, asking `bus`."""
    routes = Blueprint("orders", __name__, url_prefix="/orders")

    @routes.post("")
    @documented(
        "Place an order",
        body=schemas.NewOrderSchema,
        answers={201: schemas.OrderCreatedSchema},
        problems=(
            "malformed_body",
            "malformed_idempotency_key",
            "conflict",
            "body_too_large",
            "unsupported_media_type",
            "invalid_members",
            "idempotency_key_reused",
            "overloaded",
            "unavailable",
        ),
        headers=IDEMPOTENCY,
    )
    def place_order() -> Response:
        started = time.perf_counter()
        key = idempotency_key(request.headers)
        sent = json_object(request)
        given = NEW_ORDER.load(sent)
        admission.check()
        order_id = _new_id()
        story.tell(
            Step.GATEWAY_RECEIVED,
            module="gateway",
            order_id=order_id,
            request_id=g.request_id,
            took_ms=(time.perf_counter() - started) * 1000,
        )
        total = given["total"]
        written = sent["totalOrderAmount"]
        accepted = bus.ask(
            CreateOrder(
                request_id=g.request_id,
                order_id=order_id,
                user_id=given["user_id"],
                product_id=given["product_id"],
                product_name=given["product_name"],
                total_text=written if isinstance(written, str) else show(total),
                total_value=total.value,
                total_currency=total.currency,
                idempotency_key=key,
            )
        )
        return _json(
            {
                "ok": True,
                "created": {"id": accepted.order_id},
                "payment": "Create order success, payment processing",
            },
            201,
            Location=f"/orders/one/{accepted.order_id}",
            ETag=_etag(accepted.order_id, accepted.version),
            **_replayed(accepted.replayed),
        )

    @routes.put("")
    @documented(
        "Take an order one step on",
        body=schemas.OrderUpdateSchema,
        answers={200: schemas.OrderUpdatedSchema},
        problems=(
            "malformed_body",
            "order_not_found",
            "illegal_step",
            "timeline_full",
            "conflict",
            "body_too_large",
            "unsupported_media_type",
            "invalid_members",
            "unavailable",
        ),
    )
    def update_order() -> Response:
        given = ORDER_UPDATE.load(json_object(request))
        updated = bus.ask(UpdateOrder(request_id=g.request_id, **given))
        return _json(
            {"ok": True, "message": "Update order success"},
            200,
            ETag=_etag(updated.order_id, updated.version),
        )

    @routes.get("/one/<order_id>")
    @documented(
        "Show an order",
        answers={200: schemas.OrderAnswerSchema},
        problems=("order_not_found", "unavailable"),
    )
    def find_order(order_id: str) -> Response:
        order = bus.ask(FindOrder(request_id=g.request_id, order_id=order_id))
        return _json({"ok": True, "order": _order(order)}, 200, ETag=_etag(order.order_id, order.version))

    @routes.post("/one/<order_id>/refunds")
    @documented(
        "Give an order's money back, in part or whole",
        body=schemas.RefundRequestSchema,
        answers={201: schemas.RefundAnswerSchema},
        problems=(
            "malformed_body",
            "malformed_idempotency_key",
            "order_not_found",
            "illegal_step",
            "refund_exceeds_balance",
            "timeline_full",
            "conflict",
            "body_too_large",
            "unsupported_media_type",
            "invalid_members",
            "wrong_currency",
            "idempotency_key_reused",
            "unavailable",
        ),
        headers=IDEMPOTENCY,
    )
    def refund_order(order_id: str) -> Response:
        key = idempotency_key(request.headers)
        amount = REFUND.load(json_object(request)).get("amount")
        refund = bus.ask(
            RefundOrder(
                request_id=g.request_id,
                order_id=order_id,
                refund_id=_refund_id(order_id, key),
                refund_value=amount.value if amount else 0,
                currency=amount.currency if amount else "",
            )
        )
        return _json(
            {
                "ok": True,
                "refund": {
                    "id": refund.refund_id,
                    "amount": {"value": refund.refund_value, "currency": refund.currency},
                },
            },
            201,
            Location=f"/orders/one/{order_id}",
            ETag=_etag(order_id, refund.version),
            **_replayed(refund.replayed),
        )

    @routes.get("/status/<order_id>")
    @documented(
        "Show an order's status",
        answers={200: schemas.OrderStatusSchema},
        problems=("order_not_found", "unavailable"),
    )
    def check_order_status(order_id: str) -> Response:
        status = bus.ask(CheckOrderStatus(request_id=g.request_id, order_id=order_id))
        return _json({"ok": True, "orderStatus": status.order_status}, 200, ETag=_etag(status.order_id, status.version))

    @routes.get("/<user_id>")
    @documented(
        "List a user's orders, newest first",
        answers={200: schemas.OrderListSchema},
        problems=("invalid_members", "unavailable"),
    )
    def list_orders(user_id: str) -> Response:
        USER.load({"userId": user_id})
        found = bus.ask(ListOrders(request_id=g.request_id, user_id=user_id, limit=PAGE))
        return _json({"ok": True, "orders": [_order(order) for order in found.orders]}, 200)

    return routes


def _json(body: dict[str, Any], status: int, **headers: str) -> Response:
    return Response(orjson.dumps(body), status, headers, content_type="application/json")


def _order(order: OrderView) -> dict[str, Any]:
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


def _etag(order_id: str, version: int) -> str:
    return f'"{order_id}-{version}"'


def _replayed(replayed: bool) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if replayed else {}


def _refund_id(order_id: str, key: str) -> str:
    return sha256(f"{order_id}:{key}".encode()).hexdigest()[:24] if key else secrets.token_hex(12)


def _new_id() -> str:
    # As MongoDB makes its own: four bytes of time, then enough chance that no two ever meet.
    return f"{int(time.time()):08x}{secrets.token_hex(8)}"
