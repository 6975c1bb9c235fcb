"""`python -m tools.bench scaling`: the tables of docs/scaling.md, computed from the figures in scaling.toml."""

import json
import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from bson import ObjectId
from rich.console import Console

from app.storage.bulk import Patch, bulk_compare_and_set
from tools.bench import machine
from tools.bench.apart import Apart
from tools.bench.base import Base
from tools.bench.contestants import Kind, Place, orderflow, started
from tools.bench.processes import ROOT
from tools.bench.rounds import MICROSECONDS, measure
from tools.bench.stock import stock

FIGURES = ROOT / "tools" / "bench" / "scaling.toml"
PAGE = ROOT / "docs" / "scaling.md"
RATES = (100, 1_000, 10_000, 100_000)
SHARDS = (1, 2, 4, 8, 16, 64)
BATCHES = (1, 16, 128)
SECONDS = 6
KEYS = 64
COMMANDS = 400
DAY, HOUR = 86_400, 3_600
MODULES = ("gateway", "orders", "payments")


class Figures:
    """Everything in scaling.toml, by section: `figures.prices.vcpu_hour`."""

    def __init__(self, file: Path = FIGURES) -> None:
        for section, values in tomllib.loads(file.read_text()).items():
            setattr(self, section, make_dataclass(section, values, frozen=True)(**values))

    def __getattr__(self, section: str) -> Any:
        raise AttributeError(f"there is no section [{section}]")


@dataclass(frozen=True)
class Size:
    """What so many orders a second need."""

    rate: int
    tasks: dict[str, int]
    database_cores: float
    shards: int
    journal_mb: float
    broker_cores: float
    broker_messages: float
    broker_mb: float
    lines: int
    connections: int
    network_mbit: float
    day_gb: float


def size(figures: Figures, rate: int) -> Size:
    """By CPU, unless a line says otherwise; a module has two processes at the least."""
    assumed, measured = figures.assumed, figures.measured
    by_cpu = {name: ceil(rate * cpu_us(figures, name) / MICROSECONDS / assumed.use) for name in MODULES}
    lines = ceil(rate * assumed.provider_seconds)
    tasks = {name: max(2, count) for name, count in by_cpu.items()}
    tasks["payments"] = max(tasks["payments"], ceil(lines / assumed.lines))
    cores = rate * mongod_us(figures) / MICROSECONDS / assumed.use
    journal = rate * measured.journal_bytes / 1e6
    # A shard that a batch comes to looks in vain for what others have: that is paid for on each of them.
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
        lines=lines,
        connections=sum(tasks.values()) * assumed.pool,
        network_mbit=rate * assumed.http_bytes * 8 / 1e6,
        day_gb=rate * DAY * (measured.data_bytes + measured.index_bytes) / 1e9,
    )


def cores_with(figures: Figures, cores: float, rate: int, shards: int) -> float:
    """The cores of all primaries together, with what batches cost that many shards."""
    return cores + rate * broadcast_us(figures, shards) / MICROSECONDS / figures.assumed.use


def broadcast_us(figures: Figures, shards: int, batch: int = 0) -> float:
    """What an order costs on all shards but its own, where its batch goes to the shards of all its users."""
    return figures.assumed.batched * (reached(shards, batch or figures.assumed.batch) - 1) * figures.measured.miss_us


def reached(shards: int, batch: int) -> float:
    """How many of the shards so many users are on, on average."""
    return shards * (1 - (1 - 1 / shards) ** batch)


def cpu_us(figures: Figures, module: str) -> float:
    """Of one module's own processes, for one order."""
    return getattr(figures.split, f"{module}_us")


def mongod_us(figures: Figures) -> float:
    """Of MongoDB's primaries, for one order."""
    return figures.split.orders_mongod_us + figures.split.payments_mongod_us


def hours(figures: Figures, microseconds: float) -> float:
    """vCPU-hours of a million orders that take so much CPU each."""
    return microseconds / HOUR / figures.assumed.use


def measured_table(figures: Figures) -> list[list[str]]:
    """What was measured."""
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
        ["a key looked for in vain", f"{found.miss_us:.1f} µs", f"an update by {KEYS} ids of which none is there"],
        ["a key found and changed", f"{found.hit_us:.1f} µs", f"the same with all of them there; {found.hit_us - found.miss_us:.1f} µs more"],
    ]  # fmt: skip


def cost_table(figures: Figures) -> list[list[str]]:
    """What a million orders cost."""
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
    travelled = zone_bytes(figures) / 1000
    costs.append(
        (
            "between zones",
            f"{zone_bytes(figures):,.0f} B",
            f"{travelled:.1f} GB",
            f"${prices.zone_gb} a GB",
            travelled * prices.zone_gb,
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
    together = sum(dollars for *_, dollars in costs)
    kept = (found.data_bytes + found.index_bytes) * assumed.members / 1000
    rows = [[*told, f"{dollars:.3f}"] for *told, dollars in costs]
    rows.append(["**together**", "", "", "", f"**{together:.2f}**"])
    month = [
        "kept for a month, uncompressed",
        f"{found.data_bytes + found.index_bytes:,} B × {assumed.members}",
        f"{kept:.1f} GB",
    ]
    rows.append([*month, f"${prices.disk_gb_month} a GB and month", f"{kept * prices.disk_gb_month:.3f}"])
    return [head, *rows]


def task_hour(figures: Figures) -> float:
    """A vCPU with its two gigabytes, for an hour."""
    return figures.prices.vcpu_hour + 2 * figures.prices.gb_hour


def zone_bytes(figures: Figures) -> float:
    """What an order sends from zone to zone: to MongoDB and the broker, two times in three, and among their members."""
    away, others = 1 - 1 / figures.assumed.members, figures.assumed.members - 1
    database = figures.measured.database_bytes * away + figures.measured.oplog_bytes * others
    return database + figures.assumed.bus_bytes * (2 * away + others)


def fixed(figures: Figures) -> float:
    """Dollars an hour before the first order."""
    prices = figures.prices
    return prices.least_tasks * task_hour(figures) + prices.broker_hour + prices.balancer_hour


def size_table(figures: Figures) -> list[list[str]]:
    """What so many orders a second need."""
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
        ("calls to the provider at once", lambda one: f"{one.lines:,}"),
        ("connections to MongoDB, the most", lambda one: f"{one.connections:,}"),
        ("HTTP at the load balancer", lambda one: f"{one.network_mbit:,.0f} Mbit/s"),
        ("documents and indexes, uncompressed", lambda one: f"{one.day_gb:,.0f} GB a day"),
    ]
    head = ["orders a second", *(f"{rate:,}" for rate in RATES)]
    return [head, *([name, *(told(one) for one in sizes)] for name, told in rows)]


def broadcast_table(figures: Figures) -> list[list[str]]:
    """What batches that go to several shards add."""
    whole = mongod_us(figures)

    def told(shards: int, batch: int) -> str:
        more = broadcast_us(figures, shards, batch)
        return f"{more:,.0f} µs, {more / whole:+.0%}"

    head = ["more CPU of MongoDB an order, with shards", *(str(count) for count in SHARDS)]
    return [head, *([f"in batches of {batch}", *(told(count, batch) for count in SHARDS)] for batch in BATCHES)]


TABLES = {"measured": measured_table, "cost": cost_table, "size": size_table, "broadcast": broadcast_table}


def sentences(figures: Figures) -> dict[str, str]:
    """The amounts in the page's sentences."""
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
        "large": f"{large.shards} shards, {_together(large)} processes and {large.broker_mb:.0f} MB",
        "small": _together(small),
    }


def _together(one: Size) -> str:
    return " + ".join(str(one.tasks[name]) for name in MODULES)


def rendered(page: str, figures: Figures) -> str:
    """The page with all tables, and the amounts in its sentences, as the figures have them."""
    for name, table in TABLES.items():
        page = _between(page, name, f"\n{_markdown(table(figures))}\n")
    for name, amount in sentences(figures).items():
        page = _between(page, name, amount)
    return page


def _between(page: str, name: str, text: str) -> str:
    mark = re.compile(rf"(<!-- {name} -->).*?(<!-- /{name} -->)", re.DOTALL)
    if not mark.search(page):
        raise ValueError(f"{PAGE.name} has no place for {name}")
    return mark.sub(lambda found: f"{found[1]}{text}{found[2]}", page)


def _markdown(rows: list[list[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def write(console: Console) -> None:
    """Write the tables into the page."""
    PAGE.write_text(rendered(PAGE.read_text(), Figures()))
    console.print(f"written: {PAGE}")


def take(folder: Path) -> dict[str, Any]:
    """Measure what of the figures does not depend on a quiet machine."""
    with started("scaling", folder / "scaling", lambda place: orderflow(place, {"LOG_LEVEL": "warning"})) as contestant:
        base = contestant.base
        stock(contestant, [Kind.POST])
        measure(contestant, Kind.POST, 2)
        before = _counters(base)
        measure(contestant, Kind.POST, SECONDS)
        after = _counters(base)
        orders = after["orders"] - before["orders"]
        each = {name: (after[name] - before[name]) / orders for name in before}
        base.flush()
        stats = {name: base.database.command("collStats", name) for name in ("orders", "payments")}
        found = {
            "at": time.strftime("%Y-%m-%d"),
            "cores": int(machine.facts()["cores"]),
            "mongodb": base.version,
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
        return found | {"miss_us": _update_us(base, False), "hit_us": _update_us(base, True)}


def take_split(folder: Path) -> dict[str, Any]:
    """Measure the CPU of each module, of the broker and of each module's database. Wants a quiet machine."""
    with Base(folder / "payments") as of_payments:
        make = partial(_apart, payments_uri=of_payments.uri)
        with started("split", folder / "split", make) as contestant:
            stock(contestant, [Kind.POST])
            measure(contestant, Kind.POST, 2)
            used = partial(_used, contestant.server, contestant.base, of_payments)
            before = used()
            done = measure(contestant, Kind.POST, SECONDS)
            each = {name: round((used - before[name]) / done.requests * MICROSECONDS) for name, used in used().items()}
    return {"measured": not done.trouble, **{f"{name}_us": value for name, value in each.items()}}


def _apart(place: Place, payments_uri: str) -> Apart:
    return Apart(place.folder, {"LOG_LEVEL": "warning"}, place.port, place.uri, payments_uri)


def _used(server: Apart, of_orders: Base, of_payments: Base) -> dict[str, float]:
    return {**server.cpus(), "orders_mongod": of_orders.cpu(), "payments_mongod": of_payments.cpu()}


def _counters(base: Base) -> dict[str, float]:
    status = base.database.client.admin.command("serverStatus")
    log, metrics = status["wiredTiger"]["log"], status["metrics"]
    used = ("insert", "update", "find", "findAndModify", "aggregate")
    return {
        "orders": base.count(),
        "writes": metrics["document"]["inserted"] + metrics["document"]["updated"],
        "commands": sum(metrics["commands"][name]["total"] for name in used),
        "database_bytes": status["network"]["bytesIn"],
        "journal_bytes": log["log bytes written"],
        "journal_syncs": log["log sync operations"],
        "oplog_bytes": base.database.client.local.command("collStats", "oplog.rs")["size"],
    }


def _update_us(base: Base, there: bool) -> float:
    """CPU of mongod for one key of an update such as news from payments makes, found or looked for in vain."""
    keys = [doc["_id"] for doc in base.orders.find({}, {"_id": 1}).limit(KEYS)]
    used = base.cpu()
    for _ in range(COMMANDS):
        keys = keys if there else [ObjectId() for _ in range(KEYS)]
        patches = [Patch(key=key, expected={}, sets={"requestId": "r"}, pushes={"refunds": []}) for key in keys]
        bulk_compare_and_set(base.orders, patches)
    return round((base.cpu() - used) / COMMANDS / KEYS * MICROSECONDS, 2)


def keep(section: str, found: dict[str, Any], file: Path = FIGURES) -> None:
    """Write down what was measured, in its section."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in found.items()]
    text = "\n".join([f"[{section}]", *lines, "", ""])
    file.write_text(re.sub(rf"\[{section}\]\n.*?\n\n", text, file.read_text(), flags=re.DOTALL))
