"""What stands in for Stripe: localstripe as a program of its own, and before it the idempotency layer of stripe-stateful-mock.

`make standins` installs both into `.venv/standins`. They listen on loopback, at ports of their own, and end with the tests.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
INSTALLED = ROOT / ".venv/standins"
LOCALSTRIPE = INSTALLED / "localstripe/bin/python"
NODE_MODULES = INSTALLED / "node_modules"
MISSING = "what stands in for Stripe is not installed: make standins (needs npm)"
KEY = "sk_test_standin"
WEBHOOK_SECRET = "whsec_standin"
START_SECONDS = 60


def installed() -> bool:
    """Whether the programs are there."""
    return LOCALSTRIPE.exists() and NODE_MODULES.exists() and shutil.which("node") is not None


class StripeStandIn:
    """The two programs; use it as a context manager. `url` is the root of the API."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: list[subprocess.Popen] = []
        self.port = 0

    def __enter__(self) -> "StripeStandIn":
        behind, before = _listen(), _listen()
        self.port, port_behind = before.getsockname()[1], behind.getsockname()[1]
        gunicorn = ["gunicorn", "--worker-class", "aiohttp.GunicornWebWorker", "--no-control-socket"]
        self._start(
            [LOCALSTRIPE, "-m", *gunicorn, "--bind", f"fd://{behind.fileno()}", "localstripe.server:app"], behind
        )
        self._start(["node", HERE / "front.js", INSTALLED, str(port_behind), str(before.fileno())], before)
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.terminate()
        for program in self._programs:
            program.wait(30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def control(self, what: str, **members: Any) -> dict:
        """Make something happen at Stripe's side."""
        answer = httpx.post(f"{self.url}/_standin/{what}", data=members, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def request(self, method: str, path: str, **members: Any) -> dict:
        """A request to the API, as a dashboard or a page of the shop makes it."""
        sent = {"params" if method == "GET" else "data": members}
        answer = httpx.request(
            method, f"{self.url}/v1/{path}", headers={"Authorization": f"Bearer {KEY}"}, timeout=30, **sent
        )
        answer.raise_for_status()
        return answer.json()

    def notify(self, url: str, secret: str) -> None:
        """Send signed notifications there, each once and a second after what happened."""
        path = f"{self.url}/_config/webhooks/tests"
        headers = {"Authorization": f"Bearer {KEY}"}
        httpx.post(path, headers=headers, data={"url": url, "secret": secret}, timeout=30).raise_for_status()

    def _start(self, command: list[Any], listener: socket.socket) -> None:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE / "site"), "TMPDIR": str(self._folder)}
        with listener, (self._folder / f"{len(self._programs)}.log").open("wb") as log:
            program = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environ,
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._programs.append(program)

    def _wait(self) -> None:
        ends = time.monotonic() + START_SECONDS
        while not self._answers():
            gone = [program.args for program in self._programs if program.poll() is not None]
            logs = "".join(log.read_text() for log in self._folder.glob("*.log"))
            assert not gone, f"{gone} ended: {logs}"
            assert time.monotonic() < ends, f"the stand-in for Stripe does not answer: {logs}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self.request("GET", "payment_intents")
        except httpx.HTTPError:
            return False
        return True


def _listen() -> socket.socket:
    """A socket on a free port of loopback, which a program inherits: nobody else can take the port meanwhile."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    return listener


def main() -> None:
    """Serve until interrupted; prints the settings with which Orderflow uses it."""
    notified = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7000"
    with tempfile.TemporaryDirectory() as folder, StripeStandIn(Path(folder)) as stand_in:
        stand_in.notify(f"{notified}/providers/stripe/notifications", WEBHOOK_SECRET)
        print(f"PAYMENT_PROVIDER=stripe STRIPE_API_BASE={stand_in.url} STRIPE_SECRET_KEY={KEY} \\")
        print(f"  STRIPE_WEBHOOK_SECRET={WEBHOOK_SECRET} make run", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
