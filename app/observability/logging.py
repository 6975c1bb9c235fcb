"""The log: one structured line per event, as readable text on a terminal and as JSON elsewhere."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import structlog

from app.contracts.base import Message
from app.observability.log_writer import LogWriter

log = structlog.get_logger("orderflow")
_output = sys.stdout
writer = LogWriter(lambda: _output)


def write_lines(event: str, records: Sequence[dict[str, Any]]) -> None:
    """Write one line at level info for each record; cheaper than one call of `log.info` per record."""
    _write_lines(event, records)


def _write_one_by_one(event: str, lines: Sequence[dict[str, Any]]) -> None:
    for line in lines:
        log.info(event, **line)


def _write_json(event: str, lines: Sequence[dict[str, Any]]) -> None:
    writer.put(len(lines), partial(_render_json, event, time.time(), lines))


def _render_json(event: str, at: float, lines: Sequence[dict[str, Any]]) -> str:
    # The same text as the processors below would render, at a tenth of the cost: most lines are stages.
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = f'{{"event":"{event}","level":"info","timestamp":"{moment}",'
    return "".join(f"{head}{_json_text(line)[1:]}\n" for line in lines)


def start_writing() -> None:
    """Write lines in a separate thread from now on, many in one system call.

    Warnings and errors wake the thread at once. A killed process loses the last queued lines; the durable record is in
    the database.
    """
    writer.start()


def stop_writing() -> None:
    """Write the queued lines; from now on the thread that logs a line writes it."""
    writer.stop()


def _write_nothing(_event: str, _lines: Sequence[dict[str, Any]]) -> None:
    """Used where level info is below the configured level."""


_write_lines: Callable[[str, Sequence[dict[str, Any]]], None] = _write_one_by_one


def write_to_standard_error() -> None:
    """From now on the lines go to standard error: a command has its result on standard output."""
    global _output
    _output = sys.stderr


def configure(log_format: str, log_level: str) -> None:
    """Configure all logging of this process, including libraries: one line per event, to standard output."""
    global _write_lines, _output
    _output = sys.stdout
    console = _is_console(log_format)
    processors = _processors(console)
    level = logging.getLevelNamesMapping()[log_level.upper()]
    _write_lines = _write_one_by_one if console else _write_json if level <= logging.INFO else _write_nothing
    structlog.configure(
        processors=[*processors, _renderer(console)],
        wrapper_class=_never_raising(structlog.make_filtering_bound_logger(level)),
        logger_factory=structlog.WriteLoggerFactory(writer),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(writer)
    handler.setFormatter(library_formatter(log_format))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)


def library_formatter(
    log_format: str, members: Callable[[logging.LogRecord], dict[str, Any]] = lambda _: {}
) -> logging.Formatter:
    """A formatter that gives the lines of a library the form of the application's own, with further `members`."""
    console = _is_console(log_format)

    def add_members(_logger: Any, _method: str, event: Any) -> Any:
        return {**event, **members(event["_record"])}

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[add_members, structlog.stdlib.ExtraAdder(), *_processors(console)],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(console)],
    )


def _is_console(log_format: str) -> bool:
    return log_format == "console" or (log_format == "auto" and sys.stdout.isatty())


def _processors(console: bool) -> list[Any]:
    timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    exceptions = [] if console else [structlog.processors.format_exc_info]
    return [structlog.stdlib.add_log_level, timestamp, *exceptions]


def _renderer(console: bool) -> Any:
    if console:
        # A pipe or a file gets the text without the codes of colours.
        return structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty(), pad_event_to=26, exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.processors.JSONRenderer(serializer=_json_text)


def _never_raising(logger: type[Any]) -> type[Any]:
    """A subclass of `logger` that drops and counts an event that cannot be rendered, instead of raising."""

    class SafeLogger(logger):  # type: ignore[misc]
        def _proxy_to_logger(self, method_name: str, event: str | None = None, *args: Any, **members: Any) -> Any:
            try:
                return super()._proxy_to_logger(method_name, event, *args, **members)
            except structlog.DropEvent:
                return None
            except Exception:
                writer.drop(1)
                return None

    return SafeLogger


def _json_text(event: dict[str, Any], **_: Any) -> str:
    try:
        return orjson.dumps(event, default=_json_value).decode()
    except (TypeError, ValueError):
        # Slower, and accepts what orjson rejects: huge integers, lone surrogates.
        return json.dumps(event, default=_json_value)


def _json_value(value: Any) -> Any:
    return value.log_fields() if isinstance(value, Message) else str(value)
