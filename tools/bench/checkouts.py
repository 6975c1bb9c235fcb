"""`python -m tools.bench checkouts`: this checkout beside another one, in alternating rounds: what a change has gained."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from tools.bench.contestants import Kind, orderflow, started
from tools.bench.figures import Figures, medians, ratio
from tools.bench.preload import preload
from tools.bench.runner import Log, Plan, Results, run_rounds
from tools.bench.settlement import SettlementTime, when_idle
from tools.cluster.processes import ROOT

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Comparison:
    """What both checkouts need: rounds by checkout and kind of request, and the time to Success when idle."""

    results: Results
    idle: dict[str, list[SettlementTime]]


def compare(
    other: Path, kinds: Sequence[Kind], plan: Plan, folder: Path, settings: Mapping[str, str], log: Log
) -> Comparison:
    """Measures the checkout in the folder `other` and this one; each has a server and a mongod of its own."""
    with ExitStack() as stack:
        both = [
            stack.enter_context(started(name, folder / name, partial(orderflow, environ=settings, root=root)))
            for name, root in ((BEFORE, other.resolve()), (AFTER, ROOT))
        ]
        for contestant in both:
            preload(contestant, kinds)
        results = run_rounds(both, plan, log, kinds)
        rounds = range(plan.rounds if plan.idle else 0)
        idle = [{one.name: when_idle(one, plan.idle) for one in both} for _ in rounds]
    return Comparison(results, {name: [each[name] for each in idle] for name in (BEFORE, AFTER)})


def table(found: Comparison) -> Table:
    """Returns the medians of both, and after divided by before."""
    shown = Table(title="CPU time a request, medians over the rounds", title_justify="left")
    for title in ("", "", BEFORE, AFTER, "after / before"):
        shown.add_column(title, justify="right")
    for kind in found.results.rounds[AFTER]:
        before, after = (medians(found.results.rounds[name][kind]) for name in (BEFORE, AFTER))
        for place, (title, values) in enumerate(_figures(before, after).items()):
            shown.add_row("" if place else kind, title, *_row(*values))
    for title, values in _idle_figures(found.idle).items():
        shown.add_row("POST to Success when idle", title, *_row(*values))
    memory = found.results.memory
    shown.add_row("memory", "PSS MB", *_row(memory[BEFORE].pss_mb, memory[AFTER].pss_mb))
    return shown


def as_dict(found: Comparison) -> dict[str, Any]:
    """Returns the results as JSON has them."""
    return {
        "rounds": {
            name: {kind: [asdict(one) for one in rounds] for kind, rounds in kinds.items()}
            for name, kinds in found.results.rounds.items()
        },
        "idle": {name: [asdict(one) for one in times] for name, times in found.idle.items()},
        "memory": {name: asdict(one) for name, one in found.results.memory.items()},
    }


def _figures(before: Figures | None, after: Figures | None) -> dict[str, tuple[float | None, float | None]]:
    names = {"server µs": "server_us", "mongod µs": "mongod_us", "settled/s": "flow_rate", "p50 ms": "p50_ms"}
    both = {title: (before and getattr(before, name), after and getattr(after, name)) for title, name in names.items()}
    total = tuple(figures and figures.server_us + figures.mongod_us for figures in (before, after))
    return {**both, "together µs": (total[0], total[1])}


def _idle_figures(idle: dict[str, list[SettlementTime]]) -> dict[str, tuple[float | None, float | None]]:
    if not idle[AFTER]:
        return {}
    best = [min(one.p50_ms for one in idle[name]) for name in (BEFORE, AFTER)]
    return {"p50 ms, best round": (best[0], best[1])}


def _row(before: float | None, after: float | None) -> tuple[str, str, str]:
    change = ratio(after, before)
    return (*("failed" if value is None else f"{value:,.1f}" for value in (before, after)), f"{change or 0:.2f} ×")
