"""`demo`: places two orders and shows their nine stages live."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import click
import httpx
from rich.console import Console

from app.cli.output import Unreachable, as_json, console, print_json, report_errors
from app.contracts.base import Unavailable
from app.messaging.live_feed import LiveFeed
from app.observability.stages import Stage

COLOURS = {"gateway": "cyan", "orders": "green", "payments": "magenta"}
# By product: a title and the status that the order must have in the end.
SCENARIOS = {"1": ("a good order", "Success"), "2": ("an order that is declined", "Declined")}


def command(feed: LiveFeed) -> click.Command:
    """The command, which follows `feed`."""

    @click.command("demo")
    @click.option("--url", default="http://127.0.0.1:7000", show_default=True, help="Where Orderflow listens.")
    @click.option("--seconds", default=15.0, show_default=True, help="How long to wait for the orders to settle.")
    @as_json
    def demo(url: str, seconds: float, as_json: bool) -> None:
        """Place a good order and a declined one on a running server, and show their nine stages."""
        for product_id in SCENARIOS:
            _run_scenario(feed, url, seconds, product_id, None if as_json else console())

    return demo


def _run_scenario(feed: LiveFeed, url: str, seconds: float, product_id: str, output: Console | None) -> None:
    title, expected = SCENARIOS[product_id]
    if output:
        output.print(f"\n[bold]{title}[/] (productId {product_id})")
    request_id = f"demo-{uuid4().hex[:12]}"
    lines = _StageFollower(feed, request_id, seconds)
    order_id = _place_order(url, product_id, request_id)
    shown = report_errors(_print_all, output, lines)
    if shown < len(Stage):
        raise click.ClickException(f"only {shown} of {len(Stage)} stages were seen within {seconds:g} s")
    status = httpx.get(f"{url}/orders/status/{order_id}").json()["orderStatus"]
    if status != expected:
        raise click.ClickException(f"order {order_id} is {status} instead of {expected}")
    if output:
        output.print(f"order {order_id} is now [bold]{status}[/]")
    else:
        print_json({"orderId": order_id, "orderStatus": status})


def _print_all(output: Console | None, lines: "_StageFollower") -> int:
    """Print all lines, and return how many different stages were among them."""
    stages = set()
    for line in lines:
        stages.add(line["stage"])
        if output:
            _print_stage(output, line)
        else:
            print_json({name: value for name, value in line.items() if name != "_id"})
    return len(stages)


class _StageFollower:
    """Follows the stages of one request in a thread, from before it is sent.

    Iterates over them in the order of the stages, whichever process has recorded them. Raises Unavailable at the end.
    """

    def __init__(self, feed: LiveFeed, request_id: str, seconds: float) -> None:
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._error: Unavailable | None = None
        threading.Thread(target=self._follow, args=(feed, request_id, seconds), daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        early: list[dict[str, Any]] = []
        due = 0
        while line := self._lines.get():
            early.append(line)
            early.sort(key=_stage_index)
            while early and _stage_index(early[0]) <= due:
                due = max(due, _stage_index(early[0]) + 1)
                yield early.pop(0)
        yield from early
        if self._error:
            raise self._error

    def _follow(self, feed: LiveFeed, request_id: str, seconds: float) -> None:
        stages = set()
        try:
            for line in feed.follow({"request_id": request_id}, seconds):
                self._lines.put(line)
                stages.add(line["stage"])
                if len(stages) == len(Stage):
                    return
        except Unavailable as exc:
            self._error = exc
        finally:
            self._lines.put(None)


def _place_order(url: str, product_id: str, request_id: str) -> str:
    body = {"userId": "demo", "productId": product_id, "productName": "Demo", "totalOrderAmount": "RM 99"}
    try:
        response = httpx.post(f"{url}/orders", json=body, headers={"X-Request-Id": request_id})
    except httpx.HTTPError as exc:
        raise Unreachable(f"no Orderflow answers at {url}: {exc}; start one with `make run`") from exc
    if response.status_code != httpx.codes.CREATED:
        raise click.ClickException(f"{url} answered {response.status_code}: {response.text}")
    order_id: str = response.json()["created"]["id"]
    return order_id


def _stage_index(line: dict[str, Any]) -> int:
    return list(Stage).index(line["stage"])


def _print_stage(output: Console, line: dict[str, Any]) -> None:
    colour = COLOURS.get(line["module"], "white")
    clock = time.strftime("%H:%M:%S", time.localtime(line["at"])) + f".{int(line['at'] * 1000) % 1000:03d}"
    output.print(
        f"  {_stage_index(line) + 1}  {clock}  [{colour}]{line['module']:<9}[/] {line['process'].partition('-')[0]:<7} "
        f"{line['stage']:<26} {line['took_ms']:>8.2f} ms  "
        f"[dim]{line['order_id']}  {line['request_id']}[/]"
    )
