"""Calls a provider through a circuit breaker; every error becomes a response."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

from app.observability.logging import log
from app.payments.circuit_breaker import CircuitBreaker
from app.payments.provider_port import CallKind, Provider, ProviderCall, ProviderResponse, ResponseCode
from app.system import SYSTEM, System

FAILURES = frozenset({ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN})
# Calls that change nothing, or nothing that could happen twice.
NEVER_FOUND = frozenset({CallKind.OPEN, CallKind.RETRIEVE})
MAX_TEXT_LENGTH = 200
MAX_RETRY_AFTER_SECONDS = 3600.0
NOT_SENT = ProviderResponse(
    code=ResponseCode.UNKNOWN,
    reason="the provider does not find the key, and may have forgotten it or have looked for too long",
    blames_provider=False,
)
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class CircuitBreakingProvider:
    """A provider behind a CircuitBreaker with these `failures` and `recovery` seconds."""

    def __init__(self, provider: Provider, failures: int, recovery: float, system: System = SYSTEM) -> None:
        self._provider = provider
        self._breaker = CircuitBreaker(failures, recovery, system)

    @property
    def name(self) -> str:
        """The name of the provider."""
        return self._provider.capabilities.name

    @property
    def open(self) -> bool:
        """Whether the circuit breaker lets no call through."""
        return self._breaker.open

    @property
    def half_open(self) -> bool:
        """Whether one call may find out if the provider works again."""
        return self._breaker.half_open

    def call(
        self, call: ProviderCall, repeated: bool, may_send: Callable[[], bool], user_id: str = ""
    ) -> ProviderResponse:
        """The provider's response. Never raises.

        The key is looked up first where the call is `repeated`, so that an earlier attempt may have reached the provider.
        Where `may_send` is false the key is only looked up, and nothing is sent.
        """
        if self.open:
            return ProviderResponse(
                code=ResponseCode.NOT_ATTEMPTED, reason="the circuit breaker is open", counts_as_try=False
            )
        response = self._response(call, repeated, may_send)
        failed = response.code in FAILURES
        if response.blames_provider or not failed:
            self._breaker.record(user_id, failed)
        return response

    def timed_out(self, user_id: str = "") -> ProviderResponse:
        """The response for a call that took too long; counts as a failure of the provider."""
        self._breaker.record(user_id, failed=True)
        return ProviderResponse(code=ResponseCode.UNKNOWN, reason="the provider did not answer in time")

    def _response(self, call: ProviderCall, repeated: bool, may_send: Callable[[], bool]) -> ProviderResponse:
        try:
            # A key that is not found proves nothing: the call is sent again.
            looks_up = call.kind not in NEVER_FOUND and (repeated or not may_send())
            found = self._provider.find(call) if looks_up else None
            # Checked again, since the look-up may have taken long.
            if found is None and not may_send():
                return NOT_SENT
            return _validated(found or self._send(call))
        except Exception as exc:
            log.exception("provider failed", module="payments", order_id=call.order_id)
            return ProviderResponse(code=ResponseCode.UNKNOWN, reason=f"the provider raised {type(exc).__name__}")

    def _send(self, call: ProviderCall) -> ProviderResponse:
        match call.kind:
            case CallKind.OPEN:
                return self._provider.open(call)
            case CallKind.CHARGE:
                return self._provider.charge(call)
            case CallKind.CAPTURE:
                return self._provider.capture(call)
            case CallKind.VOID:
                return self._provider.void(call)
            case CallKind.REFUND:
                return self._provider.refund(call)
            case CallKind.RETRIEVE:
                return self._provider.retrieve(call)


def _validated(response: ProviderResponse) -> ProviderResponse:
    """The response with its texts cut and cleaned. Raises where it is none that a provider may give."""
    texts, retry_after = (response.reference, response.reason), response.retry_after
    valid = isinstance(response.code, ResponseCode) and all(isinstance(text, str) for text in texts)
    if not valid or not isinstance(retry_after, int | float) or not math.isfinite(retry_after):
        raise TypeError("the provider's response is not valid")
    reference, reason = (UNPRINTABLE.sub(" ", text[:MAX_TEXT_LENGTH]) for text in texts)
    retry_after = min(max(0.0, retry_after), MAX_RETRY_AFTER_SECONDS)
    return replace(response, reference=reference, reason=reason, retry_after=retry_after)
