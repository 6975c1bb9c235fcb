"""What `make chaos` does, for a quarter of a minute."""

import pytest

from tools.chaos.faults import Kind
from tools.chaos.harness import Plan, run

# A run that fails waits long for what may still come.
pytestmark = [pytest.mark.extended, pytest.mark.long, pytest.mark.timeout(300)]

SHORT = (
    Kind.KILL_WORKER,
    Kind.KILL_LOG_READER,
    Kind.KILL_DATABASE,
    Kind.END_THREAD,
    Kind.TIME_JUMP,
    Kind.KILL_SUPERVISOR,
)


def test_killing_all_that_can_be_killed_and_letting_days_pass_loses_no_order_and_charges_none_twice(tmp_path):
    plan = Plan(seed=20, duration=12.0, rate=20.0, gap=(1.0, 2.0), kinds=SHORT, first=len(SHORT))
    verdict = run(plan, tmp_path)

    assert verdict.faults.keys() >= {*SHORT}, verdict.as_dict()
    assert verdict.acknowledged >= 10
    assert verdict.settled + verdict.parked == verdict.acknowledged
    assert verdict.clean, verdict.as_dict()
