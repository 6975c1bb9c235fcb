"""The circuit breaker: it opens on a rate of failures that most users share, and closes when one call succeeds."""

import pytest

from app.payments.circuit_breaker import CircuitBreaker
from tests.stopped_clock import StoppedClock


@pytest.fixture
def clock():
    return StoppedClock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(failures=5, recovery=10.0, system=clock)


def record(breaker, user_id, *outcomes):
    for failed in outcomes:
        breaker.record(user_id, failed)


def test_it_opens_when_half_of_the_latest_calls_have_failed(breaker):
    record(breaker, "a", *[False, True] * 4, True)
    assert breaker.open


def test_it_stays_closed_while_fewer_fail(breaker):
    record(breaker, "a", *[False, False, True] * 30)
    assert not breaker.open


def test_one_user_whose_calls_all_fail_does_not_stop_those_whose_calls_succeed(breaker):
    record(breaker, "good", False)
    record(breaker, "bad", *[True] * 100)
    assert not breaker.open


def test_several_users_whose_calls_fail_open_it_though_one_succeeds(breaker):
    record(breaker, "good", False)
    for user_id in ("x", "y"):
        record(breaker, user_id, *[True] * 5)
    assert breaker.open


def test_a_success_of_long_ago_speaks_for_nobody(breaker, clock):
    record(breaker, "good", False)
    clock.now += 61.0
    record(breaker, "bad", *[True] * 5)
    assert breaker.open


def test_after_the_recovery_time_one_success_closes_it(breaker, clock):
    record(breaker, "a", *[True] * 5)
    clock.now += 9.9
    assert (breaker.open, breaker.half_open) == (True, False)
    clock.now += 0.2
    assert (breaker.open, breaker.half_open) == (False, True)
    record(breaker, "b", False)
    assert (breaker.open, breaker.half_open) == (False, False)
    record(breaker, "b", *[True] * 4)
    assert not breaker.open


def test_after_the_recovery_time_one_failure_opens_it_again(breaker, clock):
    record(breaker, "a", *[True] * 5)
    clock.now += 10.1
    record(breaker, "b", True)
    assert breaker.open
    clock.now += 9.9
    assert breaker.open


def test_an_answer_that_was_on_its_way_when_it_opened_does_not_close_it(breaker):
    record(breaker, "a", *[True] * 5)
    record(breaker, "a", False)
    assert breaker.open


def test_it_remembers_a_bounded_number_of_users(breaker):
    for number in range(5000):
        breaker.record(f"user-{number}", False)
    assert len(breaker._users) <= CircuitBreaker.MAX_USERS
