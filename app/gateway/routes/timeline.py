"""An order's timeline, as JSON or as it happens (server-sent events)."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
from flask import Blueprint, Response, g, request

from app.contracts.base import Unavailable
from app.contracts.orders import AwaitTimeline, Timeline, TimelineEntry
from app.gateway.apidocs.operation import Parameter, documented
from app.gateway.http import schemas
from app.gateway.http.query import parameter, whole
from app.gateway.http.responses import json_answer
from app.gateway.security.caller import caller
from app.gateway.security.connection_limits import Streams, hung_up
from app.messaging.bus import RequestClient

EVENT_STREAM = "text/event-stream"
HEARTBEAT_SECONDS = 15.0
# So often it is seen whether the client is still there.
SLICE_SECONDS = 3.0
RETRY_MS = 2000
PAUSE_SECONDS = 1.0
# Then the client comes again from where it was, and shows again who it is.
LONGEST_SECONDS = 300.0

AFTER = Parameter(
    name="after",
    where="query",
    description="Only steps after this sequence.",
    schema={"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 0},
    example=1,
)
LAST_EVENT_ID = Parameter(
    name="Last-Event-ID",
    where="header",
    description="The sequence of the last step that was seen; counts more than `after`.",
    schema={"type": "integer", "minimum": 0, "maximum": 999_999_999},
    example=1,
)
SAMPLE = """retry: 2000

id: 2
event: PaymentCaptured
data: {"orderId":"6920c1b05be0d3a1f2c4e687","sequence":2,"type":"PaymentCaptured",…}

: heartbeat
"""

Wait = Callable[[int, float], Timeline]


def add(routes: Blueprint, bus: RequestClient, streams: Streams) -> None:
    """Add the timeline to the routes under /orders."""

    @routes.get("/one/<order_id>/events")
    @documented(
        "Show an order's steps, or stream them",
        scope="orders:read",
        answers={200: schemas.TimelineSchema},
        also={EVENT_STREAM: SAMPLE},
        problems=("invalid_parameter", "order_not_found", "too_many_streams", "unavailable"),
        parameters=(AFTER, LAST_EVENT_ID),
    )
    def show_timeline(order_id: str) -> Response:
        request_id, owner = g.request_id, caller().owner

        def wait(after: int, seconds: float) -> Timeline:
            return bus.request(
                AwaitTimeline(
                    request_id=request_id,
                    order_id=order_id,
                    on_behalf_of=owner,
                    after=after,
                    wait_ms=int(seconds * 1000),
                )
            )

        after = _after()
        if request.accept_mimetypes.best_match(["application/json", EVENT_STREAM]) == EVENT_STREAM:
            return _stream(streams, wait, after)
        return _shown(wait(after, 0.0))


def _after() -> int:
    seen = whole("Last-Event-ID", request.headers.get("Last-Event-ID"), 0)
    named = whole("after", parameter("after"), 0) or 0
    # What the client has really seen is worth more than what its address says.
    return named if seen is None else seen


def _shown(timeline: Timeline) -> Response:
    return json_answer({"ok": True, "events": timeline.entries, "version": timeline.version}, 200, Vary="Accept")


def _stream(streams: Streams, wait: Wait, after: int) -> Response:
    first = wait(after, 0.0)
    who = streams.take()
    response = Response(
        _told(partial(_next, wait, partial(hung_up, request.environ)), first, after),
        headers={"X-Accel-Buffering": "no", "Vary": "Accept"},
        content_type=EVENT_STREAM,
    )
    response.call_on_close(lambda: streams.leave(who))
    return response


def _told(following: Callable[[int], Timeline | None], timeline: Timeline | None, after: int) -> Iterator[bytes]:
    ends = time.monotonic() + LONGEST_SECONDS
    yield b"retry: %d\n\n" % RETRY_MS
    while timeline:
        for entry in timeline.entries:
            yield _event(entry)
            after = entry.sequence
        if timeline.ending or time.monotonic() >= ends:
            return
        if not timeline.entries:
            yield b": heartbeat\n\n"
        timeline = following(after)


def _next(wait: Wait, gone: Callable[[], bool], after: int) -> Timeline | None:
    """What comes next, or nothing when it is time for a heartbeat; None where nobody listens any more."""
    ends = time.monotonic() + HEARTBEAT_SECONDS
    quiet = Timeline(order_id="", version=0, entries=(), ending=False)
    while (left := ends - time.monotonic()) > 0:
        if gone():
            return None
        timeline = _patiently(wait, after, min(left, SLICE_SECONDS))
        if timeline and (timeline.entries or timeline.ending):
            return timeline
    return quiet


def _patiently(wait: Wait, after: int, seconds: float) -> Timeline | None:
    """None, a moment later, where the database is away: most clients do not come again after an error."""
    try:
        return wait(after, seconds)
    except Unavailable:
        time.sleep(PAUSE_SECONDS)
        return None


def _event(entry: TimelineEntry) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        entry.sequence,
        entry.type.encode(),
        msgspec.json.encode(entry),
    )
