"""`webhooks endpoints list|show|add|change|enable|disable|remove|rotate-secret|test`: where webhooks go."""

import secrets
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import click
import msgspec
from flask.cli import AppGroup
from rich.markup import escape
from rich.table import Table

from app.cli.output import (
    MAX_NAME,
    VisibleText,
    as_json,
    confirm,
    console,
    print_json,
    print_result,
    print_rows,
    report_errors,
    request_id,
)
from app.contracts.webhooks import (
    ChangeEndpoint,
    CreateEndpoint,
    DeleteEndpoint,
    EndpointView,
    FindEndpoint,
    ListEndpoints,
    RotateSecret,
    SendTestEvent,
    SignatureScheme,
)
from app.gateway.http.webhook_schemas import MAX_DESCRIPTION, MAX_HOURS
from app.messaging.bus import RequestClient

SECONDS_PER_HOUR = 3600
PAGE_SIZE = 100
USER = click.option(
    "--user", default="", type=VisibleText(MAX_NAME), help="Whose orders are told; those of all users without it."
)
EVENT = click.option(
    "--event", "events", multiple=True, help="An event type or a wildcard such as order.*; can be repeated."
)
DESCRIPTION = click.option("--description", type=VisibleText(MAX_DESCRIPTION), help="What it is for.")
YES = click.option("--yes", is_flag=True, help="Do not ask for confirmation: for scripts.")


def group(bus: RequestClient) -> click.Group:
    """The commands. They send requests to `bus`."""
    commands = AppGroup("endpoints", help="Where webhooks go.")

    @commands.command("list")
    @click.option("--user", default="", type=VisibleText(MAX_NAME), help="Only those of this user.")
    @as_json
    def list_endpoints(user: str, as_json: bool) -> None:
        """List endpoints, the oldest first."""
        print_rows("Endpoints", report_errors(_all_endpoints, bus, user), as_json, _endpoint_row)

    @commands.command("show")
    @click.argument("endpoint_id")
    @as_json
    def show(endpoint_id: str, as_json: bool) -> None:
        """Show one endpoint."""
        print_members(_request(bus, FindEndpoint, endpoint_id), as_json)

    @commands.command("add")
    @click.argument("url")
    @USER
    @EVENT
    @DESCRIPTION
    @click.option(
        "--signature",
        default=SignatureScheme.HMAC.value,
        show_default=True,
        type=click.Choice([scheme.value for scheme in SignatureScheme]),
        help="v1: HMAC-SHA256 with a shared secret. v1a: Ed25519.",
    )
    @as_json
    def add(
        url: str, user: str, events: tuple[str, ...], description: str | None, signature: str, as_json: bool
    ) -> None:
        """Add an endpoint, and print it with its secret, which is not shown again."""
        made = report_errors(
            bus.request,
            CreateEndpoint(
                request_id=request_id(),
                endpoint_id=f"we_{secrets.token_hex(12)}",
                user_id=user,
                url=url,
                description=description or "",
                events=events or ("*",),
                signature=signature,
            ),
        )
        print_members(made, as_json)

    _add_changes(commands, bus)
    return commands


def _all_endpoints(bus: RequestClient, user: str) -> list[EndpointView]:
    origin = {"request_id": request_id(), "on_behalf_of": user}
    endpoints: list[EndpointView] = []
    place = {"after_at": "", "after_id": ""}
    while True:
        page = bus.request(ListEndpoints(**origin, limit=PAGE_SIZE, told_of="", **place))
        endpoints.extend(page.endpoints)
        if not page.last_id:
            return endpoints
        place = {"after_at": page.endpoints[-1].created_at, "after_id": page.last_id}


def _add_changes(commands: click.Group, bus: RequestClient) -> None:
    @commands.command("change")
    @click.argument("endpoint_id")
    @click.option("--url", help="Where it is now.")
    @EVENT
    @DESCRIPTION
    @as_json
    def change(
        endpoint_id: str, url: str | None, events: tuple[str, ...], description: str | None, as_json: bool
    ) -> None:
        """Change an endpoint; what is not named stays as it is."""
        members = {"url": url, "events": events or None, "description": description}
        named = {name: value for name, value in members.items() if value is not None}
        if not named:
            raise click.UsageError("name at least one of --url, --event and --description")
        print_members(_request(bus, ChangeEndpoint, endpoint_id, members=tuple(named), **named), as_json)

    @commands.command("enable")
    @click.argument("endpoint_id")
    @as_json
    def enable(endpoint_id: str, as_json: bool) -> None:
        """Enable an endpoint; what was held is sent."""
        print_members(_request(bus, ChangeEndpoint, endpoint_id, members=("enabled",), enabled=True), as_json)

    @commands.command("disable")
    @click.argument("endpoint_id")
    @as_json
    def disable(endpoint_id: str, as_json: bool) -> None:
        """Disable an endpoint; its deliveries are held."""
        print_members(_request(bus, ChangeEndpoint, endpoint_id, members=("enabled",), enabled=False), as_json)

    @commands.command("remove")
    @click.argument("endpoint_id")
    @YES
    @as_json
    def remove(endpoint_id: str, yes: bool, as_json: bool) -> None:
        """Delete an endpoint, and what was not delivered to it."""
        confirm(f"{endpoint_id} and what was not delivered to it are deleted", yes)
        removed = _request(bus, DeleteEndpoint, endpoint_id)
        print_result(msgspec.to_builtins(removed), f"{endpoint_id} is deleted", as_json)

    @commands.command("rotate-secret")
    @click.argument("endpoint_id")
    @click.option(
        "--overlap-hours",
        default=24,
        show_default=True,
        type=click.IntRange(0, MAX_HOURS),
        help="For how long the former secret signs as well; 0 where it has leaked.",
    )
    @as_json
    def rotate_secret(endpoint_id: str, overlap_hours: int, as_json: bool) -> None:
        """Give an endpoint a new secret, and print it."""
        seconds = overlap_hours * SECONDS_PER_HOUR
        print_members(_request(bus, RotateSecret, endpoint_id, overlap_seconds=seconds), as_json)

    @commands.command("test")
    @click.argument("endpoint_id")
    @as_json
    def test(endpoint_id: str, as_json: bool) -> None:
        """Have the server send an event of type endpoint.test."""
        sent = _request(bus, SendTestEvent, endpoint_id, event_id=uuid4().hex)
        print_result(msgspec.to_builtins(sent), f"delivery {sent.id} is {sent.status}", as_json)


def _request(bus: RequestClient, message: Callable[..., Any], endpoint_id: str, **members: Any) -> Any:
    origin = {"request_id": request_id(), "on_behalf_of": ""}
    return report_errors(bus.request, message(**origin, endpoint_id=endpoint_id, **members))


def print_members(view: msgspec.Struct, as_json: bool) -> None:
    """Print an endpoint or a delivery, with the names that clients know."""
    if as_json:
        print_json(view)
        return
    table = Table(show_header=False, box=None)
    for name, value in msgspec.to_builtins(view).items():
        text = ", ".join(value) if isinstance(value, list | tuple) else str(value)
        table.add_row(f"[dim]{name}[/]", escape(text))
    console().print(table)


def _endpoint_row(endpoint: EndpointView) -> dict[str, str]:
    return {
        "id": endpoint.id,
        "user": endpoint.user_id or "(all)",
        "url": endpoint.url,
        "events": ", ".join(endpoint.events),
        "state": "enabled" if endpoint.enabled else endpoint.disabled_reason,
        "failing since": endpoint.failing_since or "-",
    }
