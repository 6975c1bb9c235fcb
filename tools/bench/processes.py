"""Processes under measurement: started, stopped, and what they use."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import psutil

from app.storage.embedded_mongod import TIED_TO_OWNER

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
STOP_SECONDS = 40.0
MEGABYTE = 1_000_000


class NotServing(RuntimeError):
    """A server did not come up; the text names its log."""


@dataclass(frozen=True)
class Memory:
    """What a tree of processes holds, in megabytes: the sum of what each has resident, and its fair share of it."""

    rss_mb: float
    pss_mb: float
    processes: int


class Server:
    """A server of several processes that ends with this one. Start it from the main thread."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], port: int, ready: str, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._command = command
        self._ready = ready
        usual = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))}
        self._environ = {**usual, **environ}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; it may take a while to answer."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-ISc", TIED_TO_OWNER, str(os.getpid()), *self._command],
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it serves."""
        ends = time.monotonic() + READY_SECONDS
        while time.monotonic() < ends and self._process and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}{self._ready}", timeout=2.0, trust_env=False).status_code < 300:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise NotServing(f"the server did not come up; its log ends:\n{self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """SIGTERM, and kill -9 of the whole tree where that does not help."""
        if self._process is None or self._process.poll() is not None:
            return
        tree = self.tree()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for process in tree:
                _ended(process)
            self._process.wait()

    def tree(self) -> list[psutil.Process]:
        """Its processes, the first one first."""
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def cpu(self) -> float:
        """CPU seconds used so far by all of its processes."""
        return sum(map(cpu_of, self.tree()))

    def memory(self) -> Memory:
        """What all of its processes hold."""
        return held_by(self.tree())


def held_by(processes: Sequence[psutil.Process]) -> Memory:
    """What these processes hold."""
    held = [process.memory_full_info() for process in processes]
    rss, pss = sum(one.rss for one in held), sum(getattr(one, "pss", one.rss) for one in held)
    return Memory(rss_mb=rss / MEGABYTE, pss_mb=pss / MEGABYTE, processes=len(held))


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds used so far by one process."""
    used = process.cpu_times()
    return used.user + used.system


def _ended(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
