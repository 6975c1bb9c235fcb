"""`python -m tools.bench growth`: an Orderflow with many stored orders beside an empty one, in alternating rounds."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console

from tools.bench.contestants import Contestant, Kind, orderflow, started
from tools.bench.figures import Figures, medians, ratio
from tools.bench.preload import get_requests, order_requests
from tools.bench.report import targets_table
from tools.bench.runner import Log, Plan, Results, run_rounds
from tools.bench.seed import MANY_USER, PAGE_USER, list_users, seed
from tools.bench.targets import FULL_OF_EMPTY_AT_LEAST, TargetResult

EMPTY, FULL = "empty", "full"


class Page(StrEnum):
    """Requests for first pages of 100 orders."""

    HUNDRED = "first page of a user with 100 orders"
    MANY = "first page of a user with a tenth of all orders"


KINDS = (*Kind, *Page)


def grow(
    orders: int, plan: Plan, folder: Path, settings: Mapping[str, str], cache_gb: float, log: Log
) -> tuple[Results, list[TargetResult]]:
    """Seeds one of two servers and runs all rounds on both."""
    mongod = (f"--wiredTigerCacheSizeGB={cache_gb:g}",)
    with ExitStack() as stack:
        empty, full = (
            stack.enter_context(
                started(name, folder / name, lambda location: orderflow(location, settings), mongod=mongod)
            )
            for name in (EMPTY, FULL)
        )
        _seed(empty, 0, log)
        _seed(full, orders, log)
        results = run_rounds([empty, full], plan, log, KINDS)
    return results, compare(results)


def compare(results: Results) -> list[TargetResult]:
    """Returns full against empty for each kind of request."""
    return [TargetResult(f"full / empty: {kind}", FULL_OF_EMPTY_AT_LEAST, _ratio(results, kind)) for kind in KINDS]


def show(results: Results, target_results: list[TargetResult], console: Console) -> None:
    """Prints the results."""
    for kind in KINDS:
        for name in (EMPTY, FULL):
            figures = medians(results.rounds[name].get(kind, []))
            console.print(f"{kind} · {name}: {_line(figures)}")
    console.print(targets_table(target_results))


def as_dict(results: Results, target_results: list[TargetResult]) -> dict[str, Any]:
    """Returns the results as JSON has them."""
    rounds = {
        name: {kind: [asdict(one) for one in each] for kind, each in kinds.items()}
        for name, kinds in results.rounds.items()
    }
    return {"targets": [{**asdict(one), "met": one.met} for one in target_results], "rounds": rounds}


def _seed(contestant: Contestant, orders: int, log: Log) -> None:
    seeded = seed(contestant.server.url, contestant.database, orders)
    log(f"{contestant.name}: {seeded.orders:,} orders seeded in {seeded.seconds:.0f} s")
    folder = contestant.folder
    contestant.requests = {
        **order_requests(folder, seeded.ids, list_users()),
        Page.HUNDRED: get_requests(folder, "page", "/orders/", [PAGE_USER]),
        Page.MANY: get_requests(folder, "many", "/orders/", [MANY_USER if orders else PAGE_USER]),
    }


def _ratio(results: Results, kind: str) -> float | None:
    empty, full = (medians(results.rounds[name].get(kind, [])) for name in (EMPTY, FULL))
    return ratio(full.flow_rate, empty.flow_rate) if full and empty else None


def _line(figures: Figures | None) -> str:
    if figures is None:
        return "failed"
    cpu = f"server {figures.server_us:,.0f} µs, mongod {figures.mongod_us:,.0f} µs"
    return f"{figures.flow_rate:,.0f}/s, p50 {figures.p50_ms:.1f} ms, p99 {figures.p99_ms:.1f} ms, {cpu}"
