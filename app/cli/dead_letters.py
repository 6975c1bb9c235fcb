"""`dead-letters list|replay`: events that could not be delivered."""

from collections.abc import Mapping

import click
from flask.cli import AppGroup

from app.cli.output import as_json, print_result, print_rows, report_errors
from app.messaging.outbox import Outbox


def group(outboxes: Mapping[str, Outbox]) -> click.Group:
    """The commands, for the outbox of each module."""
    commands = AppGroup("dead-letters", help="Events that could not be delivered.")

    @commands.command("list")
    @click.option("--limit", default=100, show_default=True)
    @as_json
    def list_dead_letters(limit: int, as_json: bool) -> None:
        """List them, oldest first."""
        rows = [
            {
                "module": module,
                "orderId": str(doc["_id"]),
                "event": doc["outbox"][0]["type"] if doc["outbox"] else "",
                "at": f"{doc['deadLetter']['at']:%Y-%m-%dT%H:%M:%SZ}",
                "failures": doc["deadLetter"]["failures"],
                "reason": doc["deadLetter"]["reason"],
            }
            for module, outbox in outboxes.items()
            for doc in report_errors(outbox.dead_letters, limit)
        ]
        print_rows("Dead letters", rows, as_json)

    @commands.command("replay")
    @click.argument("order_ids", nargs=-1, required=True)
    @as_json
    def replay(order_ids: tuple[str, ...], as_json: bool) -> None:
        """Deliver them again."""
        for order_id in order_ids:
            modules = [name for name, outbox in outboxes.items() if report_errors(outbox.replay_order, order_id)]
            if not modules:
                raise click.ClickException(f"order {order_id} has no dead letter")
            text = f"{order_id}: due again in {', '.join(modules)}"
            print_result({"orderId": order_id, "replayedIn": modules}, text, as_json)

    return commands
