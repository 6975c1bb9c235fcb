"""The primary steps down, and the primary dies, while clients place orders."""

import time

import pytest

from tests.chaos.replica_set import ReplicaSet
from tools.chaos.clients import LoadGenerator
from tools.chaos.verdict import examine, wait_until_settled
from tools.cluster.servers import Server

pytestmark = [pytest.mark.extended, pytest.mark.long]

ENVIRONMENT = {
    "MONGODB_DATABASE": "orderflow",
    "PAYMENT_TIMEOUT": "2",
    "BACKGROUND_DEADLINE": "2",
    "PAYMENT_LEASE": "6.5",
    "RELAY_LEASE": "3",
    "PAYMENT_BACKOFF": "0.2",
    "PAYMENT_BACKOFF_MAX": "1",
    "BREAKER_RECOVERY": "1",
    "SIMULATED_LATENCY_MS": "50",
}
CLEAR = {"200", "201", "409"}
# From the election until every process has heard of it, and until a request that waited has been answered.
NOTICE_SECONDS = 5.0
RECOVERY_SECONDS = 30.0


@pytest.fixture
def replica_set(tmp_path):
    with ReplicaSet(tmp_path / "members") as members:
        yield members


def without_primary(replica_set: ReplicaSet, end_primary) -> tuple[float, float]:
    """End the primary's rule; from when until when there was none."""
    old = replica_set.primary()
    began = time.monotonic()
    end_primary(old)
    replica_set.primary(other_than=old)
    return began, time.monotonic()


def test_a_change_of_primary_loses_no_order_and_is_an_error_only_while_it_lasts(replica_set, tmp_path, eventually):
    with Server(tmp_path, {**ENVIRONMENT, "MONGODB_URI": replica_set.uri}) as server:
        with LoadGenerator(server.url, clients=6, rate=20, timeout=30) as load:
            time.sleep(1.5)
            stepped_down = without_primary(replica_set, replica_set.step_down)
            time.sleep(2.5)
            eventually(lambda: load.record.recovery(stepped_down[1]))
            replica_set.wait_for_secondaries()
            killed = without_primary(replica_set, replica_set.kill)
            time.sleep(4)
            eventually(lambda: load.record.recovery(killed[1]))
        wait_until_settled(replica_set.uri, "orderflow", 60)
        report = examine(replica_set.uri, "orderflow", load.record)

    assert not report.findings + report.attention
    assert load.gave_up == 0
    assert len(load.record.acknowledged) > 10
    unclear = [sent for sent in load.record.sent if sent.answer not in CLEAR]
    assert {sent.answer for sent in unclear} <= {"503"}
    for sent in unclear:
        assert any(
            sent.ended >= since and sent.began <= until + NOTICE_SECONDS for since, until in (stepped_down, killed)
        ), sent
    for _, until in (stepped_down, killed):
        assert load.record.recovery(until) < RECOVERY_SECONDS
