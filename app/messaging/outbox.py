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
from bson import ObjectId

from app.contracts.base import Event, analyse, subclasses_by_name
from app.observability import metrics
from app.storage.mongodb import BACKLOG_TIMEOUT_SECONDS, EPOCH, Document, Store
from app.system import SYSTEM, System

EVENT_TYPES: Mapping[str, type[Event]] = subclasses_by_name(Event)
analyse(*EVENT_TYPES.values())

# The outbox's part of a collection's schema.
OUTBOX_SCHEMA: Document = {
    "outbox": {
        "bsonType": "array",
        "items": {
            "bsonType": "object",
            "required": ["type", "event_id"],
            "properties": {"type": {"bsonType": "string"}, "event_id": {"bsonType": "string"}},
        },
    },
    "relayDue": {"bsonType": "date"},
    "relayClaim": {"bsonType": "string"},
    "relayFailures": {"bsonType": "int"},
    "relayAttempts": {"bsonType": "int"},
    "deadLetter": {"bsonType": "object"},
}
# A document with undelivered events has a due time or a dead letter; otherwise no sweep would ever find it.
OUTBOX_RULE: Document = {
    "anyOf": [{"required": ["relayDue"]}, {"required": ["deadLetter"]}, {"properties": {"outbox": {"maxItems": 0}}}]
}
# The documents that violate the rule, as a filter. Its partial index is normally empty and costs nothing.
UNSCHEDULED: Document = {"outbox.event_id": {"$exists": True}, "relayDue": None, "deadLetter": None}
OUTBOX_INDEXES = [
    pymongo.IndexModel([("relayDue", 1)], name="relay_due", partialFilterExpression={"relayDue": {"$exists": True}}),
    pymongo.IndexModel(
        [("relayFailures", 1), ("relayDue", 1)],
        name="relay_retries",
        partialFilterExpression={"relayFailures": {"$exists": True}},
    ),
    pymongo.IndexModel([("outbox.event_id", 1)], name="unscheduled", partialFilterExpression=UNSCHEDULED),
    pymongo.IndexModel(
        [("deadLetter.at", 1)],
        name="dead_letters",
        partialFilterExpression={"deadLetter.at": {"$exists": True}},
    ),
]


RELAY_FIELDS = ("relayDue", "relayClaim", "relayFailures", "relayAttempts", "deadLetter")
EMPTY_OUTBOX: Document = {"$set": {"outbox": []}, "$unset": dict.fromkeys(RELAY_FIELDS, "")}


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

    def __init__(self, store: Store, lease: float, system: System = SYSTEM) -> None:
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

    def wake(self) -> None:
        """End a wait in `dequeue_local`."""
        self._enqueued.set()

    def lease_end(self) -> datetime:
        """When the lease of a write that is made now expires."""
        return self._store.clock.now() + self._lease

    def backlog(self, limit: int) -> tuple[int, int]:
        """The number of due documents, counted up to `limit`, and the longest delay in milliseconds."""
        return self._store.backlog("relayDue", limit)

    def queue(self, limit: int) -> tuple[int, int, int, int]:
        """The numbers of documents that have a due time, are due, wait for a retry, and are dead letters.

        Each is counted up to `limit`.
        """
        waiting, due, retrying, dead = self._store.counts([{"relayDue": {"$gte": EPOCH}}, *self._unfinished()], limit)
        return waiting, due, retrying, dead

    def unfinished(self, limit: int) -> int:
        """The number of documents that are due, wait for a retry or are dead letters, each counted up to `limit`.

        Clients wait for the result, so it raises Unavailable after BACKLOG_TIMEOUT_SECONDS.
        """
        return sum(self._store.counts(self._unfinished(), limit, BACKLOG_TIMEOUT_SECONDS))

    def _unfinished(self) -> tuple[Document, Document, Document]:
        now = self._store.clock.now()
        return (
            {"relayDue": {"$lte": now}},
            # 0 after an attempt that failed and is not counted.
            {"relayFailures": {"$gte": 0}, "relayDue": {"$gt": now}},
            {"deadLetter.at": {"$gte": EPOCH}},
        )

    def find_stuck(self, dead: bool, overdue: float, limit: int) -> list[str]:
        """The keys of documents that are dead letters, or overdue by `overdue` seconds; the oldest first."""
        by = "deadLetter.at" if dead else "relayDue"
        since = self._store.clock.now() - timedelta(seconds=0.0 if dead else overdue)
        with self._store.with_deadline() as documents:
            found = documents.find({by: {"$lte": since}}, {"_id": 1}).sort(by, 1).limit(limit)
            return [str(doc["_id"]) for doc in found]

    def claim(self, limit: int) -> list[PendingEvents]:
        """Take the lease of up to `limit` documents that are due, and read their events.

        Documents with unfinished attempts are claimed one at a time, after all others: an event that kills the process
        that delivers it must not count against its neighbours.
        """
        now = self._store.clock.now()
        due = {"relayDue": {"$lte": now}}
        with self._store.with_deadline() as documents:
            found = documents.find(due, {"_id": 1, "relayAttempts": 1}).sort("relayDue", 1).limit(limit)
            attempts = {doc["_id"]: doc.get("relayAttempts", 0) for doc in found}
            keys = [key for key, count in attempts.items() if not count] or list(attempts)[:1]
            if not keys:
                return []
            claim = self._system.new_id()
            lease = {"relayDue": self.lease_end(), "relayClaim": claim, "relayAttempts": attempts[keys[0]] or 1}
            documents.update_many({"_id": {"$in": keys}, **due}, {"$set": lease})
            return [
                PendingEvents(
                    doc["_id"],
                    decode_entries(doc["outbox"]),
                    from_sweep=True,
                    unfinished_attempts=attempts[doc["_id"]],
                )
                for doc in documents.find({"_id": {"$in": keys}, "relayClaim": claim}, {"outbox": 1})
            ]

    def count_attempt(self, key: Any) -> None:
        """Count an attempt that begins. Its end removes the count, so only unfinished attempts add up."""
        with self._store.with_deadline() as documents:
            documents.update_one({"_id": key, "relayDue": {"$exists": True}}, {"$inc": {"relayAttempts": 1}})

    def schedule_unscheduled(self) -> int:
        """Make documents due that have events but neither a due time nor a dead letter; returns their number."""
        with self._store.with_deadline() as documents:
            update = {"$set": {"relayDue": self._store.clock.now()}}
            return documents.update_many(UNSCHEDULED, update).modified_count

    def acknowledge(self, batch: Iterable[PendingEvents]) -> None:
        """Remove delivered events; a document that has none left is no longer due."""
        done = [pending for pending in batch if pending.delivered or not pending.events]
        if not done:
            return
        keys = [pending.key for pending in done]
        event_ids = [event_id for pending in done for event_id in pending.delivered]
        with self._store.with_deadline() as documents:
            # In nearly all documents the delivered event is the only one: an update without pipeline costs half as much.
            single = {"_id": {"$in": keys}, "outbox.0.event_id": {"$in": event_ids}, "outbox.1": {"$exists": False}}
            emptied = documents.update_many(single, EMPTY_OUTBOX).modified_count
            if emptied < len(keys):
                documents.update_many({"_id": {"$in": keys}}, _remove_delivered(event_ids, self._store.clock.now()))

    def acknowledge_later(self, batch: Iterable[PendingEvents]) -> None:
        """Remember delivered events, to remove them with another write or with many others in one command."""
        for pending in batch:
            if pending.delivered or not pending.events:
                self._unacknowledged[pending.key] = pending

    def mark_acknowledged(self, key: Any) -> None:
        """Forget a document whose outbox another write has emptied."""
        self._unacknowledged.pop(key, None)

    @property
    def unacknowledged(self) -> int:
        """The number of documents that wait for `acknowledge_all`."""
        return len(self._unacknowledged)

    def acknowledge_all(self) -> None:
        """Remove all remembered events. If this fails, they are delivered again after their lease."""
        done, self._unacknowledged = self._unacknowledged, {}
        if done:
            metrics.batch_sizes.labels("acknowledgements").observe(len(done))
        self.acknowledge(done.values())

    def postpone(self, key: Any, seconds: float) -> None:
        """Make a document due again in `seconds`, after an attempt that ended without success."""
        due = self._store.clock.now() + timedelta(seconds=seconds)
        # Adding 0 creates the field if it is missing: it marks a document that waits for a retry.
        later = {"$set": {"relayDue": due}, "$inc": {"relayFailures": 0}, "$unset": {"relayAttempts": ""}}
        with self._store.with_deadline() as documents:
            documents.update_one({"_id": key, "relayDue": {"$exists": True}}, later)

    def count_failure(self, key: Any, event_id: Any) -> int:
        """Count a failure of a document's oldest event. Returns the new count, 0 if the event is no longer there."""
        with self._store.with_deadline() as documents:
            # Two commands: in a sharded collection an older MongoDB refuses find_one_and_update without the shard key.
            counted = documents.update_one({"_id": key, "outbox.0.event_id": event_id}, {"$inc": {"relayFailures": 1}})
            after = documents.find_one({"_id": key}, {"relayFailures": 1}) if counted.modified_count else None
        return after.get("relayFailures", 0) if after else 0

    def dead_letter(self, key: Any, event_id: str, reason: str, failures: int) -> None:
        """Make a document's oldest event a dead letter; the events behind it wait until it is replayed."""
        letter = {"reason": reason, "event_id": event_id, "failures": failures, "at": self._store.clock.now()}
        with self._store.with_deadline() as documents:
            documents.update_one(
                {"_id": key, "outbox.0.event_id": event_id},
                {
                    "$set": {"deadLetter": letter},
                    "$unset": {"relayDue": "", "relayClaim": "", "relayAttempts": ""},
                },
            )

    def dead_letters(self, limit: int) -> list[Document]:
        """The dead letters, oldest first: each with `_id`, `deadLetter` and `outbox`."""
        with self._store.with_deadline() as documents:
            found = documents.find({"deadLetter.at": {"$exists": True}}, {"deadLetter": 1, "outbox": 1})
            return list(found.sort("deadLetter.at", 1).limit(limit))

    def replay_order(self, order_id: str) -> bool:
        """Make an order's dead letter due again, in a collection whose keys are strings or ObjectIds."""
        keys = [order_id, ObjectId(order_id)] if ObjectId.is_valid(order_id) else [order_id]
        return any(self.replay(key) for key in keys)

    def replay(self, key: Any) -> bool:
        """Make a document's dead letter due again; returns False if it has none."""
        with self._store.with_deadline() as documents:
            changed = documents.update_one(
                {"_id": key, "deadLetter.at": {"$exists": True}},
                {
                    "$set": {"relayDue": self._store.clock.now()},
                    "$unset": {"deadLetter": "", "relayFailures": "", "relayAttempts": ""},
                },
            )
            return changed.modified_count == 1


def _remove_delivered(event_ids: list[str], now: datetime) -> list[Document]:
    """The update that removes delivered events, and only those fields of the relay that concern them.

    Meanwhile another process may have delivered the same events, and claimed the next one or made it a dead letter.
    Events that remain therefore stay a dead letter if the failed event is among them, and are due otherwise.
    """
    left = {"$filter": {"input": "$outbox", "cond": {"$not": {"$in": ["$$this.event_id", event_ids]}}}}
    head_delivered = {"$in": [{"$arrayElemAt": ["$outbox.event_id", 0]}, event_ids]}
    empty = {"$eq": [{"$size": "$outbox"}, 0]}
    dead = {"$in": ["$deadLetter.event_id", "$outbox.event_id"]}
    counts = {name: {"$cond": [head_delivered, "$$REMOVE", f"${name}"]} for name in ("relayFailures", "relayAttempts")}
    due = {"$cond": [dead, "$relayDue", {"$ifNull": ["$relayDue", now]}]}
    return [
        {"$set": {"outbox": left, **counts}},
        {
            "$set": {
                "relayDue": {"$cond": [empty, "$$REMOVE", due]},
                "relayClaim": {"$cond": [empty, "$$REMOVE", "$relayClaim"]},
                "relayFailures": {"$cond": [empty, "$$REMOVE", "$relayFailures"]},
                "relayAttempts": {"$cond": [empty, "$$REMOVE", "$relayAttempts"]},
                "deadLetter": {"$cond": [dead, "$deadLetter", "$$REMOVE"]},
            }
        },
    ]
