"""Writes and reads of payments in MongoDB. A payment is stored before the provider is called for it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pymongo import UpdateOne

from app.contracts.payments import PaymentEvent, PaymentStatus
from app.messaging.outbox import Outbox, decode_entries, encode_event
from app.payments import documents as stored
from app.payments import payment as domain
from app.payments.documents import LeasedPayment, PaymentDiagnostics
from app.payments.payment import Payment
from app.storage.bulk import Patch, bulk_compare_and_set, bulk_insert
from app.storage.mongodb import BACKLOG_TIMEOUT_SECONDS, EPOCH, Document, Store
from app.system import SYSTEM, System

# A claim orders this many due payments so that users take turns.
CLAIM_CANDIDATES = 1024
PARKED: Document = {"status": PaymentStatus.UNKNOWN.value}


@dataclass(frozen=True, kw_only=True)
class PaymentUpdate:
    """One write: the payment after a decision, its event, and an entry for the payment's log.

    `due_at` is the time of the next provider call; `due_at_once` where it is the time of the decision. `keeps_lease` leaves
    lease and time to the call that is under way. The document keeps `write_id`, which shows after a lost reply whether
    the write happened.
    """

    before: LeasedPayment
    payment: Payment
    event: PaymentEvent | None = None
    log_entry: Document | None = None
    due_at: datetime | None = None
    due_at_once: bool = False
    keeps_lease: bool = False
    write_id: str = field(default_factory=SYSTEM.new_id)

    @property
    def order_id(self) -> str:
        """The key of the payment's document."""
        return self.before.payment.order_id


class PaymentRepository:
    """Stores payments. An update of a claimed payment needs its fencing token and its version.

    `restored_at` is when the database was last restored from a backup. Calls for work that was requested by then may have
    been made, though the restored documents do not show it: their keys count as sent. A call of this process reaches the provider
    within `call_seconds` after its outcome was recorded as unknown, or never.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        lease: float,
        restored_at: datetime = EPOCH,
        system: System = SYSTEM,
    ) -> None:
        self._system = system
        self._store = store
        self._outbox = outbox
        self.call_seconds = lease
        self._lease = timedelta(seconds=lease)
        self._restored_at = restored_at
        self._owner = system.new_id()

    def prepare(self) -> None:
        """Create the collection's validator and indexes."""
        self._store.prepare(stored.SCHEMA, stored.INDEXES)

    def now(self) -> datetime:
        """The database's time."""
        return self._store.clock.now()

    def insert(self, payments: Sequence[Payment], lease_count: int) -> list[LeasedPayment]:
        """Store new payments, the first `lease_count` of them under a lease of this process; returns the leased ones.

        Payments that are stored already do not change.
        """
        now = self.now()
        lease = {"owner": self._owner, "dueAt": now + self._lease, "keySentAt": now}
        docs = [stored.new_document(domain.claim(payment)) | lease for payment in payments[:lease_count]]
        docs += [stored.new_document(payment) | {"dueAt": now} for payment in payments[lease_count:]]
        for doc in docs:
            if "owner" in doc and doc["requestedAt"] <= self._restored_at:
                doc["keySentAt"] = doc["requestedAt"]
        with self._store.with_deadline() as documents:
            errors = bulk_insert(documents, docs)
        for error in errors:
            if error and not error.duplicate:
                raise error
        return [self._read(doc) for doc, error in zip(docs[:lease_count], errors, strict=False) if error is None]

    def pseudonymize(self, order_ids: Sequence[str], user_id: str, pseudonym: str) -> int:
        """Replace a user's id in the payments of these orders, and remove what is personal besides; returns of how many.

        Its own state, and who works on it, stay: only what is written at the same time may still have the id.
        """
        renamed = {"$mergeObjects": ["$$entry", {"user_id": {"$literal": pseudonym}}]}
        is_user = {"$eq": ["$$entry.user_id", {"$literal": user_id}]}
        entry = {"$cond": [is_user, renamed, "$$entry"]}
        update: list[Document] = [
            {
                "$set": {
                    "userId": {"$literal": pseudonym},
                    "outbox": {"$map": {"input": "$outbox", "as": "entry", "in": entry}},
                }
            },
            {"$unset": ["paymentMethod", "returnUrl", "action"]},
        ]
        with self._store.with_deadline() as documents:
            return documents.update_many({"_id": {"$in": [*order_ids]}}, update).matched_count

    def claim(self, limit: int, untried_first: bool = False) -> list[LeasedPayment]:
        """Take up to `limit` due payments under a new lease and fencing token.

        Users take turns: the longest due payment of each user comes before any user's second one. With `untried_first`
        payments that have never been tried come before all others.
        """
        now = self.now()
        due = {"dueAt": {"$lte": now}}
        with self._store.with_deadline() as documents:
            candidates = documents.find(due, {"userId": 1, "retryCount": 1})
            candidates = candidates.sort("dueAt", 1).limit(max(limit, CLAIM_CANDIDATES))
            keys = _in_turn(list(candidates), untried_first)[:limit]
            if not keys:
                return []
            self._system.random.shuffle(keys)
            claim, lease_end = self._system.new_id(), now + self._lease
            documents.update_many(
                {"_id": {"$in": keys}, **due},
                [
                    {"$set": self._key_fields(now)},
                    {"$set": {"dueAt": lease_end, "owner": self._owner, "claim": claim}},
                    {"$set": {name: {"$add": [f"${name}", 1]} for name in ("fencingToken", "retryCount", "version")}},
                ],
            )
            return [self._read(doc) for doc in documents.find({"_id": {"$in": keys}, "claim": claim})]

    def save(self, updates: Sequence[PaymentUpdate]) -> list[bool]:
        """Write updates of different payments in one command; returns for each whether it was written.

        An update is not written where the lease was lost or the payment has changed. After an error some may be
        written: the same updates can be saved again, and the result shows which.
        """
        with self._store.with_deadline() as documents:
            written = [True] * len(updates)
            if bulk_compare_and_set(documents, [self._patch(update) for update in updates]) < len(updates):
                keys = [update.order_id for update in updates]
                # The command returns how many documents it changed; their write ids show which.
                ids = {doc.get("writeId") for doc in documents.find({"_id": {"$in": keys}}, {"writeId": 1})}
                written = [update.write_id in ids for update in updates]
        for update, done in zip(updates, written, strict=True):
            if done and update.event:
                self._outbox.enqueue_local(update.order_id, [*decode_entries(update.before.outbox), update.event])
        return written

    def release(self, unstarted: Sequence[LeasedPayment]) -> None:
        """Give up leases whose call was not started: the payments are due at once, without a try counted or a key sent."""
        if not unstarted:
            return
        uncounted = {"$max": [0, {"$subtract": ["$retryCount", 1]}]}
        sent_before = {"$and": ["$keySent", {"$not": ["$firstSend"]}]}
        released: list[Document] = [
            {"$set": {"dueAt": self.now(), "retryCount": uncounted, "version": {"$add": ["$version", 1]}}},
            {"$set": {"keySent": sent_before}},
            {"$unset": ["owner"]},
        ]
        writes = [UpdateOne({**_fence(leased.payment), "owner": self._owner}, released) for leased in unstarted]
        with self._store.with_deadline() as documents:
            documents.bulk_write(writes, ordered=False)

    def find(self, order_id: str) -> LeasedPayment | None:
        """The payment of an order."""
        with self._store.with_deadline() as documents:
            doc = documents.find_one({"_id": order_id})
        return self._read(doc) if doc else None

    def find_many(self, order_ids: Sequence[str]) -> dict[str, Payment]:
        """The payments of orders, by order id."""
        with self._store.with_deadline() as documents:
            found = documents.find({"_id": {"$in": list(order_ids)}})
            return {doc["_id"]: self._read(doc).payment for doc in found}

    def captured_since(self, since: datetime, provider: str) -> Iterator[Payment]:
        """The captured payments at a provider of orders that were placed since then."""
        # An order id begins with the seconds of its time.
        placed = {"_id": {"$gte": f"{int(since.timestamp()):08x}"}}
        captured = {**placed, "captured": {"$gt": 0}, "provider": provider}
        with self._store.with_deadline() as documents:
            cursor = documents.find(captured).batch_size(CLAIM_CANDIDATES)
        for doc in cursor:
            yield self._read(doc).payment

    def find_order_id(self, reference: str) -> str:
        """The order whose payment has this id at the provider; empty where there is none."""
        if not reference:
            return ""
        with self._store.with_deadline() as documents:
            # Only payments that were opened are found by their reference: the index has no others.
            doc = documents.find_one({"reference": reference, "opens": True}, {"_id": 1})
        return doc["_id"] if doc else ""

    def reload_if_unanswered(self, leased: LeasedPayment) -> LeasedPayment | None:
        """The payment as it is now, if its fencing token is the same and has no recorded result; None otherwise.

        The result is recorded already where a write succeeded but its reply was lost.
        """
        current = self.find(leased.payment.order_id)
        token = leased.payment.fencing_token
        same = current and current.payment.fencing_token == token and current.last_recorded_attempt < token
        return current if same else None

    def list_parked(self, limit: int, after_id: str = "") -> list[LeasedPayment]:
        """Payments that wait for an operator, of orders with an id greater than `after_id`, by order id."""
        # Every id is greater than the empty text: one form of the query for all pages.
        with self._store.with_deadline() as documents:
            found = documents.find({**PARKED, "_id": {"$gt": after_id}}).sort([("status", 1), ("_id", 1)])
            return [self._read(doc) for doc in found.limit(limit)]

    def replay(self, current: LeasedPayment, event: PaymentEvent) -> bool:
        """Make the dead letter of a payment due again, with `event` behind it; false where it has none or has changed."""
        changes: Document = {"$inc": {"version": 1, "sequence": 1}, "$push": {"outbox": encode_event(event)}}
        return self._outbox.replay(event.order_id, {"version": current.payment.version}, changes)

    def find_stuck(self, overdue: float, limit: int) -> list[str]:
        """Ids of orders whose payment has been open for `overdue` seconds or is parked; one that may still wait is not."""
        since = self.now() - timedelta(seconds=overdue)
        with self._store.with_deadline() as documents:
            parked = documents.find(PARKED, {"_id": 1}).limit(limit)
            open_work = {"dueAt": {"$gte": EPOCH}, "requestedAt": {"$lte": since}}
            slow = documents.find({**open_work, "$or": _waits_no_more(since)}, {"_id": 1}).limit(limit)
            # One that is parked and due again at once would count twice.
            return list(dict.fromkeys(doc["_id"] for doc in [*parked, *slow]))[:limit]

    def attempts(self, order_id: str, on_behalf_of: str) -> list[Document]:
        """The log of an order's payment, oldest first; empty where there is none, or it is another user's."""
        with self._store.with_deadline() as documents:
            doc = documents.find_one(_visible_to(order_id, on_behalf_of), {"attempts": 1})
        return doc["attempts"] if doc else []

    def diagnostics(self, order_id: str, on_behalf_of: str) -> PaymentDiagnostics | None:
        """The diagnostics of an order's payment; None where there is none, or it is another user's."""
        with self._store.with_deadline() as documents:
            doc = documents.find_one(_visible_to(order_id, on_behalf_of), stored.DIAGNOSTICS)
        return stored.diagnostics(doc) if doc else None

    def backlog(self, limit: int) -> tuple[int, int]:
        """How many payments are due, counted up to `limit`, and how long the oldest has waited, in milliseconds."""
        return self._store.backlog("dueAt", limit)

    def count_queue(self, limit: int) -> tuple[int, int, int, int]:
        """How many payments are open, due, to be retried later, and parked; each counted up to `limit`."""
        opened, due, retrying, parked = self._store.counts([{"dueAt": {"$gte": EPOCH}}, *self._unfinished()], limit)
        return opened, due, retrying, parked

    def count_unfinished(self, limit: int) -> int:
        """How many payments are due, to be retried later, or parked; each counted up to `limit`.

        Clients wait for this count: it raises Unavailable after BACKLOG_TIMEOUT_SECONDS.
        """
        return sum(self._store.counts(self._unfinished(), limit, BACKLOG_TIMEOUT_SECONDS))

    def _unfinished(self) -> tuple[Document, Document, Document]:
        now = self.now()
        return {"dueAt": {"$lte": now}}, {"dueAt": {"$gt": now}, "owner": {"$exists": False}}, PARKED

    def _key_fields(self, now: datetime) -> Document:
        """The fields about the next call's key that a claim writes before that call is sent; see `payment.claim`."""
        sent = {"$or": ["$keySent", {"$lte": ["$requestedAt", self._restored_at]}]}
        # A key that counts as sent but has no recorded time is at most as old as its work.
        known = {"$cond": ["$keySent", {"$ifNull": ["$keySentAt", "$requestedAt"]}, "$requestedAt"]}
        return {"keySent": True, "firstSend": {"$not": [sent]}, "keySentAt": {"$cond": [sent, known, now]}}

    def _read(self, doc: Document) -> LeasedPayment:
        return stored.leased_payment(doc, self._restored_at)

    def _patch(self, update: PaymentUpdate) -> Patch:
        before = update.before.payment
        sets = stored.changing_fields(update.payment, before) | {
            "version": before.version + 1,
            "writeId": update.write_id,
        }
        pushes: Document = {}
        if not update.keeps_lease and update.due_at:
            sets["dueAt"] = update.due_at
        if update.log_entry:
            pushes["attempts"] = [update.log_entry]
        if update.event:
            pushes["outbox"] = [encode_event(update.event)]
            sets["relayDue"] = self._outbox.lease_end()
        return Patch(
            key=before.order_id,
            expected={"version": before.version, "fencingToken": before.fencing_token},
            sets=sets,
            unsets=_unset_fields(update),
            pushes=pushes,
            keep={"attempts": stored.LOG_LIMIT} if update.log_entry else {},
        )


def _in_turn(candidates: Sequence[Document], untried_first: bool) -> list[str]:
    """The keys of payments, ordered so that each user's first comes before any user's second."""
    turns: Counter[str] = Counter()
    ranked = []
    for doc in candidates:
        tried = untried_first and doc["retryCount"] > 0
        ranked.append((tried, turns[doc["userId"]], doc["_id"]))
        turns[doc["userId"]] += 1
    # The sort is stable: within a turn the longest due comes first.
    return [key for *_, key in sorted(ranked, key=lambda one: one[:2])]


def _unset_fields(update: PaymentUpdate) -> tuple[str, ...]:
    if update.keeps_lease:
        return ()
    return ("owner", "claim") if update.due_at else ("owner", "claim", "dueAt")


def _fence(payment: Payment) -> Document:
    return {"_id": payment.order_id, "fencingToken": payment.fencing_token}


def _waits_no_more(since: datetime) -> list[Document]:
    """Alternatives: a payment waits for no customer, bank or capture, or its time for that has passed."""
    return [{"status": {"$nin": sorted(domain.WAITING)}}, {"waitsUntil": {"$lte": since}}]


def _visible_to(order_id: str, on_behalf_of: str) -> Document:
    return {"_id": order_id} | ({"userId": on_behalf_of} if on_behalf_of else {})
