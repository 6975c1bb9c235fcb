"""The module alone, on the real database: with a bus that stands for orders, and a receiver on this machine."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from bson import ObjectId
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.config import Settings
from app.contracts.base import Money
from app.contracts.orders import FindOrders, OrderChanged, OrderList, OrderView
from app.contracts.webhooks import CreateEndpoint, EndpointView
from app.messaging.signal_bus import SignalBus
from app.storage.mongodb import Database
from app.system import SYSTEM, System
from app.webhooks import Webhooks
from tests.webhooks.receiver import Receiver, running


def an_order(order_id: str) -> OrderView:
    nothing = Money(0, "MYR")
    return OrderView(
        id=order_id,
        user_id="shop",
        product_id="1",
        product_name="Café set",
        total_order_amount="RM 99",
        total=Money(9900, "MYR"),
        order_status="Success",
        payment_status="Captured",
        version=9,
        created_at="2026-11-26T09:00:00.000Z",
        updated_at="2026-11-26T09:00:09.000Z",
        captured=nothing,
        refunded=nothing,
        pending=nothing,
        refundable=nothing,
    )


def a_change(**members: object) -> OrderChanged:
    """An event of orders: an order was paid."""
    defaults: dict[str, object] = {
        "event_id": uuid4().hex,
        "order_id": str(ObjectId()),
        "sequence": 2,
        "request_id": "request-1",
        "at": int(time.time() * 1000),
        "user_id": "shop",
        "change": "PaymentCaptured",
        "previous_status": "Processing",
        "order_status": "Success",
        "payment_status": "Captured",
        "version": 2,
        "captured_value": 9900,
        "refundable_value": 9900,
    }
    return OrderChanged(**{**defaults, **members})


class StillTime:
    """The database's clock, standing still: however long a test takes, nothing becomes due by itself."""

    def __init__(self) -> None:
        self._at = datetime.now(UTC).replace(microsecond=0)

    def now(self) -> datetime:
        return self._at


class Process:
    """A process that runs the module; several share one database. `clock` stands for the database's."""

    def __init__(self, settings: Settings, system: System = SYSTEM, clock: Any = None) -> None:
        self.bus = SignalBus()
        self.database = Database(settings.mongodb_uri, settings.database)
        self.database.clock = clock or self.database.clock
        stores = (self.database.collection(f"webhook_{name}", 10.0) for name in ("endpoints", "deliveries"))
        self.module = Webhooks(self.bus, *stores, settings, system)
        # What a test makes of an order, by the request for it.
        self.change_order: Callable[[OrderView, FindOrders], OrderView] = lambda order, _: order
        self.bus.register_handler(FindOrders, self._find_orders)
        self.module.prepare()

    def start(self) -> "Process":
        self.module.start()
        return self

    def stop(self) -> None:
        self.module.stop(5.0)
        self.database.close()

    def tell(self, *events: OrderChanged) -> None:
        """Deliver events of orders to the module."""
        for error in self.bus.publish(events).values():
            if error:
                raise error

    def add_endpoint(self, url: str, **members: object) -> EndpointView:
        defaults: dict[str, object] = {
            "request_id": "",
            "endpoint_id": f"we_{uuid4().hex[:24]}",
            "user_id": "shop",
            "url": url,
            "description": "",
            "events": ("*",),
            "signature": "v1",
        }
        return self.bus.request(CreateEndpoint(**{**defaults, **members}))

    def _find_orders(self, request: FindOrders) -> OrderList:
        found = (self.change_order(an_order(order_id), request) for order_id in request.order_ids)
        return OrderList(orders=tuple(found), more=False)


@pytest.fixture
def make_process(settings: Settings) -> Iterator[Callable[..., Process]]:
    """Make processes, which are stopped at the end; they may send webhooks to this machine unless told otherwise."""
    made: list[Process] = []

    def make(system: System = SYSTEM, clock: Any = None, **changes: object) -> Process:
        made.append(Process(replace(settings, **{"allow_unsafe": "webhook_http", **changes}), system, clock))
        return made[-1]

    yield make
    for process in made:
        process.stop()


@pytest.fixture
def process(make_process: Callable[..., Process]) -> Process:
    return make_process().start()


@pytest.fixture
def still_process(make_process: Callable[..., Process]) -> Process:
    """A process that repeats attempts only when a test makes them due."""
    return make_process(clock=StillTime()).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running(Receiver()) as made:
        yield made


@pytest.fixture
def deliveries(database):
    """The deliveries as they are stored."""
    return database["webhook_deliveries"]


@pytest.fixture
def certificate(tmp_path):
    """A certificate of `localhost` that is its own authority, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    file = tmp_path / "certificate.pem"
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(made.public_bytes(Encoding.PEM) + plain)
    return file
