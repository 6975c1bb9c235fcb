"""A server as it is run, to be killed and started again on the same port, and the browser that looks at it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Playwright

from tools.cluster.processes import free_port

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
START_SECONDS = 60.0
LAUNCH_MS = 120_000
# Other tests take the processors as well. It keeps no connection: servers are killed.
http = httpx.Client(timeout=60.0, limits=httpx.Limits(max_keepalive_connections=0))


class Server:
    """gunicorn with two workers on a database that is there already."""

    def __init__(self, uri: str, database: str, folder: Path, **environ: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AUTH_")},
            "MONGODB_URI": uri,
            "MONGODB_DATABASE": database,
            "ORDERFLOW_DATA": str(folder),
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "2",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "warning",
            "REQUEST_DEADLINE": "10",  # A busy machine may make a command slow.
            **environ,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it can serve."""
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environ, stdout=log, stderr=log, start_new_session=True
            )
        ends = time.monotonic() + START_SECONDS
        while not self._ready():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < ends, self._log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, workers and all."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def place(self, **changes: Any) -> str:
        """Place an order past the page; a member that is None is left out."""
        body = {"userId": "demo", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
        members = {name: value for name, value in {**body, **changes}.items() if value is not None}
        answer = http.post(f"{self.url}/orders", json=members)
        return str(answer.raise_for_status().json()["created"]["id"])

    def get(self, path: str) -> Any:
        """What it answers as JSON."""
        return http.get(f"{self.url}{path}").raise_for_status().json()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def running(*args: Any, **environ: str) -> Iterator[Server]:
    """A server that serves, and is gone afterwards."""
    server = Server(*args, **environ)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def installed() -> str | None:
    """Where the browser is, if it is."""
    return str(CHROMIUM) if CHROMIUM.exists() else shutil.which("chromium")


def browser(playwright: Playwright) -> Browser:
    """The browser, without a window."""
    return playwright.chromium.launch(executable_path=installed(), args=ARGUMENTS, timeout=LAUNCH_MS)
