"""Wakes requests that wait for a change of an order: one change stream of the orders in each process.

The stream runs while a request waits, and IDLE_SECONDS longer. After an error it resumes from its last token. A waiting request
also reads its order when the stream starts and once a second, so the stream only decides how soon a change is seen.
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

POLL_SECONDS = 1.0
IDLE_SECONDS = 10.0
RETRY_SECONDS = 0.5
# How long the server waits for a change before it answers; a stop is noticed after this time.
AWAIT_MS = 250
DEADLINE_SECONDS = 5.0
# Changes of an order's version only, not what the relay does to the document.
VERSION_CHANGES: list[Document] = [
    {"$match": {"operationType": "update", "updateDescription.updatedFields.version": {"$exists": True}}},
    {"$project": {"documentKey": 1}},
]


class OrderChangeNotifier:
    """Notifies each waiter when its order has changed, or may have."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waiters: dict[str, set[threading.Event]] = {}
        self._thread: threading.Thread | None = None
        self._last_used = 0.0
        self._token: Any = None
        self.stopping = False

    @property
    def streaming(self) -> bool:
        """Whether the stream runs or tries to start."""
        return self._thread is not None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        with self._lock:
            return sum(map(len, self._waiters.values()))

    def stop(self, timeout: float) -> None:
        """Let all waiting requests return, and end the thread within `timeout` seconds."""
        self.stopping = True
        if thread := self._thread:
            thread.join(timeout)

    def wait_until(self, order_id: str, read: Callable[[], T], done: Callable[[T], bool], seconds: float) -> T:
        """Return what `read` returns once `done` accepts it, after `seconds`, or when the process stops.

        Raises what the first read raises; a later Unavailable only if the last read raises it.
        """
        ends = time.monotonic() + seconds
        found = read()
        if done(found) or self.stopping or seconds <= 0:
            return found
        with self._waiter(order_id) as changed:
            while True:
                changed.clear()
                over = self.stopping or time.monotonic() >= ends
                try:
                    found = read()
                except Unavailable:
                    if over:
                        raise
                else:
                    if over or done(found):
                        return found
                changed.wait(min(POLL_SECONDS, max(0.0, ends - time.monotonic())))

    @contextmanager
    def _waiter(self, order_id: str) -> Iterator[threading.Event]:
        changed = threading.Event()
        with self._lock:
            self._waiters.setdefault(order_id, set()).add(changed)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="orders-notifier", daemon=True)
                self._thread.start()
        try:
            yield changed
        finally:
            with self._lock:
                self._last_used = time.monotonic()
                self._waiters[order_id].discard(changed)
                if not self._waiters[order_id]:
                    del self._waiters[order_id]

    def _run(self) -> None:
        while self._in_use():
            try:
                self._follow()
            except Exception as exc:
                # After a lost connection the token is still valid; any other error would come again with the same token.
                if not (isinstance(exc, PyMongoError) and is_transient(exc)):
                    self._token = None
                log.warning("change stream failed", module="orders", reason=str(exc)[:200])
                time.sleep(RETRY_SECONDS)

    def _follow(self) -> None:
        with self._open() as stream:
            self._notify_all()
            while stream.alive and self._in_use():
                with pymongo.timeout(DEADLINE_SECONDS):
                    change = stream.try_next()
                self._token = stream.resume_token
                if change:
                    self._notify(change["documentKey"]["_id"])
            if not stream.alive:
                self._token = None

    def _open(self) -> Any:
        with pymongo.timeout(DEADLINE_SECONDS):
            return self._store.collection.watch(VERSION_CHANGES, resume_after=self._token, max_await_time_ms=AWAIT_MS)

    def _in_use(self) -> bool:
        """Whether the stream must go on. If not, the next waiter starts a new one."""
        with self._lock:
            unused = not self._waiters and time.monotonic() - self._last_used > IDLE_SECONDS
            if unused or self.stopping:
                self._thread = self._token = None
                self._set_all()
            return self._thread is not None

    def _notify(self, key: ObjectId) -> None:
        with self._lock:
            for changed in self._waiters.get(str(key), ()):
                changed.set()

    def _notify_all(self) -> None:
        with self._lock:
            self._set_all()

    def _set_all(self) -> None:
        for waiters in self._waiters.values():
            for changed in waiters:
                changed.set()
