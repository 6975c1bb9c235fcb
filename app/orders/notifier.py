"""Live updates: one change stream a process on the orders, which wakes whoever waits for one of them.

The stream runs while somebody waits and a little longer. It resumes where it broke off; and since whoever waits also
looks again when it starts, and once a second, nothing depends on it but how soon a change is seen.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pymongo
from bson import ObjectId
from pymongo.errors import PyMongoError

from app.contracts.base import Unavailable
from app.observability.logging import log
from app.storage.mongodb import Document, Store, is_transient

T = TypeVar("T")

LOOK_AGAIN_SECONDS = 1.0
IDLE_SECONDS = 10.0
RETRY_SECONDS = 0.5
# How long the server holds an empty answer back: so long a stop may take to be noticed.
AWAIT_MS = 250
DEADLINE_SECONDS = 5.0
# Steps alone: what the relay does to a document is nobody's news.
STEPS: list[Document] = [
    {"$match": {"operationType": "update", "updateDescription.updatedFields.version": {"$exists": True}}},
    {"$project": {"documentKey": 1}},
]


class OrderChangeNotifier:
    """Bells, one for each who waits, rung when their order has changed or may have."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._bells: dict[str, set[threading.Event]] = {}
        self._thread: threading.Thread | None = None
        self._last_used = 0.0
        self._token: Any = None
        self.ending = False

    @property
    def streaming(self) -> bool:
        """Whether the stream runs, or tries to."""
        return self._thread is not None

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._lock:
            return sum(map(len, self._bells.values()))

    def until(self, order_id: str, look: Callable[[], T], enough: Callable[[T], bool], seconds: float) -> T:
        """What `look` last found: as soon as that is `enough`, when `seconds` are over or the process ends.

        Raises what the first look raises, and Unavailable only where it still stands at the end.
        """
        ends = time.monotonic() + seconds
        found = look()
        if enough(found) or self.ending or seconds <= 0:
            return found
        with self._bell(order_id) as bell:
            while True:
                bell.clear()
                over = self.ending or time.monotonic() >= ends
                try:
                    found = look()
                except Unavailable:
                    if over:
                        raise
                else:
                    if over or enough(found):
                        return found
                bell.wait(min(LOOK_AGAIN_SECONDS, max(0.0, ends - time.monotonic())))

    @contextmanager
    def _bell(self, order_id: str) -> Iterator[threading.Event]:
        bell = threading.Event()
        with self._lock:
            self._bells.setdefault(order_id, set()).add(bell)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="orders-watch", daemon=True)
                self._thread.start()
        try:
            yield bell
        finally:
            with self._lock:
                self._last_used = time.monotonic()
                self._bells[order_id].discard(bell)
                if not self._bells[order_id]:
                    del self._bells[order_id]

    def _run(self) -> None:
        while self._wanted():
            try:
                self._follow()
            except Exception as exc:
                # A server that was away knows the token; one that says no would say it again to the same token.
                if not (isinstance(exc, PyMongoError) and is_transient(exc)):
                    self._token = None
                log.warning("watch broke off", module="orders", reason=str(exc)[:200])
                time.sleep(RETRY_SECONDS)

    def _follow(self) -> None:
        with self._open() as stream:
            self._ring_all()
            while stream.alive and self._wanted():
                with pymongo.timeout(DEADLINE_SECONDS):
                    change = stream.try_next()
                self._token = stream.resume_token
                if change:
                    self._ring(change["documentKey"]["_id"])
            if not stream.alive:
                self._token = None

    def _open(self) -> Any:
        with pymongo.timeout(DEADLINE_SECONDS):
            return self._store.collection.watch(STEPS, resume_after=self._token, max_await_time_ms=AWAIT_MS)

    def _wanted(self) -> bool:
        """Whether to go on; where not, the next to wait starts anew."""
        with self._lock:
            unused = not self._bells and time.monotonic() - self._last_used > IDLE_SECONDS
            if unused or self.ending:
                self._thread = self._token = None
                self._ring_each()
            return self._thread is not None

    def _ring(self, key: ObjectId) -> None:
        with self._lock:
            for bell in self._bells.get(str(key), ()):
                bell.set()

    def _ring_all(self) -> None:
        with self._lock:
            self._ring_each()

    def _ring_each(self) -> None:
        for bells in self._bells.values():
            for bell in bells:
                bell.set()
