"""The bench parses wrk, computes the figures, judges by the targets, and its peers answer as Orderflow does."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from bson import ObjectId

from app.config import Settings
from app.main import create_app, runtime
from tools.bench import checkouts, matrix, profiling, wrk
from tools.bench.commands import parser
from tools.bench.contestants import SERVERS, Kind, Name, ServerLocation
from tools.bench.database import BenchDatabase, SettlementTimeout, ids_from_now
from tools.bench.figures import medians, percentile, ratio
from tools.bench.processes import Memory
from tools.bench.rounds import Round
from tools.bench.runner import Results
from tools.bench.seed import PAGE_USER, list_users, seed
from tools.bench.settlement import SettlementTime
from tools.bench.targets import AT_MOST, TargetResult, limits, ratios
from tools.cluster.processes import free_port

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[3]
PRINTED = """Running 1s test @ http://127.0.0.1:7000
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     8.90ms    3.93ms  72.31ms   92.30%
    Req/Sec     3.59k   216.50     3.83k    90.00%
  Latency Distribution
     50%    8.23ms
     75%    9.32ms
     90%   11.23ms
     99%    1.02s
  3568 requests in 1.00s, 1.27MB read
Requests/sec:   3567.12
Transfer/sec:      1.27MB
"""


# --- wrk ---


def test_the_output_of_wrk_is_parsed():
    found = wrk.parse(PRINTED)
    assert found == wrk.Result(requests=3568, rate=3567.12, p50_ms=8.23, p99_ms=1020.0, bad_statuses=0, socket_errors=0)
    assert found.clean


def test_wrong_statuses_and_broken_sockets_are_counted():
    errors = "  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 12\n"
    found = wrk.parse(PRINTED.replace("Requests/sec", f"{errors}Requests/sec"))
    assert (found.bad_statuses, found.socket_errors, found.clean) == (12, 7, False)


@pytest.mark.parametrize(
    ("shown", "ms"), [("850.00us", 0.85), ("2.50ms", 2.5), ("1.50s ", 1500.0), ("1.00m ", 60_000.0)]
)
def test_every_unit_becomes_milliseconds(shown, ms):
    assert wrk.parse(PRINTED.replace("8.23ms", shown)).p50_ms == pytest.approx(ms)


def test_a_run_without_an_answer_is_not_clean():
    nothing = PRINTED.replace("3568 requests", "0 requests").replace("8.23ms", "-nanus").replace("1.02s", "-nanus")
    assert not wrk.parse(nothing).clean


def test_other_output_is_refused():
    with pytest.raises(wrk.WrkOutputError):
        wrk.parse("unable to connect to 127.0.0.1:7000 Connection refused")


def test_without_wrk_one_sentence_says_what_to_install(tmp_path):
    code = "import sys\nfrom tools.bench import wrk\nfrom tools.bench.__main__ import main\nsys.exit(main([]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr.strip()) == (2, wrk.MISSING)
    assert "apt-get install wrk" in wrk.MISSING


# --- figures and targets ---


def test_medians_leave_failed_rounds_out():
    rounds = [Round(flow_rate=100), Round(flow_rate=300), Round(flow_rate=200), Round(flow_rate=9, error="502")]
    assert medians(rounds).flow_rate == 200
    assert medians([Round(error="502")]) is None


def test_a_ratio_needs_both_sides():
    assert ratio(300, 100) == 3.0
    assert ratio(None, 100) is ratio(300, None) is ratio(300, 0.0) is None


def test_percentiles_are_values_that_were_measured():
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_targets_are_met_missed_or_not_measured():
    assert TargetResult("rate", 3.0, 3.0).met is True
    assert TargetResult("rate", 3.0, 2.99).met is False
    assert TargetResult("memory", 200.0, 200.0, "MB", at_most=True).met is True
    assert TargetResult("memory", 200.0, 200.1, "MB", at_most=True).met is False
    assert TargetResult("rate", 3.0, None).met is None


def test_orderflow_is_judged_by_whole_flows_against_every_other():
    ours, theirs = (medians([Round(flow_rate=rate, rate=9999)]) for rate in (2000, 800))
    judged = {one.name: one for one in ratios({Name.ORDERFLOW: {Kind.POST: ours}, Name.FLASK: {Kind.POST: theirs}})}
    assert judged[f"{Kind.POST}, flask"].measured == 2.5
    assert judged[f"{Kind.POST}, fastapi"].met is None
    assert len(judged) == 10


def test_every_limit_is_judged():
    judged = limits({name: most for name, (most, _) in AT_MOST.items()})
    assert [one.met for one in judged] == [True] * 4


def test_a_failed_round_is_listed_by_name():
    results = Results({"orderflow": {Kind.ONE: [Round(), Round(error="3 requests, 1 not answered with 2xx")]}})
    assert results.errors == ["orderflow, GET one: 3 requests, 1 not answered with 2xx"]


def test_samples_are_counted_by_function():
    found = profiling.parse(
        "run (a.py:1);work (b.py:5) 3\nrun (a.py:2);work (b.py:9);work (b.py:9) 1\nrun (a.py:7) 2\n"
    )
    assert found.samples == 6
    assert found.own == {"work (b.py)": 4, "run (a.py)": 2}
    assert found.total == {"work (b.py)": 4, "run (a.py)": 6}


def test_two_checkouts_are_compared_by_their_medians():
    rounds = {
        name: {Kind.ONE: [Round(server_us=server, mongod_us=50, flow_rate=1, p50_ms=1) for server in servers]}
        for name, servers in ((checkouts.BEFORE, (400, 9000, 350)), (checkouts.AFTER, (300, 150, 100)))
    }
    memory = dict.fromkeys(rounds, Memory(rss_mb=2, pss_mb=1, processes=1))
    idle = {checkouts.BEFORE: [SettlementTime(30, 40, 9)] * 2, checkouts.AFTER: [SettlementTime(15, 40, 9)]}
    found = checkouts.table(checkouts.Comparison(Results(rounds, memory), idle))
    columns = [[*column.cells] for column in found.columns]
    cells = {title: row for title, *row in zip(*columns[1:], strict=True)}
    assert cells["server µs"] == ["400.0", "150.0", "0.38 ×"]
    assert cells["together µs"] == ["450.0", "200.0", "0.44 ×"]
    assert cells["p50 ms, best round"] == ["30.0", "15.0", "0.50 ×"]


def test_the_matrix_holds_every_choice_once():
    cells = matrix.cells()
    assert len(set(cells)) == len(cells) == 6 * len(matrix.parsers())


@pytest.mark.parametrize("line", [["--rounds", "0"], ["--only", "nobody"], ["profile", "--kind", "put"]])
def test_what_cannot_be_run_is_refused(line, capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(line)
    assert ended.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_the_bench_runs_on_the_versions_that_the_tests_run_on():
    pins = [
        dict(re.findall(r"(?m)^([\w.\-\[\]]+)==(\S+)", (ROOT / f"requirements-{each}.lock").read_text()))
        for each in ("bench", "test")
    ]
    assert {"fastapi", "matplotlib", "psutil", "py-spy", "pymongo"} <= pins[0].keys()
    assert all(pins[1].get(name, version) == version for name, version in pins[0].items())


# --- with a database ---


@pytest.fixture
def name(mongo, monkeypatch):
    """A database of the test's own, for servers that are started and for the harness."""
    made = f"test_{uuid4().hex}"
    monkeypatch.setenv("MONGODB_DATABASE", made)
    monkeypatch.setattr("tools.bench.database.DATABASE", made)
    yield made
    mongo.drop_database(made)


@pytest.fixture
def bench_database(mongo, name, tmp_path):
    """The bench's view of that database."""
    made = BenchDatabase(tmp_path)
    made._client = mongo
    return made


def test_waiting_ends_when_the_last_order_has_settled(bench_database):
    since, keys = ids_from_now(), [ObjectId() for _ in range(50)]
    bench_database.orders.insert_many([{"_id": key, "orderStatus": "Processing"} for key in keys])

    def settle():
        for key in reversed(keys):
            bench_database.orders.update_one({"_id": key}, {"$set": {"orderStatus": "Success"}})
            time.sleep(0.002)

    settling = threading.Thread(target=settle)
    began = time.monotonic()
    settling.start()
    settled = bench_database.wait_until_settled(since)
    settling.join()
    assert bench_database.orders.count_documents({"orderStatus": "Processing"}) == 0
    assert 0.1 < settled - began < 60


def test_orders_that_never_settle_are_reported(bench_database):
    bench_database.orders.insert_one({"_id": ObjectId(), "orderStatus": "Processing"})
    with pytest.raises(SettlementTimeout):
        bench_database.wait_until_settled(ObjectId("0" * 24), timeout=0.1)


def location_of(uri, folder):
    """Returns the location of a test's server."""
    return ServerLocation(folder, free_port(), uri)


@pytest.mark.parametrize("contestant", [Name.ORDERFLOW, Name.FLASK, Name.FASTAPI])
def test_a_contestant_answers_the_five_requests(
    contestant, mongodb_uri, name, tmp_path, eventually, new_order, monkeypatch
):
    # A busy machine may make a command slow.
    monkeypatch.setenv("REQUEST_DEADLINE", "10")
    location = location_of(mongodb_uri, tmp_path)
    with SERVERS[contestant](location) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        placed = http.post("/orders", json=new_order())
        assert placed.status_code == 201
        order_id = placed.json()["created"]["id"]
        status = f"/orders/status/{order_id}"
        eventually(lambda: http.get(status).json() == {"ok": True, "orderStatus": "Success"})
        order = http.get(f"/orders/one/{order_id}").json()["order"]
        assert (order["id"], order["userId"], order["paymentStatus"]) == (order_id, "user-7", "Captured")
        [listed] = http.get("/orders/user-7").json()["orders"]
        assert listed["id"] == order_id
        update = {"orderId": order_id, "orderStatus": "Confirm"}
        assert http.put("/orders", json=update).json() == {"ok": True, "message": "Update order success"}
        assert http.get(status).json()["orderStatus"] == "Confirm"
        assert http.get("/orders/one/nothing").status_code == 404
        assert http.post("/orders", json={"userId": "user-7"}).status_code == 422
        assert http.get("/orders/one/" + "0" * 24).status_code == 404


def test_the_ceiling_answers(tmp_path, new_order):
    with SERVERS[Name.HELLO](location_of("", tmp_path)) as server:
        assert httpx.get(f"{server.url}/hello", timeout=60).json()["ok"] is True
        assert httpx.post(f"{server.url}/hello", json=new_order(), timeout=60).json() == {"ok": True, "hello": "user-7"}
        assert server.memory().processes == 3


def test_seeded_orders_are_as_if_they_had_come_the_whole_way(bench_database, name, mongodb_uri, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.bench.seed.UNCHANGED_SECONDS", 1.0)
    monkeypatch.setenv("REQUEST_DEADLINE", "10")
    with SERVERS[Name.ORDERFLOW](location_of(mongodb_uri, tmp_path)) as server:
        seeded = seed(server.url, bench_database, 1500, sample=10)
        page = httpx.get(f"{server.url}/orders/{PAGE_USER}", timeout=60).json()["orders"]
        sampled = httpx.get(f"{server.url}/orders/one/{seeded.ids[0]}", timeout=60).json()["order"]
    assert (len(page), sampled["orderStatus"], len(seeded.ids)) == (100, "Success", 10)
    assert bench_database.orders.count_documents({"userId": list_users()[0]}) == 20
    assert [bench_database.database[each].count_documents({}) for each in ("orders", "payments", "ledger")] == [
        1501
    ] * 3
    app = create_app(Settings(mongodb_uri=mongodb_uri, database=name, log_format="json", log_level="warning"))
    result = app.test_cli_runner().invoke(args=["doctor"])
    runtime(app).stop()
    assert result.exit_code == 0, result.output


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_a_run_from_end_to_end(tmp_path, rabbit_installed):
    file = tmp_path / "bench.json"
    line = [
        "--only",
        "split",
        "--kinds",
        "post",
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--warmup",
        "0",
        "--idle",
        "5",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench", *line, "--folder", tmp_path, "--json", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["medians"][Name.SPLIT][Kind.POST]["flow_rate"] > 0
    assert found["under_load"][Name.SPLIT]["orders"] > 0
    assert found["idle"][Name.SPLIT]["orders"] == 5
    assert [one["size"] for one in found["baseline"]] == [1, 16, 64]
    assert "POST /orders, whole flow, hello" in done.stdout
    assert list(tmp_path.iterdir()) == [file]
