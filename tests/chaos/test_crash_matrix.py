"""Whatever step a process dies at, the next one brings every order to its end, with one effect at the provider.

A process that dies right after a step leaves what one leaves that dies right before the next, unless it has answered a
client in between: of those pairs one is played. `CRASH_MATRIX=full` plays all, and has the processes hang past their
leases as well, at every point, and come back.
"""

import os

import pytest

from tests.chaos.crash import KILL, SCENARIOS, STOP, Cell, Laboratory

FULL = os.environ.get("CRASH_MATRIX") == "full"
# Many cells a test, and the machine may be busy.
pytestmark = pytest.mark.timeout(300)

BACK_FROM_THE_DEAD = ("pay", "pay by sweeps", "cancel in flight", "cancel after success", "refund")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whatever_step_a_process_dies_at_the_next_one_settles_the_order(
    laboratory: Laboratory, scenario: str, record_property
):
    points = laboratory.points(scenario)
    record_property("points", points)
    expected = SCENARIOS[scenario]
    assert len(points) >= expected.least, points
    assert len(set(points)) == len(points)
    for step in expected.through:
        assert {f"before {step} #1", f"after {step} #1"} <= set(points), step

    played = points if FULL else [point for point in points if _its_own(point) or point == points[-1]]
    assert laboratory.troubles([Cell(scenario=scenario, point=point, death=KILL) for point in played]) == []


@pytest.mark.parametrize(
    "scenario", [name for name in SCENARIOS if not SCENARIOS[name].fresh] if FULL else BACK_FROM_THE_DEAD
)
def test_a_process_that_hangs_past_its_leases_and_comes_back_changes_nothing(laboratory: Laboratory, scenario: str):
    points = laboratory.points(scenario)
    decisive = points if FULL else [point for point in points if _about_money(point)]

    assert laboratory.troubles([Cell(scenario=scenario, point=point, death=STOP) for point in decisive]) == []


def _its_own(point: str) -> bool:
    """Whether what a death there leaves behind is left by no death at the point after it."""
    when, what, _ = point.split()
    return when == "before" or what in ("orders.insert", "orders.findAndModify")


def _about_money(point: str) -> bool:
    """Whether the process knows something there, or is about to, that others do not."""
    when, what, _ = point.split()
    return what in ("provider.charge", "provider.refund") or (when == "before" and what == "payments.update")
