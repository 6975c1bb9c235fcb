"""`GET /metrics`: readable for Prometheus, true, and the sum of all workers."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app, runtime
from app.payments.payment import Answer, Outcome
from app.payments.providers import make

COUNTERS = {
    "orderflow_provider_calls",
    "orderflow_payments_parked",
    "orderflow_dead_letters",
    "orderflow_leases_lost",
    "orderflow_orders_refused",
}


class Mute:
    """A provider that never says what became of anything."""

    def __init__(self, real):
        self._real = real

    def prepare(self):
        self._real.prepare()

    def find(self, call):
        return None

    def charge(self, call):
        return Outcome(answer=Answer.UNKNOWN, reason="no word")


def read(text):
    """The metrics by family, and the samples by name and labels."""
    families = list(text_string_to_metric_families(text))
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    return {family.name: family for family in families}, samples


def calls(samples, call="charge", answer="captured"):
    return samples.get(("orderflow_provider_calls_total", (("answer", answer), ("call", call))), 0.0)


def count(samples, name):
    return sum(value for (sample, _), value in samples.items() if sample == f"{name}_total")


@pytest.fixture
def look():
    """Read a client's metrics."""
    return lambda client: read(client.get("/metrics").text)


def test_prometheus_can_read_them(client, look):
    answer = client.get("/metrics")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families, samples = look(client)
    assert families.keys() >= COUNTERS | {"orderflow_backlog_due", "orderflow_backlog_oldest_seconds"}
    assert all(families[name].type == "counter" for name in COUNTERS)
    assert all(family.documentation for family in families.values())
    assert samples["orderflow_backlog_due", (("module", "orders"),)] == 0


def test_each_call_to_the_provider_counts(live, place, look, eventually, database):
    _, before = look(live)
    place(live)
    place(live, productId="2")
    eventually(lambda: database.orders.count_documents({"orderStatus": {"$in": ["Success", "Declined"]}}) == 2)
    _, after = look(live)
    assert calls(after) == calls(before) + 1
    assert calls(after, answer="declined") == calls(before, answer="declined") + 1


def test_the_backlog_is_how_many_wait_and_since_when(client, place, look, database):
    for _ in range(3):
        place(client)
    for doc in database.orders.find():
        aged = {"relayDue": doc["createdAt"].replace(year=doc["createdAt"].year - 1)}
        database.orders.update_one({"_id": doc["_id"]}, {"$set": aged})
    _, samples = look(client)
    assert samples["orderflow_backlog_due", (("module", "orders"),)] == 3
    assert samples["orderflow_backlog_oldest_seconds", (("module", "orders"),)] > 300 * 86400
    assert samples["orderflow_backlog_due", (("module", "payments"),)] == 0


def test_a_parked_payment_raises_the_alarm_once(settings, place, look, eventually, database):
    app = create_app(replace(settings, payment_tries=2), make_provider=lambda given, store: Mute(make(given, store)))
    try:
        runtime(app).prepare()
        runtime(app).start()
        client = app.test_client()
        _, before = look(client)
        place(client)
        eventually(lambda: database.orders.count_documents({"paymentStatus": "Unknown"}))
        _, after = look(client)
    finally:
        runtime(app).stop()
    assert count(after, "orderflow_payments_parked") == count(before, "orderflow_payments_parked") + 1
    assert calls(after, answer="unknown") == calls(before, answer="unknown") + 2


def test_a_dead_letter_is_counted_for_its_module(app, client, place, look, database):
    _, before = look(client)
    place(client)
    running = runtime(app)
    database.orders.update_one({}, {"$set": {"outbox.0.type": "Nonsense"}})
    running.orders.outbox.take_hints(128, 0.0)
    for _ in range(running.settings.relay_tries):
        database.orders.update_one({}, {"$set": {"relayDue": database.orders.find_one()["createdAt"]}})
        running.orders.relay.sweep()
    _, after = look(client)
    assert count(after, "orderflow_dead_letters") == count(before, "orderflow_dead_letters") + 1


@pytest.fixture
def gunicorn(settings, tmp_path):
    """The address of two workers at work."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    environ = {
        **os.environ,
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        "PORT": "0",
        "WEB_CONCURRENCY": "2",
        "WORKER_CLASS": "gthread",
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "SWEEP_INTERVAL": "0.2",
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--keep-alive", "0"]
    server = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    address = next(line.split()[-2] for line in server.stderr if "Listening at" in line)
    yield address
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=60)


def test_two_workers_tell_one_sum(gunicorn, new_order, eventually, database):
    def post(_):
        with httpx.Client() as fresh:
            answer = fresh.post(f"{gunicorn}/orders", json=new_order(), timeout=30)
        return answer.status_code

    eventually(lambda: httpx.get(f"{gunicorn}/readyz", timeout=30).status_code == 200, 60)
    assert {post(number) for number in range(24)} == {201}
    eventually(lambda: database.orders.count_documents({"orderStatus": "Success"}) == 24, 30)

    def told():
        _, samples = read(httpx.get(f"{gunicorn}/metrics", timeout=30).text)
        return calls(samples)

    eventually(lambda: told() == 24)
    assert [told() for _ in range(8)] == [24] * 8
