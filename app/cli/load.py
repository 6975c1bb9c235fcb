"""`load`: so many orders at such a rate, and what came of them."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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

from app.cli.output import NotReached, as_json, tell

PERCENTILES = (50, 90, 99)
POLL_SECONDS = 0.25
OPEN = "Processing"


@dataclass(frozen=True)
class Plan:
    """How many orders, how many a second, and over how many connections at the most."""

    orders: int
    rate: float
    connections: int
    user: str
    product: str


@dataclass
class Answers:
    """What came of a load; `waits` are milliseconds from when an order was due to be sent until it was answered."""

    statuses: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    order_ids: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    settling_seconds: float = 0.0

    @property
    def settled(self) -> int:
        """How many orders came to the end of their payment."""
        return self.outcomes.total() - self.outcomes[OPEN]

    def members(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "sent": self.statuses.total(),
            "seconds": round(self.seconds, 3),
            "perSecond": round(self.statuses.total() / self.seconds, 1) if self.seconds else 0.0,
            "answers": dict(self.statuses),
            "latencyMs": {f"p{share}": percentile(self.waits, share) for share in PERCENTILES}
            | {"max": round(max(self.waits, default=0.0), 2)},
            "accepted": len(self.order_ids),
            "settled": self.settled,
            "settlingSeconds": round(self.settling_seconds, 3),
            "orderStatuses": dict(self.outcomes),
        }


def command() -> click.Command:
    """The command."""

    @click.command("load")
    @click.option("--orders", default=200, show_default=True, type=click.IntRange(1, 1_000_000), help="How many.")
    @click.option("--rate", default=50.0, show_default=True, type=click.FloatRange(0.1, 10_000), help="A second.")
    @click.option("--connections", default=16, show_default=True, type=click.IntRange(1, 512), help="At the most.")
    @click.option("--url", default="http://127.0.0.1:7000", show_default=True, help="Where Orderflow listens.")
    @click.option("--remote", is_flag=True, help="Load a server that is not on this machine: be sure whose it is.")
    @click.option("--token", envvar="ORDERFLOW_TOKEN", help="The bearer token, where callers are asked who they are.")
    @click.option("--user", default="load", show_default=True, help="Whose orders they are.")
    @click.option("--product", default="1", show_default=True, help="The simulated provider declines product 2.")
    @click.option("--settle", default=30.0, show_default=True, help="How many seconds to wait for their payments.")
    @as_json
    def load(url: str, remote: bool, token: str | None, settle: float, as_json: bool, **plan: Any) -> None:
        """Place orders at a steady rate, then wait for their payments; exit code 1 unless all were paid for or declined.

        Latency counts from the moment an order was due to be sent, so that a server which falls behind cannot hide it.
        """
        if not remote and not _on_this_machine(url):
            raise click.UsageError(f"{url} is not on this machine; --remote says that it may be loaded")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_connections=plan["connections"], max_keepalive_connections=plan["connections"])
        with httpx.Client(base_url=url, headers=headers, timeout=30.0, limits=limits) as client:
            _check_ready(client, url)
            answers = _run(client, Plan(**plan), settle, Console(stderr=True, quiet=as_json))
        _show(answers, as_json)
        if answers.settled < plan["orders"]:
            sys.exit(1)

    return load


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` percent do not exceed; 0 where there are none."""
    ranked = sorted(values)
    return round(ranked[max(0, math.ceil(len(ranked) * share / 100) - 1)], 2) if ranked else 0.0


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _check_ready(client: httpx.Client, url: str) -> None:
    try:
        ready = client.get("/readyz").status_code == httpx.codes.OK
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise NotReached(f"no Orderflow answers at {url}: {exc}; start one with `make run`") from exc
    if not ready:
        raise NotReached(f"Orderflow at {url} is not ready; its log says why")


def _run(client: httpx.Client, plan: Plan, settle: float, console: Console) -> Answers:
    answers = Answers()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, TextColumn("{task.fields[told]}"), console=console) as progress,
        ThreadPoolExecutor(plan.connections) as pool,
    ):
        began = time.perf_counter()
        placing = progress.add_task("placed", total=plan.orders, told="")
        for status, order_id, wait_ms in _placed(pool, client, plan):
            answers.statuses[status] += 1
            answers.waits.append(wait_ms)
            if order_id:
                answers.order_ids.append(order_id)
            progress.advance(placing)
            if len(answers.waits) % 20 == 0:
                progress.update(placing, told=_lately(answers.waits[-500:]))
            answers.seconds = time.perf_counter() - began
        settling = progress.add_task("settled", total=len(answers.order_ids), told="")
        started = time.monotonic()
        for outcomes in _outcomes(pool, client, answers.order_ids, settle):
            answers.outcomes, answers.settling_seconds = outcomes, time.monotonic() - started
            progress.update(settling, completed=answers.settled)
    return answers


def _lately(waits: Sequence[float]) -> str:
    return f"p50 {percentile(waits, 50):g} ms  p99 {percentile(waits, 99):g} ms"


def _placed(pool: ThreadPoolExecutor, client: httpx.Client, plan: Plan) -> Iterator[tuple[str, str, float]]:
    """Each order's answer, its id and how many milliseconds after its time it was answered."""
    started, run, waiting = time.perf_counter(), uuid4().hex[:12], set[Future[tuple[str, str, float]]]()
    for number in range(plan.orders):
        due = started + number / plan.rate
        # What comes in until the next one is due; a server that falls behind holds up no sending.
        while (left := due - time.perf_counter()) > 0:
            done, waiting = wait(waiting, left, FIRST_COMPLETED) if waiting else (set(), waiting)
            yield from (future.result() for future in done)
            if not done:
                time.sleep(max(0.0, due - time.perf_counter()))
        waiting.add(pool.submit(_place, client, plan, f"load-{run}-{number}", due))
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


def _place(client: httpx.Client, plan: Plan, key: str, due: float) -> tuple[str, str, float]:
    body = {"userId": plan.user, "productId": plan.product, "productName": "Load", "totalOrderAmount": "RM 99"}
    status, order_id = "", ""
    try:
        answer = client.post("/orders", json=body, headers={"Idempotency-Key": key})
        status = str(answer.status_code)
        if answer.status_code == httpx.codes.CREATED:
            order_id = answer.json()["created"]["id"]
    except httpx.HTTPError as exc:
        status = type(exc).__name__
    return status, order_id, (time.perf_counter() - due) * 1000


def _outcomes(
    pool: ThreadPoolExecutor, client: httpx.Client, order_ids: Iterable[str], seconds: float
) -> Iterator[Counter[str]]:
    """Again and again how many orders there are of each status, until none is open or the time is over."""
    ends, still_open, ended = time.monotonic() + seconds, list(order_ids), Counter[str]()
    while still_open:
        statuses = list(pool.map(lambda order_id: _status(client, order_id), still_open))
        ended.update(status for status in statuses if status != OPEN)
        still_open = [one for one, status in zip(still_open, statuses, strict=True) if status == OPEN]
        yield ended + Counter({OPEN: len(still_open)})
        if time.monotonic() >= ends:
            return
        time.sleep(POLL_SECONDS if still_open else 0)


def _status(client: httpx.Client, order_id: str) -> str:
    try:
        answer = client.get(f"/orders/status/{order_id}")
    except httpx.HTTPError:
        return OPEN
    return answer.json()["orderStatus"] if answer.status_code == httpx.codes.OK else OPEN


def _show(answers: Answers, as_json: bool) -> None:
    told = answers.members()
    if as_json:
        tell(told)
        return
    shown = Table(title=f"{told['sent']} orders in {told['seconds']:g} s, {told['perSecond']:g} a second")
    for column in ("what", "how much"):
        shown.add_column(column)
    for status, count in sorted(told["answers"].items()):
        shown.add_row(f"answered {status}", str(count))
    for name, value in told["latencyMs"].items():
        shown.add_row(f"latency {name}", f"{value:g} ms")
    for status, count in sorted(told["orderStatuses"].items()):
        shown.add_row(f"now {status}", str(count))
    shown.add_row("settled", f"{told['settled']} of {told['accepted']}, {told['settlingSeconds']:g} s after the last")
    Console().print(shown)
