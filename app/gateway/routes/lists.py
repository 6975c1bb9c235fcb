"""Lists of orders, page by page."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, g, request

from app.contracts.orders import FindOrders, ListAllOrders, ListOrders, ListStuckOrders, OrderView
from app.contracts.payments import ListStuckPayments
from app.gateway.apidocs.operation import Parameter, documented
from app.gateway.http import schemas
from app.gateway.http.cursors import LONGEST, Cursors, InvalidCursor
from app.gateway.http.query import InvalidParameter, parameter, text, whole
from app.gateway.http.responses import json_answer
from app.gateway.security.authentication import check_scope
from app.gateway.security.caller import ADMIN, caller, check_sees
from app.messaging.bus import RequestClient

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
    description="Whose orders; the way for names with a slash, which no path can hold. "
    "Without it everybody's, for those who may see them, else the caller's own.",
    schema={"type": "string", "minLength": 1, "maxLength": 128},
    example="shop/user-7",
)
STUCK = Parameter(
    name="stuck",
    where="query",
    description="`true` for orders of all users that have waited for half a minute or for an operator. Stands alone but "
    "for `limit`, and needs the scope `orders:admin`.",
    schema={"type": "string", "enum": ["true"]},
    example="true",
)
DEAD_LETTER = Parameter(
    name="deadLetter",
    where="query",
    description="`true` for orders of all users with an event that could not be delivered. Stands alone but for `limit`, "
    "and needs the scope `orders:admin`.",
    schema={"type": "string", "enum": ["true"]},
    example="true",
)
USER = schemas.UserSchema()
PAGE = 100
STATUS_LENGTH = 64
USER_LENGTH = 128
OVERDUE_MS = 30_000


def add(routes: Blueprint, bus: RequestClient, cursors: Cursors) -> None:
    """Add the lists to the routes under /orders."""

    def listed(user_id: str) -> Response:
        check_sees(user_id)
        limit = _limit()
        status = text("status", STATUS_LENGTH)
        before_at, before_id = _opened(cursors, user_id, status)
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
        return _page(found.orders, cursors.seal(user_id, status, last.created_at, last.id) if last else "")

    def listed_all() -> Response:
        limit, status = _limit(), text("status", STATUS_LENGTH)
        _, before_id = _opened(cursors, "", status)
        found = bus.request(
            ListAllOrders(request_id=g.request_id, limit=limit, order_status=status, before_id=before_id)
        )
        return _page(found.orders, cursors.seal("", status, "", found.last_id) if found.last_id else "")

    def listed_stuck(dead: bool) -> Response:
        check_scope(caller(), ADMIN)
        asked = {"request_id": g.request_id, "dead": dead, "overdue_ms": OVERDUE_MS, "limit": _limit()}
        found = [bus.request(ListStuckPayments(**asked)), bus.request(ListStuckOrders(**asked))]
        ids = dict.fromkeys(order_id for one in found for order_id in one.order_ids)
        shown = tuple(ids)[: asked["limit"]]
        orders = bus.request(FindOrders(request_id=g.request_id, order_ids=shown)).orders
        return _page(orders, "", more=len(ids) > len(shown) or any(one.more for one in found))

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
        "List the orders of a user of whatever name, or of all users, newest first",
        scope="orders:read",
        answers={200: schemas.OrderListSchema},
        problems=("invalid_parameter", "invalid_cursor", "order_not_found", "unavailable"),
        parameters=(USER_ID, LIMIT, STATUS, CURSOR, STUCK, DEAD_LETTER),
        sends=("Link",),
    )
    def list_orders_of() -> Response:
        wanted = [name for name in ("stuck", "deadLetter") if _flag(name)]
        user_id = text("userId", USER_LENGTH) or caller().owner
        if wanted:
            _check_alone(wanted[0])
            return listed_stuck(wanted == ["deadLetter"])
        return listed(user_id) if user_id else listed_all()


def _limit() -> int:
    return whole("limit", parameter("limit"), 1, PAGE) or PAGE


def _flag(name: str) -> bool:
    given = parameter(name)
    if given not in (None, "true"):
        raise InvalidParameter(f"{name} is true or left out", parameter=name)
    return given == "true"


def _check_alone(name: str) -> None:
    other = next(
        (one for one in ("userId", "status", "cursor", "stuck", "deadLetter") if one in request.args and one != name),
        None,
    )
    if other:
        raise InvalidParameter(f"{name} does not go with {other}", parameter=other)


def _opened(cursors: Cursors, user_id: str, status: str) -> tuple[str, str]:
    cursor = parameter("cursor")
    if cursor is None:
        return "", ""
    if len(cursor) > LONGEST:
        raise InvalidCursor("this cursor is longer than any of ours")
    return cursors.open(user_id, status, cursor)


def _page(orders: Sequence[OrderView], cursor: str, more: bool = False) -> Response:
    body: dict[str, Any] = {
        "ok": True,
        "orders": orders,
        "hasMore": more or bool(cursor),
    }
    if not cursor:
        return json_answer(body, 200)
    # Made of what was asked, not of its text: whatever else stood in the query does not come back in a header.
    query = {name: request.args[name] for name in ("userId", "limit", "status") if name in request.args}
    address = f"{quote(request.path)}?{urlencode({**query, 'cursor': cursor})}"
    return json_answer({**body, "nextCursor": cursor}, 200, Link=f'<{address}>; rel="next"')
