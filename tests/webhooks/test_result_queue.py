"""Results share commands, and nobody waits for them."""

import pytest

from app.contracts.base import Unavailable
from app.webhooks.result_queue import LIMIT, ResultQueue
from tests.stopped_clock import StoppedClock

SECONDS = 5.0


@pytest.fixture
def clock():
    clock = StoppedClock()
    clock.sleep = lambda _seconds: None
    return clock


def test_one_records_also_what_comes_meanwhile(clock):
    recorded = []

    def record(batch: list[int]) -> None:
        recorded.append(batch)
        if batch == [1]:
            assert not queue.put(2)
            assert not queue.put(3)

    queue = ResultQueue(record, SECONDS, clock)
    assert queue.put(1)
    queue.record_all()
    assert recorded == [[1], [2, 3]]
    assert queue.put(4)


def test_a_command_has_so_many_at_most(clock):
    sizes = []
    queue = ResultQueue(lambda batch: sizes.append(len(batch)), SECONDS, clock)
    for number in range(LIMIT + 1):
        queue.put(number)
    queue.record_all()
    assert sizes == [LIMIT, 1]


def test_while_many_come_each_command_waits_for_more_and_a_single_one_waits_for_none(clock):
    happened = []
    clock.sleep = lambda seconds: happened.append(f"a pause of {seconds * 1000:.0f} ms")
    queue = ResultQueue(lambda batch: happened.append(len(batch)), SECONDS, clock)
    for count in (1, 1, 20, LIMIT, 1, 1):
        for number in range(count):
            queue.put(number)
        queue.record_all()
    pauses = {20: "a pause of 40 ms", LIMIT: "a pause of 100 ms"}
    assert happened == [1, 1, 20, *[pauses[20]] * 2, LIMIT, *[pauses[LIMIT]] * 2, 1, 1]


def test_what_has_waited_for_too_long_is_dropped(clock):
    recorded = []
    queue = ResultQueue(recorded.extend, SECONDS, clock)
    queue.put("old")
    clock.now += SECONDS
    queue.put("new")
    queue.record_all()
    assert recorded == ["new"]


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("a defect")])
def test_a_command_that_fails_takes_no_other_with_it(clock, error):
    recorded = []

    def record(batch: list[int]) -> None:
        if 1 in batch:
            queue.put(2)
            raise error
        recorded.extend(batch)

    queue = ResultQueue(record, SECONDS, clock)
    queue.put(1)
    queue.record_all()
    assert recorded == [2]
    assert queue.put(3)


def test_after_a_thread_that_ended_within_it_another_records(clock):
    def die(_batch: list[int]) -> None:
        raise SystemExit

    queue = ResultQueue(die, SECONDS, clock)
    assert queue.put(1)
    with pytest.raises(SystemExit):
        queue.record_all()
    assert queue.put(2)
