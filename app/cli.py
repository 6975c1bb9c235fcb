"""Commands: `flask --app app.main …`."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

import click
import httpx
from flask import Flask
from flask.cli import AppGroup
from rich.console import Console
from rich.table import Table

from app.contracts import Unavailable
from app.doctor import Doctor, Report
from app.feed import Feed
from app.outbox import Outbox
from app.payments.desk import Desk, NotPossible
from app.payments.payment import Answer
from app.story import Step

P = ParamSpec("P")
T = TypeVar("T")
RESOLUTIONS = (Answer.CAPTURED, Answer.DECLINED, Answer.VOIDED, Answer.REFUNDED)
ORDER_ID = re.compile(r"[0-9a-f]{24}")
COLOURS = {"gateway": "cyan", "orders": "green", "payments": "magenta"}
WAYS = {"1": "a good order", "2": "an order that is declined"}


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def install(app: Flask, feed: Feed, doctor: Callable[[float], Doctor], desk: Desk, outboxes: dict[str, Outbox]) -> None:
    """Give `app` its commands."""
    app.cli.add_command(_demo(feed))
    app.cli.add_command(_doctor(doctor))
    app.cli.add_command(_payments(desk))
    app.cli.add_command(_dead_letters(outboxes))


def _demo(feed: Feed) -> click.Command:
    @click.command("demo")
    @click.option("--url", default="http://127.0.0.1:7000", show_default=True, help="Where Orderflow listens.")
    @click.option("--seconds", default=15.0, show_default=True, help="How long to wait for the orders to settle.")
    def demo(url: str, seconds: float) -> None:
        """Place one good and one declined order on a running server and watch their nine steps."""
        console = Console(highlight=False, soft_wrap=True)
        for product_id, way in WAYS.items():
            console.print(f"\n[bold]{way}[/] (productId {product_id})")
            request_id = f"demo-{uuid4().hex[:12]}"
            lines = _Watch(feed, request_id, seconds)
            order_id = _place(url, product_id, request_id)
            told = _asking(_print_all, console, lines)
            if told < len(Step):
                raise click.ClickException(f"only {told} of {len(Step)} steps were seen within {seconds:g} s")
            status = httpx.get(f"{url}/orders/status/{order_id}").json()
            console.print(f"order {order_id} is now [bold]{status['orderStatus']}[/]")

    return demo


def _doctor(make: Callable[[float], Doctor]) -> click.Command:
    @click.command("doctor")
    @click.option("--grace", default=60.0, show_default=True, help="Seconds that work may take before it is stuck.")
    @click.option("--pause", default=2.0, show_default=True, help="Seconds before looking again at what looks wrong.")
    @click.option("--acknowledged", type=click.File(), help="A file of order ids, one a line, that must exist.")
    @as_json
    def doctor(grace: float, pause: float, acknowledged: Any, as_json: bool) -> None:
        """Check every invariant on the live database and the provider's books; exit code 1 on a violation."""
        known = [line.strip() for line in acknowledged if line.strip()] if acknowledged else []
        wrong = next((one for one in known if not ORDER_ID.fullmatch(one)), None)
        if wrong is not None:
            raise click.ClickException(f"{wrong!r} is no order id")
        report = _asking(make(grace).examine, known, pause)
        _show(report, as_json)
        if not report.healthy:
            sys.exit(1)

    return doctor


def _payments(desk: Desk) -> click.Group:
    group = AppGroup("payments", help="Payments that nobody could settle in time.")

    @group.command("list")
    @click.option("--limit", default=100, show_default=True)
    @as_json
    def listed(limit: int, as_json: bool) -> None:
        """List payments that wait for an operator."""
        parked = _asking(desk.parked, limit)
        rows = [
            {
                "orderId": held.payment.order_id,
                "since": f"{held.first_at:%Y-%m-%dT%H:%M:%SZ}",
                "why": held.payment.parked,
            }
            for held in parked
        ]
        _list("Parked payments", rows, as_json)

    @group.command("retry")
    @click.argument("order_ids", nargs=-1, required=True)
    def retry(order_ids: tuple[str, ...]) -> None:
        """Ask the provider again, with the same key."""
        for order_id in order_ids:
            click.echo(f"{order_id} is now {_asking(desk.retry, order_id)}")

    @group.command("resolve")
    @click.argument("order_id")
    @click.argument("answer", type=click.Choice([answer.value for answer in RESOLUTIONS]))
    @click.option("--reference", default="", help="The provider's reference.")
    @click.option("--reason", required=True, help="Who found this out, and how; it goes on record.")
    def resolve(order_id: str, answer: str, reference: str, reason: str) -> None:
        """Settle a payment as you found it at the provider."""
        status = _asking(desk.resolve, order_id, Answer(answer), reference, reason)
        click.echo(f"{order_id} is now {status}")

    return group


def _dead_letters(outboxes: dict[str, Outbox]) -> click.Group:
    group = AppGroup("dead-letters", help="Events that could not be delivered.")

    @group.command("list")
    @click.option("--limit", default=100, show_default=True)
    @as_json
    def listed(limit: int, as_json: bool) -> None:
        """List them, oldest first."""
        rows = [
            {
                "module": module,
                "orderId": str(doc["_id"]),
                "event": doc["outbox"][0]["type"] if doc["outbox"] else "",
                "at": f"{doc['deadLetter']['at']:%Y-%m-%dT%H:%M:%SZ}",
                "tries": doc["deadLetter"]["failures"],
                "why": doc["deadLetter"]["reason"],
            }
            for module, outbox in outboxes.items()
            for doc in _asking(outbox.dead_letters, limit)
        ]
        _list("Dead letters", rows, as_json)

    @group.command("replay")
    @click.argument("order_ids", nargs=-1, required=True)
    def replay(order_ids: tuple[str, ...]) -> None:
        """Have them delivered again."""
        for order_id in order_ids:
            found = [name for name, outbox in outboxes.items() if _asking(outbox.replay_order, order_id)]
            if not found:
                raise click.ClickException(f"order {order_id} has no dead letter")
            click.echo(f"{order_id}: due again in {', '.join(found)}")

    return group


def _asking(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return work(*args, **kwargs)
    except NotPossible as exc:
        raise click.ClickException(str(exc)) from exc
    except Unavailable as exc:
        raise click.ClickException(f"{exc}; is MONGODB_URI right, or is `make run` running?") from exc


def _print_all(console: Console, lines: Iterable[dict[str, Any]]) -> int:
    return sum(_print(console, line) for line in lines)


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(report) | {"healthy": report.healthy}))
        return
    table = Table(title=f"{report.orders} orders examined")
    for column in ("invariant", "meaning", "violations", "first"):
        table.add_column(column, justify="right" if column == "violations" else "left")
    for name, meaning, count, first in report.table():
        table.add_row(name, meaning, f"[red]{count}[/]" if count else "[green]0[/]", first)
    Console().print(table)


def _list(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        click.echo(f"{title}: none")
        return
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, no_wrap=column == "orderId", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


class _Watch:
    """The steps of one request, watched from before it is sent."""

    def __init__(self, feed: Feed, request_id: str, seconds: float) -> None:
        self._lines: list[dict[str, Any]] = []
        self._error: Unavailable | None = None
        self._thread = threading.Thread(target=self._watch, args=(feed, request_id, seconds), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        shown = 0
        while self._thread.is_alive() or shown < len(self._lines):
            while shown < len(self._lines):
                yield self._lines[shown]
                shown += 1
            time.sleep(0.01)
        if self._error:
            raise self._error

    def _watch(self, feed: Feed, request_id: str, seconds: float) -> None:
        try:
            for line in feed.follow({"request_id": request_id}, seconds):
                self._lines.append(line)
                if line["step"] == Step.ORDER_UPDATED:
                    return
        except Unavailable as exc:
            self._error = exc


def _place(url: str, product_id: str, request_id: str) -> str:
    body = {"userId": "demo", "productId": product_id, "productName": "Demo", "totalOrderAmount": "RM 99"}
    try:
        answer = httpx.post(f"{url}/orders", json=body, headers={"X-Request-Id": request_id})
    except httpx.HTTPError as exc:
        raise click.ClickException(f"no Orderflow answers at {url}: {exc}; start one with `make run`") from exc
    if answer.status_code != httpx.codes.CREATED:
        raise click.ClickException(f"{url} answered {answer.status_code}: {answer.text}")
    order_id: str = answer.json()["created"]["id"]
    return order_id


def _print(console: Console, line: dict[str, Any]) -> int:
    colour = COLOURS.get(line["module"], "white")
    number = list(Step).index(line["step"]) + 1
    clock = time.strftime("%H:%M:%S", time.localtime(line["at"])) + f".{int(line['at'] * 1000) % 1000:03d}"
    console.print(
        f"  {number}  {clock}  [{colour}]{line['module']:<9}[/] {line['step']:<26} {line['took_ms']:>8.2f} ms  "
        f"[dim]{line['order_id']}  {line['request_id']}[/]"
    )
    return 1
