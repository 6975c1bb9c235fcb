"""The whole way of an order, from HTTP to the provider's books and back; in one process, and in one a module."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from bson import ObjectId

from app.main import create_app, runtime
from app.messaging.outbox import Outbox
from app.payments.providers.simulated import SimulatedProvider


def settled(client, order_id, status, payment=None):
    def look():
        order = client.get(f"/orders/one/{order_id}").json["order"]
        return order["orderStatus"] == status and payment in (None, order["paymentStatus"]) and order

    return look


def put(client, order_id, status):
    return client.put("/orders", json={"orderId": order_id, "orderStatus": status})


class Split:
    """One application a module, as processes of their own have them; all together one for clients."""

    def __init__(self, settings):
        # No process runs webhooks here, and orders that stop would wait for its receipts.
        without = replace(settings, webhooks=False)
        self._parts = {
            module: create_app(replace(without, modules=module)) for module in ("gateway", "orders", "payments")
        }

    def prepare(self):
        for part in self._parts.values():
            runtime(part).prepare()

    def take_in(self):
        """Serve clients, and do nothing in the background."""
        runtime(self._parts["orders"]).bus.start_consuming()
        self._wait("gateway", "orders")

    def start(self):
        for part in self._parts.values():
            runtime(part).start()
        self._wait(*self._parts)

    def stop(self):
        for part in self._parts.values():
            runtime(part).stop()

    def test_client(self):
        return self._parts["gateway"].test_client()

    def _wait(self, *modules):
        ends = time.monotonic() + 60
        buses = [runtime(self._parts[module]).bus for module in modules]
        for bus in buses:
            bus.start()
        while not all(bus.ready for bus in buses):
            assert time.monotonic() < ends, "the processes did not meet"
            time.sleep(0.005)


class Whole:
    """One application with all modules."""

    def __init__(self, settings):
        self._app = create_app(settings)
        self._running = runtime(self._app)
        self.prepare, self.start, self.stop = self._running.prepare, self._running.start, self._running.stop

    def take_in(self):
        """Clients are served as it is."""

    def test_client(self):
        return self._app.test_client()


class Apps:
    """Applications on one database, each as a machine of its own has it."""

    def __init__(self, settings):
        self._settings = settings
        self._made = []

    def __call__(self, start=True, **changes):
        settings = replace(self._settings, **changes)
        app = Split(settings) if settings.bus_url else Whole(settings)
        self._made.append(app)
        app.prepare()
        app.start() if start else app.take_in()
        return app

    def stop(self, app):
        self._made.remove(app)
        app.stop()

    def stop_all(self):
        while self._made:
            self.stop(self._made[0])


@pytest.fixture(params=["one process", pytest.param("a process a module", marks=pytest.mark.extended)])
def settings(request, settings, mongo):
    """Settings for both ways; apart, each module has its own database."""
    if request.param == "one process":
        yield settings
        return
    databases = {f"{module}_database": f"{settings.database}_{module}" for module in ("gateway", "orders", "payments")}
    apart = {name: request.getfixturevalue(name) for name in ("bus_url", "bus_prefix")}
    yield replace(settings, background_deadline=2.0, **databases, **apart)
    for name in databases.values():
        mongo.drop_database(name)


@pytest.fixture
def database(settings, mongo):
    """The collections of orders and payments, wherever they are."""
    payments = mongo[settings.database_of("payments")]
    orders = mongo[settings.database_of("orders")].orders
    return SimpleNamespace(orders=orders, payments=payments.payments, ledger=payments.ledger)


@pytest.fixture
def make_app(settings):
    """Applications with changed settings; stopped at the end."""
    apps = Apps(settings)
    yield apps
    apps.stop_all()


@pytest.fixture
def live(make_app):
    """HTTP to an application that works."""
    return make_app().test_client()


@pytest.fixture
def held_charges(make_app, monkeypatch):
    """Holds the provider's charges, from `begun` until the test sets `released`."""
    begun, released, charge = threading.Event(), threading.Event(), SimulatedProvider.charge

    def hold(provider, call):
        begun.set()
        released.wait(60)
        return charge(provider, call)

    monkeypatch.setattr(SimulatedProvider, "charge", hold)
    yield SimpleNamespace(begun=begun, released=released)
    released.set()


@pytest.fixture
def audit(database):
    """Orders, payments and the provider's books agree, for every order there is; tells how many there are."""

    def look() -> int:
        ledger = {}
        for charge in database.ledger.find():
            assert charge["refunded"] == sum(refund["value"] for refund in charge["refunds"]) <= charge["value"]
            ledger.setdefault(charge["orderId"], []).append(charge)
        payments = {payment["_id"]: payment for payment in database.payments.find()}
        orders = list(database.orders.find())
        assert set(payments) == {str(order["_id"]) for order in orders}
        for order in orders:
            order_id, total, entries = str(order["_id"]), order["total"]["value"], order["events"]
            charges = [charge for charge in ledger.pop(order_id, []) if charge["answer"] == "captured"]
            assert len(charges) <= 1
            kept = sum(charge["value"] - charge["refunded"] for charge in charges)
            assert kept == (0 if order["orderStatus"] in ("Declined", "Cancelled") else total)
            assert order["orderStatus"] != "Processing"
            assert [entry["sequence"] for entry in entries] == list(range(1, order["sequence"] + 1))
            assert len({entry["type"] for entry in entries if entry["actor"] == "payments"}) == sum(
                entry["actor"] == "payments" for entry in entries
            )
            assert (entries[-1]["to"], entries[-1]["paymentStatus"]) == (order["orderStatus"], order["paymentStatus"])
            assert payments[order_id]["status"] == order["paymentStatus"]
        assert not ledger
        return len(orders)

    return look


@pytest.fixture
def quiet(database):
    """Whether nothing is left to do: no open payment, no event to hand on, no dead letter."""

    def look() -> bool:
        left = {"$or": [{name: {"$exists": True}} for name in ("dueAt", "relayDue", "outbox.0")]}
        busy = database.orders.count_documents(left) + database.payments.count_documents(left)
        dead = {"deadLetter": {"$exists": True}}
        assert database.orders.find_one(dead) is database.payments.find_one(dead) is None
        return not busy

    return look


def test_an_order_for_a_good_product_becomes_success(live, place, eventually, database):
    order_id = place(live, productId="1")
    order = eventually(settled(live, order_id, "Success", "Captured"))
    assert order["total"] == {"value": 9900, "currency": "MYR"}
    charges = list(database.ledger.find({"orderId": order_id}))
    assert [(charge["answer"], charge["value"]) for charge in charges] == [("captured", 9900)]


def test_an_order_for_a_declined_product_becomes_declined(live, place, eventually, database):
    order_id = place(live, productId="2")
    eventually(settled(live, order_id, "Declined", "Declined"))
    assert database.ledger.count_documents({"orderId": order_id, "answer": "captured"}) == 0


def test_an_order_for_an_unknown_product_becomes_declined(live, place, eventually, database):
    order_id = place(live, productId="no-such-product")
    eventually(settled(live, order_id, "Declined", "Declined"))
    [charge] = database.ledger.find()
    assert (charge["answer"], charge["reason"]) == ("declined", "unknown product")


def test_an_unknown_product_can_be_made_a_good_one(make_app, place, eventually):
    live = make_app(simulated_unknown_product="capture").test_client()
    order_id = place(live, productId="no-such-product")
    eventually(settled(live, order_id, "Success", "Captured"))


def test_the_answer_to_a_new_order_does_not_wait_for_the_payment(live, held_charges, place, eventually):
    order_id = place(live)
    assert live.get(f"/orders/status/{order_id}").json == {"ok": True, "orderStatus": "Processing"}
    held_charges.released.set()
    eventually(settled(live, order_id, "Success"))


def test_cancelled_after_success_is_refunded_once(live, place, eventually, database):
    order_id = place(live, productId="1")
    eventually(settled(live, order_id, "Success"))
    assert live.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
    eventually(settled(live, order_id, "Cancelled", "Refunded"))
    [charge] = database.ledger.find({"orderId": order_id})
    assert (charge["value"], charge["refunded"], len(charge["refunds"])) == (9900, 9900, 1)


def test_cancelled_again_and_again_is_refunded_once(live, place, eventually, quiet, audit, database):
    order_id = place(live)
    eventually(settled(live, order_id, "Success"))
    with ThreadPoolExecutor(8) as pool:
        clients = [live.application.test_client() for _ in range(16)]
        answers = list(pool.map(lambda client: put(client, order_id, "Cancelled").status_code, clients))
    assert set(answers) == {200}
    eventually(settled(live, order_id, "Cancelled", "Refunded"))
    assert put(live, order_id, "Cancelled").status_code == 200
    eventually(quiet)
    assert len(database.ledger.find_one()["refunds"]) == 1
    assert audit() == 1


def test_an_order_is_known_by_its_id_in_small_letters_only(live, place, eventually, quiet, audit):
    """Never is one cancelled under another name and its money kept."""
    order_id = place(live)
    eventually(settled(live, order_id, "Success", "Captured"))
    shouted = order_id.upper()
    assert shouted != order_id
    assert put(live, shouted, "Cancelled").status_code == 404
    assert live.get(f"/orders/one/{shouted}").status_code == 404
    assert live.get(f"/orders/status/{order_id}").json["orderStatus"] == "Success"
    eventually(quiet)
    assert audit() == 1


def test_cancelled_while_it_is_charged_no_money_is_kept(live, held_charges, place, eventually, quiet, audit, database):
    order_id = place(live)
    assert held_charges.begun.wait(60)
    assert put(live, order_id, "Cancelled").status_code == 200
    held_charges.released.set()
    eventually(settled(live, order_id, "Cancelled", "Refunded"))
    [charge] = database.ledger.find()
    assert (charge["answer"], charge["value"] - charge["refunded"]) == ("captured", 0)
    eventually(quiet)
    assert audit() == 1


def test_cancelled_before_the_payment_was_begun_no_money_moves(make_app, place, eventually, quiet, audit, database):
    live = make_app(start=False).test_client()
    order_id = place(live)
    assert put(live, order_id, "Cancelled").status_code == 200
    late = make_app().test_client()
    eventually(lambda: settled(late, order_id, "Cancelled")()["paymentStatus"] in ("Voided", "Refunded"))
    eventually(quiet)
    assert audit() == 1
    [payment] = database.payments.find()
    assert payment["cancelled"]


def test_orders_cancelled_at_any_moment_keep_no_money(make_app, place, eventually, quiet, audit, database):
    """Twenty orders, each cancelled a little later in its life than the one before."""
    app = make_app(simulated_latency_ms=20)

    def live_and_die(at: int) -> None:
        client = app.test_client()
        order_id = place(client, productId="2" if at % 5 == 4 else "1")
        for _ in range(at):
            client.get(f"/orders/status/{order_id}")
        assert put(client, order_id, "Cancelled").status_code == 200

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(live_and_die, range(20)))
    done = {"paymentStatus": {"$in": ["Voided", "Refunded", "Declined"]}, "orderStatus": "Cancelled"}
    eventually(lambda: database.orders.count_documents(done) == 20)
    eventually(quiet)
    assert audit() == 20


def test_confirmed_then_on_its_way_then_cancelled(live, place, eventually, quiet, audit, database):
    order_id = place(live)
    eventually(settled(live, order_id, "Success"))
    for status in ("Confirm", "Packed", "Out for delivery"):
        assert put(live, order_id, status).json == {"ok": True, "message": "Update order success"}
        assert live.get(f"/orders/status/{order_id}").json["orderStatus"] == status
    refused = put(live, order_id, "Confirm")
    assert (refused.status_code, refused.json["code"], refused.json["from"]) == (
        409,
        "illegal_transition",
        "Out for delivery",
    )
    assert put(live, order_id, "Cancelled").status_code == 200
    eventually(settled(live, order_id, "Cancelled", "Refunded"))
    assert put(live, order_id, "Confirm").status_code == 409
    eventually(quiet)
    assert audit() == 1
    assert database.ledger.find_one()["refunded"] == 9900


def test_a_declined_order_that_is_cancelled_has_no_refund(live, place, eventually, quiet, audit, database):
    order_id = place(live, productId="2")
    eventually(settled(live, order_id, "Declined"))
    assert put(live, order_id, "Cancelled").status_code == 200
    order = live.get(f"/orders/one/{order_id}").json["order"]
    assert (order["orderStatus"], order["paymentStatus"]) == ("Cancelled", "Declined")
    eventually(quiet)
    [charge] = database.ledger.find()
    assert (charge["answer"], charge["refunded"], charge["refunds"]) == ("declined", 0, [])
    assert database.payments.find_one()["refunds"] == []
    assert audit() == 1


@pytest.mark.parametrize(
    "faults",
    [
        {"simulated_timeout_before_percent": 50},
        {"simulated_timeout_after_percent": 50},
        {"simulated_fail_percent": 50},
        {"simulated_fail_percent": 20, "simulated_timeout_before_percent": 20, "simulated_timeout_after_percent": 20},
    ],
    ids=lambda faults: " ".join(faults),
)
def test_a_provider_that_fails_often_delays_orders_and_no_more(
    make_app, place, eventually, quiet, audit, database, faults
):
    live = make_app(payment_tries=200, payment_backoff_max=0.1, breaker_failures=1000, **faults).test_client()
    ids = [place(live) for _ in range(20)]
    for order_id in ids[:10]:
        assert put(live, order_id, "Cancelled").status_code == 200
    eventually(lambda: database.orders.count_documents({"orderStatus": "Success"}) == 10)
    refunded = {"orderStatus": "Cancelled", "paymentStatus": {"$in": ["Voided", "Refunded"]}}
    eventually(lambda: database.orders.count_documents(refunded) == 10)
    eventually(quiet)
    assert audit() == 20


def test_a_provider_that_is_spared_now_and_then_is_paid_through_in_the_end(
    make_app, place, eventually, quiet, audit, database
):
    faulty = make_app(payment_tries=200, breaker_failures=2, breaker_recovery=0.1, simulated_fail_percent=50)
    live = faulty.test_client()
    for at in range(20):
        place(live, productId="1" if at % 2 else "2")
    eventually(lambda: database.orders.count_documents({"orderStatus": "Processing"}) == 0, 60)
    eventually(quiet)
    assert audit() == 20


def post_many(apps, place, count):
    """Place orders through several applications at once; the ids of those for good and for declined products."""

    def post(at: int) -> str:
        return place(apps[at % len(apps)].test_client(), productId="1" if at % 4 else "2", userId=f"user-{at % 7}")

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(post, range(count)))
    assert len(set(ids)) == count
    return [order_id for at, order_id in enumerate(ids) if at % 4], ids[::4]


def all_paid(database, quiet, good, declined):
    def look():
        paid = database.orders.count_documents({"orderStatus": "Success", "paymentStatus": "Captured"})
        refused = database.orders.count_documents({"orderStatus": "Declined", "paymentStatus": "Declined"})
        return (paid, refused) == (len(good), len(declined)) and quiet()

    return look


def test_two_processes_settle_a_hundred_orders_once_each(make_app, place, eventually, quiet, audit, database):
    good, declined = post_many([make_app(), make_app()], place, 100)
    eventually(all_paid(database, quiet, good, declined), 60.0)
    captured = [charge["orderId"] for charge in database.ledger.find({"answer": "captured"})]
    assert sorted(captured) == sorted(good)
    assert database.ledger.count_documents({}) == database.payments.count_documents({}) == 100
    assert audit() == 100


def test_with_every_hint_lost_all_orders_settle_none_the_less(
    make_app, place, eventually, quiet, audit, database, monkeypatch
):
    monkeypatch.setattr(Outbox, "enqueue_local", lambda self, key, events: None)
    apps = [make_app(relay_lease=0.2), make_app(relay_lease=0.2)]
    good, declined = post_many(apps, place, 60)
    eventually(all_paid(database, quiet, good, declined), 60.0)
    for order_id in good[:10]:
        assert put(apps[0].test_client(), order_id, "Cancelled").status_code == 200
    refunded = {"orderStatus": "Cancelled", "paymentStatus": "Refunded"}
    eventually(lambda: database.orders.count_documents(refunded) == 10)
    eventually(quiet)
    assert audit() == 60


def test_what_a_process_took_in_before_it_died_is_completed_by_another(
    make_app, place, eventually, quiet, audit, database
):
    dead = make_app(start=False).test_client()
    good, declined = [place(dead) for _ in range(10)], [place(dead, productId="2") for _ in range(3)]
    assert database.payments.count_documents({}) == 0
    survivor = make_app().test_client()
    eventually(all_paid(database, quiet, good, declined))
    assert audit() == 13
    assert survivor.get(f"/orders/status/{good[0]}").json["orderStatus"] == "Success"


def test_what_a_process_left_when_it_stopped_is_completed_by_another(
    make_app, place, eventually, quiet, audit, database
):
    first = make_app(payment_threads=1, simulated_latency_ms=30)
    good, declined = post_many([first], place, 24)
    make_app.stop(first)
    make_app()
    eventually(all_paid(database, quiet, good, declined))
    assert audit() == 24


def test_what_a_process_took_in_while_it_started_is_handed_on_when_it_stops(settings, place, database):
    # Nothing else would find the order before the test fails.
    app = create_app(replace(settings, relay_lease=600.0))
    running = runtime(app)
    running.prepare()
    begun, ended = threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert ended.wait(60)

    running.prepare = slow
    running.start()
    assert begun.wait(60)
    order_id = place(app.test_client())
    ends = threading.Timer(0.5, ended.set)
    ends.start()
    running.stop()
    ends.join()
    assert database.payments.find_one({"_id": order_id})


def test_a_process_that_stops_leaves_no_lease_behind(make_app, place, eventually, database):
    # All twenty calls would take twenty seconds: however busy the machine, it stops before the last one.
    first = make_app(payment_threads=1, simulated_latency_ms=1000)
    client = first.test_client()
    ids = [place(client) for _ in range(20)]
    eventually(lambda: database.payments.count_documents({"status": "Captured"}) >= 2)
    make_app.stop(first)
    assert database.payments.count_documents({"owner": {"$exists": True}}) == 0
    assert database.payments.count_documents({"status": "Captured"}) < 20
    waiting = {"orderStatus": "Processing"}
    make_app()
    eventually(lambda: database.orders.count_documents(waiting) == 0)
    assert database.ledger.count_documents({"answer": "captured"}) == len(ids)


def test_an_order_reads_the_same_whichever_process_answers(make_app, place, eventually, database):
    one, other = (make_app(start=False).test_client() for _ in range(2))
    order_id = place(one)
    seen = [client.get(f"/orders/one/{order_id}").json for client in (one, other)]
    assert seen[0] == seen[1]
    assert put(other, order_id, "Cancelled").status_code == 200
    assert one.get(f"/orders/status/{order_id}").json["orderStatus"] == "Cancelled"
    assert database.orders.find_one({"_id": ObjectId(order_id)})["version"] == 2


def test_the_personal_data_of_a_user_is_erased_in_all_modules(
    live, place, eventually, database, settings, mongo, quiet, audit
):
    order_id = place(live, userId="ada", productId="1")
    eventually(settled(live, order_id, "Success", "Captured"))
    eventually(quiet)
    erasure = live.delete("/users/ada/personal-data").json["erasure"]
    erasures = mongo[settings.database_of("orders")].erasures
    eventually(lambda: erasures.find_one({"_id": erasure["id"], "rounds": 1}))
    erasures.update_one({}, {"$set": {"dueAt": datetime.now(UTC)}})
    eventually(lambda: erasures.find_one({"completedAt": {"$exists": True}, "userId": {"$exists": False}}))
    assert live.get("/orders/ada").json["orders"] == []
    kept = live.get(f"/orders/{erasure['pseudonym']}").json["orders"]
    assert [(order["id"], order["paymentStatus"]) for order in kept] == [(order_id, "Captured")]
    assert [payment["userId"] for payment in database.payments.find()] == [erasure["pseudonym"]]
    assert audit() == 1
