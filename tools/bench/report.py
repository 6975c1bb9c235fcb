"""The results of a run, as tables for the terminal and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.bench.baseline import InsertCost
from tools.bench.contestants import LABELS, LEGEND, Kind, Name
from tools.bench.figures import medians, ratio
from tools.bench.runner import Plan, Results
from tools.bench.settlement import SettlementTime
from tools.bench.targets import TargetResult, limits, ratios, split_ratios

VERDICT = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}


@dataclass(frozen=True)
class Report:
    """All results of a run."""

    machine: dict[str, str]
    plan: Plan
    results: Results
    idle: dict[str, SettlementTime]
    loaded: dict[str, SettlementTime]
    baseline: list[InsertCost]

    def medians(self):
        """Returns the medians by contestant and kind."""
        return {
            name: {kind: medians(rounds) for kind, rounds in kinds.items()}
            for name, kinds in self.results.rounds.items()
        }

    def target_results(self) -> list[TargetResult]:
        """Returns the targets with what was measured."""
        ours, plain = self.idle.get(Name.ORDERFLOW), self.idle.get(Name.FLASK)
        loaded, memory = self.loaded.get(Name.ORDERFLOW), self.results.memory.get(Name.ORDERFLOW)
        measured = {
            "POST to Success, idle, p50 / plain Flask": ratio(ours and ours.p50_ms, plain and plain.p50_ms),
            "POST answered, idle, p50 / plain Flask": ratio(ours and ours.answered_ms, plain and plain.answered_ms),
            "POST to Success, under load, p99": loaded and loaded.p99_ms,
            "resident memory after the run": memory and memory.rss_mb,
        }
        return [*ratios(self.medians()), *split_ratios(self.medians()), *limits(measured)]

    def as_dict(self) -> dict[str, Any]:
        """Returns all results, single rounds included, as JSON has them."""
        return {
            "machine": self.machine,
            "plan": asdict(self.plan),
            "medians": {
                name: {kind: figures and asdict(figures) for kind, figures in kinds.items()}
                for name, kinds in self.medians().items()
            },
            "targets": [{**asdict(one), "met": one.met} for one in self.target_results()],
            "idle": {name: asdict(one) for name, one in self.idle.items()},
            "under_load": {name: asdict(one) for name, one in self.loaded.items()},
            "baseline": [asdict(one) for one in self.baseline],
            "memory": {name: asdict(one) for name, one in self.results.memory.items()},
            "rounds": {
                name: {kind: [asdict(one) for one in rounds] for kind, rounds in kinds.items()}
                for name, kinds in self.results.rounds.items()
            },
            "errors": self.results.errors,
        }


def show(report: Report, console: Console) -> None:
    """Prints all tables."""
    console.print(" · ".join(f"{name} {value}" for name, value in report.machine.items()), style="dim")
    console.print(LEGEND, style="dim")
    console.print(rates_table(report))
    console.print(settlement_table(report))
    if report.baseline:
        console.print(baseline_table(report.baseline))
    console.print(targets_table(report.target_results()))
    for line in report.results.errors:
        console.print(f"FAILED  {line}", style="red", markup=False)


def rates_table(report: Report) -> Table:
    """Returns the medians by kind of request and contestant."""
    table = _table("medians over the rounds", "", "contestant")
    for title in ("settled/s", "answered/s", "p50 ms", "p99 ms", "server µs", "mongod µs"):
        table.add_column(title, justify="right")
    medians_by_name = report.medians()
    for kind in Kind:
        taking_part = [name for name in medians_by_name if kind in medians_by_name[name]]
        for place, name in enumerate(taking_part):
            row = _figure_columns(medians_by_name[name][kind])
            table.add_row(
                kind if not place else "", LABELS.get(name, name), *row, end_section=place == len(taking_part) - 1
            )
    return table


def settlement_table(report: Report) -> Table:
    """Returns the times from POST to Success and the memory."""
    table = _table("POST to Success, and memory after the run", "contestant")
    titles = ("idle p50 ms", "idle p99 ms", "answered p50 ms", "loaded p50 ms", "loaded p99 ms")
    for title in (*titles, "RSS MB", "PSS MB", "processes"):
        table.add_column(title, justify="right")
    for name, memory in report.results.memory.items():
        memory_columns = (f"{memory.rss_mb:,.0f}", f"{memory.pss_mb:,.0f}", str(memory.processes))
        idle = report.idle.get(name)
        answered = f"{idle.answered_ms:.1f}" if idle and idle.answered_ms else "–"
        times = (*_time_columns(idle), answered, *_time_columns(report.loaded.get(name)))
        table.add_row(LABELS.get(name, name), *times, *memory_columns)
    return table


def baseline_table(costs: list[InsertCost]) -> Table:
    """Returns the cost of plain inserts."""
    table = _table("baseline: insert_many alone, per document", "batch")
    for title in ("elapsed µs", "client µs", "mongod µs"):
        table.add_column(title, justify="right")
    for one in costs:
        table.add_row(str(one.size), *(f"{value:,.0f}" for value in (one.wall_us, one.client_us, one.mongod_us)))
    return table


def targets_table(results: list[TargetResult]) -> Table:
    """Returns the targets with what was measured."""
    table = _table("targets", "Orderflow")
    for title in ("target", "measured", ""):
        table.add_column(title, justify="right")
    for one in results:
        sign = "≤" if one.at_most else "≥"
        measured = "–" if one.measured is None else f"{one.measured:.2f} {one.unit}"
        table.add_row(one.name, f"{sign} {one.target:g} {one.unit}", measured, VERDICT[one.met])
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column)
    return table


def _figure_columns(figures) -> tuple[str, ...]:
    if figures is None:
        return ("failed", *["–"] * 5)
    rounded = (f"{figures.flow_rate:,.0f}", f"{figures.rate:,.0f}", f"{figures.p50_ms:.1f}", f"{figures.p99_ms:.1f}")
    return (*rounded, f"{figures.server_us:,.0f}", f"{figures.mongod_us:,.0f}")


def _time_columns(time: SettlementTime | None) -> tuple[str, str]:
    return (f"{time.p50_ms:.1f}", f"{time.p99_ms:.1f}") if time else ("–", "–")
