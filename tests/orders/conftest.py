"""Orders alone, on the real database: a repository, what it records, and orders to work on."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from bson import ObjectId
from pymongo.monitoring import CommandListener

from app.config import Settings
from app.contracts.base import Event
from app.contracts.orders import CaptureOrder, CreateOrder, RefundOrder, UpdateOrder
from app.contracts.payments import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentRefunded,
    PaymentRefundFailed,
)
from app.messaging.outbox import Outbox
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.repository import OrderRepository
from app.orders.service import OrderService
from app.storage.mongodb import Database, Store
from tests.orders.reads import Reads

NO_LIMIT = OpenOrderLimit(lambda *_: 0, 1)


class Commands(CommandListener):
    """Every command sent to the database, as `(name, command)`."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict]] = []

    def started(self, event) -> None:
        self.sent.append((event.command_name, event.command))

    def succeeded(self, event) -> None:
        """Not of interest."""

    def failed(self, event) -> None:
        """Not of interest."""


@pytest.fixture
def commands() -> Commands:
    """What is sent to the database through `store`."""
    return Commands()


@pytest.fixture
def store(settings: Settings, commands: Commands) -> Iterator[Store]:
    """The module's collection, over a connection of its own."""
    database = Database(settings.mongodb_uri, settings.database, event_listeners=[commands])
    yield database.collection("orders", 10.0)
    database.close()


@pytest.fixture
def outbox(store: Store) -> Outbox:
    """What the repository records into; nobody hands it on."""
    return Outbox(store, 10.0)


@pytest.fixture
def orders(store: Store, outbox: Outbox) -> OrderRepository:
    """The repository, its collection prepared."""
    repository = OrderRepository(store, outbox, 10.0)
    repository.prepare()
    return repository


@pytest.fixture
def reads(store: Store, outbox: Outbox, orders: OrderRepository) -> Iterator[Reads]:
    """The reads of the same collection."""
    made = Reads(store, outbox)
    yield made
    made.notifier.stop(60.0)


@pytest.fixture
def rival(store: Store, outbox: Outbox, orders: OrderRepository) -> OrderRepository:
    """The same collection as another process has it."""
    return OrderRepository(store, outbox, 10.0)


@pytest.fixture
def request_for() -> Callable[..., CreateOrder]:
    """A request for a new order, with changes."""

    def make(**changes) -> CreateOrder:
        given = {
            **dict.fromkeys(CreateOrder.__struct_fields__, ""),
            "request_id": uuid4().hex,
            "order_id": str(ObjectId()),
            "user_id": "user-7",
            "product_id": "1",
            "product_name": "Espresso machine",
            "total_text": "RM 99",
            "total_value": 9900,
            "total_currency": "MYR",
            "manual_capture": False,
        }
        return CreateOrder(**given | changes)

    return make


@pytest.fixture
def create(orders: OrderRepository, request_for) -> Callable[..., str]:
    """Store a new order and tell its id."""
    return lambda **changes: OrderService(orders, NO_LIMIT).create_order(request_for(**changes)).order_id


@pytest.fixture
def update(orders: OrderRepository) -> Callable:
    """Ask for a step of an order, as a client does."""

    def take(order_id: str, order_status: str, repository: OrderRepository | None = None, user="", expected=()):
        request = UpdateOrder(
            request_id="r-update",
            order_id=order_id,
            on_behalf_of=user,
            expected_versions=expected,
            order_status=order_status,
        )
        return OrderService(repository or orders, NO_LIMIT).update_order(request)

    return take


@pytest.fixture
def refund(orders: OrderRepository) -> Callable:
    """Ask for a refund of an order, as a client does."""

    def take(order_id, refund_id, value=0, user="", expected=()):
        request = RefundOrder(
            request_id="r-refund",
            order_id=order_id,
            on_behalf_of=user,
            expected_versions=expected,
            refund_id=refund_id,
            refund_value=value,
            currency="MYR",
        )
        return OrderService(orders, NO_LIMIT).refund_order(request)

    return take


@pytest.fixture
def capture(orders: OrderRepository) -> Callable:
    """Ask for the capture of an order, as a client does."""

    def take(order_id, value=0, currency="MYR", user="", expected=()):
        request = CaptureOrder(
            request_id="r-capture",
            order_id=order_id,
            on_behalf_of=user,
            expected_versions=expected,
            capture_value=value,
            currency=currency,
        )
        return OrderService(orders, NO_LIMIT).capture_order(request)

    return take


@pytest.fixture
def tell(orders: OrderRepository, payment_event) -> Callable:
    """Tell orders what happened to a payment: its events in turn, each with what it says."""

    def deliver(order_id: str, *events: type[Event] | tuple[type[Event], dict], first: int = 1) -> None:
        for sequence, event in enumerate(events, first):
            kind, changes = event if isinstance(event, tuple) else (event, {})
            OrderService(orders, NO_LIMIT).on_payment_events([payment_event(kind, order_id, sequence, **changes)])

    return deliver


MEMBERS: dict[type[Event], dict] = {
    PaymentCaptured: {"reference": "ref-1", "took_ms": 3},
    PaymentDeclined: {"reason": "no cover", "took_ms": 3},
    PaymentRefunded: {"refund_id": "cancel", "refund_value": 9900, "refunded_total": 9900},
    PaymentRefundFailed: {"refund_id": "r1", "refund_value": 900, "refunded_total": 0, "reason": "account closed"},
    PaymentActionRequired: {
        "action_type": "redirect",
        "action_url": "https://bank.example/3ds?one",
        "client_secret": "",
        "expires_at": 1_800_000_000_000,
    },
    PaymentDelayed: {"reason": "the bank", "expires_at": 1_800_000_000_000},
    PaymentAuthorized: {"reference": "ref-1", "authorized_value": 9900, "expires_at": 1_800_000_000_000},
    PaymentDisputed: {"dispute_id": "d1", "dispute_value": 9900, "reason": "fraudulent"},
    PaymentDisputeClosed: {
        "dispute_id": "d1",
        "dispute_value": 9900,
        "won": True,
        "disputed": False,
        "refunded_total": 0,
        "reason": "",
    },
}


@pytest.fixture
def payment_event() -> Callable[..., Event]:
    """An event from payments about an order."""

    def make(kind: type[Event], order_id: str, sequence: int = 1, **changes) -> Event:
        base = {"event_id": uuid4().hex, "order_id": order_id, "sequence": sequence, "request_id": "r", "at": 1}
        return kind(**base | MEMBERS.get(kind, {}) | changes)

    return make


@pytest.fixture
def stored(database) -> Callable[[str], dict]:
    """An order's document, after a look at its timeline: without gap or repeat, folding to the state."""

    def look(order_id: str) -> dict:
        doc = database.orders.find_one({"_id": ObjectId(order_id)})
        entries = doc["events"]
        assert [entry["sequence"] for entry in entries] == list(range(1, doc["sequence"] + 1))
        assert [entry["from"] for entry in entries] == ["(new)", *(entry["to"] for entry in entries[:-1])]
        assert (entries[-1]["to"], entries[-1]["paymentStatus"]) == (doc["orderStatus"], doc["paymentStatus"])
        assert doc["version"] == doc["sequence"]
        return doc

    return look
