"""`python -m tools.bench` without a command: Orderflow beside its peers."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tools.bench import machine
from tools.bench.baseline import insert_costs
from tools.bench.contestants import Contestant, Kind, Name, all_started
from tools.bench.database import BenchDatabase
from tools.bench.preload import preload
from tools.bench.report import Report
from tools.bench.runner import Log, Plan, run_rounds
from tools.bench.settlement import SettlementTime, under_load, when_idle
from tools.cluster.processes import ROOT


@contextmanager
def folder_on_disk(parent: Path | None = None) -> Iterator[Path]:
    """A temporary folder for one run, on a disk and not in memory."""
    parent = parent or ROOT / ".orderflow"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        yield Path(folder)


def compare(
    names: list[Name], kinds: list[Kind], plan: Plan, folder: Path, settings: Mapping[str, str], log: Log
) -> Report:
    """Starts the contestants, runs all rounds, and stops the contestants."""
    facts = machine.facts()
    with all_started(names, folder, settings) as contestants:
        for contestant in contestants:
            preload(contestant, kinds)
        results = run_rounds(contestants, plan, log, kinds)
        storing = [one for one in contestants if one.database]
        idle = _idle(storing, plan, log)
        loaded = {one.name: under_load(one.database, one.name, results) for one in storing}
        facts["mongodb"] = storing[0].database.version if storing else ""
    log("the baseline: insert_many alone")
    with BenchDatabase(folder / "baseline") as database:
        costs = insert_costs(database, plan.rounds, plan.seconds / 6)
    return Report(facts, plan, results, idle, {name: one for name, one in loaded.items() if one}, costs)


def _idle(contestants: list[Contestant], plan: Plan, log: Log) -> dict[str, SettlementTime]:
    times = {}
    for one in contestants if plan.idle else []:
        log(f"POST to Success when idle · {one.name}")
        times[one.name] = when_idle(one, plan.idle)
    return times
