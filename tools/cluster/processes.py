"""Operating-system processes: start one that ends with its owner, send a signal, wait for the exit, find a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from typing import IO

import psutil

from app.storage.embedded_mongod import HOST, TIED_TO_OWNER

ROOT = Path(__file__).resolve().parents[2]

# Below the range from which Linux gives ports to outgoing connections: the port of a stopped server stays free.
PORTS = range(20_000, 32_000)

# SIGKILL also ends a suspended process: the owner may die between suspending a process and killing it.
KILLED_WITH_OWNER = TIED_TO_OWNER.replace("signal.SIGTERM", "signal.SIGKILL")


def free_port() -> int:
    """Returns a port on which nothing listens."""
    while True:
        port = SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def inherited_environ() -> dict[str, str]:
    """Returns this process's environment without the variables of pytest and coverage."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))}


def start_process(
    command: Sequence[str],
    output: IO[bytes],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Starts a command whose output goes to `output`; Linux kills it when the thread that started it ends."""
    return subprocess.Popen(
        [sys.executable, "-ISc", KILLED_WITH_OWNER, str(os.getpid()), *command],
        cwd=cwd,
        env=None if environ is None else dict(environ),
        stdin=stdin,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def send_signal(process: psutil.Process, number: signal.Signals) -> bool:
    """Signals exactly this process, not a later one with the same pid; false when it no longer exists."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def command_of(process: psutil.Process) -> list[str]:
    """Returns the command line of a process; empty once it has ended."""
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return command


def wait_until_exited(processes: Sequence[psutil.Process]) -> None:
    """Waits, without a limit, for processes that were killed."""
    while not all(map(_exited, processes)):
        time.sleep(0.01)


def _exited(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
