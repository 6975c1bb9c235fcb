"""Between the worker and a provider: everything becomes an Outcome, and a failing provider is not called for a while."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

from app.observability.logging import log
from app.payments.circuit_breaker import CircuitBreaker
from app.payments.payment import Call, Kind, ProviderResponse, ResponseCode
from app.payments.providers import Provider

TROUBLE = frozenset({ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN})
LONGEST_TEXT = 200
LONGEST_PAUSE = 3600.0
NOT_SENT = ProviderResponse(
    answer=ResponseCode.UNKNOWN,
    reason="the provider may have forgotten the key, and does not find it",
    blames_provider=False,
)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class CircuitBreakingProvider:
    """Asks a provider, through a circuit breaker: see there for `failures` and `recovery`."""

    def __init__(self, provider: Provider, failures: int, recovery: float) -> None:
        self._provider = provider
        self._breaker = CircuitBreaker(failures, recovery)

    @property
    def open(self) -> bool:
        """Whether the provider is not called at the moment."""
        return self._breaker.open

    @property
    def probing(self) -> bool:
        """Whether one call may find out if the provider is well again."""
        return self._breaker.half_open

    def ask(self, call: Call, again: bool, may_send: Callable[[], bool], user_id: str = "") -> ProviderResponse:
        """The provider's answer; `again` where an earlier attempt may have reached it. Never raises.

        Where `may_send` says no, the provider is asked what became of the key, and nothing is sent.
        """
        if self.open:
            return ProviderResponse(
                answer=ResponseCode.NOT_ATTEMPTED, reason="the circuit breaker is open", counts=False
            )
        outcome = self._answer(call, again, may_send)
        failed = outcome.answer in TROUBLE
        if outcome.blames_provider or not failed:
            self._breaker.record(user_id, failed)
        return outcome

    def timed_out(self, user_id: str = "") -> ProviderResponse:
        """The outcome of a call that took too long; counts against the provider."""
        self._breaker.record(user_id, failed=True)
        return ProviderResponse(answer=ResponseCode.UNKNOWN, reason="the provider did not answer in time")

    def _answer(self, call: Call, again: bool, may_send: Callable[[], bool]) -> ProviderResponse:
        try:
            # Asked what became of it before it is sent again; "not found" proves nothing.
            known = self._provider.find(call) if again or not may_send() else None
            # Asked again after the provider has taken its time to find it.
            if known is None and not may_send():
                return NOT_SENT
            return _understood(known or self._send(call))
        except Exception as exc:
            log.exception("provider failed", module="payments", order_id=call.order_id)
            return ProviderResponse(answer=ResponseCode.UNKNOWN, reason=f"the provider raised {type(exc).__name__}")

    def _send(self, call: Call) -> ProviderResponse:
        match call.kind:
            case Kind.CHARGE:
                return self._provider.charge(call)
            case Kind.VOID:
                return self._provider.void(call)
            case Kind.REFUND:
                return self._provider.refund(call)


def _understood(outcome: ProviderResponse) -> ProviderResponse:
    """The answer with its texts cut to size; unknown, whatever it was, where it is none that a provider may give."""
    texts, pause = (outcome.reference, outcome.reason), outcome.retry_after
    sound = isinstance(outcome.answer, ResponseCode) and all(isinstance(text, str) for text in texts)
    if not sound or not isinstance(pause, int | float) or not math.isfinite(pause):
        raise TypeError("the provider's answer is none that it may give")
    reference, reason = (UNPRINTABLE.sub(" ", text[:LONGEST_TEXT]) for text in texts)
    return replace(outcome, reference=reference, reason=reason, retry_after=min(max(0.0, pause), LONGEST_PAUSE))
