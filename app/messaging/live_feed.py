"""The live feed: the steps of every process, in a capped collection that anyone may follow. For eyes, not for record.

Bounded on purpose: a process tells at most about RATE lines a second and keeps few in memory, so that watching can
never slow the work; what matters for good is in the orders' timelines. Where there is more to tell, it tells of some
orders whole and of the others nothing; how many steps there really were, and how long they took, stands in one tally
a second.
"""

import os
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pymongo
from pymongo import CursorType, WriteConcern
from pymongo.cursor import Cursor
from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from app.contracts.base import Unavailable
from app.observability.stages import Stage
from app.observability.supervision import BackgroundThread
from app.storage.mongodb import NAMESPACE_EXISTS, Document, Store

RATE = 100
PAUSE = 0.05
CAPPED_BYTES = 8 * 1024 * 1024
# What an order that is told whole will cost, and how many of those are kept in mind.
LINES_OF_ORDER = len(Stage)
CHOSEN = 1024
# Somebody waits to see what comes of these requests: told on credit.
WATCHED = ("console-", "demo-")
# So long after an order was left out, lines of orders that are not known here count as its likes.
CROWDED_SECONDS = 5.0
TALLY_SECONDS = 1.0
SAMPLED = 256
AWAIT_MS = 100
BATCH_SECONDS = 0.1
STEPS_SHOWN = 100
# So late a line may come after one that was told later by another process.
LATE_SECONDS = 2.0
REMEMBERED = 8192


class Tally:
    """How often each step happened, and how long it took: of the newest SAMPLED times alone."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._times: dict[str, deque[float]] = {}

    def add(self, step: str, lines: Sequence[Document]) -> None:
        """Count a step of some orders."""
        if step not in self._counts:
            self._counts[step], self._times[step] = 0, deque(maxlen=SAMPLED)
        self._counts[step] += len(lines)
        self._times[step].extend([line["took_ms"] for line in lines])

    def steps(self) -> Document:
        """By step the count, the median and the 99th percentile in milliseconds."""
        return {step: self._told(step) for step in self._counts}

    def _told(self, step: str) -> Document:
        times = sorted(self._times[step])
        return {"count": self._counts[step], "p50": _percentile(times, 0.5), "p99": _percentile(times, 0.99)}


class LiveFeed:
    """Takes lines from `story.tell_each`, and gives them to followers in whatever process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lines: queue.Queue[Document] = queue.Queue(2 * RATE)
        self._allowance = float(RATE)
        self._refilled = time.monotonic()
        self._chosen: OrderedDict[str, None] = OrderedDict()
        self._crowded_until = 0.0
        self._tally = Tally()
        self._process = f"{os.getpid()}-{uuid4().hex[:6]}"
        self._stopping = threading.Event()
        self.thread = BackgroundThread("feed", self._run)
        self.draining = False

    def prepare(self) -> None:
        """Create the capped collection and its index; safe to repeat."""
        with self._store.with_deadline() as lines:
            try:
                lines.database.create_collection(lines.name, capped=True, size=CAPPED_BYTES)
            except (CollectionInvalid, OperationFailure) as exc:
                if isinstance(exc, OperationFailure) and exc.code != NAMESPACE_EXISTS:
                    raise
                # Where modules run apart, another may have told of a step before this was made.
                if not lines.options().get("capped"):
                    lines.database.command("convertToCapped", lines.name, size=CAPPED_BYTES)
            lines.create_indexes([pymongo.IndexModel([("order_id", 1)], name="of_order")])

    def start(self) -> None:
        """Start handing lines over."""
        self.thread.start()

    def stop(self) -> None:
        """Hand over what is left, then end."""
        self.draining = True
        self._stopping.set()
        self.thread.join(2.0)

    def take(self, step: str, at: float, lines: Sequence[Document]) -> None:
        """Take the lines of one step; forgets those of some orders when there are too many."""
        self._tally.add(step, lines)
        now = time.monotonic()
        self._allowance = min(RATE, self._allowance + (now - self._refilled) * RATE)
        self._refilled = now
        for line in lines:
            if line["order_id"] in self._chosen or self._admits(step, line, now):
                with suppress(queue.Full):
                    self._lines.put_nowait({"step": step, "at": at, "process": self._process, **line})

    def follow(self, wanted: Document, seconds: float) -> Iterator[Document]:
        """Lines that match `wanted`, for so many seconds, as they come in from any process. Raises Unavailable."""
        for batch in self._batches(wanted, time.monotonic() + seconds):
            yield from batch

    def watch(self, since: float, seconds: float) -> Iterator[list[Document]]:
        """Lines and tallies told since a time in seconds since 1970, in batches, an empty one now and then.

        Ends after so many seconds, and when this process does. Raises Unavailable.
        """
        wanted = {"at": {"$gte": since}}
        for batch in self._batches(wanted, time.monotonic() + seconds):
            # Where the cursor has to be opened anew, it need not begin where it began.
            newest = max((line["at"] for line in batch), default=since)
            wanted["at"]["$gte"] = max(wanted["at"]["$gte"], newest - LATE_SECONDS)
            yield batch

    def of_order(self, order_id: str) -> list[Document]:
        """What is still known of an order's steps, oldest first. Raises Unavailable."""
        with self._store.with_deadline() as lines:
            found = list(lines.find({"order_id": order_id}, {"_id": 0}).limit(STEPS_SHOWN))
        return sorted(found, key=lambda line: float(line["at"]))

    def _admits(self, step: str, line: Document, now: float) -> bool:
        """Whether to tell of an order that was not chosen before."""
        if step != Stage.GATEWAY_RECEIVED:
            # Begun elsewhere or long ago, unless it is one that was left out just now.
            if now < self._crowded_until or self._allowance < 1:
                return False
            self._allowance -= 1
            return True
        least = -RATE if line["request_id"].startswith(WATCHED) else LINES_OF_ORDER
        if self._allowance < least:
            self._crowded_until = now + CROWDED_SECONDS
            return False
        self._allowance -= LINES_OF_ORDER
        self._chosen[line["order_id"]] = None
        if len(self._chosen) > CHOSEN:
            self._chosen.popitem(last=False)
        return True

    def _batches(self, wanted: Document, ends: float) -> Iterator[list[Document]]:
        seen: OrderedDict[Any, None] = OrderedDict()
        while time.monotonic() < ends and not self.draining:
            try:
                for batch in self._tail(wanted, ends):
                    fresh = [line for line in batch if line["_id"] not in seen]
                    seen.update((line["_id"], None) for line in fresh)
                    while len(seen) > REMEMBERED:
                        seen.popitem(last=False)
                    yield fresh
            except PyMongoError as exc:
                raise Unavailable(f"the feed cannot be followed: {exc}") from exc
            yield []
            time.sleep(PAUSE)  # A cursor on nothing dies at once.

    def _tail(self, wanted: Document, ends: float) -> Iterator[list[Document]]:
        # With read concern majority a tailable cursor opened on the very first lines stays alive and empty.
        local = self._store.collection.with_options(read_concern=ReadConcern("local"))
        lines = local.find(wanted, cursor_type=CursorType.TAILABLE_AWAIT).max_await_time_ms(AWAIT_MS)
        while lines.alive and time.monotonic() < ends and not self.draining:
            yield _batch(lines)

    def _run(self) -> None:
        tally_at = time.monotonic() + TALLY_SECONDS
        while not self._stopping.wait(PAUSE):
            self.thread.beat()
            self._hand_over()
            if time.monotonic() >= tally_at:
                tally_at += TALLY_SECONDS
                self._hand_over_tally()
        self._hand_over()

    def _hand_over(self) -> None:
        batch: list[Any] = []
        with suppress(queue.Empty):
            while True:
                batch.append(self._lines.get_nowait())
        self._send(batch)

    def _hand_over_tally(self) -> None:
        told, self._tally = self._tally, Tally()
        # Whoever was about to add to the old one has done so by then; that is not worth a lock for each step.
        self._stopping.wait(PAUSE)
        steps = told.steps()
        if steps:
            self._send([{"process": self._process, "at": time.time(), "tally": steps}])

    def _send(self, batch: list[Document]) -> None:
        if batch:
            unacknowledged = self._store.collection.with_options(write_concern=WriteConcern(w=0))
            with suppress(PyMongoError):
                unacknowledged.insert_many(batch, ordered=False)


def _batch(lines: Cursor[Document]) -> list[Document]:
    """What a tailing cursor has by now; it waits a moment for the first."""
    ends, batch = time.monotonic() + BATCH_SECONDS, []
    for line in lines:
        batch.append(line)
        if time.monotonic() >= ends:
            break
    return batch


def _percentile(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(len(times) * share))] if times else 0.0
