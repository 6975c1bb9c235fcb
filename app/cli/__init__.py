"""The commands, `orderflow …`: one file for each command or group of commands. `output` prints and has the exit codes.

May import the doctor, the modules and what is below them.
"""

from collections.abc import Callable

from flask import Flask

from app.cli import dead_letters, demo, doctor, load, orders, payments, serve, token, users, webhooks
from app.config import Settings
from app.doctor import Doctor
from app.messaging.bus import RequestClient
from app.messaging.live_feed import LiveFeed
from app.payments import Payments


def install(
    app: Flask,
    bus: RequestClient,
    feed: LiveFeed,
    find_url: Callable[[], str],
    make_doctor: Callable[[float], Doctor],
    payments_module: Payments | None,
    settings: Settings,
) -> None:
    """Add the commands to `app`; those on the provider's own record only where this process runs payments.

    `find_url` returns the address of the running server.
    """
    for command in (
        demo.command(feed, find_url),
        orders.group(bus, feed),
        payments.group(bus, payments_module),
        dead_letters.group(bus),
        webhooks.group(bus),
        users.group(bus),
        doctor.command(make_doctor),
        load.command(find_url),
        token.command(settings),
        serve.worker,
    ):
        app.cli.add_command(command)
