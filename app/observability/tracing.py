"""Traces, as far as anybody here needs to know of them: off, `active` is None and nothing of OpenTelemetry is loaded."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTERS = ("otlp", "console")


class Span(Protocol):
    """A part of a trace that is under way; `traceparent` names it to whoever carries it on."""

    traceparent: str

    def note(self, **attributes: str | int) -> None:
        """Say more of it."""

    def end(self, failed: bool = False) -> None:
        """It is over."""


class Tracer(Protocol):
    """Makes spans. What they belong to is a W3C traceparent, empty for nothing."""

    def begin(self, name: str, traceparent: str, **attributes: str | int) -> Span:
        """A request that a client makes of this process."""

    def during(
        self, name: str, traceparent: str, *, link: str = "", **attributes: str | int
    ) -> AbstractContextManager[Span]:
        """A span around a piece of work, current while it lasts; `link` is what it takes up again."""

    def record_stages(self, stage: str, at: float, lines: Sequence[dict[str, Any]]) -> None:
        """A span for each line that has a `traceparent`, which it loses."""

    def flush(self) -> None:
        """Hand on what there is."""


active: Tracer | None = None


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where traces go, in OpenTelemetry's own terms."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    if exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return exporter in EXPORTERS or any(environ.get(name) for name in ENDPOINTS)
