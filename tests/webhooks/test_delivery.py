"""When a delivery is tried again, and what an answer means."""

from random import Random

import pytest

from app.webhooks.delivery import RETRY_SECONDS, AttemptResult, RetrySchedule

SCHEDULE = RetrySchedule()


def test_the_pauses_are_those_of_the_schedule_give_or_take_a_fifth():
    random = Random(7)
    for tries, seconds in enumerate(RETRY_SECONDS, start=1):
        pauses = [SCHEDULE.pause(tries, 0, random) for _ in range(100)]
        assert all(0.8 * seconds <= pause <= 1.2 * seconds for pause in pauses)
        assert len(set(pauses)) == 100
    assert SCHEDULE.pause(len(RETRY_SECONDS) + 1, 0, random) is None
    assert 70 < sum(RETRY_SECONDS) / 3600 < 80


@pytest.mark.parametrize(("asked", "least"), [(60, 60), (0, 4), (10**9, 86_400)])
def test_a_receiver_may_ask_for_a_longer_pause_up_to_a_day(asked, least):
    pause = SCHEDULE.pause(1, asked, Random(1))
    assert least <= pause <= max(least, 6)


def test_a_receiver_cannot_shorten_the_pause():
    assert SCHEDULE.pause(5, 1, Random(1)) > 10_000


@pytest.mark.parametrize(
    ("status", "succeeded", "gone", "overloaded"),
    [
        (200, True, False, False),
        (204, True, False, False),
        (299, True, False, False),
        (301, False, False, False),
        (400, False, False, False),
        (410, False, True, False),
        (429, False, False, True),
        (500, False, False, True),
        (504, False, False, True),
        (0, False, False, True),
    ],
)
def test_what_an_answer_means(status, succeeded, gone, overloaded):
    result = AttemptResult(status=status)
    assert (result.succeeded, result.gone, result.overloaded) == (succeeded, gone, overloaded)
