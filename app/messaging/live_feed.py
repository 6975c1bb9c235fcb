"""The live feed: the stages of recent orders from all processes, in a capped collection. For display, not a record.

A process sends about LINES_PER_SECOND lines at most and buffers few in memory, so the feed never slows the work. Above that rate it
samples: it sends all lines of some orders and none of the others. The counts and durations of all stages, sampled or
not, follow once a second as statistics. The durable record is the orders' timelines.
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
from app.observability.supervision import BackgroundThread, Heartbeat
from app.storage.mongodb import NAMESPACE_EXISTS, Document, Store

LINES_PER_SECOND = 100
POLL_SECONDS = 0.05
CAPPED_BYTES = 8 * 1024 * 1024
LINES_PER_ORDER = len(Stage)
MAX_SAMPLED_ORDERS = 1024
# A user waits for the stages of these requests, so they may overdraw the allowance.
PRIORITY_PREFIXES = ("console-", "demo-")
# For so long after an order was left out, the lines of unknown orders are left out too: they probably belong to it.
SATURATED_SECONDS = 5.0
STATISTICS_SECONDS = 1.0
MAX_DURATIONS = 256
AWAIT_MS = 100
BATCH_SECONDS = 0.1
MAX_STAGES_SHOWN = 100
# Another process may insert a line so much later than a newer one.
MAX_DELAY_SECONDS = 2.0
MAX_SEEN_IDS = 8192
STOP_SECONDS = 2.0


class StageStatistics:
    """Count and duration percentiles of each stage. The percentiles cover the newest MAX_DURATIONS durations only."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._durations: dict[str, deque[float]] = {}

    def add(self, stage: str, lines: Sequence[Document]) -> None:
        """Count a stage of some orders."""
        if stage not in self._counts:
            self._counts[stage], self._durations[stage] = 0, deque(maxlen=MAX_DURATIONS)
        self._counts[stage] += len(lines)
        self._durations[stage].extend([line["took_ms"] for line in lines])

    def summary(self) -> Document:
        """By stage: the count, the median and the 99th percentile in milliseconds."""
        return {stage: self._summary_of(stage) for stage in self._counts}

    def _summary_of(self, stage: str) -> Document:
        durations = sorted(self._durations[stage])
        return {
            "count": self._counts[stage],
            "p50": _percentile(durations, 0.5),
            "p99": _percentile(durations, 0.99),
        }


class LiveFeed:
    """A stage subscriber that sends sampled lines to the collection, and reads the lines of all processes from it."""

    def __init__(self, store: Store, *, creates_collection: bool = True) -> None:
        self._store = store
        self._unacknowledged = store.collection.with_options(write_concern=WriteConcern(w=0))
        self._creates_collection = creates_collection
        self._lines: queue.Queue[Document] = queue.Queue(2 * LINES_PER_SECOND)
        self._allowance = float(LINES_PER_SECOND)
        self._refilled_at = time.monotonic()
        self._sampled_orders: OrderedDict[str, None] = OrderedDict()
        self._saturated_until = 0.0
        self._statistics = StageStatistics()
        self._process = f"{os.getpid()}-{uuid4().hex[:6]}"
        self._stopping = threading.Event()
        self.thread = BackgroundThread("live-feed", self._run)
        self.draining = False

    def prepare(self) -> None:
        """Create the capped collection and its index, if this process shall. Safe to repeat."""
        if not self._creates_collection:
            return
        with self._store.with_deadline() as lines:
            try:
                lines.database.create_collection(lines.name, capped=True, size=CAPPED_BYTES)
            except (CollectionInvalid, OperationFailure) as exc:
                if isinstance(exc, OperationFailure) and exc.code != NAMESPACE_EXISTS:
                    raise
                # With modules in separate processes, another may have inserted a line before and so created it uncapped.
                if not lines.options().get("capped"):
                    lines.database.command("convertToCapped", lines.name, size=CAPPED_BYTES)
            lines.create_indexes([pymongo.IndexModel([("order_id", 1)], name="order_id")])

    def start(self) -> None:
        """Start the thread that sends lines."""
        self.thread.start()

    def drain(self) -> None:
        """Let followers end. Safe in a signal handler: sets a flag only."""
        self.draining = True

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Send the buffered lines and end the thread, within `timeout` and at most STOP_SECONDS."""
        self.drain()
        self._stopping.set()
        self.thread.join(min(timeout, STOP_SECONDS))

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """The heartbeat of the thread that sends lines."""
        return (self.thread,)

    def ingest(self, stage: str, at: float, lines: Sequence[Document]) -> None:
        """Buffer the lines of one stage for sending, those of sampled orders only."""
        self._statistics.add(stage, lines)
        now = time.monotonic()
        self._allowance = min(LINES_PER_SECOND, self._allowance + (now - self._refilled_at) * LINES_PER_SECOND)
        self._refilled_at = now
        for line in lines:
            if line["order_id"] in self._sampled_orders or self._should_sample(stage, line, now):
                with suppress(queue.Full):
                    self._lines.put_nowait({"stage": stage, "at": at, "process": self._process, **line})

    def follow(self, query: Document, seconds: float) -> Iterator[Document]:
        """New lines of all processes that match `query`, for `seconds`. Raises Unavailable."""
        for batch in self._batches(query, time.monotonic() + seconds):
            yield from batch

    def follow_since(self, since: float, seconds: float) -> Iterator[list[Document]]:
        """Batches of lines and statistics from `since` (seconds since 1970) on; an empty batch now and then.

        Ends after `seconds`, and when this process drains. Raises Unavailable.
        """
        query = {"at": {"$gte": since}}
        for batch in self._batches(query, time.monotonic() + seconds):
            # A cursor that is reopened need not return old lines again.
            newest = max((line["at"] for line in batch), default=since)
            query["at"]["$gte"] = max(query["at"]["$gte"], newest - MAX_DELAY_SECONDS)
            yield batch

    def stages_of_order(self, order_id: str) -> list[Document]:
        """The lines of one order that are still in the collection, oldest first. Raises Unavailable."""
        with self._store.with_deadline() as lines:
            found = list(lines.find({"order_id": order_id}, {"_id": 0}).limit(MAX_STAGES_SHOWN))
        return sorted(found, key=lambda line: float(line["at"]))

    def _should_sample(self, stage: str, line: Document, now: float) -> bool:
        """Whether to send the line of an order that is not sampled yet."""
        if stage != Stage.GATEWAY_RECEIVED:
            # The order started in another process or long ago, or was left out a moment ago.
            if now < self._saturated_until or self._allowance < 1:
                return False
            self._allowance -= 1
            return True
        minimum = -LINES_PER_SECOND if line["request_id"].startswith(PRIORITY_PREFIXES) else LINES_PER_ORDER
        if self._allowance < minimum:
            self._saturated_until = now + SATURATED_SECONDS
            return False
        self._allowance -= LINES_PER_ORDER
        self._sampled_orders[line["order_id"]] = None
        if len(self._sampled_orders) > MAX_SAMPLED_ORDERS:
            self._sampled_orders.popitem(last=False)
        return True

    def _batches(self, query: Document, ends: float) -> Iterator[list[Document]]:
        seen: OrderedDict[Any, None] = OrderedDict()
        while time.monotonic() < ends and not self.draining:
            try:
                for batch in self._tail(query, ends):
                    fresh = [line for line in batch if line["_id"] not in seen]
                    seen.update((line["_id"], None) for line in fresh)
                    while len(seen) > MAX_SEEN_IDS:
                        seen.popitem(last=False)
                    yield fresh
            except PyMongoError as exc:
                raise Unavailable(f"the live feed cannot be read: {exc}") from exc
            yield []
            time.sleep(POLL_SECONDS)  # A tailable cursor on an empty result ends at once.

    def _tail(self, query: Document, ends: float) -> Iterator[list[Document]]:
        # With read concern majority, a tailable cursor opened on the first lines of a collection stays alive and empty.
        local = self._store.collection.with_options(read_concern=ReadConcern("local"))
        lines = local.find(query, cursor_type=CursorType.TAILABLE_AWAIT).max_await_time_ms(AWAIT_MS)
        while lines.alive and time.monotonic() < ends and not self.draining:
            yield _next_batch(lines)

    def _run(self) -> None:
        statistics_at = time.monotonic() + STATISTICS_SECONDS
        while not self._stopping.wait(POLL_SECONDS):
            self.thread.beat()
            self._send_lines()
            if time.monotonic() >= statistics_at:
                statistics_at += STATISTICS_SECONDS
                self._send_statistics()
        self._send_lines()

    def _send_lines(self) -> None:
        batch: list[Any] = []
        with suppress(queue.Empty):
            while True:
                batch.append(self._lines.get_nowait())
        self._send(batch)

    def _send_statistics(self) -> None:
        finished, self._statistics = self._statistics, StageStatistics()
        # A thread may still be adding to the finished one. The pause lets it end, without a lock on every stage.
        self._stopping.wait(POLL_SECONDS)
        summary = finished.summary()
        if summary:
            self._send([{"process": self._process, "at": time.time(), "statistics": summary}])

    def _send(self, batch: list[Document]) -> None:
        if batch:
            with suppress(PyMongoError):
                self._unacknowledged.insert_many(batch, ordered=False)


def _next_batch(lines: Cursor[Document]) -> list[Document]:
    """The lines that a tailable cursor returns within BATCH_SECONDS; it waits up to AWAIT_MS for the first."""
    ends, batch = time.monotonic() + BATCH_SECONDS, []
    for line in lines:
        batch.append(line)
        if time.monotonic() >= ends:
            break
    return batch


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
