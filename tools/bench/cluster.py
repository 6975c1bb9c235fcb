"""`python -m tools.bench cluster`: the CPU of an order by module, with more and more processes of each.

The processes talk over RabbitMQ; orders and payments have a mongod each. Each gateway gets the same rate, far below its limit,
so that the rate grows with the processes and all of them still fit on two cores.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from tools.bench.contestants import Contestant, ServerLocation, started
from tools.bench.database import BenchDatabase, ids_from_now
from tools.bench.rounds import MICROSECONDS
from tools.bench.runner import Log, Plan
from tools.bench.split_server import SplitServer
from tools.bench.wrk import Request, Result, load_all

MODULES = ("gateway", "orders", "payments")
COUNTS = (1, 2, 4)
TOTAL = "all"
# With the plan's 32 connections this is 64 orders a second for each gateway.
PAUSE_MS = 500


@dataclass(frozen=True)
class ModuleCosts:
    """Microseconds of CPU an order by module, broker and database; `error` says why they do not count."""

    us: Mapping[str, int]
    error: str = ""


@dataclass(frozen=True)
class ClusterCosts:
    """The costs of each round by the number of processes of each module."""

    rounds: Mapping[int, list[ModuleCosts]]

    @property
    def errors(self) -> list[str]:
        """One line for each failed round."""
        return [f"{count} of each: {one.error}" for count, rounds in self.rounds.items() for one in rounds if one.error]

    def medians(self) -> dict[str, list[float]]:
        """Returns the medians in microseconds by name, one for each number of processes, with their sum last."""
        good = [[one.us for one in rounds if not one.error] for rounds in self.rounds.values()]
        if not all(good):
            return {}
        by_name = {name: [median(us[name] for us in each) for each in good] for name in good[0][0]}
        return by_name | {TOTAL: [sum(column) for column in zip(*by_name.values(), strict=True)]}

    def growth(self) -> dict[str, float]:
        """Returns by name the median with the most processes divided by that with the fewest."""
        return {name: values[-1] / values[0] for name, values in self.medians().items()}


def module_costs(folder: Path, processes_each: int, plan: Plan, pause_ms: int = 0) -> ModuleCosts:
    """Measures one round with so many processes of each module, from the first order until all are settled.

    Each gateway has the plan's connections, which pause for `pause_ms` on average between two orders.
    """
    request = Request("post.lua", ("/orders", str(pause_ms)) if pause_ms else ("/orders",))
    with BenchDatabase(folder / "payments") as payments_database:
        make = partial(_server, payments_uri=payments_database.uri, processes_each=processes_each)
        with started("split", folder / "split", make) as contestant:
            used = partial(_cpu, contestant.server, contestant.database, payments_database)
            _load(contestant, request, plan.warmup, plan.connections)
            before = used()
            done = _load(contestant, request, plan.seconds, plan.connections)
            taken = {name: seconds - before[name] for name, seconds in used().items()}
    orders = max(done.requests, 1)
    error = "" if done.clean else f"{done.bad_statuses} bad answers, {done.socket_errors} socket errors"
    return ModuleCosts({name: round(seconds / orders * MICROSECONDS) for name, seconds in taken.items()}, error)


def _load(contestant: Contestant, request: Request, seconds: int, connections: int) -> Result:
    since = ids_from_now()
    done = load_all(contestant.server.urls, request, seconds, connections)
    contestant.database.wait_until_settled(since)
    return done


def cluster_costs(folder: Path, plan: Plan, log: Log) -> ClusterCosts:
    """Measures all rounds; a cluster runs alone, and the numbers of processes alternate."""
    rounds: dict[int, list[ModuleCosts]] = {count: [] for count in COUNTS}
    for number in range(plan.rounds):
        for count in COUNTS:
            costs = module_costs(folder / f"{number}-{count}", count, plan, PAUSE_MS)
            rounds[count].append(costs)
            log(f"round {number + 1} · {count} of each: {costs.error or ', '.join(_text(costs.us))}")
    return ClusterCosts(rounds)


def table(costs: ClusterCosts) -> Table:
    """Returns the medians as a table for the terminal."""
    shown = Table(title="microseconds of CPU an order", title_justify="left", title_style="bold")
    shown.add_column("")
    for count in COUNTS:
        shown.add_column(f"{count} of each", justify="right")
    shown.add_column(f"{COUNTS[-1]} / {COUNTS[0]}", justify="right")
    growth = costs.growth()
    for name, values in costs.medians().items():
        shown.add_row(name, *(f"{value:,.0f}" for value in values), f"{growth[name]:.2f}")
    return shown


def as_dict(costs: ClusterCosts) -> dict[str, Any]:
    """Returns the medians as scaling.toml and JSON have them."""
    return {"counts": list(COUNTS), **{f"{name}_us": values for name, values in costs.medians().items()}}


def _server(location: ServerLocation, payments_uri: str, processes_each: int) -> SplitServer:
    replicas = dict.fromkeys(MODULES, processes_each)
    return SplitServer(
        location.folder, {"LOG_LEVEL": "warning"}, location.port, location.uri, payments_uri, replicas=replicas
    )


def _cpu(server: SplitServer, orders: BenchDatabase, payments: BenchDatabase) -> dict[str, float]:
    return {**server.cpu_by_module(), "orders_mongod": orders.cpu(), "payments_mongod": payments.cpu()}


def _text(us: Mapping[str, int]) -> list[str]:
    return [f"{name} {value:,} µs" for name, value in us.items()]
