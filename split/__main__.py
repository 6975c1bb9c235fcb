"""`python -m split`: the modules as processes of their own on this machine, two orders on their way through them."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chaos.servers import ROOT, NotReady
from split.fleet import Fleet
from split.rabbit import BadFolder, RabbitMissing

LOOK_SECONDS = 1.0


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m split", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the two orders, with code 0 if both settled")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(os.environ.get("ORDERFLOW_DATA") or ".orderflow") / "split"
    try:
        with Fleet(folder, port=int(os.environ.get("PORT") or 7000)) as fleet:
            return _show(fleet, given.once)
    except (RabbitMissing, BadFolder, NotReady) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _show(fleet: Fleet, once: bool) -> int:
    told = Console(highlight=False, soft_wrap=True)
    told.print(_who_is_where(fleet))
    url = fleet.urls[0]
    command = [sys.executable, "-m", "flask", "--app", "app.main", "demo", "--url", url]
    environ = {**os.environ, **fleet.environ_of("gateway-1"), "LOG_LEVEL": "warning"}
    code = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
    if code or once:
        return code
    told.print(f"\nserving on {url}; Ctrl-C ends it")
    while True:
        time.sleep(LOOK_SECONDS)
        for name, server in fleet:
            if not server.running:
                told.print(f"{name} has ended and is started again")
                server.start()


def _who_is_where(fleet: Fleet) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "process", "its worker", "port", "log"):
        table.add_column(column, no_wrap=True)
    if fleet.base:
        table.add_row("mongod", str(fleet.base.pid), "", str(fleet.base.port), str(fleet.base.log))
    if fleet.rabbit:
        table.add_row("rabbitmq", str(fleet.rabbit.master.pid), "", str(fleet.rabbit.port), str(fleet.rabbit.log))
    for name, server in fleet:
        workers = ", ".join(str(worker.pid) for worker in server.workers())
        table.add_row(name, str(server.master.pid), workers, str(server.port), str(server.log))
    return table


if __name__ == "__main__":
    sys.exit(main())
