"""The command `orderflow`: starts the server, and has all other commands as they work on the running one."""

import os
from collections.abc import Callable
from pathlib import Path

import click
from flask import Flask
from flask.cli import ScriptInfo

from app.cli import serve
from app.cli.output import report_errors
from app.observability.logging import write_to_standard_error
from app.server import running_servers

# With one of these the caller has said which server or database is meant.
CHOSEN_BY = ("ORDERFLOW_DATA", "MONGODB_URI", "MONGODB_URI_FILE")


class CommandRegistry(click.Group):
    """The commands of the server, and those of the application, which `create_app` makes from the environment only for them."""

    def __init__(self, create_app: Callable[[], Flask]) -> None:
        commands = [serve.run, serve.worker, serve.check]
        super().__init__("orderflow", commands=commands, help="Orderflow: an order and payment back end.")
        self._script = ScriptInfo(
            create_app=lambda: _make_app(create_app), set_debug_flag=False, load_dotenv_defaults=False
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._application(ctx).list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._application(ctx).get_command(ctx, cmd_name)

    def _application(self, ctx: click.Context) -> click.Group:
        ctx.obj = self._script
        return self._script.load_app().cli


def _make_app(create_app: Callable[[], Flask]) -> Flask:
    if not any(os.environ.get(name) for name in CHOSEN_BY):
        _choose_running_server()
    app = report_errors(create_app)
    write_to_standard_error()
    return app


def _choose_running_server() -> None:
    """Set ORDERFLOW_DATA to the folder of the one server that runs, unless one runs on the default folder.

    Raises UsageError if several run and none on the default folder.
    """
    here = str(Path(".orderflow").resolve())
    servers = {server.data: server for server in running_servers.find_servers(running_servers.CHECKOUT_DATA)}
    servers |= {server.data: server for server in running_servers.find_servers(Path(here))}
    if here in servers or not servers:
        return
    if len(servers) > 1:
        choices = "\n".join(f"  ORDERFLOW_DATA={data}  {server.url}" for data, server in sorted(servers.items()))
        raise click.UsageError(f"several servers run; choose one:\n{choices}")
    [(data, server)] = servers.items()
    click.echo(f"using the server at {server.url}, with its data in {data}", err=True)
    os.environ["ORDERFLOW_DATA"] = data
