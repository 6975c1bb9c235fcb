"""`orders list|export|show|watch|explain|capture|refund`: through the bus, so on the database, whether a server runs or not.

There is no token: an operator who may open the database sees the orders of all users.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
import msgspec
from flask.cli import AppGroup
from rich.markup import escape
from rich.table import Table

from app.cli import latency
from app.cli.output import (
    LIMIT,
    REASON,
    SECONDS,
    TIME,
    as_json,
    console,
    print_json,
    print_result,
    print_rows,
    report_errors,
    request_id,
)
from app.contracts.base import STUCK_SECONDS, Money
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
    RefundOrder,
    RefundView,
    TimelineEntry,
)
from app.contracts.payments import ExplainPayment, ListAttempts, ListStuckPayments, PaymentStatus
from app.gateway.http.idempotency import refund_id_of
from app.gateway.http.money import MoneyError, format_money, parse_money
from app.gateway.http.pages import PAGE_SIZE
from app.gateway.http.query import InvalidParameter
from app.gateway.routes.explain import explanation
from app.gateway.routes.export import FORMATS, export_lines, pages_after
from app.gateway.routes.lists import OrderFilter, Page, Place, check_status, read_page
from app.messaging.bus import RequestClient
from app.messaging.live_feed import LiveFeed


class PairText(click.ParamType[tuple[str, str]]):
    """A pair of metadata, `KEY=VALUE`."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The key and the value; fails without a key or an equals sign."""
        key, equals, text = str(value).partition("=")
        if not (key and equals):
            self.fail("write KEY=VALUE", param, ctx)
        return key, text


PAIR = PairText()
AMOUNTS = ("authorized", "captured", "refunded", "pending", "refundable", "blocked", "uncertain")
Command = TypeVar("Command", bound=Callable[..., Any])
PAYMENT_STATUS = click.Choice(["", *(status.value for status in PaymentStatus)])
MAX_PAGES = 20
OPEN_PAYMENT = frozenset({"Processing", "Refunding"})
# How long one request waits for new timeline entries.
WAIT_MS = 1000


def group(bus: RequestClient, feed: LiveFeed) -> click.Group:
    """The commands. They send requests to `bus`, and read an order's stages from `feed`."""
    commands = AppGroup("orders", help="Orders, their state and their history.")

    _add_list(commands, bus)
    _add_export(commands, bus)

    @commands.command("show")
    @click.argument("order_id")
    @as_json
    def show(order_id: str, as_json: bool) -> None:
        """Show one order, its changes with the requests that caused them, and its latency as a waterfall."""
        order = report_errors(bus.request, FindOrder(**_fields(order_id)))
        entries, stages = _timeline(bus, order_id), report_errors(feed.stages_of_order, order_id)
        attempts = report_errors(bus.request, ListAttempts(**_fields(order_id))).attempts
        if as_json:
            attempt_fields = [msgspec.structs.asdict(attempt) for attempt in attempts]
            print_json({"order": order, "events": entries, "stages": stages, "attempts": attempt_fields})
            return
        _print_order(order)
        _print_changes(entries)
        latency.draw([*latency.timeline_bars(entries), *latency.stage_bars(stages), *latency.attempt_bars(attempts)])

    @commands.command("watch")
    @click.argument("order_id")
    @click.option("--seconds", default=60.0, show_default=True, type=SECONDS, help="How long to watch at most.")
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
    _add_refund(commands, bus)
    return commands


def _filter_options(command: Command) -> Command:
    """Add the options that select orders; their values are fields of ListOrders."""
    options = (
        click.option("--status", "order_status", default="", callback=_status, help="Only orders with this status."),
        click.option(
            "--payment-status", default="", type=PAYMENT_STATUS, help="Only orders whose payment has this status."
        ),
        click.option("--refund-failed", is_flag=True, help="Only orders of which a refund has failed."),
        click.option(
            "--metadata",
            multiple=True,
            type=PAIR,
            callback=_pairs,
            help="KEY=VALUE: only orders with this pair of metadata; can be repeated.",
        ),
        click.option("--created-from", default=0, type=TIME, help="Only orders created at this time or later."),
        click.option("--created-to", default=0, type=TIME, help="Only orders created before this time."),
        click.option("--oldest-first", is_flag=True, help="Begin with the oldest order instead of the newest."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _add_list(commands: click.Group, bus: RequestClient) -> None:
    @commands.command("list")
    @click.option("--user", default="", help="Only orders of this user.")
    @_filter_options
    @click.option("--stuck", is_flag=True, help="Only orders that wait for an operator or are overdue.")
    @click.option(
        "--overdue", default=float(STUCK_SECONDS), show_default=True, help="With --stuck: seconds that work may take."
    )
    @click.option("--limit", default=20, show_default=True, type=LIMIT)
    @as_json
    def list_orders(user: str, stuck: bool, overdue: float, limit: int, as_json: bool, **selected: Any) -> None:
        """List orders, newest first."""
        if stuck:
            _check_not_combined(selected)
            statuses = selected["order_status"], selected["payment_status"]
            found = _stuck_of(user, *statuses, _list_stuck(bus, overdue, limit))
        else:
            found = _list_by_user(bus, user, selected, limit) if user else _list_all(bus, selected, limit)
        print_rows("Orders", found, as_json, _order_row)


def _add_export(commands: click.Group, bus: RequestClient) -> None:
    @commands.command("export")
    @click.option("--user", default="", help="Only orders of this user.")
    @_filter_options
    @click.option("--format", "name", default="ndjson", show_default=True, type=click.Choice([*FORMATS]))
    @click.option("--after", default="", help="Go on after the order with this id, the last one that was written.")
    def export(user: str, name: str, after: str, **selected: Any) -> None:
        """Write all orders, one a line, newest first."""

        def read(place: Place) -> Page:
            return report_errors(read_page, bus, request_id(), user, OrderFilter(**selected), place, PAGE_SIZE)

        last = report_errors(bus.request, FindOrder(**_fields(after))) if after else None
        place = (last.created_at, last.id) if last else ("", "")
        for lines in export_lines(pages_after(read, read(place)), FORMATS[name], with_header=not after):
            click.echo(lines, nl=False)


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


def _add_refund(commands: click.Group, bus: RequestClient) -> None:

    @commands.command("refund")
    @click.argument("order_id")
    @click.option(
        "--amount", default="", help='What to give back, such as "RM 10"; all that is left if it is not given.'
    )
    @click.option("--reason", default="", type=REASON, help="Why; clients see it with the refund.")
    @click.option("--key", default="", help="Names the refund: with the same key it is made once.")
    @as_json
    def refund(order_id: str, amount: str, reason: str, key: str, as_json: bool) -> None:
        """Refund an order, in part or in full."""
        part = _parse_amount(amount) if amount else Money(0, "")
        request = RefundOrder(
            **_fields(order_id),
            expected_versions=(),
            refund_id=refund_id_of(order_id, key),
            refund_value=part.value,
            currency=part.currency,
            reason=reason,
        )
        made = report_errors(bus.request, request)
        text = format_money(Money(made.refund_value, made.currency))
        result = {"orderId": order_id, "refundId": made.refund_id, "amount": text, "replayed": made.replayed}
        again = " already" if made.replayed else ""
        print_result(result, f"{order_id}: the refund {made.refund_id} of {text} is{again} on record", as_json)


def _parse_amount(text: str) -> Money:
    try:
        return parse_money(text)
    except MoneyError as exc:
        raise click.BadParameter(str(exc), param_hint="--amount") from None


def _fields(order_id: str) -> dict[str, Any]:
    """The fields of a request about one order, for all users."""
    return {"request_id": request_id(), "order_id": order_id, "on_behalf_of": ""}


def _status(_context: click.Context, _parameter: click.Parameter, status: str) -> str:
    try:
        return check_status(status)
    except InvalidParameter as exc:
        raise click.BadParameter(exc.detail) from None


def _pairs(
    _context: click.Context, _parameter: click.Parameter, pairs: tuple[tuple[str, str], ...]
) -> dict[str, str] | None:
    return dict(pairs) or None


def _check_not_combined(selected: dict[str, Any]) -> None:
    for name in ("refund_failed", "metadata", "created_from", "created_to", "oldest_first"):
        if selected[name]:
            raise click.UsageError(f"--stuck cannot be combined with --{name.replace('_', '-')}")


def _is_settled(entry: TimelineEntry) -> bool:
    return entry.to_status != "Processing" and entry.payment_status not in OPEN_PAYMENT


def _stuck_of(user: str, status: str, payment_status: str, stuck: Sequence[OrderView]) -> Sequence[OrderView]:
    """Those of one user and of these statuses; empty for any."""
    return [
        order
        for order in stuck
        if user in ("", order.user_id)
        and status in ("", order.order_status)
        and payment_status in ("", order.payment_status)
    ]


def _list_by_user(bus: RequestClient, user: str, selected: dict[str, Any], limit: int) -> Sequence[OrderView]:
    filters = {"user_id": user, "before_at": "", "before_id": "", **selected}
    return report_errors(bus.request, ListOrders(request_id=request_id(), limit=limit, **filters)).orders


def _list_all(bus: RequestClient, selected: dict[str, Any], limit: int) -> Sequence[OrderView]:
    orders: list[OrderView] = []
    place: dict[str, Any] = {"before_at": "", "before_id": ""}
    for _ in range(MAX_PAGES):
        request = ListAllOrders(request_id=request_id(), limit=limit - len(orders), **place, **selected)
        page = report_errors(bus.request, request)
        orders += page.orders
        place = {"before_at": page.last_at, "before_id": page.last_id}
        if len(orders) >= limit or not page.last_id:
            break
    return orders


def _list_stuck(bus: RequestClient, overdue: float, limit: int) -> Sequence[OrderView]:
    """Orders that are overdue, have a parked payment, or are blocked by a dead letter."""
    order_ids = [
        order_id
        for request in (ListStuckOrders, ListStuckPayments)
        for dead in (True, False)
        for order_id in report_errors(
            bus.request, request(request_id=request_id(), dead=dead, overdue_ms=int(overdue * 1000), limit=limit)
        ).order_ids
    ]
    unique_ids = tuple(dict.fromkeys(order_ids))
    return report_errors(bus.request, FindOrders(request_id=request_id(), order_ids=unique_ids)).orders[:limit]


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


def _order_row(order: OrderView) -> dict[str, str]:
    return {
        "id": order.id,
        "created": f"{order.created_at[:19]}Z",
        "user": order.user_id,
        "total": order.total_order_amount,
        "captured": "unknown" if order.uncertain else _amount_text(order.captured),
        "refunded": _amount_text(order.refunded),
        "order": order.order_status,
        "payment": order.payment_status,
    }


def _print_order(order: OrderView) -> None:
    table = Table(show_header=False, box=None)
    # The total is shown as the client wrote it.
    texts = {name: format_money(getattr(order, name)) for name in AMOUNTS if getattr(order, name)}
    refunds = "\n".join(map(_refund_text, order.refunds or ())) or "-"
    if order.items:
        texts["items"] = "\n".join(
            f"{item.quantity} × {item.product_name} ({item.product_id}), each {format_money(item.unit_amount)}"
            for item in order.items
        )
    if order.metadata:
        texts["metadata"] = "\n".join(f"{key}={value}" for key, value in order.metadata.items())
    for name, value in {**msgspec.to_builtins(order), **texts, "refunds": refunds}.items():
        if name != "total":
            table.add_row(f"[dim]{name}[/]", escape(str(value)))
    console().print(table)


def _print_changes(entries: Sequence[TimelineEntry]) -> None:
    output = console()
    output.print("Changes, with their requests")
    for entry in entries:
        output.print(f"{_timeline_line(entry)}  {escape(entry.request_id)}".rstrip())
    refused = "the log's lines `request` have those that were refused, with their status: grep the order id"
    output.print(f"[dim]Requests that changed nothing are not on record; {refused}.[/]")


def _amount_text(amount: Money) -> str:
    return format_money(amount) if amount.value else "-"


def _refund_text(refund: RefundView) -> str:
    notes = [f"({refund.reason})" if refund.reason else "", f"because {refund.failure}" if refund.failure else ""]
    words = [refund.id, "of", format_money(refund.amount), "at", refund.at, refund.status, *notes]
    return " ".join(word for word in words if word)


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
    amount = format_money(entry.amount) if entry.amount else ""
    detail = ", ".join(word for word in (amount, entry.detail) if word)
    return (
        f"{entry.at}  {entry.sequence:>3}  {entry.actor:<9} {entry.type:<16} "
        f"{escape(entry.from_status)} → {escape(entry.to_status)}, payment {entry.payment_status}  [dim]{escape(detail)}[/]"
    )
