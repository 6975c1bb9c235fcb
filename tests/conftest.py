"""A real mongod for the whole session and, from the first test that needs it, a real RabbitMQ; all xdist workers share them.

Every test has a database of its own.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import kombu
import pytest
from pymongo import MongoClient

from app.config import Settings
from app.main import create_app, runtime
from app.runtime import Runtime
from app.storage import mongodb
from app.storage.embedded_mongod import Mongod
from tests import session_broker
from tests.session_broker import SessionBroker
from tools.cluster import rabbitmq

# On a busy machine a heartbeat may be late: tests of the database's absence stop it, so that its connections end.
mongodb.CONNECT_TIMEOUT_MS = 15_000

# A busy machine makes every example slow: do not limit their time.
hypothesis.settings.register_profile("orderflow", deadline=None)
hypothesis.settings.load_profile("orderflow")

pytest_plugins = ["tests.operator_work"]

MEMORY = Path("/dev/shm")
# Each test drops its database. By default its files stay open for minutes, and thousands of tests would need more of them than a process may
# have open: then mongod aborts.
MONGOD_OPTIONS = (
    "--setParameter=enableTestCommands=1",
    "--setParameter=minSnapshotHistoryWindowInSeconds=0",
    "--syncdelay=5",
    "--wiredTigerEngineConfigString=file_manager=(close_idle_time=1,close_scan_interval=1,close_handle_minimum=0)",
)
MONGOD = pytest.StashKey[tuple[Mongod, Path]]()
BROKER = pytest.StashKey[SessionBroker]()


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    folder = Path(tempfile.mkdtemp(prefix="orderflow-test-", dir=MEMORY if MEMORY.is_dir() else None))
    mongod = Mongod(folder, extra=MONGOD_OPTIONS)
    config.stash[MONGOD] = (mongod, folder)
    if rabbitmq.installed():
        config.stash[BROKER] = SessionBroker(folder)


def pytest_sessionstart(session: pytest.Session) -> None:
    if MONGOD in session.config.stash:
        session.config.stash[MONGOD][0].start()


def pytest_configure_node(node) -> None:
    """xdist: pass the addresses of database and broker to each worker."""
    node.workerinput["mongodb_uri"] = node.config.stash[MONGOD][0].uri
    node.workerinput["broker"] = broker_of(node.config)


def broker_of(config: pytest.Config) -> tuple[str, str]:
    """The URL of the session's RabbitMQ, and the pipe that requests its start; empty if it is not installed."""
    if BROKER not in config.stash:
        return "", ""
    return config.stash[BROKER].url, str(config.stash[BROKER].requests)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first, all into the first worker's share.

    Each starts many processes: several at a time would leave none of them, nor the others, the processor that they wait for.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_unconfigure(config: pytest.Config) -> None:
    if BROKER in config.stash:
        config.stash[BROKER].stop()
    if MONGOD in config.stash:
        mongod, folder = config.stash[MONGOD]
        mongod.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mongodb_uri(request: pytest.FixtureRequest) -> str:
    """The session's mongod."""
    if hasattr(request.config, "workerinput"):
        return request.config.workerinput["mongodb_uri"]
    return request.config.stash[MONGOD][0].uri


@pytest.fixture(scope="session")
def rabbit_installed() -> None:
    """For tests that start a RabbitMQ of their own."""
    if not rabbitmq.installed():
        if os.environ.get("CI"):
            pytest.fail(rabbitmq.MISSING)
        pytest.skip(rabbitmq.MISSING)


@pytest.fixture(scope="session")
def bus_url(request: pytest.FixtureRequest, rabbit_installed: None) -> str:
    """The session's RabbitMQ, which the first test that needs it starts."""
    workerinput = getattr(request.config, "workerinput", None)
    url, requests = workerinput["broker"] if workerinput else broker_of(request.config)
    session_broker.request(Path(requests))
    ends = time.monotonic() + 60
    while not rabbitmq.accepts_connections(url):
        assert time.monotonic() < ends, "RabbitMQ does not answer"
        time.sleep(0.05)
    return url


@pytest.fixture
def bus_prefix(bus_url: str) -> Iterator[str]:
    """The prefix of the test's own queues, which are deleted when it ends."""
    prefix = f"test-{uuid4().hex}"
    yield prefix
    with kombu.Connection(bus_url) as connection:
        channel = connection.channel()
        for module in ("orders", "payments", "webhooks", "mail", "a", "b", "c", "d"):
            for kind in ("requests", "events", "dead"):
                channel.queue_delete(f"{prefix}.{module}.{kind}")


@pytest.fixture(scope="session")
def mongo(mongodb_uri: str) -> Iterator[MongoClient]:
    """A client that reads what was stored, and only what the application can read already."""
    with MongoClient(mongodb_uri, tz_aware=True, readConcernLevel="majority") as client:
        yield client


@pytest.fixture
def settings(mongodb_uri: str, mongo: MongoClient) -> Iterator[Settings]:
    """Settings with a database of the test's own, and intervals short enough to see a sweep."""
    name = f"test_{uuid4().hex}"
    yield Settings(
        mongodb_uri=mongodb_uri,
        database=name,
        # Only tests of the deadline itself may see a 503 where a busy machine makes a command slow.
        request_deadline=10.0,
        sweep_interval=0.05,
        relay_lease=0.5,
        payment_backoff=0.05,
        payment_backoff_max=0.2,
        log_format="json",
        log_level="warning",
    )
    mongo.drop_database(name)


@pytest.fixture
def database(settings: Settings, mongo: MongoClient):
    """The test's own database."""
    return mongo[settings.database]


@pytest.fixture
def app(settings: Settings) -> Iterator:
    """The application with prepared collections; its threads are not started."""
    made = create_app(settings)
    runtime(made).prepare()
    yield made
    runtime(made).stop()


@pytest.fixture
def running(app) -> Runtime:
    """The started runtime of the application."""
    started = runtime(app)
    started.start()
    return started


@pytest.fixture
def client(app):
    """A client of the application, whose background work is not started."""
    return app.test_client()


@pytest.fixture
def live(app, running):
    """A client of the running application."""
    return app.test_client()


@pytest.fixture
def eventually() -> Callable:
    """Wait until `check()` returns something true, and return it; fail after 60 s."""

    def wait(check: Callable, seconds: float = 60.0):
        ends = time.monotonic() + seconds
        while True:
            result = check()
            if result:
                return result
            assert time.monotonic() < ends, f"never came true: {check}"
            time.sleep(0.01)

    return wait


NEW_ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}


@pytest.fixture
def new_order() -> Callable[..., dict]:
    """Makes the body of a new order whose payment is captured, with changes."""
    return lambda **changes: {**NEW_ORDER, **changes}


@pytest.fixture
def place(new_order) -> Callable[..., str]:
    """Place an order and return its id."""

    def post(client, **changes) -> str:
        answer = client.post("/orders", json=new_order(**changes))
        assert answer.status_code == 201, answer.text
        return answer.json["created"]["id"]

    return post
