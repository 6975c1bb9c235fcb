"""Stores the notifications of payment providers in MongoDB until they are applied, and for some weeks as a record."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pymongo

from app.payments.provider_port import ProviderNotification
from app.storage.bulk import bulk_insert
from app.storage.mongodb import EPOCH, Document, Store

# A provider repeats a notification for days: its id is kept longer than that.
KEPT_SECONDS = 30 * 86_400
SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": ["_id", "type", "reference", "orderId", "receivedAt"],
    "properties": {
        **{name: {"bsonType": "string"} for name in ("_id", "type", "reference", "orderId", "outcome", "requestId")},
        **{name: {"bsonType": "date"} for name in ("receivedAt", "dueAt")},
    },
}
INDEXES = [
    pymongo.IndexModel([("dueAt", 1)], name="due", partialFilterExpression={"dueAt": {"$exists": True}}),
    pymongo.IndexModel([("receivedAt", 1)], name="kept", expireAfterSeconds=KEPT_SECONDS),
]


class NotificationRepository:
    """One document a notification; `dueAt` exists until it is applied."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def prepare(self) -> None:
        """Create the collection's validator and indexes."""
        self._store.prepare(SCHEMA, INDEXES)

    def now(self) -> datetime:
        """The database's time."""
        return self._store.clock.now()

    def insert(self, notifications: Sequence[ProviderNotification], request_id: str = "") -> int:
        """Store the notifications that are not stored yet, durably; returns how many those are.

        `request_id` is the HTTP request that brought them.
        """
        if not notifications:
            return 0
        now = self.now()
        docs: list[Document] = [
            {
                "_id": one.event_id,
                "type": one.type,
                "reference": one.reference,
                "orderId": one.order_id,
                "receivedAt": now,
                "dueAt": now,
                **({"requestId": request_id} if request_id else {}),
            }
            for one in {one.event_id: one for one in notifications}.values()
        ]
        with self._store.with_deadline() as documents:
            rejected = [error for error in bulk_insert(documents, docs) if error]
        for error in rejected:
            if not error.duplicate:
                raise error
        return len(docs) - len(rejected)

    def due(self, limit: int) -> list[Document]:
        """Notifications to apply, the longest due first."""
        with self._store.with_deadline() as documents:
            return list(documents.find({"dueAt": {"$lte": self.now()}}).sort("dueAt", 1).limit(limit))

    def finish(self, event_id: str, outcome: str) -> None:
        """Record what became of a notification; it is not due any more."""
        with self._store.with_deadline() as documents:
            documents.update_one({"_id": event_id}, {"$set": {"outcome": outcome}, "$unset": {"dueAt": ""}})

    def postpone(self, event_id: str, seconds: float) -> None:
        """Apply a notification later."""
        with self._store.with_deadline() as documents:
            due_at = self.now() + timedelta(seconds=seconds)
            documents.update_one({"_id": event_id, "dueAt": {"$gte": EPOCH}}, {"$set": {"dueAt": due_at}})

    def backlog(self, limit: int) -> tuple[int, int]:
        """How many notifications are due, counted up to `limit`, and how long the oldest has waited, in milliseconds."""
        return self._store.backlog("dueAt", limit)
