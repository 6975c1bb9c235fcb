"""Waiting until an order has settled: `Prefer: wait=N` (RFC 7240) and `?wait=N`."""

import re
from typing import Any
from urllib.request import parse_http_list

from flask import request

from app.contracts.base import Unavailable
from app.contracts.orders import AwaitOrder, FindOrder, OrderStatusView
from app.gateway.apidocs.operation import Parameter
from app.gateway.http.query import integer, query_parameter
from app.gateway.http.responses import etag
from app.gateway.security.caller import own_view, request_origin
from app.gateway.security.stream_limits import StreamLimits, TooManyStreams
from app.messaging.bus import RequestClient

MAX_WAIT_SECONDS = 30
PREFER = Parameter(
    name="Prefer",
    where="header",
    description="`wait=N` (RFC 7240): answer when the order has settled or its payment waits for the customer, a bank or a "
    "capture, or after N seconds, at most 30.",
    schema={"type": "string"},
    example="wait=10",
)
WAIT = Parameter(
    name="wait",
    where="query",
    description="Answer when the order is no longer Processing, or after this many seconds; more than 30 count as 30.",
    schema={"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 0},
    example=10,
)
WAIT_PREFERENCE = re.compile(r'\s*wait\s*=\s*(?:"([0-9]{1,9})"|([0-9]{1,9}))\s*(?:;.*)?', re.IGNORECASE)
WAIT_NAME = re.compile(r"\s*wait\s*(?:[=;]|\Z)", re.IGNORECASE)


def wait_from_prefer() -> int | None:
    """The seconds of the Prefer header; None if it has no valid `wait`."""
    header = request.environ.get("HTTP_PREFER")
    if header is None:
        return None
    # The first preference of that name counts; a malformed one is ignored.
    first = next((preference for preference in parse_http_list(header) if WAIT_NAME.match(preference)), "")
    match = WAIT_PREFERENCE.fullmatch(first)
    return min(MAX_WAIT_SECONDS, int(match[1] or match[2])) if match else None


def wait_from_query() -> int:
    """The seconds of `?wait`, 0 if it is absent. Raises InvalidParameter."""
    return min(MAX_WAIT_SECONDS, integer("wait", query_parameter("wait"), 0) or 0)


class LongPoll:
    """Holds requests until their order has settled, within the limits of waiting requests."""

    def __init__(self, bus: RequestClient, limits: StreamLimits) -> None:
        self._bus = bus
        self._limits = limits

    def settled_status(self, order_id: str, seconds: int, or_waiting: bool = False) -> OrderStatusView:
        """The order's status when it has settled, or after `seconds`; as AwaitOrder says. Raises TooManyStreams."""
        with self._limits.long_poll():
            return self._bus.request(
                AwaitOrder(order_id=order_id, wait_ms=seconds * 1000, or_waiting=or_waiting, **request_origin())
            )

    def settled_order(self, order_id: str, seconds: int) -> tuple[dict[str, Any], dict[str, str]]:
        """Members and headers that the response to a new order gains by waiting; none if waiting fails.

        The order is stored in any case: a failure here must not look like a failure to place it.
        """
        try:
            # A payment that waits for the customer does not settle before this response says what to do.
            self.settled_status(order_id, seconds, or_waiting=True)
            order = own_view(self._bus.request(FindOrder(order_id=order_id, with_next_action=True, **request_origin())))
        except (Unavailable, TooManyStreams):
            return {}, {}
        return {"order": order}, {"Preference-Applied": f"wait={seconds}", "ETag": etag(order_id, order.version)}
