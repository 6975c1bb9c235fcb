"""Overload: new orders are refused in time, and a provider that hangs delays no other payment."""

import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from app.main import create_app, runtime
from app.messaging import outbox
from app.payments import repository
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers import make
from app.payments.providers.simulated import CAPABILITIES
from app.storage import mongodb

pytestmark = pytest.mark.extended


class HangingProvider:
    """The simulated provider. Calls for the product "hangs" hang until it has recovered; others do not.

    While `failing`, every charge is answered as not attempted.
    """

    def __init__(self, real):
        self._real = real
        self.recovered = threading.Event()
        self.failing = False
        self.charges = 0

    def __getattr__(self, name):
        return getattr(self._real, name)

    capabilities = CAPABILITIES

    def charge(self, call):
        self.charges += 1
        if self.failing:
            return ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason="out of order")
        if call.product_id == "hangs":
            self.recovered.wait(60)
        return self._real.charge(call)


@pytest.fixture
def start_app(settings):
    """Start an application with such a provider and changed settings."""
    made = []

    def start(**changes):
        providers = []

        def provider(given, store):
            providers.append(HangingProvider(make(given, store)))
            return providers[0]

        app = create_app(replace(settings, **changes), make_provider=provider)
        made.append((app, providers[0]))
        runtime(app).prepare()
        runtime(app).start()
        return app, providers[0]

    yield start
    for app, provider in made:
        provider.recovered.set()
        runtime(app).stop()


SHORT = {"payment_timeout": 0.4, "background_deadline": 2.0, "payment_lease": 4.6, "payment_tries": 1000}


def test_new_orders_are_refused_while_too_many_wait_and_accepted_afterwards(
    start_app, new_order, eventually, database, refusals
):
    app, provider = start_app(
        backlog_limit=5,
        payment_threads=1,
        simulated_unknown_product="capture",
        payment_timeout=30.0,
        payment_lease=60.0,
    )
    client = app.test_client()
    accepted = []

    def post(**changes):
        answer = client.post("/orders", json=new_order(**changes))
        if answer.status_code == 201:
            accepted.append(answer.json["created"]["id"])
        return answer

    refused = eventually(lambda: refusals(post(productId="hangs")), 60.0)
    assert (refused.status_code, refused.json["code"]) == (503, "overloaded")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert client.get(f"/orders/one/{accepted[0]}").status_code == 200
    assert client.get("/metrics").status_code == 200
    cancelled = {"orderId": accepted[-1], "orderStatus": "Cancelled"}
    assert client.put("/orders", json=cancelled).status_code == 200
    stored = database.orders.count_documents({})
    assert stored == len(accepted)

    provider.recovered.set()
    eventually(lambda: post().status_code == 201, 60.0)
    eventually(lambda: database.orders.count_documents({"orderStatus": "Processing"}) == 0, 60.0)
    assert database.ledger.count_documents({"answer": "captured"}) >= len(accepted) - 1


@pytest.fixture
def refusals():
    """The answer if it is a refusal, else None."""
    return lambda answer: answer if answer.status_code == 503 else None


def test_a_provider_that_hangs_delays_neither_http_nor_other_payments(start_app, place, eventually, database):
    app, _ = start_app(payment_threads=4, breaker_failures=1000, simulated_unknown_product="capture", **SHORT)
    client = app.test_client()
    for _ in range(3):
        place(client, productId="hangs")
    started = time.monotonic()
    others = [place(client) for _ in range(8)]
    for order_id in others:
        assert client.get(f"/orders/status/{order_id}").status_code == 200
    # Less than one call that hangs would have taken.
    assert time.monotonic() - started < 50
    paid = {"_id": {"$in": others}, "status": "Captured"}
    eventually(lambda: database.payments.count_documents(paid) == 8)
    assert database.payments.count_documents({"productId": "hangs", "status": "Processing"}) == 3


def test_calls_that_hang_are_settled_as_unknown_and_give_their_slots_to_others(start_app, place, eventually, database):
    """All call slots hang; the good order is paid once the calls have timed out."""
    app, provider = start_app(payment_threads=2, breaker_failures=1000, simulated_unknown_product="capture", **SHORT)
    client = app.test_client()
    for _ in range(2):
        place(client, productId="hangs")
    eventually(lambda: provider.charges >= 2)
    good = place(client)
    eventually(lambda: database.payments.count_documents({"_id": good, "status": "Captured"}))
    provider.recovered.set()
    eventually(lambda: database.payments.count_documents({"status": "Captured"}) == 3, 60.0)
    assert database.ledger.count_documents({"answer": "captured"}) == 3


def test_a_provider_that_fails_opens_the_circuit_breaker_until_it_recovers(start_app, place, eventually, database):
    # As long as it is open, however long that takes, there are no calls but those that had begun before.
    app, provider = start_app(breaker_failures=3, breaker_recovery=3600.0, payment_tries=1000, payment_threads=2)
    provider.failing = True
    client = app.test_client()
    for _ in range(6):
        place(client)
    circuit_breaker = runtime(app).modules["payments"].worker._provider._breaker
    eventually(lambda: circuit_breaker.open)
    charges = provider.charges
    threading.Event().wait(0.5)
    assert provider.charges <= charges + 2
    eventually(lambda: client.get("/readyz").status_code == 200)
    assert circuit_breaker.open
    provider.failing = False
    circuit_breaker._recovery = 1.0
    eventually(lambda: database.orders.count_documents({"orderStatus": "Success"}) == 6, 60.0)
    assert database.ledger.count_documents({}) == 6


def refuse_every_payment(database):
    """Make the collection of payments refuse every insert, as with a missing right. Returns a function that undoes it."""
    validator = database.payments.options()["validator"]
    database.command("collMod", "payments", validator={"never": {"$exists": True}})
    return lambda: database.command("collMod", "payments", validator=validator)


def test_where_payments_refuses_everything_new_orders_are_refused_and_none_becomes_a_dead_letter(
    settings, place, new_order, refusals, eventually, database
):
    # A lease that outlasts the orders below, however slow the machine is: none is due before the relay starts.
    app = create_app(replace(settings, backlog_limit=5, relay_tries=1, relay_lease=30.0))
    client, running = app.test_client(), runtime(app)
    running.prepare()
    undo = refuse_every_payment(database)
    # Accepted before a delivery has failed; delivered, and refused, as soon as the relay starts.
    accepted = [place(client) for _ in range(60)]

    def post():
        answer = client.post("/orders", json=new_order())
        if answer.status_code == 201:
            accepted.append(answer.json["created"]["id"])
        return answer

    try:
        for module in (running.modules["orders"], running.modules["payments"]):
            module.start()
        refused = eventually(lambda: refusals(post()), 60.0)
        assert (refused.status_code, refused.json["code"]) == (503, "overloaded")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        eventually(lambda: database.orders.count_documents({"relayFailures": {"$exists": True}}) == len(accepted), 60.0)
        # Now most of them wait for a retry and are not due: new orders are still refused.
        eventually(lambda: refusals(post()))
        assert database.orders.count_documents({"deadLetter": {"$exists": True}}) == 0
        assert client.get(f"/orders/one/{accepted[0]}").json["order"]["orderStatus"] == "Processing"
        assert 'orderflow_deliveries_failing{module="orders"} 1.0' in client.get("/metrics").text
        undo()
        eventually(lambda: database.orders.count_documents({"orderStatus": "Success"}) == len(accepted), 60.0)
        eventually(lambda: post().status_code == 201, 60.0)
        eventually(lambda: database.orders.count_documents({"orderStatus": "Processing"}) == 0, 60.0)
        assert database.orders.count_documents({"deadLetter": {"$exists": True}}) == 0
        assert database.ledger.count_documents({"answer": "captured"}) == len(accepted)
    finally:
        for module in (running.modules["orders"], running.modules["payments"]):
            module.stop(10.0)
        running.stop()


def with_retry(now):
    return {"relayFailures": 3, "relayDue": now + timedelta(hours=1)}


def with_dead_letter(now):
    return {"deadLetter": {"reason": "poison", "event_id": "e", "failures": 8, "at": now - timedelta(days=30)}}


EVENTS = [{"type": "PaymentVoided", "event_id": "e", "sequence": 1}]
UNFINISHED = {
    "an event that is due": ("orders", lambda now: {"relayDue": now - timedelta(seconds=5)}),
    "an event to retry": ("orders", with_retry),
    "a dead letter": ("orders", with_dead_letter),
    "a payment that is due": ("payments", lambda now: {"dueAt": now - timedelta(seconds=5)}),
    "a payment to retry": ("payments", lambda now: {"dueAt": now + timedelta(hours=1)}),
    "a parked payment": ("payments", lambda now: {"status": "Unknown", "parkedReason": "no answer"}),
    "a payment's event that is due": ("payments", lambda now: {"relayDue": now - timedelta(seconds=5)}),
    "a payment's event to retry": ("payments", with_retry),
    "a payment's dead letter": ("payments", with_dead_letter),
}


@pytest.fixture
def post_to_new_process(settings, new_order, monkeypatch):
    """Place an order in a process that has just started and checks the backlog for the first time."""
    # A backlog that a busy machine does not count in time is unknown, and admits.
    for module in (outbox, repository, mongodb):
        monkeypatch.setattr(module, "BACKLOG_TIMEOUT_SECONDS", 10.0)

    def post(**changes):
        app = create_app(replace(settings, **changes))
        try:
            return app.test_client().post("/orders", json=new_order())
        finally:
            runtime(app).stop()

    return post


@pytest.fixture
def in_progress(app, client, place, database, eventually):
    """Six orders with their payments, whose events and payments are under lease. Returns the time."""
    for _ in range(6):
        place(client)
    running = runtime(app)
    running.modules["orders"].relay.deliver(running.modules["orders"].outbox.dequeue_local(128, 0))
    eventually(lambda: database.payments.count_documents({"status": "Captured"}) == 6)
    later = running.database.clock.now() + timedelta(hours=1)
    for collection in (database.orders, database.payments):
        collection.update_many({}, {"$set": {"outbox": EVENTS, "relayDue": later}, "$unset": {"relayFailures": ""}})
    database.payments.update_many({}, {"$set": {"dueAt": later, "owner": "another process"}})
    return running.database.clock.now()


@pytest.mark.parametrize(("module", "change"), UNFINISHED.values(), ids=UNFINISHED)
def test_all_unfinished_work_counts_against_the_limit(in_progress, post_to_new_process, database, module, change):
    collection = database[module]
    unset = {"owner": ""} if "dueAt" in change(in_progress) else {}
    three = [doc["_id"] for doc in collection.find({}, {"_id": 1}).limit(3)]
    update = {"$set": change(in_progress), **({"$unset": unset} if unset else {})}
    collection.update_many({"_id": {"$in": three}}, update)
    assert post_to_new_process(backlog_limit=4).status_code == 201
    answer = post_to_new_process(backlog_limit=3)
    assert (answer.status_code, answer.json["code"]) == (503, "overloaded")
