"""`python -m tools.bench`: Orderflow beside its peers."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tools.bench import machine
from tools.bench.base import Base
from tools.bench.contestants import Contestant, Kind, Name, field_of
from tools.bench.floor import floor
from tools.bench.processes import ROOT
from tools.bench.race import Plan, Tell, race
from tools.bench.report import Report
from tools.bench.settling import Settling, under_load, when_idle
from tools.bench.stock import stock


@contextmanager
def folder_on_disk(parent: Path | None = None) -> Iterator[Path]:
    """A folder for one run, on the disk and not in memory; gone afterwards."""
    parent = parent or ROOT / ".orderflow"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        yield Path(folder)


def compare(
    names: list[Name], kinds: list[Kind], plan: Plan, folder: Path, settings: Mapping[str, str], tell: Tell
) -> Report:
    """Start all of them, run all rounds, and end all of them."""
    facts = machine.facts()
    with field_of(names, folder, settings) as contestants:
        for one in contestants:
            stock(one, kinds)
        results = race(contestants, plan, tell, kinds)
        storing = [one for one in contestants if one.base]
        idle = _idle(storing, plan, tell)
        loaded = {one.name: under_load(one.base, one.name, results) for one in storing}
        facts["mongodb"] = storing[0].base.version if storing else ""
    tell("the floor: insert_many alone")
    with Base(folder / "floor") as base:
        costs = floor(base, plan.rounds, plan.seconds / 6)
    return Report(facts, plan, results, idle, {name: one for name, one in loaded.items() if one}, costs)


def _idle(contestants: list[Contestant], plan: Plan, tell: Tell) -> dict[str, Settling]:
    found = {}
    for one in contestants if plan.idle else []:
        tell(f"POST to Success when idle · {one.name}")
        found[one.name] = when_idle(one, plan.idle)
    return found
