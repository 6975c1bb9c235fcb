"""A module's process dies at a database command of its own, and what another process was told is neither lost nor done twice.

Some of the deaths; `CRASH_MATRIX=full` plays all.
"""

import os

import pytest

from app.config import MODULES
from tests.chaos.crash.fleet import Death, FleetLaboratory

FULL = os.environ.get("CRASH_MATRIX") == "full"
pytestmark = [pytest.mark.extended, pytest.mark.long, pytest.mark.timeout(1200 if FULL else 300)]

# What each process writes while an order is paid for, and while it is cancelled later.
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
# Stored, but nobody else knows of it yet; or told, but not noted that it was.
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
    """Start a fleet; its databases are dropped in the end."""
    yield lambda **more: FleetLaboratory(tmp_path, mongo, mongodb_uri, bus_url, bus_prefix, **more)
    for module in MODULES:
        mongo.drop_database(f"{bus_prefix}_{module}")


def test_a_process_of_a_fleet_that_dies_at_a_write_of_its_own_loses_nothing_and_repeats_nothing(start):
    assert {*DECISIVE} <= {*ALL}
    with start() as fleet:
        found = {death: fleet.troubles(death) for death in (ALL if FULL else DECISIVE)}
    assert {death: wrong for death, wrong in found.items() if wrong} == {}


def test_between_processes_the_matrix_finds_that_an_event_is_hinted_only(start):
    with start(sabotage="no_lease_on_the_outbox") as fleet:
        found = fleet.troubles(Death("orders-1", "after orders.insert #1"))
    assert any(trouble.startswith(("settled in time: ", "operator: ")) for trouble in found), found
