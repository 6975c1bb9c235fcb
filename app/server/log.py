"""The log of gunicorn itself, in the form of the application's."""

import sys
from typing import Any

from gunicorn.glogging import Logger

from app.observability.log_writer import LogWriter
from app.observability.logging import library_formatter

server_log = LogWriter(lambda: sys.stderr)


class ServerLogger(Logger):  # type: ignore[misc]
    """Writes gunicorn's lines in a thread, so that a full pipe blocks neither the master nor a worker."""

    # Set when the server is configured.
    log_format = "auto"

    def _set_handler(self, log: Any, output: str | None, fmt: Any, stream: Any = None) -> None:  # noqa: ARG002
        formatter = library_formatter(self.log_format, lambda record: {"module": "server", "pid": record.process})
        super()._set_handler(log, output, formatter, stream or server_log)
