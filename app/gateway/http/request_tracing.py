"""Where a trace comes in: a span a request, carried on in whatever the bus is asked meanwhile."""

from typing import TypeVar

import msgspec
from flask import Flask, Response, g, has_app_context, request

from app.contracts.base import Reply, Request
from app.messaging.bus import RequestClient
from app.observability.tracing import Span, Tracer

R = TypeVar("R", bound=Reply)


class TracedBus:
    """The bus, each of whose questions is a part of the trace of the present request."""

    def __init__(self, bus: RequestClient, tracer: Tracer) -> None:
        self._bus = bus
        self._tracer = tracer

    def request(self, question: Request[R]) -> R:
        """The owner's reply."""
        # A stream goes on after its request; by then it is nobody's part.
        span: Span | None = g.get("span") if has_app_context() else None
        if span is None:
            return self._bus.request(question)
        with self._tracer.span(type(question).__name__, span.traceparent) as asked:
            return self._bus.request(msgspec.structs.replace(question, traceparent=asked.traceparent))


def install(app: Flask, tracer: Tracer) -> None:
    """Make every request of `app` a span, part of the trace that its `traceparent` names."""

    def begin() -> None:
        route = request.url_rule.rule if request.url_rule else ""
        g.span = tracer.start_span(
            f"{request.method} {route}".strip(),
            request.headers.get("traceparent", ""),
            request_id=g.request_id,
            **{"http.request.method": request.method, "http.route": route, "url.path": request.path},
        )
        g.traceparent = g.span.traceparent

    def end(response: Response) -> Response:
        span: Span | None = g.pop("span", None)
        if span:
            span.set_attributes(**{"http.response.status_code": response.status_code})
            span.end(failed=response.status_code >= 500)
        return response

    app.before_request(begin)
    app.after_request(end)
