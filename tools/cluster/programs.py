"""Programs that can be started, stopped, killed, paused and restarted, each with a log."""

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import psutil

from app.storage.embedded_mongod import HOST
from tools.cluster.processes import send_signal, start_process, wait_until_exited

READY_SECONDS = 60.0
STOP_SECONDS = 40.0
LOG_TAIL_CHARACTERS = 2000


@dataclass(frozen=True)
class Host:
    """The host of a program: the address on which it listens, and the command prefix that starts it there."""

    address: str = HOST
    command_prefix: tuple[str, ...] = ()


LOCAL_HOST = Host()


class StartupError(RuntimeError):
    """A program ended or did not become ready in time; the text names its log and has the log's end."""


class Service(ABC):
    """Starts on entering and stops on leaving a `with` block; killed if it does not become ready."""

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
        """Starts it without waiting until it is ready."""

    @abstractmethod
    def wait_until_ready(self) -> None:
        """Waits until it is ready. Raises StartupError."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it in order."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it with kill -9."""


class Program(Service):
    """A program with all processes that it starts, and its log; Linux kills them when this process ends.

    Start it from the main thread: Linux kills it when the thread that started it ends.
    """

    port: int

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], cwd: Path, log: Path, host: Host = LOCAL_HOST
    ) -> None:
        self._command = [*host.command_prefix, *command]
        self._environ = environ
        self._cwd = cwd
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[psutil.Process] = []

    @property
    def running(self) -> bool:
        """Whether its first process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def master(self) -> psutil.Process:
        """Its first process."""
        if self._process is None:
            raise RuntimeError(f"{self._command} has not been started")
        return psutil.Process(self._process.pid)

    def tree(self) -> list[psutil.Process]:
        """Its processes, the first one first."""
        return [self.master, *self.master.children(recursive=True)]

    def start(self) -> None:
        with self._output() as output:
            self._process = start_process(self._command, output, cwd=self._cwd, environ=self._environ)

    def _output(self) -> AbstractContextManager[IO[bytes]]:
        """Opens the file to which it writes its log."""
        return self.log.open("ab")

    def ready(self) -> bool:
        """Whether it can be used."""
        return self.running

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            if self.ready():
                return
            time.sleep(0.05)
        problem = f"not ready after {seconds:g} s" if self.running else "it ended"
        end = self.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:] if self.log.exists() else ""
        raise StartupError(f"{problem}; its log, {self.log}, ends:\n{end}")

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait."""
        if self._process and self.running:
            self._process.terminate()

    def stop(self) -> None:
        """Sends SIGTERM, and kills it if it does not end in time."""
        self.terminate()
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends it and all its child processes with kill -9."""
        if self._process is None or not self.running:
            return
        master = self.master
        master.suspend()  # It must not start a process while its children are listed.
        children = master.children(recursive=True)
        master.kill()
        self._process.wait()
        for child in children:
            send_signal(child, signal.SIGKILL)
        wait_until_exited(children)

    def restart(self) -> None:
        """Starts it again with the same data and waits until it is ready."""
        self.start()
        self.wait_until_ready()

    def pause(self) -> None:
        """Stops all its processes with SIGSTOP."""
        self._paused = self.tree()
        for process in self._paused:
            send_signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Continues the paused processes with SIGCONT."""
        paused, self._paused = self._paused, []
        for process in paused:
            send_signal(process, signal.SIGCONT)
