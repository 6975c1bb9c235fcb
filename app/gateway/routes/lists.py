"""Lists of orders, in pages."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, g, request

from app.contracts.base import STUCK_SECONDS
from app.contracts.orders import (
    METADATA_KEY_LENGTH,
    METADATA_PAIRS,
    METADATA_VALUE_LENGTH,
    FindOrders,
    ListAllOrders,
    ListOrders,
    ListStuckOrders,
    OrderStatus,
    OrderView,
)
from app.contracts.payments import ListStuckPayments, PaymentStatus
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http import schemas
from app.gateway.http.cursors import CursorCodec
from app.gateway.http.pages import CURSOR, LIMIT, page_limit, page_position
from app.gateway.http.problem_catalogue import READ_LIST
from app.gateway.http.query import (
    MAX_USER_LENGTH,
    InvalidParameter,
    key_of,
    keyed_parameters,
    query_parameter,
    text_parameter,
    time_parameter,
)
from app.gateway.http.responses import json_response
from app.gateway.security.authentication import check_scope
from app.gateway.security.caller import ADMIN, READ, caller, check_may_see
from app.messaging.bus import RequestClient

STATUS = Parameter(
    name="status",
    where="query",
    description="Only orders with this status: one that has a meaning here, written exactly so, or a custom one.",
    schema={
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
        "anyOf": [{"enum": [status.value for status in OrderStatus]}, {"description": "A custom status."}],
    },
    example="Success",
)
PAYMENT_STATUS = Parameter(
    name="paymentStatus",
    where="query",
    description="Only orders whose payment has this status, such as `Disputed`.",
    schema={"type": "string", "enum": [status.value for status in PaymentStatus]},
    example="Disputed",
)
REFUND_FAILED = Parameter(
    name="refundFailed",
    where="query",
    description="`true` for orders of which a refund has failed; `refunds` of the order says which and why.",
    schema={"type": "string", "enum": ["true"]},
    example="true",
)
METADATA = Parameter(
    name="metadata",
    where="query",
    description="`metadata[cart]=A-1207`: only orders whose metadata has this value for this key, exactly; with several, all of them.",
    schema={
        "type": "object",
        "maxProperties": METADATA_PAIRS,
        "additionalProperties": {"type": "string", "minLength": 1, "maxLength": METADATA_VALUE_LENGTH},
    },
    example={"cart": "A-1207"},
    keyed=True,
)
USER_ID = Parameter(
    name="userId",
    where="query",
    description="The user, also with a name that has a slash, which a path cannot contain. "
    "Without it the orders of all users if the caller may see them, else the caller's own.",
    schema={"type": "string", "minLength": 1, "maxLength": 128},
    example="shop/user-7",
)
CREATED_FROM = Parameter(
    name="createdFrom",
    where="query",
    description="Only orders that were created at this time or later, RFC 3339 with its offset.",
    schema={"type": "string", "format": "date-time"},
    example="2026-11-22T15:00:00Z",
)
CREATED_TO = Parameter(
    name="createdTo",
    where="query",
    description="Only orders that were created before this time, RFC 3339 with its offset.",
    schema={"type": "string", "format": "date-time"},
    example="2026-11-22T16:00:00Z",
)
OLDEST_FIRST, NEWEST_FIRST = "createdAt", "-createdAt"
SORT = Parameter(
    name="sort",
    where="query",
    description=f"`{OLDEST_FIRST}` for the oldest first, `{NEWEST_FIRST}` for the newest first.",
    schema={"type": "string", "enum": [OLDEST_FIRST, NEWEST_FIRST], "default": NEWEST_FIRST},
    example=OLDEST_FIRST,
)
# What makes a list another one; `order_filter` reads them.
FILTERS = (STATUS, PAYMENT_STATUS, REFUND_FAILED, METADATA, CREATED_FROM, CREATED_TO, SORT)
STUCK = Parameter(
    name="stuck",
    where="query",
    description="`true` for orders of all users that have waited for a minute, other than for their customer or a bank, or wait for an operator. Can be combined with "
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
CHECKED_USERS = 4096
MAX_STATUS_LENGTH = 64
OVERDUE_MS = STUCK_SECONDS * 1000
# By their casefolded texts, which no custom status can have.
ORDER_STATUSES: dict[str, str] = {status.casefold(): status.value for status in OrderStatus}
ORDER_STATUSES["canceled"] = OrderStatus.CANCELLED.value
# The time of creation and the id of the order after which a page begins; both are empty for the first page.
Place = tuple[str, str]
# Orders, and the place of those that follow, if any do.
Page = tuple[Sequence[OrderView], Place | None]
PAYMENT_STATUSES: dict[str, str] = {status.casefold(): status.value for status in PaymentStatus}


@dataclass(frozen=True, kw_only=True)
class OrderFilter:
    """Which orders a list has, and their sorting: empty statuses and times of 0 select all. Times are in milliseconds since 1970."""

    order_status: str
    payment_status: str
    refund_failed: bool
    created_from: int
    created_to: int
    oldest_first: bool
    metadata: dict[str, str] | None = None

    @property
    def text(self) -> str:
        """What makes a cursor one of this list and of no other. No status has a line break."""
        times = (str(self.created_from), str(self.created_to)) if self.created_from or self.created_to else ()
        sorting = (OLDEST_FIRST,) if self.oldest_first else ()
        pairs = (json.dumps(sorted(self.metadata.items())),) if self.metadata else ()
        more = (self.payment_status, "refundFailed" if self.refund_failed else "", *times, *sorting, *pairs)
        return "\n".join((self.order_status, *more)) if any(more) else self.order_status


def add_routes(routes: Blueprint, bus: RequestClient, cursors: CursorCodec) -> None:
    """Add the lists to the routes under /orders."""

    def show_list(user_id: str) -> Response:
        limit, selected = page_limit(), order_filter()
        place = page_position(cursors, user_id, selected.text)
        orders, following = read_page(bus, g.request_id, user_id, selected, place, limit)
        return _page(orders, cursors.encode(user_id, selected.text, *following) if following else "")

    def list_stuck(dead: bool) -> Response:
        check_scope(caller(), ADMIN)
        limit = page_limit()
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
        "List a user's orders",
        scope=READ,
        responses={200: schemas.OrderListSchema},
        problems=(*READ_LIST, "invalid_members"),
        parameters=(LIMIT, *FILTERS, CURSOR),
        headers=("Link",),
    )
    def list_orders(user_id: str) -> Response:
        _check_user(user_id)
        check_may_see(user_id)
        return show_list(user_id)

    @routes.get("")
    @Operation(
        "List the orders of a user with any name, or of all users",
        scope=READ,
        responses={200: schemas.OrderListSchema},
        problems=READ_LIST,
        parameters=(USER_ID, LIMIT, *FILTERS, CURSOR, STUCK, DEAD_LETTER),
        headers=("Link",),
    )
    def list_orders_of() -> Response:
        flags = [name for name in ("stuck", "deadLetter") if _flag(name)]
        user_id = user_of_list()
        if flags:
            _check_alone(flags[0])
            return list_stuck(dead=flags == ["deadLetter"])
        return show_list(user_id)


@lru_cache(CHECKED_USERS)
def _check_user(user_id: str) -> None:
    """Raise ValidationError unless a user can have this name; only good names are kept."""
    USER.load({"userId": user_id})


def user_of_list() -> str:
    """The user whose orders the query asks for, empty for those of all users. Raises InvalidParameter, NotFound."""
    user_id = text_parameter("userId", MAX_USER_LENGTH) or caller().on_behalf_of
    check_may_see(user_id)
    return user_id


def read_page(
    bus: RequestClient, request_id: str, user_id: str, selected: OrderFilter, place: Place, limit: int
) -> Page:
    """At most `limit` orders of a user, or of all users for an empty one, that follow `place` in their list."""
    before_at, before_id = place
    if not user_id:
        everybody = ListAllOrders(
            request_id=request_id, limit=limit, before_at=before_at, before_id=before_id, **asdict(selected)
        )
        page = bus.request(everybody)
        return page.orders, (page.last_at, page.last_id) if page.last_id else None
    found = bus.request(
        ListOrders(
            request_id=request_id,
            user_id=user_id,
            limit=limit,
            before_at=before_at,
            before_id=before_id,
            **asdict(selected),
        )
    )
    last = found.orders[-1] if found.more else None
    return found.orders, (last.created_at, last.id) if last else None


def order_filter() -> OrderFilter:
    """The filter in the query. Raises InvalidParameter."""
    created_from, created_to = time_parameter(CREATED_FROM.name), time_parameter(CREATED_TO.name)
    if created_to and created_to <= created_from:
        raise InvalidParameter("createdTo must be later than createdFrom", parameter=CREATED_TO.name)
    return OrderFilter(
        created_from=created_from,
        created_to=created_to,
        oldest_first=_is_oldest_first(),
        order_status=check_status(text_parameter("status", MAX_STATUS_LENGTH)),
        payment_status=_check_payment_status(text_parameter("paymentStatus", MAX_STATUS_LENGTH)),
        refund_failed=_flag("refundFailed"),
        metadata=_metadata() or None,
    )


def _metadata() -> dict[str, str]:
    """The pairs that orders must have, by key. Raises InvalidParameter."""
    given = keyed_parameters(METADATA.name)
    if len(given) > METADATA_PAIRS:
        raise InvalidParameter(f"an order has at most {METADATA_PAIRS} pairs of metadata", parameter=METADATA.name)
    for name in given:
        if len(key_of(name)[1]) > METADATA_KEY_LENGTH:
            raise InvalidParameter(f"a key has at most {METADATA_KEY_LENGTH} characters", parameter=METADATA.name)
    return {key_of(name)[1]: text_parameter(name, METADATA_VALUE_LENGTH) for name in given}


def check_status(status: str) -> str:
    """The status to select, empty for all. Raises InvalidParameter for text that no order can have as its status."""
    folded = status.strip().casefold()
    if folded in ORDER_STATUSES and status != ORDER_STATUSES[folded]:
        raise InvalidParameter(f"no status is written like this; write {ORDER_STATUSES[folded]}", parameter="status")
    if folded in PAYMENT_STATUSES and folded not in ORDER_STATUSES:
        hint = f"{PAYMENT_STATUSES[folded]} is a paymentStatus: select by that; this selects by orderStatus"
        raise InvalidParameter(hint, parameter="status")
    return status


def _check_payment_status(status: str) -> str:
    if status and status not in PAYMENT_STATUSES.values():
        there_is = PAYMENT_STATUSES.get(status.strip().casefold()) or ", ".join(PAYMENT_STATUSES.values())
        raise InvalidParameter(f"no payment status is written like this; write {there_is}", parameter="paymentStatus")
    return status


def _is_oldest_first() -> bool:
    value = query_parameter(SORT.name)
    if value not in (None, OLDEST_FIRST, NEWEST_FIRST):
        raise InvalidParameter(f"sort is {OLDEST_FIRST} or {NEWEST_FIRST}", parameter=SORT.name)
    return value == OLDEST_FIRST


def _flag(name: str) -> bool:
    value = query_parameter(name)
    if value not in (None, "true"):
        raise InvalidParameter(f"{name} is true or absent", parameter=name)
    return value == "true"


def _check_alone(name: str) -> None:
    names = (parameter.name for parameter in (USER_ID, *FILTERS, CURSOR, STUCK, DEAD_LETTER))
    for other in (*keyed_parameters(METADATA.name), *names):
        if other in request.args and other != name:
            raise InvalidParameter(f"{name} cannot be combined with {other}", parameter=other)


def _page(orders: Sequence[OrderView], cursor: str, more: bool = False) -> Response:
    body: dict[str, Any] = {"ok": True, "orders": orders, "hasMore": more or bool(cursor)}
    if not cursor:
        return json_response(body)
    # Built from the known parameters, so that nothing else of the query gets into a header.
    names = (parameter.name for parameter in (USER_ID, LIMIT, *FILTERS))
    query = {name: request.args[name] for name in (*names, *keyed_parameters(METADATA.name)) if name in request.args}
    address = f"{quote(request.path)}?{urlencode({**query, 'cursor': cursor})}"
    return json_response({**body, "nextCursor": cursor}, Link=f'<{address}>; rel="next"')
