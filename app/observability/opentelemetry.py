"""Traces for OpenTelemetry; imported only where they are wanted. `pip install orderflow[otel]` brings what it needs."""

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

W3C = TraceContextTextMapPropagator()
FLUSH_MS = 2000
KINDS = {
    Stage.HANDED_TO_PAYMENTS: SpanKind.PRODUCER,
    Stage.PAYMENTS_RECEIVED: SpanKind.CONSUMER,
    Stage.PAYMENT_PROCESSED: SpanKind.CLIENT,
    Stage.HANDED_TO_ORDERS: SpanKind.PRODUCER,
    Stage.RESULT_RECEIVED: SpanKind.CONSUMER,
}
# How members of a line are called as attributes; the others say nothing more.
MEMBERS = {
    "order_id": "orderflow.order_id",
    "request_id": "orderflow.request_id",
    "module": "orderflow.module",
    "event_type": "orderflow.event",
    "order_status": "orderflow.order_status",
    "payment_status": "orderflow.payment_status",
}


class OpenSpan:
    """A span that is under way."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        W3C.inject(carrier, trace.set_span_in_context(span, Context()))
        self.traceparent = carrier.get("traceparent", "")

    def note(self, **attributes: str | int) -> None:
        """Say more of it."""
        self._span.set_attributes(_named(attributes))

    def end(self, failed: bool = False) -> None:
        """It is over."""
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class OpenTelemetry:
    """Makes spans of the steps of orders; see `traces.Tracer`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("orderflow", __version__)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "OpenTelemetry":
        """As OTEL_… describes it. Call it after any fork: it starts a thread."""
        names = {"service.version": __version__}
        if "OTEL_SERVICE_NAME" not in environ:
            names["service.name"] = "orderflow"
        provider = TracerProvider(resource=Resource.create(names))
        console = environ.get("OTEL_TRACES_EXPORTER") == "console"
        processor = SimpleSpanProcessor(ConsoleSpanExporter()) if console else BatchSpanProcessor(OTLPSpanExporter())
        provider.add_span_processor(processor)
        # For whatever else in this process speaks OpenTelemetry, a provider's HTTP client say.
        trace.set_tracer_provider(provider)
        return cls(provider)

    def begin(self, name: str, traceparent: str, **attributes: str | int) -> OpenSpan:
        """A request that a client makes of this process."""
        parent = _context(traceparent)
        return OpenSpan(self._tracer.start_span(name, parent, SpanKind.SERVER, _named(attributes)))

    @contextmanager
    def during(self, name: str, traceparent: str, *, link: str = "", **attributes: str | int) -> Iterator[OpenSpan]:
        """A span around a piece of work, current while it lasts; `link` is what it takes up again."""
        kind = KINDS.get(name, SpanKind.INTERNAL)  # type: ignore[call-overload]
        links = [_link(link, "retry")] if link else []
        span = self._tracer.start_span(name, _context(traceparent), kind, _named(attributes), links)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield OpenSpan(span)
            except ApplicationError as refusal:
                span.set_attribute("orderflow.refused", refusal.code)
                raise
            except Exception as exc:
                span.set_status(Status(StatusCode.ERROR, type(exc).__name__))
                raise

    def record_stages(self, stage: str, _at: float, lines: Sequence[dict[str, Any]]) -> None:
        """A span for each line that has a `traceparent`, which it loses."""
        now, kind, size = time.time_ns(), KINDS.get(stage, SpanKind.INTERNAL), len(lines)  # type: ignore[call-overload]
        for line in lines:
            traceparent = line.pop("traceparent", "")
            if not traceparent:
                continue
            attributes: dict[str, str | int] = {
                name: line[member] for member, name in MEMBERS.items() if member in line
            }
            attributes["orderflow.batch_size"] = size
            links = [_link(traceparent, "sweep")] if line.get("from_sweep") else []
            began = now - int(line["took_ms"] * 1e6)
            span = self._tracer.start_span(str(stage), _context(traceparent), kind, attributes, links, began)
            span.end(now)

    def flush(self) -> None:
        """Hand on what there is."""
        self._provider.force_flush(FLUSH_MS)


def _named(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {name if "." in name else f"orderflow.{name}": value for name, value in attributes.items()}


# An order's steps belong to the same few spans, one after the other.
@lru_cache(maxsize=1024)
def _context(traceparent: str) -> Context:
    return W3C.extract({"traceparent": traceparent}, Context()) if traceparent else Context()


def _link(traceparent: str, why: str) -> Link:
    context = trace.get_current_span(_context(traceparent)).get_span_context()
    return Link(context, {"orderflow.taken_up_by": why})
