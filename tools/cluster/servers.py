"""Orderflow as users run it: gunicorn with its configuration and its workers."""

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import httpx
import psutil

from tools.cluster.processes import ROOT, command_of, free_port, inherited_environ, send_signal
from tools.cluster.programs import LOCAL_HOST, READY_SECONDS, Host, Program, StartupError

GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py")


class Server(Program):
    """A gunicorn server of Orderflow, with two workers unless `environ` says otherwise."""

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        root: Path = ROOT,
        *,
        command: Sequence[str] = GUNICORN,
        port: int | None = None,
        host: Host = LOCAL_HOST,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{host.address}:{self.port}"
        self._metrics = folder / "metrics"
        defaults = {
            **inherited_environ(),
            "BIND": host.address,
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "2",
            "ORDERFLOW_DATA": str(folder),
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "warning",
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics),
        }
        super().__init__(command, {**defaults, **environ}, root, folder / "server.log", host)

    def start(self) -> None:
        self._metrics.mkdir(parents=True, exist_ok=True)
        super().start()

    def ready(self) -> bool:
        """Whether `/readyz` answers 200."""
        return answers_with_success(f"{self.url}/readyz")

    def reload(self) -> None:
        """Sends HUP: gunicorn starts new workers, the old ones finish their requests and end."""
        send_signal(self.master, signal.SIGHUP)

    def workers(self, minimum: int = 1) -> list[psutil.Process]:
        """Waits until there are `minimum` workers and returns all. Raises StartupError."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            command = command_of(self.master)
            found = [child for child in self.master.children() if command and command_of(child) == command]
            if len(found) >= minimum:
                return sorted(found, key=lambda worker: worker.pid)
            if time.monotonic() > deadline:
                raise StartupError(f"fewer than {minimum} workers; its log: {self.log}")
            time.sleep(0.02)


def answers_with_success(url: str) -> bool:
    """Whether a GET is answered with a status from 200 to 299 within two seconds."""
    try:
        return _http_client().get(url).is_success
    except httpx.TransportError:
        return False


@cache
def _http_client() -> httpx.Client:
    """Returns one client for all readiness checks: making one takes 30 ms of CPU. It keeps no connection."""
    return httpx.Client(timeout=2.0, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
