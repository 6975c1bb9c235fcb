"""`doctor`: checks every invariant on the live database."""

import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from app.cli.output import as_json, print_json, report_errors
from app.doctor import Doctor, DoctorReport

ORDER_ID = re.compile(r"[0-9a-f]{24}")


def command(make_doctor: Callable[[float], Doctor]) -> click.Command:
    """The command; `make_doctor` takes the grace period in seconds."""

    @click.command("doctor")
    @click.option("--grace", default=60.0, show_default=True, help="Seconds that work may take before it is stuck.")
    @click.option("--pause", default=2.0, show_default=True, help="Seconds before a violation is checked again.")
    @click.option("--acknowledged", type=click.File(), help="A file of order ids, one per line, that must be stored.")
    @as_json
    def doctor(grace: float, pause: float, acknowledged: Any, as_json: bool) -> None:
        """Check every invariant on the live database and the provider's ledger; exit code 1 on a violation."""
        order_ids = [line.strip() for line in acknowledged if line.strip()] if acknowledged else []
        invalid = next((order_id for order_id in order_ids if not ORDER_ID.fullmatch(order_id)), None)
        if invalid is not None:
            raise click.ClickException(f"{invalid!r} is not an order id")
        with Console(stderr=True).status("examining every order"):
            report = report_errors(make_doctor(grace).examine, order_ids, pause)
        _print_report(report, as_json)
        if not report.healthy:
            sys.exit(1)

    return doctor


def _print_report(report: DoctorReport, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report) | {"healthy": report.healthy})
        return
    columns = (Column("check", no_wrap=True), "meaning", Column("found", justify="right"), "first")
    table = Table(*columns, title=f"{report.orders} orders examined")
    for name, meaning, count, first in report.table():
        table.add_row(name, meaning, f"[red]{count}[/]" if count else "[green]0[/]", first)
    Console().print(table)
