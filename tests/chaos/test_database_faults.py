"""Every command that the way of an order needs, failing in every way that mongod can be told to make it fail."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient

from app.config import Settings
from app.doctor import Doctor
from app.main import create_app, runtime
from app.storage.embedded_mongod import Mongod

pytestmark = pytest.mark.extended

# Short, for many of these tests wait for them to pass, but the driver repeats a command within the first also on a busy machine; a
# blocked command outlasts both.
REQUEST_DEADLINE, BACKGROUND_DEADLINE = 3.0, 1.0
BLOCKED_MS = 3400
TOTAL = 9900
ONCE, ALWAYS = {"times": 1}, "alwaysOn"


@dataclass(frozen=True)
class Fault:
    """What mongod does to a command; `repeated` where the driver repeats it by itself when it happens once."""

    name: str
    data: dict[str, Any]
    mode: Any
    repeated: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {'once' if self.mode == ONCE else 'always'}"


@dataclass(frozen=True)
class Target:
    """A command on a collection, and the client's wish that leads to it; `direct` where the client waits for it."""

    wish: str
    collection: str
    command: str
    direct: bool = False

    def __str__(self) -> str:
        return f"{self.wish}: {self.collection}.{self.command}"


CLOSED = {"closeConnection": True}
UNWRITTEN = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
UNWRITTEN_STOPPING = {"writeConcernError": {"code": 91, "errmsg": "shutting down"}}
BLOCKED = {"blockConnection": True, "blockTimeMS": BLOCKED_MS}
NOT_PRIMARY = {
    "not writable primary": 10107,
    "interrupted by a step-down": 11602,
    "shutting down": 91,
    "primary stepped down": 189,
}
BEFORE = [
    Fault("closed before", CLOSED, ONCE, repeated=True),
    Fault("closed before", CLOSED, ALWAYS),
    *(Fault(name, {"errorCode": code}, ONCE, repeated=True) for name, code in NOT_PRIMARY.items()),
    Fault("not writable primary", {"errorCode": 10107}, ALWAYS),
    Fault("blocked past the deadline", BLOCKED, ONCE),
    Fault("blocked past the deadline", BLOCKED, ALWAYS),
]
AFTER = [
    Fault("written, not replicated in time", UNWRITTEN, ONCE),
    Fault("written, not replicated in time", UNWRITTEN, ALWAYS),
    Fault("written, then shutting down", UNWRITTEN_STOPPING, ONCE, repeated=True),
]
WRITES = [
    Target("place", "orders", "insert", direct=True),
    Target("place", "payments", "insert"),
    Target("place", "ledger", "insert"),
    Target("place", "payments", "update"),
    Target("place", "orders", "update"),
    Target("refund", "orders", "findAndModify", direct=True),
    Target("refund", "ledger", "update"),
    Target("cancel", "orders", "findAndModify", direct=True),
]
READS = [
    Target("place", "orders", "find"),
    Target("refund", "orders", "find"),
    Target("refund", "payments", "find"),
    Target("refund", "ledger", "find"),
]
# Where nobody waits for the answer, one kind of fault that lasts tells as much as three.
LASTING = {"not writable primary", "blocked past the deadline"}
CELLS = [
    (target, fault)
    for target in [*WRITES, *READS]
    for fault in ([*BEFORE, *AFTER] if target in WRITES else BEFORE)
    if target.direct or fault.mode == ONCE or fault.name not in LASTING
]


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mongod of one's own: what it is told to do wrong, it does to everybody."""
    with Mongod(tmp_path_factory.mktemp("mongod"), extra=["--setParameter=enableTestCommands=1"]) as server:
        yield server.uri


@pytest.fixture(scope="module")
def onlooker(mongod: str) -> Iterator[MongoClient]:
    """Looks at what was stored, and tells mongod what to do wrong."""
    with MongoClient(mongod, tz_aware=True) as client:
        yield client


@pytest.fixture(scope="module")
def hands() -> Iterator[ThreadPoolExecutor]:
    """For a client that waits while something else is seen to."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def served(mongod: str) -> Iterator[Any]:
    """The application with all its threads, on a database that fails."""
    settings = Settings(
        mongodb_uri=mongod,
        database="faulty",
        request_deadline=REQUEST_DEADLINE,
        background_deadline=BACKGROUND_DEADLINE,
        payment_timeout=0.3,
        payment_lease=2.4,
        payment_tries=100_000,
        payment_backoff=0.05,
        payment_backoff_max=0.2,
        breaker_failures=100_000,
        relay_lease=0.5,
        sweep_interval=0.05,
        log_format="json",
        log_level="error",
    )
    app = create_app(settings)
    runtime(app).prepare()
    runtime(app).start()
    yield app
    runtime(app).stop()


class Patient:
    """A client that repeats what it got no answer to, and one order of it."""

    def __init__(self, app: Any, stored: Any, eventually: Callable) -> None:
        self._client = app.test_client()
        self._stored = stored
        self._eventually = eventually
        self._key = uuid4().hex
        self.user = f"user-{self._key}"
        self.order_id = ""
        self.wishes = {"place": self.place, "refund": self.refund, "cancel": self.cancel}

    def place(self) -> Any:
        body = {"userId": self.user, "productId": "1", "productName": "Espresso", "totalOrderAmount": "MYR 99.00"}
        return self._client.post("/orders", json=body, headers={"Idempotency-Key": self._key})

    def refund(self) -> Any:
        body = {"amount": {"value": 2500, "currency": "MYR"}}
        return self._client.post(
            f"/orders/one/{self.order_id}/refunds", json=body, headers={"Idempotency-Key": self._key}
        )

    def cancel(self) -> Any:
        return self._client.put("/orders", json={"orderId": self.order_id, "orderStatus": "Cancelled"})

    def insist(self, wish: str) -> None:
        """Repeat until it is granted, and until it has settled."""
        answer = self._eventually(lambda: _granted(self.wishes[wish]()))
        if wish == "place":
            self.order_id = answer.json["created"]["id"]
        self._eventually(self._at_rest, 60.0)

    def _at_rest(self) -> bool:
        order = self._stored["orders"].find_one({"userId": self.user})
        payment = self._stored["payments"].find_one({"_id": str(order["_id"])})
        return bool(payment) and "relayDue" not in order and not {"relayDue", "dueAt"} & payment.keys()


def _granted(answer: Any) -> Any:
    """The answer where it is a yes; anything but a clear "not now" is an error."""
    if answer.status_code in (200, 201):
        return answer
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    return None


@pytest.fixture
def patient(served, onlooker: MongoClient, eventually: Callable) -> Patient:
    """A client that has ordered nothing yet."""
    return Patient(served, onlooker["faulty"], eventually)


def _arm(onlooker: MongoClient, name: str, mode: Any, data: dict[str, Any]) -> int:
    return onlooker.admin.command("configureFailPoint", name, mode=mode, data=data)["count"]


def _disarm(onlooker: MongoClient, name: str) -> int:
    return onlooker.admin.command("configureFailPoint", name, mode="off")["count"]


def _assert_all_is_well(served: Any, onlooker: MongoClient, patient: Patient, wish: str) -> None:
    database, stored = runtime(served).database, onlooker["faulty"]
    stores = [database.collection(name, 5.0) for name in ("orders", "payments", "ledger")]
    report = Doctor(*stores, grace=0.0).examine([patient.order_id], pause=0.1)
    assert [one for one in [*report.violations, *report.needs_operator] if one.order_id == patient.order_id] == []
    assert stored["orders"].count_documents({"userId": patient.user}) == 1
    [charge] = stored["ledger"].find({"orderId": patient.order_id})
    assert charge["answer"] == "captured"
    assert (charge["refunded"], len(charge["refunds"])) == {"place": (0, 0), "refund": (2500, 1), "cancel": (TOTAL, 1)}[
        wish
    ]


@pytest.mark.parametrize(("target", "fault"), CELLS, ids=str)
def test_a_command_that_fails_costs_no_order_and_no_second_charge(
    served, onlooker: MongoClient, patient: Patient, hands: ThreadPoolExecutor, target: Target, fault: Fault
):
    if target.wish != "place":
        patient.insist("place")
    data = {"failCommands": [target.command], "namespace": f"faulty.{target.collection}", **fault.data}
    before = _arm(onlooker, "failCommand", fault.mode, data)
    try:
        began = time.monotonic()
        answering = hands.submit(patient.wishes[target.wish])
        onlooker.admin.command("waitForFailPoint", "failCommand", timesEntered=before + 1, maxTimeMS=20_000)
        granted = _granted(answering.result(60))
        took = time.monotonic() - began
    finally:
        _disarm(onlooker, "failCommand")

    assert took < REQUEST_DEADLINE + 20
    if target.direct:
        assert bool(granted) == fault.repeated
    patient.insist(target.wish)
    _assert_all_is_well(served, onlooker, patient, target.wish)


# The order, its payment, the provider's entry: updates of many documents are not repeated by the driver, but by us.
@pytest.mark.parametrize("skipped", range(3))
def test_a_write_that_was_made_and_whose_reply_was_lost_is_made_once(
    served, onlooker: MongoClient, patient: Patient, skipped: int
):
    before = _arm(onlooker, "onPrimaryTransactionalWrite", {"skip": skipped}, {"closeConnection": True})
    try:
        granted = _granted(patient.place())
        onlooker.admin.command(
            "waitForFailPoint", "onPrimaryTransactionalWrite", timesEntered=before + 1, maxTimeMS=20_000
        )
    finally:
        _disarm(onlooker, "onPrimaryTransactionalWrite")

    assert granted
    patient.insist("place")
    _assert_all_is_well(served, onlooker, patient, "place")


def test_a_lost_reply_to_a_refund_or_a_cancellation_makes_no_second_one(
    served, onlooker: MongoClient, patient: Patient
):
    patient.insist("place")
    for wish in ("refund", "cancel"):
        _arm(onlooker, "onPrimaryTransactionalWrite", ONCE, {"closeConnection": True})
        assert _granted(patient.wishes[wish]())
        assert _disarm(onlooker, "onPrimaryTransactionalWrite") >= 1
        patient.insist(wish)

    stored = onlooker["faulty"]["ledger"].find_one({"orderId": patient.order_id})
    assert [refund["value"] for refund in stored["refunds"]] == [2500, TOTAL - 2500]
