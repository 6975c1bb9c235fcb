"""The two programs that get killed: the server under gunicorn, and its mongod on a port that stays the same."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any, Self

import httpx
import psutil
from pymongo import MongoClient

from app.embedded import HOST, TIED_TO_OWNER, Mongod

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 30.0
STOP_SECONDS = 40.0

# Below the range from which Linux gives ports to outgoing connections: while a server is down nobody takes its port.
PORTS = range(20_000, 32_000)


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


class Base:
    """A mongod that can be killed and comes back with the same data on the same port.

    Use it from the main thread: Linux ends mongod with the thread that started it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._mongod = Mongod(folder, port=self._port)

    def __enter__(self) -> Self:
        self._mongod.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._mongod.stop()

    @property
    def uri(self) -> str:
        """Where it is, killed or not."""
        return f"mongodb://{HOST}:{self._port}/?replicaSet=orderflow"

    def kill(self) -> None:
        """End it with kill -9."""
        self._mongod.kill()

    def restart(self) -> None:
        """Start it again on what it left; returns when it takes writes."""
        self._mongod = Mongod(self._folder, port=self._port)
        self._mongod.start()


class Server:
    """Orderflow as users run it: gunicorn, its configuration, its workers."""

    def __init__(self, folder: Path, environ: Mapping[str, str], root: Path = ROOT) -> None:
        self._folder = folder
        self._root = root
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._metrics = folder / "metrics"
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))},
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "2",
            "ORDERFLOW_DATA": str(folder),
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "warning",
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics),
            **environ,
        }

    def __enter__(self) -> Self:
        self.start()
        self.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self._folder / "server.log"

    @property
    def master(self) -> psutil.Process:
        """The process that keeps the workers."""
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Start it; it may take a while to answer."""
        self._metrics.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-ISc", TIED_TO_OWNER, str(os.getpid()), *command],
                cwd=self._root,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it serves."""
        ends = time.monotonic() + READY_SECONDS
        while time.monotonic() < ends:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2.0).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the server did not come up; its log: {self.log}")

    def stop(self) -> None:
        """SIGTERM, and kill -9 where that does not help."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End master and workers with kill -9."""
        if self._process is None or self._process.poll() is not None:
            return
        master = self.master
        master.suspend()  # So that it raises no worker while its workers are counted.
        workers = master.children(recursive=True)
        master.kill()
        self._process.wait()
        for worker in workers:
            hurt(worker, signal.SIGKILL)
        psutil.wait_procs(workers, timeout=10)

    def reload(self) -> None:
        """HUP: new workers come, the old ones end their work and go."""
        hurt(self.master, signal.SIGHUP)

    def workers(self, least: int = 1) -> list[psutil.Process]:
        """Its workers, as soon as there are that many."""
        ends = time.monotonic() + READY_SECONDS
        while True:
            found = [child for child in self.master.children() if child.status() != psutil.STATUS_ZOMBIE]
            if len(found) >= least:
                return sorted(found, key=lambda one: one.pid)
            if time.monotonic() > ends:
                raise RuntimeError(f"the server has no {least} workers; its log: {self.log}")
            time.sleep(0.02)


def hurt(process: psutil.Process, number: signal.Signals) -> bool:
    """Send a signal to exactly this process, not to one that got its number later; false when it is gone."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def documents(uri: str) -> MongoClient[dict[str, Any]]:
    """A client to look at what is stored; waits for a primary."""
    return MongoClient(uri, tz_aware=True, serverSelectionTimeoutMS=20_000)
