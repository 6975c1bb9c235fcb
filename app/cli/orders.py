"""`orders list|show|watch|explain`: over the bus and so from the database, whether a server runs or not."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import click
from flask.cli import AppGroup
from rich.table import Table

from app.bus import Asks
from app.cli.shown import as_json, asking, console, table, tell
from app.contracts import (
    AwaitTimeline,
    ExplainOrder,
    ExplainPayment,
    FindOrder,
    ListOrders,
    OrderView,
    TimelineEntry,
)
from app.gateway.answers import entry_members, order_members
from app.gateway.explain import explanation

BAR = 32
OPEN = frozenset({"Processing", "Refunding"})
SLICE_MS = 1000


def group(bus: Asks) -> click.Group:
    """The commands, asking `bus`."""
    commands = AppGroup("orders", help="Orders, and how they came to be where they are.")

    @commands.command("list")
    @click.option("--user", required=True, help="Whose.")
    @click.option("--status", default="", help="Only those of this status.")
    @click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
    @as_json
    def listed(user: str, status: str, limit: int, as_json: bool) -> None:
        """List orders, newest first."""
        question = ListOrders(
            request_id=_id(), user_id=user, limit=limit, order_status=status, before_at="", before_id=""
        )
        _list(asking(bus.ask, question).orders, as_json)

    @commands.command("show")
    @click.argument("order_id")
    @as_json
    def show(order_id: str, as_json: bool) -> None:
        """Show one order, and its way as a waterfall."""
        order = asking(bus.ask, FindOrder(request_id=_id(), order_id=order_id, on_behalf_of=""))
        entries = _entries(bus, order_id)
        if as_json:
            tell({"order": order_members(order), "events": [entry_members(entry) for entry in entries]})
            return
        _print_order(order)
        console().print(_waterfall(entries))

    @commands.command("watch")
    @click.argument("order_id")
    @click.option("--seconds", default=60.0, show_default=True, help="For how long at the most.")
    @as_json
    def watch(order_id: str, seconds: float, as_json: bool) -> None:
        """Follow an order's steps until its money has come to rest; exit code 1 where it has not in time."""
        settled = False
        for entry in _followed(bus, order_id, seconds):
            settled = entry.to != "Processing" and entry.payment_status not in OPEN
            if as_json:
                tell(entry_members(entry))
            else:
                console().print(_line(entry))
        if not settled:
            raise click.ClickException(f"order {order_id} did not settle within {seconds:g} s")

    @commands.command("explain")
    @click.argument("order_id")
    @as_json
    def explain(order_id: str, as_json: bool) -> None:
        """Say in a sentence why an order is in its state, and what is behind it."""
        asked = {"request_id": _id(), "order_id": order_id, "on_behalf_of": ""}
        order = asking(bus.ask, ExplainOrder(**asked))
        told = explanation(order, asking(bus.ask, ExplainPayment(**asked)))
        if as_json:
            tell(told)
            return
        click.echo(told["sentence"])
        _print_facts(told)

    return commands


def _id() -> str:
    return f"cli-{uuid4().hex[:12]}"


def _entries(bus: Asks, order_id: str, after: int = 0, wait_ms: int = 0) -> Sequence[TimelineEntry]:
    question = AwaitTimeline(request_id=_id(), order_id=order_id, on_behalf_of="", after=after, wait_ms=wait_ms)
    return asking(bus.ask, question).entries


def _followed(bus: Asks, order_id: str, seconds: float) -> Iterator[TimelineEntry]:
    """An order's steps as they come, up to one after which nothing is open."""
    ends, after = time.monotonic() + seconds, 0
    while True:
        for entry in _entries(bus, order_id, after, SLICE_MS if after else 0):
            after = entry.sequence
            yield entry
            last = entry
        if (last.to != "Processing" and last.payment_status not in OPEN) or time.monotonic() >= ends:
            return


def _list(orders: Sequence[OrderView], as_json: bool) -> None:
    if as_json:
        tell([order_members(order) for order in orders])
        return
    rows = [
        {
            "id": order.order_id,
            "created": order.created_at,
            "user": order.user_id,
            "product": order.product_name,
            "total": order.total_text,
            "order": order.order_status,
            "payment": order.payment_status,
        }
        for order in orders
    ]
    table("Orders", rows, as_json=False)


def _print_order(order: OrderView) -> None:
    facts = Table(show_header=False, box=None)
    for name, value in order_members(order).items():
        if name != "total":
            facts.add_row(f"[dim]{name}[/]", str(value))
    console().print(facts)


def _print_facts(told: dict[str, Any]) -> None:
    facts = Table(show_header=False, box=None)
    for name in ("orderStatus", "paymentStatus", "waitsFor", "attempts", "nextAttemptAt", "allowed", "onCancel"):
        value = told[name]
        text = ", ".join(value) if isinstance(value, list) else str(value)
        facts.add_row(f"[dim]{name}[/]", "-" if value in (None, []) else text)
    because = told["because"]
    facts.add_row("[dim]because[/]", f"{because['type']} by {because['actor']} at {because['at']}")
    console().print(facts)


def _waterfall(entries: Sequence[TimelineEntry]) -> Table:
    """A bar a step, from the step before it, to the scale of the whole way."""
    shown = Table(title="Its way")
    for column in ("#", "at", "who", "what", "status", "payment", "after", ""):
        shown.add_column(column, justify="right" if column == "after" else "left", overflow="fold")
    times = [datetime.fromisoformat(entry.at) for entry in entries]
    whole = (times[-1] - times[0]).total_seconds() or 1.0
    for number, entry in enumerate(entries):
        before = times[max(0, number - 1)]
        begins = round((before - times[0]).total_seconds() / whole * BAR)
        ends = round((times[number] - times[0]).total_seconds() / whole * BAR)
        took = (times[number] - before).total_seconds()
        shown.add_row(
            str(entry.sequence), entry.at[11:23], entry.actor, entry.type, entry.to, entry.payment_status,
            f"{took * 1000:.0f} ms" if took < 10 else f"{took:.1f} s",
            f"{' ' * begins}[cyan]{'█' * max(1, ends - begins) if number else '▏'}[/]",
        )  # fmt: skip
    return shown


def _line(entry: TimelineEntry) -> str:
    return (
        f"{entry.at[11:23]}  {entry.sequence:>3}  {entry.actor:<9} {entry.type:<16} "
        f"{entry.came_from} → {entry.to}, payment {entry.payment_status}  [dim]{entry.detail}[/]"
    )
