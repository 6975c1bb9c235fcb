"""The outbox: events recorded inside the document they are about, and the relay that hands them to the bus.

An event lies in the `outbox` array of its aggregate's own document, written by the same command as the state it
tells of, so neither can exist without the other. The relay hands it on at least once and in order: at once when
hinted by the process that wrote it, and by a sweep when that process died or a receiver failed. Whoever writes an
event holds the document's relay lease (`relayDue`); an expired lease is simply due work.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pymongo
from bson import ObjectId

from app.contracts.base import Event, by_name
from app.observability import metrics
from app.storage.mongodb import BACKLOG_TIMEOUT_SECONDS, EPOCH, Document, Store

EVENT_TYPES: Mapping[str, type[Event]] = by_name(Event)

# What the outbox adds to the schema of a document that has one.
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
# Undelivered events are due at some time or are a dead letter: nothing else would ever look at them again.
OUTBOX_RULE: Document = {
    "anyOf": [{"required": ["relayDue"]}, {"required": ["deadLetter"]}, {"properties": {"outbox": {"maxItems": 0}}}]
}
# What the rule forbids, as a filter. A partial index for it is always empty, so it costs no write and no space.
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


# What an outbox without events looks like; also part of other writes that empty one.
RELAY_FIELDS = ("relayDue", "relayClaim", "relayFailures", "relayAttempts", "deadLetter")
EMPTIED: Document = {"$set": {"outbox": []}, "$unset": dict.fromkeys(RELAY_FIELDS, "")}


def entry_of(event: Event) -> Document:
    """The event as it lies in an outbox."""
    entry = {"type": type(event).__name__, **msgspec.structs.asdict(event)}
    if not event.traceparent:
        del entry["traceparent"]
    return entry


def event_of(entry: Document) -> Event:
    """The event an outbox entry holds. Raises ValueError where it cannot be understood."""
    kind = EVENT_TYPES.get(entry.get("type", ""))
    if kind is None:
        raise ValueError(f"unknown event type {entry.get('type')!r}")
    return msgspec.convert(entry, kind)


@dataclass
class Pending:
    """The undelivered entries of one document, oldest first; `swept` where a sweep found them.

    `unfinished` is how many attempts in a row to deliver them came to no end, as when the process died of it.
    """

    key: Any
    entries: list[Document]
    delivered: list[str] = field(default_factory=list)
    trouble: Exception | None = None
    swept: bool = False
    unfinished: int = 0

    @property
    def type(self) -> str:
        """The type of the entry to hand on next; empty when all are delivered."""
        return str(self.entries[0].get("type")) if self.entries else ""

    def head(self) -> Document | None:
        """The entry to hand on next; none when all are delivered or one is in trouble."""
        return None if self.trouble or not self.entries else self.entries[0]


class Outbox:
    """The outboxes in one collection."""

    HINTS = 4096

    def __init__(self, store: Store, lease: float) -> None:
        self._store = store
        self._lease = timedelta(seconds=lease)
        self._hints: deque[Pending] = deque(maxlen=self.HINTS)
        self._hinted = threading.Event()
        self._unacknowledged: dict[Any, Pending] = {}

    def recorded(self, key: Any, entries: list[Document]) -> None:
        """Say what was just written: all undelivered entries of one document, oldest first.

        Only a hint that saves the relay a look: where it is lost, the sweep finds them when their lease has ended.
        """
        self._hints.append(Pending(key, entries))
        if not self._hinted.is_set():
            self._hinted.set()

    def take_hints(self, limit: int, timeout: float) -> list[Pending]:
        """What was hinted, waiting for the first of it up to `timeout` seconds."""
        if not self._hints and timeout > 0:
            self._hinted.wait(timeout)
        # Cleared before it is looked: what comes in between is taken now or wakes the next call.
        self._hinted.clear()
        batch: list[Pending] = []
        with suppress(IndexError):
            while len(batch) < limit:
                batch.append(self._hints.popleft())
        return batch

    def wake(self) -> None:
        """Let `take_hints` return before its time."""
        self._hinted.set()

    def lease_end(self) -> datetime:
        """When what is written now becomes due for anybody's sweep."""
        return self._store.clock.now() + self._lease

    def backlog(self, limit: int) -> tuple[int, int]:
        """How many documents wait to be taken up, counted up to `limit`, and the longest wait in milliseconds."""
        return self._store.backlog("relayDue", limit)

    def queue(self, limit: int) -> tuple[int, int, int, int]:
        """How many documents have something to hand on, are overdue, wait for another try, and are dead letters.

        Each is counted up to `limit`.
        """
        waiting, due, retrying, dead = self._store.counts([{"relayDue": {"$gte": EPOCH}}, *self._unfinished()], limit)
        return waiting, due, retrying, dead

    def unfinished(self, limit: int) -> int:
        """How many documents are overdue, wait for another try, or are dead letters; each counted up to `limit`.

        Clients wait for this, so it raises Unavailable where it takes longer than a moment.
        """
        return sum(self._store.counts(self._unfinished(), limit, BACKLOG_TIMEOUT_SECONDS))

    def _unfinished(self) -> tuple[Document, Document, Document]:
        now = self._store.clock.now()
        return (
            {"relayDue": {"$lte": now}},
            # 0 where an attempt came to nothing that was nobody's fault.
            {"relayFailures": {"$gte": 0}, "relayDue": {"$gt": now}},
            {"deadLetter.at": {"$gte": EPOCH}},
        )

    def stuck(self, dead: bool, overdue: float, limit: int) -> list[str]:
        """Keys of documents that are overdue by so many seconds, or are dead letters; the longest waiting first."""
        by = "deadLetter.at" if dead else "relayDue"
        since = self._store.clock.now() - timedelta(seconds=0.0 if dead else overdue)
        with self._store.with_deadline() as documents:
            found = documents.find({by: {"$lte": since}}, {"_id": 1}).sort(by, 1).limit(limit)
            return [str(doc["_id"]) for doc in found]

    def claim(self, limit: int) -> list[Pending]:
        """Take up documents whose relay lease has ended, `limit` at the most, under a lease of one's own.

        Those whose last attempt came to no end are taken up one by one, after the others: if an event kills whoever
        delivers it, it must not count against its neighbours.
        """
        now = self._store.clock.now()
        due = {"relayDue": {"$lte": now}}
        with self._store.with_deadline() as documents:
            found = documents.find(due, {"_id": 1, "relayAttempts": 1}).sort("relayDue", 1).limit(limit)
            attempts = {doc["_id"]: doc.get("relayAttempts", 0) for doc in found}
            keys = [key for key, unfinished in attempts.items() if not unfinished] or list(attempts)[:1]
            if not keys:
                return []
            claim = uuid4().hex
            lease = {"relayDue": self.lease_end(), "relayClaim": claim, "relayAttempts": attempts[keys[0]] or 1}
            documents.update_many({"_id": {"$in": keys}, **due}, {"$set": lease})
            mine = documents.find({"_id": {"$in": keys}, "relayClaim": claim}, {"outbox": 1})
            return [Pending(doc["_id"], doc["outbox"], swept=True, unfinished=attempts[doc["_id"]]) for doc in mine]

    def count_attempt(self, key: Any) -> None:
        """Count an attempt that begins: unless it comes to an end, which takes the count away, it stays counted."""
        with self._store.with_deadline() as documents:
            documents.update_one({"_id": key, "relayDue": {"$exists": True}}, {"$inc": {"relayAttempts": 1}})

    def schedule_unscheduled(self) -> int:
        """Make due what has events, no time at which they are due, and no dead letter; returns how many there were."""
        with self._store.with_deadline() as documents:
            update = {"$set": {"relayDue": self._store.clock.now()}}
            return documents.update_many(UNSCHEDULED, update).modified_count

    def acknowledge(self, batch: Iterable[Pending]) -> None:
        """Remove what was delivered; a document with nothing left leaves the index of due work."""
        done = [pending for pending in batch if pending.delivered or not pending.entries]
        if not done:
            return
        keys = [pending.key for pending in done]
        gone = [event_id for pending in done for event_id in pending.delivered]
        with self._store.with_deadline() as documents:
            # Nearly always the one event there was: an update without a pipeline costs half as much.
            whole = {"_id": {"$in": keys}, "outbox.0.event_id": {"$in": gone}, "outbox.1": {"$exists": False}}
            emptied = documents.update_many(whole, EMPTIED).modified_count
            if emptied < len(keys):
                documents.update_many({"_id": {"$in": keys}}, _remove_delivered(gone, self._store.clock.now()))

    def acknowledge_later(self, batch: Iterable[Pending]) -> None:
        """Keep in mind what was delivered: it may go with another write, or with many others in one command."""
        for pending in batch:
            if pending.delivered or not pending.entries:
                self._unacknowledged[pending.key] = pending

    def acknowledged(self, key: Any) -> None:
        """Another write has emptied the document's outbox."""
        self._unacknowledged.pop(key, None)

    @property
    def unacknowledged(self) -> int:
        """How many documents are yet to be acknowledged."""
        return len(self._unacknowledged)

    def acknowledge_all(self) -> None:
        """Write down what was kept in mind. What is lost of it is delivered again when its lease has ended."""
        done, self._unacknowledged = self._unacknowledged, {}
        if done:
            metrics.batch_sizes.labels("acknowledgements").observe(len(done))
        self.acknowledge(done.values())

    def postpone(self, key: Any, seconds: float) -> None:
        """Make a document due again later: an attempt has ended, in vain."""
        due = self._store.clock.now() + timedelta(seconds=seconds)
        # Adding nothing makes the field where there is none: the document waits for another try.
        later = {"$set": {"relayDue": due}, "$inc": {"relayFailures": 0}, "$unset": {"relayAttempts": ""}}
        with self._store.with_deadline() as documents:
            documents.update_one({"_id": key, "relayDue": {"$exists": True}}, later)

    def count_failure(self, key: Any, event_id: Any) -> int:
        """Count a failure against a document's oldest event; tells how many there are now, 0 where it has gone."""
        with self._store.with_deadline() as documents:
            # Two commands, since in a sharded collection of orders an older MongoDB refuses both in one by the key alone.
            counted = documents.update_one({"_id": key, "outbox.0.event_id": event_id}, {"$inc": {"relayFailures": 1}})
            after = documents.find_one({"_id": key}, {"relayFailures": 1}) if counted.modified_count else None
        return after.get("relayFailures", 0) if after else 0

    def bury(self, key: Any, event_id: str, reason: str, failures: int) -> None:
        """Set a document's outbox aside as a dead letter; its later events wait behind it."""
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
        """Make an order's dead letter due again, whatever the collection's keys are made of."""
        keys = [order_id, ObjectId(order_id)] if ObjectId.is_valid(order_id) else [order_id]
        return any(self.replay(key) for key in keys)

    def replay(self, key: Any) -> bool:
        """Make a dead letter due again; false when there is none."""
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
    """The update that removes delivered events, and of the relay's fields only those that were about them.

    What is left of the outbox stays a dead letter if that event is still there, and is due otherwise. Another process
    may have delivered the same events, and set aside or claimed the next one, before this update arrives.
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
