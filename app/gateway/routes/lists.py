"""Lists of orders, in pages."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, g, request

from app.contracts.orders import FindOrders, ListAllOrders, ListOrders, ListStuckOrders, OrderView
from app.contracts.payments import ListStuckPayments
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http import schemas
from app.gateway.http.cursors import MAX_LENGTH, CursorCodec, InvalidCursor
from app.gateway.http.problem_catalogue import READ_LIST
from app.gateway.http.query import InvalidParameter, integer, query_parameter, text_parameter
from app.gateway.http.responses import json_response
from app.gateway.security.authentication import check_scope
from app.gateway.security.caller import ADMIN, READ, caller, check_may_see
from app.messaging.bus import RequestClient

LIMIT = Parameter(
    name="limit",
    where="query",
    description="The maximum number of orders.",
    schema={"type": "integer", "minimum": 1, "maximum": 100, "default": 100},
    example=20,
)
STATUS = Parameter(
    name="status",
    where="query",
    description="Only orders with this status.",
    schema={"type": "string", "minLength": 1, "maxLength": 64},
    example="Success",
)
CURSOR = Parameter(
    name="cursor",
    where="query",
    description="`nextCursor` of the previous page, of the same user and status.",
    schema={"type": "string", "maxLength": MAX_LENGTH},
    example="WyIyMDI2LTExLTIyVDE1OjIzOjAyLjkwMFoiLCI2OTIwIl0.c2VhbA",
)
USER_ID = Parameter(
    name="userId",
    where="query",
    description="The user, also with a name that has a slash, which a path cannot contain. "
    "Without it the orders of all users if the caller may see them, else the caller's own.",
    schema={"type": "string", "minLength": 1, "maxLength": 128},
    example="shop/user-7",
)
STUCK = Parameter(
    name="stuck",
    where="query",
    description="`true` for orders of all users that have waited for half a minute, or wait for an operator. Can be combined with "
    "`limit` only, and needs the scope `orders:admin`.",
    schema={"type": "string", "enum": ["true"]},
    example="true",
)
DEAD_LETTER = Parameter(
    name="deadLetter",
    where="query",
    description="`true` for orders of all users with an event that could not be delivered. Can be combined with `limit` only, "
    "and needs the scope `orders:admin`.",
    schema={"type": "string", "enum": ["true"]},
    example="true",
)
USER = schemas.UserSchema()
PAGE_SIZE = 100
MAX_STATUS_LENGTH = 64
MAX_USER_LENGTH = 128
OVERDUE_MS = 30_000


def add_routes(routes: Blueprint, bus: RequestClient, cursors: CursorCodec) -> None:
    """Add the lists to the routes under /orders."""

    def list_by_user(user_id: str) -> Response:
        check_may_see(user_id)
        limit = _limit()
        status = text_parameter("status", MAX_STATUS_LENGTH)
        before_at, before_id = _position(cursors, user_id, status)
        found = bus.request(
            ListOrders(
                request_id=g.request_id,
                user_id=user_id,
                limit=limit,
                order_status=status,
                before_at=before_at,
                before_id=before_id,
            )
        )
        last = found.orders[-1] if found.more else None
        return _page(found.orders, cursors.encode(user_id, status, last.created_at, last.id) if last else "")

    def list_all() -> Response:
        limit, status = _limit(), text_parameter("status", MAX_STATUS_LENGTH)
        _, before_id = _position(cursors, "", status)
        found = bus.request(
            ListAllOrders(request_id=g.request_id, limit=limit, order_status=status, before_id=before_id)
        )
        return _page(found.orders, cursors.encode("", status, "", found.last_id) if found.last_id else "")

    def list_stuck(dead: bool) -> Response:
        check_scope(caller(), ADMIN)
        limit = _limit()
        found = [
            bus.request(message(request_id=g.request_id, dead=dead, overdue_ms=OVERDUE_MS, limit=limit))
            for message in (ListStuckPayments, ListStuckOrders)
        ]
        ids = dict.fromkeys(order_id for part in found for order_id in part.order_ids)
        page = tuple(ids)[:limit]
        orders = bus.request(FindOrders(request_id=g.request_id, order_ids=page)).orders
        return _page(orders, "", more=len(ids) > len(page) or any(part.more for part in found))

    @routes.get("/<user_id>")
    @Operation(
        "List a user's orders, newest first",
        scope=READ,
        responses={200: schemas.OrderListSchema},
        problems=(*READ_LIST, "invalid_members"),
        parameters=(LIMIT, STATUS, CURSOR),
        headers=("Link",),
    )
    def list_orders(user_id: str) -> Response:
        USER.load({"userId": user_id})
        return list_by_user(user_id)

    @routes.get("")
    @Operation(
        "List the orders of a user with any name, or of all users, newest first",
        scope=READ,
        responses={200: schemas.OrderListSchema},
        problems=READ_LIST,
        parameters=(USER_ID, LIMIT, STATUS, CURSOR, STUCK, DEAD_LETTER),
        headers=("Link",),
    )
    def list_orders_of() -> Response:
        flags = [name for name in ("stuck", "deadLetter") if _flag(name)]
        user_id = text_parameter("userId", MAX_USER_LENGTH) or caller().on_behalf_of
        if flags:
            _check_alone(flags[0])
            return list_stuck(dead=flags == ["deadLetter"])
        return list_by_user(user_id) if user_id else list_all()


def _limit() -> int:
    return integer("limit", query_parameter("limit"), 1, PAGE_SIZE) or PAGE_SIZE


def _flag(name: str) -> bool:
    value = query_parameter(name)
    if value not in (None, "true"):
        raise InvalidParameter(f"{name} is true or absent", parameter=name)
    return value == "true"


def _check_alone(name: str) -> None:
    for other in ("userId", "status", "cursor", "stuck", "deadLetter"):
        if other in request.args and other != name:
            raise InvalidParameter(f"{name} cannot be combined with {other}", parameter=other)


def _position(cursors: CursorCodec, user_id: str, status: str) -> tuple[str, str]:
    """Creation time and id of the last order of the previous page, both empty on the first page."""
    cursor = query_parameter("cursor")
    if cursor is None:
        return "", ""
    if len(cursor) > MAX_LENGTH:
        raise InvalidCursor("this cursor is too long")
    return cursors.decode(user_id, status, cursor)


def _page(orders: Sequence[OrderView], cursor: str, more: bool = False) -> Response:
    body: dict[str, Any] = {"ok": True, "orders": orders, "hasMore": more or bool(cursor)}
    if not cursor:
        return json_response(body)
    # Built from the known parameters, so that nothing else of the query gets into a header.
    query = {name: request.args[name] for name in ("userId", "limit", "status") if name in request.args}
    address = f"{quote(request.path)}?{urlencode({**query, 'cursor': cursor})}"
    return json_response({**body, "nextCursor": cursor}, Link=f'<{address}>; rel="next"')
