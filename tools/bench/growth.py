"""`python -m tools.bench growth`: an Orderflow with many orders beside an empty one, in turn."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console

from tools.bench.contestants import Contestant, Kind, orderflow, started
from tools.bench.figures import Figures, medians, ratio
from tools.bench.race import Plan, Results, Tell, race
from tools.bench.report import targets
from tools.bench.seed import MANY_USER, PAGE_USER, list_users, seed
from tools.bench.stock import asking, order_requests
from tools.bench.targets import GROWN, Judged

EMPTY, FULL = "empty", "full"


class Page(StrEnum):
    """First pages of 100 orders."""

    HUNDRED = "first page of a user with 100 orders"
    MANY = "first page of a user with a tenth of all orders"


KINDS = (*Kind, *Page)


def grow(
    orders: int, plan: Plan, folder: Path, settings: Mapping[str, str], cache_gb: float, tell: Tell
) -> tuple[Results, list[Judged]]:
    """Seed one of two, run all rounds on both."""
    mongod = (f"--wiredTigerCacheSizeGB={cache_gb:g}",)
    with ExitStack() as stack:
        empty, full = (
            stack.enter_context(started(name, folder / name, lambda place: orderflow(place, settings), mongod=mongod))
            for name in (EMPTY, FULL)
        )
        _stock(empty, 0, tell)
        _stock(full, orders, tell)
        results = race([empty, full], plan, tell, KINDS)
    return results, compared(results)


def compared(results: Results) -> list[Judged]:
    """Full against empty, for each kind of request."""
    return [Judged(f"full / empty: {kind}", GROWN, _ratio(results, kind)) for kind in KINDS]


def show(results: Results, judged: list[Judged], console: Console) -> None:
    """Print what was found."""
    for kind in KINDS:
        for name in (EMPTY, FULL):
            found = medians(results.rounds[name].get(kind, []))
            console.print(f"{kind} · {name}: {_told(found)}")
    console.print(targets(judged))


def as_dict(results: Results, judged: list[Judged]) -> dict[str, Any]:
    """What was found, as JSON has it."""
    rounds = {
        name: {kind: [asdict(one) for one in each] for kind, each in kinds.items()}
        for name, kinds in results.rounds.items()
    }
    return {"targets": [{**asdict(one), "met": one.met} for one in judged], "rounds": rounds}


def _stock(contestant: Contestant, orders: int, tell: Tell) -> None:
    seeded = seed(contestant.server.url, contestant.base, orders)
    tell(f"{contestant.name}: {seeded.orders:,} orders seeded in {seeded.seconds:.0f} s")
    folder = contestant.folder
    contestant.requests = {
        **order_requests(folder, seeded.ids, list_users()),
        Page.HUNDRED: asking(folder, "page", "/orders/", [PAGE_USER]),
        Page.MANY: asking(folder, "many", "/orders/", [MANY_USER if orders else PAGE_USER]),
    }


def _ratio(results: Results, kind: str) -> float | None:
    empty, full = (medians(results.rounds[name].get(kind, [])) for name in (EMPTY, FULL))
    return ratio(full.flow_rate, empty.flow_rate) if full and empty else None


def _told(found: Figures | None) -> str:
    if found is None:
        return "failed"
    cpu = f"server {found.server_us:,.0f} µs, mongod {found.mongod_us:,.0f} µs"
    return f"{found.flow_rate:,.0f}/s, p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms, {cpu}"
