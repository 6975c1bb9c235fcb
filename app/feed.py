"""The live feed: the steps of every process, in a capped collection that anyone may follow. For eyes, not for record.

Bounded on purpose: a process tells at most RATE lines a second and keeps few in memory, so that watching can never
slow the work; what matters for good is in the orders' timelines.
"""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pymongo import CursorType, WriteConcern
from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from app.contracts import Unavailable
from app.database import NAMESPACE_EXISTS, Document, Store

RATE = 100
PAUSE = 0.05
CAPPED_BYTES = 8 * 1024 * 1024


class Feed:
    """Takes lines from `story.tell`, and gives them to followers in whatever process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lines: queue.Queue[Document] = queue.Queue(RATE)
        self._allowance = float(RATE)
        self._refilled = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def prepare(self) -> None:
        """Create the capped collection; safe to repeat."""
        with self._store.bounded() as lines:
            try:
                lines.database.create_collection(lines.name, capped=True, size=CAPPED_BYTES)
            except CollectionInvalid:
                return
            except OperationFailure as exc:
                if exc.code != NAMESPACE_EXISTS:
                    raise

    def start(self) -> None:
        """Start handing lines over."""
        self._thread.start()

    def stop(self) -> None:
        """Hand over what is left, then end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def take(self, line: Document) -> None:
        """Take one line; forgets it when there are too many."""
        now = time.monotonic()
        self._allowance = min(RATE, self._allowance + (now - self._refilled) * RATE)
        self._refilled = now
        if self._allowance >= 1:
            self._allowance -= 1
            with suppress(queue.Full):
                self._lines.put_nowait(line)

    def follow(self, wanted: Document, seconds: float) -> Iterator[Document]:
        """Lines that match `wanted`, for so many seconds, as they come in from any process. Raises Unavailable."""
        ends = time.monotonic() + seconds
        seen: set[Any] = set()
        while time.monotonic() < ends:
            try:
                for line in self._tail(wanted, ends):
                    if line["_id"] not in seen:
                        seen.add(line["_id"])
                        yield line
            except PyMongoError as exc:
                raise Unavailable(f"the feed cannot be followed: {exc}") from exc
            time.sleep(PAUSE)  # A cursor on nothing dies at once.

    def _tail(self, wanted: Document, ends: float) -> Iterator[Document]:
        # With read concern majority a tailable cursor opened on the very first lines stays alive and empty.
        local = self._store.collection.with_options(read_concern=ReadConcern("local"))
        lines = local.find(wanted, cursor_type=CursorType.TAILABLE_AWAIT).max_await_time_ms(200)
        while lines.alive and time.monotonic() < ends:
            yield from lines

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE):
            self._hand_over()
        self._hand_over()

    def _hand_over(self) -> None:
        batch: list[Any] = []
        with suppress(queue.Empty):
            while True:
                batch.append(self._lines.get_nowait())
        if batch:
            unacknowledged = self._store.collection.with_options(write_concern=WriteConcern(w=0))
            with suppress(PyMongoError):
                unacknowledged.insert_many(batch, ordered=False)
