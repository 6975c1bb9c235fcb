"""`doctor`: every invariant, on the live database."""

import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from app.cli.output import as_json, asking, tell
from app.doctor import Doctor, Report

ORDER_ID = re.compile(r"[0-9a-f]{24}")


def command(make: Callable[[float], Doctor]) -> click.Command:
    """The command; `make` tells who examines, given the seconds of grace."""

    @click.command("doctor")
    @click.option("--grace", default=60.0, show_default=True, help="Seconds that work may take before it is stuck.")
    @click.option("--pause", default=2.0, show_default=True, help="Seconds before looking again at what looks wrong.")
    @click.option("--acknowledged", type=click.File(), help="A file of order ids, one a line, that must exist.")
    @as_json
    def doctor(grace: float, pause: float, acknowledged: Any, as_json: bool) -> None:
        """Check every invariant on the live database and the provider's books; exit code 1 on a violation."""
        known = [line.strip() for line in acknowledged if line.strip()] if acknowledged else []
        wrong = next((one for one in known if not ORDER_ID.fullmatch(one)), None)
        if wrong is not None:
            raise click.ClickException(f"{wrong!r} is no order id")
        with Console(stderr=True).status("examining every order"):
            report = asking(make(grace).examine, known, pause)
        _show(report, as_json)
        if not report.healthy:
            sys.exit(1)

    return doctor


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        tell(asdict(report) | {"healthy": report.healthy})
        return
    table = Table(title=f"{report.orders} orders examined")
    for column in ("invariant", "meaning", "violations", "first"):
        table.add_column(column, justify="right" if column == "violations" else "left")
    for name, meaning, count, first in report.table():
        table.add_row(name, meaning, f"[red]{count}[/]" if count else "[green]0[/]", first)
    Console().print(table)
