"""Payments in MongoDB: one document an order, recorded before the provider is called. Knows pymongo; alone in payments.

`dueAt` exists while work is open: it is when to call the provider, or, while `owner` holds it, when the lease ends.
`firstAt` is when the open work was asked for. `keySentAt` is when the provider may first have received the key of the next
call, written by the claim, before anything is sent; it counts while `sent`.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from uuid import uuid4

import pymongo
from pymongo import UpdateOne

from app.contracts.base import Event
from app.messaging.outbox import OUTBOX_INDEXES, OUTBOX_RULE, OUTBOX_SCHEMA, Outbox, decode_entries, encode_event
from app.payments import payment as domain
from app.payments.payment import Payment, Refund, Status
from app.storage.bulk import Patch, bulk_compare_and_set, bulk_insert
from app.storage.mongodb import BACKLOG_TIMEOUT_SECONDS, EPOCH, Document, Store

LOG_LIMIT = 50
# Among so many due payments users take turns.
LOOKED_AT = 1024

SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": [
        "_id", "userId", "productId", "total", "status", "cancelled", "sent", "captured", "refunds", "generation",
        "attempt", "tries", "sequence", "orderSequence", "version", "requestId", "firstAt", "attempts", "outbox",
    ],
    "properties": {
        **{name: {"bsonType": "string"} for name in ("_id", "userId", "productId", "requestId", "reference")},
        **{name: {"bsonType": "string"} for name in ("parked", "owner", "claim", "stamp", "traceparent")},
        "total": {
            "bsonType": "object",
            "required": ["value", "currency"],
            "properties": {"value": {"bsonType": ["int", "long"], "minimum": 1}, "currency": {"bsonType": "string"}},
        },
        "status": {"enum": [status.value for status in Status]},
        **{name: {"bsonType": "bool"} for name in ("cancelled", "sent", "firstSend")},
        "captured": {"bsonType": ["int", "long"], "minimum": 0},
        "refunds": {"bsonType": "array", "items": {"bsonType": "object", "required": ["refund_id", "value", "done"]}},
        **{
            name: {"bsonType": "int", "minimum": 0}
            for name in ("generation", "attempt", "tries", "sequence", "orderSequence", "version")
        },
        **{name: {"bsonType": "date"} for name in ("firstAt", "dueAt", "keySentAt")},
        "attempts": {"bsonType": "array", "maxItems": LOG_LIMIT},
        **OUTBOX_SCHEMA,
    },
    **OUTBOX_RULE,
}  # fmt: skip
INDEXES = [
    pymongo.IndexModel([("dueAt", 1)], name="due", partialFilterExpression={"dueAt": {"$exists": True}}),
    pymongo.IndexModel([("status", 1)], name="parked", partialFilterExpression={"status": Status.UNKNOWN.value}),
    *OUTBOX_INDEXES,
]
STANDING = {"attempt": 1, "dueAt": 1, "owner": 1, "status": 1, "parked": 1, "outbox.type": 1, "deadLetter.reason": 1}


@dataclass(frozen=True, kw_only=True)
class LeasedPayment:
    """A payment as it was read, with its undelivered events; `logged` is the last attempt with a recorded result.

    `traced` names that attempt's call in its trace, where it has one.
    """

    payment: Payment
    outbox: list[Document]
    key_sent_at: datetime
    lease_end: datetime
    owned: bool
    logged: int = 0
    traced: str = ""

    @property
    def first_at(self) -> datetime:
        """When the open work was asked for."""
        return _time(self.payment.asked_at)

    def key_age(self, now: datetime) -> float:
        """How many seconds ago the provider may first have received the key of the next call; 0 where it cannot have."""
        return (now - self.key_sent_at).total_seconds() if self.payment.sent else 0.0


@dataclass(frozen=True, kw_only=True)
class PaymentDiagnostics:
    """Where a payment stands: when the provider is asked next, whether it is being asked, and what holds it up.

    `parked` and `dead` are reasons why an operator is needed, empty where none is.
    """

    attempts: int
    next_at: datetime | None
    under_way: bool
    parked: str
    undelivered: bool
    dead: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What to record: the payment after a change, the event that tells of it, a line for the payment's log.

    `due_at` is when to call the provider next; `keeps_lease` leaves that to whoever holds the payment now. The `stamp`
    lies in the document afterwards: it tells whether a write whose reply was lost has happened.
    """

    before: LeasedPayment
    payment: Payment
    event: Event | None = None
    line: Document | None = None
    due_at: datetime | None = None
    keeps_lease: bool = False
    stamp: str = field(default_factory=lambda: uuid4().hex)


class PaymentRepository:
    """Stores payments. A claimed payment can be changed only by who holds its attempt number and its version.

    `restored_at` is when the database was last restored from a backup. Work that was asked for by then may have been
    done, though the restored documents do not say so: its keys count as sent.
    """

    def __init__(self, store: Store, outbox: Outbox, lease: float, restored_at: datetime = EPOCH) -> None:
        self._store = store
        self._outbox = outbox
        self._lease = timedelta(seconds=lease)
        self._restored_at = restored_at
        self._owner = uuid4().hex

    def prepare(self) -> None:
        """Create what the collection needs: validator and indexes."""
        self._store.prepare(SCHEMA, INDEXES)

    def now(self) -> datetime:
        """The database's time."""
        return self._store.clock.now()

    def record(self, payments: Sequence[Payment], room: int) -> list[LeasedPayment]:
        """Store new payments, the first `room` of them under a lease of this process; returns those.

        What is stored already is left alone.
        """
        now = self.now()
        lease_end = now + self._lease
        leased = {"owner": self._owner, "dueAt": lease_end, "keySentAt": now}
        docs = [_fresh(domain.claimed(payment)) | leased for payment in payments[:room]]
        docs += [_fresh(payment) | {"dueAt": now} for payment in payments[room:]]
        for doc in docs:
            if "owner" in doc and doc["firstAt"] <= self._restored_at:
                doc["keySentAt"] = doc["firstAt"]
        with self._store.with_deadline() as documents:
            errors = bulk_insert(documents, docs)
        for error in errors:
            if error and not error.duplicate:
                raise error
        return [self._held(doc) for doc, error in zip(docs[:room], errors, strict=False) if error is None]

    def claim(self, limit: int, untried_first: bool = False) -> list[LeasedPayment]:
        """Take up due payments, `limit` at the most, under a new lease and attempt number.

        Users take turns: each one's longest due payment comes before anybody's second. With `untried_first` payments
        that have never been tried come before all others.
        """
        now = self.now()
        due = {"dueAt": {"$lte": now}}
        with self._store.with_deadline() as documents:
            found = documents.find(due, {"userId": 1, "tries": 1}).sort("dueAt", 1).limit(max(limit, LOOKED_AT))
            keys = _in_turn(list(found), untried_first)[:limit]
            if not keys:
                return []
            random.shuffle(keys)
            claim, lease_end = uuid4().hex, now + self._lease
            documents.update_many(
                {"_id": {"$in": keys}, **due},
                [
                    {"$set": self._before_send(now)},
                    {"$set": {"dueAt": lease_end, "owner": self._owner, "claim": claim}},
                    {"$set": {name: {"$add": [f"${name}", 1]} for name in ("attempt", "tries", "version")}},
                ],
            )
            return [self._held(doc) for doc in documents.find({"_id": {"$in": keys}, "claim": claim})]

    def backlog(self, limit: int) -> tuple[int, int]:
        """How many payments are due, counted up to `limit`, and for how long the oldest, in milliseconds."""
        return self._store.backlog("dueAt", limit)

    def renewed(self, held: LeasedPayment) -> LeasedPayment | None:
        """The payment as it is now, while its attempt is this one and has no result; None otherwise.

        It has one when the write succeeded but its reply was lost.
        """
        found = self.find(held.payment.order_id)
        attempt = held.payment.attempt
        return found if found and found.payment.attempt == attempt and found.logged < attempt else None

    def find(self, order_id: str) -> LeasedPayment | None:
        """One payment as it is now."""
        with self._store.with_deadline() as documents:
            doc = documents.find_one({"_id": order_id})
        return self._held(doc) if doc else None

    def standing(self, order_id: str, on_behalf_of: str) -> PaymentDiagnostics | None:
        """Where an order's payment stands; None where there is none, or none of this user's."""
        mine = {"_id": order_id} | ({"userId": on_behalf_of} if on_behalf_of else {})
        with self._store.with_deadline() as documents:
            doc = documents.find_one(mine, STANDING)
        if doc is None:
            return None
        under_way = "owner" in doc
        return PaymentDiagnostics(
            attempts=doc["attempt"],
            next_at=None if under_way else doc.get("dueAt"),
            under_way=under_way,
            parked=doc["parked"] if doc["status"] == Status.UNKNOWN else "",
            undelivered=bool(doc["outbox"]),
            dead=doc.get("deadLetter", {}).get("reason", ""),
        )

    def queue(self, limit: int) -> tuple[int, int, int, int]:
        """How many payments are open, are due, are to be repeated later, and wait for an operator; up to `limit` each."""
        in_all, due, retrying, parked = self._store.counts([{"dueAt": {"$gte": EPOCH}}, *self._unfinished()], limit)
        return in_all, due, retrying, parked

    def unfinished(self, limit: int) -> int:
        """How many payments are due, are to be repeated later, or wait for an operator; each counted up to `limit`.

        Clients wait for this, so it raises Unavailable where it takes longer than a moment.
        """
        return sum(self._store.counts(self._unfinished(), limit, BACKLOG_TIMEOUT_SECONDS))

    def _unfinished(self) -> tuple[Document, Document, Document]:
        now = self.now()
        return (
            {"dueAt": {"$lte": now}},
            {"dueAt": {"$gt": now}, "owner": {"$exists": False}},
            {"status": Status.UNKNOWN.value},
        )

    def stuck(self, overdue: float, limit: int) -> list[str]:
        """Orders whose payment is open since so many seconds, or waits for an operator."""
        since = self.now() - timedelta(seconds=overdue)
        with self._store.with_deadline() as documents:
            parked = documents.find({"status": Status.UNKNOWN.value}, {"_id": 1}).limit(limit)
            slow = documents.find({"dueAt": {"$gte": EPOCH}, "firstAt": {"$lte": since}}, {"_id": 1}).limit(limit)
            # One that is parked and due again at once would count twice.
            return list(dict.fromkeys(doc["_id"] for doc in [*parked, *slow]))[:limit]

    def attempts(self, order_id: str, on_behalf_of: str) -> list[Document]:
        """The log of an order's payment, oldest first; empty where there is none, or none of this user's."""
        mine = {"_id": order_id} | ({"userId": on_behalf_of} if on_behalf_of else {})
        with self._store.with_deadline() as documents:
            doc = documents.find_one(mine, {"attempts": 1})
        return doc["attempts"] if doc else []

    def parked(self, limit: int) -> list[LeasedPayment]:
        """Payments that wait for an operator."""
        with self._store.with_deadline() as documents:
            return [self._held(doc) for doc in documents.find({"status": Status.UNKNOWN.value}).limit(limit)]

    def settle(self, results: Sequence[Result]) -> list[bool]:
        """Record results of different payments in one command; tells for each whether it could be.

        It could not where the lease was lost or the payment changed meanwhile. After an error some may be recorded:
        a repetition of the same results tells which.
        """
        with self._store.with_deadline() as documents:
            recorded = [True] * len(results)
            if bulk_compare_and_set(documents, [self._patch(result) for result in results]) < len(results):
                keys = [_key(result) for result in results]
                # A command for many tells how many it changed, not which: the stamp does.
                stamps = {doc.get("stamp") for doc in documents.find({"_id": {"$in": keys}}, {"stamp": 1})}
                recorded = [result.stamp in stamps for result in results]
        for result, done in zip(results, recorded, strict=True):
            if done and result.event:
                self._outbox.enqueue_local(_key(result), [*decode_entries(result.before.outbox), result.event])
        return recorded

    def give_back(self, unbegun: Sequence[LeasedPayment]) -> None:
        """Let go of leases whose call was not begun: due at once for anybody, not counted as a try, no key sent."""
        if not unbegun:
            return
        uncounted = {"$max": [0, {"$subtract": ["$tries", 1]}]}
        sent_before = {"$and": ["$sent", {"$not": ["$firstSend"]}]}
        let_go: list[Document] = [
            {"$set": {"dueAt": self.now(), "tries": uncounted, "version": {"$add": ["$version", 1]}}},
            {"$set": {"sent": sent_before}},
            {"$unset": ["owner"]},
        ]
        writes = [
            UpdateOne({"_id": held.payment.order_id, "attempt": held.payment.attempt, "owner": self._owner}, let_go)
            for held in unbegun
        ]
        with self._store.with_deadline() as documents:
            documents.bulk_write(writes, ordered=False)

    def _before_send(self, now: datetime) -> Document:
        """What a claim writes of the next call's key, before that call can be sent. See `claimed` in the domain."""
        sent = {"$or": ["$sent", {"$lte": ["$firstAt", self._restored_at]}]}
        # As `_key_sent_at` has it where the key was sent before.
        known = {"$cond": ["$sent", {"$ifNull": ["$keySentAt", "$firstAt"]}, "$firstAt"]}
        return {"sent": True, "firstSend": {"$not": [sent]}, "keySentAt": {"$cond": [sent, known, now]}}

    def _held(self, doc: Document) -> LeasedPayment:
        payment = _payment(doc)
        if _time(payment.asked_at) <= self._restored_at:
            payment = replace(payment, sent=True, first_send=False)
        last = doc["attempts"][-1] if doc["attempts"] else {}
        return LeasedPayment(
            payment=payment,
            outbox=doc["outbox"],
            key_sent_at=_key_sent_at(doc),
            lease_end=doc["dueAt"] if "dueAt" in doc else doc["firstAt"],
            owned="owner" in doc,
            logged=last.get("attempt", 0),
            traced=last.get("traceparent", ""),
        )

    def _patch(self, result: Result) -> Patch:
        before = result.before.payment
        sets: Document = {
            **_changing(result.payment),
            "version": before.version + 1,
            "stamp": result.stamp,
        }
        pushes: Document = {}
        if not result.keeps_lease and result.due_at:
            sets["dueAt"] = result.due_at
        if result.line:
            pushes["attempts"] = [result.line]
        if result.event:
            pushes["outbox"] = [encode_event(result.event)]
            sets["relayDue"] = self._outbox.lease_end()
        return Patch(
            key=before.order_id,
            expected={"version": before.version, "attempt": before.attempt},
            sets=sets,
            unsets=_let_go(result),
            pushes=pushes,
            keep={"attempts": LOG_LIMIT} if result.line else {},
        )


def _in_turn(found: Sequence[Document], untried_first: bool) -> list[str]:
    """The keys of payments, of which each user has one before anybody has a second."""
    turns: Counter[str] = Counter()
    ranked = []
    for doc in found:
        tried = untried_first and doc["tries"] > 0
        ranked.append((tried, turns[doc["userId"]], doc["_id"]))
        turns[doc["userId"]] += 1
    # The sort is stable: within a turn the longest due comes first.
    return [key for *_, key in sorted(ranked, key=lambda one: one[:2])]


def _let_go(result: Result) -> tuple[str, ...]:
    if result.keeps_lease:
        return ()
    return ("owner", "claim") if result.due_at else ("owner", "claim", "dueAt")


def _key(result: Result) -> str:
    return result.before.payment.order_id


def _fresh(payment: Payment) -> Document:
    return {
        "_id": payment.order_id,
        "userId": payment.user_id,
        "productId": payment.product_id,
        "total": {"value": payment.total_value, "currency": payment.total_currency},
        "requestId": payment.request_id,
        **_changing(payment),
        "attempts": [],
        "outbox": [],
    }


def _changing(payment: Payment) -> Document:
    return {
        "status": payment.status.value,
        "cancelled": payment.cancelled,
        "sent": payment.sent,
        "firstSend": payment.first_send,
        "firstAt": _time(payment.asked_at),
        "captured": payment.captured,
        "refunds": [asdict(refund) for refund in payment.refunds],
        "reference": payment.reference,
        "parked": payment.parked,
        "generation": payment.generation,
        "attempt": payment.attempt,
        "tries": payment.tries,
        "sequence": payment.sequence,
        "orderSequence": payment.order_sequence,
        "version": payment.version,
        **({"traceparent": payment.traceparent} if payment.traceparent else {}),
    }


def _key_sent_at(doc: Document) -> datetime:
    # A document that an older version wrote has no time of its own for this: the key is no older than the work.
    sent_at: datetime = doc["keySentAt"] if doc["sent"] and "keySentAt" in doc else doc["firstAt"]
    return sent_at


def _time(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def _payment(doc: Document) -> Payment:
    return Payment(
        order_id=doc["_id"],
        request_id=doc["requestId"],
        user_id=doc["userId"],
        product_id=doc["productId"],
        total_value=doc["total"]["value"],
        total_currency=doc["total"]["currency"],
        status=Status(doc["status"]),
        cancelled=doc["cancelled"],
        sent=doc["sent"],
        first_send=doc.get("firstSend", False),
        captured=doc["captured"],
        refunds=tuple(Refund(**refund) for refund in doc["refunds"]),
        reference=doc["reference"],
        parked=doc["parked"],
        generation=doc["generation"],
        attempt=doc["attempt"],
        tries=doc["tries"],
        sequence=doc["sequence"],
        order_sequence=doc["orderSequence"],
        version=doc["version"],
        asked_at=(doc["firstAt"] - EPOCH) // timedelta(milliseconds=1),
        traceparent=doc.get("traceparent", ""),
    )
