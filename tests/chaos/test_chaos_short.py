"""A chaos run of a quarter of a minute, as `make chaos` does it."""

import pytest

from tools.chaos.faults import FaultKind
from tools.chaos.plan import Plan
from tools.chaos.server_run import run

# A run that fails waits long for work that does not settle.
pytestmark = [pytest.mark.extended, pytest.mark.long, pytest.mark.timeout(300)]

SHORT = (
    FaultKind.KILL_WORKER,
    FaultKind.KILL_LOG_READER,
    FaultKind.KILL_DATABASE,
    FaultKind.END_THREAD,
    FaultKind.TIME_JUMP,
    FaultKind.KILL_SUPERVISOR,
)


def test_killing_all_that_can_be_killed_and_letting_days_pass_loses_no_order_and_charges_none_twice(tmp_path):
    plan = Plan(seed=20, duration=12.0, rate=20.0, gap=(1.0, 2.0), kinds=SHORT, first=len(SHORT))
    verdict = run(plan, tmp_path)

    assert verdict.faults.keys() >= {*SHORT}, verdict.as_dict()
    assert verdict.acknowledged >= 10
    assert verdict.settled + verdict.parked == verdict.acknowledged <= verdict.judged
    assert verdict.clean, verdict.as_dict()
