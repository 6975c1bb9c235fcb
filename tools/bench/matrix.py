"""`python -m tools.bench matrix`: gunicorn's settings against each other, on the whole application."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from rich.table import Table

from tools.bench.contestants import Kind, orderflow, started
from tools.bench.figures import Figures, medians
from tools.bench.preload import preload
from tools.bench.runner import Log, Plan, Results, run_rounds

CLASSES = ("gevent", "gthread")
WORKERS = (1, 2, 3)
KINDS = (Kind.POST, Kind.ONE)
ONE_ROUND = 1


@dataclass(frozen=True)
class Cell:
    """One combination of settings."""

    worker_class: str
    workers: int
    parser: str

    @property
    def name(self) -> str:
        """A name for files and tables."""
        return f"{self.worker_class}-{self.workers}-{self.parser}"


def parsers() -> tuple[str, ...]:
    """Returns the values of `--http-parser` that work here; `fast` needs the package gunicorn_h1c."""
    return ("python", "fast") if find_spec("gunicorn_h1c") else ("python",)


def cells() -> list[Cell]:
    """Returns all combinations."""
    return [Cell(*each) for each in product(CLASSES, WORKERS, parsers())]


def matrix(plan: Plan, folder: Path, settings: Mapping[str, str], log: Log) -> Results:
    """Runs all cells one after the other, once a round, each time with an empty database."""
    results = Results({cell.name: {} for cell in cells()})
    for number in range(plan.rounds):
        for cell in cells():
            once = Plan(ONE_ROUND, plan.seconds, plan.warmup, idle=0)
            cell_results = _run(cell, once, folder / f"{cell.name}-{number}", settings, log)
            for kind, rounds in cell_results.rounds[cell.name].items():
                results.rounds[cell.name].setdefault(kind, []).extend(rounds)
            results.memory[cell.name] = cell_results.memory[cell.name]
    return results


def table(results: Results) -> Table:
    """Returns a table with the medians of each cell."""
    shown = Table(title="gunicorn's settings, medians", title_justify="left")
    for title in ("worker class", "workers", "parser", "POST settled/s", "p99 ms", "GET one/s", "p99 ms", "RSS MB"):
        shown.add_column(title, justify="right")
    for cell in cells():
        rates = [part for kind in KINDS for part in _columns(medians(results.rounds[cell.name].get(kind, [])))]
        memory = f"{results.memory[cell.name].rss_mb:,.0f}"
        shown.add_row(cell.worker_class, str(cell.workers), cell.parser, *rates, memory)
    return shown


def as_dict(results: Results) -> dict[str, Any]:
    """Returns all cells as JSON has them."""
    return {"cells": [{**asdict(cell), "medians": dict(_medians(results, cell))} for cell in cells()]}


def _run(cell: Cell, plan: Plan, folder: Path, settings: Mapping[str, str], log: Log) -> Results:
    environ = {**settings, "WORKER_CLASS": cell.worker_class, "WEB_CONCURRENCY": str(cell.workers)}
    make = partial(orderflow, environ=environ, options=("--http-parser", cell.parser))
    with started(cell.name, folder, make) as contestant:
        preload(contestant)
        return run_rounds([contestant], plan, log, KINDS)


def _medians(results: Results, cell: Cell) -> Iterator[tuple[str, dict[str, float] | None]]:
    for kind in KINDS:
        figures = medians(results.rounds[cell.name].get(kind, []))
        yield kind, figures and asdict(figures)


def _columns(figures: Figures | None) -> tuple[str, str]:
    return (f"{figures.flow_rate:,.0f}", f"{figures.p99_ms:.1f}") if figures else ("failed", "–")
