"""`python -m tools.cluster` runs each module as a process of its own on this machine and places two orders."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from tools.cluster.cluster import WORKER, Cluster
from tools.cluster.processes import ROOT
from tools.cluster.programs import StartupError
from tools.cluster.rabbitmq import InvalidFolder, RabbitMqMissing

CHECK_SECONDS = 1.0


def main() -> int:
    """Starts the cluster, places the two orders, and keeps the processes running until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the two orders, with code 0 if both settled")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(os.environ.get("ORDERFLOW_DATA") or ".orderflow") / "cluster"
    try:
        with Cluster(folder, port=int(os.environ.get("PORT") or 7000), worker=WORKER) as cluster:
            return _demonstrate(cluster, options.once)
    except (RabbitMqMissing, InvalidFolder, StartupError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _demonstrate(cluster: Cluster, once: bool) -> int:
    console = Console(highlight=False, soft_wrap=True)
    _print_processes(cluster, console)
    url = cluster.urls[0]
    command = [sys.executable, "-m", "flask", "--app", "app.main", "demo", "--url", url]
    environ = {**os.environ, **cluster.environ_of("gateway-1"), "LOG_LEVEL": "warning"}
    code = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
    if code or once:
        return code
    console.print(f"\nserving on {url}; Ctrl-C ends it")
    while True:
        time.sleep(CHECK_SECONDS)
        for name, program in cluster.programs.items():
            if not program.running:
                console.print(f"{name} has ended and is started again")
                program.start()


def _print_processes(cluster: Cluster, console: Console) -> None:
    console.print(f"{'':<11} process  its children  port   log", style="bold")
    for name, program in cluster.programs.items():
        children = ", ".join(str(child.pid) for child in program.master.children())
        console.print(f"{name:<11} {program.master.pid:<8} {children:<13} {program.port:<6} {program.log}")


if __name__ == "__main__":
    sys.exit(main())
