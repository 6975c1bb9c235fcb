"""At whichever point a process dies, the next one settles every order, with one effect at the provider.

The data after a death change only with each write and each answer to a client; reads, provider calls and memory change
nothing, nor does the key of notifications, which is made once. Of the deaths that leave the same data one is played.
`CRASH_MATRIX=full` plays all, with delivery from the local queue and by sweeps, and at every point also stops the process
past its leases and continues it.
"""

import os

import pytest

from tests.chaos.crash.cells import KILL, STOP, Cell
from tests.chaos.crash.runner import CrashRunner
from tests.chaos.crash.scenarios import SCENARIOS

FULL = os.environ.get("CRASH_MATRIX") == "full"
# A test runs many cells, and the machine may be busy.
pytestmark = [pytest.mark.extended, pytest.mark.timeout(600)]

READS = ("find", "aggregate")
IN_MEMORY = ("acknowledge_later", "mark_acknowledged", "acknowledge_all")
QUEUED, SWEPT = "local queue", "swept"
# A call fails, and the scenario continues when it sees that in the database.
UNANSWERED = ("pay, the answer lost", "cancel, the charge unheard")
SWEPT_TOO = ("pay", "cancel in flight", "refund")
CONTINUED = (
    "pay",
    "pay by sweeps",
    "cancel in flight",
    "cancel after success",
    "cancel, then the event of the charge",
    "refund",
)


def deliveries() -> list[tuple[str, str]]:
    """Returns each scenario with each way of delivering its events."""
    both = [name for name, scenario in SCENARIOS.items() if not (scenario.threads or scenario.fresh)]
    swept = both if FULL else SWEPT_TOO
    return [*((name, QUEUED) for name in SCENARIOS), *((name, SWEPT) for name in swept)]


@pytest.mark.parametrize(("scenario", "delivery"), deliveries())
def test_at_whichever_point_a_process_dies_the_next_one_settles_the_order(
    crash_runner: CrashRunner, scenario: str, delivery: str, record_property
):
    points = crash_runner.points(scenario, swept=delivery == SWEPT)
    record_property("points", points)
    expected = SCENARIOS[scenario]
    assert len(points) >= expected.least, points
    assert len(set(points)) == len(points)
    for step in expected.through:
        name = step if "#" in step else f"{step} #1"
        assert {f"before {name}", f"after {name}"} <= set(points), name

    played = points if FULL else [point for point in points if _leaves_new_data(point) or point == points[-1]]
    cells = [Cell(scenario=scenario, point=point, death=KILL, swept=delivery == SWEPT) for point in played]
    assert crash_runner.violations(cells) == []


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if not SCENARIOS[name].fresh] if FULL else CONTINUED)
def test_a_process_that_hangs_past_its_leases_and_comes_back_changes_nothing(crash_runner: CrashRunner, scenario: str):
    points = crash_runner.points(scenario)
    decisive = points if FULL else [point for point in points if _has_unshared_knowledge(point)]

    assert crash_runner.violations([Cell(scenario=scenario, point=point, death=STOP) for point in decisive]) == []


@pytest.mark.parametrize("late", [0.01, 0.015])
@pytest.mark.parametrize(
    "scenario", [name for name in SCENARIOS if not SCENARIOS[name].threads] if FULL else UNANSWERED
)
def test_a_scenario_has_the_same_points_however_late_replies_come(
    crash_runner: CrashRunner, scenario: str, late: float
):
    assert sorted(crash_runner.points(scenario, late=late)) == sorted(crash_runner.points(scenario))


def _leaves_new_data(point: str) -> bool:
    """Whether a death at this point leaves data that no death at a later point leaves."""
    when, what, _ = point.split()
    step = what.rpartition(".")[2]
    if when == "after":
        return what in ("orders.insert", "orders.findAndModify")
    return not (step in READS or step in IN_MEMORY or what.startswith(("provider.", "secrets.")))


def _has_unshared_knowledge(point: str) -> bool:
    """Whether the process has, or is about to have, knowledge that no other process has."""
    when, what, _ = point.split()
    if when == "after":
        return what in ("provider.charge", "provider.refund", "orders.acknowledge_later")
    return what in ("provider.charge", "provider.refund", "payments.update")
