"""The log of gunicorn itself."""

import sys
from typing import Any

from gunicorn.glogging import Logger

from app.observability.log_writer import LogWriter

server_log = LogWriter(lambda: sys.stderr)


class ServerLogger(Logger):  # type: ignore[misc]
    """Writes gunicorn's lines in a thread, so that a full pipe blocks neither the master nor a worker."""

    def _set_handler(self, log: Any, output: str | None, fmt: Any, stream: Any = None) -> None:
        super()._set_handler(log, output, fmt, stream or server_log)
