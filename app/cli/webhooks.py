"""`webhooks endpoints|deliveries|retry|replay|event-types|listen`: through the bus, so on the database, whether a server runs or not.

There is no token: an operator who may open the database sees the endpoints of all users.
"""

from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from flask.cli import AppGroup

from app.cli import webhook_endpoints
from app.cli.output import (
    LIMIT,
    MAX_NAME,
    TIME,
    VisibleText,
    as_json,
    confirm,
    print_json,
    print_result,
    print_rows,
    report_errors,
    request_id,
)
from app.cli.webhook_endpoints import USER, YES, print_members
from app.cli.webhook_listener import listen
from app.contracts.base import milliseconds, rfc3339
from app.contracts.webhooks import (
    AttemptView,
    DeliveryStatus,
    DeliveryView,
    FindDelivery,
    ListDeliveries,
    ListEventTypes,
    ReplayDeliveries,
    RetryDelivery,
)
from app.messaging.bus import RequestClient


def group(bus: RequestClient) -> click.Group:
    """The commands. They send requests to `bus`."""
    commands = AppGroup("webhooks", help="Webhooks: who is told what becomes of orders, and what was delivered.")
    commands.add_command(webhook_endpoints.group(bus))
    commands.add_command(_deliveries(bus))
    _add_retry_and_replay(commands, bus)

    @commands.command("event-types")
    @as_json
    def event_types(as_json: bool) -> None:
        """List the types of events; with --json each has a body as an example."""
        types = report_errors(bus.request, ListEventTypes(request_id=request_id())).types
        print_rows("Event types", types, as_json, lambda one: {"type": one.name, "told when": one.description})

    @commands.command("listen")
    @click.option("--port", default=0, type=click.IntRange(0, 65535), help="Where to listen; a free port without it.")
    @USER
    @click.option(
        "--forward-to", default="", help="An address that gets each delivery as well, and whose answer is passed on."
    )
    @as_json
    def listen_command(port: int, user: str, forward_to: str, as_json: bool) -> None:
        """Receive webhooks on this machine, verify and print them, until it is interrupted.

        Adds an endpoint for itself, and deletes it in the end. With --json each line is the body of a delivery.
        """
        listen(bus, port, user, forward_to, as_json)

    return commands


def _deliveries(bus: RequestClient) -> click.Group:
    commands = AppGroup("deliveries", help="What was sent to endpoints.")

    @commands.command("list")
    @click.argument("endpoint_id")
    @click.option(
        "--status",
        default="",
        type=click.Choice(["", *(status.value for status in DeliveryStatus)]),
        help="Only those with this status.",
    )
    @click.option("--order", "order_id", default="", type=VisibleText(MAX_NAME), help="Only those about this order.")
    @click.option("--since", default=0, type=TIME, help="Only those that were recorded at this time or later.")
    @click.option("--until", default=0, type=TIME, help="Only those that were recorded before this time.")
    @click.option("--limit", default=20, show_default=True, type=LIMIT)
    @as_json
    def list_deliveries(endpoint_id: str, as_json: bool, **filters: Any) -> None:
        """List the deliveries of an endpoint, newest first."""
        message = ListDeliveries(**_origin(), endpoint_id=endpoint_id, before_at="", before_id="", **filters)
        found = report_errors(bus.request, message)
        print_rows("Deliveries", found.deliveries, as_json, _delivery_row)
        if found.last_id:
            click.echo(f"there are more than {filters['limit']}: see --limit and --until.", err=True)

    @commands.command("show")
    @click.argument("delivery_id")
    @as_json
    def show(delivery_id: str, as_json: bool) -> None:
        """Show one delivery: its body, and each attempt."""
        found = report_errors(bus.request, FindDelivery(**_origin(), delivery_id=delivery_id))
        if as_json:
            print_json(found)
            return
        print_members(msgspec.structs.replace(found, attempts=()), as_json)
        print_rows("Attempts", found.attempts, as_json, _attempt_row)

    return commands


def _add_retry_and_replay(commands: click.Group, bus: RequestClient) -> None:
    @commands.command("retry")
    @click.argument("delivery_ids", nargs=-1, required=True)
    @as_json
    def retry(delivery_ids: tuple[str, ...], as_json: bool) -> None:
        """Send deliveries again at once."""
        for delivery_id in delivery_ids:
            due = report_errors(bus.request, RetryDelivery(**_origin(), delivery_id=delivery_id))
            print_result(msgspec.to_builtins(due), f"{delivery_id} is {due.status}", as_json)

    @commands.command("replay")
    @click.argument("endpoint_id")
    @click.option("--since", required=True, type=TIME, help="The time from which on deliveries are sent again.")
    @click.option("--until", type=TIME, help="The time until which they are; now without it.")
    @YES
    @as_json
    def replay(endpoint_id: str, since: int, until: int | None, yes: bool, as_json: bool) -> None:
        """Send again what an endpoint has not taken of a time."""
        ends = _now() if until is None else until
        if ends <= since:
            raise click.UsageError("--until must be later than --since")
        confirm(f"What {endpoint_id} has not taken between {_text_of(since)} and {_text_of(ends)} is sent again", yes)
        message = ReplayDeliveries(**_origin(), endpoint_id=endpoint_id, since=since, until=ends)
        count = report_errors(bus.request, message).count
        print_result({"endpointId": endpoint_id, "count": count}, f"{count} are sent again", as_json)


def _origin() -> dict[str, Any]:
    return {"request_id": request_id(), "on_behalf_of": ""}


def _now() -> int:
    return milliseconds(datetime.now(UTC))


def _text_of(at: int) -> str:
    return rfc3339(datetime.fromtimestamp(at / 1000, UTC))


def _delivery_row(delivery: DeliveryView) -> dict[str, str]:
    last = _attempt_row(delivery.attempts[-1]) if delivery.attempts else {"result": "-"}
    return {
        "id": delivery.id,
        "created": f"{delivery.created_at[:19]}Z",
        "type": delivery.type,
        "order": delivery.order_id or "-",
        "status": delivery.status,
        "tries": str(delivery.tries),
        "last result": last["result"],
        "next attempt": delivery.next_attempt_at or "-",
    }


def _attempt_row(attempt: AttemptView) -> dict[str, str]:
    return {
        "at": attempt.at,
        "took": f"{attempt.took_ms} ms",
        "result": str(attempt.status or attempt.error),
        "answer": attempt.response,
    }
