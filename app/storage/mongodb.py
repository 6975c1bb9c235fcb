"""The connection to MongoDB: durable by default, bounded in time, and keeper of the one clock that counts."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
from pymongo.collection import Collection
from pymongo.errors import (
    BulkWriteError,
    CollectionInvalid,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
    WriteConcernError,
)
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

from app.contracts.base import Unavailable
from app.observability import metrics

Document = dict[str, Any]
Documents = Collection[Document]

TRANSIENT_ERRORS = (
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    WaitQueueTimeoutError,
    WriteConcernError,
)
# Interrupted, not primary, shutting down, and the like: the server will do better soon.
TRANSIENT_CODES = frozenset(
    {6, 7, 50, 64, 89, 91, 133, 134, 189, 202, 262, 290, 9001, 10107, 11600, 11602, 13435, 13436}
)


class DatabaseClock(ServerHeartbeatListener):
    """The database's time, carried on between heartbeats by a clock of this process that nobody sets.

    Workers on hosts whose clocks differ then agree on when a lease ends. The time of this host is never used: before the
    first heartbeat `ask` is called, which returns the primary's answer to `hello`.
    """

    def __init__(self, ask: Callable[[], Document]) -> None:
        self._ask = ask
        # One pair, so that a heartbeat between two reads cannot mix an old time with a new moment.
        self._fix: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """The time in UTC, in whole milliseconds, as MongoDB stores it.

        Raises Unavailable before the first heartbeat, where there is no primary that answers.
        """
        base, at = self._fix or self._taken(self._ask())
        exact = base + timedelta(seconds=time.monotonic() - at)
        return exact.replace(microsecond=exact.microsecond // 1000 * 1000)

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """Nothing to learn from."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """Take the primary's time over."""
        reply = event.reply.document
        if reply.get("isWritablePrimary") and "localTime" in reply:
            self._taken(reply)

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        """Nothing to learn from."""

    def _taken(self, reply: Document) -> tuple[datetime, float]:
        self._fix = fix = (reply["localTime"].replace(tzinfo=UTC), time.monotonic())
        return fix


class Database:
    """One client, and the database that is meant where none is named. No connection is made before the first command."""

    def __init__(self, uri: str, name: str, **options: Any) -> None:
        self.clock = DatabaseClock(self._hello)
        listeners = [self.clock, *options.pop("event_listeners", [])]
        self.client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            uri,
            connect=False,
            tz_aware=True,
            w="majority",
            journal=True,
            readConcernLevel="majority",
            appname="orderflow",
            # Monitors look every second, so that a returned primary is noticed without a request to wake them.
            heartbeatFrequencyMS=1000,
            serverSelectionTimeoutMS=2000,
            connectTimeoutMS=2000,
            waitQueueTimeoutMS=1500,
            maxPoolSize=64,
            event_listeners=listeners,
            **options,
        )
        self._name = name

    def collection(self, name: str, deadline: float, database: str = "") -> "Store":
        """The collection of one module, each of whose commands may take `deadline` seconds."""
        return Store(self.client[database or self._name][name], self, deadline)

    def secret(self, name: str, database: str = "") -> bytes:
        """A random key that every process on a database shares: drawn by whoever asks first. Raises Unavailable."""
        drawn = {"$setOnInsert": {"key": secrets.token_bytes(32)}}
        with self.collection("secrets", SECRET_SECONDS, database).with_deadline() as documents:
            found: Any = documents.find_one_and_update(
                {"_id": name}, drawn, upsert=True, return_document=pymongo.ReturnDocument.AFTER
            )
        return bytes(found["key"])

    def _hello(self) -> Document:
        try:
            with pymongo.timeout(HELLO_SECONDS):
                return self.client.admin.command("hello")
        except PyMongoError as exc:
            raise Unavailable("the database does not answer at the moment", retry_after=1) from exc

    def writable(self) -> bool:
        """Whether a primary is in sight; from memory, without asking."""
        return self.client.topology_description.has_writable_server()

    def reachable(self, deadline: float = 1.0) -> bool:
        """Whether the primary answers within `deadline` seconds."""
        try:
            with pymongo.timeout(deadline):
                self.client.admin.command("ping")
        except PyMongoError:
            return False
        return self.writable()

    def close(self) -> None:
        """Let all connections go."""
        self.client.close()


class Store:
    """One collection, its clock and its deadlines; repositories are built on it."""

    def __init__(self, collection: Documents, database: Database, deadline: float) -> None:
        self.collection = collection
        self.clock = database.clock
        self._database = database
        self._deadline = deadline
        self._seen = False
        self._durations = metrics.database_duration.labels(collection.name)

    @contextmanager
    def with_deadline(self, seconds: float | None = None) -> Iterator[Documents]:
        """The collection, for one operation: refuses at once when no primary is known, gives up at the deadline, its own or `seconds`.

        Raises Unavailable for whatever may pass; a write it interrupts may or may not have happened.
        """
        if self._seen and not self._database.writable():
            raise Unavailable("the database has no primary at the moment", retry_after=1)
        started = time.perf_counter()
        try:
            with pymongo.timeout(seconds or self._deadline):
                yield self.collection
            self._seen = True
        except PyMongoError as exc:
            metrics.database_errors.labels(type(exc).__name__).inc()
            if is_transient(exc):
                raise Unavailable("the database does not answer at the moment", retry_after=1) from exc
            raise
        finally:
            metrics.observations.add(self._durations, (time.perf_counter() - started,))

    def backlog(self, due_field: str, limit: int) -> tuple[int, int]:
        """How many documents are due by `due_field`, counted up to `limit`, and the oldest's age in milliseconds."""
        now = self.clock.now()
        due = {due_field: {"$lte": now}}
        # Clients wait for this: what cannot be told soon is not worth waiting for.
        with self.with_deadline(BACKLOG_TIMEOUT_SECONDS) as documents:
            oldest = documents.find_one(due, {due_field: 1}, sort=[(due_field, 1)])
            if oldest is None:
                return 0, 0
            age = now - oldest[due_field]
            return documents.count_documents(due, limit=limit), int(age.total_seconds() * 1000)

    def counts(self, wanted: Sequence[Document], limit: int, seconds: float | None = None) -> list[int]:
        """How many documents each filter finds, counted up to `limit`, within `seconds`. Each needs an index."""
        with self.with_deadline(seconds) as documents:
            return [documents.count_documents(one, limit=limit) for one in wanted]

    def prepare(self, validator: Document, indexes: list[pymongo.IndexModel]) -> None:
        """Make the collection, its validator and its indexes what they should be; safe to repeat, side by side."""
        database = self.collection.database
        with pymongo.timeout(30):
            try:
                database.create_collection(self.collection.name, validator={"$jsonSchema": validator})
            except CollectionInvalid:
                self._refuse_foreign_documents(validator)
                database.command("collMod", self.collection.name, validator={"$jsonSchema": validator})
            except OperationFailure as exc:
                if exc.code != NAMESPACE_EXISTS:
                    raise
            if indexes:
                self.collection.create_indexes(indexes)

    def _refuse_foreign_documents(self, validator: Document) -> None:
        """Leave a collection alone that another program fills: what it holds could not be read, nor written any more.

        Looked at are the oldest and the newest FOREIGN_SAMPLE documents, whatever the collection's size, and only where
        no validator of this kind is set: behind one, no foreign document could have been stored, and one that an
        earlier version wrote must not stop a start. Raises ForeignDocuments.
        """
        if "$jsonSchema" in self.collection.options().get("validator", {}):
            return
        for direction in (1, -1):
            foreign = {"$match": {"$nor": [{"$jsonSchema": validator}]}}
            stages: list[Document] = [{"$limit": FOREIGN_SAMPLE}, foreign, {"$limit": 1}]
            for document in self.collection.aggregate(stages, hint={"$natural": direction}):
                raise ForeignDocuments(self.collection.full_name, document, validator)


# Before anything that is stored: what has a time at all has a later one, and an index tells which those are.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BACKLOG_TIMEOUT_SECONDS = 0.2
FOREIGN_SAMPLE = 1000
SECRET_SECONDS = 2.0
HELLO_SECONDS = 2.0
NAMESPACE_EXISTS = 48


class ForeignDocuments(Exception):
    """A collection holds what Orderflow has not written; one sentence that says which and what to do."""

    def __init__(self, collection: str, document: Document, validator: Document) -> None:
        missing = [name for name in validator["required"] if name not in document]
        why = f"lacks {', '.join(missing)}" if missing else "does not fit the schema"
        super().__init__(
            f"The collection {collection} holds documents of another program ({document['_id']!r} {why}): "
            "set MONGODB_DATABASE to a database of Orderflow's own, or move the collection away"
        )


def is_transient(error: PyMongoError) -> bool:
    """Whether the same operation may succeed later: the trouble is the connection or the server, not the command."""
    if isinstance(error, BulkWriteError):
        return bool(error.details.get("writeConcernErrors"))
    if isinstance(error, TRANSIENT_ERRORS) or error.timeout:
        return True
    return isinstance(error, OperationFailure) and error.code in TRANSIENT_CODES
