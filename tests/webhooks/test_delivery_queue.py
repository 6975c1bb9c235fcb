"""No endpoint delays another: turns, limits for each, and endpoints that fail are left alone for a while."""

import pytest

from app.webhooks.delivery import AttemptResult, Delivery
from app.webhooks.delivery_queue import (
    FAILURES_TO_OPEN,
    FAST_MS,
    FIRST_PAUSE_SECONDS,
    MAX_PAUSE_SECONDS,
    MAX_QUEUED,
    QUEUED_PER_ATTEMPT,
    QUEUED_PER_FAST_ATTEMPT,
    REMEMBERED_SECONDS,
    DeliveryQueue,
)
from tests.stopped_clock import StoppedClock

TAKEN = AttemptResult(status=200)
TAKEN_STEADILY = AttemptResult(status=200, took_ms=FAST_MS + 1)
HUNG = AttemptResult(error="no answer in time")
REFUSED = AttemptResult(status=400)
MAX_WAIT = 5.0


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


def deliveries(endpoint_id: str, count: int, first: int = 0) -> list[Delivery]:
    return [
        Delivery(
            delivery_id=f"{number}.{endpoint_id}",
            endpoint_id=endpoint_id,
            event_id=str(number),
            event_type="order.created",
            order_id="",
            body="{}",
        )
        for number in range(first, first + count)
    ]


def take_all(queue: DeliveryQueue) -> list[Delivery]:
    return [*iter(queue.take, None)]


def prove(queue: DeliveryQueue, endpoint_id: str, times: int = 100) -> None:
    fail(queue, endpoint_id, times, TAKEN)


def room(queue: DeliveryQueue, endpoint_id: str, count: int = 1000) -> int:
    return len(queue.within_room(deliveries(endpoint_id, count), lambda one: one.endpoint_id))


def fail(queue: DeliveryQueue, endpoint_id: str, times: int, result: AttemptResult = HUNG) -> None:
    for number in range(times):
        queue.put(deliveries(endpoint_id, 1, first=100 + number))
        taken = queue.take()
        assert taken
        queue.finish(taken, result)


def test_endpoints_take_turns(clock):
    queue = DeliveryQueue(100, 8, MAX_WAIT, system=clock)
    queue.put([*deliveries("a", 3), *deliveries("b", 3)])
    order = []
    while taken := queue.take():
        order.append(taken.endpoint_id)
        queue.finish(taken, TAKEN)
    assert order == ["a", "b", "a", "b", "a", "b"]


def test_an_endpoint_has_so_many_attempts_in_flight_once_it_takes_them(clock):
    queue = DeliveryQueue(100, 3, MAX_WAIT, system=clock)
    queue.put([*deliveries("slow", 20), *deliveries("other", 1)])
    assert [one.endpoint_id for one in take_all(queue)] == ["slow", "other"]
    sizes = []
    in_flight = deliveries("slow", 1)
    for _ in range(4):
        queue.finish(in_flight.pop(), TAKEN)
        in_flight += take_all(queue)
        sizes.append(len(in_flight))
    assert sizes == [2, 3, 3, 3]


def test_all_endpoints_together_have_so_many_threads(clock):
    queue = DeliveryQueue(3, 8, MAX_WAIT, system=clock)
    queue.put([one for name in "abcd" for one in deliveries(name, 2)])
    assert len(take_all(queue)) == queue.in_flight == 3


def test_endpoints_that_fail_leave_half_of_the_threads_to_the_others(clock):
    queue = DeliveryQueue(4, 8, MAX_WAIT, system=clock)
    for number in range(10):
        fail(queue, f"failing-{number}", 1)
    queue.put(one for number in range(10) for one in deliveries(f"failing-{number}", 5))
    assert len(take_all(queue)) == 2
    queue.put([*deliveries("healthy", 5), *deliveries("healthy too", 5)])
    assert [one.endpoint_id for one in take_all(queue)] == ["healthy", "healthy too"]


def test_an_endpoint_that_failed_has_one_attempt_in_flight_until_one_succeeds(clock):
    queue = DeliveryQueue(100, 8, MAX_WAIT, system=clock)
    prove(queue, "a", 5)
    queue.put(deliveries("a", 9))
    first, *others = take_all(queue)
    queue.finish(first, HUNG)
    for one in others:
        queue.finish(one, HUNG)
    clock.now += MAX_PAUSE_SECONDS
    queue.put(deliveries("a", 5, first=50))
    [probe] = take_all(queue)
    queue.finish(probe, TAKEN)
    assert len(take_all(queue)) == 2


def test_an_endpoint_that_keeps_failing_is_left_alone_for_longer_and_longer(clock):
    queue = DeliveryQueue(100, 8, MAX_WAIT, system=clock)
    fail(queue, "a", FAILURES_TO_OPEN)
    pauses = []
    for _ in range(8):
        begin = clock.now
        while not room(queue, "a"):
            assert queue.blocked() == ["a"]
            clock.now += 1
        pauses.append(clock.now - begin)
        fail(queue, "a", 1)
    assert pauses[:3] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == MAX_PAUSE_SECONDS


def test_what_is_queued_for_an_endpoint_that_is_left_alone_leaves_the_queue(clock):
    queue = DeliveryQueue(1, 8, MAX_WAIT, system=clock)
    fail(queue, "a", FAILURES_TO_OPEN - 1)
    queue.put(deliveries("a", 3))
    taken = queue.take()
    assert taken
    assert queue.finish(taken, HUNG) == deliveries("a", 2, first=1)
    assert queue.delivery_ids == set()


def test_a_receiver_that_asks_for_a_pause_gets_it(clock):
    queue = DeliveryQueue(100, 8, MAX_WAIT, system=clock)
    fail(queue, "a", 1, AttemptResult(status=429, retry_after=120))
    assert not room(queue, "a")
    clock.now += 120
    assert room(queue, "a")


def test_an_answer_that_refuses_one_delivery_does_not_stop_the_others(clock):
    queue = DeliveryQueue(100, 8, MAX_WAIT, system=clock)
    fail(queue, "a", 3 * FAILURES_TO_OPEN, REFUSED)
    assert room(queue, "a")


def test_an_endpoint_that_was_changed_is_tried_again_at_once(clock):
    queue = DeliveryQueue(100, 8, MAX_WAIT, system=clock)
    fail(queue, "a", FAILURES_TO_OPEN)
    queue.forget("a")
    queue.put(deliveries("a", 3))
    assert len(take_all(queue)) == 1


def test_a_full_queue_leaves_the_rest_to_the_sweep_and_says_when_there_is_room_again(clock):
    woken = []
    queue = DeliveryQueue(1, 1, MAX_WAIT, lambda: woken.append(True), clock)
    queue.put(deliveries("a", QUEUED_PER_ATTEMPT))
    assert (room(queue, "a"), room(queue, "b")) == (0, QUEUED_PER_ATTEMPT)
    for _ in range(QUEUED_PER_ATTEMPT // 2):
        queue.finish(queue.take(), TAKEN_STEADILY)
        assert woken == []
    queue.finish(queue.take(), TAKEN_STEADILY)
    assert woken == [True]


def test_there_is_more_room_for_an_endpoint_that_takes_more(clock):
    queue = DeliveryQueue(100, 8, MAX_WAIT, system=clock)
    fail(queue, "a", 100, TAKEN_STEADILY)
    assert room(queue, "a") == 8 * QUEUED_PER_ATTEMPT
    prove(queue, "fast")
    assert room(queue, "fast") == 8 * QUEUED_PER_FAST_ATTEMPT
    fail(queue, "fast", 1, TAKEN_STEADILY)
    assert room(queue, "fast") == 8 * QUEUED_PER_ATTEMPT


def test_all_endpoints_together_have_so_much_queued(clock):
    queue = DeliveryQueue(1, 1, MAX_WAIT, system=clock)
    for number in range(MAX_QUEUED // QUEUED_PER_ATTEMPT):
        queue.put(deliveries(f"many-{number}", QUEUED_PER_ATTEMPT))
    assert room(queue, "another") == 0


def test_slow_endpoints_leave_half_of_the_threads_to_the_others(clock):
    queue = DeliveryQueue(4, 8, MAX_WAIT, system=clock)
    for number in range(10):
        fail(queue, f"slow-{number}", 3, AttemptResult(status=200, took_ms=14_000))
    queue.put(one for number in range(10) for one in deliveries(f"slow-{number}", 5))
    assert len(take_all(queue)) == 2
    queue.put(deliveries("quick", 1))
    assert [one.endpoint_id for one in take_all(queue)] == ["quick"]


def test_what_has_waited_until_its_claim_ends_is_not_attempted_and_is_given_back(clock):
    queue = DeliveryQueue(1, 1, MAX_WAIT, system=clock)
    queue.put(deliveries("slow", 3))
    taken = queue.take()
    clock.now += MAX_WAIT
    queue.put(deliveries("slow", 1, first=3))
    queue.finish(taken, TAKEN)
    assert queue.take() == deliveries("slow", 1, first=3)[0]
    assert queue.expired() == deliveries("slow", 2, first=1)
    assert queue.expired() == []
    assert queue.delivery_ids == {"3.slow"}


def test_nothing_is_remembered_of_endpoints_to_which_nothing_is_sent(clock):
    queue = DeliveryQueue(100, 8, MAX_WAIT, system=clock)
    prove(queue, "done")
    fail(queue, "deleted while it failed", FAILURES_TO_OPEN)
    fail(queue, "changed while it failed", FAILURES_TO_OPEN)
    queue.forget("changed while it failed")
    queue.put(deliveries("expired", 1))
    clock.now += 2 * REMEMBERED_SECONDS
    queue.expired()
    assert [*queue._lanes] == ["deleted while it failed"]
    clock.now += 60 * REMEMBERED_SECONDS
    queue.expired()
    assert not queue._lanes
    assert queue.clear() == []
