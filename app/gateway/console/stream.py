"""The console's live view, as server-sent events: stages of orders, statistics of all stages, and the modules' queues.

Each worker streams what all processes do. A client that reconnects gets the last seconds again; what it missed before
them is in the timelines of the orders.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
from flask import Response, request

from app.contracts.base import QueueCounts, Unavailable
from app.contracts.base import Request as BusRequest
from app.contracts.orders import CheckOrderQueue
from app.contracts.payments import CheckPaymentQueue
from app.gateway.http.query import InvalidParameter
from app.gateway.http.responses import encode_json, json_response
from app.gateway.http.sse import MAX_STREAM_SECONDS, event, stream_response, wants_stream
from app.gateway.security.stream_limits import StreamLimits, client_disconnected
from app.messaging.bus import RequestClient

Line = dict[str, Any]

QUEUE_INTERVAL_SECONDS = 1.0
# A stream begins this long before now, and a resumed one this long before the client's last event.
RECENT_SECONDS = 2.0
MAX_REPLAY_SECONDS = 30.0
STAGE_MEMBERS = (
    "stage",
    "at",
    "module",
    "order_id",
    "took_ms",
    "event_type",
    "answer",
    "order_status",
    "payment_status",
)
QUEUE_CHECKS: dict[str, type[BusRequest[QueueCounts]]] = {"orders": CheckOrderQueue, "payments": CheckPaymentQueue}


class StageFeed(Protocol):
    """The live feed of all processes."""

    def follow_since(self, since: float, seconds: float) -> Iterator[list[Line]]:
        """Batches of lines and statistics from `since` on, an empty batch now and then."""

    def stages_of_order(self, order_id: str) -> Sequence[Line]:
        """The lines of one order that are still known."""


class QueueMonitor:
    """The modules' queues, requested at most once a second for all clients together."""

    def __init__(self, bus: RequestClient) -> None:
        self._bus = bus
        self._requested_at = 0.0
        self._queues: dict[str, Line] = {}

    def now(self) -> dict[str, Line]:
        """The queue of each module that answers."""
        if time.monotonic() - self._requested_at > QUEUE_INTERVAL_SECONDS:
            self._requested_at = time.monotonic()
            self._queues = {module: msgspec.structs.asdict(queue) for module, queue in self._request()}
        return self._queues

    def _request(self) -> Iterator[tuple[str, QueueCounts]]:
        for module, check in QUEUE_CHECKS.items():
            try:
                yield module, self._bus.request(check(request_id=""))
            except Unavailable:
                continue


def stream_view(bus: RequestClient, limits: StreamLimits, feed: StageFeed) -> Callable[[], Response]:
    """The view of `GET /console/stream`: the present queues as JSON, or the live view."""
    queues = QueueMonitor(bus)

    def stream() -> Response:
        if not wants_stream():
            return json_response({"ok": True, "queues": queues.now()}, Vary="Accept")
        since = _since(request.headers.get("Last-Event-ID"))
        return stream_response(limits, _events(feed, queues, since, partial(client_disconnected, request.environ)))

    return stream


def _since(last_event_id: str | None) -> float:
    """The time from which to stream, in seconds since 1970; an event's id is its time in milliseconds."""
    now = time.time()
    if last_event_id is None:
        return now - RECENT_SECONDS
    if not last_event_id.isdecimal() or len(last_event_id) > 15:
        raise InvalidParameter("Last-Event-ID is the id of an event of this stream", parameter="Last-Event-ID")
    return max(now - MAX_REPLAY_SECONDS, min(now, int(last_event_id) / 1000) - RECENT_SECONDS)


def _events(feed: StageFeed, queues: QueueMonitor, since: float, disconnected: Callable[[], bool]) -> Iterator[bytes]:
    next_queues = 0.0
    try:
        for batch in feed.follow_since(since, MAX_STREAM_SECONDS):
            yield from _batch_events(batch)
            if time.monotonic() >= next_queues:
                next_queues = time.monotonic() + QUEUE_INTERVAL_SECONDS
                yield event("queues", encode_json({"now": int(time.time() * 1000), **queues.now()}))
                if disconnected():
                    return
    except Unavailable:
        return  # The client reconnects; the new request reports the error if it lasts.


def _batch_events(batch: Sequence[Line]) -> Iterator[bytes]:
    stages = [_stage(line) for line in batch if "stage" in line]
    if stages:
        yield event("stages", encode_json(stages), int(max(line["at"] for line in batch) * 1000))
    for line in batch:
        if "statistics" in line:
            members = {"process": line["process"], "at": line["at"], "stages": line["statistics"]}
            yield event("statistics", encode_json(members))


def _stage(line: Line) -> Line:
    return {"id": str(line["_id"])} | {name: line[name] for name in STAGE_MEMBERS if name in line}
