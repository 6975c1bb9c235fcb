"""Negative controls: the crash matrix finds a violation in each mutation of the application."""

import pytest

from tests.chaos.crash.cells import KILL, STOP, Cell
from tests.chaos.crash.runner import CrashRunner

pytestmark = pytest.mark.extended

STUCK, CHARGED_TWICE, WRONG_BOOKS, LOST = (
    "settled in time: ",
    "single charge: ",
    "ledger balance: ",
    "acknowledged order: ",
)
NOT_TOLD = "never told "
FOUND_BY = {
    "event_in_a_second_write": ("create", KILL, STUCK),
    "attempt_in_the_key": ("pay", KILL, CHARGED_TWICE),
    "no_fence_and_no_version": ("pay", STOP, "payment status: "),
    "intent_after_the_call": ("pay", KILL, STUCK),
    "intent_not_recorded": ("cancel in flight", KILL, WRONG_BOOKS),
    "acknowledged_before_delivery": ("pay", KILL, STUCK),
    "no_lease_of_events": ("create", KILL, STUCK),
    "answer_before_the_write": ("pay", KILL, LOST),
    "payment_event_acknowledges_all": ("cancel, then the event of the charge", KILL, STUCK),
    "charged_before_its_id_is_stored": ("open and pay", KILL, CHARGED_TWICE),
    "payload_of_a_notification_decides": ("told what is not so", KILL, WRONG_BOOKS),
    "worker_and_notification_decide": ("told before the answer", KILL, "the auditor: money: "),
    "one_delivery_acknowledges_all": ("cancel, then an acknowledgement", KILL, STUCK),
    "acknowledged_before_delivery, telling": ("tell", KILL, NOT_TOLD),
    "random_id_of_a_delivery": ("tell", KILL, "recorded once: "),
    "result_before_the_attempt": ("tell", KILL, NOT_TOLD),
    "held_for_good": ("tell when it is enabled again", KILL, NOT_TOLD),
}
# What the auditor, which reads as a client does, says of some of them.
AUDITED = {
    "event_in_a_second_write": "the auditor: stuck: ",
    "attempt_in_the_key": "the auditor: charged twice: ",
    "intent_not_recorded": "the auditor: money: ",
    "acknowledged_before_delivery": "the auditor: stuck: ",
    "answer_before_the_write": "the auditor: lost: ",
    "one_delivery_acknowledges_all": "the auditor: stuck: ",
}


ROUNDS = 4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("variant", FOUND_BY)
def test_the_matrix_finds_a_violation_in_each_mutation(crash_runner: CrashRunner, variant: str):
    scenario, death, expected = FOUND_BY[variant]
    variant = variant.partition(",")[0]
    points = crash_runner.points(scenario, variant)
    assert points

    # Where two threads must meet, not every run shows it.
    cells = ROUNDS * [Cell(scenario=scenario, point=point, death=death, variant=variant) for point in points]
    found: list[str] = []
    missing = {expected, AUDITED.get(variant, expected)}
    # One violation of each kind is enough.
    while cells and missing:
        found += crash_runner.violations(cells[: CrashRunner.CONCURRENT_CELLS])
        del cells[: CrashRunner.CONCURRENT_CELLS]
        missing = {one for one in missing if not any(one in violation for violation in found)}

    assert not missing, found
