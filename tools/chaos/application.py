"""The application that a chaos run serves: its provider's idempotency keys expire, a signal ends its threads, and webhooks are repeated soon."""

from flask import Flask

from app import main, webhooks
from app.webhooks import delivery_queue
from app.webhooks.delivery import RetrySchedule
from tools.chaos import expiring_keys, thread_faults

# The pauses of webhooks, scaled to the length of a run.
RETRIES = RetrySchedule((0.3, 1.0, 2.0, *(3.0,) * 60))
BREAKER_SECONDS = (1.0, 3.0)


def create_app() -> Flask:
    """Returns the application for gunicorn."""
    webhooks.RETRIES = RETRIES
    delivery_queue.FIRST_PAUSE_SECONDS, delivery_queue.MAX_PAUSE_SECONDS = BREAKER_SECONDS
    thread_faults.install_signal_handler()
    return main.create_app(make_provider=expiring_keys.make_provider)
