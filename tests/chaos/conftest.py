"""Fixtures of the crash matrix."""

from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from tests.chaos.crash.runner import CrashRunner


@pytest.fixture(scope="session")
def crash_runner(mongodb_uri: str, mongo: MongoClient) -> Iterator[CrashRunner]:
    """Runs processes that die, for the whole session."""
    made = CrashRunner(mongodb_uri, mongo)
    yield made
    made.close()
