"""The routes of orders. They decide nothing: each checks a request, sends a message over the bus and builds the response."""

import re
import secrets
import time
from collections.abc import Callable

from flask import Blueprint, Response, g, request
from marshmallow import EXCLUDE

from app.contracts.orders import (
    CaptureOrder,
    CheckOrderStatus,
    CreateOrder,
    FindOrder,
    FindRefund,
    ListRefunds,
    RefundOrder,
    UpdateMetadata,
    UpdateOrder,
)
from app.gateway.apidocs.operation import Operation
from app.gateway.http import item_schemas, schemas
from app.gateway.http.body import STRICT, is_strict, json_object
from app.gateway.http.cursors import CursorCodec
from app.gateway.http.etags import IF_MATCH, IF_NONE_MATCH, expected_versions, not_modified_or
from app.gateway.http.idempotency import IDEMPOTENCY_KEY, idempotency_key, refund_id_of
from app.gateway.http.long_poll import PREFER, WAIT, LongPoll, wait_from_prefer, wait_from_query
from app.gateway.http.money import format_money
from app.gateway.http.problem_catalogue import CHANGE_METADATA, CHANGE_ONE, READ_ONE, WITH_IDEMPOTENCY_KEY
from app.gateway.http.responses import etag, json_response
from app.gateway.http.return_urls import ReturnUrlPolicy
from app.gateway.routes import explain, export, latency, lists, requests, timeline
from app.gateway.security.admission import Admission
from app.gateway.security.authentication import check_scope
from app.gateway.security.caller import (
    FULFIL,
    READ,
    REFUND,
    WRITE,
    caller,
    change_origin,
    check_may_place_for,
    own_view,
    request_origin,
)
from app.gateway.security.stream_limits import StreamLimits
from app.messaging.bus import RequestClient
from app.observability.stages import Stage, record_stage

# The only status that a client may set without the scope FULFIL.
CANCELLED = "Cancelled"
# By whether unknown members are refused.
NEW_ORDER = {True: schemas.NewOrderSchema(), False: schemas.NewOrderSchema(unknown=EXCLUDE)}
ORDER_UPDATE = {True: schemas.OrderUpdateSchema(), False: schemas.OrderUpdateSchema(unknown=EXCLUDE)}
NEW_ITEM_ORDER = {
    True: item_schemas.NewItemOrderSchema(),
    False: item_schemas.NewItemOrderSchema(unknown=EXCLUDE),
}
METADATA_UPDATE = schemas.MetadataUpdateSchema()
REFUND_REQUEST = schemas.RefundRequestSchema()
CAPTURE_REQUEST = schemas.CaptureRequestSchema()
ORDER_ID = re.compile(r"[0-9a-f]{24}")
NOT_AWAITED: tuple[dict[str, object], dict[str, str]] = ({}, {})


def blueprint(
    bus: RequestClient,
    admission: Admission,
    limits: StreamLimits,
    cursors: CursorCodec,
    return_urls: ReturnUrlPolicy,
    stages_of_order: latency.StagesOfOrder,
    exports: StreamLimits,
    stopping: Callable[[], bool],
) -> Blueprint:
    """The routes under /orders; `stages_of_order` returns the stage records that the live feed has of an order.

    `exports` are the limits of exports, and `stopping` is whether the process stops.
    """
    routes = Blueprint("orders", __name__, url_prefix="/orders")
    long_poll = LongPoll(bus, limits)
    lists.add_routes(routes, bus, cursors)
    export.add_routes(routes, bus, exports, stopping)
    timeline.add_routes(routes, bus, limits)
    explain.add_routes(routes, bus)
    latency.add_routes(routes, bus, stages_of_order)
    requests.add_routes(routes, bus)

    @routes.post("")
    @Operation(
        "Place an order",
        scope=WRITE,
        body=(schemas.NewOrderSchema, item_schemas.NewItemOrderSchema),
        responses={201: schemas.OrderCreatedSchema},
        parameters=(IDEMPOTENCY_KEY, PREFER, STRICT),
        headers=("Location", "ETag", "Idempotent-Replayed", "Preference-Applied"),
        problems=(
            *WITH_IDEMPOTENCY_KEY,
            "conflict",
            "wrong_user",
            "too_many_open_orders",
            "overloaded",
            "unavailable",
        ),
    )
    def place_order() -> Response:
        started = time.perf_counter()
        key, wait = idempotency_key(request), wait_from_prefer()
        body = json_object(request)
        order = (NEW_ITEM_ORDER if "items" in body else NEW_ORDER)[is_strict()].load(body)
        return_url = order.get("return_url", "")
        return_urls.check(return_url)
        check_may_place_for(order["user_id"])
        admission.check()
        order_id = _new_order_id()
        _record_received(order_id, started)
        total = order["total"]
        total_text = body.get("totalOrderAmount")
        accepted = bus.request(
            CreateOrder(
                request_id=g.request_id,
                caller=caller().user_id,
                order_id=order_id,
                user_id=order["user_id"],
                product_id=order["product_id"],
                product_name=order["product_name"],
                total_text=total_text if isinstance(total_text, str) else format_money(total),
                total_value=total.value,
                total_currency=total.currency,
                idempotency_key=key,
                payment_method=order.get("payment_method", ""),
                return_url=return_url,
                manual_capture=order.get("capture") == schemas.MANUAL,
                metadata=order.get("metadata") or None,
                items=order.get("items", ()),
            )
        )
        g.order_id = accepted.order_id
        members, headers = NOT_AWAITED if wait is None else long_poll.settled_order(accepted.order_id, wait)
        return json_response(
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
    @Operation(
        "Change an order's status",
        description="Any status but Cancelled needs the scope `orders:fulfil` as well, and cancelling an order that was "
        "confirmed or has a custom status `orders:refund`.",
        scope=WRITE,
        body=schemas.OrderUpdateSchema,
        responses={200: schemas.OrderUpdatedSchema},
        parameters=(IF_MATCH, STRICT),
        headers=("ETag",),
        problems=(*CHANGE_ONE, "refund_not_allowed", "timeline_full", "misleading_status"),
    )
    def update_order() -> Response:
        started = time.perf_counter()
        update = ORDER_UPDATE[is_strict()].load(json_object(request))
        if update["order_status"] != CANCELLED:
            check_scope(caller(), FULFIL)
        expected = expected_versions(update["order_id"])
        _record_received(update["order_id"], started)
        updated = bus.request(
            UpdateOrder(expected_versions=expected, may_refund=caller().has_scope(REFUND), **update, **change_origin())
        )
        return json_response(
            {"ok": True, "message": "Update order success"}, ETag=etag(updated.order_id, updated.version)
        )

    @routes.get("/one/<order_id>")
    @Operation(
        "Show an order",
        scope=READ,
        responses={200: schemas.OrderFoundSchema, 304: None},
        parameters=(IF_NONE_MATCH,),
        headers=("ETag",),
        problems=("malformed_condition", *READ_ONE),
    )
    def find_order(order_id: str) -> Response:
        order = own_view(bus.request(FindOrder(order_id=order_id, with_next_action=True, **request_origin())))
        return not_modified_or({"ok": True, "order": order}, order.id, order.version)

    @routes.post("/one/<order_id>/capture")
    @Operation(
        "Capture what is authorized for an order, in part or in full",
        description="Once for each order. What is not captured is released.",
        scope=FULFIL,
        body=schemas.CaptureRequestSchema,
        responses={202: schemas.CaptureAcceptedSchema},
        parameters=(IF_MATCH,),
        headers=("Location", "ETag", "Idempotent-Replayed"),
        problems=(*CHANGE_ONE, "capture_exceeds_authorization", "already_captured", "wrong_currency"),
    )
    def capture_order(order_id: str) -> Response:
        started = time.perf_counter()
        amount = CAPTURE_REQUEST.load(json_object(request)).get("amount")
        expected = expected_versions(order_id)
        _record_received(order_id, started)
        capture = bus.request(
            CaptureOrder(
                order_id=order_id,
                expected_versions=expected,
                capture_value=amount.value if amount else 0,
                currency=amount.currency if amount else "",
                **change_origin(),
            )
        )
        members = {"amount": {"value": capture.capture_value, "currency": capture.currency}}
        return json_response(
            {"ok": True, "capture": members},
            202,
            Location=f"/orders/one/{order_id}",
            ETag=etag(order_id, capture.version),
            **_replayed(capture.replayed),
        )

    @routes.get("/one/<order_id>/refunds")
    @Operation(
        "List an order's refunds",
        description="All of them, oldest first: also those that were made at the provider, and those of a cancellation.",
        scope=READ,
        responses={200: schemas.RefundListSchema},
        problems=READ_ONE,
    )
    def list_refunds(order_id: str) -> Response:
        found = bus.request(ListRefunds(order_id=order_id, **request_origin()))
        return json_response({"ok": True, "refunds": found.refunds})

    @routes.get("/one/<order_id>/refunds/<refund_id>")
    @Operation(
        "Show a refund",
        scope=READ,
        responses={200: schemas.RefundFoundSchema},
        problems=(*READ_ONE, "refund_not_found"),
    )
    def find_refund(order_id: str, refund_id: str) -> Response:
        refund = bus.request(FindRefund(order_id=order_id, refund_id=refund_id, **request_origin()))
        return json_response({"ok": True, "refund": refund})

    @routes.post("/one/<order_id>/refunds")
    @Operation(
        "Refund an order, in part or in full",
        scope=REFUND,
        body=schemas.RefundRequestSchema,
        responses={201: schemas.RefundAcceptedSchema},
        parameters=(IDEMPOTENCY_KEY, IF_MATCH),
        headers=("Location", "ETag", "Idempotent-Replayed"),
        problems=(
            *CHANGE_ONE,
            *WITH_IDEMPOTENCY_KEY,
            "payment_disputed",
            "refund_exceeds_balance",
            "too_many_refunds",
            "wrong_currency",
        ),
    )
    def refund_order(order_id: str) -> Response:
        started = time.perf_counter()
        key = idempotency_key(request)
        wanted = REFUND_REQUEST.load(json_object(request))
        amount = wanted.get("amount")
        expected = expected_versions(order_id)
        _record_received(order_id, started)
        accepted = bus.request(
            RefundOrder(
                order_id=order_id,
                expected_versions=expected,
                refund_id=refund_id_of(order_id, key),
                refund_value=amount.value if amount else 0,
                currency=amount.currency if amount else "",
                reason=wanted.get("reason", ""),
                **change_origin(),
            )
        )
        members = {"id": accepted.refund_id, "amount": {"value": accepted.refund_value, "currency": accepted.currency}}
        return json_response(
            {"ok": True, "refund": members},
            201,
            Location=f"/orders/one/{order_id}/refunds/{accepted.refund_id}",
            ETag=etag(order_id, accepted.version),
            **_replayed(accepted.replayed),
        )

    @routes.get("/status/<order_id>")
    @Operation(
        "Show an order's status",
        scope=READ,
        responses={200: schemas.OrderStatusSchema, 304: None},
        parameters=(WAIT, IF_NONE_MATCH),
        headers=("ETag",),
        problems=("malformed_condition", "too_many_streams", *READ_ONE),
    )
    def check_order_status(order_id: str) -> Response:
        wait = wait_from_query()
        status = (
            long_poll.settled_status(order_id, wait)
            if wait
            else bus.request(CheckOrderStatus(order_id=order_id, **request_origin()))
        )
        return not_modified_or({"ok": True, "orderStatus": status.order_status}, status.order_id, status.version)

    _add_metadata(routes, bus)
    return routes


def _add_metadata(routes: Blueprint, bus: RequestClient) -> None:
    @routes.patch("/one/<order_id>")
    @Operation(
        "Change an order's metadata",
        description="Nothing else of an order can be changed like this. The timeline names the keys that were changed.",
        scope=WRITE,
        body=schemas.MetadataUpdateSchema,
        responses={200: schemas.MetadataUpdatedSchema},
        parameters=(IF_MATCH,),
        headers=("ETag",),
        problems=CHANGE_METADATA,
    )
    def update_metadata(order_id: str) -> Response:
        started = time.perf_counter()
        metadata = METADATA_UPDATE.load(json_object(request))["metadata"]
        expected = expected_versions(order_id)
        _record_received(order_id, started)
        change = UpdateMetadata(order_id=order_id, expected_versions=expected, metadata=metadata, **change_origin())
        updated = bus.request(change)
        return json_response({"ok": True, "metadata": updated.metadata}, ETag=etag(order_id, updated.version))


def _record_received(order_id: str, started: float) -> None:
    """Record the first stage of a request about an order, unless the id cannot be an order's."""
    if not ORDER_ID.fullmatch(order_id):
        return
    g.order_id = order_id
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


def _new_order_id() -> str:
    # The format of MongoDB's ObjectId, which begins with four bytes of seconds. Two more of 1/65536 second make ids sort as orders
    # came, also within a second: lists of all users are sorted by id. Six random bytes follow.
    return f"{int(time.time() * 65536):012x}{secrets.token_hex(6)}"
