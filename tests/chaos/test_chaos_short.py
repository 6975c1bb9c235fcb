"""What `make chaos` does, for a quarter of a minute."""

import pytest

from chaos.faults import Kind
from chaos.harness import Plan, run

pytestmark = pytest.mark.long


def test_killing_workers_and_the_database_loses_no_order_and_charges_none_twice(tmp_path):
    verdict = run(Plan(seed=20, duration=14.0, rate=20.0, gap=(1.5, 3.0)), tmp_path)

    assert verdict.faults.get(Kind.KILL_WORKER, 0) >= 1
    assert verdict.faults.get(Kind.KILL_DATABASE, 0) >= 1
    assert verdict.acknowledged >= 10
    assert verdict.settled == verdict.acknowledged
    assert verdict.clean, verdict.as_dict()
