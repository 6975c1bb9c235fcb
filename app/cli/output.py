"""How commands answer: tables for people, JSON for programs, one sentence and an exit code where they cannot.

0: done. 1: what was asked cannot be done, or something is wrong. 2: the command was not understood (click's own).
3: the database or the server cannot be reached.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.contracts.base import ApplicationError, Unavailable
from app.payments.manual_review import NotPossible

P = ParamSpec("P")
T = TypeVar("T")
NOT_REACHED = 3
WIDEST = 1000

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class NotReached(click.ClickException):
    """The database or the server is not there."""

    exit_code = NOT_REACHED


def asking(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns; what it raises as one sentence."""
    try:
        return work(*args, **kwargs)
    except NotPossible as exc:
        raise click.ClickException(str(exc)) from exc
    except Unavailable as exc:
        raise NotReached(f"{exc}; is MONGODB_URI right, or is `make run` running?") from exc
    except ApplicationError as exc:
        raise click.ClickException(exc.detail) from exc


def tell(members: Any) -> None:
    """One line of JSON."""
    click.echo(json.dumps(members, default=str))


def table(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Rows of the same members, as a table or as JSON."""
    if as_json:
        tell(list(rows))
        return
    if not rows:
        click.echo(f"{title}: none")
        return
    shown = Table(title=title, box=None, title_justify="left", pad_edge=False)
    for column in rows[0]:
        shown.add_column(column, no_wrap=True)
    for row in rows:
        shown.add_row(*map(escape, map(str, row.values())))
    wide(shown)


def wide(shown: Table) -> None:
    """A table as wide as it is: where a terminal is narrower, the terminal breaks the line and nothing is left out."""
    to = console()
    to.width = max(to.width, to.measure(shown, options=to.options.update(max_width=WIDEST)).maximum)
    to.print(shown)


def console() -> Console:
    """Where people read; long ids are not broken."""
    return Console(highlight=False, soft_wrap=True)
