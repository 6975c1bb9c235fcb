"""The applications that a chaos run serves: one server's, and that of each process of a cluster. Both repeat webhooks soon.

A server's provider has idempotency keys that expire, and a signal ends its threads.
"""

from flask import Flask

from app import main, webhooks
from app.webhooks import delivery_queue
from app.webhooks.delivery import RetrySchedule
from tools.chaos import expiring_keys, thread_faults

# The pauses of webhooks, scaled to the length of a run.
RETRIES = RetrySchedule((0.3, 1.0, 2.0, *(3.0,) * 60))
BREAKER_SECONDS = (1.0, 3.0)


def create_app() -> Flask:
    """Returns the application of one server for gunicorn."""
    _repeat_webhooks_soon()
    thread_faults.install_signal_handler()
    return main.create_app(make_provider=expiring_keys.make_provider)


def create_module() -> Flask:
    """Returns the application of a process of a cluster for gunicorn."""
    _repeat_webhooks_soon()
    return main.create_app()


def _repeat_webhooks_soon() -> None:
    webhooks.RETRIES = RETRIES
    delivery_queue.FIRST_PAUSE_SECONDS, delivery_queue.MAX_PAUSE_SECONDS = BREAKER_SECONDS
