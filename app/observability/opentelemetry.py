"""Traces over OpenTelemetry; imported only where traces are on. Needs `pip install orderflow[otel]`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app import __version__
from app.contracts.base import ApplicationError
from app.observability.stages import Stage

PROPAGATOR = TraceContextTextMapPropagator()
FLUSH_MS = 2000
SPAN_KINDS = {
    Stage.HANDED_TO_PAYMENTS: SpanKind.PRODUCER,
    Stage.PAYMENTS_RECEIVED: SpanKind.CONSUMER,
    Stage.PAYMENT_PROCESSED: SpanKind.CLIENT,
    Stage.HANDED_TO_ORDERS: SpanKind.PRODUCER,
    Stage.RESULT_RECEIVED: SpanKind.CONSUMER,
}
# Attribute names of the members of a line; other members are left out.
ATTRIBUTES = {
    "order_id": "orderflow.order_id",
    "request_id": "orderflow.request_id",
    "module": "orderflow.module",
    "event_type": "orderflow.event",
    "order_status": "orderflow.order_status",
    "payment_status": "orderflow.payment_status",
}


class OpenSpan:
    """A span that has not ended; see `tracing.Span`."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
        self.traceparent = carrier.get("traceparent", "")

    def set_attributes(self, **attributes: str | int) -> None:
        """Add attributes; a name without a dot gets the prefix `orderflow.`."""
        self._span.set_attributes(_prefixed(attributes))

    def end(self, failed: bool = False) -> None:
        """End the span."""
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class OpenTelemetryTracer:
    """Creates spans of requests and of the stages of orders; see `tracing.Tracer`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("orderflow", __version__)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "OpenTelemetryTracer":
        """Configured by the OTEL_… variables. Call it after any fork: it starts a thread."""
        names = {"service.version": __version__}
        if "OTEL_SERVICE_NAME" not in environ:
            names["service.name"] = "orderflow"
        provider = TracerProvider(resource=Resource.create(names))
        console = environ.get("OTEL_TRACES_EXPORTER") == "console"
        processor = SimpleSpanProcessor(ConsoleSpanExporter()) if console else BatchSpanProcessor(OTLPSpanExporter())
        provider.add_span_processor(processor)
        # For other OpenTelemetry instrumentation in this process, such as that of an HTTP client.
        trace.set_tracer_provider(provider)
        return cls(provider)

    def start_span(self, name: str, traceparent: str, **attributes: str | int) -> OpenSpan:
        """The span of a client's request to this process; the caller ends it."""
        parent = _context(traceparent)
        return OpenSpan(self._tracer.start_span(name, parent, SpanKind.SERVER, _prefixed(attributes)))

    @contextmanager
    def span(self, name: str, traceparent: str, *, link: str = "", **attributes: str | int) -> Iterator[OpenSpan]:
        """A context manager: a span around some work. `link` names an earlier span that the work repeats."""
        kind = SPAN_KINDS.get(name, SpanKind.INTERNAL)  # type: ignore[call-overload]
        links = [_link(link, "retry")] if link else []
        span = self._tracer.start_span(name, _context(traceparent), kind, _prefixed(attributes), links)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield OpenSpan(span)
            except ApplicationError as error:
                span.set_attribute("orderflow.error_code", error.code)
                raise
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def record_stages(self, stage: str, _at: float, lines: Sequence[dict[str, Any]]) -> None:
        """Create a span for each line with a `traceparent`, and remove that member; a stage subscriber."""
        now, kind, size = time.time_ns(), SPAN_KINDS.get(stage, SpanKind.INTERNAL), len(lines)  # type: ignore[call-overload]
        for line in lines:
            traceparent = line.pop("traceparent", "")
            if not traceparent:
                continue
            attributes: dict[str, str | int] = {
                name: line[member] for member, name in ATTRIBUTES.items() if member in line
            }
            attributes["orderflow.batch_size"] = size
            links = [_link(traceparent, "sweep")] if line.get("from_sweep") else []
            started = now - int(line["took_ms"] * 1e6)
            span = self._tracer.start_span(str(stage), _context(traceparent), kind, attributes, links, started)
            span.end(now)

    def flush(self) -> None:
        """Export all finished spans, within FLUSH_MS."""
        self._provider.force_flush(FLUSH_MS)


def _prefixed(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {name if "." in name else f"orderflow.{name}": value for name, value in attributes.items()}


# The stages of an order have few parents, so most lookups repeat.
@lru_cache(maxsize=1024)
def _context(traceparent: str) -> Context:
    return PROPAGATOR.extract({"traceparent": traceparent}, Context()) if traceparent else Context()


def _link(traceparent: str, reason: str) -> Link:
    context = trace.get_current_span(_context(traceparent)).get_span_context()
    return Link(context, {"orderflow.link_reason": reason})
