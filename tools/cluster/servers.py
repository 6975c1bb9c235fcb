"""The programs that get killed, such as servers under gunicorn."""

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import SystemRandom
from typing import IO, Any, Self

import httpx
import psutil
from pymongo import MongoClient

from app.storage.embedded_mongod import HOST, TIED_TO_OWNER

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
STOP_SECONDS = 40.0
GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py")

# Below the range from which Linux gives ports to outgoing connections: while a server is down nobody takes its port.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Place:
    """Where a program runs: the address it listens on, and what its command begins with to run there."""

    host: str = HOST
    within: tuple[str, ...] = ()


HERE = Place()


# SIGKILL ends a process that is suspended, too: its owner may die between suspending and killing it.
KILLED_WITH_OWNER = TIED_TO_OWNER.replace("signal.SIGTERM", "signal.SIGKILL")


class NotReady(RuntimeError):
    """A program is of no use yet; the text names its log."""


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def begin(
    command: Sequence[str],
    output: IO[bytes],
    *,
    source: IO[bytes] | int = subprocess.DEVNULL,
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a command that writes to `output`, reads from `source`, and ends with the thread that starts it."""
    return subprocess.Popen(
        [sys.executable, "-ISc", KILLED_WITH_OWNER, str(os.getpid()), *command],
        cwd=cwd,
        env=None if environ is None else dict(environ),
        stdin=source,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


class Started(ABC):
    """Started on entering, stopped on leaving; killed where it does not come up."""

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start it; it may take a while to be of use."""

    @abstractmethod
    def wait_until_ready(self) -> None:
        """Wait until it is of use."""

    @abstractmethod
    def stop(self) -> None:
        """End it in order."""

    @abstractmethod
    def kill(self) -> None:
        """End it with kill -9."""


class Program(Started):
    """A program, whatever processes it begins, and its log; all end with this process.

    Start it from the main thread: Linux ends it with the thread that started it.
    """

    port: int

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], cwd: Path, log: Path, place: Place = HERE
    ) -> None:
        self._command = [*place.within, *command]
        self._environ = environ
        self._cwd = cwd
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[psutil.Process] = []

    @property
    def running(self) -> bool:
        """Whether its first process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def master(self) -> psutil.Process:
        """Its first process."""
        if self._process is None:
            raise RuntimeError(f"{self._command} has not been started")
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Start it; it may take a while to be of use."""
        with self._output() as output:
            self._process = begin(self._command, output, cwd=self._cwd, environ=self._environ)

    def _output(self) -> AbstractContextManager[IO[bytes]]:
        """What it writes its log to."""
        return self.log.open("ab")

    def ready(self) -> bool:
        """Whether it is of use already."""
        return self.running

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it is of use. Raises NotReady."""
        ends = time.monotonic() + seconds
        while self.running and time.monotonic() < ends:
            if self.ready():
                return
            time.sleep(0.05)
        raise NotReady(f"{'it did not come up' if self.running else 'it ended'}; its log: {self.log}")

    def terminate(self) -> None:
        """SIGTERM, without waiting for what comes of it."""
        if self._process and self.running:
            self._process.terminate()

    def stop(self) -> None:
        """SIGTERM, and kill -9 where that does not help."""
        self.terminate()
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and all it began with kill -9."""
        if self._process is None or not self.running:
            return
        master = self.master
        master.suspend()  # So that it begins no process while they are counted.
        others = master.children(recursive=True)
        master.kill()
        self._process.wait()
        for other in others:
            hurt(other, signal.SIGKILL)
        wait_until_ended(others)

    def restart(self) -> None:
        """Start it again on what it left; returns when it is of use."""
        self.start()
        self.wait_until_ready()

    def pause(self) -> None:
        """Let none of its processes go on: SIGSTOP."""
        self._paused = [self.master, *self.master.children(recursive=True)]
        for process in self._paused:
            hurt(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Let those that are paused go on."""
        paused, self._paused = self._paused, []
        for process in paused:
            hurt(process, signal.SIGCONT)


class Server(Program):
    """Orderflow as users run it: gunicorn, its configuration, its workers."""

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        root: Path = ROOT,
        *,
        command: Sequence[str] = GUNICORN,
        port: int | None = None,
        place: Place = HERE,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{place.host}:{self.port}"
        self._metrics = folder / "metrics"
        usual = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))},
            "BIND": place.host,
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "2",
            "ORDERFLOW_DATA": str(folder),
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "warning",
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics),
        }
        super().__init__(command, {**usual, **environ}, root, folder / "server.log", place)

    def start(self) -> None:
        self._metrics.mkdir(parents=True, exist_ok=True)
        super().start()

    def ready(self) -> bool:
        """Whether it serves."""
        try:
            return _client().get(f"{self.url}/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def reload(self) -> None:
        """HUP: new workers come, the old ones end their work and go."""
        hurt(self.master, signal.SIGHUP)

    def workers(self, least: int = 1) -> list[psutil.Process]:
        """Its workers, as soon as there are that many."""
        ends = time.monotonic() + READY_SECONDS
        while True:
            command = command_of(self.master)
            found = [child for child in self.master.children() if command and command_of(child) == command]
            if len(found) >= least:
                return sorted(found, key=lambda one: one.pid)
            if time.monotonic() > ends:
                raise NotReady(f"it has no {least} workers; its log: {self.log}")
            time.sleep(0.02)


@cache
def _client() -> httpx.Client:
    """One for all questions whether a server is ready: making a client takes 30 ms of CPU. No connection is kept."""
    return httpx.Client(timeout=2.0, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def hurt(process: psutil.Process, number: signal.Signals) -> bool:
    """Send a signal to exactly this process, not to one that got its number later; false when it is gone."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def command_of(process: psutil.Process) -> list[str]:
    """The command that a process runs; empty once it has ended."""
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return command


def wait_until_ended(processes: Sequence[psutil.Process]) -> None:
    """Wait for processes that were killed."""
    while not all(map(_ended, processes)):
        time.sleep(0.01)


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def documents(uri: str) -> MongoClient[dict[str, Any]]:
    """A client to look at what is stored; waits for a primary."""
    return MongoClient(uri, tz_aware=True, serverSelectionTimeoutMS=20_000)
