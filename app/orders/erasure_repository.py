"""Takes a user's personal data out of orders, and keeps the record of that.

An erasure that is not complete has the user's id: without it, what is left could not be found after a crash. It is removed when the
erasure is complete.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from app.contracts.base import rfc3339
from app.contracts.orders import ERASED_DETAIL, EraseOrders, ErasureRecord
from app.contracts.payments import PaymentStatus
from app.orders.order import CANCELLED, PERSONAL_DATA_ERASED, PROCESSING
from app.storage.mongodb import Document, Store
from app.system import SYSTEM, System

# How long one process works on an erasure before another may take it up; each page of orders begins it anew.
LEASE_SECONDS = 60.0
PAGE = 200
BY_USER = "the user"
SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": ["_id", "pseudonym", "requestedBy", "requestId", "requestedAt", "rounds"],
    "properties": {
        **{name: {"bsonType": "string"} for name in ("_id", "userId", "pseudonym", "requestedBy", "requestId")},
        **{name: {"bsonType": "date"} for name in ("requestedAt", "dueAt", "completedAt")},
        **{name: {"bsonType": "int", "minimum": 0} for name in ("rounds", "orders")},
    },
}
INDEXES = [
    pymongo.IndexModel(
        [("userId", 1)], name="one_at_a_time", unique=True, partialFilterExpression={"userId": {"$exists": True}}
    ),
    pymongo.IndexModel([("dueAt", 1)], name="due", partialFilterExpression={"dueAt": {"$exists": True}}),
    pymongo.IndexModel([("requestedAt", -1)], name="newest"),
]
# Money moves or may move: the payment may need what would be erased. What a dispute needs is known to the provider.
OPEN_PAYMENTS = (
    PaymentStatus.ACTION_REQUIRED,
    PaymentStatus.PENDING,
    PaymentStatus.AUTHORIZED,
    PaymentStatus.REFUNDING,
    PaymentStatus.UNKNOWN,
)
OPEN_ORDERS: tuple[Document, ...] = (
    {"orderStatus": PROCESSING},
    {"orderStatus": CANCELLED, "paymentStatus": PaymentStatus.PROCESSING.value},
    {"paymentStatus": {"$in": [status.value for status in OPEN_PAYMENTS]}},
)
# Members of an order that are personal, or by which a user could be found.
PERSONAL = ("metadata", "idempotency", "paymentMethod", "returnUrl", "nextAction")
# Entries of a timeline whose detail is a text of a client.
WITH_CLIENT_TEXT = ["RefundRequested", "PaymentRefunded", "MetadataUpdated"]


@dataclass(frozen=True, kw_only=True)
class PendingErasure:
    """An erasure that this process works on; `rounds` is how often all of it was done before."""

    erasure_id: str
    user_id: str
    pseudonym: str
    requested_by: str
    request_id: str
    requested_at: datetime
    rounds: int


class ErasureRepository:
    """Works on the collection of orders and on that of erasures."""

    def __init__(self, orders: Store, erasures: Store, system: System = SYSTEM) -> None:
        self._orders = orders
        self._erasures = erasures
        self._system = system

    def prepare(self) -> None:
        """Create the validator and the indexes of the erasures."""
        self._erasures.prepare(SCHEMA, INDEXES)

    def has_open_orders(self, user_id: str, until: datetime) -> bool:
        """Whether the money of an order that the user had placed by then moves, or may move."""
        with self._orders.with_deadline() as documents:
            placed: Document = {"userId": user_id, "createdAt": {"$lte": until}}
            return any(documents.find_one({**placed, **still_open}, {"_id": 1}) for still_open in OPEN_ORDERS)

    def now(self) -> datetime:
        """The database's time."""
        return self._orders.clock.now()

    def add(self, request: EraseOrders) -> ErasureRecord:
        """Record an erasure that is due at once. One of this user that is not complete begins anew: it takes later orders as well."""
        now = self.now()
        anew = {"$set": {"requestedAt": now, "rounds": 0, "dueAt": now}}
        by = BY_USER if request.requested_by == request.user_id else request.requested_by
        doc: Document = {
            "_id": self._system.new_id(),
            "userId": request.user_id,
            "pseudonym": f"erased-{self._system.new_id()}",
            "requestedBy": by,
            "requestId": request.request_id,
            "requestedAt": now,
            "rounds": 0,
            "dueAt": now,
        }
        pending: Document | None = None
        with self._erasures.with_deadline() as documents:
            while pending is None:
                try:
                    documents.insert_one(doc)
                    pending = doc
                except DuplicateKeyError:
                    # None if it is complete by now.
                    pending = documents.find_one_and_update(
                        {"userId": request.user_id}, anew, return_document=ReturnDocument.AFTER
                    )
        return _record_of(pending)

    def claim(self) -> PendingErasure | None:
        """An erasure that is due, under a lease; None where there is none."""
        now = self.now()
        with self._erasures.with_deadline() as documents:
            lease = {"$set": {"dueAt": now + timedelta(seconds=LEASE_SECONDS)}}
            doc = documents.find_one_and_update({"dueAt": {"$lte": now}}, lease, sort=[("dueAt", 1)])
        return _job_of(doc) if doc else None

    def postpone(self, job: PendingErasure, seconds: float, round_done: bool = False) -> None:
        """Make an erasure due again after `seconds`; `round_done` counts a round."""
        update: Document = {"$set": {"dueAt": self.now() + timedelta(seconds=seconds)}}
        if round_done:
            update["$set"]["rounds"] = job.rounds + 1
        self._update(job, update)

    def complete(self, job: PendingErasure, orders: int) -> None:
        """Record that an erasure is complete, and forget whose it was."""
        done = {"completedAt": self.now(), "orders": orders, "rounds": job.rounds + 1}
        self._update(job, {"$set": done, "$unset": {"userId": "", "dueAt": ""}})

    def newest(self, limit: int) -> list[ErasureRecord]:
        """Erasures, the newest first."""
        with self._erasures.with_deadline() as documents:
            return [_record_of(doc) for doc in documents.find().sort("requestedAt", -1).limit(limit)]

    def pseudonymize(self, job: PendingErasure) -> None:
        """Take the personal data out of all orders that the user had placed; what was done before is not found again."""
        placed = {"userId": job.user_id, "createdAt": {"$lte": job.requested_at}}
        while True:
            with self._orders.with_deadline() as documents:
                keys = [doc["_id"] for doc in documents.find(placed, {"_id": 1}).limit(PAGE)]
                for key in keys:
                    # One by one: where orders are sharded by user, each of these moves a document to another shard.
                    documents.update_one({"_id": key, "userId": job.user_id}, _without_personal_data(job, self.now()))
            if not keys:
                return
            self.extend(job)

    def order_ids(self, job: PendingErasure) -> list[str]:
        """The ids of the orders that have the pseudonym."""
        with self._orders.with_deadline() as documents:
            return [str(doc["_id"]) for doc in documents.find({"userId": job.pseudonym}, {"_id": 1})]

    def extend(self, job: PendingErasure) -> None:
        """Keep the lease: the work goes on."""
        self.postpone(job, LEASE_SECONDS)

    def _update(self, job: PendingErasure, update: Document) -> None:
        # Where it has begun anew, what was done before does not count.
        current = {"_id": job.erasure_id, "userId": job.user_id, "requestedAt": job.requested_at}
        with self._erasures.with_deadline() as documents:
            documents.update_one(current, update)


def _without_personal_data(job: PendingErasure, at: datetime) -> list[Document]:
    """The update of an order: state, amounts and the entries of its timeline stay, and one entry says what was done.

    $literal everywhere: text from clients is never evaluated as an expression.
    """
    sequence = {"$add": ["$sequence", 1]}
    entry = {
        "sequence": sequence,
        "type": PERSONAL_DATA_ERASED,
        "at": {"$max": [at, "$updatedAt"]},
        "actor": "client",
        "from": "$orderStatus",
        "to": "$orderStatus",
        "paymentStatus": "$paymentStatus",
        "detail": {"$literal": f"{ERASED_DETAIL} by {job.requested_by}" if job.requested_by else ERASED_DETAIL},
        "requestId": {"$literal": job.request_id},
    }
    no_text = {"$cond": [{"$in": ["$$entry.type", WITH_CLIENT_TEXT]}, "", "$$entry.detail"]}
    refunds = {"$setField": {"field": "reason", "input": "$$entry", "value": "$$REMOVE"}}
    sets = {
        "userId": {"$literal": job.pseudonym},
        "events": {
            "$concatArrays": [
                _each("events", {"$mergeObjects": [_renamed("caller", job), {"detail": no_text}]}),
                [entry],
            ]
        },
        "outbox": _each("outbox", _renamed("user_id", job)),
        "version": {"$add": ["$version", 1]},
        "sequence": sequence,
        "updatedAt": {"$max": [at, "$updatedAt"]},
    }
    optional = {"refunds": refunds, "changes": _renamed("user_id", job)}
    where_present = {
        name: {"$cond": [{"$isArray": f"${name}"}, _each(name, each), "$$REMOVE"]} for name, each in optional.items()
    }
    return [{"$set": {**sets, **where_present}}, {"$unset": list(PERSONAL)}]


def _each(name: str, expression: Document) -> Document:
    return {"$map": {"input": f"${name}", "as": "entry", "in": expression}}


def _renamed(field: str, job: PendingErasure) -> Document:
    """An entry whose `field`, if it is the user's id, becomes the pseudonym."""
    is_user = {"$eq": [f"$$entry.{field}", {"$literal": job.user_id}]}
    renamed = {"$mergeObjects": ["$$entry", {field: {"$literal": job.pseudonym}}]}
    return {"$cond": [is_user, renamed, "$$entry"]}


def _job_of(doc: Document) -> PendingErasure:
    return PendingErasure(
        erasure_id=doc["_id"],
        user_id=doc["userId"],
        pseudonym=doc["pseudonym"],
        requested_by=doc["requestedBy"],
        request_id=doc["requestId"],
        requested_at=doc["requestedAt"],
        rounds=doc["rounds"],
    )


def _record_of(doc: Document) -> ErasureRecord:
    return ErasureRecord(
        id=doc["_id"],
        requested_by=doc["requestedBy"],
        requested_at=rfc3339(doc["requestedAt"]),
        completed_at=rfc3339(doc["completedAt"]) if "completedAt" in doc else "",
        orders=doc.get("orders", 0),
        pseudonym=doc["pseudonym"],
    )
