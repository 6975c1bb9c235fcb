"""`python -m tools.chaos`: one run, one table, exit code 1 unless nothing was lost, stuck or charged twice."""

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

from tools.chaos import fleet_run, harness
from tools.chaos.faults import Kind
from tools.chaos.harness import Plan
from tools.chaos.server_faults import ROUND
from tools.cluster import hosts

MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a folder of its own there
ENOUGH_BYTES = 4 * 2**30
LONGEST_SECONDS = 24 * 3600.0
HIGHEST_RATE = 500.0


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of faults (default: 120)")
    parser.add_argument("--seed", type=int, nargs="?", help="the seed of an earlier run, to do it again")
    parser.add_argument("--clients", type=int, default=8, help="how many clients (default: 8)")
    parser.add_argument("--rate", type=float, default=30.0, help="orders a second, all clients together (default: 30)")
    parser.add_argument("--split", action="store_true", help="two processes of each module, over a broker")
    parser.add_argument(
        "--hosts", action="store_true", help="that, with a host of its own for each: network namespaces"
    )
    parser.add_argument(
        "--only",
        type=_kind,
        action="append",
        metavar="NAME",
        help="this kind of fault, for one server; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    if not (0 < given.duration <= LONGEST_SECONDS and 0 < given.rate <= HIGHEST_RATE and 0 < given.clients <= 64):
        parser.error("--duration, --rate and --clients must be above 0 and within reason")
    if given.hosts and not hosts.enclosed():
        if not hosts.permitted():
            parser.error(hosts.NOT_PERMITTED)
        hosts.enclose([sys.executable, "-m", "tools.chaos", *sys.argv[1:]])
    run = fleet_run.run_on_hosts if given.hosts else fleet_run.run if given.split else harness.run
    seed = randbelow(10**6) if given.seed is None else given.seed
    told = Console(stderr=given.json, highlight=False, soft_wrap=True)
    told.print(f"chaos for {given.duration:g} s with seed {seed}; the same again: --seed {seed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="orderflow-chaos-", dir=_fast_place()))
    keep = True
    try:
        plan = Plan(seed=seed, duration=given.duration, clients=given.clients, rate=given.rate)
        verdict = run(replace(plan, kinds=given.only, first=len(given.only)) if given.only else plan, folder)
        keep = not verdict.clean
    except (KeyboardInterrupt, SystemExit):
        keep = False
        told.print("broken off")
        return 130
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        sys.stdout.write(json.dumps(verdict.as_dict(), indent=2) + "\n")
    else:
        told.print(verdict.table())
        for line in verdict.details:
            told.print(line, markup=False)
    if keep:
        told.print(f"logs and data: {folder}")
    return 0 if verdict.clean else 1


def _kind(name: str) -> Kind:
    """A kind of fault by its name, such as time_jump."""
    try:
        return Kind[name.upper()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"use some of {', '.join(kind.name.lower() for kind in ROUND)}") from None


def _fast_place() -> Path | None:
    """A file system in memory, where there is one with room: a killed process loses nothing there either."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH_BYTES else None


if __name__ == "__main__":
    sys.exit(main())
