"""The database of one contestant: a mongod of its own on disk, polled with few and cheap queries."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil
from bson import ObjectId
from pymongo import MongoClient, WriteConcern

from app.storage.embedded_mongod import Mongod
from tools.bench.processes import cpu_of

DATABASE = "orderflow"
POLL_SECONDS = 0.02
OPEN_STATUS = "Processing"


class SettlementTimeout(RuntimeError):
    """Orders were still Processing at the deadline."""


class BenchDatabase:
    """A mongod, a client to it, and the collections that every contestant has.

    Use it from the main thread: Linux kills mongod when the thread that started it ends.
    """

    def __init__(self, folder: Path, extra: Sequence[str] = ()) -> None:
        self._mongod = Mongod(folder, extra=extra)
        self._client: MongoClient[dict[str, Any]] | None = None

    def __enter__(self) -> Self:
        self._client = MongoClient(self._mongod.start(), tz_aware=True, w="majority", journal=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._client:
            self._client.close()
        self._mongod.stop()

    @property
    def uri(self) -> str:
        """The URI of the mongod."""
        return self._mongod.uri

    @property
    def database(self):
        """The contestant's database."""
        return self._client[DATABASE]

    @property
    def orders(self):
        """The contestant's collection of orders."""
        return self.database["orders"]

    @property
    def version(self) -> str:
        """The version of MongoDB."""
        return self._client.server_info()["version"]

    def cpu(self) -> float:
        """Returns the CPU seconds that mongod has used so far."""
        return cpu_of(psutil.Process(self._mongod.pid))

    def count(self) -> int:
        """Returns the number of stored orders from the collection's metadata, without reading documents."""
        return self.orders.estimated_document_count()

    def flush(self) -> None:
        """Writes everything to disk now, so that no later round pays for it, and waits until servers read all of it."""
        self._client.admin.command("fsync")
        # Servers read what a majority has. A majority write that changes nothing waits for the writes before it.
        majority = self.orders.with_options(write_concern=WriteConcern("majority"))
        majority.update_one({"_id": ObjectId()}, {"$set": {"orderStatus": ""}})

    def wait_until_settled(self, since: ObjectId, timeout: float = 120.0) -> float:
        """Waits until no order from `since` on is Processing; returns the monotonic time at which that was seen.

        Each query continues at the oldest open order, along the index on _id: a settled order never opens again. A last
        query reads all of them again. Raises SettlementTimeout.
        """
        deadline, low = time.monotonic() + timeout, since
        while True:
            seen = time.monotonic()
            first = self._first_open(low)
            if first is None and (low == since or self._first_open(since) is None):
                return seen
            if seen > deadline:
                raise SettlementTimeout(f"order {first} and perhaps more are still {OPEN_STATUS} after {timeout:g} s")
            low = first or since
            time.sleep(POLL_SECONDS)

    def _first_open(self, low: ObjectId) -> ObjectId | None:
        query = {"_id": {"$gte": low}, "orderStatus": OPEN_STATUS}
        found = self.orders.find_one(query, {"_id": 1}, sort=[("_id", 1)], hint=[("_id", 1)])
        return found["_id"] if found else None


def ids_from_now() -> ObjectId:
    """Returns a lower bound of all ids generated from now on: an id begins with its second."""
    return ObjectId.from_datetime(datetime.now(UTC))
