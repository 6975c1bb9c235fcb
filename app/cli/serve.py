"""`run` and `worker` become a server, `check` says whether one would start."""

import os
import subprocess  # starts a part of this program, with arguments of our own  # nosec B404
import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import click

from app.cli.output import report_errors
from app.config import Settings

CONFIGURATION = "gunicorn.conf.py"
CHECK_KEYS = "from app.gateway.security.jwt_keys import main; main()"


@click.command("run")
def run() -> None:
    """Serve on PORT, in place of this process. Without MONGODB_URI it starts a database of its own."""
    _serve()


@click.command("worker")
def worker() -> None:
    """Run the modules in MODULES, in place of this process: with one worker process, or WEB_CONCURRENCY of them.

    Without the gateway it serves only /healthz, /readyz and /metrics on PORT. It stops in order on SIGTERM.
    """
    os.environ.setdefault("WEB_CONCURRENCY", "1")
    _serve()


@click.command("check")
def check() -> None:
    """Check the settings and the keys, and start nothing; exit code 1 and a sentence for each that prevents a start."""
    # In another process, because it ends with the sentence.
    command = [sys.executable, "-c", CHECK_KEYS]
    if _read_settings().identity and subprocess.run(command, check=False).returncode:  # a constant  # nosec B603
        sys.exit(1)
    click.echo("the settings are valid")


def _serve() -> NoReturn:
    _read_settings()
    # No argument comes from outside.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", str(_configuration())])  # noqa: S606  # nosec B606


def _configuration() -> Path:
    """The configuration of gunicorn: beside `app` in a checkout and in an image, or else where the wheel has put it."""
    beside = Path(__file__).resolve().parents[2] / CONFIGURATION
    if beside.is_file():
        return beside
    return next(Path(str(file.locate())) for file in metadata.files("orderflow") or () if file.name == CONFIGURATION)


def _read_settings() -> Settings:
    return report_errors(Settings.read, os.environ)
