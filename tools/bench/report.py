"""What a run found, as tables for people and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.bench.contestants import LABELS, LEGEND, Kind
from tools.bench.figures import medians
from tools.bench.floor import Cost
from tools.bench.race import Plan, Results
from tools.bench.settling import Settling
from tools.bench.targets import Judged, apart, limits, ratios

VERDICT = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}


@dataclass(frozen=True)
class Report:
    """All that a run found."""

    machine: dict[str, str]
    plan: Plan
    results: Results
    idle: dict[str, Settling]
    loaded: dict[str, Settling]
    floor: list[Cost]

    def medians(self):
        """Medians by contestant and kind."""
        return {
            name: {kind: medians(rounds) for kind, rounds in kinds.items()}
            for name, kinds in self.results.rounds.items()
        }

    def judged(self) -> list[Judged]:
        """The targets, and whether they were met."""
        idle, loaded = self.idle.get("orderflow"), self.loaded.get("orderflow")
        memory = self.results.memory.get("orderflow")
        measured = {
            "POST to Success, idle, p50": idle and idle.p50_ms,
            "POST to Success, idle, p99": idle and idle.p99_ms,
            "POST to Success, under load, p99": loaded and loaded.p99_ms,
            "resident memory after the run": memory and memory.rss_mb,
        }
        return [*ratios(self.medians()), *apart(self.medians()), *limits(measured)]

    def as_dict(self) -> dict[str, Any]:
        """Everything, the single rounds included, as JSON has it."""
        return {
            "machine": self.machine,
            "plan": asdict(self.plan),
            "medians": {
                name: {kind: figures and asdict(figures) for kind, figures in kinds.items()}
                for name, kinds in self.medians().items()
            },
            "targets": [{**asdict(one), "met": one.met} for one in self.judged()],
            "idle": {name: asdict(one) for name, one in self.idle.items()},
            "under_load": {name: asdict(one) for name, one in self.loaded.items()},
            "floor": [asdict(one) for one in self.floor],
            "memory": {name: asdict(one) for name, one in self.results.memory.items()},
            "rounds": {
                name: {kind: [asdict(one) for one in rounds] for kind, rounds in kinds.items()}
                for name, kinds in self.results.rounds.items()
            },
            "troubles": self.results.troubles,
        }


def show(report: Report, console: Console) -> None:
    """Print all tables."""
    console.print(" · ".join(f"{name} {value}" for name, value in report.machine.items()), style="dim")
    console.print(LEGEND, style="dim")
    console.print(rates(report))
    console.print(waits(report))
    if report.floor:
        console.print(costs(report.floor))
    console.print(targets(report.judged()))
    for line in report.results.troubles:
        console.print(f"FAILED  {line}", style="red", markup=False)


def rates(report: Report) -> Table:
    """Medians by kind of request and contestant."""
    table = _table("medians over the rounds", "", "contestant")
    for title in ("settled/s", "answered/s", "p50 ms", "p99 ms", "server µs", "mongod µs"):
        table.add_column(title, justify="right")
    found = report.medians()
    for kind in Kind:
        able = [name for name in found if kind in found[name]]
        for place, name in enumerate(able):
            row = _figures(found[name][kind])
            table.add_row(kind if not place else "", LABELS.get(name, name), *row, end_section=place == len(able) - 1)
    return table


def waits(report: Report) -> Table:
    """From POST to Success, and memory."""
    table = _table("POST to Success, and memory after the run", "contestant")
    for title in ("idle p50 ms", "idle p99 ms", "loaded p50 ms", "loaded p99 ms", "RSS MB", "PSS MB", "processes"):
        table.add_column(title, justify="right")
    for name, memory in report.results.memory.items():
        held = (f"{memory.rss_mb:,.0f}", f"{memory.pss_mb:,.0f}", str(memory.processes))
        waited = (*_settling(report.idle.get(name)), *_settling(report.loaded.get(name)))
        table.add_row(LABELS.get(name, name), *waited, *held)
    return table


def costs(floor: list[Cost]) -> Table:
    """The floor."""
    table = _table("the floor: insert_many alone, per document", "batch")
    for title in ("by the clock µs", "client µs", "mongod µs"):
        table.add_column(title, justify="right")
    for one in floor:
        table.add_row(str(one.size), *(f"{value:,.0f}" for value in (one.wall_us, one.client_us, one.mongod_us)))
    return table


def targets(judged: list[Judged]) -> Table:
    """What was wanted and what came."""
    table = _table("targets", "Orderflow")
    for title in ("wanted", "measured", ""):
        table.add_column(title, justify="right")
    for one in judged:
        sign = "≤" if one.at_most else "≥"
        measured = "–" if one.measured is None else f"{one.measured:.2f} {one.unit}"
        table.add_row(one.name, f"{sign} {one.wanted:g} {one.unit}", measured, VERDICT[one.met])
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def _figures(found) -> tuple[str, ...]:
    if found is None:
        return ("failed", *["–"] * 5)
    rounded = (f"{found.flow_rate:,.0f}", f"{found.rate:,.0f}", f"{found.p50_ms:.1f}", f"{found.p99_ms:.1f}")
    return (*rounded, f"{found.server_us:,.0f}", f"{found.mongod_us:,.0f}")


def _settling(found: Settling | None) -> tuple[str, str]:
    return (f"{found.p50_ms:.1f}", f"{found.p99_ms:.1f}") if found else ("–", "–")
