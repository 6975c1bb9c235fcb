"""A contestant's database: a mongod of its own on disk, watched with few and cheap looks."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil
from bson import ObjectId
from pymongo import MongoClient

from app.storage.embedded_mongod import Mongod
from tools.bench.processes import cpu_of

DATABASE = "orderflow"
LOOK_SECONDS = 0.02
OPEN = "Processing"


class NeverSettled(RuntimeError):
    """Orders were still Processing when patience ended."""


class Base:
    """A mongod, a client that looks at it, and the collections every contestant has.

    Use it from the main thread: Linux ends mongod with the thread that started it.
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
        """Where it is."""
        return self._mongod.uri

    @property
    def database(self):
        """What the contestant stores."""
        return self._client[DATABASE]

    @property
    def orders(self):
        """The contestant's orders."""
        return self.database["orders"]

    @property
    def version(self) -> str:
        """MongoDB's version."""
        return self._client.server_info()["version"]

    def cpu(self) -> float:
        """CPU seconds used so far by mongod."""
        return cpu_of(psutil.Process(self._mongod.pid))

    def count(self) -> int:
        """How many orders are stored; from the collection's own count, nothing is read."""
        return self.orders.estimated_document_count()

    def flush(self) -> None:
        """Write everything to disk now, so that nobody's later round pays for it."""
        self._client.admin.command("fsync")

    def drained(self, since: ObjectId, patience: float = 120.0) -> float:
        """Wait until no order made since then is Processing; the monotonic time when it was first seen.

        Each look goes on where the last one stopped, along the index on _id: a settled order never opens again.
        Before the answer all of them are looked at once more.
        """
        ends, low = time.monotonic() + patience, since
        while True:
            seen = time.monotonic()
            first = self._first_open(low)
            if first is None and (low == since or self._first_open(since) is None):
                return seen
            if seen > ends:
                raise NeverSettled(f"order {first} and perhaps more still {OPEN} after {patience:g} s")
            low = first or since
            time.sleep(LOOK_SECONDS)

    def _first_open(self, low: ObjectId) -> ObjectId | None:
        wanted = {"_id": {"$gte": low}, "orderStatus": OPEN}
        found = self.orders.find_one(wanted, {"_id": 1}, sort=[("_id", 1)], hint=[("_id", 1)])
        return found["_id"] if found else None


def ids_from_now() -> ObjectId:
    """Below every id that is made from now on: an id begins with its second."""
    return ObjectId.from_datetime(datetime.now(UTC))
