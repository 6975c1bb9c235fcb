"""`users erase|erasures`: erases a user's personal data, and lists what was erased. Through the bus, to orders."""

from typing import Any

import click
from flask.cli import AppGroup

from app.cli.output import LIMIT, as_json, confirm, login_name, print_json, print_rows, report_errors, request_id
from app.contracts.orders import EraseOrders, ErasureRecord, ListErasureRecords
from app.messaging.bus import RequestClient


def group(bus: RequestClient) -> click.Group:
    """The commands."""
    commands = AppGroup("users", help="The personal data of users.")

    @commands.command("erase")
    @click.argument("user_id")
    @click.option(
        "--operator", default=login_name, show_default="login name", help="Who does this; the record shows it."
    )
    @click.option("--yes", is_flag=True, help="Do not ask for confirmation: for scripts.")
    @as_json
    def erase(user_id: str, operator: str, yes: bool, as_json: bool) -> None:
        """Erase a user's personal data: the orders stay, under a pseudonym. It cannot be undone.

        This records it; a server that runs orders does it, now or once it starts.
        """
        confirm(f"Everything that identifies {user_id} is erased for good", yes)
        request = EraseOrders(request_id=request_id(), user_id=user_id, requested_by=operator)
        record = report_errors(bus.request, request)
        if as_json:
            print_json(record)
        else:
            click.echo(f"erasure {record.id} is recorded; `users erasures` shows when it is complete")

    @commands.command("erasures")
    @click.option("--limit", default=20, show_default=True, type=LIMIT)
    @as_json
    def erasures(limit: int, as_json: bool) -> None:
        """List erasures, the newest first. None has the id of its user."""
        found = report_errors(bus.request, ListErasureRecords(request_id=request_id(), limit=limit))
        print_rows("Erasures", found.erasures, as_json, _row)

    return commands


def _row(record: ErasureRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "requested": record.requested_at,
        "by": record.requested_by or "-",
        "complete": record.completed_at or "not yet",
        "orders": record.orders if record.completed_at else "-",
        "pseudonym": record.pseudonym,
    }
