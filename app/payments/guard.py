"""Between the worker and a provider: whatever the provider does becomes an Outcome, and a failing one is spared."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

from circuitbreaker import CircuitBreaker

from app import story
from app.payments.payment import Answer, Call, Kind, Outcome
from app.payments.providers import Provider

TROUBLE = frozenset({Answer.NOT_ATTEMPTED, Answer.UNKNOWN})
LONGEST_TEXT = 200
LONGEST_PAUSE = 3600.0
NOT_SENT = Outcome(answer=Answer.UNKNOWN, reason="the provider may have forgotten the key, and does not find it")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Trouble(Exception):
    """The provider did not say what became of a call; carries the outcome past the breaker."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class Guard:
    """Asks a provider. After `failures` troubled calls in a row it is left alone for `recovery` seconds."""

    def __init__(self, provider: Provider, failures: int, recovery: float) -> None:
        self._provider = provider
        self._breaker = CircuitBreaker(failures, recovery, Trouble)

    @property
    def open(self) -> bool:
        """Whether the provider is left alone at the moment."""
        return bool(self._breaker.opened)

    @property
    def probing(self) -> bool:
        """Whether one call may find out if the provider is well again."""
        return not self.open and not self._breaker.closed

    def ask(self, call: Call, again: bool, may_send: Callable[[], bool]) -> Outcome:
        """The provider's answer; `again` where an earlier attempt may have reached it. Never raises.

        Where `may_send` says no, the provider is asked what became of the key, and nothing is sent.
        """
        if self.open:
            return Outcome(answer=Answer.NOT_ATTEMPTED, reason="the provider is being spared", counts=False)
        try:
            with self._breaker:
                return self._settled(call, again, may_send)
        except Trouble as trouble:
            return trouble.outcome

    def timed_out(self) -> Outcome:
        """The outcome of a call that took too long; counts against the provider."""
        outcome = Outcome(answer=Answer.UNKNOWN, reason="the provider did not answer in time")
        try:
            with self._breaker:
                raise Trouble(outcome)
        except Trouble:
            return outcome

    def _settled(self, call: Call, again: bool, may_send: Callable[[], bool]) -> Outcome:
        try:
            # Asked what became of it before it is sent again; "not found" proves nothing.
            known = self._provider.find(call) if again or not may_send() else None
            # Asked again after the provider has taken its time to find it.
            if known is None and not may_send():
                return NOT_SENT
            outcome = _understood(known or self._send(call))
        except Exception as exc:
            story.log.exception("provider failed", module="payments", order_id=call.order_id)
            outcome = Outcome(answer=Answer.UNKNOWN, reason=f"the provider raised {type(exc).__name__}")
        if outcome.answer in TROUBLE:
            raise Trouble(outcome)
        return outcome

    def _send(self, call: Call) -> Outcome:
        match call.kind:
            case Kind.CHARGE:
                return self._provider.charge(call)
            case Kind.VOID:
                return self._provider.void(call)
            case Kind.REFUND:
                return self._provider.refund(call)


def _understood(outcome: Outcome) -> Outcome:
    """The answer with its texts cut to size; unknown, whatever it was, where it is none that a provider may give."""
    texts, pause = (outcome.reference, outcome.reason), outcome.retry_after
    sound = isinstance(outcome.answer, Answer) and all(isinstance(text, str) for text in texts)
    if not sound or not isinstance(pause, int | float) or not math.isfinite(pause):
        raise TypeError("the provider's answer is none that it may give")
    reference, reason = (UNPRINTABLE.sub(" ", text[:LONGEST_TEXT]) for text in texts)
    return replace(outcome, reference=reference, reason=reason, retry_after=min(max(0.0, pause), LONGEST_PAUSE))
