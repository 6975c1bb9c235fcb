"""The application for gunicorn, with a listener that kills its process once, at a database command.

`python -m gunicorn -c gunicorn.conf.py "tests.chaos.crash.armed_app:create_app()"`. The file POINT_FILE
has one point, such as `after orders.insert #1`; commands are counted from its creation. When the point is reached the file is
renamed to `fired`, so that the replacement process lives. VARIANT names a function of tools/simulation/mutations.py; if it
is empty, the application is sound.
"""

import os
import signal
from collections import Counter
from pathlib import Path

from flask import Flask
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app import main
from tools.simulation.mutations import MUTATIONS

POINT_FILE = "CRASH_POINT_FILE"
VARIANT = "CRASH_VARIANT"
FIRED = "fired"


class CrashTrigger(CommandListener):
    """Kills the process at the armed point."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._counts: Counter[str] = Counter()
        self._under_way: dict[int, str] = {}

    def started(self, event: CommandStartedEvent) -> None:
        collection = event.command.get(event.command_name)
        if not self._armed() or not isinstance(collection, str):
            return
        what = f"{collection}.{event.command_name}"
        self._counts[what] += 1
        self._under_way[event.request_id] = name = f"{what} #{self._counts[what]}"
        self._reach(f"before {name}")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._ended(event.request_id)

    def failed(self, event: CommandFailedEvent) -> None:
        self._ended(event.request_id)

    def _ended(self, request_id: int) -> None:
        name = self._under_way.pop(request_id, "")
        if name:
            self._reach(f"after {name}")

    def _armed(self) -> str:
        try:
            return self._file.read_text()
        except FileNotFoundError:
            return ""

    def _reach(self, point: str) -> None:
        if self._armed() == point:
            self._file.rename(self._file.with_name(FIRED))
            os.kill(os.getpid(), signal.SIGKILL)


def create_app() -> Flask:
    """Returns the application of this process's modules with the listener."""
    if os.environ[VARIANT]:
        MUTATIONS[os.environ[VARIANT]]()
    return main.create_app(event_listeners=[CrashTrigger(Path(os.environ[POINT_FILE]))])
