"""Have schemathesis attack the server as it is run: python -m tests.security.fuzz --examples 500 --seed 1"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import jwt

from tools.cluster.processes import free_port

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 2
IDENTITY = {
    "AUTH_JWT_ALGORITHM": "HS256",
    "AUTH_JWT_KEY": KEY,
    "AUTH_JWT_ISSUER": "fuzz",
    "AUTH_JWT_AUDIENCE": "orderflow",
    "AUTH_FAILURE_LIMIT": "1000000/second",
}
CASES = re.compile(r"(\d+) generated")


@contextmanager
def served(environ: dict[str, str], folder: Path) -> Iterator[int]:
    """The server with one worker, asking who calls; the port it listens on. What it says is in `folder`/log."""
    port = free_port()
    own = {"PORT": str(port), "ORDERFLOW_DATA": str(folder), "WEB_CONCURRENCY": "1", "LOG_LEVEL": "error"}
    own |= {"REQUEST_DEADLINE": "10"}  # A busy machine may make a command slow.
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **IDENTITY, **own, **environ}, stdout=log, stderr=log
        )
        try:
            _wait_until_ready(port)
            yield port
        finally:
            server.terminate()
            server.wait(60)


def attack(port: int, folder: Path, *, examples: int, seed: int) -> tuple[bool, int, str]:
    """Whether nothing was found, how many cases there were, and what schemathesis says."""
    now = int(time.time())
    claims = {"iss": "fuzz", "aud": "orderflow", "sub": "user-7", "iat": now, "exp": now + 86400}
    token = jwt.encode(
        {**claims, "scope": "orders:read orders:write orders:fulfil orders:refund webhooks:manage"},
        KEY,
        algorithm="HS256",
    )
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(ROOT / "schemathesis.toml"), "run"),
        *(f"http://127.0.0.1:{port}/api-json", "-H", f"Authorization: Bearer {token}", "--no-color"),
        *("--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure"),
        *("--max-response-time", "30", "--request-timeout", "60"),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    cases = CASES.search(told)
    return done.returncode == 0, int(cases[1]) if cases else 0, told


def main() -> None:
    """Attack, and end with 1 if anything was found."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--examples", type=int, default=500, help="for each operation")
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="orderflow-fuzz-") as name:
        folder = Path(name)
        with served({}, folder) as port:
            well, cases, told = attack(port, folder, examples=given.examples, seed=given.seed)
        print(told)
        log = (folder / "log").read_text()
    if "Traceback" in log:
        print(log)
    print(f"{cases} cases, seed {given.seed}: {'nothing found' if well else 'FOUND'}")
    sys.exit(not well or "Traceback" in log)


def _wait_until_ready(port: int) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as probe:
                probe.request("GET", "/readyz")
                if probe.getresponse().status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the server never got ready")


if __name__ == "__main__":
    main()
