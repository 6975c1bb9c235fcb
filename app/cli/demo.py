"""`demo`: places two orders and shows each with its nine stages, live: who passes what to whom."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import click
import httpx
from rich.console import Console
from rich.markup import escape

from app.cli.output import SECONDS, Unreachable, as_json, console, print_json, report_errors
from app.contracts.base import Unavailable
from app.contracts.orders import CreateOrder, OrderCreated
from app.messaging.live_feed import LiveFeed
from app.observability.stages import Stage

COLOURS = {"gateway": "cyan", "orders": "green", "payments": "magenta"}
# By product: a title and the status that the order must have in the end.
SCENARIOS = {"1": ("a good order", "Success"), "2": ("an order that is declined", "Declined")}


def command(feed: LiveFeed, find_url: Callable[[], str]) -> click.Command:
    """The command, which follows `feed`; `find_url` returns the address of the running server."""

    @click.command("demo")
    @click.option("--url", default=find_url, help="Where Orderflow listens; by default the running server.")
    @click.option("--seconds", default=15.0, show_default=True, type=SECONDS, help="How long the orders may take.")
    @click.option(
        "--token",
        default="",
        envvar="ORDERFLOW_TOKEN",
        help="A bearer token of the user demo, where the server asks for one.",
    )
    @as_json
    def demo(url: str, seconds: float, token: str, as_json: bool) -> None:
        """Place a good order and a declined one on a running server; show their nine stages and what became of them."""
        client = httpx.Client(
            base_url=url, timeout=seconds, headers={"Authorization": f"Bearer {token}"} if token else {}
        )
        for product_id in SCENARIOS:
            _run_scenario(feed, client, seconds, product_id, None if as_json else console())

    return demo


def _run_scenario(
    feed: LiveFeed, client: httpx.Client, seconds: float, product_id: str, output: Console | None
) -> None:
    title, expected = SCENARIOS[product_id]
    body = {"userId": "demo", "productId": product_id, "productName": "Demo", "totalOrderAmount": "RM 99"}
    if output:
        output.print(f"\n[bold]{title}[/]\nPOST {client.base_url}/orders  {escape(json.dumps(body))}")
    request_id = f"demo-{uuid4().hex[:12]}"
    lines = _StageFollower(feed, request_id, seconds)
    order_id = _place_order(client, body, request_id)
    shown = report_errors(_print_all, output, lines)
    if shown < len(Stage):
        raise click.ClickException(f"only {shown} of {len(Stage)} stages were seen within {seconds:g} s")
    order = client.get(f"/orders/one/{order_id}").json()["order"]
    status = order["orderStatus"]
    if status != expected:
        raise click.ClickException(f"order {order_id} is {status} instead of {expected}")
    if output:
        _print_order(output, order)
    else:
        print_json({"orderId": order_id, "orderStatus": status, "order": order})


def _print_all(output: Console | None, lines: "_StageFollower") -> int:
    """Print all lines, and return how many different stages were among them."""
    stages = set()
    result = ""
    for line in lines:
        stages.add(line["stage"])
        result = line["event_type"] if line["stage"] == Stage.HANDED_TO_ORDERS else result
        handover = _handover(line, result)
        if output:
            _print_stage(output, line, handover)
        else:
            sender, receiver, passed = handover
            record = {name: value for name, value in line.items() if name != "_id"}
            print_json({**record, "from": sender, "to": receiver, "passed": passed})
    return len(stages)


def _handover(line: dict[str, Any], result: str) -> tuple[str, str, str]:
    """Who passes what to whom in a stage: sender, receiver and what is passed; `result` is the event about the payment."""
    return {
        Stage.GATEWAY_RECEIVED: ("client", "gateway", "POST /orders"),
        Stage.ORDERS_RECEIVED: ("gateway", "orders", CreateOrder.__name__),
        Stage.ORDER_STORED: ("orders", "database", f"the order and {OrderCreated.__name__}"),
        Stage.HANDED_TO_PAYMENTS: ("orders", "bus", line.get("event_type", "")),
        Stage.PAYMENTS_RECEIVED: ("bus", "payments", OrderCreated.__name__),
        Stage.PAYMENT_PROCESSED: ("payments", "provider", f"a charge, which is {line.get('answer')}"),
        Stage.HANDED_TO_ORDERS: ("payments", "bus", line.get("event_type", "")),
        Stage.RESULT_RECEIVED: ("bus", "orders", result),
        Stage.ORDER_UPDATED: (
            "orders",
            "database",
            f"{line.get('order_status')}, payment {line.get('payment_status')}",
        ),
    }[Stage(line["stage"])]


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


def _place_order(client: httpx.Client, body: dict[str, str], request_id: str) -> str:
    url = client.base_url
    try:
        response = client.post("/orders", json=body, headers={"X-Request-Id": request_id})
    except httpx.HTTPError as exc:
        raise Unreachable(f"no Orderflow answers at {url}: {exc}; start one with `make run`") from exc
    if response.status_code != httpx.codes.CREATED:
        raise click.ClickException(f"{url} answered {response.status_code}: {_said(response)}")
    order_id: str = response.json()["created"]["id"]
    return order_id


def _said(response: httpx.Response) -> str:
    """Why a request was refused, in a sentence."""
    try:
        problem = response.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return f"{detail}; --token takes one, and `orderflow token` makes one for development"
    return detail


def _stage_index(line: dict[str, Any]) -> int:
    return list(Stage).index(line["stage"])


def _print_stage(output: Console, line: dict[str, Any], handover: tuple[str, str, str]) -> None:
    colour = COLOURS.get(line["module"], "white")
    clock = time.strftime("%H:%M:%S", time.localtime(line["at"])) + f".{int(line['at'] * 1000) % 1000:03d}"
    sender, receiver, passed = handover
    output.print(
        f"  {_stage_index(line) + 1}  {clock}  [{colour}]{line['module']:<9}[/] {line['process'].partition('-')[0]:<7} "
        f"{line['stage']:<24} {line['took_ms']:>8.2f} ms  {sender:>8} → {receiver:<8}  {escape(passed)}"
    )


def _print_order(output: Console, order: dict[str, Any]) -> None:
    output.print(f"order {order['id']} is now [bold]{order['orderStatus']}[/]")
    for name, value in order.items():
        output.print(f"     {name:<17} {escape(value if isinstance(value, str) else json.dumps(value))}")
