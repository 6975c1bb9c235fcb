"""Payments alone, on the real database: two processes' repositories, a provider to order, payments to work on."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

import pytest
from bson import ObjectId

from app.config import Settings
from app.contracts.base import Unavailable
from app.contracts.orders import OrderCancelled, OrderCreated
from app.messaging.outbox import Outbox
from app.payments import payment as domain
from app.payments import service
from app.payments.payment import Call, Payment, ProviderResponse, ResponseCode, RetryPolicy
from app.payments.provider_client import CircuitBreakingProvider
from app.payments.repository import LeasedPayment, PaymentRepository
from app.payments.results import Settler
from app.payments.worker import Worker
from app.storage.mongodb import Database, DatabaseClock, Store

SETTLED = {"charge": ResponseCode.CAPTURED, "void": ResponseCode.VOIDED, "refund": ResponseCode.REFUNDED}


@dataclass
class Double:
    """A provider that answers as told, and remembers what it was asked.

    `answers` holds what to answer to the next calls, in order, an exception to be raised instead; after them, or
    where there is None, every effect succeeds at once. `books` holds what `find` knows by key. `watch` is called
    with every call before it is answered.
    """

    answers: list[ProviderResponse | Exception | None] = field(default_factory=list)
    books: dict[str, ProviderResponse] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    watch: Callable[[str, Call], None] = lambda verb, call: None

    def charge(self, call: Call) -> ProviderResponse:
        return self._answer("charge", call)

    def void(self, call: Call) -> ProviderResponse:
        return self._answer("void", call)

    def refund(self, call: Call) -> ProviderResponse:
        return self._answer("refund", call)

    def find(self, call: Call) -> ProviderResponse | None:
        self.asked.append(("find", call.key))
        self.watch("find", call)
        return self.books.get(call.key)

    def _answer(self, verb: str, call: Call) -> ProviderResponse:
        self.asked.append((verb, call.key))
        self.watch(verb, call)
        told = self.answers.pop(0) if self.answers else None
        if isinstance(told, Exception):
            raise told
        return told or ProviderResponse(answer=SETTLED[verb], reference=f"ref-{call.key}")


class Gate:
    """Holds whoever passes until it is opened, and tells who has come."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self._opened = threading.Event()

    def __call__(self, *_: object) -> None:
        self.came.set()
        assert self._opened.wait(20)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate for a call to the provider; opened at the end at the latest."""
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def provider() -> Double:
    """A provider to order."""
    return Double()


class Steady:
    """The database's clock, except that it never steps back by the millisecond that a late heartbeat makes."""

    def __init__(self, clock: DatabaseClock) -> None:
        self._clock = clock
        self._latest = self._first()

    def _first(self) -> datetime:
        """The first answer, which a busy machine may keep waiting."""
        for _ in range(10):
            with suppress(Unavailable):
                return self._clock.now()
        return self._clock.now()

    def now(self) -> datetime:
        self._latest = max(self._latest, self._clock.now())
        return self._latest


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """The module's collection, over a connection of its own."""
    database = Database(settings.mongodb_uri, settings.database)
    made = database.collection("payments", 10.0)
    made.clock = Steady(made.clock)
    yield made
    database.close()


@pytest.fixture
def outbox(store: Store) -> Outbox:
    """What the repositories record into; nobody hands it on."""
    return Outbox(store, 10.0)


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


PATIENCE = RetryPolicy(tries=3, horizon=3600.0, key_life=7200.0, backoff=100.0, backoff_max=100.0)


@pytest.fixture
def make_worker(provider: Double, payments: PaymentRepository) -> Iterator[Callable[..., Worker]]:
    """A worker on a repository; its sweep is not started."""
    made: list[Worker] = []

    def make(repository: PaymentRepository, threads: int = 2, patience: RetryPolicy = PATIENCE, **options) -> Worker:
        settler = Settler(repository)
        timing = {"timeout": 5.0, "interval": 0.05} | options
        guard = CircuitBreakingProvider(provider, timing.pop("failures", 10), timing.pop("recovery", 10.0))
        worker = Worker(repository, guard, settler, patience, threads=threads, **timing)
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
        given = {
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
        return OrderCreated(**given | changes)

    return make


@pytest.fixture
def new_payment(created) -> Callable[..., Payment]:
    """A payment that is recorded nowhere yet."""
    return lambda **changes: domain.opened(created(**changes))


@pytest.fixture
def leased(payments: PaymentRepository, new_payment) -> Callable[[], LeasedPayment]:
    """A new payment under a lease of the first process."""

    def make() -> LeasedPayment:
        [held] = payments.record([new_payment()], 1)
        return held

    return make


@pytest.fixture
def cancel(payments: PaymentRepository) -> Callable:
    """Have payments hear that an order was cancelled, as its `sequence`-th step."""

    def tell(worker: Worker, *order_ids: str, sequence: int = 2) -> None:
        events = [
            OrderCancelled(event_id=uuid4().hex, order_id=order_id, sequence=sequence, request_id="r-cancel", at=1)
            for order_id in order_ids
        ]
        service.on_orders_cancelled(events, payments, Settler(payments), worker)

    return tell


@pytest.fixture
def make_due(database) -> Callable[..., None]:
    """Let the pause before the next call pass."""

    def set_due(order_id: str) -> None:
        waiting = {"_id": order_id, "dueAt": {"$exists": True}, "owner": {"$exists": False}}
        assert database.payments.update_one(waiting, [{"$set": {"dueAt": "$firstAt"}}]).matched_count == 1

    return set_due


@pytest.fixture
def take_up(payments: PaymentRepository, make_due) -> Callable[[str], LeasedPayment]:
    """Claim one payment, whose pause is over."""

    def claim(order_id: str) -> LeasedPayment:
        make_due(order_id)
        [held] = payments.claim(10)
        assert held.payment.order_id == order_id
        return held

    return claim


@pytest.fixture
def stored(database) -> Callable[[str], dict]:
    """A payment's document."""
    return lambda order_id: database.payments.find_one({"_id": order_id})
