"""`orders list|show|watch|explain|capture`: through the bus, so on the database, whether a server runs or not.

There is no token: an operator who may open the database sees the orders of all users.
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
from app.cli.output import as_json, console, print_json, print_result, print_rows, report_errors
from app.contracts.base import Money
from app.contracts.orders import (
    AwaitTimeline,
    CaptureOrder,
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
from app.gateway.http.money import MoneyError, format_money, parse_money
from app.gateway.routes.explain import explanation
from app.messaging.bus import RequestClient
from app.messaging.live_feed import LiveFeed

MAX_PAGES = 20
OPEN_PAYMENT = frozenset({"Processing", "Refunding"})
# How long one request waits for new timeline entries.
WAIT_MS = 1000


def group(bus: RequestClient, feed: LiveFeed) -> click.Group:
    """The commands. They send requests to `bus`, and read an order's stages from `feed`."""
    commands = AppGroup("orders", help="Orders, their state and their history.")

    @commands.command("list")
    @click.option("--user", default="", help="Only orders of this user.")
    @click.option("--status", default="", help="Only orders with this status.")
    @click.option("--stuck", is_flag=True, help="Only orders that wait for an operator or are overdue.")
    @click.option("--overdue", default=60.0, show_default=True, help="With --stuck: seconds that work may take.")
    @click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
    @as_json
    def list_orders(user: str, status: str, stuck: bool, overdue: float, limit: int, as_json: bool) -> None:
        """List orders, newest first."""
        _print_orders(_find(bus, user, status, overdue if stuck else None, limit), as_json)

    @commands.command("show")
    @click.argument("order_id")
    @as_json
    def show(order_id: str, as_json: bool) -> None:
        """Show one order, and its latency as a waterfall."""
        order = report_errors(bus.request, FindOrder(**_fields(order_id)))
        entries, stages = _timeline(bus, order_id), report_errors(feed.stages_of_order, order_id)
        attempts = report_errors(bus.request, ListAttempts(**_fields(order_id))).attempts
        if as_json:
            attempt_fields = [msgspec.structs.asdict(attempt) for attempt in attempts]
            print_json({"order": order, "events": entries, "stages": stages, "attempts": attempt_fields})
            return
        _print_order(order)
        latency.draw([*latency.timeline_bars(entries), *latency.stage_bars(stages), *latency.attempt_bars(attempts)])

    @commands.command("watch")
    @click.argument("order_id")
    @click.option("--seconds", default=60.0, show_default=True, help="How long to watch at most.")
    @as_json
    def watch(order_id: str, seconds: float, as_json: bool) -> None:
        """Print an order's timeline as it grows, until order and payment are settled; exit code 1 if they are not in time."""
        settled = False
        for entry in _follow_timeline(bus, order_id, seconds):
            settled = _is_settled(entry)
            if as_json:
                print_json(entry)
            else:
                console().print(_timeline_line(entry))
        if not settled:
            raise click.ClickException(f"order {order_id} did not settle within {seconds:g} s")

    @commands.command("explain")
    @click.argument("order_id")
    @as_json
    def explain(order_id: str, as_json: bool) -> None:
        """Explain in a sentence, with facts, why an order is in its state."""
        fields = _fields(order_id)
        order = report_errors(bus.request, ExplainOrder(**fields))
        payment = report_errors(bus.request, ExplainPayment(**fields))
        facts = msgspec.to_builtins(explanation(order, payment))
        print_result(facts, facts["sentence"], as_json)
        if not as_json:
            _print_facts(facts)

    _add_capture(commands, bus)
    return commands


def _add_capture(commands: click.Group, bus: RequestClient) -> None:

    @commands.command("capture")
    @click.argument("order_id")
    @click.option(
        "--amount", default="", help='What to take, such as "RM 40"; all that is authorized if it is not given.'
    )
    @as_json
    def capture(order_id: str, amount: str, as_json: bool) -> None:
        """Take what is authorized for an order, in part or in full, once; the rest is released."""
        part = _parse_amount(amount) if amount else Money(0, "")
        request = CaptureOrder(
            **_fields(order_id), expected_versions=(), capture_value=part.value, currency=part.currency
        )
        made = report_errors(bus.request, request)
        text = format_money(Money(made.capture_value, made.currency))
        result = {"orderId": order_id, "amount": text, "replayed": made.replayed}
        again = " already" if made.replayed else ""
        print_result(result, f"{order_id}: the capture of {text} is{again} on record", as_json)


def _parse_amount(text: str) -> Money:
    try:
        return parse_money(text)
    except MoneyError as exc:
        raise click.BadParameter(str(exc), param_hint="--amount") from None


def _request_id() -> str:
    return f"cli-{uuid4().hex[:12]}"


def _fields(order_id: str) -> dict[str, Any]:
    """The fields of a request about one order, for all users."""
    return {"request_id": _request_id(), "order_id": order_id, "on_behalf_of": ""}


def _find(bus: RequestClient, user: str, status: str, overdue: float | None, limit: int) -> Sequence[OrderView]:
    """Orders of one user or all, with one status or any; only stuck ones if `overdue` is given, in seconds."""
    if overdue is None:
        return _list_by_user(bus, user, status, limit) if user else _list_all(bus, status, limit)
    stuck = _list_stuck(bus, overdue, limit)
    return [order for order in stuck if status in ("", order.order_status) and user in ("", order.user_id)]


def _is_settled(entry: TimelineEntry) -> bool:
    return entry.to_status != "Processing" and entry.payment_status not in OPEN_PAYMENT


def _list_by_user(bus: RequestClient, user: str, status: str, limit: int) -> Sequence[OrderView]:
    filters = {"user_id": user, "order_status": status, "before_at": "", "before_id": ""}
    return report_errors(bus.request, ListOrders(request_id=_request_id(), limit=limit, **filters)).orders


def _list_all(bus: RequestClient, status: str, limit: int) -> Sequence[OrderView]:
    orders: list[OrderView] = []
    before = ""
    for _ in range(MAX_PAGES):
        filters = {"order_status": status, "before_id": before}
        request = ListAllOrders(request_id=_request_id(), limit=limit - len(orders), **filters)
        page = report_errors(bus.request, request)
        orders += page.orders
        before = page.last_id
        if len(orders) >= limit or not before:
            break
    return orders


def _list_stuck(bus: RequestClient, overdue: float, limit: int) -> Sequence[OrderView]:
    """Orders that are overdue, have a parked payment, or are blocked by a dead letter."""
    order_ids = [
        order_id
        for request in (ListStuckOrders, ListStuckPayments)
        for dead in (True, False)
        for order_id in report_errors(
            bus.request, request(request_id=_request_id(), dead=dead, overdue_ms=int(overdue * 1000), limit=limit)
        ).order_ids
    ]
    unique_ids = tuple(dict.fromkeys(order_ids))
    return report_errors(bus.request, FindOrders(request_id=_request_id(), order_ids=unique_ids)).orders[:limit]


def _timeline(bus: RequestClient, order_id: str, after: int = 0, wait_ms: int = 0) -> Sequence[TimelineEntry]:
    return report_errors(bus.request, AwaitTimeline(**_fields(order_id), after=after, wait_ms=wait_ms)).entries


def _follow_timeline(bus: RequestClient, order_id: str, seconds: float) -> Iterator[TimelineEntry]:
    """Yield the entries of an order's timeline as they come, until order and payment are settled or the time is over."""
    deadline, after = time.monotonic() + seconds, 0
    while True:
        for entry in _timeline(bus, order_id, after, WAIT_MS if after else 0):
            after = entry.sequence
            yield entry
            last = entry
        if _is_settled(last) or time.monotonic() >= deadline:
            return


def _print_orders(orders: Sequence[OrderView], as_json: bool) -> None:
    if as_json:
        print_json(orders)
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
    print_rows("Orders", rows, as_json=False)


def _print_order(order: OrderView) -> None:
    table = Table(show_header=False, box=None)
    # The total is shown as the client wrote it.
    amounts = {"authorized": order.authorized, "captured": order.captured}
    texts = {name: format_money(amount) for name, amount in amounts.items() if amount}
    for name, value in {**msgspec.to_builtins(order), **texts}.items():
        if name != "total":
            table.add_row(f"[dim]{name}[/]", escape(str(value)))
    console().print(table)


def _print_facts(facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for name in (
        "orderStatus",
        "paymentStatus",
        "waitsFor",
        "attempts",
        "nextAttemptAt",
        "allowed",
        "actions",
        "onCancel",
    ):
        value = facts[name]
        text = ", ".join(value) if isinstance(value, list) else str(value)
        table.add_row(f"[dim]{name}[/]", "-" if value in (None, []) else escape(text))
    because = facts["because"]
    table.add_row("[dim]because[/]", f"{because['type']} by {because['actor']} at {because['at']}")
    console().print(table)


def _timeline_line(entry: TimelineEntry) -> str:
    return (
        f"{entry.at[11:23]}  {entry.sequence:>3}  {entry.actor:<9} {entry.type:<16} "
        f"{escape(entry.from_status)} → {escape(entry.to_status)}, payment {entry.payment_status}  [dim]{escape(entry.detail)}[/]"
    )
