"""Server-sent events: the wire format, and a response that holds one of the caller's places for streams."""

from collections.abc import Iterator

from flask import Response, request

from app.gateway.http.responses import JSON
from app.gateway.security.stream_limits import StreamLimits

EVENT_STREAM = "text/event-stream"
# After this time a stream ends. The client connects again, continues from its last event and shows its token again.
MAX_STREAM_SECONDS = 300.0
HEARTBEAT = b": heartbeat\n\n"
# How long the client waits before it connects again, in milliseconds.
RETRY = b"retry: 2000\n\n"


def wants_stream() -> bool:
    """Whether the request prefers a stream to JSON."""
    return request.accept_mimetypes.best_match([JSON, EVENT_STREAM]) == EVENT_STREAM


def event(name: str, data: bytes, event_id: int | None = None) -> bytes:
    """One event; `data` is JSON on one line."""
    prefix = b"" if event_id is None else b"id: %d\n" % event_id
    return b"%sevent: %s\ndata: %s\n\n" % (prefix, name.encode(), data)


def stream_response(limits: StreamLimits, events: Iterator[bytes]) -> Response:
    """Streams `events`; holds one place of `limits` until the response is closed. Raises TooManyStreams."""
    caller_key = limits.acquire()
    response = Response(
        _with_retry(events), headers={"X-Accel-Buffering": "no", "Vary": "Accept"}, content_type=EVENT_STREAM
    )
    response.call_on_close(lambda: limits.release(caller_key))
    return response


def _with_retry(events: Iterator[bytes]) -> Iterator[bytes]:
    yield RETRY
    yield from events
