"""Whatever step a process dies at, the next one brings every order to its end, with one effect at the provider.

What a death leaves behind changes with each write, and with each answer that a client gets; reads, calls of the
provider and what a process merely keeps in mind leave nothing. Of the deaths that leave the same behind one is played.
`CRASH_MATRIX=full` plays all, with events handed over at a hint and by sweeps, and has the processes hang past their
leases as well, at every point, and come back.
"""

import os

import pytest

from tests.chaos.crash.cells import KILL, STOP, Cell
from tests.chaos.crash.laboratory import Laboratory
from tests.chaos.crash.scenarios import SCENARIOS

FULL = os.environ.get("CRASH_MATRIX") == "full"
# Many cells a test, and the machine may be busy.
pytestmark = [pytest.mark.extended, pytest.mark.timeout(300)]

READS = ("find", "aggregate")
KEPT_IN_MIND = ("acknowledge_later", "mark_acknowledged", "acknowledge_all")
HINTED, SWEPT = "hinted", "swept"
# A call comes to nothing, and the scenario goes on when it sees that in the database.
UNANSWERED = ("pay, the answer lost", "cancel, the charge unheard")
SWEPT_TOO = ("pay", "cancel in flight", "refund")
BACK_FROM_THE_DEAD = (
    "pay",
    "pay by sweeps",
    "cancel in flight",
    "cancel after success",
    "cancel, then the news of the charge",
    "refund",
)


def ways() -> list[tuple[str, str]]:
    """Each scenario with the ways on which its events are handed over."""
    both = [name for name, scenario in SCENARIOS.items() if not (scenario.threads or scenario.fresh)]
    swept = both if FULL else SWEPT_TOO
    return [*((name, HINTED) for name in SCENARIOS), *((name, SWEPT) for name in swept)]


@pytest.mark.parametrize(("scenario", "way"), ways())
def test_whatever_step_a_process_dies_at_the_next_one_settles_the_order(
    laboratory: Laboratory, scenario: str, way: str, record_property
):
    points = laboratory.points(scenario, swept=way == SWEPT)
    record_property("points", points)
    expected = SCENARIOS[scenario]
    assert len(points) >= expected.least, points
    assert len(set(points)) == len(points)
    for step in expected.through:
        name = step if "#" in step else f"{step} #1"
        assert {f"before {name}", f"after {name}"} <= set(points), name

    played = points if FULL else [point for point in points if _its_own(point) or point == points[-1]]
    cells = [Cell(scenario=scenario, point=point, death=KILL, swept=way == SWEPT) for point in played]
    assert laboratory.troubles(cells) == []


@pytest.mark.parametrize(
    "scenario", [name for name in SCENARIOS if not SCENARIOS[name].fresh] if FULL else BACK_FROM_THE_DEAD
)
def test_a_process_that_hangs_past_its_leases_and_comes_back_changes_nothing(laboratory: Laboratory, scenario: str):
    points = laboratory.points(scenario)
    decisive = points if FULL else [point for point in points if _known_here_alone(point)]

    assert laboratory.troubles([Cell(scenario=scenario, point=point, death=STOP) for point in decisive]) == []


@pytest.mark.parametrize("late", [0.01, 0.015])
@pytest.mark.parametrize(
    "scenario", [name for name in SCENARIOS if not SCENARIOS[name].threads] if FULL else UNANSWERED
)
def test_a_scenario_has_the_same_points_however_late_replies_come(laboratory: Laboratory, scenario: str, late: float):
    assert sorted(laboratory.points(scenario, late=late)) == sorted(laboratory.points(scenario))


def _its_own(point: str) -> bool:
    """Whether what a death there leaves behind is left by no death at a later point."""
    when, what, _ = point.split()
    step = what.rpartition(".")[2]
    if when == "after":
        return what in ("orders.insert", "orders.findAndModify")
    return not (step in READS or step in KEPT_IN_MIND or what.startswith("provider."))


def _known_here_alone(point: str) -> bool:
    """Whether the process knows something there, or is about to, that others do not."""
    when, what, _ = point.split()
    if when == "after":
        return what in ("provider.charge", "provider.refund", "orders.acknowledge_later")
    return what in ("provider.charge", "provider.refund", "payments.update")
