"""A server that is told to end finishes what it has begun and gives back the rest."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tools.chaos.clients import LoadGenerator
from tools.chaos.verdict import examine, wait_until_settled
from tools.cluster.processes import send_signal
from tools.cluster.servers import Server

pytestmark = [pytest.mark.extended, pytest.mark.long]


# So long that whatever is not given back is not settled before the test fails.
LONG = {
    "PAYMENT_LEASE": "600",
    "RELAY_LEASE": "600",
    "PAYMENT_TIMEOUT": "4",
    # A busy machine may make a command slow: one that fails gives nothing back.
    "REQUEST_DEADLINE": "10",
    "BACKGROUND_DEADLINE": "5",
    "BACKGROUND_STALL": "700",
}
SOON = 40.0
ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}


def serve(folder, settings, **environ):
    return Server(
        folder, {"MONGODB_URI": settings.mongodb_uri, "MONGODB_DATABASE": settings.database, **LONG, **environ}
    )


def post(server):
    answer = httpx.post(f"{server.url}/orders", json=ORDER, timeout=60)
    assert answer.status_code == 201, answer.text
    return answer.json()["created"]["id"]


def placing(load, at):
    """Whether an order was placed that was sent after `at`."""
    return lambda: load.record.recovery(at) is not None


def replaced(server, before):
    """Whether none of the workers `before` is left."""
    return lambda: not set(before) & set(server.workers(2))


def test_a_rolling_restart_under_load_answers_every_request(settings, database, mongodb_uri, tmp_path, eventually):
    with serve(tmp_path, settings, SIMULATED_LATENCY_MS="100") as server:
        with LoadGenerator(server.url, clients=6, rate=20, keep_alive=False, timeout=30) as load:
            eventually(placing(load, 0.0))
            before = server.workers(2)
            send_signal(before[0], signal.SIGTERM)
            eventually(replaced(server, before[:1]), 60.0)
            eventually(placing(load, time.monotonic()), 60.0)
            server.reload()
            eventually(replaced(server, before), 60.0)
            eventually(placing(load, time.monotonic()), 60.0)
        wait_until_settled(mongodb_uri, settings.database, SOON)
        report = examine(mongodb_uri, settings.database, load.record)

    assert {sent.answer for sent in load.record.sent} <= {"200", "201", "409"}, load.record.answers
    assert len(load.record.acknowledged) == database.orders.count_documents({}) > 12
    assert not report.findings + report.attention


def test_repeating_what_a_closed_connection_left_unclear_makes_one_order(
    settings, database, mongodb_uri, tmp_path, eventually
):
    with serve(tmp_path, settings, SIMULATED_LATENCY_MS="100") as server:
        with LoadGenerator(server.url, clients=6, rate=20, timeout=30) as load:
            for _ in range(2):
                eventually(placing(load, time.monotonic()), 60.0)
                before = server.workers(2)
                server.reload()
                eventually(replaced(server, before), 60.0)
        wait_until_settled(mongodb_uri, settings.database, SOON)
        report = examine(mongodb_uri, settings.database, load.record)

    assert not load.record.unexpected
    assert load.gave_up == 0
    assert len(load.record.acknowledged) == database.orders.count_documents({}) > 12
    assert not report.findings + report.attention


def test_what_a_stopping_worker_has_not_begun_is_paid_by_another_at_once(
    settings, database, mongodb_uri, tmp_path, eventually
):
    few = {"WEB_CONCURRENCY": "1", "PAYMENT_THREADS": "1", "SIMULATED_LATENCY_MS": "700"}
    with serve(tmp_path, settings, **few) as server:
        with ThreadPoolExecutor(8) as pool:
            orders = list(pool.map(lambda _: post(server), range(10)))
        eventually(lambda: database.payments.count_documents({"owner": {"$exists": True}}) >= 5)
        [worker] = server.workers()
        send_signal(worker, signal.SIGTERM)
        wait_until_settled(mongodb_uri, settings.database, SOON)
        assert worker not in server.workers()

    assert database.orders.count_documents({"orderStatus": "Success"}) == len(orders)
    assert database.payments.count_documents({"fencingToken": {"$gt": 1}}) >= 3
    # Giving back is nobody's failure.
    assert database.payments.count_documents({"attempts.1": {"$exists": True}}) == 0


def test_a_call_under_way_ends_and_is_recorded_before_its_process_goes(
    settings, database, mongodb_uri, tmp_path, eventually
):
    # So long that it is still under way when the worker is told to end, however busy the machine is.
    slow = {"WEB_CONCURRENCY": "1", "SIMULATED_LATENCY_MS": "8000", "PAYMENT_TIMEOUT": "20"}
    with serve(tmp_path, settings, **slow) as server:
        order_id = post(server)
        # Leased is not yet begun, and what is not begun is given back: the call has to be well under way.
        under_way = {"$gt": [{"$subtract": ["$$NOW", "$requestedAt"]}, 700]}
        eventually(
            lambda: database.payments.find_one({"_id": order_id, "owner": {"$exists": True}, "$expr": under_way})
        )
        [worker] = server.workers()
        send_signal(worker, signal.SIGTERM)
        assert database.ledger.find_one({"orderId": order_id}) is None
        worker.wait(SOON)
        payment = database.payments.find_one({"_id": order_id})
        [order] = database.orders.find()

    assert (payment["status"], payment["fencingToken"], len(payment["attempts"])) == ("Captured", 1, 1)
    assert (order["orderStatus"], order["outbox"], payment["outbox"]) == ("Success", [], [])
