"""The application that a chaos run serves: its provider's idempotency keys expire, and a signal ends its threads."""

from flask import Flask

from app import main
from tools.chaos import expiring_keys, thread_faults


def create_app() -> Flask:
    """Returns the application for gunicorn."""
    thread_faults.install_signal_handler()
    return main.create_app(make_provider=expiring_keys.make_provider)
