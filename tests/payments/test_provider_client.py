"""The guard between the worker and a provider: everything becomes an outcome, and a failing provider is spared."""

from dataclasses import replace

import pytest

from app.payments.payment import Call, Kind, ProviderResponse, ResponseCode
from app.payments.provider_client import CircuitBreakingProvider

CHARGE = Call(kind=Kind.CHARGE, key="o:1", charge_key="o:1", order_id="o", product_id="1", value=9900, currency="MYR")
UNKNOWN = ProviderResponse(answer=ResponseCode.UNKNOWN, reason="no answer in time")
NOT_ATTEMPTED = ProviderResponse(answer=ResponseCode.NOT_ATTEMPTED, reason="refused the connection")
DECLINED = ProviderResponse(answer=ResponseCode.DECLINED)


def always():
    return True


def never():
    return False


@pytest.fixture
def guard(provider):
    """A guard that loses its patience after three failures, for longer than a test takes."""
    return CircuitBreakingProvider(provider, 3, 3600.0)


def test_the_answer_of_a_provider_passes_unchanged(guard, provider):
    provider.answers = [DECLINED, UNKNOWN, NOT_ATTEMPTED]
    assert [guard.ask(CHARGE, False, always) for _ in range(3)] == [DECLINED, UNKNOWN, NOT_ATTEMPTED]


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_call_reaches_its_own_door(guard, provider, kind):
    guard.ask(Call(**vars(CHARGE) | {"kind": kind}), False, always)
    assert provider.asked == [(kind.value, "o:1")]


def test_whatever_a_provider_raises_is_an_unknown_outcome(guard, provider):
    provider.answers = [TimeoutError("no answer"), ZeroDivisionError()]
    for name in ("TimeoutError", "ZeroDivisionError"):
        outcome = guard.ask(CHARGE, False, always)
        assert outcome.answer == ResponseCode.UNKNOWN
        assert name in outcome.reason


def test_what_may_have_been_sent_before_is_asked_for_first(guard, provider):
    assert guard.ask(CHARGE, True, always).answer == ResponseCode.CAPTURED
    assert provider.asked == [("find", "o:1"), ("charge", "o:1")]
    provider.books["o:1"] = DECLINED
    assert guard.ask(CHARGE, True, always) == DECLINED
    assert provider.asked[2:] == [("find", "o:1")]


def test_after_some_failures_the_circuit_breaker_opens_and_no_try_is_used(guard, provider):
    provider.answers = [UNKNOWN, NOT_ATTEMPTED, TimeoutError()]
    assert [guard.ask(CHARGE, False, always).counts for _ in range(3)] == [True] * 3
    assert guard.open
    spared = guard.ask(CHARGE, True, always)
    assert (spared.answer, spared.counts) == (ResponseCode.NOT_ATTEMPTED, False)
    assert len(provider.asked) == 3


def test_a_decline_is_no_failure(guard, provider):
    provider.answers = [DECLINED] * 10
    for _ in range(10):
        guard.ask(CHARGE, False, always)
    assert not guard.open


def test_a_few_failures_among_many_successes_leave_the_provider_open(guard, provider):
    provider.answers = [UNKNOWN, None, None] * 3
    for _ in range(9):
        guard.ask(CHARGE, False, always)
    assert not guard.open
    assert len(provider.asked) == 9


def test_a_failure_that_does_not_blame_the_provider_opens_nothing(guard, provider):
    provider.answers = [replace(UNKNOWN, blames_provider=False)] * 20
    for _ in range(20):
        guard.ask(CHARGE, False, always)
    assert not guard.open


def test_calls_that_hang_count_as_failures(guard, provider):
    outcomes = [guard.timed_out() for _ in range(3)]
    assert {outcome.answer for outcome in outcomes} == {ResponseCode.UNKNOWN}
    assert guard.open


def test_after_a_while_one_call_finds_out_whether_the_provider_is_well_again(provider, eventually):
    guard = CircuitBreakingProvider(provider, 1, 0.05)
    provider.answers = [UNKNOWN, UNKNOWN, None]
    guard.ask(CHARGE, False, always)
    assert guard.open
    eventually(lambda: guard.probing)
    guard.ask(CHARGE, False, always)
    assert guard.open
    eventually(lambda: guard.probing)
    assert guard.ask(CHARGE, False, always).answer == ResponseCode.CAPTURED
    assert not guard.open
    assert not guard.probing


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_what_must_not_be_sent_is_asked_for_alone(guard, provider, kind, again):
    call = Call(**vars(CHARGE) | {"kind": kind})
    assert guard.ask(call, again, never).answer == ResponseCode.UNKNOWN
    provider.books["o:1"] = DECLINED
    assert guard.ask(call, again, never) == DECLINED
    assert provider.asked == [("find", "o:1")] * 2


def test_whether_it_may_be_sent_is_asked_after_the_provider_took_its_time_to_find_it(guard, provider):
    allowed = [True]
    provider.watch = lambda verb, call: allowed.__setitem__(0, False)
    assert guard.ask(CHARGE, True, lambda: allowed[0]).answer == ResponseCode.UNKNOWN
    assert provider.asked == [("find", "o:1")]


def test_what_must_not_be_sent_is_no_failure_of_the_provider(guard, provider):
    for _ in range(10):
        guard.ask(CHARGE, True, never)
    assert not guard.open
