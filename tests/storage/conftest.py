"""What a busy machine needs where a test is not about its limit."""

import pytest


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine connects, counts and answers slowly."""
    for name in ("HELLO_SECONDS", "SECRET_SECONDS", "BACKLOG_TIMEOUT_SECONDS"):
        monkeypatch.setattr(f"app.storage.mongodb.{name}", 30.0)
