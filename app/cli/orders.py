"""`orders list|show|watch|explain`: over the bus and so from the database, whether a server runs or not.

A user's token would show an operator one user's orders; who may open the database may see all of them.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import click
import msgspec
from flask.cli import AppGroup
from rich.markup import escape
from rich.table import Table

from app.cli import latency
from app.cli.output import as_json, asking, console, table, tell
from app.contracts.orders import (
    AwaitTimeline,
    ExplainOrder,
    FindOrder,
    FindOrders,
    ListAllOrders,
    ListOrders,
    ListStuckOrders,
    OrderView,
    TimelineEntry,
)
from app.contracts.payments import ExplainPayment, ListAttempts, ListStuckPayments
from app.gateway.routes.explain import explanation
from app.messaging.bus import RequestClient
from app.messaging.live_feed import LiveFeed

PAGES = 20
OPEN = frozenset({"Processing", "Refunding"})
SLICE_MS = 1000


def group(bus: RequestClient, feed: LiveFeed) -> click.Group:
    """The commands, asking `bus`, and `feed` for what is still known of an order's stages."""
    commands = AppGroup("orders", help="Orders, and how they came to be where they are.")

    @commands.command("list")
    @click.option("--user", default="", help="Whose; without it, everybody's.")
    @click.option("--status", default="", help="Only those of this status.")
    @click.option("--stuck", is_flag=True, help="Only those that wait for an operator or do not get on.")
    @click.option("--overdue", default=60.0, show_default=True, help="With --stuck: seconds that work may take.")
    @click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
    @as_json
    def listed(user: str, status: str, stuck: bool, overdue: float, limit: int, as_json: bool) -> None:
        """List orders, newest first."""
        _list(_found(bus, user, status, overdue if stuck else None, limit), as_json)

    @commands.command("show")
    @click.argument("order_id")
    @as_json
    def show(order_id: str, as_json: bool) -> None:
        """Show one order, and its way as a waterfall."""
        _show(bus, feed, order_id, as_json)

    @commands.command("watch")
    @click.argument("order_id")
    @click.option("--seconds", default=60.0, show_default=True, help="For how long at the most.")
    @as_json
    def watch(order_id: str, seconds: float, as_json: bool) -> None:
        """Follow an order's steps until its money has come to rest; exit code 1 where it has not in time."""
        _watch(bus, order_id, seconds, as_json)

    @commands.command("explain")
    @click.argument("order_id")
    @as_json
    def explain(order_id: str, as_json: bool) -> None:
        """Say in a sentence why an order is in its state, and what is behind it."""
        asked = {"request_id": _id(), "order_id": order_id, "on_behalf_of": ""}
        order = asking(bus.request, ExplainOrder(**asked))
        told = msgspec.to_builtins(explanation(order, asking(bus.request, ExplainPayment(**asked))))
        if as_json:
            tell(told)
            return
        click.echo(told["sentence"])
        _print_facts(told)

    return commands


def _id() -> str:
    return f"cli-{uuid4().hex[:12]}"


def _found(bus: RequestClient, user: str, status: str, overdue: float | None, limit: int) -> Sequence[OrderView]:
    """Orders of a user or of all, of one status or any; only those that do not get on where `overdue` is given."""
    if overdue is None:
        return _of_user(bus, user, status, limit) if user else _of_all(bus, status, limit)
    stuck = _stuck(bus, overdue, limit)
    return [order for order in stuck if status in ("", order.order_status) and user in ("", order.user_id)]


def _show(bus: RequestClient, feed: LiveFeed, order_id: str, as_json: bool) -> None:
    asked = {"request_id": _id(), "order_id": order_id, "on_behalf_of": ""}
    order = asking(bus.request, FindOrder(**asked))
    entries, stages = _entries(bus, order_id), asking(feed.stages_of_order, order_id)
    attempts = asking(bus.request, ListAttempts(**asked)).attempts
    if as_json:
        events = [msgspec.to_builtins(entry) for entry in entries]
        tell(
            {
                "order": msgspec.to_builtins(order),
                "events": events,
                "stages": stages,
                "attempts": [msgspec.structs.asdict(attempt) for attempt in attempts],
            }
        )
        return
    _print_order(order)
    latency.draw([*latency.of_events(entries), *latency.of_stages(stages), *latency.of_attempts(attempts)])


def _watch(bus: RequestClient, order_id: str, seconds: float, as_json: bool) -> None:
    settled = False
    for entry in _followed(bus, order_id, seconds):
        settled = _settles(entry)
        if as_json:
            tell(msgspec.to_builtins(entry))
        else:
            console().print(_line(entry))
    if not settled:
        raise click.ClickException(f"order {order_id} did not settle within {seconds:g} s")


def _settles(entry: TimelineEntry) -> bool:
    return entry.to_status != "Processing" and entry.payment_status not in OPEN


def _of_user(bus: RequestClient, user: str, status: str, limit: int) -> Sequence[OrderView]:
    asked = ListOrders(request_id=_id(), user_id=user, limit=limit, order_status=status, before_at="", before_id="")
    return asking(bus.request, asked).orders


def _of_all(bus: RequestClient, status: str, limit: int) -> Sequence[OrderView]:
    found: list[OrderView] = []
    before = ""
    for _ in range(PAGES):
        asked = ListAllOrders(request_id=_id(), limit=limit - len(found), order_status=status, before_id=before)
        page = asking(bus.request, asked)
        found += page.orders
        before = page.last_id
        if len(found) >= limit or not before:
            break
    return found


def _stuck(bus: RequestClient, overdue: float, limit: int) -> Sequence[OrderView]:
    """Those that are overdue, parked or held up by a dead letter."""
    found = [
        order_id
        for question in (ListStuckOrders, ListStuckPayments)
        for dead in (True, False)
        for order_id in asking(
            bus.request, question(request_id=_id(), dead=dead, overdue_ms=int(overdue * 1000), limit=limit)
        ).order_ids
    ]
    return asking(bus.request, FindOrders(request_id=_id(), order_ids=tuple(dict.fromkeys(found)))).orders[:limit]


def _entries(bus: RequestClient, order_id: str, after: int = 0, wait_ms: int = 0) -> Sequence[TimelineEntry]:
    question = AwaitTimeline(request_id=_id(), order_id=order_id, on_behalf_of="", after=after, wait_ms=wait_ms)
    return asking(bus.request, question).entries


def _followed(bus: RequestClient, order_id: str, seconds: float) -> Iterator[TimelineEntry]:
    """An order's steps as they come, up to one after which nothing is open."""
    ends, after = time.monotonic() + seconds, 0
    while True:
        for entry in _entries(bus, order_id, after, SLICE_MS if after else 0):
            after = entry.sequence
            yield entry
            last = entry
        if _settles(last) or time.monotonic() >= ends:
            return


def _list(orders: Sequence[OrderView], as_json: bool) -> None:
    if as_json:
        tell([msgspec.to_builtins(order) for order in orders])
        return
    rows = [
        {
            "id": order.id,
            "created": order.created_at[:19].replace("T", " "),
            "user": order.user_id,
            "total": order.total_order_amount,
            "order": order.order_status,
            "payment": order.payment_status,
        }
        for order in orders
    ]
    table("Orders", rows, as_json=False)


def _print_order(order: OrderView) -> None:
    facts = Table(show_header=False, box=None)
    for name, value in msgspec.to_builtins(order).items():
        if name != "total":
            facts.add_row(f"[dim]{name}[/]", escape(str(value)))
    console().print(facts)


def _print_facts(told: dict[str, Any]) -> None:
    facts = Table(show_header=False, box=None)
    for name in ("orderStatus", "paymentStatus", "waitsFor", "attempts", "nextAttemptAt", "allowed", "onCancel"):
        value = told[name]
        text = ", ".join(value) if isinstance(value, list) else str(value)
        facts.add_row(f"[dim]{name}[/]", "-" if value in (None, []) else escape(text))
    because = told["because"]
    facts.add_row("[dim]because[/]", f"{because['type']} by {because['actor']} at {because['at']}")
    console().print(facts)


def _line(entry: TimelineEntry) -> str:
    return (
        f"{entry.at[11:23]}  {entry.sequence:>3}  {entry.actor:<9} {entry.type:<16} "
        f"{escape(entry.from_status)} → {escape(entry.to_status)}, payment {entry.payment_status}  [dim]{escape(entry.detail)}[/]"
    )
