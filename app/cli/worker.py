"""`worker`: a process that runs one or several modules, with its probes on PORT."""

import os
import sys
from pathlib import Path

import click

CONFIGURATION = Path(__file__).resolve().parents[2] / "gunicorn.conf.py"


@click.command("worker")
def worker() -> None:
    """Run the modules in MODULES, in place of this process: with one worker process, or WEB_CONCURRENCY of them.

    Without the gateway it serves only /healthz, /readyz and /metrics on PORT. It stops in order on SIGTERM.
    """
    os.environ.setdefault("WEB_CONCURRENCY", "1")
    # The same program that serves the gateway; no argument comes from outside.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", str(CONFIGURATION)])  # noqa: S606  # nosec B606
