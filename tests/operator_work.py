"""Work that waits for an operator: a provider that does not respond, parked payments and dead letters. Fixtures of several tests."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bson import ObjectId

from app.main import create_app, runtime
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers import make
from app.payments.providers.simulated import CAPABILITIES

PAST = datetime(2026, 1, 1, tzinfo=UTC)


class UnresponsiveProvider:
    """The simulated provider while its calls time out, `after` their effect or before it."""

    def __init__(self, real):
        self._real = real
        self.unresponsive = True
        self.after = False
        self.charged = []

    def __getattr__(self, name):
        return getattr(self._real, name)

    capabilities = CAPABILITIES

    def find(self, call):
        return None if self.unresponsive else self._real.find(call)

    def charge(self, call):
        self.charged.append(call.key)
        if self.unresponsive and not self.after:
            return ProviderResponse(code=ResponseCode.UNKNOWN, reason="no response")
        outcome = self._real.charge(call)
        return ProviderResponse(code=ResponseCode.UNKNOWN, reason="no response") if self.unresponsive else outcome


@pytest.fixture
def unresponsive(settings):
    """A running application with an unresponsive provider, and that provider; a payment is parked after two tries."""
    made = []

    def provider(given, store):
        made.append(UnresponsiveProvider(make(given, store)))
        return made[-1]

    app = create_app(replace(settings, payment_tries=2), make_provider=provider)
    runtime(app).prepare()
    runtime(app).start()
    yield app, made[0]
    runtime(app).stop()


@pytest.fixture
def parked(unresponsive, place, eventually, database):
    """The id of an order whose payment is parked, by default so long ago that its last call has ended."""
    app, provider = unresponsive

    def make(after=False, call_ended=True, **changes):
        provider.after = after
        order_id = place(app.test_client(), **changes)
        eventually(lambda: database.payments.count_documents({"_id": order_id, "status": "Unknown"}))
        eventually(lambda: database.orders.count_documents({"_id": ObjectId(order_id), "paymentStatus": "Unknown"}))
        provider.unresponsive = False
        if call_ended:
            database.payments.update_one({"_id": order_id}, {"$set": {"attempts.$[].at": PAST}})
        return order_id

    return make


@pytest.fixture
def becomes(database, eventually):
    """Wait until an order has this state."""

    def wait(order_id, *statuses):
        wanted = dict(zip(("orderStatus", "paymentStatus"), statuses, strict=True))
        eventually(lambda: database.orders.count_documents({"_id": ObjectId(order_id), **wanted}))

    return wait


@pytest.fixture
def dead_letter(client, place, database):
    """The id of an order whose first event became a dead letter."""
    order_id = place(client)
    database.orders.update_one({}, {"$set": {"outbox.0.type": "Nonsense"}})
    relay = runtime(client.application).modules["orders"].relay
    for _ in range(relay._tries):
        runtime(client.application).modules["orders"].outbox.dequeue_local(128, 0.0)
        database.orders.update_one({}, {"$set": {"relayDue": database.orders.find_one()["createdAt"]}})
        relay.sweep()
    return order_id
