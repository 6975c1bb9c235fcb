"""The port to traces. Where traces are off, `tracer` is None and no module of OpenTelemetry is loaded."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTERS = ("otlp", "console")


class Span(Protocol):
    """A span that has not ended. `traceparent` names it to the process that continues the trace."""

    traceparent: str

    def set_attributes(self, **attributes: str | int) -> None:
        """Add attributes; a name without a dot gets the prefix `orderflow.`."""

    def end(self, failed: bool = False) -> None:
        """End the span."""


class Tracer(Protocol):
    """Creates spans. `traceparent` names the W3C trace that a span belongs to; empty for a new one."""

    def start_span(self, name: str, traceparent: str, **attributes: str | int) -> Span:
        """The span of a client's request to this process; the caller ends it."""

    def span(
        self, name: str, traceparent: str, *, link: str = "", **attributes: str | int
    ) -> AbstractContextManager[Span]:
        """A context manager: a span around some work. `link` names an earlier span that the work repeats."""

    def record_stages(self, stage: str, at: float, lines: Sequence[dict[str, Any]]) -> None:
        """Create a span for each line with a `traceparent`, and remove that member; a stage subscriber."""

    def flush(self) -> None:
        """Export all finished spans."""


tracer: Tracer | None = None


def enabled(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name an exporter or an endpoint."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    if exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return exporter in EXPORTERS or any(environ.get(name) for name in ENDPOINTS)
