"""Distributed tracing: one span for each HTTP request, and child spans for the bus requests that it makes."""

from typing import TypeVar

import msgspec
from flask import Flask, Response, g, has_app_context, request

from app.contracts.base import Reply, Request
from app.messaging.bus import RequestClient
from app.observability.tracing import Span, Tracer

R = TypeVar("R", bound=Reply)


class TracedBus:
    """A bus that makes every request a part of the current HTTP request's trace."""

    def __init__(self, bus: RequestClient, tracer: Tracer) -> None:
        self._bus = bus
        self._tracer = tracer

    def request(self, message: Request[R]) -> R:
        """The owner's reply."""
        # A stream goes on when its HTTP request has ended, and belongs to no trace then.
        span: Span | None = g.get("span") if has_app_context() else None
        if span is None:
            return self._bus.request(message)
        with self._tracer.span(type(message).__name__, span.traceparent) as child:
            return self._bus.request(msgspec.structs.replace(message, traceparent=child.traceparent))


def install(app: Flask, tracer: Tracer) -> None:
    """Make every request of `app` a span, a part of the trace that its `traceparent` names."""

    def start_span() -> None:
        route = request.url_rule.rule if request.url_rule else ""
        g.span = tracer.start_span(
            f"{request.method} {route}".strip(),
            request.headers.get("traceparent", ""),
            request_id=g.request_id,
            **{"http.request.method": request.method, "http.route": route, "url.path": request.path},
        )
        g.traceparent = g.span.traceparent

    def end_span(response: Response) -> Response:
        span: Span | None = g.pop("span", None)
        if span:
            span.set_attributes(**{"http.response.status_code": response.status_code})
            span.end(failed=response.status_code >= 500)
        return response

    app.before_request(start_span)
    app.after_request(end_span)
