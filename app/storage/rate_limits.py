"""How often each caller came lately, counted in MongoDB for all workers together."""

from collections.abc import Sequence
from typing import Any

import pymongo
from pymongo import ReturnDocument, WriteConcern

from app.storage.mongodb import Document, Store

# Whoever waits for a count waits for a request to begin; and a count that a crash forgets costs nobody anything.
PATIENCE_SECONDS = 0.25
FORGETFUL = WriteConcern(w=1, j=False)

SCHEMA = {"bsonType": "object", "required": ["_id", "expireAt"], "properties": {"expireAt": {"bsonType": "date"}}}
INDEXES = [pymongo.IndexModel([("expireAt", 1)], name="forgotten", expireAfterSeconds=0)]


class RateLimitCounters:
    """Counts within windows of time, each of which begins with the first count after the last one's end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts = store.collection.with_options(write_concern=FORGETFUL)

    def prepare(self) -> None:
        """Create what the collection needs."""
        self._store.prepare(SCHEMA, INDEXES)

    def take(self, who: str, windows: Sequence[int]) -> list[tuple[int, float]]:
        """Count once more for `who`; for each window, in seconds, how often by now, and the seconds until its end.

        One command, whatever the number of windows. Raises Unavailable.
        """
        with self._store.with_deadline(PATIENCE_SECONDS):
            found: Document = self._counts.find_one_and_update(  # type: ignore[assignment]
                {"_id": who}, _counting(windows), upsert=True, return_document=ReturnDocument.AFTER
            )
        now = self._store.clock.now()
        counted = [found[_field(seconds)] for seconds in windows]
        return [(each["count"], max(0.0, (each["ends"] - now).total_seconds())) for each in counted]


def _counting(windows: Sequence[int]) -> list[dict[str, Any]]:
    counts = {_field(seconds): _once_more(f"${_field(seconds)}", seconds) for seconds in windows}
    return [{"$set": counts}, {"$set": {"expireAt": {"$max": [f"${name}.ends" for name in counts]}}}]


def _once_more(window: str, seconds: int) -> dict[str, Any]:
    running = {"count": {"$add": [f"{window}.count", 1]}, "ends": f"{window}.ends"}
    begun = {"count": 1, "ends": {"$add": ["$$NOW", seconds * 1000]}}
    return {"$cond": [{"$gt": [f"{window}.ends", "$$NOW"]}, running, begun]}


def _field(seconds: int) -> str:
    return f"in{seconds}"
