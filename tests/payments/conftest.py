"""Payments alone, on the real database: two processes' repositories, a fake provider, payments to work on."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

import pytest
from bson import ObjectId

from app.config import Settings
from app.contracts.orders import OrderCancelled, OrderCreated
from app.messaging.outbox import Outbox
from app.payments import payment as domain
from app.payments.documents import LeasedPayment
from app.payments.payment import Payment, RetryPolicy
from app.payments.provider_client import CircuitBreakingProvider
from app.payments.provider_port import (
    NotificationRefused,
    ProviderCall,
    ProviderNotification,
    ProviderPayment,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers.simulated import CAPABILITIES
from app.payments.repository import PaymentRepository
from app.payments.results import ResultWriter
from app.payments.service import PaymentService
from app.payments.worker import Worker
from app.storage.mongodb import Database, Store
from tests.payments.steady_clock import SteadyClock

SETTLED = {
    "open": ResponseCode.OPENED,
    "charge": ResponseCode.CAPTURED,
    "capture": ResponseCode.CAPTURED,
    "void": ResponseCode.VOIDED,
    "refund": ResponseCode.REFUNDED,
    "retrieve": ResponseCode.CAPTURED,
}


@dataclass
class FakeProvider:
    """A provider with prepared responses, which records its calls.

    `responses` holds the responses to the next calls, in order, or an exception to raise; after them, and where there is
    None, every call succeeds. `found` holds the responses of `find` by key. `on_call` is called with every call before
    the response.
    """

    responses: list[ProviderResponse | Exception | None] = field(default_factory=list)
    found: dict[str, ProviderResponse] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    on_call: Callable[[str, ProviderCall], None] = lambda verb, call: None
    listed: list[ProviderPayment] = field(default_factory=list)

    capabilities = CAPABILITIES

    def charge(self, call: ProviderCall) -> ProviderResponse:
        return self._respond("charge", call)

    def open(self, call: ProviderCall) -> ProviderResponse:
        return self._respond("open", call)

    def capture(self, call: ProviderCall) -> ProviderResponse:
        return self._respond("capture", call)

    def retrieve(self, call: ProviderCall) -> ProviderResponse:
        return self._respond("retrieve", call)

    def void(self, call: ProviderCall) -> ProviderResponse:
        return self._respond("void", call)

    def refund(self, call: ProviderCall) -> ProviderResponse:
        return self._respond("refund", call)

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        self.calls.append(("find", call.key))
        self.on_call("find", call)
        return self.found.get(call.key)

    def notifications(self, body: bytes, headers: Mapping[str, str]) -> tuple[ProviderNotification, ...]:
        """The body is JSON: a list of notifications."""
        if headers.get("signature") != "right":
            raise NotificationRefused("the signature is wrong")
        return tuple(ProviderNotification(**one) for one in json.loads(body))

    def list_payments(self, since: datetime) -> Iterator[ProviderPayment]:
        yield from (one for one in self.listed if one.at >= since)

    def _respond(self, verb: str, call: ProviderCall) -> ProviderResponse:
        self.calls.append((verb, call.key))
        self.on_call(verb, call)
        response = self.responses.pop(0) if self.responses else None
        if isinstance(response, Exception):
            raise response
        return response or ProviderResponse(code=SETTLED[verb], reference=f"ref-{call.key}")


class Gate:
    """Blocks its callers until it is opened; `came` is set by the first of them."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self._opened = threading.Event()

    def __call__(self, *_: object) -> None:
        self.came.set()
        assert self._opened.wait(60)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate for a call to the provider; opened at the end at the latest."""
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def provider() -> FakeProvider:
    """A fake provider."""
    return FakeProvider()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine connects and counts slowly. No test is about these limits."""
    for name in ("HELLO_SECONDS", "SECRET_SECONDS", "BACKLOG_TIMEOUT_SECONDS"):
        monkeypatch.setattr(f"app.storage.mongodb.{name}", 30.0)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """The module's collection, over a connection of its own."""
    database = Database(settings.mongodb_uri, settings.database)
    made = database.collection("payments", 30.0)
    made.clock = SteadyClock(made.clock)
    yield made
    database.close()


@pytest.fixture
def outbox(store: Store) -> Outbox:
    """What the repositories record into; no relay delivers it."""
    return Outbox(store, 60.0)


@pytest.fixture
def payments(store: Store, outbox: Outbox) -> PaymentRepository:
    """The repository of one process, its collection prepared."""
    repository = PaymentRepository(store, outbox, 60.0)
    repository.prepare()
    return repository


@pytest.fixture
def other(store: Store, outbox: Outbox, payments: PaymentRepository) -> PaymentRepository:
    """The same collection as another process has it."""
    return PaymentRepository(store, outbox, 60.0)


@pytest.fixture
def dying(store: Store, outbox: Outbox, payments: PaymentRepository) -> PaymentRepository:
    """A process whose leases have ended by the time it has them."""
    return PaymentRepository(store, outbox, -5.0)


POLICY = RetryPolicy(max_tries=3, horizon=3600.0, key_life=7200.0, backoff=100.0, backoff_max=100.0)


@pytest.fixture
def make_worker(provider: FakeProvider, payments: PaymentRepository) -> Iterator[Callable[..., Worker]]:
    """A worker on a repository; its sweep is not started."""
    made: list[Worker] = []

    def make(repository: PaymentRepository, threads: int = 2, policy: RetryPolicy = POLICY, **options) -> Worker:
        results = ResultWriter(repository, policy)
        # Neither a call's time nor that of the circuit breaker is over by itself within a test.
        timing = {"timeout": 30.0, "interval": 0.05} | options
        client = CircuitBreakingProvider(provider, timing.pop("failures", 10), timing.pop("recovery", 3600.0))
        worker = Worker(repository, client, results, policy, threads=threads, **timing)
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.stop(10.0)


@pytest.fixture
def worker(make_worker, payments: PaymentRepository) -> Worker:
    """A worker of the first process."""
    return make_worker(payments)


@pytest.fixture
def created() -> Callable[..., OrderCreated]:
    """The event of a new order, with changes."""

    def make(**changes) -> OrderCreated:
        members = {
            "event_id": uuid4().hex,
            "order_id": str(ObjectId()),
            "sequence": 1,
            "request_id": "r-create",
            "at": int(time.time() * 1000),
            "user_id": "user-7",
            "product_id": "1",
            "total_value": 9900,
            "total_currency": "MYR",
        }
        return OrderCreated(**members | changes)

    return make


@pytest.fixture
def new_payment(created) -> Callable[..., Payment]:
    """A payment that is recorded nowhere yet."""
    return lambda **changes: domain.open_payment(created(**changes), CAPABILITIES)


@pytest.fixture
def lease_payment(payments: PaymentRepository, new_payment) -> Callable[[], LeasedPayment]:
    """A new payment under a lease of the first process."""

    def make() -> LeasedPayment:
        [leased] = payments.insert([new_payment()], 1)
        return leased

    return make


@pytest.fixture
def cancel(payments: PaymentRepository) -> Callable:
    """Deliver the cancellation of orders to payments, as their `sequence`-th events."""

    def deliver(worker: Worker, *order_ids: str, sequence: int = 2) -> None:
        events = [
            OrderCancelled(event_id=uuid4().hex, order_id=order_id, sequence=sequence, request_id="r-cancel", at=1)
            for order_id in order_ids
        ]
        PaymentService(worker, ResultWriter(payments, POLICY), CAPABILITIES).on_orders_cancelled(events)

    return deliver


@pytest.fixture
def make_due(database) -> Callable[..., None]:
    """Let the pause before the next call pass."""

    def set_due(order_id: str) -> None:
        waiting = {"_id": order_id, "dueAt": {"$exists": True}, "owner": {"$exists": False}}
        assert (
            database.payments.update_one(
                waiting, [{"$set": {"dueAt": {"$subtract": ["$requestedAt", 60_000]}}}]
            ).matched_count
            == 1
        )

    return set_due


@pytest.fixture
def take_up(payments: PaymentRepository, make_due) -> Callable[[str], LeasedPayment]:
    """Claim one payment, whose pause is over."""

    def claim(order_id: str) -> LeasedPayment:
        make_due(order_id)
        [leased] = payments.claim(10)
        assert leased.payment.order_id == order_id
        return leased

    return claim


@pytest.fixture
def stored(database) -> Callable[[str], dict]:
    """A payment's document."""
    return lambda order_id: database.payments.find_one({"_id": order_id})
