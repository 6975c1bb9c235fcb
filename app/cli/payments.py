"""`payments list|retry|resolve|drop-refund`: parked payments. `payments refresh|reconcile`: what the provider's own record says."""

import sys
from datetime import UTC, datetime, timedelta

import click
from flask.cli import AppGroup

from app.cli.output import (
    LIMIT,
    age,
    as_json,
    confirm,
    operator_command,
    print_result,
    print_rows,
    report_errors,
    request_id,
)
from app.contracts.payments import (
    DropRefund,
    ListParkedPayments,
    ParkedPayment,
    ResolvePayment,
    RetryPayment,
    ReviewRequest,
)
from app.gateway.http.money import format_money
from app.messaging.bus import RequestClient
from app.payments import Payments
from app.payments.reconciliation import Difference
from app.payments.review_service import OUTCOMES

SINCE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])


def group(bus: RequestClient, payments: Payments | None) -> click.Group:
    """The commands. Parked payments are known over the bus; the provider's record only where this process runs `payments`."""
    commands = AppGroup("payments", help="Parked payments, and what the provider's own record says.")
    _add_lists(commands, bus)
    _add_manual_review(commands, bus, payments)
    if payments:
        _add_comparisons(commands, payments)
    return commands


def _add_lists(commands: click.Group, bus: RequestClient) -> None:
    @commands.command("list")
    @click.option("--limit", default=100, show_default=True, type=LIMIT)
    @as_json
    def list_parked(limit: int, as_json: bool) -> None:
        """List parked payments, by order id."""
        found = report_errors(bus.request, ListParkedPayments(request_id=request_id(), limit=limit))
        print_rows("Parked payments", found.payments, as_json, _parked_row)
        if found.more:
            click.echo(f"There are more than {limit}: see --limit.", err=True)


def _add_manual_review(commands: click.Group, bus: RequestClient, payments: Payments | None) -> None:
    def review(message: type[ReviewRequest], order_id: str, as_json: bool, **members: str) -> None:
        reviewed = report_errors(bus.request, message(request_id=request_id(), order_id=order_id, **members))
        if payments:
            # Otherwise the order shows it only when a sweep of the server finds it.
            payments.relay.deliver_enqueued()
        status = reviewed.payment_status
        print_result({"orderId": order_id, "paymentStatus": status}, f"{order_id} is now {status}", as_json)

    @commands.command("retry")
    @click.argument("order_ids", nargs=-1, required=True)
    @operator_command
    @as_json
    def retry(order_ids: tuple[str, ...], operator: str, reason: str, yes: bool, as_json: bool) -> None:
        """Call the provider again: with the same key, or with a new one for the refund that follows one that has failed."""
        confirm(f"The provider is called again for {', '.join(order_ids)}", yes)
        for order_id in order_ids:
            review(RetryPayment, order_id, as_json, operator=operator, reason=reason)

    @commands.command("resolve")
    @click.argument("order_id")
    @click.argument("outcome", type=click.Choice([code.value for code in OUTCOMES]))
    @click.option(
        "--reference",
        default="",
        help="The provider's id of the payment, or of the refund; a refund without it was given back by other means.",
    )
    @operator_command
    @as_json
    def resolve(
        order_id: str, outcome: str, reference: str, operator: str, reason: str, yes: bool, as_json: bool
    ) -> None:
        """Record what you found at the provider as the outcome of a payment, or correct what was recorded before.

        Where you give money back by other means, record it first, and pay only if it is accepted.
        """
        confirm(f"{order_id} is recorded as {outcome} by {operator}", yes)
        members = {"outcome": outcome, "reference": reference, "operator": operator, "reason": reason}
        review(ResolvePayment, order_id, as_json, **members)

    @commands.command("drop-refund")
    @click.argument("order_id")
    @click.argument("refund_id")
    @operator_command
    @as_json
    def drop_refund(order_id: str, refund_id: str, operator: str, reason: str, yes: bool, as_json: bool) -> None:
        """Give up a refund that the provider refuses for good; its amount can be refunded again."""
        confirm(f"Refund {refund_id} of {order_id} is given up by {operator}", yes)
        review(DropRefund, order_id, as_json, refund_id=refund_id, operator=operator, reason=reason)


def _parked_row(one: ParkedPayment) -> dict[str, str]:
    return {
        "order": one.order_id,
        "user": one.user_id,
        "amount": format_money(one.amount),
        "age": age(one.age_seconds),
        "pending": f"{one.pending_call} {one.refund_id}".strip(),
        "attempts": str(one.attempts),
        "last answer": one.last_answer,
        "reason": one.reason,
        "key": one.provider_key,
        "reference": one.provider_reference,
        "call ends": one.call_ends,
    }


def _difference_row(one: Difference) -> dict[str, str]:
    names = {"kind": "kind", "order_id": "order", "reference": "reference", "detail": "detail", "mend": "what mends it"}
    return {title: getattr(one, name) for name, title in names.items()}


def _add_comparisons(commands: click.Group, payments: Payments) -> None:
    @commands.command("refresh")
    @click.argument("order_ids", nargs=-1, required=True)
    @as_json
    def refresh(order_ids: tuple[str, ...], as_json: bool) -> None:
        """Have the running server read the provider's record of a payment, and apply what differs."""
        for order_id in order_ids:
            if not report_errors(payments.notifications.refresh, order_id, request_id()):
                raise click.ClickException(f"there is no payment for order {order_id}")
            print_result({"orderId": order_id, "refresh": "requested"}, f"{order_id}: a refresh is requested", as_json)

    @commands.command("reconcile")
    @click.option("--since", type=SINCE, help="In UTC; 24 hours ago if it is left out.")
    @as_json
    def reconcile(since: datetime | None, as_json: bool) -> None:
        """Compare the provider's own list with the payments; exit code 1 if anything differs."""
        start = since.replace(tzinfo=UTC) if since else datetime.now(UTC) - timedelta(days=1)
        found = report_errors(lambda: list(payments.reconciliation.differences(start)))
        print_rows(f"Differences since {start:%Y-%m-%dT%H:%M:%SZ}", found, as_json, _difference_row)
        if found:
            sys.exit(1)
