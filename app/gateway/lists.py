"""Lists of orders, page by page."""

from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, g, request

from app.bus import Asks
from app.contracts import ListOrders, OrderList
from app.gateway import schemas
from app.gateway.answers import json_answer, order_members
from app.gateway.caller import check_sees
from app.gateway.cursors import LONGEST, Cursors, InvalidCursor
from app.gateway.operations import Parameter, documented
from app.gateway.parameters import InvalidParameter, parameter, text, whole

LIMIT = Parameter(
    name="limit",
    where="query",
    description="How many at the most.",
    schema={"type": "integer", "minimum": 1, "maximum": 100, "default": 100},
    example=20,
)
STATUS = Parameter(
    name="status",
    where="query",
    description="Only orders of this status.",
    schema={"type": "string", "minLength": 1, "maxLength": 64},
    example="Success",
)
CURSOR = Parameter(
    name="cursor",
    where="query",
    description="`nextCursor` of the page before, of the same user and status.",
    schema={"type": "string", "maxLength": LONGEST},
    example="WyIyMDI2LTExLTIyVDE1OjIzOjAyLjkwMFoiLCI2OTIwIl0.c2VhbA",
)
USER_ID = Parameter(
    name="userId",
    where="query",
    description="Whose orders; the way for names with a slash, which no path can hold.",
    schema={"type": "string", "minLength": 1, "maxLength": 128},
    example="shop/user-7",
    required=True,
)
USER = schemas.UserSchema()
PAGE = 100
STATUS_LENGTH = 64
USER_LENGTH = 128


def add(routes: Blueprint, bus: Asks, cursors: Cursors) -> None:
    """Add the lists to the routes under /orders."""

    def listed(user_id: str) -> Response:
        check_sees(user_id)
        limit = whole("limit", parameter("limit"), 1, PAGE) or PAGE
        status = text("status", STATUS_LENGTH)
        before_at, before_id = _opened(cursors, user_id, status)
        found = bus.ask(
            ListOrders(
                request_id=g.request_id,
                user_id=user_id,
                limit=limit,
                order_status=status,
                before_at=before_at,
                before_id=before_id,
            )
        )
        return _page(found, _next_cursor(cursors, user_id, status, found))

    @routes.get("/<user_id>")
    @documented(
        "List a user's orders, newest first",
        scope="orders:read",
        answers={200: schemas.OrderListSchema},
        problems=("invalid_parameter", "invalid_cursor", "order_not_found", "invalid_members", "unavailable"),
        parameters=(LIMIT, STATUS, CURSOR),
        sends=("Link",),
    )
    def list_orders(user_id: str) -> Response:
        USER.load({"userId": user_id})
        return listed(user_id)

    @routes.get("")
    @documented(
        "List the orders of a user of whatever name, newest first",
        scope="orders:read",
        answers={200: schemas.OrderListSchema},
        problems=("invalid_parameter", "invalid_cursor", "order_not_found", "unavailable"),
        parameters=(USER_ID, LIMIT, STATUS, CURSOR),
        sends=("Link",),
    )
    def list_orders_of() -> Response:
        user_id = text("userId", USER_LENGTH)
        if not user_id:
            raise InvalidParameter("userId says whose orders to list", parameter="userId")
        return listed(user_id)


def _opened(cursors: Cursors, user_id: str, status: str) -> tuple[str, str]:
    cursor = parameter("cursor")
    if cursor is None:
        return "", ""
    if len(cursor) > LONGEST:
        raise InvalidCursor("this cursor is longer than any of ours")
    return cursors.open(user_id, status, cursor)


def _next_cursor(cursors: Cursors, user_id: str, status: str, found: OrderList) -> str:
    return cursors.seal(user_id, status, found.orders[-1]) if found.more else ""


def _page(found: OrderList, cursor: str) -> Response:
    body: dict[str, Any] = {
        "ok": True,
        "orders": [order_members(order) for order in found.orders],
        "hasMore": found.more,
    }
    if not cursor:
        return json_answer(body, 200)
    # Made of what was asked, not of its text: whatever else stood in the query does not come back in a header.
    query = {name: request.args[name] for name in ("userId", "limit", "status") if name in request.args}
    address = f"{quote(request.path)}?{urlencode({**query, 'cursor': cursor})}"
    return json_answer({**body, "nextCursor": cursor}, 200, Link=f'<{address}>; rel="next"')
