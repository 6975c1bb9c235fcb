"""What the console shows, as server-sent events: stages of orders, statistics of all stages, and what waits.

Any worker tells what all of them do. The stream is the live view alone: whoever comes again after it broke off is told
what was missed of the last seconds, and looks up the record for the rest.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
import orjson
from flask import Response, request

from app.contracts.base import QueueCounts, Unavailable
from app.contracts.base import Request as Question
from app.contracts.orders import CheckOrderQueue
from app.contracts.payments import CheckPaymentQueue
from app.gateway.http.query import InvalidParameter
from app.gateway.http.responses import json_answer
from app.gateway.routes.timeline import EVENT_STREAM, LONGEST_SECONDS, RETRY_MS
from app.gateway.security.connection_limits import Streams, hung_up
from app.messaging.bus import RequestClient

Line = dict[str, Any]

QUEUE_SECONDS = 1.0
# How much of the past a stream begins with, and how much it tells again to whoever comes back.
RECENT_SECONDS = 2.0
LONGEST_GAP_SECONDS = 30.0
SHOWN = ("stage", "at", "module", "order_id", "took_ms", "event_type", "answer", "order_status", "payment_status")
QUESTIONS: dict[str, type[Question[QueueCounts]]] = {"orders": CheckOrderQueue, "payments": CheckPaymentQueue}


class Live(Protocol):
    """The live feed, of all processes."""

    def follow_since(self, since: float, seconds: float) -> Iterator[list[Line]]:
        """Batches of lines and statistics from `since` on, an empty batch now and then."""

    def stages_of_order(self, order_id: str) -> Sequence[Line]:
        """The lines of one order that are still known."""


class Queues:
    """What waits in each module, looked up once a second at the most for all who watch."""

    def __init__(self, bus: RequestClient) -> None:
        self._bus = bus
        self._looked = 0.0
        self._known: dict[str, Line] = {}

    def now(self) -> dict[str, Line]:
        """By module its queue; a module that cannot tell is left out."""
        if time.monotonic() - self._looked > QUEUE_SECONDS:
            self._looked = time.monotonic()
            self._known = {module: msgspec.structs.asdict(queue) for module, queue in self._asked()}
        return self._known

    def _asked(self) -> Iterator[tuple[str, QueueCounts]]:
        for module, question in QUESTIONS.items():
            try:
                yield module, self._bus.request(question(request_id=""))
            except Unavailable:
                continue


def stream(bus: RequestClient, streams: Streams, live: Live) -> Callable[[], Response]:
    """The view of `GET /console/stream`: what waits now, as JSON, or all as it happens."""
    queues = Queues(bus)

    def show() -> Response:
        if request.accept_mimetypes.best_match(["application/json", EVENT_STREAM]) != EVENT_STREAM:
            return json_answer({"ok": True, "queues": queues.now()}, 200, Vary="Accept")
        since = _since(request.headers.get("Last-Event-ID"))
        who = streams.take()
        told = _told(live, queues, since, partial(hung_up, request.environ))
        response = Response(told, headers={"X-Accel-Buffering": "no", "Vary": "Accept"}, content_type=EVENT_STREAM)
        response.call_on_close(lambda: streams.leave(who))
        return response

    return show


def _since(last: str | None) -> float:
    """From when on to tell, in seconds since 1970; `last` is what the client has seen, in milliseconds."""
    now = time.time()
    if last is None:
        return now - RECENT_SECONDS
    if not last.isdecimal() or len(last) > 15:
        raise InvalidParameter("Last-Event-ID is an id of this stream", parameter="Last-Event-ID")
    return max(now - LONGEST_GAP_SECONDS, min(now, int(last) / 1000) - RECENT_SECONDS)


def _told(live: Live, queues: Queues, since: float, gone: Callable[[], bool]) -> Iterator[bytes]:
    yield b"retry: %d\n\n" % RETRY_MS
    next_queues = 0.0
    try:
        for batch in live.follow_since(since, LONGEST_SECONDS):
            yield from _events(batch)
            if time.monotonic() >= next_queues:
                next_queues = time.monotonic() + QUEUE_SECONDS
                yield _event("queues", {"now": int(time.time() * 1000), **queues.now()})
                if gone():
                    return
    except Unavailable:
        return  # The client comes again, and is told so then if it must be.


def _events(batch: Sequence[Line]) -> Iterator[bytes]:
    stages = [_shown(line) for line in batch if "stage" in line]
    if stages:
        yield b"id: %d\n" % int(max(line["at"] for line in batch) * 1000) + _event("stages", stages)
    for line in batch:
        if "statistics" in line:
            members = {"process": line["process"], "at": line["at"], "stages": line["statistics"]}
            yield _event("statistics", members)


def _shown(line: Line) -> Line:
    return {"id": str(line["_id"])} | {name: line[name] for name in SHOWN if name in line}


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))
