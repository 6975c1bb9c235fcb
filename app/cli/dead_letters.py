"""`dead-letters list|replay`: events that could not be delivered. Through the bus, to the module that has them."""

from collections.abc import Callable, Iterator
from typing import Any

import click
from flask.cli import AppGroup

from app.cli.output import (
    LIMIT,
    Unreachable,
    age,
    as_json,
    confirm,
    operator_command,
    print_result,
    print_rows,
    report_errors,
    request_id,
)
from app.contracts.base import DeadLetter, DeadLetterList, Request
from app.contracts.orders import ListOrderDeadLetters, ReplayOrderEvents
from app.contracts.payments import ListPaymentDeadLetters, ReplayPaymentEvents
from app.gateway.http.money import format_money
from app.messaging.bus import RequestClient

LISTS: dict[str, Callable[..., Request[DeadLetterList]]] = {
    "orders": ListOrderDeadLetters,
    "payments": ListPaymentDeadLetters,
}
REPLAYS: dict[str, type[ReplayOrderEvents] | type[ReplayPaymentEvents]] = {
    "orders": ReplayOrderEvents,
    "payments": ReplayPaymentEvents,
}
MODULE = click.option("--module", type=click.Choice([*REPLAYS]), help="Only those of this module.")


def group(bus: RequestClient) -> click.Group:
    """The commands."""
    commands = AppGroup("dead-letters", help="Events that could not be delivered.")

    @commands.command("list")
    @click.option("--limit", default=100, show_default=True, type=LIMIT, help="Of each module.")
    @MODULE
    @as_json
    def list_dead_letters(limit: int, module: str | None, as_json: bool) -> None:
        """List them, of each module the oldest first."""
        unreachable: list[Unreachable] = []
        letters = [*_letters(bus, module, limit, unreachable)]
        print_rows("Dead letters", letters, as_json, _row)
        if unreachable:
            # What the other module has was listed first.
            raise unreachable[0]

    @commands.command("replay")
    @click.argument("order_ids", nargs=-1, required=True)
    @MODULE
    @operator_command
    @as_json
    def replay(
        order_ids: tuple[str, ...], module: str | None, operator: str, reason: str, yes: bool, as_json: bool
    ) -> None:
        """Deliver them again."""
        confirm(f"The events of {', '.join(order_ids)} are delivered again", yes)
        members: dict[str, Any] = {"operator": operator, "reason": reason}
        for order_id in order_ids:
            modules = [
                name
                for name, message in REPLAYS.items()
                if module in (None, name)
                and report_errors(bus.request, message(request_id=request_id(), order_id=order_id, **members)).requeued
            ]
            if not modules:
                raise click.ClickException(f"order {order_id} has no dead letter{f' of {module}' if module else ''}")
            text = f"{order_id}: due again in {', '.join(modules)}"
            print_result({"orderId": order_id, "replayedIn": modules}, text, as_json)

    return commands


def _letters(
    bus: RequestClient, module: str | None, limit: int, unreachable: list[Unreachable]
) -> Iterator[DeadLetter]:
    for name, message in LISTS.items():
        if module not in (None, name):
            continue
        try:
            found = report_errors(bus.request, message(request_id=request_id(), limit=limit))
        except Unreachable as exc:
            unreachable.append(exc)
            continue
        yield from found.dead_letters
        if found.more:
            click.echo(f"{name} has more than {limit}: see --limit.", err=True)


def _row(one: DeadLetter) -> dict[str, str]:
    return {
        "module": one.module,
        "order": one.order_id,
        "user": one.user_id,
        "amount": format_money(one.amount),
        "event": one.event,
        "age": age(one.age_seconds),
        "failures": str(one.failures),
        "reason": one.reason,
    }
