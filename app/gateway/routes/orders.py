"""The HTTP of orders. Decides nothing: checks what came, asks the bus, shapes the answer."""

import re
import secrets
import time
from hashlib import sha256

from flask import Blueprint, Response, g, request

from app.contracts.orders import CheckOrderStatus, CreateOrder, FindOrder, RefundOrder, UpdateOrder
from app.gateway.apidocs.operation import documented
from app.gateway.http import schemas
from app.gateway.http.body import json_object
from app.gateway.http.cursors import Cursors
from app.gateway.http.etags import IF_MATCH, IF_NONE_MATCH, expected_versions, unless_known
from app.gateway.http.idempotency import IDEMPOTENCY_KEY, idempotency_key
from app.gateway.http.long_poll import PREFER, WAIT_PARAMETER, Waiting, preferred_wait, wanted_wait
from app.gateway.http.money import show
from app.gateway.http.responses import etag, json_answer
from app.gateway.routes import explain, latency, lists, timeline
from app.gateway.security.admission import Admission
from app.gateway.security.authentication import check_scope
from app.gateway.security.caller import FULFIL, REFUND, caller, check_acts_for
from app.gateway.security.connection_limits import Streams
from app.messaging.bus import RequestClient
from app.observability.stages import Stage, record_stage

# What the contract calls the status that takes no fulfilment.
CANCELLED = "Cancelled"
NEW_ORDER = schemas.NewOrderSchema()
ORDER_UPDATE = schemas.OrderUpdateSchema()
REFUND_REQUEST = schemas.RefundRequestSchema()
ORDER_ID = re.compile(r"[0-9a-f]{24}")
EMPTY: tuple[dict[str, object], dict[str, str]] = ({}, {})


def blueprint(
    bus: RequestClient, admission: Admission, streams: Streams, cursors: Cursors, stages_of: latency.StagesOf
) -> Blueprint:
    """The routes under /orders, asking `bus`; `stages_of` returns the lines that the live feed has of an order."""
    routes = Blueprint("orders", __name__, url_prefix="/orders")
    waiting = Waiting(bus, streams)
    lists.add(routes, bus, cursors)
    timeline.add(routes, bus, streams)
    explain.add(routes, bus)
    latency.add(routes, bus, stages_of)

    @routes.post("")
    @documented(
        "Place an order",
        scope="orders:write",
        body=schemas.NewOrderSchema,
        answers={201: schemas.OrderCreatedSchema},
        parameters=(IDEMPOTENCY_KEY, PREFER),
        sends=("Location", "ETag", "Idempotent-Replayed", "Preference-Applied"),
        problems=(
            "malformed_body",
            "malformed_idempotency_key",
            "conflict",
            "body_too_large",
            "unsupported_media_type",
            "invalid_members",
            "idempotency_key_reused",
            "wrong_user",
            "too_many_open_orders",
            "overloaded",
            "unavailable",
        ),
    )
    def place_order() -> Response:
        started = time.perf_counter()
        key, wait = idempotency_key(request), preferred_wait()
        sent = json_object(request)
        given = NEW_ORDER.load(sent)
        check_acts_for(given["user_id"])
        admission.check()
        order_id = _new_id()
        _log_received(order_id, started)
        total = given["total"]
        written = sent["totalOrderAmount"]
        accepted = bus.request(
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
        members, headers = EMPTY if wait is None else waiting.new_order(accepted.order_id, wait)
        return json_answer(
            {
                "ok": True,
                "created": {"id": accepted.order_id},
                "payment": "Create order success, payment processing",
                **members,
            },
            201,
            Location=f"/orders/one/{accepted.order_id}",
            **{"ETag": etag(accepted.order_id, accepted.version), **headers},
            **_replayed(accepted.replayed),
        )

    @routes.put("")
    @documented(
        "Take an order one step on",
        notes="Any status but Cancelled needs the scope `orders:fulfil` beside it, and cancelling an order that was "
        "confirmed or has a status of its own `orders:refund`.",
        scope="orders:write",
        body=schemas.OrderUpdateSchema,
        answers={200: schemas.OrderUpdatedSchema},
        parameters=(IF_MATCH,),
        sends=("ETag",),
        problems=(
            "malformed_body",
            "malformed_condition",
            "order_not_found",
            "refund_not_allowed",
            "illegal_transition",
            "timeline_full",
            "conflict",
            "precondition_failed",
            "body_too_large",
            "unsupported_media_type",
            "invalid_members",
            "misleading_status",
            "unavailable",
        ),
    )
    def update_order() -> Response:
        started = time.perf_counter()
        given = ORDER_UPDATE.load(json_object(request))
        if given["order_status"] != CANCELLED:
            check_scope(caller(), FULFIL)
        expected = expected_versions(given["order_id"])
        _log_received(given["order_id"], started)
        updated = bus.request(
            UpdateOrder(
                request_id=g.request_id,
                on_behalf_of=caller().owner,
                expected_versions=expected,
                may_refund=caller().may(REFUND),
                **given,
            )
        )
        return json_answer(
            {"ok": True, "message": "Update order success"},
            200,
            ETag=etag(updated.order_id, updated.version),
        )

    @routes.get("/one/<order_id>")
    @documented(
        "Show an order",
        scope="orders:read",
        answers={200: schemas.OrderAnswerSchema, 304: None},
        parameters=(IF_NONE_MATCH,),
        sends=("ETag",),
        problems=("malformed_condition", "order_not_found", "unavailable"),
    )
    def find_order(order_id: str) -> Response:
        order = bus.request(FindOrder(request_id=g.request_id, order_id=order_id, on_behalf_of=caller().owner))
        return unless_known({"ok": True, "order": order}, order.id, order.version)

    @routes.post("/one/<order_id>/refunds")
    @documented(
        "Give an order's money back, in part or whole",
        scope="orders:refund",
        body=schemas.RefundRequestSchema,
        answers={201: schemas.RefundAnswerSchema},
        parameters=(IDEMPOTENCY_KEY, IF_MATCH),
        sends=("Location", "ETag", "Idempotent-Replayed"),
        problems=(
            "malformed_body",
            "malformed_idempotency_key",
            "malformed_condition",
            "order_not_found",
            "illegal_transition",
            "refund_exceeds_balance",
            "too_many_refunds",
            "conflict",
            "precondition_failed",
            "body_too_large",
            "unsupported_media_type",
            "invalid_members",
            "wrong_currency",
            "idempotency_key_reused",
            "unavailable",
        ),
    )
    def refund_order(order_id: str) -> Response:
        started = time.perf_counter()
        key = idempotency_key(request)
        amount = REFUND_REQUEST.load(json_object(request)).get("amount")
        expected = expected_versions(order_id)
        _log_received(order_id, started)
        refund = bus.request(
            RefundOrder(
                request_id=g.request_id,
                order_id=order_id,
                on_behalf_of=caller().owner,
                expected_versions=expected,
                refund_id=_refund_id(order_id, key),
                refund_value=amount.value if amount else 0,
                currency=amount.currency if amount else "",
            )
        )
        return json_answer(
            {
                "ok": True,
                "refund": {
                    "id": refund.refund_id,
                    "amount": {"value": refund.refund_value, "currency": refund.currency},
                },
            },
            201,
            Location=f"/orders/one/{order_id}",
            ETag=etag(order_id, refund.version),
            **_replayed(refund.replayed),
        )

    @routes.get("/status/<order_id>")
    @documented(
        "Show an order's status",
        scope="orders:read",
        answers={200: schemas.OrderStatusSchema, 304: None},
        parameters=(WAIT_PARAMETER, IF_NONE_MATCH),
        sends=("ETag",),
        problems=("malformed_condition", "invalid_parameter", "order_not_found", "too_many_streams", "unavailable"),
    )
    def check_order_status(order_id: str) -> Response:
        wait = wanted_wait()
        status = (
            waiting.status(order_id, wait)
            if wait
            else bus.request(CheckOrderStatus(request_id=g.request_id, order_id=order_id, on_behalf_of=caller().owner))
        )
        return unless_known({"ok": True, "orderStatus": status.order_status}, status.order_id, status.version)

    return routes


def _log_received(order_id: str, started: float) -> None:
    """Log the first stage of a request about an order; what is no id of an order belongs to none."""
    if not ORDER_ID.fullmatch(order_id):
        return
    record_stage(
        Stage.GATEWAY_RECEIVED,
        module="gateway",
        order_id=order_id,
        request_id=g.request_id,
        took_ms=(time.perf_counter() - started) * 1000,
        traceparent=g.get("traceparent", ""),
    )


def _replayed(replayed: bool) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if replayed else {}


def _refund_id(order_id: str, key: str) -> str:
    return sha256(f"{order_id}:{key}".encode()).hexdigest()[:24] if key else secrets.token_hex(12)


def _new_id() -> str:
    # As MongoDB makes its own: four bytes of time, then enough chance that no two ever meet.
    return f"{int(time.time()):08x}{secrets.token_hex(8)}"
