"""`python -m tools.chaos` injects faults under load; exit code 1 if an order was lost, stuck or charged twice."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from secrets import randbelow

from rich.console import Console

from tools.chaos import cluster_run, server_run
from tools.chaos.faults import FaultKind
from tools.chaos.plan import Plan
from tools.chaos.server_faults import ROUND
from tools.cluster import hosts

MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private folder there
MIN_FREE_BYTES = 4 * 2**30
MAX_SECONDS = 24 * 3600.0
MAX_RATE = 500.0


def main() -> int:
    """Runs chaos as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of faults (default: 120)")
    parser.add_argument(
        "--seed", type=int, nargs="?", help="the seed of an earlier run, to repeat it (default: random)"
    )
    parser.add_argument("--clients", type=int, default=8, help="number of clients (default: 8)")
    parser.add_argument(
        "--rate", type=float, default=30.0, help="orders a second of all clients together (default: 30)"
    )
    parser.add_argument("--split", action="store_true", help="a cluster: two processes of each module over RabbitMQ")
    parser.add_argument(
        "--hosts", action="store_true", help="a cluster with a virtual host for each process: network namespaces"
    )
    parser.add_argument(
        "--only",
        type=_kind,
        action="append",
        metavar="NAME",
        help="inject only this kind of fault, into one server; may be repeated",
    )
    parser.add_argument(
        "--notifications-lost",
        type=float,
        default=30.0,
        metavar="PERCENT",
        help="of the provider's notifications to one server (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if not (0 < options.duration <= MAX_SECONDS and 0 < options.rate <= MAX_RATE and 0 < options.clients <= 64):
        parser.error("--duration, --rate and --clients must be above 0 and within reason")
    if not 0 <= options.notifications_lost <= 100:
        parser.error("--notifications-lost must be between 0 and 100")
    if options.hosts and not hosts.in_namespace():
        if not hosts.namespaces_permitted():
            parser.error(hosts.NOT_PERMITTED)
        hosts.enter_namespace([sys.executable, "-m", "tools.chaos", *sys.argv[1:]])
    run = cluster_run.run_on_hosts if options.hosts else cluster_run.run if options.split else server_run.run
    seed = randbelow(10**6) if options.seed is None else options.seed
    console = Console(stderr=options.json, highlight=False, soft_wrap=True)
    console.print(f"chaos for {options.duration:g} s with seed {seed}; to repeat it: --seed {seed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="orderflow-chaos-", dir=_memory_folder()))
    keep = True
    try:
        plan = Plan(
            seed=seed,
            duration=options.duration,
            clients=options.clients,
            rate=options.rate,
            notifications_lost=options.notifications_lost / 100,
        )
        verdict = run(replace(plan, kinds=options.only, first=len(options.only)) if options.only else plan, folder)
        keep = not verdict.clean
    except (KeyboardInterrupt, SystemExit):
        keep = False
        console.print("interrupted")
        return 130
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        sys.stdout.write(json.dumps(verdict.as_dict(), indent=2) + "\n")
    else:
        console.print(verdict.table())
        for line in verdict.details:
            console.print(line, markup=False)
    if keep:
        console.print(f"logs and data: {folder}")
    return 0 if verdict.clean else 1


def _kind(name: str) -> FaultKind:
    """Returns a kind of fault by its name, such as time_jump."""
    try:
        return FaultKind[name.upper()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"use some of {', '.join(kind.name.lower() for kind in ROUND)}") from None


def _memory_folder() -> Path | None:
    """Returns a file system in memory if it has space; a killed process loses nothing there."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MIN_FREE_BYTES else None


if __name__ == "__main__":
    sys.exit(main())
