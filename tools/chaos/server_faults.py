"""Faults of one server: its processes, its log, its threads, its database and its clock."""

import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from random import Random

import psutil
from pymongo.errors import PyMongoError

from app.storage.embedded_mongod import HOST
from tools.chaos.faults import FaultInjector, FaultKind
from tools.chaos.small_disk import fill_under_mongod
from tools.chaos.target import LOG_FORMATS, LogDestination, Target
from tools.chaos.time_jump import age_open_work
from tools.cluster.processes import send_signal

# The faults of one round. The first round begins with the first two, so that even a short run has both.
ROUND = (
    FaultKind.KILL_WORKER,
    FaultKind.KILL_DATABASE,
    FaultKind.PAUSE_WORKER,
    FaultKind.KILL_LOG_READER,
    FaultKind.KILL_DATABASE,
    FaultKind.END_THREAD,
    FaultKind.KILL_WORKER,
    FaultKind.TIME_JUMP,
    FaultKind.KILL_SERVER,
    FaultKind.STOP_LOG_READER,
    FaultKind.KILL_WORKER,
    FaultKind.END_THREAD,
    FaultKind.FILL_LOG_DISK,
    FaultKind.KILL_SUPERVISOR,
    FaultKind.END_WORKER,
    FaultKind.END_THREAD,
    FaultKind.FILL_DATA_DISK,
    FaultKind.KILL_WORKER,
    FaultKind.KILL_SUPERVISOR_AND_DATABASE,
    FaultKind.OCCUPY_PORT,
    FaultKind.RELOAD,
)
FIRST = 2
DISK_FULL_SECONDS = (1.0, 5.0)
# Longer than the supervisor of mongod waits for a port once.
OCCUPIED_SECONDS = (32.0, 40.0)
JUMP_HOURS = (24.5, 96.0)
DOWN_SECONDS = 10.0


class ServerFaultInjector(FaultInjector):
    """Injects faults into one server; a paused worker stays paused `pause` seconds.

    `aged` are the ids of the orders that were open at a time jump: their provider keys have expired.
    """

    def __init__(
        self, target: Target, database: str, random: Random, pause: float, kinds: Sequence[FaultKind], first: int
    ) -> None:
        actions = {
            FaultKind.KILL_WORKER: lambda: self._signal_worker(signal.SIGKILL),
            FaultKind.END_WORKER: lambda: self._signal_worker(signal.SIGTERM),
            FaultKind.PAUSE_WORKER: self._pause_worker,
            FaultKind.RELOAD: self._reload,
            FaultKind.KILL_SERVER: self._kill_server,
            FaultKind.KILL_DATABASE: self._kill_database,
            FaultKind.KILL_LOG_READER: self._kill_log_reader,
            FaultKind.STOP_LOG_READER: self._stop_log_reader,
            FaultKind.FILL_LOG_DISK: self._fill_log_disk,
            FaultKind.FILL_DATA_DISK: self._fill_data_disk,
            FaultKind.END_THREAD: lambda: target.end_threads(random.randrange(1000)),
            FaultKind.KILL_SUPERVISOR: lambda: self._kill_supervisor(with_database=False),
            FaultKind.KILL_SUPERVISOR_AND_DATABASE: lambda: self._kill_supervisor(with_database=True),
            FaultKind.OCCUPY_PORT: self._occupy_port,
            FaultKind.TIME_JUMP: self._time_jump,
        }
        super().__init__(random, actions, kinds, first)
        self._target = target
        self._database = database
        self._pause = pause
        self._paused: psutil.Process | None = None
        self.aged: set[str] = set()

    def _signal_worker(self, number: signal.Signals) -> bool:
        return send_signal(self._choose_worker(), number)

    def _choose_worker(self) -> psutil.Process:
        workers = self._target.workers()
        return self._random.choice([worker for worker in workers if worker != self._paused] or workers)

    def _pause_worker(self) -> bool:
        if self._paused:
            return False
        self._paused = self._choose_worker()
        self.undo_after(self._pause, self._resume)
        return send_signal(self._paused, signal.SIGSTOP)

    def _resume(self) -> None:
        if self._paused:
            send_signal(self._paused, signal.SIGCONT)
        self._paused = None

    def _reload(self) -> bool:
        self._target.reload()
        return True

    def _kill_server(self) -> bool:
        self._target.kill()
        # No server starts on a full disk.
        self.undo_all()
        self._start_server()
        return True

    def _start_server(self) -> None:
        self._target.log_destination = self._random.choice([*LogDestination])
        self._target.log_format = self._random.choice(LOG_FORMATS)
        self._target.start()

    def _kill_database(self) -> bool:
        database = self._target.database()
        return database is not None and send_signal(database, signal.SIGKILL)

    def _kill_supervisor(self, *, with_database: bool) -> bool:
        supervisor, database = self._target.supervisor(), self._target.database()
        if supervisor is None:
            return False
        killed = send_signal(supervisor, signal.SIGKILL)
        if with_database and database:
            send_signal(database, signal.SIGKILL)
        return killed

    def _occupy_port(self) -> bool:
        """Kills mongod and listens on its port before the supervisor can start it again."""
        supervisor, database = self._target.supervisor(), self._target.database()
        if supervisor is None or database is None:
            return False
        port = self._target.mongodb_port
        send_signal(supervisor, signal.SIGSTOP)
        try:
            send_signal(database, signal.SIGKILL)
            with suppress(psutil.TimeoutExpired):
                database.wait(DOWN_SECONDS)
            listener = socket.create_server((HOST, port))
        finally:
            send_signal(supervisor, signal.SIGCONT)
        self.mark_begin()
        self.undo_after(self._random.uniform(*OCCUPIED_SECONDS), listener.close)
        return True

    def _kill_log_reader(self) -> bool:
        self._set_log_destination(LogDestination.PIPE)
        self._target.kill_log_reader()
        return True

    def _stop_log_reader(self) -> bool:
        self._set_log_destination(LogDestination.PIPE)
        return self._target.stop_log_reader()

    def _set_log_destination(self, destination: LogDestination) -> None:
        """Restarts the server unless its log goes there already; the fault begins after that."""
        if not self._target.writes_log_to(destination):
            self.undo_all()
        self._target.set_log_destination(destination)
        self.mark_begin()

    def _fill_log_disk(self) -> bool:
        self._set_log_destination(LogDestination.DISK)
        if not self._target.fill_log_disk():
            return False
        self.undo_after(self._random.uniform(*DISK_FULL_SECONDS), self._target.release_log_disk)
        return True

    def _fill_data_disk(self) -> bool:
        disk = self._target.data_disk
        if disk is None or not fill_under_mongod(disk, self._target.mongodb_uri):
            return False
        self.mark_begin()
        self.undo_after(self._random.uniform(*DISK_FULL_SECONDS), disk.release)
        return True

    def _time_jump(self) -> bool:
        """Makes stored times of open work older while no worker runs. False if the database is unavailable."""
        hours = self._random.uniform(*JUMP_HOURS)
        with self._target.without_workers():
            try:
                self.aged |= age_open_work(self._target.mongodb_uri, self._database, timedelta(hours=hours))
            except PyMongoError:
                return False
        return True
