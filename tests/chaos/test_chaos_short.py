"""A chaos run of half a minute, as `make chaos` does it."""

import pytest

from tools.chaos.faults import FaultKind
from tools.chaos.plan import Plan
from tools.chaos.server_run import run
from tools.chaos.webhook_receivers import ALL, LIVING, Behaviour

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
# Entries of timelines that only payments have that wait or change later.
LATER = {"PaymentDelayed", "PaymentActionRequired", "PaymentAuthorized", "PaymentDisputed"}


def test_killing_all_that_can_be_killed_and_letting_days_pass_loses_no_order_and_charges_none_twice(tmp_path):
    # The pauses are long enough for a busy machine to pay for orders between two faults, so that some can be refunded.
    plan = Plan(seed=20, duration=24.0, rate=20.0, gap=(3.0, 4.0), kinds=SHORT, first=len(SHORT))
    verdict = run(plan, tmp_path)

    assert verdict.faults.keys() >= {*SHORT}, verdict.as_dict()
    assert verdict.acknowledged >= 10
    assert verdict.settled + verdict.parked == verdict.acknowledged <= verdict.judged
    assert verdict.facts.keys() >= LATER, verdict.as_dict()
    assert verdict.notifications, verdict.as_dict()
    assert verdict.webhooks.keys() == {*ALL} - {Behaviour.CLOSING}, verdict.as_dict()
    assert all(verdict.webhooks[living] >= 2 * verdict.acknowledged for living in LIVING)
    assert verdict.clean, verdict.as_dict()
