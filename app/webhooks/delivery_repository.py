"""Stores deliveries in MongoDB: as work that is due, and then as a record."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from app.contracts.webhooks import DeliveryNotFound, DeliveryStatus
from app.storage.bulk import Patch, bulk_compare_and_set, bulk_insert
from app.storage.mongodb import BACKLOG_TIMEOUT_SECONDS, EPOCH, Document, Documents, Store
from app.system import SYSTEM, System
from app.webhooks.delivery import Delivery, EndedAttempt
from app.webhooks.documents import (
    DELIVERY_INDEXES,
    DELIVERY_SCHEMA,
    MAX_ATTEMPTS,
    TURNS,
    attempt_document,
    delivery_document,
    delivery_of,
)

RESULT_SECONDS = 5.0
WITHOUT_ANSWER: Document = {"$setField": {"field": "response", "input": "$$attempt", "value": "$$REMOVE"}}
HELD: Document = {"status": DeliveryStatus.HELD}


class DeliveryRepository:
    """One document a delivery. `dueAt` exists while an attempt is to be made; `claim` is the process that makes it.

    `lease` is for how many seconds a claim stands: longer than an attempt takes. `claim` is this process.
    """

    def __init__(self, store: Store, lease: float, system: System = SYSTEM) -> None:
        self._store = store
        self._lease = timedelta(seconds=lease)
        self._claim = system.new_id()
        # The endpoint whose turn was last.
        self._turn = ""

    def prepare(self) -> None:
        """Create the collection's validator and indexes."""
        self._store.prepare(DELIVERY_SCHEMA, DELIVERY_INDEXES)

    def now(self) -> datetime:
        """The database's time."""
        return self._store.clock.now()

    def add(
        self,
        claimed: Sequence[Delivery],
        due: Sequence[Delivery],
        held: Sequence[Delivery],
        attempted: Sequence[EndedAttempt] = (),
    ) -> list[Delivery]:
        """Store new deliveries: some that this process attempts now, some that any process may, some held, and some with an attempt.

        Returns the claimed ones that are new. A delivery that exists is left as it is.
        """
        now = self.now()
        docs = [
            *self._documents(claimed, now, status=DeliveryStatus.PENDING, dueAt=now + self._lease, claim=self._claim),
            *self._documents(due, now, status=DeliveryStatus.PENDING, dueAt=now),
            *self._documents(held, now, status=DeliveryStatus.HELD),
            *({**delivery_document(one.delivery), "createdAt": now, **_outcome(one, now)} for one in attempted),
        ]
        if not docs:
            return []
        with self._store.with_deadline() as documents:
            rejected = bulk_insert(documents, docs)
        for error in rejected:
            if error and not error.duplicate:
                raise error
        return [one for one, error in zip(claimed, rejected[: len(claimed)], strict=True) if not error]

    def claim_due(
        self, limit: int, except_of: Collection[str], within_room: Callable[[list[Document]], list[Document]]
    ) -> tuple[list[Delivery], bool]:
        """Claim deliveries that are due, by turns of their endpoints; returns them, and whether more may be due.

        Of at most `limit` deliveries that are found, with their `endpointId`, those are claimed that `within_room` returns. Not
        looked at are those of the endpoints `except_of`, which take no more at present, however many they are.
        """
        now = self.now()
        due: Document = {"dueAt": {"$lte": now}, "endpointId": {"$nin": [*except_of]}}
        with self._store.with_deadline() as documents:
            found = self._next_due(documents, due, {"$gt": self._turn}, limit)
            if self._turn and len(found) < limit:
                found += self._next_due(documents, due, {"$lte": self._turn}, limit - len(found))
            self._turn = found[-1]["endpointId"] if len(found) == limit else ""
            keys = [doc["_id"] for doc in within_room(found)]
            more = len(found) == limit or len(keys) < len(found)
            if not keys:
                return [], more
            claim = {"$set": {"dueAt": now + self._lease, "claim": self._claim}}
            documents.update_many({"_id": {"$in": keys}, **due}, claim)
            mine = {"_id": {"$in": keys}, "claim": self._claim, "dueAt": {"$gt": now}}
            ours = documents.find(mine, batch_size=limit)
            return [delivery_of(doc) for doc in sorted(ours, key=itemgetter("createdAt"))], more

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Make claimed deliveries due again at once, for any process."""
        if deliveries:
            keys = [one.delivery_id for one in deliveries]
            with self._store.with_deadline() as documents:
                documents.update_many(
                    {"_id": {"$in": keys}, "claim": self._claim, "dueAt": {"$gte": EPOCH}},
                    {"$set": {"dueAt": self.now()}, "$unset": {"claim": ""}},
                )

    def result_patch(self, ended: EndedAttempt) -> Patch:
        """What records an attempt of a claimed delivery that has just ended, and when the next one is due where it stays pending.

        It changes nothing where another process has claimed the delivery since.
        """
        sets = _outcome(ended, self.now())
        return Patch(
            key=ended.delivery.delivery_id,
            expected={"claim": self._claim},
            pushes={"attempts": sets.pop("attempts")},
            sets=sets,
            unsets=("claim",) if "dueAt" in sets else ("claim", "dueAt"),
            keep={"attempts": MAX_ATTEMPTS},
        )

    def record(self, patches: Sequence[Patch]) -> None:
        """Record the attempts of different deliveries in one command for each status."""
        with self._store.with_deadline() as documents:
            bulk_compare_and_set(documents, patches)

    def delete_all(self, endpoint_ids: Sequence[str]) -> int:
        """Delete all deliveries to some endpoints; returns how many."""
        with self._store.with_deadline() as documents:
            return documents.delete_many({"endpointId": {"$in": [*endpoint_ids]}}).deleted_count

    def rewrite(self, order_ids: Sequence[str], changed_body: Callable[[str], str]) -> int:
        """Change the bodies of all deliveries about some orders, and remove what receivers answered; returns how many."""
        with self._store.with_deadline() as documents:
            found = list(documents.find({"orderId": {"$in": [*order_ids]}}, {"body": 1}))
            answers = {"$map": {"input": "$attempts", "as": "attempt", "in": WITHOUT_ANSWER}}
            for doc in found:
                sets = {
                    "body": {"$literal": changed_body(doc["body"])},
                    "attempts": {"$cond": [{"$isArray": "$attempts"}, answers, "$$REMOVE"]},
                }
                documents.update_one({"_id": doc["_id"]}, [{"$set": sets}])
        return len(found)

    def hold(self, endpoint_id: str) -> int:
        """Hold what is pending for an endpoint that is disabled; returns how many."""
        held = {"$set": {"status": DeliveryStatus.HELD}, "$unset": {"dueAt": "", "claim": ""}}
        return self._update({"endpointId": endpoint_id, "dueAt": {"$gte": EPOCH}}, held)

    def endpoints_of_held(self) -> list[str]:
        """The endpoints for which deliveries are held."""
        with self._store.with_deadline() as documents:
            return [str(endpoint_id) for endpoint_id in documents.distinct("endpointId", HELD)]

    def send_held(self, endpoint_id: str) -> int:
        """Make due what was held for an endpoint; returns how many."""
        return self._update({"endpointId": endpoint_id, **HELD}, self._due_now())

    def replay(self, endpoint_id: str, since: datetime, until: datetime) -> int:
        """Make due an endpoint's deliveries of a time that it has not taken; returns how many."""
        missing = {"$in": [DeliveryStatus.FAILED, DeliveryStatus.HELD, DeliveryStatus.PENDING]}
        query = {"endpointId": endpoint_id, "createdAt": {"$gte": since, "$lt": until}, "status": missing}
        return self._update({**query, "claim": {"$exists": False}}, self._due_now())

    def retry(self, delivery_id: str) -> None:
        """Make a delivery due at once, unless an attempt is being made."""
        self._update({"_id": delivery_id, "claim": {"$exists": False}}, self._due_now())

    def delete_undelivered(self, endpoint_id: str) -> int:
        """Delete what an endpoint has not taken; returns how many."""
        with self._store.with_deadline() as documents:
            missing = {"endpointId": endpoint_id, "status": {"$ne": DeliveryStatus.SUCCEEDED}}
            return documents.delete_many(missing).deleted_count

    def find(self, delivery_id: str) -> Document:
        """One delivery as it is stored. Raises DeliveryNotFound."""
        with self._store.with_deadline() as documents:
            found = documents.find_one({"_id": delivery_id})
        if found is None:
            raise DeliveryNotFound("there is no such delivery")
        return found

    def newest(
        self,
        endpoint_id: str,
        limit: int,
        *,
        status: str = "",
        order_id: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> list[Document]:
        """An endpoint's deliveries as they are stored, without their bodies, the newest first.

        With `before`, only those older than the delivery with this creation time and id, which may be gone.
        """
        query: Document = {"endpointId": endpoint_id}
        query |= {name: text for name, text in (("status", status), ("orderId", order_id)) if text}
        bounds = {name: at for name, at in (("$gte", since), ("$lt", until)) if at}
        if bounds:
            query["createdAt"] = bounds
        if before:
            at, delivery_id = before
            query["$or"] = [{"createdAt": {"$lt": at}}, {"createdAt": at, "_id": {"$lt": delivery_id}}]
        with self._store.with_deadline() as documents:
            found = documents.find(query, {"body": 0}).sort([("createdAt", -1), ("_id", -1)]).limit(limit)
            return list(found)

    def backlog(self, except_of: Collection[str], limit: int) -> tuple[int, int]:
        """How many deliveries are due, counted up to `limit`, and how long the oldest has waited, in milliseconds.

        Not those of the endpoints `except_of`. Requests of clients wait for it, so it raises Unavailable after BACKLOG_TIMEOUT_SECONDS.
        """
        now = self.now()
        due: Document = {"dueAt": {"$lte": now}, "endpointId": {"$nin": [*except_of]}}
        with self._store.with_deadline(BACKLOG_TIMEOUT_SECONDS) as documents:
            oldest = documents.find_one(due, {"dueAt": 1}, sort=[("dueAt", 1)])
            if oldest is None:
                return 0, 0
            age = now - oldest["dueAt"]
            return documents.count_documents(due, limit=limit), int(age.total_seconds() * 1000)

    def queue(self, limit: int) -> tuple[int, int, int]:
        """How many deliveries have a due time, are due, and wait for another attempt; each counted up to `limit`."""
        now = self.now()
        open_, due, waiting = self._store.counts(
            [{"dueAt": {"$gte": EPOCH}}, {"dueAt": {"$lte": now}}, {"dueAt": {"$gt": now}, "tries": {"$gt": 0}}], limit
        )
        return open_, due, waiting

    def _next_due(self, documents: Documents, due: Document, turn: Document, limit: int) -> list[Document]:
        """Deliveries that are due, in the order of their endpoints' ids, and of an endpoint the longest due first."""
        query = {**due, "endpointId": {**due["endpointId"], **turn}}
        order = [("endpointId", 1), ("dueAt", 1)]
        # Another index would look at every delivery of the endpoints that take no more.
        found = documents.find(query, {"endpointId": 1}).sort(order).hint(TURNS).limit(limit)
        return list(found.batch_size(limit))

    def _documents(self, deliveries: Sequence[Delivery], now: datetime, **members: Any) -> list[Document]:
        return [{**delivery_document(one), "createdAt": now, **members} for one in deliveries]

    def _due_now(self) -> Document:
        # Tries begin anew, so that what failed for good is tried for days again.
        return {"$set": {"status": DeliveryStatus.PENDING, "dueAt": self.now(), "tries": 0}, "$unset": {"claim": ""}}

    def _update(self, query: Document, update: Any) -> int:
        with self._store.with_deadline() as documents:
            return documents.update_many(query, update).modified_count


def _outcome(ended: EndedAttempt, now: datetime) -> Document:
    """What an attempt makes of the document of its delivery; `attempts` has this one only."""
    members: Document = {"tries": ended.delivery.tries + 1, "attempts": [attempt_document(ended.result, now)]}
    if ended.pause is not None:
        return {**members, "status": DeliveryStatus.PENDING, "dueAt": now + timedelta(seconds=ended.pause)}
    return {**members, "status": DeliveryStatus.SUCCEEDED if ended.result.succeeded else DeliveryStatus.FAILED}
