"""The output of commands: tables for people, JSON for programs, one sentence and an exit code for errors.

Exit codes: 0 done; 1 the command failed or found something wrong; 2 wrong usage (click's own); 3 the database or the server
cannot be reached.
"""

import getpass
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

import click
import msgspec
from marshmallow import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.config import BadSettings
from app.contracts.base import ApplicationError, Unavailable, milliseconds_of
from app.gateway.http.card_numbers import check_no_card_number
from app.gateway.http.schemas import TextField

P = ParamSpec("P")
T = TypeVar("T")
MAX_WIDTH = 1000

MAX_NAME = 128
MAX_REASON = 500

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class VisibleText(click.ParamType[str]):
    """Text of 1 to `most` characters as requests over HTTP may have it: visible, and no card number. Empty text is no text."""

    name = "text"

    def __init__(self, most: int) -> None:
        self._field = TextField(most, joiners=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        report_errors(check_no_card_number, value)
        try:
            return str(self._field.deserialize(value)) if value else ""
        except ValidationError as exc:
            self.fail(" ".join(map(str, exc.messages)), param, ctx)


class PointInTime(click.ParamType[int]):
    """A time in RFC 3339, as milliseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            # A time before 1970 is not an absent one.
            return max(1, milliseconds_of(value))
        except ValueError:
            self.fail("must be a time with an offset, such as 2026-11-22T15:00:00Z", param, ctx)


# What options accept.
TIME = PointInTime()
SECONDS = click.FloatRange(min=0)
LIMIT = click.IntRange(1, 1000)
REASON = VisibleText(MAX_REASON)


def _required(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value:
        raise click.BadParameter("must not be empty")
    return value


def login_name() -> str:
    """The name of the user who types the command; empty where it has none."""
    # A container's user may have no name.
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def operator_command(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options `--operator` and `--reason`, which the order's timeline shows, and `--yes`."""
    named = click.option(
        "--operator",
        default=login_name,
        show_default="login name",
        type=VisibleText(MAX_NAME),
        callback=_required,
        help="Who does this; the order's timeline shows it.",
    )
    reasoned = click.option(
        "--reason", required=True, type=REASON, callback=_required, help="Why; the order's timeline shows it."
    )
    confirmed = click.option("--yes", is_flag=True, help="Do not ask for confirmation: for scripts.")
    return named(reasoned(confirmed(command)))


def confirm(what: str, yes: bool) -> None:
    """Ask whether to go on, unless `yes`; ends the command otherwise."""
    if not yes:
        # On standard error, so that standard output has the result only.
        click.confirm(f"{what}. Continue?", abort=True, err=True)


def age(seconds: int) -> str:
    """How long ago, for people: the two largest units."""
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((at for at, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])


class Unreachable(click.ClickException):
    """The database or the server cannot be reached."""

    exit_code = 3


def report_errors(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` and return its result. Raises the errors of the application as one sentence and an exit code."""
    try:
        return function(*args, **kwargs)
    except Unavailable as exc:
        raise Unreachable(f"{exc}; is MONGODB_URI right, or is `make run` running?") from exc
    except ApplicationError as exc:
        raise click.ClickException(exc.detail) from exc
    except BadSettings as exc:
        raise click.ClickException(str(exc)) from exc
    except OSError as exc:
        raise Unreachable(f"the payment provider does not answer: {exc}") from exc


def request_id() -> str:
    """The id of a command's own request, as the timeline and the log show it."""
    return f"cli-{uuid4().hex[:12]}"


def print_json(value: Any) -> None:
    """Print one line of JSON; messages have the names that clients know."""
    click.echo(msgspec.json.encode(value, enc_hook=str).decode())


def print_result(value: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a result, as a line of text or of JSON."""
    if as_json:
        print_json(value)
    else:
        click.echo(text)


def print_rows(title: str, items: Sequence[T], as_json: bool, row_of: Callable[[T], Mapping[str, Any]]) -> None:
    """Print items as JSON, or as a table, of which `row_of` makes each row, with the same keys."""
    if as_json:
        print_json(items)
        return
    rows = list(map(row_of, items))
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
