"""Waiting for an order to settle: `Prefer: wait=N` (RFC 7240) and `?wait=N`."""

import re
from typing import Any
from urllib.request import parse_http_list

from flask import g, request

from app.contracts.base import Unavailable
from app.contracts.orders import AwaitOrder, FindOrder, OrderStatusView
from app.gateway.apidocs.operation import Parameter
from app.gateway.http.query import parameter, whole
from app.gateway.http.responses import etag
from app.gateway.security.caller import caller
from app.gateway.security.connection_limits import Streams, TooManyStreams
from app.messaging.bus import RequestClient

LONGEST = 30
PREFER = Parameter(
    name="Prefer",
    where="header",
    description="`wait=N` (RFC 7240): answer once the order has settled, or after N seconds, 30 at the most.",
    schema={"type": "string"},
    example="wait=10",
)
WAIT_PARAMETER = Parameter(
    name="wait",
    where="query",
    description="Answer once the order is no longer Processing, or after so many seconds; more than 30 count as 30.",
    schema={"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 0},
    example=10,
)
WAIT = re.compile(r'\s*wait\s*=\s*(?:"([0-9]{1,9})"|([0-9]{1,9}))\s*(?:;.*)?', re.IGNORECASE)
NAMED = re.compile(r"\s*wait\s*(?:[=;]|\Z)", re.IGNORECASE)


def preferred_wait() -> int | None:
    """How many seconds the client prefers to wait; None where it prefers nothing that can be understood."""
    given = request.environ.get("HTTP_PREFER")
    if given is None:
        return None
    # The first of that name counts, and one that is malformed is as if it were not there.
    first = next((one for one in parse_http_list(given) if NAMED.match(one)), "")
    found = WAIT.fullmatch(first)
    return min(LONGEST, int(found[1] or found[2])) if found else None


def wanted_wait() -> int:
    """The seconds of `?wait`, 0 where it is not given. Raises InvalidParameter."""
    return min(LONGEST, whole("wait", parameter("wait"), 0) or 0)


class Waiting:
    """Has requests wait, as many as may."""

    def __init__(self, bus: RequestClient, streams: Streams) -> None:
        self._bus = bus
        self._streams = streams

    def status(self, order_id: str, seconds: int) -> OrderStatusView:
        """The order's status once it has settled, or when the time is over. Raises TooManyStreams."""
        with self._streams.place():
            return self._await(order_id, seconds)

    def new_order(self, order_id: str, seconds: int) -> tuple[dict[str, Any], dict[str, str]]:
        """What the answer to a new order gains when it is waited for: members and headers.

        The order stands whatever happens here: where it cannot be waited for, the preference is not met, and that is all.
        """
        try:
            with self._streams.place():
                self._await(order_id, seconds)
            found = self._bus.request(
                FindOrder(request_id=g.request_id, order_id=order_id, on_behalf_of=caller().owner)
            )
        except (Unavailable, TooManyStreams):
            return {}, {}
        applied = {"Preference-Applied": f"wait={seconds}", "ETag": etag(order_id, found.version)}
        return {"order": found}, applied

    def _await(self, order_id: str, seconds: int) -> OrderStatusView:
        return self._bus.request(
            AwaitOrder(
                request_id=g.request_id,
                order_id=order_id,
                on_behalf_of=caller().owner,
                wait_ms=seconds * 1000,
            )
        )
