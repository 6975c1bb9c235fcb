"""Counts the requests of each caller in MongoDB, for all workers together."""

from collections.abc import Sequence
from typing import Any

import pymongo
from pymongo import ReturnDocument, WriteConcern

from app.storage.mongodb import Document, Store

# A request cannot start before its count is known. A count that is lost in a crash does no harm.
TIMEOUT_SECONDS = 0.25
NOT_DURABLE = WriteConcern(w=1, j=False)

SCHEMA = {"bsonType": "object", "required": ["_id", "expireAt"], "properties": {"expireAt": {"bsonType": "date"}}}
INDEXES = [pymongo.IndexModel([("expireAt", 1)], name="expiry", expireAfterSeconds=0)]


class RateLimitCounters:
    """Counts per key within fixed windows. A window starts with the first count after the end of the previous one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts = store.collection.with_options(write_concern=NOT_DURABLE)

    def prepare(self) -> None:
        """Create the collection, its validator and its index; safe to repeat."""
        self._store.prepare(SCHEMA, INDEXES)

    def increment(self, key: str, windows: Sequence[int]) -> list[tuple[int, float]]:
        """Add one to the counts of `key`. Returns for each window its count and the seconds until its end.

        `windows` are lengths in seconds; all are counted in one command. Raises Unavailable.
        """
        with self._store.with_deadline(TIMEOUT_SECONDS):
            found: Document = self._counts.find_one_and_update(  # type: ignore[assignment]
                {"_id": key}, _increment_all(windows), upsert=True, return_document=ReturnDocument.AFTER
            )
        now = self._store.clock.now()
        states = [found[_field(seconds)] for seconds in windows]
        return [(each["count"], max(0.0, (each["ends"] - now).total_seconds())) for each in states]


def _increment_all(windows: Sequence[int]) -> list[dict[str, Any]]:
    counts = {_field(seconds): _increment(f"${_field(seconds)}", seconds) for seconds in windows}
    return [{"$set": counts}, {"$set": {"expireAt": {"$max": [f"${name}.ends" for name in counts]}}}]


def _increment(window: str, seconds: int) -> dict[str, Any]:
    running = {"count": {"$add": [f"{window}.count", 1]}, "ends": f"{window}.ends"}
    started = {"count": 1, "ends": {"$add": ["$$NOW", seconds * 1000]}}
    return {"$cond": [{"$gt": [f"{window}.ends", "$$NOW"]}, running, started]}


def _field(seconds: int) -> str:
    return f"in{seconds}"
