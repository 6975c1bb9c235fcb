"""`payments list|retry|resolve|drop-refund`: parked payments. `payments refresh|reconcile`: what the provider's own record says."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click
from flask.cli import AppGroup

from app.cli.output import as_json, print_result, print_rows, report_errors
from app.payments import Payments
from app.payments.manual_review import ManualReview
from app.payments.provider_port import ResponseCode

TIME = "%Y-%m-%dT%H:%M:%SZ"
RESOLUTIONS = (ResponseCode.CAPTURED, ResponseCode.DECLINED, ResponseCode.VOIDED, ResponseCode.REFUNDED)


SINCE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])


def group(payments: Payments) -> click.Group:
    """The commands, which call the module."""
    commands = AppGroup("payments", help="Parked payments, and what the provider's own record says.")
    _add_manual_review(commands, payments.manual_review)
    _add_comparisons(commands, payments)
    return commands


def _add_manual_review(commands: click.Group, manual_review: ManualReview) -> None:

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
                "refundId": held.payment.open_refund.refund_id if held.payment.open_refund else "",
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


def _add_comparisons(commands: click.Group, payments: Payments) -> None:
    @commands.command("refresh")
    @click.argument("order_ids", nargs=-1, required=True)
    @as_json
    def refresh(order_ids: tuple[str, ...], as_json: bool) -> None:
        """Have the running server read the provider's record of a payment, and apply what differs."""
        for order_id in order_ids:
            if not report_errors(payments.notifications.refresh, order_id):
                raise click.ClickException(f"there is no payment for order {order_id}")
            print_result({"orderId": order_id, "refresh": "requested"}, f"{order_id}: a refresh is requested", as_json)

    @commands.command("reconcile")
    @click.option("--since", type=SINCE, help="In UTC; 24 hours ago if it is left out.")
    @as_json
    def reconcile(since: datetime | None, as_json: bool) -> None:
        """Compare the provider's own list with the payments; exit code 1 if anything differs."""
        start = since.replace(tzinfo=UTC) if since else datetime.now(UTC) - timedelta(days=1)
        rows = [asdict(one) for one in report_errors(lambda: list(payments.reconciliation.differences(start)))]
        print_rows(f"Differences since {start:%Y-%m-%dT%H:%M:%SZ}", rows, as_json)
        if rows:
            sys.exit(1)


def _print_status(order_id: str, status: str, as_json: bool) -> None:
    print_result({"orderId": order_id, "paymentStatus": status}, f"{order_id} is now {status}", as_json)
