"""`GET /metrics`: readable for Prometheus, true, and the sum of all workers."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings
from app.main import NO_DATABASE, create_app, runtime
from app.observability import metrics, prometheus
from app.observability.stages import Stage
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers import make
from app.payments.providers.simulated import CAPABILITIES

pytestmark = pytest.mark.extended

COUNTERS = {
    "orderflow_provider_calls",
    "orderflow_payments_parked",
    "orderflow_dead_letters",
    "orderflow_leases_lost",
    "orderflow_orders_rejected",
    "orderflow_http_problems",
    "orderflow_database_errors",
}
HISTOGRAMS = {
    "orderflow_http_request_duration_seconds",
    "orderflow_stage_duration_seconds",
    "orderflow_order_settlement_duration_seconds",
    "orderflow_payment_attempts",
    "orderflow_database_operation_duration_seconds",
    "orderflow_batch_size",
}


class Mute:
    """A provider that never says what became of anything."""

    def __init__(self, real):
        self._real = real

    def prepare(self):
        self._real.prepare()

    capabilities = CAPABILITIES

    def find(self, call):
        return None

    def charge(self, call):
        return ProviderResponse(code=ResponseCode.UNKNOWN, reason="no word")


def read(text):
    """The metrics by family, and the samples by name and labels."""
    families = list(text_string_to_metric_families(text))
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    return {family.name: family for family in families}, samples


def calls(samples, call="charge", response="captured"):
    return samples.get(("orderflow_provider_calls_total", (("call", call), ("response", response))), 0.0)


def count(samples, name):
    return sum(value for (sample, _), value in samples.items() if sample == f"{name}_total")


@pytest.fixture
def settings(settings):
    """On a busy machine a short lease ends, and what a sweep delivers again counts twice."""
    return replace(settings, relay_lease=30.0)


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
    assert families.keys() >= HISTOGRAMS
    assert all(families[name].type == "histogram" for name in HISTOGRAMS)
    assert samples["orderflow_backlog_due", (("module", "orders"),)] == 0


def test_each_call_to_the_provider_counts(live, place, look, eventually, database):
    _, before = look(live)
    place(live)
    place(live, productId="2")
    eventually(lambda: database.orders.count_documents({"orderStatus": {"$in": ["Success", "Declined"]}}) == 2)
    wanted = [calls(before) + 1, calls(before, response="declined") + 1]
    # A call is counted after its result has been written.
    eventually(lambda: (after := look(live)[1]) and [calls(after), calls(after, response="declined")] == wanted)


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

        def counts():
            _, samples = look(client)
            return count(samples, "orderflow_payments_parked"), calls(samples, response="unknown")

        alarms, unknown = counts()
        place(client)
        eventually(lambda: database.orders.count_documents({"paymentStatus": "Unknown"}))
        # They are counted after the result has been written.
        eventually(lambda: counts() == (alarms + 1, unknown + 2))
    finally:
        runtime(app).stop()


def test_a_dead_letter_is_counted_for_its_module(app, client, place, look, database):
    _, before = look(client)
    place(client)
    running = runtime(app)
    database.orders.update_one({}, {"$set": {"outbox.0.type": "Nonsense"}})
    running.modules["orders"].outbox.dequeue_local(128, 0.0)
    for _ in range(running.settings.relay_tries):
        database.orders.update_one({}, {"$set": {"relayDue": database.orders.find_one()["createdAt"]}})
        running.modules["orders"].relay.sweep()
    _, after = look(client)
    assert count(after, "orderflow_dead_letters") == count(before, "orderflow_dead_letters") + 1


@contextmanager
def serving(settings, **changes):
    """Two workers at work: the address, and the process of their server."""
    environ = {
        **os.environ,
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        "PORT": "0",
        "WEB_CONCURRENCY": "2",
        "SWEEP_INTERVAL": "0.2",
        "REQUEST_DEADLINE": "10",
        **changes,
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--keep-alive", "0"]
    server = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    address = next(line.split()[-2] for line in server.stderr if "Listening at" in line)
    try:
        yield address, psutil.Process(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)


@pytest.fixture
def gunicorn(settings, tmp_path):
    """The address of two workers at work, their server, and the folder of their metrics."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    with serving(settings, WORKER_CLASS="gthread", PROMETHEUS_MULTIPROC_DIR=str(folder)) as (address, server):
        yield address, server, folder


def test_a_server_answers_scrapes_that_come_together(settings, tmp_path, eventually):
    """The folder of metrics is the server's own, which locks it as long as it runs."""
    with serving(settings, TMPDIR=str(tmp_path)) as (address, server), ThreadPoolExecutor(8) as pool:
        eventually(lambda: httpx.get(f"{address}/readyz", timeout=30).status_code == 200, 60)
        # The first may be ready before the second is there.
        eventually(lambda: len(server.children()) == 2, 60)
        workers = {child.pid for child in server.children()}
        answers = list(pool.map(lambda _: httpx.get(f"{address}/metrics", timeout=30).status_code, range(16)))
        assert answers == [200] * 16
        assert {child.pid for child in server.children()} == workers


def test_two_workers_tell_one_sum_also_when_one_is_killed(gunicorn, new_order, eventually, database):
    address, server, folder = gunicorn

    def post(_):
        with httpx.Client() as fresh:
            answer = fresh.post(f"{address}/orders", json=new_order(), timeout=30)
        return answer.status_code

    def told():
        return read(httpx.get(f"{address}/metrics", timeout=30).text)[1]

    def sums():
        samples = told()
        durations = [
            samples.get(("orderflow_stage_duration_seconds_count", (("stage", stage),)), 0.0) for stage in Stage
        ]
        return calls(samples), samples.get(("orderflow_order_settlement_duration_seconds_count", ())), *durations

    eventually(lambda: httpx.get(f"{address}/readyz", timeout=30).status_code == 200, 60)
    assert {post(number) for number in range(24)} == {201}
    eventually(lambda: database.orders.count_documents({"orderStatus": "Success"}) == 24, 60.0)
    eventually(lambda: sums() == (24,) * 11)
    assert [sums() for _ in range(4)] == [(24,) * 11] * 4
    eventually(lambda: told()["orderflow_workers", ()] == 2)

    victim = server.children()[0]
    assert list(folder.glob(f"gauge_live*_{victim.pid}.db"))
    victim.kill()
    eventually(lambda: len(server.children()) == 2 and victim not in server.children(), 60)
    eventually(lambda: told()["orderflow_workers", ()] == 2, 60)
    assert sums() == (24,) * 11
    assert not list(folder.glob(f"*_{victim.pid}.db"))
    eventually(lambda: told()["orderflow_payment_threads", ()] == 2 * Settings().payment_threads)


def test_counters_of_dead_processes_are_merged_into_one_file_and_their_gauges_deleted(tmp_path):
    dead = [started.pid for started in (subprocess.Popen(["true"]), subprocess.Popen(["true"])) if started.wait() == 0]
    key = mmap_key("c", "c_total", ["l"], ["x"], "help")
    for pid in (*dead, os.getpid()):
        for kind in ("counter", "gauge_livesum"):
            file = MmapedDict(str(tmp_path / f"{kind}_{pid}.db"))
            file.write_value(key, 2.0, 0.0)
            file.close()
    prometheus.merge_dead_processes(tmp_path)
    prometheus.merge_dead_processes(tmp_path)
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"counter_dead.db", *(f"{kind}_{os.getpid()}.db" for kind in ("counter", "gauge_livesum"))}
    [(told, value, *_)] = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_dead.db"))
    assert (told, value) == (key, 4.0)


def test_a_bulk_observation_equals_single_observations_of_the_library():
    values = [0.0, 0.0005, 0.001, 0.0011, 0.3, 29.0, 31.0, 1e9]
    one, other = (Histogram(name, "h", buckets=metrics.SECONDS, registry=CollectorRegistry()) for name in "ab")
    buffer = metrics.ObservationBuffer()
    for value in values:
        one.observe(value)
        buffer.add(other, [value])
    buffer.flush()

    def told(histogram):
        return [
            (sample.labels, sample.value) for sample in histogram.collect()[0].samples if "created" not in sample.name
        ]

    assert told(one) == told(other)


def test_observing_a_stage_costs_next_to_nothing():
    """A generous bound: a tenth of it is usual, and the bench tells exactly."""
    lines = [{"took_ms": 1.0 + number} for number in range(32)]

    def cost():
        started = time.thread_time()
        for _ in range(200):
            metrics.observe_stages(Stage.ORDER_STORED, 0.0, lines)
        metrics.observations.flush()
        return (time.thread_time() - started) / (200 * 32)

    # A collection of garbage may fall into some of them.
    assert min(cost() for _ in range(5)) < 10e-6


def requests_of(samples, **labels):
    return samples.get(("orderflow_http_request_duration_seconds_count", tuple(sorted(labels.items()))), 0.0)


@pytest.mark.parametrize(
    ("method", "address", "route", "status"),
    [
        ("GET", "/orders/one/692000000000000000000000", "/orders/one/<order_id>", "404"),
        ("GET", "/healthz", "/healthz", "200"),
        ("GET", "/nothing/here", "(none)", "404"),
        ("POST", "/healthz", "(none)", "405"),
        ("BREW", "/healthz", "(none)", "405"),
        ("GET", "/orders/status/692000000000000000000000?wait=1", "/orders/status/<order_id> (waiting)", "404"),
    ],
)
def test_a_request_counts_under_its_routes_template(client, look, method, address, route, status):
    labels = {"route": route, "method": "other" if method == "BREW" else method, "status": status}
    before = requests_of(look(client)[1], **labels)
    client.open(address, method=method)
    assert requests_of(look(client)[1], **labels) == before + 1


def test_problems_count_by_their_code(client, look):
    def refused(code):
        return look(client)[1].get(("orderflow_http_problems_total", (("code", code),)), 0.0)

    before = refused("order_not_found")
    client.get("/orders/one/692000000000000000000000")
    assert refused("order_not_found") == before + 1


def test_each_stage_of_an_order_is_measured(live, place, look, eventually, database):
    def counts():
        samples = look(live)[1]
        return [samples.get(("orderflow_stage_duration_seconds_count", (("stage", stage),)), 0.0) for stage in Stage]

    before, settled = counts(), look(live)[1]["orderflow_order_settlement_duration_seconds_count", ()]
    place(live)
    eventually(lambda: counts() == [count + 1 for count in before])
    assert look(live)[1]["orderflow_order_settlement_duration_seconds_count", ()] == settled + 1


def test_what_waits_for_a_try_or_for_an_operator_is_looked_up(client, place, look, database):
    place(client)
    order = database.orders.find_one()
    later = order["createdAt"].replace(year=order["createdAt"].year + 1)
    database.orders.update_one({}, {"$set": {"relayFailures": 1, "relayDue": later}})
    place(client)
    letter = {"deadLetter": {"at": later, "reason": "r", "event_id": "e", "failures": 8}}
    database.orders.update_one({"relayFailures": {"$exists": False}}, {"$set": letter})
    _, samples = look(client)
    assert samples["orderflow_retries_pending", (("module", "orders"),)] == 1
    assert samples["orderflow_dead_letters_now", (("module", "orders"),)] == 1
    assert samples["orderflow_payments_parked_now", (("module", "payments"),)] == 0


def test_a_database_that_does_not_answer_counts_by_kind(settings, look):
    gone = create_app(replace(settings, mongodb_uri=NO_DATABASE, request_deadline=0.1, background_deadline=0.1))
    client = gone.test_client()

    def errors():
        kinds = {name: value for name, value in look(client)[1].items() if name[0] == "orderflow_database_errors_total"}
        return sum(kinds.values())

    before = errors()
    client.get("/orders/one/692000000000000000000000")
    assert errors() > before
    runtime(gone).stop()


def test_folders_of_servers_that_were_killed_go_and_those_in_use_stay(tmp_path, monkeypatch):
    probe = (
        "import runpy, sys, types; conf = runpy.run_path('gunicorn.conf.py'); created = conf['_create_metrics_folder'](); "
        "print(created[0], flush=True); sys.stdin.read()"
    )

    def server():
        environ = {**os.environ, "TMPDIR": str(tmp_path)}
        return subprocess.Popen(
            [sys.executable, "-c", probe], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    with server() as first, server() as second:
        folders = [Path(one.stdout.readline().strip()) for one in (first, second)]
        assert all(folder.is_dir() for folder in folders)
        first.kill()
        first.wait()
        with server() as third:
            folders.append(Path(third.stdout.readline().strip()))
            assert [folder.is_dir() for folder in folders] == [False, True, True]
            third.stdin.close()
        second.stdin.close()


def test_a_disk_that_is_full_fails_no_figure_of_a_process_that_has_begun(tmp_path):
    program = (
        "import resource; from app.observability import metrics; metrics.stage_duration.labels('first'); metrics.problem_counter('first')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))\n"
        "for number in range(100): metrics.stage_duration.labels(f'stage {number}').observe(1); metrics.problem_counter(f'{number}').inc()\n"
    )
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True, timeout=60)


def test_an_answer_is_not_lost_for_a_figure(live, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(metrics, "observe_request", fail)
    answer = live.get("/state-machine")
    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"]
