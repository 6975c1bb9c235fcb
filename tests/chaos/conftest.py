"""What dying and failing on purpose needs."""

from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from tests.chaos.crash.laboratory import Laboratory


@pytest.fixture(scope="session")
def laboratory(mongodb_uri: str, mongo: MongoClient) -> Iterator[Laboratory]:
    """Where processes die."""
    made = Laboratory(mongodb_uri, mongo)
    yield made
    made.close()
