"""`doctor`: checks every invariant on the live database.

Exit codes: 0 healthy; 1 an invariant is violated; 2 parked payments or dead letters wait for an operator; 3 the database cannot be
read; 64 wrong usage, which is 2 for other commands.
"""

import re
import sys
from collections.abc import Callable
from itertools import groupby
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from app.cli.output import SECONDS, as_json, console, print_json, print_table, report_errors
from app.contracts.base import STUCK_SECONDS
from app.doctor import Doctor, DoctorReport, DoctorState, Finding

ORDER_ID = re.compile(r"[0-9a-f]{24}")
EXIT_CODES = {DoctorState.HEALTHY: 0, DoctorState.BROKEN: 1, DoctorState.NEEDS_OPERATOR: 2}
WRONG_USAGE = 64
# How many findings of one check are printed; JSON has all of them.
SHOWN = 20


def command(make_doctor: Callable[[float], Doctor]) -> click.Command:
    """The command; `make_doctor` takes the grace period in seconds."""

    @click.command("doctor", cls=DoctorCommand)
    @click.option(
        "--grace",
        default=float(STUCK_SECONDS),
        show_default=True,
        type=SECONDS,
        help="Seconds that work may take before it is stuck.",
    )
    @click.option(
        "--pause", default=2.0, show_default=True, type=SECONDS, help="Seconds before a violation is checked again."
    )
    @click.option(
        "--acknowledged",
        type=click.File(),
        callback=_order_ids,
        help="A file of order ids, one per line, that must be stored.",
    )
    @as_json
    def doctor(grace: float, pause: float, acknowledged: list[str], as_json: bool) -> None:
        """Check every invariant on the live database and the provider's ledger.

        Exit code 0: healthy. 1: an invariant is violated. 2: parked payments or dead letters wait for an operator. 3: the database
        cannot be read. 64: wrong usage.
        """
        with Console(stderr=True).status("examining every order"):
            report = report_errors(make_doctor(grace).examine, acknowledged, pause)
        _print_report(report, as_json)
        sys.exit(EXIT_CODES[report.state])

    return doctor


class DoctorCommand(click.Command):
    """A command whose exit code for wrong usage is none of its results."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as exc:
            exc.show()
            raise click.exceptions.Exit(WRONG_USAGE) from exc


def _order_ids(_context: click.Context, _parameter: click.Parameter, lines: Any) -> list[str]:
    if lines is None:
        return []
    with lines:
        order_ids = [line.strip() for line in lines if line.strip()]
    invalid = next((order_id for order_id in order_ids if not ORDER_ID.fullmatch(order_id)), None)
    if invalid is not None:
        raise click.BadParameter(f"{invalid!r} is not an order id")
    return order_ids


def _print_report(report: DoctorReport, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "orders": report.orders,
                "violations": [_members(one) for one in report.violations],
                "needs_operator": [_members(one) for one in report.needs_operator],
                "disabled_endpoints": report.disabled_endpoints,
                "held_deliveries": report.held_deliveries,
                "state": report.state,
                "healthy": report.state == DoctorState.HEALTHY,
            }
        )
        return
    table = Table(
        Column("check", no_wrap=True),
        Column("what must hold", no_wrap=True),
        Column("found", justify="right"),
        title=f"{report.orders} orders examined: {report.state}",
    )
    for name, meaning, count in report.table():
        table.add_row(name, meaning, f"[red]{count}[/]" if count else "[green]0[/]")
    print_table(table)
    if report.disabled_endpoints:
        console().print(
            f"{report.disabled_endpoints} disabled endpoints, {report.held_deliveries} webhooks held for them: "
            "their users enable them"
        )
    for check, findings in groupby(sorted(report.findings, key=lambda one: one.check), key=lambda one: one.check):
        _print_findings(check, list(findings))


def _members(one: Finding) -> dict[str, str]:
    return {"check": one.check, "order_id": one.order_id, "detail": one.detail, "mend": one.mend}


def _print_findings(check: str, findings: list[Finding]) -> None:
    output = console()
    output.print(f"\n[bold]{check}[/]")
    for one in findings[:SHOWN]:
        output.print(escape(f"  {one.order_id}: {one.detail}"))
        output.print(escape(f"    {one.mend}"))
    if len(findings) > SHOWN:
        output.print(f"  and {len(findings) - SHOWN} more: --json has all of them")
