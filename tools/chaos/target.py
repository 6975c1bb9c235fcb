"""The server under attack: gunicorn with two workers and the embedded database, as `make run` starts it.

Its log goes to a pipe that a program reads, as under a container runtime, or to a file on a disk of its own.
"""

import fcntl
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import IO, Self

import psutil

from app.storage import embedded_mongod
from tools.chaos.small_disk import SmallDisk
from tools.cluster.servers import GUNICORN, ROOT, Server, begin, command_of, hurt, wait_until_ended

APPLICATION = "tools.chaos.attacked:create_app()"
SUPERVISOR = "app.storage.embedded_mongod"
DATA_MEGABYTES = 2048
LOG_MEGABYTES = 256
THREAD_SECONDS = 10.0
SMALLEST_FILE = 1
# So small that an unread pipe is full at once.
PIPE_BYTES = 4096
LOG_FORMATS = ("json", "console")


class LogTo(Enum):
    """What a server writes its log to."""

    PIPE = auto()
    DISK = auto()


class LogReader:
    """Copies what a server writes to a pipe into a file; can be killed, and stopped so that the pipe gets full."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def reads(self) -> bool:
        """Whether it reads at the moment."""
        return self._process is not None and not self._stopped

    def start(self) -> IO[bytes]:
        """Start a new reader; where to write to."""
        self.kill()
        self._stopped = False
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        with os.fdopen(reading, "rb") as source, self._log.open("ab") as log:
            self._process = begin(["/usr/bin/env", "cat"], log, source=source)
        return os.fdopen(writing, "wb", buffering=0)

    def kill(self) -> None:
        """End it with kill -9: what is written to the pipe then is an error."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> bool:
        """Let it read no more: the pipe gets full and writing to it blocks. False where it has ended."""
        if self._process is None:
            return False
        self._stopped = True
        self._process.send_signal(signal.SIGSTOP)
        return True


class Target(Server):
    """The server, its log and its data. Use it from the main thread."""

    def __init__(self, folder: Path, environ: Mapping[str, str], root: Path = ROOT, *, small_data_disk: bool) -> None:
        self.data = folder / "data"
        self._disks = [SmallDisk(folder / "log", LOG_MEGABYTES)]
        if small_data_disk:
            self._disks.append(SmallDisk(self.data, DATA_MEGABYTES))
        self.log_to = LogTo.PIPE
        self.log_format = LOG_FORMATS[0]
        self._mongodb_uri = ""
        self._folder = folder
        self._reader = LogReader(folder / "server.log")
        self._choice, self._ended = folder / "thread-to-end", folder / "ended-threads"
        own = {
            "ORDERFLOW_DATA": str(self.data),
            "CHAOS_THREAD": str(self._choice),
            "CHAOS_ENDED": str(self._ended),
            "LOG_LEVEL": "info",
        }
        super().__init__(folder, {**own, **environ}, root, command=(*GUNICORN, APPLICATION))

    def __enter__(self) -> Self:
        for disk in self._disks:
            disk.__enter__()
        super().__enter__()
        self._mongodb_uri = self.mongodb_uri
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._reader.kill()

    def unmount(self) -> None:
        """Let the disks go. Call it when nothing uses them any more."""
        self._keep_log()
        for disk in self._disks:
            disk.__exit__()

    @property
    def data_disk(self) -> SmallDisk | None:
        """The disk of the data, where it has one of its own and mounting is permitted."""
        return next((disk for disk in self._disks[1:] if disk.mounted), None)

    @property
    def mongodb_uri(self) -> str:
        """Where its database is, or was when it was last asked for."""
        self._mongodb_uri = embedded_mongod.running(self.data) or self._mongodb_uri
        return self._mongodb_uri

    @property
    def mongodb_port(self) -> int:
        """Where its database listens, or did last."""
        return int(json.loads((self.data / "mongod.json").read_text())["port"])

    def database(self) -> psutil.Process | None:
        """Its mongod; None while there is none."""
        with suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(json.loads((self.data / "mongod.json").read_text())["pid"])
            if any(str(self.data / "db") in part for part in process.cmdline()):
                return process
        return None

    def supervisor(self) -> psutil.Process | None:
        """The process that starts mongod, and starts it again when it has ended; None while there is none."""
        return next((child for child in self.master.children() if SUPERVISOR in command_of(child)), None)

    def write_log_to(self, where: LogTo) -> None:
        """Have the log written there: kills and starts the server where it writes elsewhere, or to an unread pipe."""
        if self.log_to == where and (where == LogTo.DISK or self._reader.reads):
            return
        self.kill()
        self.log_to = where
        self.restart()

    def kill_log_reader(self) -> None:
        """Nobody reads the log, if it goes to a pipe, until the server is started again."""
        self._reader.kill()

    def stop_log_reader(self) -> bool:
        """The log's pipe gets full and stays so until the server is started again. False where nothing reads it."""
        return self._reader.stop()

    def fill_log_disk(self) -> bool:
        """Let every write to a log on a disk fail. Where nothing can be mounted, a limit on the size of files does it."""
        return self._disks[0].fill() or self._limit_files(SMALLEST_FILE)

    def free_log_disk(self) -> None:
        """Let writes to the log succeed again."""
        self._disks[0].free()
        self._limit_files(None)

    def end_threads(self, chosen: int) -> bool:
        """End the same background thread in each worker, from inside; whether that happened in any."""
        before = self.ended_threads()
        self._choice.write_text(str(chosen))
        ends = time.monotonic() + THREAD_SECONDS
        told: set[psutil.Process] = set()
        while self.ended_threads() == before and time.monotonic() < ends:
            for worker in self.workers(0):
                if worker not in told and _catches(worker, signal.SIGUSR2):
                    told.add(worker)
                    hurt(worker, signal.SIGUSR2)
            time.sleep(0.05)
        return self.ended_threads() != before

    def ended_threads(self) -> list[str]:
        """The names of the threads that were ended from inside."""
        return [line.split()[1] for line in self._ended.read_text().splitlines()] if self._ended.exists() else []

    @contextmanager
    def without_workers(self) -> Iterator[None]:
        """All workers are killed at once; new ones start afterwards."""
        master = self.master
        master.suspend()
        try:
            workers = self.workers(0)
            for worker in workers:
                hurt(worker, signal.SIGKILL)
            wait_until_ended(workers)
            yield
        finally:
            master.resume()

    def start(self) -> None:
        """Start it; it may take a while to be of use."""
        self._environ = {**self._environ, "LOG_FORMAT": self.log_format}
        super().start()

    @contextmanager
    def _output(self) -> Iterator[IO[bytes]]:
        self._keep_log()
        disk = self._disks[0].folder
        with self._reader.start() if self.log_to == LogTo.PIPE else (disk / "server.log").open("ab") as output:
            yield output

    def _keep_log(self) -> None:
        """Move what is on the log's disk to the others' log."""
        written = self._disks[0].folder / "server.log"
        if written.exists():
            with (self._folder / "server.log").open("ab") as log:
                log.write(written.read_bytes())
            written.unlink()

    def _limit_files(self, size: int | None) -> bool:
        for process in [self.master, *self.workers()]:
            with suppress(ProcessLookupError, PermissionError):
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))
        return True


def _catches(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: a worker that is about to start would be killed by it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
