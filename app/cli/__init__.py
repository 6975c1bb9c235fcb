"""Commands: `flask --app app.main …`. `shown` says how they answer and with which codes they end."""

from collections.abc import Callable, Mapping

from flask import Flask

from app.cli import dead_letters, demo, doctor, load, orders, payments, worker
from app.doctor import Doctor
from app.messaging.bus import RequestClient
from app.messaging.live_feed import LiveFeed
from app.messaging.outbox import Outbox
from app.payments.manual_review import ManualReview


def install(
    app: Flask,
    bus: RequestClient,
    feed: LiveFeed,
    make_doctor: Callable[[float], Doctor],
    desk: ManualReview | None,
    outboxes: Mapping[str, Outbox],
) -> None:
    """Give `app` its commands; those for payments need a `desk`, and so a process that runs them."""
    for command in (
        demo.command(feed),
        orders.group(bus, feed),
        *([payments.group(desk)] if desk else []),
        dead_letters.group(outboxes),
        doctor.command(make_doctor),
        load.command(),
        worker.command(),
    ):
        app.cli.add_command(command)
