"""A collection whose commands may be lost, late or fatal: what stands between the repositories and the real mongod."""

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, NetworkTimeout, PyMongoError

from tools.simulation.faults import DatabaseFault
from tools.simulation.scheduler import Owner, Scheduler

# A late command takes effect within the deadline that mongod was given for it.
LATE_SECONDS = 5.0
# The callers that name the step of a command: the functions of these files.
REPOSITORIES = (
    "/orders/repository.py",
    "/orders/queries.py",
    "/payments/repository.py",
    "/payments/notification_repository.py",
    "/messaging/outbox.py",
    "/providers/ledger.py",
)
METHODS = frozenset(
    {
        "find", "find_one", "count_documents", "find_one_and_update", "insert_many", "update_one", "update_many",
        "bulk_write",
    }
)  # fmt: skip


class FaultChooser(Protocol):
    """Decides which fault, if any, happens to a command."""

    scheduler: Scheduler
    world: Owner

    def database_fault(self, step: str, method: str) -> DatabaseFault | None:
        """The fault of the command that begins now."""

    def has_primary(self) -> bool:
        """Whether the database can be reached at all."""

    def die(self, owner: Owner) -> None:
        """End a process, with the task that calls this."""


class VirtualClock:
    """The database's clock, in virtual time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def now(self) -> datetime:
        """The time in UTC, in whole milliseconds."""
        exact = datetime.fromtimestamp(self._scheduler.now, UTC)
        return exact.replace(microsecond=exact.microsecond // 1000 * 1000)


class VirtualDatabase:
    """What a store needs of its database."""

    def __init__(self, chooser: FaultChooser) -> None:
        self.clock = VirtualClock(chooser.scheduler)
        self._chooser = chooser

    def secret(self, _name: str, _database: str = "") -> bytes:
        """The key that signs notifications."""
        return b"secret of the simulated provider"

    def writable(self) -> bool:
        """Whether a primary is known."""
        return self._chooser.has_primary()


class FaultyCollection:
    """A real collection as one process sees it."""

    def __init__(self, real: Collection[Any], owner: Owner, chooser: FaultChooser) -> None:
        self._real = real
        self._owner = owner
        self._chooser = chooser

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in METHODS:
            return found

        def command(*args: Any, **options: Any) -> Any:
            return self._run(name, lambda: found(*args, **options))

        return command

    def _run(self, method: str, send: Callable[[], Any]) -> Any:
        chooser = self._chooser
        step = f"{self._real.name} {_caller()}"
        fault = chooser.database_fault(step, method)
        if fault == DatabaseFault.DEATH_BEFORE:
            chooser.die(self._owner)
        chooser.scheduler.pause(f"{step}, {method}")
        if fault == DatabaseFault.REQUEST_LOST or not chooser.has_primary():
            raise AutoReconnect("simulated")
        if fault == DatabaseFault.LATE:
            chooser.scheduler.spawn(chooser.world, f"late {step}", lambda: self._late(send), within=LATE_SECONDS)
            raise NetworkTimeout("simulated")
        result = send()
        if fault == DatabaseFault.DEATH_AFTER:
            chooser.die(self._owner)
        if fault == DatabaseFault.REPLY_LOST:
            raise AutoReconnect("simulated")
        return result

    def _late(self, send: Callable[[], Any]) -> None:
        self._chooser.scheduler.bound(LATE_SECONDS)
        self._chooser.scheduler.pause("is under way")
        self._chooser.scheduler.bound(None)
        # Nobody learns how it ends.
        with suppress(PyMongoError):
            send()


def _caller() -> str:
    """The function of a repository that sends the command."""
    frame: Any = sys._getframe(2)
    while frame and not frame.f_code.co_filename.endswith(REPOSITORIES):
        frame = frame.f_back
    return frame.f_code.co_name if frame else "outside"
