"""Stores endpoints in MongoDB."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from pymongo.errors import DuplicateKeyError

from app.contracts.base import Conflict
from app.contracts.webhooks import EndpointNotFound
from app.storage.mongodb import Document, Store
from app.webhooks.documents import ENDPOINT_INDEXES, ENDPOINT_SCHEMA, endpoint_document, endpoint_of
from app.webhooks.endpoint import Endpoint

RETRIES = 8
# Longer than a write may take, and than clocks may differ.
OVERLAP_SECONDS = 30.0
PRESENT: Document = {"deletedAt": {"$exists": False}}


class EndpointRepository:
    """One document an endpoint. A deleted one is kept for a while, so that every process learns of it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def prepare(self) -> None:
        """Create the collection's validator and indexes."""
        self._store.prepare(ENDPOINT_SCHEMA, ENDPOINT_INDEXES)

    def now(self) -> datetime:
        """The database's time."""
        return self._store.clock.now()

    def add(self, endpoint: Endpoint) -> Endpoint:
        """Store a new endpoint; returns what is stored under its id, which may be from an earlier try."""
        with self._store.with_deadline() as documents:
            try:
                documents.insert_one({**endpoint_document(endpoint), "changedAt": self.now()})
            except DuplicateKeyError:
                # Stored by the same request at the same time, or deleted since an earlier one.
                return self.find(endpoint.endpoint_id, endpoint.user_id)
        return endpoint

    def find(self, endpoint_id: str, on_behalf_of: str) -> Endpoint:
        """One endpoint of a user, or of anybody where `on_behalf_of` is empty. Raises EndpointNotFound."""
        with self._store.with_deadline() as documents:
            found = documents.find_one(_filter(endpoint_id, on_behalf_of))
        if found is None:
            raise EndpointNotFound("there is no such endpoint")
        return endpoint_of(found)

    def enabled_of(self, endpoint_ids: Sequence[str]) -> dict[str, bool]:
        """Which of some endpoints exist, and whether they are enabled."""
        with self._store.with_deadline() as documents:
            found = documents.find({"_id": {"$in": [*endpoint_ids]}, **PRESENT}, {"disabledReason": 1})
            return {doc["_id"]: not doc.get("disabledReason") for doc in found}

    def oldest(
        self, on_behalf_of: str, limit: int, *, told_of: str = "", after: tuple[datetime, str] | None = None
    ) -> list[Endpoint]:
        """The endpoints of a user, or of all where `on_behalf_of` is empty; the oldest first.

        With `told_of`, only those that are told this user's orders. With `after`, only those newer than the endpoint with this
        creation time and id, which may be gone.
        """
        conditions = [PRESENT]
        if on_behalf_of:
            conditions.append({"userId": on_behalf_of})
        if told_of:
            conditions.append({"userId": {"$in": [told_of, ""]}})
        if after:
            at, endpoint_id = after
            # The bound lets the index begin there; of the endpoints made at that time those up to the id are left out.
            conditions += [
                {"createdAt": {"$gte": at}},
                {"$or": [{"createdAt": {"$gt": at}}, {"_id": {"$gt": endpoint_id}}]},
            ]
        with self._store.with_deadline() as documents:
            found = documents.find({"$and": conditions}).sort([("createdAt", 1), ("_id", 1)]).limit(limit)
            return [endpoint_of(doc) for doc in found]

    def count(self, user_id: str, limit: int) -> int:
        """How many endpoints a user has, counted up to `limit`."""
        with self._store.with_deadline() as documents:
            return documents.count_documents({"userId": user_id, **PRESENT}, limit=limit)

    def change(self, endpoint_id: str, on_behalf_of: str, decide: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """Replace an endpoint by what `decide` makes of it, by compare-and-set. Raises EndpointNotFound and Conflict."""
        for _ in range(RETRIES):
            current = self.find(endpoint_id, on_behalf_of)
            decided = decide(current)
            if decided == current:
                return current
            doc = endpoint_document(decided)
            doc |= {"version": current.version + 1, "changedAt": self.now()}
            with self._store.with_deadline() as documents:
                query = {**_filter(endpoint_id, ""), "version": current.version}
                if documents.replace_one(query, doc).matched_count:
                    return endpoint_of(doc)
        raise Conflict("the endpoint was changed by other requests each time; try again")

    def delete(self, endpoint_id: str, on_behalf_of: str) -> Endpoint:
        """Delete an endpoint; its secrets are removed at once. Raises EndpointNotFound."""
        found = self.find(endpoint_id, on_behalf_of)
        now = self.now()
        with self._store.with_deadline() as documents:
            gone = {"deletedAt": now, "changedAt": now, "secrets": [], "disabledReason": "deleted"}
            documents.update_one({"_id": endpoint_id}, {"$set": gone})
        return found

    def erase(self, user_id: str, pseudonym: str) -> list[str]:
        """Delete all endpoints of a user, with the personal data in them; returns their ids, also of those deleted before."""
        now, ids = self.now(), self.ids_of(user_id)
        with self._store.with_deadline() as documents:
            erased = {
                "userId": pseudonym,
                "url": "",
                "description": "",
                "deletedAt": now,
                "changedAt": now,
                "secrets": [],
            }
            gone = {"$set": {**erased, "disabledReason": "deleted"}, "$unset": {"fingerprint": ""}}
            documents.update_many({"_id": {"$in": ids}}, gone)
        return ids

    def ids_of(self, user_id: str) -> list[str]:
        """The ids of all endpoints of a user, those deleted included."""
        with self._store.with_deadline() as documents:
            return [str(doc["_id"]) for doc in documents.find({"userId": user_id}, {"_id": 1})]

    def changed_since(self, at: datetime) -> list[tuple[str, Endpoint | None]]:
        """Id and endpoint of those changed since `at`; the endpoint is None where it was deleted.

        The time of a change is taken before it is written, by clocks that follow the database's and differ by a little: so what was
        changed in the last OVERLAP_SECONDS before `at` is read again.
        """
        query = {"changedAt": {"$gte": at - timedelta(seconds=OVERLAP_SECONDS)}}
        with self._store.with_deadline() as documents:
            return [
                (doc["_id"], None if "deletedAt" in doc else endpoint_of(doc))
                for doc in documents.find(query).sort("changedAt", 1)
            ]


def _filter(endpoint_id: str, on_behalf_of: str) -> Document:
    one: Document = {"_id": endpoint_id, **PRESENT}
    return {**one, "userId": on_behalf_of} if on_behalf_of else one
