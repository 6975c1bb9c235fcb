"""`payments list|retry|resolve|drop-refund`: what nobody could settle in time."""

import click
from flask.cli import AppGroup

from app.cli.output import as_json, asking, table, tell
from app.payments.manual_review import ManualReview
from app.payments.payment import ResponseCode

RESOLUTIONS = (ResponseCode.CAPTURED, ResponseCode.DECLINED, ResponseCode.VOIDED, ResponseCode.REFUNDED)


def group(desk: ManualReview) -> click.Group:
    """The commands, which work at `desk`."""
    commands = AppGroup("payments", help="Payments that nobody could settle in time.")

    @commands.command("list")
    @click.option("--limit", default=100, show_default=True)
    @as_json
    def listed(limit: int, as_json: bool) -> None:
        """List payments that wait for an operator."""
        rows = [
            {
                "orderId": held.payment.order_id,
                "since": f"{held.first_at:%Y-%m-%dT%H:%M:%SZ}",
                "why": held.payment.parked,
                "refundId": held.payment.pending_refund.refund_id if held.payment.pending_refund else "",
            }
            for held in asking(desk.parked, limit)
        ]
        table("Parked payments", rows, as_json)

    @commands.command("retry")
    @click.argument("order_ids", nargs=-1, required=True)
    @as_json
    def retry(order_ids: tuple[str, ...], as_json: bool) -> None:
        """Ask the provider again, with the same key."""
        for order_id in order_ids:
            _tell(order_id, asking(desk.retry, order_id), as_json)

    @commands.command("resolve")
    @click.argument("order_id")
    @click.argument("answer", type=click.Choice([answer.value for answer in RESOLUTIONS]))
    @click.option("--reference", default="", help="The provider's reference.")
    @click.option("--reason", required=True, help="Who found this out, and how; it goes on record.")
    @click.option("--yes", is_flag=True, help="Do not ask first: for scripts.")
    @as_json
    def resolve(order_id: str, answer: str, reference: str, reason: str, yes: bool, as_json: bool) -> None:
        """Settle a payment as you found it at the provider."""
        if not yes:
            # On standard error, which leaves standard output to the answer.
            click.confirm(f"{order_id} goes on record as {answer} for good. Is it so?", abort=True, err=True)
        _tell(order_id, asking(desk.resolve, order_id, ResponseCode(answer), reference, reason), as_json)

    @commands.command("drop-refund")
    @click.argument("order_id")
    @click.argument("refund_id")
    @click.option("--reason", required=True, help="Why it cannot be made; the order's timeline shows it.")
    @as_json
    def drop_refund(order_id: str, refund_id: str, reason: str, as_json: bool) -> None:
        """Give up a refund that the provider refuses for good; its amount can be refunded again."""
        _tell(order_id, asking(desk.drop_refund, order_id, refund_id, reason), as_json)

    return commands


def _tell(order_id: str, status: str, as_json: bool) -> None:
    if as_json:
        tell({"orderId": order_id, "paymentStatus": status})
    else:
        click.echo(f"{order_id} is now {status}")
