"""A process of a cluster dies at a database command, and no message to another process is lost or handled twice.

It plays some of the deaths; `CRASH_MATRIX=full` plays all.
"""

import os

import pytest

from app.config import MODULES
from tests.chaos.crash.cluster import CrashCluster, Death

FULL = os.environ.get("CRASH_MATRIX") == "full"
pytestmark = [pytest.mark.extended, pytest.mark.long, pytest.mark.timeout(1200 if FULL else 300)]

# The commands with which each process writes while an order is paid for, and while it is cancelled later.
PAID = {
    "orders-1": ("orders.insert #1", "orders.update #1"),
    "payments-1": ("payments.insert #1", "ledger.insert #1", "payments.update #1", "payments.update #2"),
}
CANCELLED = {
    "orders-1": ("orders.findAndModify #1", "orders.update #1"),
    "payments-1": ("payments.update #1", "ledger.update #1", "payments.update #3"),
}
ALL = [
    Death(process, f"{when} {step}", cancelled)
    for cancelled, steps in ((False, PAID), (True, CANCELLED))
    for process, names in steps.items()
    for step in names
    for when in ("before", "after")
]
# The state is stored but no other process knows of it; or an event is delivered but not acknowledged.
DECISIVE = [
    Death("orders-1", "after orders.insert #1"),
    Death("orders-1", "before orders.update #1"),
    Death("orders-1", "after orders.update #1"),
    Death("payments-1", "after payments.insert #1"),
    Death("payments-1", "after ledger.insert #1"),
    Death("payments-1", "after payments.update #1"),
    Death("orders-1", "after orders.findAndModify #1", cancelled=True),
    Death("payments-1", "after ledger.update #1", cancelled=True),
]


@pytest.fixture
def start(mongodb_uri, bus_url, bus_prefix, mongo, tmp_path):
    """Starts a cluster; its databases are dropped at the end."""
    yield lambda **more: CrashCluster(tmp_path, mongo, mongodb_uri, bus_url, bus_prefix, **more)
    for module in MODULES:
        mongo.drop_database(f"{bus_prefix}_{module}")


def test_a_process_of_a_cluster_that_dies_at_a_write_loses_nothing_and_repeats_nothing(start):
    assert {*DECISIVE} <= {*ALL}
    with start() as cluster:
        found = {death: cluster.violations(death) for death in (ALL if FULL else DECISIVE)}
    assert {death: wrong for death, wrong in found.items() if wrong} == {}


def test_between_processes_the_matrix_finds_that_an_event_is_hinted_only(start):
    with start(variant="no_lease_of_events") as cluster:
        found = cluster.violations(Death("orders-1", "after orders.insert #1"))
    assert any(violation.startswith(("settled in time: ", "operator: ")) for violation in found), found
