"""The connection to MongoDB: durable writes, deadlines, and the database's clock."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    _OperationCancelled,
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
# Server errors such as interrupted, not primary or shutting down: the same command may succeed soon.
TRANSIENT_CODES = frozenset(
    {6, 7, 50, 64, 89, 91, 133, 134, 189, 202, 262, 290, 9001, 10107, 11600, 11602, 13435, 13436}
)


class DatabaseClock(ServerHeartbeatListener):
    """The primary's time, advanced between heartbeats by the monotonic clock of this process.

    So workers on hosts with different clocks agree on when a lease ends. The wall clock of this host is never used. A busy
    process reads a heartbeat late: of the last CLOCK_HEARTBEATS the one that says the latest time counts. Before the first
    one, `hello` is called; it returns the primary's reply to the command `hello`.
    """

    def __init__(self, hello: Callable[[], Document]) -> None:
        self._hello = hello
        # The primary's time and the monotonic time of its arrival: one pair, so that a reader never mixes two heartbeats.
        self._reference: tuple[datetime, float] | None = None
        self._primary: object = None
        # Such pairs of the last heartbeats of this primary.
        self._last: tuple[tuple[datetime, float], ...] = ()

    def now(self) -> datetime:
        """The time in UTC, in whole milliseconds as MongoDB stores it.

        Raises Unavailable before the first heartbeat if no primary replies.
        """
        base, at = self._reference or self._set_reference(self._hello())
        return base + timedelta(milliseconds=int((time.monotonic() - at) * 1000))

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """Ignored; the interface requires it."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """Use the primary's time from its heartbeat."""
        reply = event.reply.document
        if reply.get("isWritablePrimary") and "localTime" in reply:
            self._set_reference(reply, event.connection_id)

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        """Ignored; the interface requires it."""

    def _set_reference(self, reply: Document, primary: object = None) -> tuple[datetime, float]:
        newest = (reply["localTime"].replace(tzinfo=UTC), time.monotonic())
        before = self._last[1 - CLOCK_HEARTBEATS :] if primary == self._primary else ()
        self._primary, self._last = primary, (*before, newest)
        self._reference = reference = max(self._last, key=lambda pair: pair[0].timestamp() - pair[1])
        return reference


class PrimaryMonitor(ServerHeartbeatListener):
    """Which servers were primary at their last heartbeat.

    The driver also gives a server up when a command of this process ends while its connection authenticates. That
    says nothing about the server if the command had little time or this process was busy; the next heartbeat decides.
    """

    def __init__(self) -> None:
        self._primaries: dict[tuple[str, int | None], bool] = {}

    def primary(self, addresses: Iterable[tuple[str, int | None]]) -> bool:
        """Whether one of the servers at `addresses` was primary."""
        return any(self._primaries.get(address) for address in addresses)

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """Ignored; the interface requires it."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """Note whether the server is primary."""
        self._primaries[event.connection_id] = event.reply.is_writable

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        """Note that the server is gone, unless the driver itself cancelled the heartbeat: it repeats it at once."""
        if not isinstance(event.reply, _OperationCancelled):
            self._primaries[event.connection_id] = False


class Database:
    """A client with the name of the default database. It connects at the first command."""

    def __init__(self, uri: str, name: str, **options: Any) -> None:
        self.clock = DatabaseClock(self._hello)
        self._monitor = PrimaryMonitor()
        listeners = [self.clock, self._monitor, *options.pop("event_listeners", [])]
        self.client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            uri,
            connect=False,
            tz_aware=True,
            w="majority",
            journal=True,
            readConcernLevel="majority",
            appname="orderflow",
            # Monitors check every second, so that a returned primary is noticed without a request.
            heartbeatFrequencyMS=1000,
            serverSelectionTimeoutMS=2000,
            connectTimeoutMS=CONNECT_TIMEOUT_MS,
            waitQueueTimeoutMS=1500,
            maxPoolSize=64,
            event_listeners=listeners,
            **options,
        )
        self._name = name
        # A description of the deployment, and whether it has a primary: one pair, so that a reader never mixes two.
        self._writable: tuple[object, bool] = (None, False)
        self._closed = False

    def collection(self, name: str, deadline: float, database: str = "") -> "Store":
        """A collection of one module; each of its operations may take `deadline` seconds."""
        return Store(self.client[database or self._name][name], self, deadline)

    def secret(self, name: str, database: str = "") -> bytes:
        """A random key that all processes on a database share; the first call creates it. Raises Unavailable."""
        new_key = {"$setOnInsert": {"key": secrets.token_bytes(32)}}
        with self.collection("secrets", SECRET_SECONDS, database).with_deadline() as documents:
            found: Any = documents.find_one_and_update(
                {"_id": name}, new_key, upsert=True, return_document=pymongo.ReturnDocument.AFTER
            )
        return bytes(found["key"])

    def _hello(self) -> Document:
        try:
            with pymongo.timeout(HELLO_SECONDS):
                return self.client.admin.command("hello")
        except PyMongoError as exc:
            raise Unavailable("the database does not answer at the moment", retry_after=1) from exc

    def writable(self) -> bool:
        """Whether a primary is known; answered from memory."""
        # The driver makes a new description for each change that it notices; to search one takes 20 µs, and every command asks.
        description = self.client.topology_description
        known, writable = self._writable
        if known is not description:
            writable = description.has_writable_server() or (
                not self._closed and self._monitor.primary(description.server_descriptions())
            )
            self._writable = description, writable
        return writable

    def reachable(self, deadline: float = 1.0) -> bool:
        """Whether the primary replies within `deadline` seconds."""
        try:
            with pymongo.timeout(deadline):
                self.client.admin.command("ping")
        except PyMongoError:
            return False
        return self.writable()

    def close(self) -> None:
        """Close all connections. Later operations raise Unavailable."""
        self._closed = True
        self.client.close()


class Store:
    """One collection with its deadline and the database's clock; repositories are built on it."""

    def __init__(self, collection: Documents, database: Database, deadline: float) -> None:
        self.collection = collection
        self.clock = database.clock
        self._database = database
        self._deadline = deadline
        self._used = False
        self._durations = metrics.database_duration.labels(collection.name)

    @contextmanager
    def with_deadline(self, seconds: float | None = None) -> Iterator[Documents]:
        """A context manager: the collection for one operation, limited to `seconds` or the collection's own deadline.

        Fails at once if no primary is known. Raises Unavailable for transient errors; an interrupted write may or may
        not have happened.
        """
        if self._used and not self._database.writable():
            raise Unavailable("the database has no primary at the moment", retry_after=1)
        started = time.perf_counter()
        try:
            with pymongo.timeout(seconds or self._deadline):
                yield self.collection
            self._used = True
        except PyMongoError as exc:
            metrics.database_errors.labels(type(exc).__name__).inc()
            if is_transient(exc):
                raise Unavailable("the database does not answer at the moment", retry_after=1) from exc
            raise
        finally:
            metrics.observations.add(self._durations, (time.perf_counter() - started,))

    def secret(self, name: str) -> bytes:
        """A random key that all processes on the collection's database share. Raises Unavailable."""
        return self._database.secret(name, self.collection.database.name)

    def backlog(self, due_field: str, limit: int) -> tuple[int, int]:
        """The number of documents that are due by `due_field`, counted up to `limit`, and the age of the oldest in ms."""
        now = self.clock.now()
        due = {due_field: {"$lte": now}}
        # Requests of clients wait for this, so it has a short deadline.
        with self.with_deadline(BACKLOG_TIMEOUT_SECONDS) as documents:
            oldest = documents.find_one(due, {due_field: 1}, sort=[(due_field, 1)])
            if oldest is None:
                return 0, 0
            age = now - oldest[due_field]
            return documents.count_documents(due, limit=limit), int(age.total_seconds() * 1000)

    def counts(self, filters: Sequence[Document], limit: int, seconds: float | None = None) -> list[int]:
        """The number of documents that match each filter, counted up to `limit`, within `seconds`. Each needs an index."""
        with self.with_deadline(seconds) as documents:
            return [documents.count_documents(query, limit=limit) for query in filters]

    def prepare(self, validator: Document, indexes: list[pymongo.IndexModel]) -> None:
        """Create the collection, its validator and its indexes, or update them; safe to repeat and to run concurrently."""
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
        """Raise ForeignDocuments if another program uses the collection; the validator would block its writes.

        Checks the oldest and the newest FOREIGN_SAMPLE documents, and only if the collection has no $jsonSchema
        validator yet: with one, only Orderflow wrote to it, and documents of an earlier version must not prevent a
        start.
        """
        if "$jsonSchema" in self.collection.options().get("validator", {}):
            return
        for direction in (1, -1):
            foreign = {"$match": {"$nor": [{"$jsonSchema": validator}]}}
            stages: list[Document] = [{"$limit": FOREIGN_SAMPLE}, foreign, {"$limit": 1}]
            for document in self.collection.aggregate(stages, hint={"$natural": direction}):
                raise ForeignDocuments(self.collection.full_name, document, validator)


# A lower bound that matches every stored date, so that a partial index on a date field is used.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CLOCK_HEARTBEATS = 10
BACKLOG_TIMEOUT_SECONDS = 0.2
# A server that does not reply to a connection or a heartbeat for so long counts as gone.
CONNECT_TIMEOUT_MS = 2000
FOREIGN_SAMPLE = 1000
SECRET_SECONDS = 2.0
HELLO_SECONDS = 2.0
NAMESPACE_EXISTS = 48


class ForeignDocuments(Exception):
    """A collection has documents of another program; the text names it and says what to do."""

    def __init__(self, collection: str, document: Document, validator: Document) -> None:
        missing = [name for name in validator["required"] if name not in document]
        why = f"lacks {', '.join(missing)}" if missing else "does not fit the schema"
        super().__init__(
            f"The collection {collection} holds documents of another program ({document['_id']!r} {why}): "
            "set MONGODB_DATABASE to a database of Orderflow's own, or move the collection away"
        )


def is_transient(error: PyMongoError) -> bool:
    """Whether the same operation may succeed later: the cause is the connection or the server, not the command."""
    if isinstance(error, BulkWriteError):
        return bool(error.details.get("writeConcernErrors"))
    if isinstance(error, TRANSIENT_ERRORS) or error.timeout:
        return True
    return isinstance(error, OperationFailure) and error.code in TRANSIENT_CODES
