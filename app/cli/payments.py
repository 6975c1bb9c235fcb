"""`payments list|retry|resolve|drop-refund`: parked payments, which wait for an operator."""

import click
from flask.cli import AppGroup

from app.cli.output import as_json, print_result, print_rows, report_errors
from app.payments.manual_review import ManualReview
from app.payments.payment import ResponseCode

TIME = "%Y-%m-%dT%H:%M:%SZ"
RESOLUTIONS = (ResponseCode.CAPTURED, ResponseCode.DECLINED, ResponseCode.VOIDED, ResponseCode.REFUNDED)


def group(manual_review: ManualReview) -> click.Group:
    """The commands, which call `manual_review`."""
    commands = AppGroup("payments", help="Parked payments, which wait for an operator.")

    @commands.command("list")
    @click.option("--limit", default=100, show_default=True)
    @as_json
    def list_parked(limit: int, as_json: bool) -> None:
        """List parked payments."""
        rows = [
            {
                "orderId": held.payment.order_id,
                "since": f"{held.payment.requested_at:{TIME}}",
                "reason": held.payment.parked_reason,
                "refundId": held.payment.pending_refund.refund_id if held.payment.pending_refund else "",
                "callEnds": f"{ends:{TIME}}" if (ends := manual_review.call_ends(held)) else "",
            }
            for held in report_errors(manual_review.list_parked, limit)
        ]
        print_rows("Parked payments", rows, as_json)

    @commands.command("retry")
    @click.argument("order_ids", nargs=-1, required=True)
    @as_json
    def retry(order_ids: tuple[str, ...], as_json: bool) -> None:
        """Call the provider again, with the same key."""
        for order_id in order_ids:
            _print_status(order_id, report_errors(manual_review.retry, order_id), as_json)

    @commands.command("resolve")
    @click.argument("order_id")
    @click.argument("outcome", type=click.Choice([code.value for code in RESOLUTIONS]))
    @click.option("--reference", default="", help="The provider's reference.")
    @click.option("--reason", required=True, help="Who found this out, and how; it is recorded.")
    @click.option("--yes", is_flag=True, help="Do not ask for confirmation: for scripts.")
    @as_json
    def resolve(order_id: str, outcome: str, reference: str, reason: str, yes: bool, as_json: bool) -> None:
        """Record what you found at the provider as the outcome of a payment."""
        if not yes:
            # On standard error, so that standard output has the result only.
            click.confirm(f"{order_id} is recorded as {outcome} for good. Continue?", abort=True, err=True)
        status = report_errors(manual_review.resolve, order_id, ResponseCode(outcome), reference, reason)
        _print_status(order_id, status, as_json)

    @commands.command("drop-refund")
    @click.argument("order_id")
    @click.argument("refund_id")
    @click.option("--reason", required=True, help="Why it cannot be made; the order's timeline shows it.")
    @as_json
    def drop_refund(order_id: str, refund_id: str, reason: str, as_json: bool) -> None:
        """Give up a refund that the provider refuses for good; its amount can be refunded again."""
        status = report_errors(manual_review.drop_refund, order_id, refund_id, reason)
        _print_status(order_id, status, as_json)

    return commands


def _print_status(order_id: str, status: str, as_json: bool) -> None:
    print_result({"orderId": order_id, "paymentStatus": status}, f"{order_id} is now {status}", as_json)
