"""What a busy machine needs to connect to the broker."""

import pytest

from app.messaging.rabbitmq import bus, connection


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A connection to the broker, and the declarations that come with it, may take long. No test is about that limit."""
    for module in (bus, connection):
        monkeypatch.setattr(module, "CONNECT_SECONDS", 20.0)
