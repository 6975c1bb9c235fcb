"""The server of a chaos run: gunicorn with two workers and the embedded database, as `make run` starts it.

Its log goes to a pipe with a reader, as under a container runtime, or to a file on a disk of its own.
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
from tools.cluster.processes import ROOT, command_of, send_signal, start_process, wait_until_exited
from tools.cluster.servers import GUNICORN, Server

APPLICATION = "tools.chaos.application:create_app()"
SUPERVISOR = "app.storage.embedded_mongod"
DATA_MEGABYTES = 2048
LOG_MEGABYTES = 256
THREAD_SECONDS = 10.0
SMALLEST_FILE = 1
# Small, so that a pipe without a reader is full at once.
PIPE_BYTES = 4096
LOG_FORMATS = ("json", "console")


class LogDestination(Enum):
    """The kind of file to which a server writes its log."""

    PIPE = auto()
    DISK = auto()


class LogReader:
    """Copies a server's log from a pipe into a file; it can be killed, or stopped so that the pipe fills up."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def reading(self) -> bool:
        """Whether it is alive and not stopped."""
        return self._process is not None and not self._stopped

    def start(self) -> IO[bytes]:
        """Starts a new reader and returns the pipe's end to write to."""
        self.kill()
        self._stopped = False
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        with os.fdopen(reading, "rb") as source, self._log.open("ab") as log:
            self._process = start_process(["/usr/bin/env", "cat"], log, stdin=source)
        return os.fdopen(writing, "wb", buffering=0)

    def kill(self) -> None:
        """Ends it with kill -9; further writes to the pipe fail."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> bool:
        """Suspends it: the pipe fills up and writes to it block. False if it has ended."""
        if self._process is None:
            return False
        self._stopped = True
        self._process.send_signal(signal.SIGSTOP)
        return True


class Target(Server):
    """A server with its log and its data. Use it from the main thread."""

    def __init__(self, folder: Path, environ: Mapping[str, str], root: Path = ROOT, *, small_data_disk: bool) -> None:
        self.data = folder / "data"
        self._disks = [SmallDisk(folder / "log", LOG_MEGABYTES)]
        if small_data_disk:
            self._disks.append(SmallDisk(self.data, DATA_MEGABYTES))
        self.log_destination = LogDestination.PIPE
        self.log_format = LOG_FORMATS[0]
        self._mongodb_uri = ""
        self._folder = folder
        self._reader = LogReader(folder / "server.log")
        self._thread_choice_file, self._ended_threads_file = folder / "thread-to-end", folder / "ended-threads"
        chaos_environ = {
            "ORDERFLOW_DATA": str(self.data),
            "CHAOS_THREAD": str(self._thread_choice_file),
            "CHAOS_ENDED": str(self._ended_threads_file),
            "LOG_LEVEL": "info",
        }
        super().__init__(folder, {**chaos_environ, **environ}, root, command=(*GUNICORN, APPLICATION))

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
        """Unmounts the disks. Call it when no process uses them any more."""
        self._move_log()
        for disk in self._disks:
            disk.__exit__()

    @property
    def data_disk(self) -> SmallDisk | None:
        """The data's own disk; None if there is none or mounting is not permitted."""
        return next((disk for disk in self._disks[1:] if disk.mounted), None)

    @property
    def mongodb_uri(self) -> str:
        """The URI of its database, or the last known one while it is down."""
        self._mongodb_uri = embedded_mongod.running_uri(self.data) or self._mongodb_uri
        return self._mongodb_uri

    @property
    def mongodb_port(self) -> int:
        """The port of its database, or the last known one."""
        return int(json.loads((self.data / "mongod.json").read_text())["port"])

    def database(self) -> psutil.Process | None:
        """Returns its mongod; None while there is none."""
        with suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(json.loads((self.data / "mongod.json").read_text())["pid"])
            if any(str(self.data / "db") in part for part in process.cmdline()):
                return process
        return None

    def supervisor(self) -> psutil.Process | None:
        """Returns the supervisor of mongod; None while there is none."""
        return next((child for child in self.master.children() if SUPERVISOR in command_of(child)), None)

    def writes_log_to(self, destination: LogDestination) -> bool:
        """Whether its log goes there, and not to a pipe without a reader."""
        return self.log_destination == destination and (destination == LogDestination.DISK or self._reader.reading)

    def set_log_destination(self, destination: LogDestination) -> None:
        """Restarts the server if its log goes elsewhere, or to a pipe without a reader."""
        if self.writes_log_to(destination):
            return
        self.kill()
        self.log_destination = destination
        self.restart()

    def kill_log_reader(self) -> None:
        """Kills the log's reader; the next start brings a new one."""
        self._reader.kill()

    def stop_log_reader(self) -> bool:
        """Suspends the log's reader until the next start, so that the pipe fills up. False if there is none."""
        return self._reader.stop()

    def fill_log_disk(self) -> bool:
        """Makes every write to a log on a disk fail; without the right to mount, by a limit on file sizes."""
        return self._disks[0].fill() or self._limit_files(SMALLEST_FILE)

    def release_log_disk(self) -> None:
        """Lets writes to the log succeed again."""
        self._disks[0].release()
        self._limit_files(None)

    def end_threads(self, chosen: int) -> bool:
        """Ends the background thread number `chosen` in each worker; returns whether any worker did so."""
        before = self.ended_threads()
        self._thread_choice_file.write_text(str(chosen))
        deadline = time.monotonic() + THREAD_SECONDS
        signalled: set[psutil.Process] = set()
        while self.ended_threads() == before and time.monotonic() < deadline:
            for worker in self.workers(0):
                if worker not in signalled and _catches(worker, signal.SIGUSR2):
                    signalled.add(worker)
                    send_signal(worker, signal.SIGUSR2)
            time.sleep(0.05)
        return self.ended_threads() != before

    def ended_threads(self) -> list[str]:
        """Returns the names of the threads that were ended."""
        return (
            [line.split()[1] for line in self._ended_threads_file.read_text().splitlines()]
            if self._ended_threads_file.exists()
            else []
        )

    @contextmanager
    def without_workers(self) -> Iterator[None]:
        """Kills all workers at once; new ones start after the `with` block."""
        master = self.master
        master.suspend()
        try:
            workers = self.workers(0)
            for worker in workers:
                send_signal(worker, signal.SIGKILL)
            wait_until_exited(workers)
            yield
        finally:
            master.resume()

    def start(self) -> None:
        self._environ = {**self._environ, "LOG_FORMAT": self.log_format}
        super().start()

    @contextmanager
    def _output(self) -> Iterator[IO[bytes]]:
        self._move_log()
        disk = self._disks[0].folder
        with (
            self._reader.start()
            if self.log_destination == LogDestination.PIPE
            else (disk / "server.log").open("ab") as output
        ):
            yield output

    def _move_log(self) -> None:
        """Appends the log on the disk to the log in the folder."""
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
    """Whether a process has a handler for a signal; a worker that is still starting would be killed by it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
