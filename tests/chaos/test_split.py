"""A module a process, a broker between: killed, parted, paused, replaced, and nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import MODULES
from tools.chaos.clients import Load
from tools.chaos.faults import Kind
from tools.chaos.fleet_run import TWO_EACH, attack
from tools.chaos.harness import ENVIRONMENT, Plan
from tools.chaos.network import Proxies
from tools.chaos.verdict import examine, wait_until_settled
from tools.cluster import hosts
from tools.cluster.fleet import Fleet

pytestmark = [pytest.mark.extended, pytest.mark.long]

ROOT = Path(__file__).parents[2]
SOON = 40.0


@pytest.fixture
def forgotten(settings, mongo):
    """The databases of a fleet are dropped in the end."""
    yield
    for module in MODULES:
        mongo.drop_database(f"{settings.database}_{module}")


SHORT = (
    Kind.KILL_ORDERS,
    Kind.KILL_BROKER,
    Kind.KILL_PAYMENTS,
    Kind.CUT_ORDERS_DATABASE,
    Kind.KILL_GATEWAY,
    Kind.CUT_PAYMENTS_BROKER,
)


def test_killing_processes_and_the_broker_loses_no_order_and_charges_none_twice(
    rabbit_installed, mongodb_uri, settings, forgotten, tmp_path
):
    replicas = {"gateway": 1, "orders": 2, "payments": 2}
    with Proxies() as network:
        made = Fleet(
            tmp_path,
            ENVIRONMENT,
            replicas=replicas,
            each=network.each,
            mongodb_uri=mongodb_uri,
            prefix=settings.database,
        )
        with made as fleet:
            verdict = attack(fleet, network, Plan(seed=5, duration=9.0, rate=20.0, gap=(0.4, 1.2)), SHORT, len(SHORT))

    assert verdict.faults.keys() >= {Kind.KILL_ORDERS, Kind.KILL_BROKER, Kind.KILL_PAYMENTS}
    assert verdict.acknowledged >= 10
    assert verdict.copies > 0
    assert verdict.settled == verdict.acknowledged
    # So short a run may find no time for a refund while a gateway listens.
    assert verdict.sound, verdict.as_dict()


@pytest.fixture
def fleet(bus_url, mongodb_uri, settings, forgotten, tmp_path):
    """Two processes of each module, on the session's database and broker."""
    made = Fleet(
        tmp_path,
        {"SIMULATED_LATENCY_MS": "100"},
        replicas=TWO_EACH,
        mongodb_uri=mongodb_uri,
        bus_url=bus_url,
        prefix=settings.database,
    )
    with made:
        yield made
        made.kill()


def test_a_rolling_restart_of_each_module_under_load_answers_every_request(fleet, eventually):
    names = fleet.databases()
    with Load(fleet.any_url, clients=6, rate=20, keep_alive=False, timeout=30) as load:
        eventually(lambda: load.book.acknowledged)
        fleet.roll(*MODULES)
    wait_until_settled(fleet.mongodb_uri, names["orders"], SOON, payments=names["payments"])
    report = examine(fleet.mongodb_uri, names["orders"], load.book, payments=names["payments"])

    assert {sent.answer for sent in load.book.sent} <= {"200", "201", "409"}, load.book.answers
    assert len(load.book.acknowledged) > 12
    assert not report.findings + report.attention


def test_hosts_parted_from_each_other_lose_no_order_and_charge_none_twice(rabbit_installed, tmp_path):
    if not (hosts.permitted() or os.environ.get("CI")):
        pytest.skip(hosts.NOT_PERMITTED)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.parted", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["clean"], verdict
    assert verdict["settled"] == verdict["acknowledged"] >= 10
    assert verdict["answers"].keys() & {"POST order: 503", "POST order: ConnectError", "POST order: ConnectTimeout"}
