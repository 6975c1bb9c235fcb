"""`token`: a token for development, printed."""

import click

from app.cli.output import as_json, print_result, report_errors
from app.config import Settings
from app.gateway.security.caller import READ, SCOPES, WRITE
from app.gateway.security.development_tokens import MAX_SECONDS, make_token


def command(settings: Settings) -> click.Command:
    """The command, for the secret in `settings`."""

    @click.command("token")
    @click.option("--user", "user_id", default="user-7", show_default=True, help="The user whose token it is (sub).")
    @click.option(
        "--scope",
        "scopes",
        multiple=True,
        default=(READ, WRITE),
        show_default=True,
        type=click.Choice(sorted(SCOPES)),
        help="What the token allows; can be repeated.",
    )
    @click.option(
        "--seconds",
        default=3600,
        show_default=True,
        type=click.IntRange(1, MAX_SECONDS),
        help="How long the token lasts.",
    )
    @as_json
    def token(user_id: str, scopes: tuple[str, ...], seconds: int, as_json: bool) -> None:
        """Print a token that this server accepts, for development: signed with AUTH_JWT_KEY, a secret (HS…)."""
        made = report_errors(make_token, settings, user_id, scopes, seconds)
        members = {"token": made, "user": user_id, "scopes": list(scopes), "seconds": seconds}
        print_result(members, made, as_json)

    return token
