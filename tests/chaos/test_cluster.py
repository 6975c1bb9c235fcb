"""Processes of a cluster are killed, disconnected, paused and replaced, and no order is lost."""

import json
import os
import subprocess
import sys
from itertools import chain, combinations
from pathlib import Path

import pytest

from app.config import MODULES
from tests.chaos.disconnected_hosts import rounds
from tools.chaos.clients import LoadGenerator
from tools.chaos.cluster_run import TWO_EACH, WORKER, inject_and_judge
from tools.chaos.faults import FaultKind
from tools.chaos.network import ProxyNetwork
from tools.chaos.plan import ENVIRONMENT, Plan
from tools.chaos.verdict import examine, wait_until_settled
from tools.chaos.webhook_receivers import LIVING, Behaviour, WebhookReceivers
from tools.cluster import hosts
from tools.cluster.cluster import Cluster

pytestmark = [pytest.mark.extended, pytest.mark.long]

ROOT = Path(__file__).parents[2]
SOON = 40.0


@pytest.fixture
def dropped_databases(settings, mongo):
    """Drops the databases of a cluster at the end."""
    yield
    for module in MODULES:
        mongo.drop_database(f"{settings.database}_{module}")


SHORT = (
    FaultKind.KILL_ORDERS,
    FaultKind.KILL_BROKER,
    FaultKind.KILL_PAYMENTS,
    FaultKind.CUT_ORDERS_DATABASE,
    FaultKind.KILL_WEBHOOKS,
    FaultKind.KILL_GATEWAY,
    FaultKind.CUT_PAYMENTS_BROKER,
)


def test_killing_processes_and_the_broker_loses_no_order_and_charges_none_twice(
    rabbit_installed, mongodb_uri, settings, dropped_databases, tmp_path
):
    replicas = {"gateway": 1, "orders": 2, "payments": 2, "webhooks": 2}
    with ProxyNetwork() as network, WebhookReceivers() as receivers:
        made = Cluster(
            tmp_path,
            {**ENVIRONMENT, "ALLOW_UNSAFE": "webhook_http"},
            replicas=replicas,
            extra_environ=network.environ,
            mongodb_uri=mongodb_uri,
            prefix=settings.database,
            worker=WORKER,
        )
        with made as cluster:
            plan = Plan(seed=5, duration=9.0, rate=20.0, gap=(0.4, 1.2))
            verdict = inject_and_judge(cluster, network, receivers, plan, SHORT, len(SHORT))

    assert verdict.faults.keys() >= {*SHORT}, verdict.as_dict()
    assert verdict.acknowledged >= 3
    assert verdict.duplicates > 0
    assert verdict.settled == verdict.acknowledged <= verdict.judged
    assert verdict.webhooks.keys() >= {*LIVING, Behaviour.FAILING, Behaviour.HANGING}, verdict.as_dict()
    assert all(verdict.webhooks[living] >= 2 * verdict.acknowledged for living in LIVING), verdict.as_dict()
    # A run this short may have no refund while a gateway runs.
    assert verdict.kept_promises, verdict.as_dict()


@pytest.fixture
def cluster(bus_url, mongodb_uri, settings, dropped_databases, tmp_path):
    """Two processes of each module, on the session's database and broker."""
    made = Cluster(
        tmp_path,
        # A busy machine may make a command slow.
        {"SIMULATED_LATENCY_MS": "100", "REQUEST_DEADLINE": "10"},
        replicas=TWO_EACH,
        mongodb_uri=mongodb_uri,
        bus_url=bus_url,
        prefix=settings.database,
    )
    with made:
        yield made
        made.kill()


def test_a_rolling_restart_of_each_module_under_load_answers_every_request(cluster, eventually):
    names = cluster.databases()
    with LoadGenerator(cluster.any_url, clients=6, rate=20, keep_alive=False, timeout=30) as load:
        eventually(lambda: load.record.acknowledged)
        cluster.rolling_restart(*MODULES)
    wait_until_settled(cluster.mongodb_uri, names["orders"], SOON, payments=names["payments"])
    report = examine(cluster.mongodb_uri, names["orders"], load.record, payments=names["payments"])

    assert {sent.answer for sent in load.record.sent} <= {"200", "201", "409"}, load.record.answers
    assert len(load.record.acknowledged) > 12
    assert not report.findings + report.attention


@pytest.mark.parametrize("count", [5, 6])
def test_every_two_hosts_are_cut_off_from_each_other_once(count):
    names = [f"host-{number}" for number in range(count)]
    cut = [frozenset(pair) for pairs in rounds(names) for pair in pairs]
    assert sorted(map(sorted, cut)) == sorted(map(list, combinations(names, 2)))
    assert all(len({*chain(*pairs)}) == 2 * len(pairs) for pairs in rounds(names))


@pytest.mark.timeout(320)
def test_disconnected_hosts_lose_no_order_and_charge_none_twice(rabbit_installed, tmp_path):
    if not (hosts.namespaces_permitted() or os.environ.get("CI")):
        pytest.skip(hosts.NOT_PERMITTED)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.disconnected_hosts", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["clean"], verdict
    assert verdict["settled"] == verdict["acknowledged"] >= 10
    assert all(verdict["webhooks"][living] >= 2 * verdict["acknowledged"] for living in LIVING), verdict
    assert verdict["answers"].keys() & {"POST order: 503", "POST order: ConnectError", "POST order: ConnectTimeout"}
