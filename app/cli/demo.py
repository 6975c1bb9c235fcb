"""`demo`: two orders and their nine stages, live."""

import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import click
import httpx
from rich.console import Console

from app.cli.output import NotReached, as_json, asking, console, tell
from app.contracts.base import Unavailable
from app.messaging.live_feed import LiveFeed
from app.observability.stages import Stage

COLOURS = {"gateway": "cyan", "orders": "green", "payments": "magenta"}
WAYS = {"1": ("a good order", "Success"), "2": ("an order that is declined", "Declined")}


def command(feed: LiveFeed) -> click.Command:
    """The command, which watches `feed`."""

    @click.command("demo")
    @click.option("--url", default="http://127.0.0.1:7000", show_default=True, help="Where Orderflow listens.")
    @click.option("--seconds", default=15.0, show_default=True, help="How long to wait for the orders to settle.")
    @as_json
    def demo(url: str, seconds: float, as_json: bool) -> None:
        """Place one good and one declined order on a running server and watch their nine stages."""
        for product_id in WAYS:
            _show(feed, url, seconds, product_id, None if as_json else console())

    return demo


def _show(feed: LiveFeed, url: str, seconds: float, product_id: str, to: Console | None) -> None:
    way, outcome = WAYS[product_id]
    if to:
        to.print(f"\n[bold]{way}[/] (productId {product_id})")
    request_id = f"demo-{uuid4().hex[:12]}"
    lines = _Watch(feed, request_id, seconds)
    order_id = _place(url, product_id, request_id)
    told = asking(_print_all, to, lines)
    if told < len(Stage):
        raise click.ClickException(f"only {told} of {len(Stage)} stages were seen within {seconds:g} s")
    status = httpx.get(f"{url}/orders/status/{order_id}").json()["orderStatus"]
    if status != outcome:
        raise click.ClickException(f"order {order_id} is {status} instead of {outcome}")
    if to:
        to.print(f"order {order_id} is now [bold]{status}[/]")
    else:
        tell({"orderId": order_id, "orderStatus": status})


def _print_all(to: Console | None, lines: "_Watch") -> int:
    told = set()
    for line in lines:
        told.add(line["stage"])
        if to:
            _print(to, line)
        else:
            tell({name: value for name, value in line.items() if name != "_id"})
    return len(told)


class _Watch:
    """The stages of one request, watched from before it is sent; in their order, in whichever processes tell of them."""

    def __init__(self, feed: LiveFeed, request_id: str, seconds: float) -> None:
        self._lines: list[dict[str, Any]] = []
        self._error: Unavailable | None = None
        self._thread = threading.Thread(target=self._watch, args=(feed, request_id, seconds), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        waiting: list[dict[str, Any]] = []
        due = 0
        for line in self._as_told():
            waiting.append(line)
            waiting.sort(key=_number)
            while waiting and _number(waiting[0]) <= due:
                due = max(due, _number(waiting[0]) + 1)
                yield waiting.pop(0)
        yield from waiting
        if self._error:
            raise self._error

    def _as_told(self) -> Iterator[dict[str, Any]]:
        told = 0
        while self._thread.is_alive() or told < len(self._lines):
            while told < len(self._lines):
                yield self._lines[told]
                told += 1
            time.sleep(0.01)

    def _watch(self, feed: LiveFeed, request_id: str, seconds: float) -> None:
        try:
            for line in feed.follow({"request_id": request_id}, seconds):
                self._lines.append(line)
                if len({line["stage"] for line in self._lines}) == len(Stage):
                    return
        except Unavailable as exc:
            self._error = exc


def _place(url: str, product_id: str, request_id: str) -> str:
    body = {"userId": "demo", "productId": product_id, "productName": "Demo", "totalOrderAmount": "RM 99"}
    try:
        answer = httpx.post(f"{url}/orders", json=body, headers={"X-Request-Id": request_id})
    except httpx.HTTPError as exc:
        raise NotReached(f"no Orderflow answers at {url}: {exc}; start one with `make run`") from exc
    if answer.status_code != httpx.codes.CREATED:
        raise click.ClickException(f"{url} answered {answer.status_code}: {answer.text}")
    order_id: str = answer.json()["created"]["id"]
    return order_id


def _number(line: dict[str, Any]) -> int:
    return list(Stage).index(line["stage"])


def _print(to: Console, line: dict[str, Any]) -> None:
    colour = COLOURS.get(line["module"], "white")
    clock = time.strftime("%H:%M:%S", time.localtime(line["at"])) + f".{int(line['at'] * 1000) % 1000:03d}"
    to.print(
        f"  {_number(line) + 1}  {clock}  [{colour}]{line['module']:<9}[/] {line['process'].partition('-')[0]:<7} "
        f"{line['stage']:<26} {line['took_ms']:>8.2f} ms  "
        f"[dim]{line['order_id']}  {line['request_id']}[/]"
    )
