"""`python -m tools.cluster`: the modules as processes of their own on this machine, two orders on their way through them."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from tools.cluster.fleet import WORKER, Fleet
from tools.cluster.rabbitmq import BadFolder, RabbitMissing
from tools.cluster.servers import ROOT, NotReady

LOOK_SECONDS = 1.0


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the two orders, with code 0 if both settled")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(os.environ.get("ORDERFLOW_DATA") or ".orderflow") / "split"
    try:
        with Fleet(folder, port=int(os.environ.get("PORT") or 7000), worker=WORKER) as fleet:
            return _show(fleet, given.once)
    except (RabbitMissing, BadFolder, NotReady) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _show(fleet: Fleet, once: bool) -> int:
    told = Console(highlight=False, soft_wrap=True)
    _tell_who_is_where(fleet, told)
    url = fleet.urls[0]
    command = [sys.executable, "-m", "flask", "--app", "app.main", "demo", "--url", url]
    environ = {**os.environ, **fleet.environ_of("gateway-1"), "LOG_LEVEL": "warning"}
    code = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
    if code or once:
        return code
    told.print(f"\nserving on {url}; Ctrl-C ends it")
    while True:
        time.sleep(LOOK_SECONDS)
        for name, program in fleet.programs.items():
            if not program.running:
                told.print(f"{name} has ended and is started again")
                program.start()


def _tell_who_is_where(fleet: Fleet, told: Console) -> None:
    told.print(f"{'':<11} process  its children  port   log", style="bold")
    for name, program in fleet.programs.items():
        children = ", ".join(str(child.pid) for child in program.master.children())
        told.print(f"{name:<11} {program.master.pid:<8} {children:<13} {program.port:<6} {program.log}")


if __name__ == "__main__":
    sys.exit(main())
