"""The commands, `flask --app app.main …`: one file for each command or group of commands. `output` prints and has the exit codes.

May import the doctor, the modules and what is below them.
"""

from collections.abc import Callable, Mapping

from flask import Flask

from app.cli import dead_letters, demo, doctor, load, orders, payments, worker
from app.doctor import Doctor
from app.messaging.bus import RequestClient
from app.messaging.live_feed import LiveFeed
from app.messaging.outbox import Outbox
from app.payments import Payments


def install(
    app: Flask,
    bus: RequestClient,
    feed: LiveFeed,
    make_doctor: Callable[[float], Doctor],
    payments_module: Payments | None,
    outboxes: Mapping[str, Outbox],
) -> None:
    """Add the commands to `app`; those for payments only where this process runs payments."""
    for command in (
        demo.command(feed),
        orders.group(bus, feed),
        *([payments.group(payments_module)] if payments_module else []),
        dead_letters.group(outboxes),
        doctor.command(make_doctor),
        load.load,
        worker.worker,
    ):
        app.cli.add_command(command)
