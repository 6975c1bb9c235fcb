"""The log: one structured line for each step of an order's way, readable on a terminal, JSON elsewhere."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any

import orjson
import structlog

from app.log_writer import LogWriter

log = structlog.get_logger("orderflow")
_output = sys.stdout
writer = LogWriter(lambda: _output)


class Step(StrEnum):
    """The nine steps of an order's way, in their order."""

    GATEWAY_RECEIVED = "gateway received"
    ORDERS_RECEIVED = "orders received"
    ORDER_STORED = "order stored"
    HANDED_TO_PAYMENTS = "event handed to payments"
    PAYMENTS_RECEIVED = "payments received"
    PAYMENT_PROCESSED = "payment processed"
    HANDED_TO_ORDERS = "result handed to orders"
    RESULT_RECEIVED = "orders received result"
    ORDER_UPDATED = "order updated"


# Who counts steps: called once for all the lines of a batch.
meter: Callable[[str, Sequence[dict[str, Any]]], None] | None = None
# Who makes spans of them, where traces are wanted.
tracer: Callable[[str, Sequence[dict[str, Any]]], None] | None = None
# Whoever else wants every step; called with the step, the time in seconds since 1970, and the lines, which are shared.
listeners: list[Callable[[str, float, Sequence[dict[str, Any]]], None]] = []


def tell(step: str, *, module: str, order_id: str, request_id: str, took_ms: float, **more: Any) -> None:
    """One line: `step` happened to an order in `module` and took so many milliseconds."""
    tell_each(step, [line_of(module=module, order_id=order_id, request_id=request_id, took_ms=took_ms, **more)])


def line_of(
    *, module: str, order_id: str, request_id: str, took_ms: float, traceparent: str = "", **more: Any
) -> dict[str, Any]:
    """The members of one line; `traceparent` is the trace that it is a part of."""
    if traceparent:
        more["traceparent"] = traceparent
    return {"module": module, "order_id": order_id, "request_id": request_id, "took_ms": round(took_ms, 2), **more}


def tell_each(step: str, lines: Sequence[dict[str, Any]]) -> None:
    """A line for each of many orders to which `step` happened, written at once. Never raises."""
    _writer(step, lines)
    for subscriber in (meter, tracer):
        if subscriber:
            _safely(subscriber, step, lines)
    if listeners:
        at = time.time()
        for listener in listeners:
            _safely(listener, step, at, lines)


def _safely(subscriber: Callable[..., None], *stage: Any) -> None:
    try:
        subscriber(*stage)
    except Exception:
        log.exception("stage subscriber failed", step=stage[0])


def _write_one_by_one(step: str, lines: Sequence[dict[str, Any]]) -> None:
    for line in lines:
        log.info(step, **line)


def _write_json(step: str, lines: Sequence[dict[str, Any]]) -> None:
    writer.put(len(lines), partial(_rendered, step, time.time(), lines))


def _rendered(step: str, at: float, lines: Sequence[dict[str, Any]]) -> str:
    # What the processors below would make of it, at a tenth of their cost: steps are most of all lines.
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = f'{{"event":"{step}","level":"info","timestamp":"{moment}",'
    return "".join(f"{head}{_json_text(line)[1:]}\n" for line in lines)


def start_writing() -> None:
    """Leave the writing to a thread: one write for all steps that happen within a moment.

    Warnings and errors wake the thread at once. A process that is killed takes the last moment's lines along: its log
    is for reading, the record is in the database.
    """
    writer.start()


def stop_writing() -> None:
    """Write what waits; from now on each line is written by its caller."""
    writer.stop()


def _write_nothing(_step: str, _lines: Sequence[dict[str, Any]]) -> None:
    """Steps are below the level."""


_writer: Callable[[str, Sequence[dict[str, Any]]], None] = _write_one_by_one


def configure(log_format: str, log_level: str) -> None:
    """Set up all logging of this process, the libraries' included: one line an event, to standard output."""
    global _writer, _output
    _output = sys.stdout
    console = log_format == "console" or (log_format == "auto" and sys.stdout.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(pad_event_to=26, exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(serializer=_json_text)
    )
    exceptions: list[Any] = [] if console else [structlog.processors.format_exc_info]
    level = logging.getLevelNamesMapping()[log_level.upper()]
    _writer = _write_one_by_one if console else _write_json if level <= logging.INFO else _write_nothing
    structlog.configure(
        processors=[*shared, *exceptions, renderer],
        wrapper_class=_never_raising(structlog.make_filtering_bound_logger(level)),
        logger_factory=structlog.WriteLoggerFactory(writer),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), *exceptions],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)


def _never_raising(logger: type[Any]) -> type[Any]:
    """The class of loggers with its last step guarded: an event that cannot be rendered is dropped and counted."""

    class NeverRaising(logger):  # type: ignore[misc]
        def _proxy_to_logger(self, method_name: str, event: str | None = None, *args: Any, **members: Any) -> Any:
            try:
                return super()._proxy_to_logger(method_name, event, *args, **members)
            except structlog.DropEvent:
                return None
            except Exception:
                writer.drop(1)
                return None

    return NeverRaising


def _json_text(event: dict[str, Any], **_: Any) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except (TypeError, ValueError):
        return json.dumps(event, default=str)  # Slower, and takes what orjson will not: huge numbers, half characters.
