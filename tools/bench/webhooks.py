"""`python -m tools.bench webhooks`: Orderflow without webhooks, with nobody who wants them, and with endpoints, side by side.

Each has a server and a mongod of its own, and the same sink. The rounds of POST alternate. Then follow the deliveries a second of
what was held, and the time from a change to its arrival, with and without dead endpoints beside the living one.
"""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from tools.bench.contestants import Contestant, Kind, orderflow, started
from tools.bench.figures import medians, percentile, ratio
from tools.bench.peers.sink import HANG
from tools.bench.preload import order_body, preload
from tools.bench.processes import MeasuredServer
from tools.bench.report import targets_table
from tools.bench.runner import Log, Plan, Results, run_rounds
from tools.bench.targets import TargetResult
from tools.bench.wrk import load
from tools.cluster.processes import free_port

# A new endpoint is told of changes from about three seconds on.
KNOWN_SECONDS = 4.0
DEAD_ENDPOINTS = 8
DRAIN_SECONDS = 300.0
POLL_SECONDS = 0.02
PAUSE_SECONDS = 0.02


class Variant(StrEnum):
    """How a server has webhooks."""

    OFF = "off"
    NOBODY = "on, no endpoint"
    ONE = "on, one endpoint"
    DEAD = "on, one endpoint beside dead ones"


AT_LEAST = {Variant.NOBODY: 0.97, Variant.ONE: 0.8}
DELIVERIES_AT_LEAST = 1000.0


@dataclass(frozen=True)
class Measured:
    """The results: rounds of POST, deliveries a second, and milliseconds from a change to its arrival, by variant."""

    results: Results
    delivery_rate: float
    delays: Mapping[str, list[float]]

    @property
    def targets(self) -> list[TargetResult]:
        """The targets, and what was measured."""
        posts = {name: medians(kinds.get(Kind.POST, [])) for name, kinds in self.results.rounds.items()}
        off = posts[Variant.OFF]
        shares = [
            TargetResult(f"POST, {name} / off", least, ratio(one and one.flow_rate, off and off.flow_rate))
            for name, least in AT_LEAST.items()
            for one in [posts[name]]
        ]
        return [*shares, TargetResult("deliveries to a local sink", DELIVERIES_AT_LEAST, self.delivery_rate, "/s")]

    @property
    def delay_ratio(self) -> float | None:
        """The delay of the living endpoint beside dead ones, in that of one alone."""
        beside, alone = (self.delays[name] for name in (Variant.DEAD, Variant.ONE))
        return median(beside) / median(alone) if beside and alone else None


class SinkServer(MeasuredServer):
    """The sink, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "tools.bench.peers.sink", str(port)]
        super().__init__(command, {}, port, "/received", folder / "sink.log")

    def received(self, path: str) -> tuple[int, list[float]]:
        """How many webhooks came to a path, and the delays of the last ones in milliseconds."""
        found = httpx.get(f"{self.url}/received", trust_env=False, timeout=10.0).json().get(path, {})
        return found.get("count", 0), found.get("ms", [])


def measure(plan: Plan, folder: Path, settings: Mapping[str, str], log: Log) -> Measured:
    """Runs all variants side by side."""
    with ExitStack() as stack:
        sink = stack.enter_context(SinkServer(folder))
        contestants = {}
        for variant in Variant:
            environ = {**settings, "WEBHOOKS": str(int(variant != Variant.OFF)), "ALLOW_UNSAFE": "webhook_http"}
            make = partial(orderflow, environ=environ)
            contestants[variant] = stack.enter_context(started(variant, folder / variant.name, make))
        endpoints = {name: _add_endpoints(contestants[name], sink, name) for name in (Variant.ONE, Variant.DEAD)}
        time.sleep(KNOWN_SECONDS)
        compared = [contestants[name] for name in (Variant.OFF, Variant.NOBODY, Variant.ONE)]
        for contestant in compared:
            preload(contestant, [Kind.POST])
        results = run_rounds(compared, plan, log, [Kind.POST])
        rate = _delivery_rate(contestants[Variant.ONE], endpoints[Variant.ONE], sink, plan.seconds)
        log(f"deliveries of what was held: {rate:,.0f}/s")
        delays = _delays([contestants[name] for name in (Variant.ONE, Variant.DEAD)], sink, plan.idle)
    return Measured(results, rate, delays)


def show(measured: Measured, console: Console) -> None:
    """Prints the results."""
    table = Table(title="webhooks")
    for column in ("", "POST/s, settled", "p99 ms", "server µs", "mongod µs"):
        table.add_column(column, justify="left" if not column else "right")
    for name, kinds in measured.results.rounds.items():
        if one := medians(kinds.get(Kind.POST, [])):
            figures = (one.flow_rate, one.p99_ms, one.server_us, one.mongod_us)
            table.add_row(name, *(f"{figure:,.1f}" for figure in figures))
    console.print(table)
    for name, delays in measured.delays.items():
        if delays:
            console.print(
                f"{name}: from change to arrival p50 {median(delays):.1f} ms, p99 {percentile(delays, 99):.1f} ms"
            )
    if measured.delay_ratio:
        console.print(f"the living endpoint beside {DEAD_ENDPOINTS} dead ones / alone: {measured.delay_ratio:.2f} ×")
    console.print(targets_table(measured.targets))


def as_dict(measured: Measured) -> dict[str, Any]:
    """Returns the results as JSON has them."""
    return {
        "targets": [{**asdict(one), "met": one.met} for one in measured.targets],
        "delay_ratio": measured.delay_ratio,
        "rounds": {
            name: {kind: [asdict(one) for one in each] for kind, each in kinds.items()}
            for name, kinds in measured.results.rounds.items()
        },
    }


def _add_endpoints(contestant: Contestant, sink: SinkServer, variant: Variant) -> str:
    """Adds the endpoint that lives, and dead ones where the variant has them; returns the id of the first."""
    paths = [f"/{variant.name}", *([HANG] * DEAD_ENDPOINTS if variant == Variant.DEAD else [])]
    with httpx.Client(base_url=contestant.server.url, timeout=10.0, trust_env=False) as http:
        answers = [http.post("/webhooks/endpoints", json={"url": f"{sink.url}{path}"}) for path in paths]
    endpoint_id: str = answers[0].raise_for_status().json()["endpoint"]["id"]
    return endpoint_id


def _delivery_rate(contestant: Contestant, endpoint_id: str, sink: SinkServer, seconds: int) -> float:
    """Deliveries a second of those that were held while the endpoint was disabled."""
    path = f"/{Variant.ONE.name}"
    deliveries = contestant.database.database["webhook_deliveries"]
    _wait_until_none(deliveries, "pending")
    url = f"{contestant.server.url}/webhooks/endpoints/{endpoint_id}"
    httpx.patch(url, json={"enabled": False}, trust_env=False).raise_for_status()
    time.sleep(KNOWN_SECONDS)
    load(contestant.server.url, contestant.requests[Kind.POST], seconds)
    _wait_until_none(contestant.database.orders, "Processing", "orderStatus")
    _wait_until_none(deliveries, "pending")
    held, before = deliveries.count_documents({"status": "held"}), sink.received(path)[0]
    began = time.monotonic()
    httpx.patch(url, json={"enabled": True}, trust_env=False, timeout=60.0).raise_for_status()
    _wait(lambda: sink.received(path)[0] - before >= held)
    return held / (time.monotonic() - began)


def _delays(contestants: list[Contestant], sink: SinkServer, orders: int) -> dict[str, list[float]]:
    """The delays of webhooks about orders that are placed in turns, one at a time."""
    paths = {contestant.name: f"/{Variant(contestant.name).name}" for contestant in contestants}
    before = {name: sink.received(path)[0] for name, path in paths.items()}
    with httpx.Client(timeout=10.0, trust_env=False) as http:
        for _ in range(orders):
            for contestant in contestants:
                http.post(f"{contestant.server.url}/orders", json=order_body("idle-0000001")).raise_for_status()
                time.sleep(PAUSE_SECONDS)
    # A new order and its payment are told.
    for name, path in paths.items():
        _wait(lambda name=name, path=path: sink.received(path)[0] - before[name] >= 2 * orders)
    return {name: sink.received(path)[1][-2 * orders :] for name, path in paths.items()}


def _wait_until_none(documents: Any, status: str, name: str = "status") -> None:
    _wait(lambda: not documents.find_one({name: status}, {"_id": 1}))


def _wait(holds: Any) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the deliveries do not end within {DRAIN_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
