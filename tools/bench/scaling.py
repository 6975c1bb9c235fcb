"""`python -m tools.bench scaling`: computes the tables of docs/scaling.md from the figures in scaling.toml."""

import json
import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from math import ceil
from pathlib import Path
from typing import Any

from bson import ObjectId
from rich.console import Console

from app.storage.bulk import Patch, bulk_compare_and_set
from tools.bench import machine
from tools.bench.cluster import MODULES, TOTAL, module_costs
from tools.bench.contestants import Kind, orderflow, started
from tools.bench.database import BenchDatabase
from tools.bench.preload import preload
from tools.bench.rounds import MICROSECONDS, measure
from tools.bench.runner import Plan
from tools.cluster.processes import ROOT

FIGURES = ROOT / "tools" / "bench" / "scaling.toml"
PAGE = ROOT / "docs" / "scaling.md"
RATES = (100, 1_000, 10_000, 100_000)
SHARDS = (1, 2, 4, 8, 16, 64)
BATCHES = (1, 16, 128)
SECONDS = 6
KEYS = 64
COMMANDS = 400
DAY, HOUR = 86_400, 3_600


class Figures:
    """The figures of scaling.toml by section: `figures.prices.vcpu_hour`."""

    def __init__(self, file: Path = FIGURES) -> None:
        for section, values in tomllib.loads(file.read_text()).items():
            setattr(self, section, make_dataclass(section, values, frozen=True)(**values))

    def __getattr__(self, section: str) -> Any:
        raise AttributeError(f"there is no section [{section}]")


@dataclass(frozen=True)
class Size:
    """The resources for `rate` orders a second."""

    rate: int
    tasks: dict[str, int]
    database_cores: float
    shards: int
    journal_mb: float
    broker_cores: float
    broker_messages: float
    broker_mb: float
    call_slots: int
    connections: int
    network_mbit: float
    day_gb: float


def size(figures: Figures, rate: int) -> Size:
    """Computes the resources, by CPU unless a comment says otherwise; each module has at least two processes."""
    assumed, measured = figures.assumed, figures.measured
    by_cpu = {name: ceil(rate * cpu_us(figures, name) / MICROSECONDS / assumed.use) for name in MODULES}
    call_slots = ceil(rate * assumed.provider_seconds)
    tasks = {name: max(2, count) for name, count in by_cpu.items()}
    tasks["payments"] = max(tasks["payments"], ceil(call_slots / assumed.call_slots))
    cores = rate * mongod_us(figures) / MICROSECONDS / assumed.use
    journal = rate * measured.journal_bytes / 1e6
    # Each shard that a batch reaches also looks for the keys of the other shards and finds none; each such look costs CPU.
    shards = 1
    while shards < max(cores_with(figures, cores, rate, shards) / assumed.shard_cores, journal / assumed.disk_mb):
        shards += 1
    return Size(
        rate=rate,
        tasks=tasks,
        database_cores=cores_with(figures, cores, rate, shards),
        shards=shards,
        broker_cores=rate * figures.split.broker_us / MICROSECONDS / assumed.use,
        journal_mb=journal,
        broker_messages=rate * assumed.bus_messages / assumed.batch,
        broker_mb=rate * assumed.bus_bytes / 1e6,
        call_slots=call_slots,
        connections=sum(tasks.values()) * assumed.pool,
        network_mbit=rate * assumed.http_bytes * 8 / 1e6,
        day_gb=rate * DAY * (measured.data_bytes + measured.index_bytes) / 1e9,
    )


def cores_with(figures: Figures, cores: float, rate: int, shards: int) -> float:
    """Returns the cores of all primaries, with the cost of batches that reach several of `shards` shards."""
    return cores + rate * broadcast_us(figures, shards) / MICROSECONDS / figures.assumed.use


def broadcast_us(figures: Figures, shards: int, batch: int = 0) -> float:
    """Returns the CPU of an order on all shards but its own, if its batch goes to the shards of all its users."""
    return figures.assumed.batched * (reached(shards, batch or figures.assumed.batch) - 1) * figures.measured.miss_us


def reached(shards: int, batch: int) -> float:
    """Returns the mean number of shards on which `batch` users are."""
    return shards * (1 - (1 - 1 / shards) ** batch)


def cpu_us(figures: Figures, module: str) -> float:
    """Returns the CPU of a module's processes for one order."""
    return getattr(figures.split, f"{module}_us")


def mongod_us(figures: Figures) -> float:
    """Returns the CPU of MongoDB's primaries for one order."""
    return figures.split.orders_mongod_us + figures.split.payments_mongod_us


def hours(figures: Figures, microseconds: float) -> float:
    """Returns the vCPU-hours of a million orders that take `microseconds` of CPU each."""
    return microseconds / HOUR / figures.assumed.use


def measured_table(figures: Figures) -> list[list[str]]:
    """Returns the table of measured figures."""
    found, bench = figures.measured, figures.bench
    return [
        ["figure", "an order", "how"],
        ["CPU of the server, one process for all", f"{bench.server_us:,} µs", "`make bench`"],
        ["CPU of mongod", f"{bench.mongod_us:,} µs", "`make bench`"],
        ["documents written", f"{found.writes:.1f}", "opcounters"],
        ["commands to MongoDB", f"{found.commands:.2f}", "at 32 connections; fewer the more come at once"],
        ["bytes to MongoDB", f"{found.database_bytes:,}", "network.bytesIn"],
        ["journal", f"{found.journal_bytes:,} B, {found.journal_syncs:.2f} syncs", "wiredTiger.log"],
        ["oplog", f"{found.oplog_bytes:,} B", "collStats"],
        ["documents, uncompressed", f"{found.data_bytes:,} B", "orders and payments, collStats; the simulated provider's left out"],
        ["indexes", f"{found.index_bytes:,} B", "orders and payments, collStats"],
        ["a key that is not found", f"{found.miss_us:.1f} µs", f"an update by {KEYS} ids of which none exists"],
        ["a key that is found and changed", f"{found.hit_us:.1f} µs", f"the same with all of them stored; {found.hit_us - found.miss_us:.1f} µs more"],
    ]  # fmt: skip


def cost_table(figures: Figures) -> list[list[str]]:
    """Returns the table of the cost of a million orders."""
    prices, assumed, found = figures.prices, figures.assumed, figures.measured
    mark = "" if figures.split.measured else " †"
    head = ["", "an order", "a million", "price", "dollars a million"]
    costs: list[tuple[str, str, str, str, float]] = []
    for name in MODULES:
        used = hours(figures, cpu_us(figures, name))
        price = f"${task_hour(figures):.4f} a vCPU-hour, with 2 GB"
        costs.append(
            (name, f"{cpu_us(figures, name):,} µs{mark}", f"{used:.2f} vCPU-hours", price, used * task_hour(figures))
        )
    used = hours(figures, mongod_us(figures))
    price = f"${prices.mongodb_vcpu_hour} a vCPU-hour of the primary"
    costs.append(
        (
            "MongoDB",
            f"{mongod_us(figures):,} µs{mark}",
            f"{used:.2f} vCPU-hours",
            price,
            used * prices.mongodb_vcpu_hour,
        )
    )
    zone_gb = zone_bytes(figures) / 1000
    costs.append(
        (
            "between zones",
            f"{zone_bytes(figures):,.0f} B",
            f"{zone_gb:.1f} GB",
            f"${prices.zone_gb} a GB",
            zone_gb * prices.zone_gb,
        )
    )
    units = assumed.http_bytes / 1000
    costs.append(
        (
            "load balancer",
            f"{assumed.http_bytes:,} B",
            f"{units:.1f} units",
            f"${prices.balancer_unit} a unit",
            units * prices.balancer_unit,
        )
    )
    total = sum(dollars for *_, dollars in costs)
    kept = (found.data_bytes + found.index_bytes) * assumed.members / 1000
    rows = [[*columns, f"{dollars:.3f}"] for *columns, dollars in costs]
    rows.append(["**total**", "", "", "", f"**{total:.2f}**"])
    month = [
        "kept for a month, uncompressed",
        f"{found.data_bytes + found.index_bytes:,} B × {assumed.members}",
        f"{kept:.1f} GB",
    ]
    rows.append([*month, f"${prices.disk_gb_month} a GB and month", f"{kept * prices.disk_gb_month:.3f}"])
    return [head, *rows]


def task_hour(figures: Figures) -> float:
    """Returns the price of a vCPU with 2 GB for an hour."""
    return figures.prices.vcpu_hour + 2 * figures.prices.gb_hour


def zone_bytes(figures: Figures) -> float:
    """Returns the bytes of an order between zones: to MongoDB and the broker, two times in three, and among their members."""
    away, others = 1 - 1 / figures.assumed.members, figures.assumed.members - 1
    database = figures.measured.database_bytes * away + figures.measured.oplog_bytes * others
    return database + figures.assumed.bus_bytes * (2 * away + others)


def fixed(figures: Figures) -> float:
    """Returns the dollars an hour before the first order."""
    prices = figures.prices
    return prices.least_tasks * task_hour(figures) + prices.broker_hour + prices.balancer_hour


def size_table(figures: Figures) -> list[list[str]]:
    """Returns the table of resources by orders a second."""
    sizes = [size(figures, rate) for rate in RATES]
    mark = "" if figures.split.measured else " †"
    rows: list[tuple[str, Callable[[Size], str]]] = [
        *((f"{name}, processes{mark}", lambda one, name=name: f"{one.tasks[name]:,}") for name in MODULES),
        (f"MongoDB's primaries, cores{mark}", lambda one: f"{one.database_cores:,.0f}"),
        (f"leaders of the broker's queues, cores{mark}", lambda one: f"{one.broker_cores:,.0f}"),
        (f"shards of {figures.assumed.shard_cores} cores", lambda one: f"{one.shards}"),
        ("journal, all primaries", lambda one: f"{one.journal_mb:,.1f} MB/s"),
        ("messages of the broker", lambda one: f"{one.broker_messages:,.0f}/s"),
        ("bytes of them", lambda one: f"{one.broker_mb:,.1f} MB/s"),
        ("concurrent calls to the provider", lambda one: f"{one.call_slots:,}"),
        ("connections to MongoDB, at most", lambda one: f"{one.connections:,}"),
        ("HTTP at the load balancer", lambda one: f"{one.network_mbit:,.0f} Mbit/s"),
        ("documents and indexes, uncompressed", lambda one: f"{one.day_gb:,.0f} GB a day"),
    ]
    head = ["orders a second", *(f"{rate:,}" for rate in RATES)]
    return [head, *([name, *(column(one) for one in sizes)] for name, column in rows)]


def broadcast_table(figures: Figures) -> list[list[str]]:
    """Returns the table of the CPU that batches to several shards add."""
    whole = mongod_us(figures)

    def cell(shards: int, batch: int) -> str:
        more = broadcast_us(figures, shards, batch)
        return f"{more:,.0f} µs, {more / whole:+.0%}"

    head = ["more CPU of MongoDB an order, with shards", *(str(count) for count in SHARDS)]
    return [head, *([f"in batches of {batch}", *(cell(count, batch) for count in SHARDS)] for batch in BATCHES)]


def replicas_table(figures: Figures) -> list[list[str]]:
    """Returns the table of the CPU of an order as the processes of each module become more."""
    found = figures.replicas
    names = {**{name: name for name in MODULES}, "broker": "RabbitMQ", "orders_mongod": "MongoDB of orders", "payments_mongod": "MongoDB of payments", TOTAL: "**all**"}  # fmt: skip
    rows = [(title, getattr(found, f"{name}_us")) for name, title in names.items()]
    head = [
        "processes of each module",
        *(str(count) for count in found.counts),
        f"{found.counts[-1]} / {found.counts[0]}",
    ]
    return [head, *([title, *(f"{us:,.0f} µs" for us in each), f"{each[-1] / each[0]:.2f}"] for title, each in rows)]


TABLES = {
    "replicas": replicas_table,
    "measured": measured_table,
    "cost": cost_table,
    "size": size_table,
    "broadcast": broadcast_table,
}


def sentences(figures: Figures) -> dict[str, str]:
    """Returns the amounts in the page's sentences."""
    assumed, found = figures.assumed, figures.measured
    small, large = size(figures, 10_000), size(figures, 100_000)
    gateway_us, database_us = cpu_us(figures, "gateway"), mongod_us(figures)
    cores = large.rate * gateway_us / MICROSECONDS / assumed.use
    primary = assumed.shard_cores * assumed.use / database_us * MICROSECONDS
    entries = found.writes * small.rate * small.tasks["orders"]
    kept = found.data_bytes + found.index_bytes
    return {
        "fixed": f"${fixed(figures):.2f}",
        "example": f"{large.rate:,} × {gateway_us:,} µs / {assumed.use:g} = {cores:.1f}",
        "primary": f"{assumed.shard_cores} cores × {assumed.use:g} / {database_us:,} µs = {primary:,.0f} orders/s; "
        f"its journal then {primary * found.journal_bytes / 1e6:.0f} MB/s",
        "messages": f"{small.broker_messages:,.0f} messages and {small.broker_mb:.0f} MB",
        "entries": f"{found.writes:.1f} entries an order × {small.rate:,}/s × {small.tasks['orders']} processes = "
        f"{entries:,.0f} entries",
        "connections": f"{large.connections:,}",
        "kept": f"{kept / 1000:.1f} kB an order uncompressed, {kept * DAY / 1e6:,.0f} GB a day at 1,000/s",
        "large": f"{large.shards} shards, {_process_counts(large)} processes and {large.broker_mb:.0f} MB",
        "small": _process_counts(small),
    }


def _process_counts(one: Size) -> str:
    return " + ".join(str(one.tasks[name]) for name in MODULES)


def rendered(page: str, figures: Figures) -> str:
    """Returns the page with all tables and amounts computed from the figures."""
    for name, table in TABLES.items():
        page = _replace_between(page, name, f"\n{_markdown(table(figures))}\n")
    for name, amount in sentences(figures).items():
        page = _replace_between(page, name, amount)
    return page


def _replace_between(page: str, name: str, text: str) -> str:
    mark = re.compile(rf"(<!-- {name} -->).*?(<!-- /{name} -->)", re.DOTALL)
    if not mark.search(page):
        raise ValueError(f"{PAGE.name} has no place for {name}")
    return mark.sub(lambda found: f"{found[1]}{text}{found[2]}", page)


def _markdown(rows: list[list[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def write_page(console: Console) -> None:
    """Writes the tables into the page."""
    PAGE.write_text(rendered(PAGE.read_text(), Figures()))
    console.print(f"written: {PAGE}")


def measure_one_process(folder: Path) -> dict[str, Any]:
    """Measures the figures that do not depend on a quiet machine."""
    with started(
        "scaling", folder / "scaling", lambda location: orderflow(location, {"LOG_LEVEL": "warning"})
    ) as contestant:
        database = contestant.database
        preload(contestant, [Kind.POST])
        measure(contestant, Kind.POST, 2)
        before = _counters(database)
        measure(contestant, Kind.POST, SECONDS)
        after = _counters(database)
        orders = after["orders"] - before["orders"]
        each = {name: (after[name] - before[name]) / orders for name in before}
        database.flush()
        stats = {name: database.database.command("collStats", name) for name in ("orders", "payments")}
        found = {
            "at": time.strftime("%Y-%m-%d"),
            "cores": int(machine.facts()["cores"]),
            "mongodb": database.version,
            "orders": orders,
            "writes": round(each["writes"], 2),
            "commands": round(each["commands"], 3),
            "database_bytes": round(each["database_bytes"]),
            "journal_bytes": round(each["journal_bytes"]),
            "journal_syncs": round(each["journal_syncs"], 3),
            "oplog_bytes": round(each["oplog_bytes"]),
            "data_bytes": sum(one["avgObjSize"] for one in stats.values()),
            "index_bytes": round(sum(one["totalIndexSize"] / one["count"] for one in stats.values())),
        }
        return found | {"miss_us": _update_us(database, False), "hit_us": _update_us(database, True)}


def measure_split(folder: Path) -> dict[str, Any]:
    """Measures the CPU of each module, of the broker and of each module's database. Needs a quiet machine."""
    costs = module_costs(folder, 1, Plan(seconds=SECONDS))
    return {"measured": not costs.error, **{f"{name}_us": value for name, value in costs.us.items()}}


def _counters(database: BenchDatabase) -> dict[str, float]:
    status = database.database.client.admin.command("serverStatus")
    log, metrics = status["wiredTiger"]["log"], status["metrics"]
    used = ("insert", "update", "find", "findAndModify", "aggregate")
    return {
        "orders": database.count(),
        "writes": metrics["document"]["inserted"] + metrics["document"]["updated"],
        "commands": sum(metrics["commands"][name]["total"] for name in used),
        "database_bytes": status["network"]["bytesIn"],
        "journal_bytes": log["log bytes written"],
        "journal_syncs": log["log sync operations"],
        "oplog_bytes": database.database.client.local.command("collStats", "oplog.rs")["size"],
    }


def _update_us(database: BenchDatabase, exists: bool) -> float:
    """Returns mongod's CPU for one key of an update such as a payment event makes; the keys exist or do not."""
    keys = [doc["_id"] for doc in database.orders.find({}, {"_id": 1}).limit(KEYS)]
    used = database.cpu()
    for _ in range(COMMANDS):
        keys = keys if exists else [ObjectId() for _ in range(KEYS)]
        patches = [Patch(key=key, expected={}, sets={"requestId": "r"}, pushes={"refunds": []}) for key in keys]
        bulk_compare_and_set(database.orders, patches)
    return round((database.cpu() - used) / COMMANDS / KEYS * MICROSECONDS, 2)


def write_section(section: str, measured: dict[str, Any], file: Path = FIGURES) -> None:
    """Writes what was measured into its section of scaling.toml."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in measured.items()]
    text = "\n".join([f"[{section}]", *lines, "", ""])
    file.write_text(re.sub(rf"\[{section}\]\n.*?\n\n", text, file.read_text(), flags=re.DOTALL))
