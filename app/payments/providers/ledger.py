"""The simulated provider's ledger in MongoDB: one document a charge key, inserted at most once."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from pymongo import IndexModel

from app.payments.provider_port import ProviderCall, ResponseCode
from app.payments.providers import entries
from app.payments.providers.entries import EntryUpdate
from app.storage.bulk import InsertRejected, bulk_insert
from app.storage.group_commit import GroupCommit
from app.storage.mongodb import Document, Store
from app.system import SYSTEM, System

SCHEMA: Document = {
    "bsonType": "object",
    "required": ["_id", "orderId", "answer", "value", "currency", "refunded", "refunds"],
    "properties": {
        "answer": {
            "enum": [
                ResponseCode.CAPTURED,
                ResponseCode.AUTHORIZED,
                ResponseCode.PENDING,
                ResponseCode.DECLINED,
                ResponseCode.VOIDED,
            ]
        },
        "value": {"bsonType": ["int", "long"], "minimum": 0},
        "authorized": {"bsonType": ["int", "long"], "minimum": 0},
        "refunded": {"bsonType": ["int", "long"], "minimum": 0},
        "refunds": {"bsonType": "array"},
        "failedRefunds": {"bsonType": "array"},
        "dispute": {"bsonType": "object", "required": ["value", "status", "at"]},
        "changesAt": {"bsonType": "date"},
        "notices": {"bsonType": "array"},
        "token": {"bsonType": "string"},
    },
}
# Sparse: a charge that is captured or declined at once is in none of them.
INDEXES = [
    IndexModel([("changesAt", 1)], sparse=True),
    IndexModel([("notices.at", 1)], sparse=True),
    IndexModel([("token", 1)], sparse=True, unique=True),
]
PAGE_SIZE = 500


class Ledger:
    """Charges, voids and refunds of the simulated provider, by key."""

    INSERT_TIMEOUT_SECONDS = 5.0

    def __init__(self, store: Store, system: System = SYSTEM) -> None:
        self._store = store
        self._system = system
        self._inserts: GroupCommit[Document, None] = GroupCommit("charges", self._insert, system=system)

    def prepare(self) -> None:
        """Create the collection's validator and indexes."""
        self._store.prepare(SCHEMA, INDEXES)

    def now(self) -> datetime:
        """The time by which entries change."""
        return self._store.clock.now()

    def secret(self) -> bytes:
        """The key that signs notifications; the same for all processes on the database. Raises Unavailable."""
        return self._store.secret("simulated-notifications")

    def record(
        self, call: ProviderCall, code: ResponseCode, reason: str = "", members: Document | None = None
    ) -> Document:
        """Record `code` under the call's key and return the entry; where the key has an entry, return that one.

        `members` are further ones of the entry.
        """
        entry: Document = {
            "_id": call.key,
            "orderId": call.order_id,
            "answer": code.value,
            "reason": reason,
            "value": call.value,
            "currency": call.currency,
            "refunded": 0,
            "refunds": [],
            "at": self._store.clock.now(),
            **(members or {}),
        }
        try:
            self._inserts(entry, self.INSERT_TIMEOUT_SECONDS)
        except InsertRejected as exc:
            if not exc.duplicate:
                raise
            return self.find(call.key) or entry
        return entry

    def refund(self, call: ProviderCall, fails_at: datetime | None = None) -> bool:
        """Record a refund once, to fail later where `fails_at` is given. False where the charge does not cover it.

        A refund that has failed is not recorded again, and none of a charge with a dispute that is open or lost.
        """
        covered = {"$lte": [{"$add": ["$refunded", call.value]}, "$value"]}
        with self._store.with_deadline() as documents:
            documents.update_one(
                {
                    "_id": call.charge_key,
                    "answer": ResponseCode.CAPTURED.value,
                    "refunds.key": {"$ne": call.key},
                    "failedRefunds.key": {"$ne": call.key},
                    "dispute.status": {"$nin": entries.TAKEN_BACK},
                    "$expr": covered,
                },
                self._refund_changes(call, fails_at),
            )
        return self.has_refund(call)

    def has_refund(self, call: ProviderCall) -> bool:
        """Whether the refund `call.key` is recorded and has not failed."""
        with self._store.with_deadline() as documents:
            return documents.find_one({"_id": call.charge_key, "refunds.key": call.key}, {"_id": 1}) is not None

    def find(self, key: str) -> Document | None:
        """The entry of a charge key."""
        return self.find_entry(key)

    def find_entry(self, entry_id: str) -> Document | None:
        """The entry with this id."""
        with self._store.with_deadline() as documents:
            return documents.find_one({"_id": entry_id})

    def find_payment(self, call: ProviderCall) -> Document | None:
        """The entry of the payment that the call names by its reference, or else by its charge key."""
        if call.reference:
            return self.find_entry(call.reference.removeprefix(entries.REFERENCE_PREFIX))
        return self.find(call.charge_key)

    def find_by_token(self, token: str) -> Document | None:
        """The entry that the page with this token is about."""
        with self._store.with_deadline() as documents:
            return documents.find_one({"token": token})

    def settled(self, entry: Document) -> Document:
        """The entry after all changes that it makes by itself by now; they are stored."""
        while update := entries.due_update(entry, self.now()):
            after = self.update(entry, update)
            if after is entry:
                # Somebody has removed it.
                break
            entry = after
        return entry

    def update(self, entry: Document, update: EntryUpdate) -> Document:
        """Store a change of the entry, unless the entry has changed meanwhile, and return the entry as it is then."""
        changes: Document = {
            "$set": update.sets,
            "$unset": dict.fromkeys(update.unsets, ""),
            "$pull": update.pulls,
            "$push": update.pushes | self._notice(update.notice),
        }
        with self._store.with_deadline() as documents:
            documents.update_one(
                {"_id": entry["_id"], **update.expected}, {name: change for name, change in changes.items() if change}
            )
        return self.find_entry(entry["_id"]) or entry

    def find_changing(self, limit: int) -> list[Document]:
        """Entries that change by themselves by now."""
        with self._store.with_deadline() as documents:
            return list(documents.find({"changesAt": {"$lte": self.now()}}).limit(limit))

    def claim_notices(self, limit: int, retry_at: datetime) -> list[tuple[Document, list[Document]]]:
        """Entries with their notices that are due; they are due again at `retry_at`, unless they are removed."""
        due = {"notices.at": {"$lte": self.now()}}
        with self._store.with_deadline() as documents:
            found = list(documents.find(due).limit(limit))
        return [(entry, entry["notices"]) for entry in found if self._claim(entry, retry_at)]

    def remove_notices(self, entry_id: str, notice_ids: Sequence[str]) -> None:
        """Remove notices that were delivered."""
        with self._store.with_deadline() as documents:
            documents.update_one({"_id": entry_id}, {"$pull": {"notices": {"id": {"$in": notice_ids}}}})

    def entries_since(self, since: datetime) -> Iterator[Document]:
        """All entries made since then, by their ids; each page of them within a deadline. Raises Unavailable."""
        last: Any = ""
        while page := self._page(last, since):
            yield from page
            last = page[-1]["_id"]

    def _refund_changes(self, call: ProviderCall, fails_at: datetime | None) -> Document:
        refund: Document = {"key": call.key, "refundId": call.refund_id, "value": call.value, "at": self.now()}
        changes: Document = {"$inc": {"refunded": call.value}, "$push": {"refunds": refund}}
        if fails_at:
            refund["failsAt"] = fails_at
            changes["$min"] = {"changesAt": fails_at}
        return changes

    def _page(self, last: str, since: datetime) -> list[Document]:
        # By the index on the id: one on the time would cost every charge, and only a reconciliation asks for it.
        following = {"_id": {"$gt": last}, "at": {"$gte": since}}
        with self._store.with_deadline() as documents:
            return list(documents.find(following).sort("_id", 1).limit(PAGE_SIZE))

    def _claim(self, entry: Document, retry_at: datetime) -> bool:
        with self._store.with_deadline() as documents:
            return (
                documents.update_one(
                    {"_id": entry["_id"], "notices": entry["notices"]}, {"$set": {"notices.$[].at": retry_at}}
                ).matched_count
                == 1
            )

    def _notice(self, kind: str) -> Document:
        return {"notices": {"id": f"evt_{self._system.new_id()}", "type": kind, "at": self.now()}} if kind else {}

    def _insert(self, batch: list[Document]) -> Sequence[InsertRejected | None]:
        with self._store.with_deadline() as documents:
            return bulk_insert(documents, batch)
