"""The output of commands: tables for people, JSON for programs, one sentence and an exit code for errors.

Exit codes: 0 done; 1 the command failed or found something wrong; 2 wrong usage (click's own); 3 the database or the server
cannot be reached.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.contracts.base import ApplicationError, Unavailable
from app.payments.manual_review import NotPossible

P = ParamSpec("P")
T = TypeVar("T")
MAX_WIDTH = 1000

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Unreachable(click.ClickException):
    """The database or the server cannot be reached."""

    exit_code = 3


def report_errors(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` and return its result. Raises the errors of the application as one sentence and an exit code."""
    try:
        return function(*args, **kwargs)
    except NotPossible as exc:
        raise click.ClickException(str(exc)) from exc
    except Unavailable as exc:
        raise Unreachable(f"{exc}; is MONGODB_URI right, or is `make run` running?") from exc
    except ApplicationError as exc:
        raise click.ClickException(exc.detail) from exc
    except OSError as exc:
        raise Unreachable(f"the payment provider does not answer: {exc}") from exc


def print_json(value: Any) -> None:
    """Print one line of JSON; messages have the names that clients know."""
    click.echo(msgspec.json.encode(value, enc_hook=str).decode())


def print_result(value: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a result, as a line of text or of JSON."""
    if as_json:
        print_json(value)
    else:
        click.echo(text)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows with the same keys, as a table or as JSON."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        click.echo(f"{title}: none")
        return
    table = Table(title=title, box=None, title_justify="left", pad_edge=False)
    for column in rows[0]:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, map(str, row.values())))
    print_table(table)


def print_table(table: Table) -> None:
    """Print a table in its full width: a narrower terminal breaks the lines, and nothing is left out."""
    output = console()
    output.width = max(output.width, output.measure(table, options=output.options.update(max_width=MAX_WIDTH)).maximum)
    output.print(table)


def console() -> Console:
    """Standard output for people. Long ids are not broken."""
    return Console(highlight=False, soft_wrap=True)
