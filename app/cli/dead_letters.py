"""`dead-letters list|replay`: events that nobody could take."""

from collections.abc import Mapping

import click
from flask.cli import AppGroup

from app.cli.output import as_json, asking, table, tell
from app.messaging.outbox import Outbox


def group(outboxes: Mapping[str, Outbox]) -> click.Group:
    """The commands, for the outbox of each module."""
    commands = AppGroup("dead-letters", help="Events that could not be delivered.")

    @commands.command("list")
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
            for doc in asking(outbox.dead_letters, limit)
        ]
        table("Dead letters", rows, as_json)

    @commands.command("replay")
    @click.argument("order_ids", nargs=-1, required=True)
    @as_json
    def replay(order_ids: tuple[str, ...], as_json: bool) -> None:
        """Have them delivered again."""
        for order_id in order_ids:
            found = [name for name, outbox in outboxes.items() if asking(outbox.replay_order, order_id)]
            if not found:
                raise click.ClickException(f"order {order_id} has no dead letter")
            if as_json:
                tell({"orderId": order_id, "dueAgainIn": found})
            else:
                click.echo(f"{order_id}: due again in {', '.join(found)}")

    return commands
