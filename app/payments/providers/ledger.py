"""The simulated provider's ledger in MongoDB: one document a charge key, inserted at most once."""

from collections.abc import Sequence

from app.payments.provider_port import ProviderCall, ResponseCode
from app.storage.bulk import InsertRejected, bulk_insert
from app.storage.group_commit import GroupCommit
from app.storage.mongodb import Document, Store
from app.system import SYSTEM, System

SCHEMA: Document = {
    "bsonType": "object",
    "required": ["_id", "orderId", "answer", "value", "currency", "refunded", "refunds"],
    "properties": {
        "answer": {"enum": [ResponseCode.CAPTURED, ResponseCode.DECLINED, ResponseCode.VOIDED]},
        "value": {"bsonType": ["int", "long"], "minimum": 0},
        "refunded": {"bsonType": ["int", "long"], "minimum": 0},
    },
}


class Ledger:
    """Charges, voids and refunds of the simulated provider, by key."""

    INSERT_TIMEOUT_SECONDS = 5.0

    def __init__(self, store: Store, system: System = SYSTEM) -> None:
        self._store = store
        self._inserts: GroupCommit[Document, None] = GroupCommit("charges", self._insert, system=system)

    def prepare(self) -> None:
        """Create the collection's validator."""
        self._store.prepare(SCHEMA, [])

    def record(self, call: ProviderCall, code: ResponseCode, reason: str = "") -> Document:
        """Record `code` under the call's key and return the entry; where the key has an entry, return that one."""
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
        }
        try:
            self._inserts(entry, self.INSERT_TIMEOUT_SECONDS)
        except InsertRejected as exc:
            if not exc.duplicate:
                raise
            return self.find(call.key) or entry
        return entry

    def refund(self, call: ProviderCall) -> bool:
        """Record a refund once; false where the charge does not cover it."""
        covered = {"$lte": [{"$add": ["$refunded", call.value]}, "$value"]}
        with self._store.with_deadline() as entries:
            entries.update_one(
                {
                    "_id": call.charge_key,
                    "answer": ResponseCode.CAPTURED.value,
                    "refunds.key": {"$ne": call.key},
                    "$expr": covered,
                },
                {
                    "$inc": {"refunded": call.value},
                    "$push": {"refunds": {"key": call.key, "value": call.value, "at": self._store.clock.now()}},
                },
            )
        return self.has_refund(call)

    def has_refund(self, call: ProviderCall) -> bool:
        """Whether the refund `call.key` is recorded."""
        with self._store.with_deadline() as entries:
            return entries.find_one({"_id": call.charge_key, "refunds.key": call.key}, {"_id": 1}) is not None

    def find(self, key: str) -> Document | None:
        """The entry of a charge key."""
        with self._store.with_deadline() as entries:
            return entries.find_one({"_id": key})

    def _insert(self, batch: list[Document]) -> Sequence[InsertRejected | None]:
        with self._store.with_deadline() as entries:
            return bulk_insert(entries, batch)
