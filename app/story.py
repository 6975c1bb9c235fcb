"""The log: one structured line for each step of an order's way, readable on a terminal, JSON elsewhere."""

import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson
import structlog

log = structlog.get_logger("orderflow")

WRITE_SECONDS = 0.05
_unwritten: deque[tuple[str, float, Sequence[dict[str, Any]]]] = deque()
_writing = threading.Event()


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
    """A line for each of many orders to which `step` happened, written at once."""
    _writer(step, lines)
    if meter:
        meter(step, lines)
    if tracer:
        tracer(step, lines)
    if listeners:
        at = time.time()
        for listener in listeners:
            listener(step, at, lines)


def _write_one_by_one(step: str, lines: Sequence[dict[str, Any]]) -> None:
    for line in lines:
        log.info(step, **line)


def _write_json(step: str, lines: Sequence[dict[str, Any]]) -> None:
    _unwritten.append((step, time.time(), lines))
    if not _writing.is_set():
        write_out()


def write_out() -> None:
    """Write down the steps that wait for it."""
    texts = []
    with suppress(IndexError):
        while True:
            texts += _rendered(*_unwritten.popleft())
    if texts:
        sys.stdout.write("".join(texts))
        sys.stdout.flush()


def _rendered(step: str, at: float, lines: Sequence[dict[str, Any]]) -> list[str]:
    # What the processors below would make of it, at a tenth of their cost: steps are most of all lines.
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    told = f'{{"event":"{step}","level":"info","timestamp":"{moment}",'
    return [f"{told}{_json_text(line)[1:]}\n" for line in lines]


def start_writing() -> None:
    """Leave the writing of steps to a thread of its own: one write for all that happened within WRITE_SECONDS.

    Warnings and errors are written at once. A process that is killed takes the last moment's steps along: its log is
    for reading, the record is in the database.
    """
    if not _writing.is_set():
        _writing.set()
        threading.Thread(target=_write_on, name="story", daemon=True).start()


def stop_writing() -> None:
    """Write down what waits, and from now on each step at once."""
    _writing.clear()
    write_out()


def _write_on() -> None:
    while _writing.is_set():
        time.sleep(WRITE_SECONDS)
        write_out()


def _write_nothing(_step: str, _lines: Sequence[dict[str, Any]]) -> None:
    """Steps are below the level."""


_writer: Callable[[str, Sequence[dict[str, Any]]], None] = _write_one_by_one


def configure(log_format: str, log_level: str) -> None:
    """Set up all logging of this process, the libraries' included: one line an event, to standard output."""
    global _writer
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
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), *exceptions],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)


def _json_text(event: dict[str, Any], **_: Any) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except (TypeError, ValueError):
        return json.dumps(event, default=str)  # Slower, and takes what orjson will not: huge numbers, half characters.
