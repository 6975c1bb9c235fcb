"""The outbox: undelivered events, stored inside the document that they are about.

The array `outbox` of a document is written by the same command as the state that its events report, so neither can
exist without the other. The relay delivers the events at least once and in order: from the local queue at once, in the
process that wrote them, and by a sweep if that process died or a receiver failed. A write that adds an event takes the
document's relay lease (`relayDue`) for its process; a document whose lease has expired is due.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pymongo

from app.contracts.base import Event, analyse, subclasses_by_name
from app.observability import metrics
from app.storage.mongodb import BACKLOG_TIMEOUT_SECONDS, EPOCH, Document, Store
from app.system import SYSTEM, System

EVENT_TYPES: Mapping[str, type[Event]] = subclasses_by_name(Event)
analyse(*EVENT_TYPES.values())


@dataclass(frozen=True, kw_only=True)
class OutboxFields:
    """The names of an outbox's members in a document: a document may have several outboxes, each with a relay of its own.

    With `optional`, the array of events does not exist where there are none.
    """

    events: str
    due: str
    claim: str
    failures: str
    attempts: str
    dead: str
    optional: bool = False

    @property
    def of_relay(self) -> tuple[str, ...]:
        """The members that exist only while there are events."""
        return self.due, self.claim, self.failures, self.attempts, self.dead

    @property
    def unscheduled(self) -> Document:
        """The documents whose events no sweep would ever find, as a filter. Its partial index is normally empty and costs nothing."""
        return {f"{self.events}.event_id": {"$exists": True}, self.due: None, self.dead: None}

    @property
    def emptied(self) -> Document:
        """The update that removes all events."""
        if self.optional:
            return {"$unset": dict.fromkeys((self.events, *self.of_relay), "")}
        return {"$set": {self.events: []}, "$unset": dict.fromkeys(self.of_relay, "")}

    @property
    def schema(self) -> Document:
        """The outbox's part of a collection's schema."""
        entry = {
            "bsonType": "object",
            "required": ["type", "event_id"],
            "properties": {"type": {"bsonType": "string"}, "event_id": {"bsonType": "string"}},
        }
        return {
            self.events: {"bsonType": "array", "items": entry},
            self.due: {"bsonType": "date"},
            self.claim: {"bsonType": "string"},
            self.failures: {"bsonType": "int"},
            self.attempts: {"bsonType": "int"},
            self.dead: {"bsonType": "object"},
        }

    @property
    def rule(self) -> Document:
        """A document with undelivered events has a due time or a dead letter; otherwise no sweep would ever find it."""
        empty = {"properties": {self.events: {"maxItems": 0}}}
        return {"anyOf": [{"required": [self.due]}, {"required": [self.dead]}, empty]}

    def indexes(self, prefix: str = "") -> list[pymongo.IndexModel]:
        """The indexes of the relay; `prefix` begins their names."""
        return [
            pymongo.IndexModel(
                [(self.due, 1)], name=f"{prefix}relay_due", partialFilterExpression={self.due: {"$exists": True}}
            ),
            pymongo.IndexModel(
                [(self.failures, 1), (self.due, 1)],
                name=f"{prefix}relay_retries",
                partialFilterExpression={self.failures: {"$exists": True}},
            ),
            pymongo.IndexModel(
                [(f"{self.events}.event_id", 1)],
                name=f"{prefix}unscheduled",
                partialFilterExpression=self.unscheduled,
            ),
            pymongo.IndexModel(
                [(f"{self.dead}.at", 1)],
                name=f"{prefix}dead_letters",
                partialFilterExpression={f"{self.dead}.at": {"$exists": True}},
            ),
        ]


OUTBOX = OutboxFields(
    events="outbox",
    due="relayDue",
    claim="relayClaim",
    failures="relayFailures",
    attempts="relayAttempts",
    dead="deadLetter",
)
OUTBOX_SCHEMA, OUTBOX_RULE, OUTBOX_INDEXES = OUTBOX.schema, OUTBOX.rule, OUTBOX.indexes()
RELAY_FIELDS, EMPTY_OUTBOX = OUTBOX.of_relay, OUTBOX.emptied


def encode_event(event: Event) -> Document:
    """Encode an event as an outbox entry, without the members that have their default."""
    return {"type": type(event).__name__, **msgspec.to_builtins(event)}


def decode_event(entry: Document) -> Event:
    """Decode an outbox entry. Raises ValueError if it is no event that this version knows."""
    kind = EVENT_TYPES.get(entry.get("type", ""))
    if kind is None:
        raise ValueError(f"unknown event type {entry.get('type')!r}")
    return msgspec.convert(entry, kind)


@dataclass(frozen=True)
class UndecodableEntry:
    """An outbox entry that is no event that this version knows. It blocks the events behind it."""

    type: str
    event_id: str
    error: ValueError


def decode_entries(entries: Iterable[Document]) -> list[Event | UndecodableEntry]:
    """Decode the entries of an outbox, in their order."""
    return [_decode_entry(entry) for entry in entries]


def _decode_entry(entry: Document) -> Event | UndecodableEntry:
    try:
        return decode_event(entry)
    except ValueError as exc:
        return UndecodableEntry(str(entry.get("type")), entry.get("event_id", ""), exc)


@dataclass
class PendingEvents:
    """The undelivered events of one document, oldest first, and the result of delivering them.

    `delivered` has the ids of the events that were removed from `events` because their delivery succeeded; `error` is
    why the first of `events` failed. `from_sweep` is true if a sweep found them. `unfinished_attempts` is how many
    deliveries in a row began and did not end, for example because the process died.
    """

    key: Any
    events: Sequence[Event | UndecodableEntry]
    delivered: list[str] = field(default_factory=list)
    error: Exception | None = None
    from_sweep: bool = False
    unfinished_attempts: int = 0

    @property
    def event_type(self) -> str:
        """The type of the first event."""
        head = self.events[0]
        return head.type if isinstance(head, UndecodableEntry) else type(head).__name__

    def next_event(self) -> Event | None:
        """The event to deliver next; None if all are delivered or one has failed. Fails an undecodable entry."""
        if self.error or not self.events:
            return None
        head = self.events[0]
        if isinstance(head, UndecodableEntry):
            self.error = head.error
            return None
        return head


class Outbox:
    """The outboxes of the documents in one collection, and the local queue of events that this process wrote."""

    LOCAL_QUEUE_LIMIT = 4096

    def __init__(self, store: Store, lease: float, system: System = SYSTEM, fields: OutboxFields = OUTBOX) -> None:
        self._fields = fields
        self._system = system
        self._store = store
        self._lease = timedelta(seconds=lease)
        self._local_queue: deque[PendingEvents] = deque(maxlen=self.LOCAL_QUEUE_LIMIT)
        self._enqueued = threading.Event()
        self._unacknowledged: dict[Any, PendingEvents] = {}

    def enqueue_local(self, key: Any, events: Sequence[Event | UndecodableEntry]) -> None:
        """Queue all undelivered events of a document that was just written, oldest first, for delivery at once.

        This only saves reading them: if the queue overflows or the process dies, a sweep finds them after their lease.
        """
        self._local_queue.append(PendingEvents(key, events))
        if not self._enqueued.is_set():
            self._enqueued.set()

    def dequeue_local(self, limit: int, timeout: float) -> list[PendingEvents]:
        """Take up to `limit` items from the local queue, waiting up to `timeout` seconds for the first."""
        if not self._local_queue and timeout > 0:
            self._system.wait(self._enqueued, timeout)
        # Cleared before the queue is read: an item that is added meanwhile is taken now or ends the next wait.
        self._enqueued.clear()
        batch: list[PendingEvents] = []
        with suppress(IndexError):
            while len(batch) < limit:
                batch.append(self._local_queue.popleft())
        return batch

    def release_local(self) -> None:
        """Make due at once what is left in the local queue, for another process."""
        keys = [pending.key for pending in self.dequeue_local(self.LOCAL_QUEUE_LIMIT, 0.0)]
        due = self._fields.due
        with self._store.with_deadline() as documents:
            documents.update_many({"_id": {"$in": keys}, due: {"$exists": True}}, {"$set": {due: self.now()}})

    def wake(self) -> None:
        """End a wait in `dequeue_local`."""
        self._enqueued.set()

    @property
    def lease_seconds(self) -> float:
        """How long the lease of a write lasts."""
        return self._lease.total_seconds()

    def now(self) -> datetime:
        """The database's time."""
        return self._store.clock.now()

    def lease_end(self) -> datetime:
        """When the lease of a write that is made now expires."""
        return self._store.clock.now() + self._lease

    def backlog(self, limit: int) -> tuple[int, int]:
        """The number of due documents, counted up to `limit`, and the longest delay in milliseconds."""
        return self._store.backlog(self._fields.due, limit)

    def queue(self, limit: int) -> tuple[int, int, int, int]:
        """The numbers of documents that have a due time, are due, wait for a retry, and are dead letters.

        Each is counted up to `limit`.
        """
        waiting, due, retrying, dead = self._store.counts(
            [{self._fields.due: {"$gte": EPOCH}}, *self._unfinished()], limit
        )
        return waiting, due, retrying, dead

    def unfinished(self, limit: int) -> int:
        """The number of documents that are due, wait for a retry or are dead letters, each counted up to `limit`.

        Clients wait for the result, so it raises Unavailable after BACKLOG_TIMEOUT_SECONDS.
        """
        return sum(self._store.counts(self._unfinished(), limit, BACKLOG_TIMEOUT_SECONDS))

    def _unfinished(self) -> tuple[Document, Document, Document]:
        now = self._store.clock.now()
        return (
            {self._fields.due: {"$lte": now}},
            # 0 after an attempt that failed and is not counted.
            {self._fields.failures: {"$gte": 0}, self._fields.due: {"$gt": now}},
            {f"{self._fields.dead}.at": {"$gte": EPOCH}},
        )

    def find_stuck(self, dead: bool, overdue: float, limit: int) -> list[str]:
        """The keys of documents that are dead letters, or overdue by `overdue` seconds; the oldest first."""
        by = f"{self._fields.dead}.at" if dead else self._fields.due
        since = self._store.clock.now() - timedelta(seconds=0.0 if dead else overdue)
        with self._store.with_deadline() as documents:
            found = documents.find({by: {"$lte": since}}, {"_id": 1}).sort(by, 1).limit(limit)
            return [str(doc["_id"]) for doc in found]

    def claim(self, limit: int) -> list[PendingEvents]:
        """Take the lease of up to `limit` documents that are due, and read their events.

        Documents with unfinished attempts are claimed one at a time, after all others: an event that kills the process
        that delivers it must not count against its neighbours.
        """
        names = self._fields
        now = self._store.clock.now()
        due = {names.due: {"$lte": now}}
        with self._store.with_deadline() as documents:
            found = documents.find(due, {"_id": 1, names.attempts: 1}).sort(names.due, 1).limit(limit)
            attempts = {doc["_id"]: doc.get(names.attempts, 0) for doc in found}
            keys = [key for key, count in attempts.items() if not count] or list(attempts)[:1]
            if not keys:
                return []
            claim = self._system.new_id()
            lease = {names.due: self.lease_end(), names.claim: claim, names.attempts: attempts[keys[0]] or 1}
            documents.update_many({"_id": {"$in": keys}, **due}, {"$set": lease})
            return [
                PendingEvents(
                    doc["_id"],
                    decode_entries(doc.get(names.events, ())),
                    from_sweep=True,
                    unfinished_attempts=attempts[doc["_id"]],
                )
                for doc in documents.find({"_id": {"$in": keys}, names.claim: claim}, {names.events: 1})
            ]

    def count_attempt(self, key: Any) -> None:
        """Count an attempt that begins. Its end removes the count, so only unfinished attempts add up."""
        with self._store.with_deadline() as documents:
            documents.update_one(
                {"_id": key, self._fields.due: {"$exists": True}}, {"$inc": {self._fields.attempts: 1}}
            )

    def schedule_unscheduled(self) -> int:
        """Make documents due that have events but neither a due time nor a dead letter; returns their number."""
        with self._store.with_deadline() as documents:
            update = {"$set": {self._fields.due: self._store.clock.now()}}
            return documents.update_many(self._fields.unscheduled, update).modified_count

    def acknowledge(self, batch: Iterable[PendingEvents]) -> None:
        """Remove delivered events; a document that has none left is no longer due."""
        done = [pending for pending in batch if pending.delivered or not pending.events]
        if not done:
            return
        keys = [pending.key for pending in done]
        event_ids = [event_id for pending in done for event_id in pending.delivered]
        with self._store.with_deadline() as documents:
            # In nearly all documents every event is delivered: an update without pipeline costs half as much.
            undelivered = {"$elemMatch": {"event_id": {"$nin": event_ids}}}
            all_delivered = {"_id": {"$in": keys}, self._fields.events: {"$not": undelivered}}
            emptied = documents.update_many(all_delivered, self._fields.emptied).matched_count
            if emptied < len(keys):
                rest = {"_id": {"$in": keys}, f"{self._fields.events}.event_id": {"$in": event_ids}}
                update = _remove_delivered(self._fields, event_ids, self._store.clock.now())
                documents.update_many(rest, update)

    def acknowledge_later(self, batch: Iterable[PendingEvents]) -> None:
        """Remember delivered events, to remove them with another write or with many others in one command."""
        for pending in batch:
            if pending.delivered or not pending.events:
                known = self._unacknowledged.get(pending.key)
                # What was delivered before may not be in this batch: then it would be delivered again.
                pending.delivered = [*(known.delivered if known else ()), *pending.delivered]
                self._unacknowledged[pending.key] = pending

    def mark_acknowledged(self, key: Any) -> None:
        """Forget a document whose outbox another write has emptied."""
        self._unacknowledged.pop(key, None)

    def is_delivered(self, key: Any) -> bool:
        """Whether this process has delivered events of a document that are not removed yet; there may be others."""
        return key in self._unacknowledged

    @property
    def unacknowledged(self) -> int:
        """The number of documents that wait for `acknowledge_all`."""
        return len(self._unacknowledged)

    def acknowledge_all(self) -> None:
        """Remove all remembered events. If this fails, they are delivered again after their lease.

        Those of a document whose next event is queued stay: they are removed with it, and its write has taken a new lease.
        """
        queued = {pending.key for pending in [*self._local_queue]}
        known, self._unacknowledged = self._unacknowledged, {}
        done: dict[Any, PendingEvents] = {}
        for key, pending in [*known.items()]:
            (self._unacknowledged if key in queued else done)[key] = pending
        if done:
            metrics.batch_sizes.labels("acknowledgements").observe(len(done))
        self.acknowledge(done.values())

    def postpone(self, key: Any, seconds: float) -> None:
        """Make a document due again in `seconds`, after an attempt that ended without success."""
        due = self._store.clock.now() + timedelta(seconds=seconds)
        # Adding 0 creates the field if it is missing: it marks a document that waits for a retry.
        names = self._fields
        later = {"$set": {names.due: due}, "$inc": {names.failures: 0}, "$unset": {names.attempts: ""}}
        with self._store.with_deadline() as documents:
            documents.update_one({"_id": key, names.due: {"$exists": True}}, later)

    def count_failure(self, key: Any, event_id: Any) -> int:
        """Count a failure of a document's oldest event. Returns the new count, 0 if the event is no longer there."""
        with self._store.with_deadline() as documents:
            # Two commands: in a sharded collection an older MongoDB refuses find_one_and_update without the shard key.
            failures = self._fields.failures
            counted = documents.update_one(self._oldest(key, event_id), {"$inc": {failures: 1}})
            after = documents.find_one({"_id": key}, {failures: 1}) if counted.modified_count else None
        return after.get(failures, 0) if after else 0

    def dead_letter(self, key: Any, event_id: str, reason: str, failures: int) -> None:
        """Make a document's oldest event a dead letter; the events behind it wait until it is replayed."""
        letter = {"reason": reason, "event_id": event_id, "failures": failures, "at": self._store.clock.now()}
        names = self._fields
        ended = dict.fromkeys((names.due, names.claim, names.attempts), "")
        with self._store.with_deadline() as documents:
            documents.update_one(self._oldest(key, event_id), {"$set": {names.dead: letter}, "$unset": ended})

    def _oldest(self, key: Any, event_id: Any) -> Document:
        return {"_id": key, f"{self._fields.events}.0.event_id": event_id}

    def dead_letters(self, limit: int) -> list[Document]:
        """The dead letters, oldest first: each with `_id`, `deadLetter`, `outbox`, and its order's `userId` and `total`."""
        names = self._fields
        at, members = f"{names.dead}.at", dict.fromkeys((names.dead, names.events, "userId", "total"), 1)
        with self._store.with_deadline() as documents:
            found = documents.find({at: {"$exists": True}}, members).sort(at, 1).limit(limit)
            return [{**doc, "deadLetter": doc[names.dead], "outbox": doc[names.events]} for doc in found]

    def replay(self, key: Any, expected: Document | None = None, changes: Document | None = None) -> bool:
        """Make a document's dead letter due again; false if it has none, or has not the members `expected`.

        `changes` is an update of other members in the same write.
        """
        update = dict(changes or {})
        names = self._fields
        update["$set"] = {**update.get("$set", {}), names.due: self.now()}
        update["$unset"] = dict.fromkeys((names.dead, names.failures, names.attempts), "")
        with self._store.with_deadline() as documents:
            dead = {"_id": key, **(expected or {}), f"{names.dead}.at": {"$exists": True}}
            return documents.update_one(dead, update).modified_count == 1


def _remove_delivered(names: OutboxFields, event_ids: list[str], now: datetime) -> list[Document]:
    """The update that removes delivered events, and only those fields of the relay that concern them.

    Meanwhile another process may have delivered the same events, and claimed the next one or made it a dead letter.
    Events that remain therefore stay a dead letter if the failed event is among them, and are due otherwise.
    """
    events, dead_letter = f"${names.events}", f"${names.dead}"
    undelivered = {"$not": {"$in": ["$$this.event_id", event_ids]}}
    left = {"$filter": {"input": {"$ifNull": [events, []]}, "cond": undelivered}}
    head_delivered = {"$in": [{"$arrayElemAt": [f"{events}.event_id", 0]}, event_ids]}
    empty = {"$eq": [{"$size": events}, 0]}
    dead = {"$in": [f"{dead_letter}.event_id", f"{events}.event_id"]}
    counted = (names.failures, names.attempts)
    counts = {name: {"$cond": [head_delivered, "$$REMOVE", f"${name}"]} for name in counted}
    due = {"$cond": [dead, f"${names.due}", {"$ifNull": [f"${names.due}", now]}]}
    kept = (names.claim, *counted, *([names.events] if names.optional else []))
    return [
        {"$set": {names.events: left, **counts}},
        {
            "$set": {
                names.due: {"$cond": [empty, "$$REMOVE", due]},
                **{name: {"$cond": [empty, "$$REMOVE", f"${name}"]} for name in kept},
                names.dead: {"$cond": [dead, dead_letter, "$$REMOVE"]},
            }
        },
    ]
