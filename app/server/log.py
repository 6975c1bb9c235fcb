"""gunicorn's own log."""

import sys
from typing import Any

from gunicorn.glogging import Logger

from app.observability.log_writer import LogWriter

server_log = LogWriter(lambda: sys.stderr)


class ServerLogger(Logger):  # type: ignore[misc]
    """gunicorn's own lines, written so that a log that nobody reads blocks neither the master nor a worker."""

    def _set_handler(self, log: Any, output: str | None, fmt: Any, stream: Any = None) -> None:
        super()._set_handler(log, output, fmt, stream or server_log)
