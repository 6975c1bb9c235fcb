"""Calls through the circuit breaker: every error becomes a response, and a failing provider is not called."""

from dataclasses import replace

import pytest

from app.payments.provider_client import NEVER_FOUND, CircuitBreakingProvider
from app.payments.provider_port import CallKind, ProviderCall, ProviderResponse, ResponseCode
from tests.stopped_clock import StoppedClock

CHARGE = ProviderCall(
    kind=CallKind.CHARGE, key="o:1", charge_key="o:1", order_id="o", product_id="1", value=9900, currency="MYR"
)
UNKNOWN = ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer in time")
NOT_ATTEMPTED = ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason="refused the connection")
DECLINED = ProviderResponse(code=ResponseCode.DECLINED)


def always():
    return True


def never():
    return False


@pytest.fixture
def client(provider):
    """A client whose circuit breaker opens after three failures, for longer than a test takes."""
    return CircuitBreakingProvider(provider, 3, 3600.0)


def test_the_answer_of_a_provider_passes_unchanged(client, provider):
    provider.responses = [DECLINED, UNKNOWN, NOT_ATTEMPTED]
    assert [client.call(CHARGE, False, always) for _ in range(3)] == [DECLINED, UNKNOWN, NOT_ATTEMPTED]


@pytest.mark.parametrize("kind", CallKind)
def test_each_kind_of_call_reaches_its_own_door(client, provider, kind):
    client.call(ProviderCall(**vars(CHARGE) | {"kind": kind}), False, always)
    assert provider.calls == [(kind.value, "o:1")]


def test_whatever_a_provider_raises_is_an_unknown_outcome(client, provider):
    provider.responses = [TimeoutError("no answer"), ZeroDivisionError()]
    for name in ("TimeoutError", "ZeroDivisionError"):
        response = client.call(CHARGE, False, always)
        assert response.code == ResponseCode.UNKNOWN
        assert name in response.reason


def test_a_key_that_may_have_been_sent_before_is_looked_up_first(client, provider):
    assert client.call(CHARGE, True, always).code == ResponseCode.CAPTURED
    assert provider.calls == [("find", "o:1"), ("charge", "o:1")]
    provider.found["o:1"] = DECLINED
    assert client.call(CHARGE, True, always) == DECLINED
    assert provider.calls[2:] == [("find", "o:1")]


def test_after_some_failures_the_circuit_breaker_opens_and_no_try_is_used(client, provider):
    provider.responses = [UNKNOWN, NOT_ATTEMPTED, TimeoutError()]
    assert [client.call(CHARGE, False, always).counts_as_try for _ in range(3)] == [True] * 3
    assert client.open
    stopped = client.call(CHARGE, True, always)
    assert (stopped.code, stopped.counts_as_try) == (ResponseCode.NOT_ATTEMPTED, False)
    assert len(provider.calls) == 3


def test_a_decline_is_no_failure(client, provider):
    provider.responses = [DECLINED] * 10
    for _ in range(10):
        client.call(CHARGE, False, always)
    assert not client.open


def test_a_few_failures_among_many_successes_leave_the_provider_open(client, provider):
    provider.responses = [UNKNOWN, None, None] * 3
    for _ in range(9):
        client.call(CHARGE, False, always)
    assert not client.open
    assert len(provider.calls) == 9


def test_a_failure_that_does_not_blame_the_provider_opens_nothing(client, provider):
    provider.responses = [replace(UNKNOWN, blames_provider=False)] * 20
    for _ in range(20):
        client.call(CHARGE, False, always)
    assert not client.open


def test_calls_that_hang_count_as_failures(client, provider):
    responses = [client.timed_out() for _ in range(3)]
    assert {response.code for response in responses} == {ResponseCode.UNKNOWN}
    assert client.open


def test_after_a_while_one_call_finds_out_whether_the_provider_is_well_again(provider):
    clock = StoppedClock()
    client = CircuitBreakingProvider(provider, 1, 10.0, clock)
    provider.responses = [UNKNOWN, UNKNOWN, None]
    client.call(CHARGE, False, always)
    assert client.open
    clock.now += 10.1
    assert client.half_open
    client.call(CHARGE, False, always)
    assert client.open
    clock.now += 10.1
    assert client.half_open
    assert client.call(CHARGE, False, always).code == ResponseCode.CAPTURED
    assert not client.open
    assert not client.half_open


@pytest.mark.parametrize("kind", [kind for kind in CallKind if kind not in NEVER_FOUND])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_key_that_must_not_be_sent_is_only_looked_up(client, provider, kind, again):
    call = ProviderCall(**vars(CHARGE) | {"kind": kind})
    assert client.call(call, again, never).code == ResponseCode.UNKNOWN
    provider.found["o:1"] = DECLINED
    assert client.call(call, again, never) == DECLINED
    assert provider.calls == [("find", "o:1")] * 2


@pytest.mark.parametrize("kind", sorted(NEVER_FOUND))
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_what_has_no_earlier_answer_is_not_looked_up(client, provider, kind, again):
    call = ProviderCall(**vars(CHARGE) | {"kind": kind})
    assert client.call(call, again, never).code == ResponseCode.UNKNOWN
    assert provider.calls == []
    client.call(call, again, always)
    assert provider.calls == [(kind.value, "o:1")]


def test_whether_a_key_may_be_sent_is_checked_again_after_a_slow_look_up(client, provider):
    allowed = [True]
    provider.on_call = lambda verb, call: allowed.__setitem__(0, False)
    assert client.call(CHARGE, True, lambda: allowed[0]).code == ResponseCode.UNKNOWN
    assert provider.calls == [("find", "o:1")]


def test_what_must_not_be_sent_is_no_failure_of_the_provider(client, provider):
    for _ in range(10):
        client.call(CHARGE, True, never)
    assert not client.open
