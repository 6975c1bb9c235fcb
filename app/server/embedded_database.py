"""Runs the supervisor of the embedded database as a child of the server, and replaces it when it dies.

The server is about to fork, so nothing here imports the driver.
"""

import os
import subprocess  # starts parts of this program, with arguments of our own  # nosec B404
import sys
import time
from logging import Logger
from pathlib import Path
from urllib.parse import urlsplit

RESTART_SECONDS = 1.0
STOP_SECONDS = 45.0


class DatabaseNotStarted(RuntimeError):
    """The embedded database did not start. The reason is on standard error."""


class EmbeddedDatabase:
    """Runs `python -m app.storage.embedded_mongod` on a data folder.

    The database lives as long as a process holds the writing end of one pipe: the server and, because they inherit it,
    its workers. A new supervisor reads from the same pipe.
    """

    def __init__(self, data: Path, log: Logger) -> None:
        self._data = data
        self._log = log
        self._reading, self._writing = os.pipe()
        self._started_at = 0.0
        self._port: int | None = None
        self._process: subprocess.Popen[str]

    def start(self) -> str:
        """Start the database and return its URI, with user and password, once it accepts writes. Raises DatabaseNotStarted."""
        self._process = self._spawn(subprocess.PIPE)
        with self._process.stdout as stdout:  # type: ignore[union-attr]
            uri = stdout.readline().strip()
        if not uri:
            raise DatabaseNotStarted
        self._port = urlsplit(uri).port
        return uri

    def ensure_supervised(self) -> None:
        """If the supervisor has ended, start another for the same port, at most once in RESTART_SECONDS."""
        if self._process.poll() is None or time.monotonic() < self._started_at + RESTART_SECONDS:
            return
        self._log.warning("the supervisor of the embedded database has ended; another one is started")
        self._process = self._spawn(subprocess.DEVNULL, str(self._port))

    def stop(self) -> None:
        """Stop the database and its supervisor. Kills the supervisor after STOP_SECONDS."""
        os.close(self._writing)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _spawn(self, stdout: int, *port: str) -> subprocess.Popen[str]:
        self._started_at = time.monotonic()
        return subprocess.Popen(  # no shell, and only the name of our own folder in it  # nosec B603
            [sys.executable, "-m", "app.storage.embedded_mongod", str(self._data), *port],
            stdin=self._reading,
            stdout=stdout,
            text=True,
        )
