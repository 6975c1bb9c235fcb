"""An order's timeline, as JSON or as server-sent events."""

import time
from collections.abc import Callable, Iterator
from functools import partial

from flask import Blueprint, Response, request

from app.contracts.base import Unavailable
from app.contracts.orders import AwaitTimeline, Timeline
from app.gateway.apidocs.operation import Operation, Parameter
from app.gateway.http import schemas
from app.gateway.http.problem_catalogue import READ_ONE
from app.gateway.http.query import integer, query_parameter
from app.gateway.http.responses import encode_json, json_response
from app.gateway.http.sse import EVENT_STREAM, HEARTBEAT, MAX_STREAM_SECONDS, event, stream_response, wants_stream
from app.gateway.security.caller import READ, request_origin
from app.gateway.security.stream_limits import StreamLimits, client_disconnected
from app.messaging.bus import RequestClient

HEARTBEAT_SECONDS = 15.0
# How often a stream checks whether its client is still connected.
DISCONNECT_CHECK_SECONDS = 3.0
# Pause before the next request while orders do not answer.
PAUSE_SECONDS = 1.0

AFTER = Parameter(
    name="after",
    where="query",
    description="Only changes after this sequence.",
    schema={"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 0},
    example=1,
)
LAST_EVENT_ID = Parameter(
    name="Last-Event-ID",
    where="header",
    description="The sequence of the last change that the client has; overrides `after`.",
    schema={"type": "integer", "minimum": 0, "maximum": 999_999_999},
    example=1,
)
SAMPLE = """retry: 2000

id: 2
event: PaymentCaptured
data: {"orderId":"6920c1b05be0d3a1f2c4e687","sequence":2,"type":"PaymentCaptured",…}

: heartbeat
"""
EMPTY = Timeline(order_id="", version=0, entries=(), ending=False)

# The timeline after a sequence; waits up to so many seconds for an entry.
AwaitEntries = Callable[[int, float], Timeline]


def add_routes(routes: Blueprint, bus: RequestClient, limits: StreamLimits) -> None:
    """Add the timeline to the routes under /orders."""

    @routes.get("/one/<order_id>/events")
    @Operation(
        "Show an order's timeline, or stream it",
        scope=READ,
        responses={200: schemas.TimelineSchema},
        media_types={EVENT_STREAM: SAMPLE},
        problems=("too_many_streams", *READ_ONE),
        parameters=(AFTER, LAST_EVENT_ID),
    )
    def show_timeline(order_id: str) -> Response:
        origin = request_origin()  # A stream goes on when the context of its HTTP request has ended.

        def await_entries(after: int, seconds: float) -> Timeline:
            return bus.request(AwaitTimeline(order_id=order_id, after=after, wait_ms=int(seconds * 1000), **origin))

        after = _after()
        stream = wants_stream()
        timeline = await_entries(after, 0.0)
        if stream:
            next_batch = partial(_next_batch, await_entries, partial(client_disconnected, request.environ))
            return stream_response(limits, _events(next_batch, timeline, after))
        return json_response({"ok": True, "events": timeline.entries, "version": timeline.version}, Vary="Accept")


def _after() -> int:
    last_event_id = integer("Last-Event-ID", request.headers.get("Last-Event-ID"), 0)
    after = integer("after", query_parameter("after"), 0) or 0
    # A browser that reconnects sends the header, and repeats the query of its first request.
    return after if last_event_id is None else last_event_id


def _events(next_batch: Callable[[int], Timeline | None], timeline: Timeline | None, after: int) -> Iterator[bytes]:
    deadline = time.monotonic() + MAX_STREAM_SECONDS
    while timeline:
        for entry in timeline.entries:
            yield event(entry.type, encode_json(entry), entry.sequence)
            after = entry.sequence
        if timeline.ending or time.monotonic() >= deadline:
            return
        if not timeline.entries:
            yield HEARTBEAT
        timeline = next_batch(after)


def _next_batch(await_entries: AwaitEntries, disconnected: Callable[[], bool], after: int) -> Timeline | None:
    """The next entries, or EMPTY when a heartbeat is due; None if the client has disconnected."""
    deadline = time.monotonic() + HEARTBEAT_SECONDS
    while (remaining := deadline - time.monotonic()) > 0:
        if disconnected():
            return None
        try:
            timeline = await_entries(after, min(remaining, DISCONNECT_CHECK_SECONDS))
        except Unavailable:  # The stream stays open: most clients do not reconnect after an error.
            time.sleep(PAUSE_SECONDS)
            continue
        if timeline.entries or timeline.ending:
            return timeline
    return EMPTY
