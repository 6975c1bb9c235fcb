"""What goes wrong with one server, its log, its threads, its database and its clock."""

import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from random import Random

import psutil
from pymongo.errors import PyMongoError

from app.storage.embedded_mongod import HOST
from tools.chaos.faults import Faults, Kind
from tools.chaos.small_disk import fill_under_mongod
from tools.chaos.target import LOG_FORMATS, LogTo, Target
from tools.chaos.time_jump import age_open_work
from tools.cluster.servers import hurt

# What one round holds. The first round begins with the first two, so that even a short run has both.
ROUND = (
    Kind.KILL_WORKER,
    Kind.KILL_DATABASE,
    Kind.PAUSE_WORKER,
    Kind.KILL_LOG_READER,
    Kind.KILL_DATABASE,
    Kind.END_THREAD,
    Kind.KILL_WORKER,
    Kind.TIME_JUMP,
    Kind.KILL_SERVER,
    Kind.STOP_LOG_READER,
    Kind.KILL_WORKER,
    Kind.END_THREAD,
    Kind.FILL_LOG_DISK,
    Kind.KILL_SUPERVISOR,
    Kind.END_WORKER,
    Kind.END_THREAD,
    Kind.FILL_DATA_DISK,
    Kind.KILL_WORKER,
    Kind.KILL_SUPERVISOR_AND_DATABASE,
    Kind.TAKE_PORT,
    Kind.RELOAD,
)
FIRST = 2
FULL_SECONDS = (1.0, 5.0)
# Longer than the supervisor of mongod waits for a port once.
TAKEN_SECONDS = (32.0, 40.0)
JUMP_HOURS = (24.5, 96.0)
DOWN_SECONDS = 10.0


class ServerFaults(Faults):
    """The faults of one server; a paused worker stays paused `pause` seconds.

    `aged` are the orders that were open when stored times were moved back by more than a provider keeps its keys.
    """

    def __init__(
        self, target: Target, database: str, random: Random, pause: float, kinds: Sequence[Kind], first: int
    ) -> None:
        ways = {
            Kind.KILL_WORKER: lambda: self._signal_worker(signal.SIGKILL),
            Kind.END_WORKER: lambda: self._signal_worker(signal.SIGTERM),
            Kind.PAUSE_WORKER: self._pause_worker,
            Kind.RELOAD: self._reload,
            Kind.KILL_SERVER: self._kill_server,
            Kind.KILL_DATABASE: self._kill_database,
            Kind.KILL_LOG_READER: self._kill_log_reader,
            Kind.STOP_LOG_READER: self._stop_log_reader,
            Kind.FILL_LOG_DISK: self._fill_log_disk,
            Kind.FILL_DATA_DISK: self._fill_data_disk,
            Kind.END_THREAD: lambda: target.end_threads(random.randrange(1000)),
            Kind.KILL_SUPERVISOR: lambda: self._kill_supervisor(with_database=False),
            Kind.KILL_SUPERVISOR_AND_DATABASE: lambda: self._kill_supervisor(with_database=True),
            Kind.TAKE_PORT: self._take_port,
            Kind.TIME_JUMP: self._jump,
        }
        super().__init__(random, ways, kinds, first)
        self._target = target
        self._database = database
        self._pause = pause
        self._paused: psutil.Process | None = None
        self.aged: set[str] = set()

    def _signal_worker(self, number: signal.Signals) -> bool:
        return hurt(self._victim(), number)

    def _victim(self) -> psutil.Process:
        workers = self._target.workers()
        return self._random.choice([worker for worker in workers if worker != self._paused] or workers)

    def _pause_worker(self) -> bool:
        if self._paused:
            return False
        self._paused = self._victim()
        self.lasts(self._pause, self._resume)
        return hurt(self._paused, signal.SIGSTOP)

    def _resume(self) -> None:
        if self._paused:
            hurt(self._paused, signal.SIGCONT)
        self._paused = None

    def _reload(self) -> bool:
        self._target.reload()
        return True

    def _kill_server(self) -> bool:
        self._target.kill()
        self._start_server()
        return True

    def _start_server(self) -> None:
        self._target.log_to = self._random.choice([*LogTo])
        self._target.log_format = self._random.choice(LOG_FORMATS)
        self._target.start()

    def _kill_database(self) -> bool:
        database = self._target.database()
        return database is not None and hurt(database, signal.SIGKILL)

    def _kill_supervisor(self, *, with_database: bool) -> bool:
        supervisor, database = self._target.supervisor(), self._target.database()
        if supervisor is None:
            return False
        done = hurt(supervisor, signal.SIGKILL)
        if with_database and database:
            hurt(database, signal.SIGKILL)
        return done

    def _take_port(self) -> bool:
        """Listen on mongod's port before it can be started again."""
        supervisor, database = self._target.supervisor(), self._target.database()
        if supervisor is None or database is None:
            return False
        port = self._target.mongodb_port
        hurt(supervisor, signal.SIGSTOP)
        try:
            hurt(database, signal.SIGKILL)
            with suppress(psutil.TimeoutExpired):
                database.wait(DOWN_SECONDS)
            taken = socket.create_server((HOST, port))
        finally:
            hurt(supervisor, signal.SIGCONT)
        self.begins()
        self.lasts(self._random.uniform(*TAKEN_SECONDS), taken.close)
        return True

    def _kill_log_reader(self) -> bool:
        self._write_log_to(LogTo.PIPE)
        self._target.kill_log_reader()
        return True

    def _stop_log_reader(self) -> bool:
        self._write_log_to(LogTo.PIPE)
        return self._target.stop_log_reader()

    def _write_log_to(self, where: LogTo) -> None:
        """Restart the server unless its log goes there already; that is not yet the fault."""
        self._target.write_log_to(where)
        self.begins()

    def _fill_log_disk(self) -> bool:
        self._write_log_to(LogTo.DISK)
        if not self._target.fill_log_disk():
            return False
        self.lasts(self._random.uniform(*FULL_SECONDS), self._target.free_log_disk)
        return True

    def _fill_data_disk(self) -> bool:
        disk = self._target.data_disk
        if disk is None or not fill_under_mongod(disk, self._target.mongodb_uri):
            return False
        self.begins()
        self.lasts(self._random.uniform(*FULL_SECONDS), disk.free)
        return True

    def _jump(self) -> bool:
        """Days pass between the death of all workers and the start of new ones. False while there is no database."""
        hours = self._random.uniform(*JUMP_HOURS)
        with self._target.without_workers():
            try:
                self.aged |= age_open_work(self._target.mongodb_uri, self._database, timedelta(hours=hours))
            except PyMongoError:
                return False
        return True
