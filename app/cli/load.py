"""`load`: places orders at a steady rate and reports the responses, the latency and the outcomes."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.cli.output import SECONDS, Unreachable, as_json, print_json

PERCENTILES = (50, 90, 99)
POLL_SECONDS = 0.25
PROCESSING = "Processing"
# The progress bar shows the latency of the latest LATENCY_WINDOW orders.
LATENCY_WINDOW, REFRESH_EVERY = 500, 20
ORDERS, CONNECTIONS, RATE = click.IntRange(1, 1_000_000), click.IntRange(1, 512), click.FloatRange(0.1, 10_000)


@dataclass(frozen=True)
class LoadPlan:
    """What to send: `rate` is orders per second."""

    orders: int
    rate: float
    connections: int
    user: str
    product: str


@dataclass
class LoadResult:
    """The result of a load.

    `latencies` are milliseconds from the moment when an order was due to be sent until its response.
    """

    responses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    order_ids: list[str] = field(default_factory=list)
    order_statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    settling_seconds: float = 0.0

    @property
    def settled(self) -> int:
        """How many orders are no longer Processing."""
        return self.order_statuses.total() - self.order_statuses[PROCESSING]

    def summary(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "sent": self.responses.total(),
            "seconds": round(self.seconds, 3),
            "perSecond": round(self.responses.total() / self.seconds, 1) if self.seconds else 0.0,
            "responses": dict(self.responses),
            "latencyMs": {f"p{percent}": percentile(self.latencies, percent) for percent in PERCENTILES}
            | {"max": round(max(self.latencies, default=0.0), 2)},
            "accepted": len(self.order_ids),
            "settled": self.settled,
            "settlingSeconds": round(self.settling_seconds, 3),
            "orderStatuses": dict(self.order_statuses),
        }


def command(find_url: Callable[[], str]) -> click.Command:
    """The command; `find_url` returns the address of the running server."""

    @click.command("load")
    @click.option("--orders", default=200, show_default=True, type=ORDERS, help="How many to place.")
    @click.option("--rate", default=50.0, show_default=True, type=RATE, help="Orders per second.")
    @click.option("--connections", default=16, show_default=True, type=CONNECTIONS, help="At most.")
    @click.option("--url", default=find_url, help="Where Orderflow listens; by default the running server.")
    @click.option("--remote", is_flag=True, help="Allow a server that is not on this machine: be sure whose it is.")
    @click.option("--token", envvar="ORDERFLOW_TOKEN", help="The bearer token, if the server requires one.")
    @click.option("--user", default="load", show_default=True, help="The user of the orders.")
    @click.option("--product", default="1", show_default=True, help="The simulated provider declines product 2.")
    @click.option("--settle", default=30.0, show_default=True, type=SECONDS, help="How long their payments may take.")
    @as_json
    def load(url: str, remote: bool, token: str | None, settle: float, as_json: bool, **options: Any) -> None:
        """Place orders at a steady rate, then wait for their payments; exit code 1 unless all are settled.

        Latency counts from the moment an order was due to be sent, so that a server which falls behind cannot hide it.
        """
        if not remote and not _is_local(url):
            raise click.UsageError(f"{url} is not on this machine; --remote allows to load it")
        _load(url, token, settle, as_json, LoadPlan(**options))

    return load


def _load(url: str, token: str | None, settle: float, as_json: bool, plan: LoadPlan) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=plan.connections, max_keepalive_connections=plan.connections)
    with httpx.Client(base_url=url, headers=headers, timeout=30.0, limits=limits) as client:
        _check_ready(client, url)
        result = _run(client, plan, settle, Console(stderr=True, quiet=as_json))
    _print_result(result, as_json)
    if result.settled < plan.orders:
        sys.exit(1)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` per cent of the values do not exceed; 0 if there are none."""
    ranked = sorted(values)
    return round(ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)], 2) if ranked else 0.0


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _check_ready(client: httpx.Client, url: str) -> None:
    try:
        ready = client.get("/readyz").status_code == httpx.codes.OK
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise Unreachable(f"no Orderflow answers at {url}: {exc}; start one with `make run`") from exc
    if not ready:
        raise Unreachable(f"Orderflow at {url} is not ready; its log says why")


def _run(client: httpx.Client, plan: LoadPlan, settle: float, console: Console) -> LoadResult:
    result = LoadResult()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, TextColumn("{task.fields[latency]}"), console=console) as progress,
        ThreadPoolExecutor(plan.connections) as pool,
    ):
        began = time.perf_counter()
        placing = progress.add_task("placed", total=plan.orders, latency="")
        for response, order_id, latency_ms in _place_orders(pool, client, plan):
            result.responses[response] += 1
            result.latencies.append(latency_ms)
            if order_id:
                result.order_ids.append(order_id)
            progress.advance(placing)
            if len(result.latencies) % REFRESH_EVERY == 0:
                progress.update(placing, latency=_latency_text(result.latencies[-LATENCY_WINDOW:]))
            result.seconds = time.perf_counter() - began
        settling = progress.add_task("settled", total=len(result.order_ids), latency="")
        started = time.monotonic()
        for statuses in _poll_statuses(pool, client, result.order_ids, settle):
            result.order_statuses, result.settling_seconds = statuses, time.monotonic() - started
            progress.update(settling, completed=result.settled)
    return result


def _latency_text(latencies: Sequence[float]) -> str:
    return f"p50 {percentile(latencies, 50):g} ms  p99 {percentile(latencies, 99):g} ms"


def _place_orders(pool: ThreadPoolExecutor, client: httpx.Client, plan: LoadPlan) -> Iterator[tuple[str, str, float]]:
    """Yield the status code or error of each response, the order's id if it was accepted, and the latency in milliseconds."""
    started, run, pending = time.perf_counter(), uuid4().hex[:12], set[Future[tuple[str, str, float]]]()
    for number in range(plan.orders):
        due = started + number / plan.rate
        # Collect responses until the next order is due: a slow server does not delay sending.
        while (left := due - time.perf_counter()) > 0:
            done, pending = wait(pending, left, FIRST_COMPLETED) if pending else (set(), pending)
            yield from (future.result() for future in done)
            if not done:
                time.sleep(max(0.0, due - time.perf_counter()))
        pending.add(pool.submit(_place_order, client, plan, f"load-{run}-{number}", due))
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


def _place_order(client: httpx.Client, plan: LoadPlan, key: str, due: float) -> tuple[str, str, float]:
    body = {"userId": plan.user, "productId": plan.product, "productName": "Load", "totalOrderAmount": "RM 99"}
    result, order_id = "", ""
    try:
        response = client.post("/orders", json=body, headers={"Idempotency-Key": key})
        result = str(response.status_code)
        if response.status_code == httpx.codes.CREATED:
            order_id = response.json()["created"]["id"]
    except httpx.HTTPError as exc:
        result = type(exc).__name__
    return result, order_id, (time.perf_counter() - due) * 1000


def _poll_statuses(
    pool: ThreadPoolExecutor, client: httpx.Client, order_ids: Iterable[str], seconds: float
) -> Iterator[Counter[str]]:
    """Yield again and again how many orders have each status, until none is Processing or the time is over."""
    deadline, processing, settled = time.monotonic() + seconds, list(order_ids), Counter[str]()
    while processing:
        statuses = list(pool.map(lambda order_id: _status(client, order_id), processing))
        settled.update(status for status in statuses if status != PROCESSING)
        processing = [order_id for order_id, status in zip(processing, statuses, strict=True) if status == PROCESSING]
        yield settled + Counter({PROCESSING: len(processing)})
        if time.monotonic() >= deadline:
            return
        time.sleep(POLL_SECONDS if processing else 0)


def _status(client: httpx.Client, order_id: str) -> str:
    """The order's status; Processing also where it cannot be read, so that it is read again."""
    try:
        response = client.get(f"/orders/status/{order_id}")
    except httpx.HTTPError:
        return PROCESSING
    return response.json()["orderStatus"] if response.status_code == httpx.codes.OK else PROCESSING


def _print_result(result: LoadResult, as_json: bool) -> None:
    summary = result.summary()
    if as_json:
        print_json(summary)
        return
    title = f"{summary['sent']} orders in {summary['seconds']:g} s, {summary['perSecond']:g} per second"
    table = Table("what", "value", title=title)
    for response, count in sorted(summary["responses"].items()):
        table.add_row(f"response {response}", str(count))
    for name, value in summary["latencyMs"].items():
        table.add_row(f"latency {name}", f"{value:g} ms")
    for status, count in sorted(summary["orderStatuses"].items()):
        table.add_row(f"now {status}", str(count))
    settled = f"{summary['settled']} of {summary['accepted']}, {summary['settlingSeconds']:g} s after the last response"
    table.add_row("settled", settled)
    Console().print(table)
