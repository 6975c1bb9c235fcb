"""The connection: the one clock, deadlines, what may pass, and batches of which some documents are refused."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pymongo
import pytest
from pymongo import errors
from pymongo.hello import Hello
from pymongo.monitoring import ServerHeartbeatSucceededEvent
from pymongo.synchronous.pool import Connection
from pymongo.write_concern import WriteConcern

from app.contracts.base import NotFound, Unavailable
from app.main import create_app, runtime
from app.storage.bulk import bulk_insert
from app.storage.mongodb import (
    CLOCK_HEARTBEATS,
    FOREIGN_SAMPLE,
    Database,
    DatabaseClock,
    ForeignDocuments,
    is_transient,
)

YEAR_2031 = datetime(2031, 2, 3, 4, 5, 6, 789000)
VALIDATOR = {"bsonType": "object", "properties": {"value": {"bsonType": "int", "minimum": 0}}}
BY_VALUE = pymongo.IndexModel([("value", 1)], name="by_value", unique=True)


class Proxy:
    """Stands before the database; can vanish and return."""

    def __init__(self, uri: str):
        at = urlsplit(uri)
        self._target = (at.hostname, at.port)
        self._user = f"{at.username}:{at.password}"
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self._there = False
        # Holds the port while nobody listens, so that no other program is given it.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self.appear()

    @property
    def uri(self) -> str:
        return f"mongodb://{self._user}@127.0.0.1:{self.port}/?directConnection=true"

    def connections(self) -> int:
        return len(self._sockets) // 2

    def appear(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        self._there = True
        self._sockets.append(listener)
        self._spawn(self._accept, listener)

    def vanish(self) -> None:
        with self._guard:
            self._there = False
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()
        self._sockets, self._threads = [], []

    def close(self) -> None:
        self.vanish()
        self._held.close()

    def _spawn(self, work, *sockets: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=sockets, daemon=True))
        self._threads[-1].start()

    def _accept(self, listener) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                with self._guard:
                    if not self._there:
                        near.close()
                        far.close()
                        return
                    self._sockets += [near, far]
                    self._spawn(self._pump, near, far)
                    self._spawn(self._pump, far, near)

    def _pump(self, source, sink) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(mongodb_uri):
    proxy = Proxy(mongodb_uri)
    yield proxy
    proxy.close()


@pytest.fixture
def patient_driver(monkeypatch):
    """The driver itself waits for a server longer than a test takes: what ends earlier ends at its deadline."""
    client = pymongo.MongoClient
    monkeypatch.setattr(
        pymongo, "MongoClient", lambda uri, **options: client(uri, **options | {"serverSelectionTimeoutMS": 100_000})
    )


@pytest.fixture
def connect(settings):
    """A database of the test's own, as the application connects to it."""
    opened = []

    def make(uri: str = settings.mongodb_uri, **options) -> Database:
        opened.append(Database(uri, settings.database, **options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def store(connect):
    return connect().collection("things", 30.0)


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port at which nobody listens, nor can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


# --- the clock -------------------------------------------------------------------------------------------------


def heartbeat(port: int = 27017, **reply) -> ServerHeartbeatSucceededEvent:
    return ServerHeartbeatSucceededEvent(0.001, Hello({"ok": 1, **reply}), ("localhost", port), True)


def never() -> dict:
    raise AssertionError("the database is not to be asked")


class Monotonic:
    """Stands for the time module; goes on when told."""

    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def passing(monkeypatch) -> Monotonic:
    monotonic = Monotonic()
    monkeypatch.setattr("app.storage.mongodb.time", monotonic)
    return monotonic


def test_the_clock_takes_the_primarys_time_over(passing):
    clock = DatabaseClock(never)
    clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031))
    assert clock.now() == YEAR_2031.replace(tzinfo=UTC)


def test_the_clock_runs_on_between_heartbeats(passing):
    clock = DatabaseClock(never)
    clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031))
    passing.seconds += 90.25
    assert clock.now() == (YEAR_2031 + timedelta(seconds=90.25)).replace(tzinfo=UTC)


def test_a_heartbeat_that_is_read_late_does_not_set_the_clock_back(passing):
    clock = DatabaseClock(never)
    clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031))
    passing.seconds += 3
    clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031 + timedelta(seconds=1)))
    assert clock.now() == (YEAR_2031 + timedelta(seconds=3)).replace(tzinfo=UTC)


def test_a_primary_whose_clock_was_ahead_is_followed_once_the_last_heartbeats_agree(passing):
    clock = DatabaseClock(never)
    clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031 + timedelta(hours=1)))
    for _ in range(CLOCK_HEARTBEATS):
        clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031))
    assert clock.now() == YEAR_2031.replace(tzinfo=UTC)


def test_another_primarys_time_is_taken_over_at_once(passing):
    clock = DatabaseClock(never)
    clock.succeeded(heartbeat(27017, isWritablePrimary=True, localTime=YEAR_2031 + timedelta(hours=1)))
    clock.succeeded(heartbeat(27018, isWritablePrimary=True, localTime=YEAR_2031))
    assert clock.now() == YEAR_2031.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "reply",
    [
        {"isWritablePrimary": False, "secondary": True, "localTime": YEAR_2031},
        {"localTime": YEAR_2031},
        {"isWritablePrimary": True},
    ],
)
def test_only_a_primary_that_tells_its_time_is_believed(passing, reply):
    clock = DatabaseClock(lambda: {"localTime": datetime(2030, 1, 1)})
    before = clock.now()
    clock.succeeded(heartbeat(**reply))
    assert clock.now() == before


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(days=-3)])
def test_before_the_first_heartbeat_the_time_is_asked_for_whatever_the_clock_of_this_host_says(
    connect, monkeypatch, ahead
):
    monkeypatch.setattr("app.storage.mongodb.datetime", wrong_by(ahead))
    database = connect()
    assert abs(database.clock.now() - server_time(database)) < timedelta(minutes=1)


def test_before_the_first_heartbeat_there_is_no_time_without_a_primary(connect, free_port, monkeypatch):
    monkeypatch.setattr("app.storage.mongodb.HELLO_SECONDS", 0.3)
    clock = connect(f"mongodb://127.0.0.1:{free_port}/?directConnection=true").clock
    for _ in range(2):
        with pytest.raises(Unavailable):
            clock.now()


def test_the_time_is_asked_for_once():
    asked = []
    clock = DatabaseClock(lambda: asked.append(1) or {"localTime": YEAR_2031})
    assert clock.now() <= clock.now() < YEAR_2031.replace(tzinfo=UTC) + timedelta(minutes=1)
    assert asked == [1]


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(days=-3)])
def test_a_host_whose_clock_is_wrong_writes_right_times_with_its_first_request(
    settings, database, monkeypatch, new_order, ahead
):
    """It serves before anything else has spoken to the database: the times of leases, events and keys are to be right."""
    prepared = runtime(create_app(settings))
    prepared.prepare()
    prepared.stop()
    monkeypatch.setattr("app.storage.mongodb.datetime", wrong_by(ahead))
    application = create_app(settings)
    answer = application.test_client().post("/orders", json=new_order(), headers={"Idempotency-Key": "k-1"})
    assert answer.status_code == 201
    [stored] = database.orders.find()
    now = database.client.admin.command("hello")["localTime"]
    lease = timedelta(seconds=settings.relay_lease)
    for at, later in (("createdAt", timedelta()), ("relayDue", lease)):
        assert abs(stored[at].replace(tzinfo=None) - later - now.replace(tzinfo=None)) < timedelta(minutes=1)
    runtime(application).stop()


def wrong_by(ahead: timedelta) -> type[datetime]:
    """What stands for datetime on a host whose clock is so far ahead, or behind."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + ahead

    return Wrong


def test_times_are_whole_milliseconds_as_they_are_stored(passing):
    clock = DatabaseClock(never)
    clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031))
    passing.seconds += 0.0017
    assert clock.now() == (YEAR_2031 + timedelta(milliseconds=1)).replace(tzinfo=UTC)


def test_a_heartbeat_in_the_middle_of_a_reading_does_not_set_the_time_back(passing, monkeypatch):
    clock = DatabaseClock(never)
    clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031))
    passing.seconds += 10
    before, calls = clock.now(), []

    def monotonic():
        calls.append(1)
        if len(calls) == 1:
            clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031 + timedelta(seconds=10)))
        return passing.seconds

    monkeypatch.setattr(passing, "monotonic", monotonic)
    assert clock.now() == before


def test_a_connection_sets_its_clock_by_the_server(connect, eventually):
    database = connect()
    database.clock.succeeded(heartbeat(isWritablePrimary=True, localTime=YEAR_2031))
    eventually(lambda: abs(database.clock.now() - server_time(database)) < timedelta(seconds=0.5))


def server_time(database: Database) -> datetime:
    return database.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)


def test_connections_of_hosts_with_different_clocks_agree(connect, eventually):
    one, other = connect(), connect()
    one.clock.succeeded(heartbeat(isWritablePrimary=True, localTime=datetime(1999, 1, 1)))
    assert one.reachable(30.0)
    assert other.reachable(30.0)
    eventually(lambda: abs(one.clock.now() - other.clock.now()) < timedelta(seconds=0.5))


# --- the connection --------------------------------------------------------------------------------------------


def test_no_connection_is_made_before_the_first_command(proxy, connect):
    database = connect(proxy.uri)
    assert not database.writable()
    assert proxy.connections() == 0
    assert database.reachable(30.0)
    assert proxy.connections() > 0


def test_what_was_written_has_reached_the_disks_of_the_majority_whatever_the_address_says(connect, mongodb_uri):
    database = connect(f"{mongodb_uri}&w=0&journal=false&readConcernLevel=local")
    collection = database.collection("things", 1.0).collection
    assert collection.write_concern.document == {"w": "majority", "j": True}
    assert collection.read_concern.level == "majority"


def test_the_database_is_reachable_when_it_answers(connect):
    database = connect()
    assert database.reachable(30.0)
    assert database.writable()


def test_the_database_is_not_reachable_when_nothing_listens(connect, free_port, patient_driver):
    database = connect(f"mongodb://127.0.0.1:{free_port}/?directConnection=true")
    began = time.monotonic()
    assert not database.reachable(0.3)
    assert time.monotonic() - began < 30


def test_times_come_back_with_their_time_zone(store):
    store.collection.insert_one({"_id": 1, "at": store.clock.now()})
    assert store.collection.find_one()["at"].tzinfo is not None


# --- bounded ---------------------------------------------------------------------------------------------------


def refused_after(store) -> float:
    """How many seconds it takes until an operation is refused."""
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught, store.with_deadline() as documents:
        documents.find_one()
    assert caught.value.members == {"retry_after": 1}
    return time.monotonic() - began


def test_a_bounded_operation_has_the_collection(store):
    with store.with_deadline() as documents:
        documents.insert_one({"_id": 1})
    assert store.collection.count_documents({}) == 1


def test_where_no_database_is_an_operation_gives_up_at_its_deadline(connect, free_port, patient_driver):
    store = connect(f"mongodb://127.0.0.1:{free_port}/?directConnection=true").collection("things", 0.4)
    assert 0.3 < refused_after(store) < 30


def test_where_a_database_never_answers_an_operation_gives_up_at_its_deadline(connect, patient_driver):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"mongodb://127.0.0.1:{silent.getsockname()[1]}/?directConnection=true"
        assert refused_after(connect(uri).collection("things", 0.4)) < 30


def test_a_slow_command_is_given_up_at_its_deadline(connect):
    store = connect().collection("things", 0.3)
    store.collection.insert_one({"_id": 1})
    began = time.monotonic()
    with pytest.raises(Unavailable), store.with_deadline() as documents:
        documents.find_one({"$where": "sleep(20000) || true"})
    assert time.monotonic() - began < 15


def test_when_the_primary_is_known_to_be_gone_operations_are_refused_at_once(proxy, connect, eventually):
    database = connect(proxy.uri)
    store = database.collection("things", 20.0)
    with store.with_deadline() as documents:
        documents.insert_one({"_id": 1})
    proxy.vanish()
    eventually(lambda: not database.writable())
    began, entered = time.monotonic(), []
    with pytest.raises(Unavailable), store.with_deadline():
        entered.append("began")
    assert entered == []
    assert time.monotonic() - began < 15


def test_when_the_connections_are_closed_operations_are_refused(connect):
    database = connect()
    store = database.collection("things", 30.0)
    with store.with_deadline() as documents:
        documents.insert_one({"_id": 1})
    database.close()
    refused_after(store)


def test_when_the_primary_is_back_operations_succeed_again(proxy, connect, eventually):
    database = connect(proxy.uri)
    store = database.collection("things", 30.0)
    with store.with_deadline() as documents:
        documents.insert_one({"_id": 1})
    proxy.vanish()
    eventually(lambda: not database.writable())
    proxy.appear()
    # Nobody asks meanwhile: the monitors notice by themselves.
    eventually(database.writable, 60.0)
    with store.with_deadline() as documents:
        assert documents.count_documents({}) == 1


@pytest.mark.parametrize("step", ["hello", "authenticate"])
def test_an_operation_that_is_given_up_while_it_connects_does_not_refuse_the_next_one(connect, monkeypatch, step):
    # A connection that was idle is not used again.
    store = connect(maxIdleTimeMS=1).collection("things", 30.0)
    with store.with_deadline() as documents:
        documents.insert_one({"_id": 1})
    take_step = getattr(Connection, step)

    def late(connection, *arguments):
        if not connection.is_sdam:
            time.sleep(0.3)
        return take_step(connection, *arguments)

    with monkeypatch.context() as stalled:
        stalled.setattr(Connection, step, late)
        time.sleep(0.01)
        with pytest.raises(Unavailable), store.with_deadline(0.2) as documents:
            documents.find_one()
    with store.with_deadline() as documents:
        assert documents.count_documents({}) == 1


def test_a_connection_lost_in_the_middle_is_unavailable(proxy, connect):
    store = connect(proxy.uri).collection("things", 30.0)
    with store.with_deadline() as documents:
        documents.insert_one({"_id": 1})

    def vanish():
        proxy.vanish()
        return 1

    with pytest.raises(Unavailable), store.with_deadline(1.0) as documents:
        documents.find_one({"_id": vanish()})


def test_before_the_first_success_an_operation_waits_for_the_primary(proxy, connect):
    proxy.vanish()
    store = connect(proxy.uri).collection("things", 30.0)
    returns = threading.Timer(0.3, proxy.appear)
    returns.start()
    with store.with_deadline() as documents:
        assert documents.count_documents({}) == 0
    returns.join()


def test_errors_that_will_not_pass_come_through_as_they_are(store):
    store.collection.insert_one({"_id": 1})
    with pytest.raises(errors.DuplicateKeyError), store.with_deadline() as documents:
        documents.insert_one({"_id": 1})
    with pytest.raises(errors.OperationFailure, match="unknown operator"), store.with_deadline() as documents:
        documents.find_one({"_id": {"$nonsense": 1}})


def test_what_else_is_raised_inside_comes_through_as_it_is(store):
    with pytest.raises(NotFound), store.with_deadline():
        raise NotFound("no such order")


# --- which errors pass -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errors.AutoReconnect("connection closed"),
        errors.ConnectionFailure("refused"),
        errors.NetworkTimeout("timed out"),
        errors.NotPrimaryError("not primary", {"code": 10107}),
        errors.ServerSelectionTimeoutError("no servers"),
        errors.WaitQueueTimeoutError("too many"),
        errors.ExecutionTimeout("too long", 50),
        errors.WriteConcernError("waiting for replication timed out", 64),
        errors.WTimeoutError("waiting for replication timed out", 64),
        errors.OperationFailure("interrupted at shutdown", 11600),
        errors.OperationFailure("interrupted due to a change of primary", 11602),
        errors.OperationFailure("primary stepped down", 189),
        errors.OperationFailure("shutdown in progress", 91),
        errors.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "timed out"}]}),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'code', '') or ''}",
)
def test_trouble_of_the_connection_or_the_server_may_pass(error):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.OperationFailure("bad value", 2),
        errors.OperationFailure("not authorised", 13),
        errors.OperationFailure("authentication failed", 18),
        errors.OperationFailure("the document failed validation", 121),
        errors.OperationFailure("no code"),
        errors.DuplicateKeyError("duplicate key", 11000),
        errors.WriteError("the document failed validation", 121),
        errors.InvalidOperation("wrong use"),
        errors.ConfigurationError("wrong options"),
        errors.BulkWriteError({"writeErrors": [{"index": 0, "code": 11000}], "writeConcernErrors": []}),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'code', '') or ''}",
)
def test_trouble_of_the_command_itself_does_not_pass(error):
    assert not is_transient(error)


# --- batches ---------------------------------------------------------------------------------------------------


def test_a_batch_that_is_fine_is_stored_whole(store):
    assert bulk_insert(store.collection, [{"_id": number} for number in range(5)]) == [None] * 5
    assert store.collection.count_documents({}) == 5


def test_each_refused_document_is_told_of_and_the_rest_is_stored(store):
    store.prepare(VALIDATOR, [])
    store.collection.insert_one({"_id": "old"})
    batch = [
        {"_id": "first", "value": 1},
        {"_id": "old", "value": 2},
        {"_id": "wrong", "value": -3},
        {"_id": "last", "value": 4},
        {"_id": "last", "value": 5},
    ]
    first, old, wrong, last, twice = bulk_insert(store.collection, batch)
    assert (first, last) == (None, None)
    assert (old.duplicate, wrong.duplicate, twice.duplicate) == (True, False, True)
    assert "E11000" in str(old)
    assert "validation" in str(wrong)
    stored = {doc["_id"]: doc.get("value") for doc in store.collection.find()}
    assert stored == {"old": None, "first": 1, "last": 4}


def test_a_batch_that_is_refused_whole_says_so_for_each(store):
    store.prepare(VALIDATOR, [])
    outcomes = bulk_insert(store.collection, [{"_id": number, "value": -1} for number in range(3)])
    assert [outcome.duplicate for outcome in outcomes] == [False] * 3


def test_a_single_document_is_stored_or_its_refusal_told(store):
    store.prepare(VALIDATOR, [])
    assert bulk_insert(store.collection, [{"_id": "first", "value": 1}]) == [None]
    [twice], [wrong] = (
        bulk_insert(store.collection, [doc]) for doc in ({"_id": "first"}, {"_id": "wrong", "value": -3})
    )
    assert (twice.duplicate, wrong.duplicate) == (True, False)
    assert "E11000" in str(twice)
    assert "validation" in str(wrong)
    assert list(store.collection.find()) == [{"_id": "first", "value": 1}]


@pytest.mark.parametrize("stored_before", [False, True])
def test_a_single_document_that_was_not_replicated_is_no_success(store, stored_before):
    unsure = store.collection.with_options(write_concern=WriteConcern(w=5, wtimeout=100))
    if stored_before:
        store.collection.insert_one({"_id": 1})
    with pytest.raises(errors.PyMongoError) as caught:
        bulk_insert(unsure, [{"_id": 1}])
    assert is_transient(caught.value)


def test_a_batch_that_was_not_replicated_is_nobodys_success(store):
    unsure = store.collection.with_options(write_concern=WriteConcern(w=5, wtimeout=100))
    with pytest.raises(errors.BulkWriteError) as caught:
        bulk_insert(unsure, [{"_id": 1}, {"_id": 2}])
    assert is_transient(caught.value)


# --- preparing -------------------------------------------------------------------------------------------------


def prepared(collection) -> tuple[dict, set[str]]:
    """The collection's validator and the names of its indexes."""
    return collection.options()["validator"]["$jsonSchema"], set(collection.index_information())


def test_preparing_makes_validator_and_indexes(store):
    store.prepare(VALIDATOR, [BY_VALUE])
    assert prepared(store.collection) == (VALIDATOR, {"_id_", "by_value"})
    with pytest.raises(errors.WriteError):
        store.collection.insert_one({"value": -1})


def test_preparing_can_be_repeated(store):
    for _ in range(3):
        store.prepare(VALIDATOR, [BY_VALUE])
    assert prepared(store.collection) == (VALIDATOR, {"_id_", "by_value"})


def test_preparing_again_brings_an_older_collection_up_to_date_and_keeps_its_documents(store):
    store.prepare({"bsonType": "object"}, [])
    store.collection.insert_one({"_id": 1, "value": 7})
    store.prepare(VALIDATOR, [BY_VALUE])
    assert prepared(store.collection) == (VALIDATOR, {"_id_", "by_value"})
    assert store.collection.find_one() == {"_id": 1, "value": 7}


def test_preparing_what_another_process_has_only_written_to_adds_the_rest(store):
    store.collection.insert_one({"_id": 1, "value": 7})
    store.prepare(VALIDATOR, [BY_VALUE])
    assert prepared(store.collection) == (VALIDATOR, {"_id_", "by_value"})


def test_processes_may_prepare_at_once(connect):
    databases = [connect() for _ in range(6)]
    assert all(database.reachable(30.0) for database in databases)
    with ThreadPoolExecutor(len(databases)) as threads:
        for name in ("one", "two", "three"):
            stores = [database.collection(name, 30.0) for database in databases]
            together = threading.Barrier(len(databases))

            def prepare(store, together=together):
                together.wait(60)
                store.prepare(VALIDATOR, [BY_VALUE])
                return prepared(store.collection)

            assert list(threads.map(prepare, stores)) == [(VALIDATOR, {"_id_", "by_value"})] * len(databases)
            # Once more, now that everything is there.
            assert list(threads.map(prepare, stores)) == [(VALIDATOR, {"_id_", "by_value"})] * len(databases)


# --- due work --------------------------------------------------------------------------------------------------


def test_without_due_work_there_is_no_backlog(store):
    store.collection.insert_one({"due": store.clock.now() + timedelta(hours=1)})
    assert store.backlog("due", 10) == (0, 0)


def test_a_backlog_is_counted_up_to_a_limit_with_the_age_of_its_oldest(store):
    now = store.clock.now()
    store.collection.insert_many([{"due": now - timedelta(seconds=ago)} for ago in (1, 60, 5)])
    count, oldest_ms = store.backlog("due", 10)
    assert count == 3
    assert 59_000 < oldest_ms < 75_000
    assert store.backlog("due", 2)[0] == 2


def test_a_secret_is_drawn_once_and_shared_by_all_processes(settings, database):
    connections = [Database(settings.mongodb_uri, settings.database) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        drawn = set(pool.map(lambda connection: connection.secret("cursors"), connections))
    assert {len(secret) for secret in drawn} == {32}
    assert drawn == {database.secrets.find_one({"_id": "cursors"})["key"]}
    assert connections[0].secret("another") not in drawn
    for connection in connections:
        connection.close()


# --- documents of another program ------------------------------------------------------------------------------


SHOP_SCHEMA = {"bsonType": "object", "required": ["total"], "properties": {"total": {"bsonType": "int"}}}
SHOP_INDEX = pymongo.IndexModel([("total", 1)], name="by_total")


@pytest.mark.parametrize(
    ("foreign", "why"),
    [({"_id": 1, "amount": 7}, "1 lacks total"), ({"_id": "one", "total": "7"}, "'one' does not fit the schema")],
)
@pytest.mark.parametrize("first", [True, False], ids=["the oldest", "the newest"])
def test_a_collection_of_another_program_is_refused_and_left_as_it_was(store, foreign, why, first):
    ours = [{"total": number} for number in range(FOREIGN_SAMPLE)]
    store.collection.insert_many([foreign, *ours] if first else [*ours, foreign])
    with pytest.raises(ForeignDocuments, match=why) as refused:
        store.prepare(SHOP_SCHEMA, [SHOP_INDEX])
    assert "\n" not in str(refused.value)
    assert store.collection.full_name in str(refused.value)
    assert store.collection.options() == {}
    assert set(store.collection.index_information()) == {"_id_"}


def test_a_collection_of_our_own_without_a_validator_is_given_one(store):
    store.collection.insert_one({"total": 1})
    store.prepare(SHOP_SCHEMA, [SHOP_INDEX])
    assert store.collection.options()["validator"] == {"$jsonSchema": SHOP_SCHEMA}


def test_what_an_earlier_version_wrote_behind_its_validator_does_not_stop_a_start(store):
    store.prepare({"bsonType": "object"}, [])
    store.collection.insert_one({"amount": 7})
    store.prepare(SHOP_SCHEMA, [SHOP_INDEX])
    assert store.collection.options()["validator"] == {"$jsonSchema": SHOP_SCHEMA}
