"""`worker`: the process of one module, or of several, with its probes on PORT."""

import os
import sys
from pathlib import Path

import click

CONFIGURATION = Path(__file__).resolve().parents[2] / "gunicorn.conf.py"


def command() -> click.Command:
    """The command."""

    @click.command("worker")
    def worker() -> None:
        """Run what MODULES names, in this process's place: one worker, or WEB_CONCURRENCY of them.

        A module other than the gateway serves /healthz, /readyz and /metrics on PORT, and ends in order on SIGTERM.
        """
        os.environ.setdefault("WEB_CONCURRENCY", "1")
        # The same program that serves the gateway; nothing from outside is in its arguments.
        os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", str(CONFIGURATION)])  # noqa: S606  # nosec B606

    return worker
