"""A payment provider for laptops, tests and demonstrations, with books of its own and faults to order.

Product "1" is captured, "2" declined, any other declined as unknown (or captured, by a setting). Where they are turned
on, those in DEMONSTRATIONS are captured in the end, each after its own trouble, which the circuit breaker ignores.
"""

import random
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from app.config import Settings
from app.contracts.base import Unavailable
from app.payments.payment import Call, Kind, ProviderResponse, ResponseCode
from app.payments.providers.ledger import Ledger
from app.storage.mongodb import Document, Store


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How the provider misbehaves: latency in milliseconds, the rest in percent of its calls."""

    latency_ms: int = 0
    fail: int = 0
    timeout_before: int = 0
    timeout_after: int = 0

    def draw(self) -> str:
        """What is to go wrong with one call; empty for nothing."""
        die = random.uniform(0, 100)  # noqa: S311 - a simulation  # nosec B311
        for fault in ("fail", "timeout_before", "timeout_after"):
            share = getattr(self, fault)
            if die < share:
                return fault
            die -= share
        return ""


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How charging one product goes: after `latency_ms`, and not before its first calls have failed as told."""

    latency_ms: int = 0
    failures: int = 0
    fault: str = ""


# By product, for people who want to see it.
DEMONSTRATIONS = {
    "slow": Conduct(latency_ms=4000),
    "flaky": Conduct(failures=2, fault="fail"),
    "timeout-after-charge": Conduct(failures=1, fault="timeout_after"),
}
REMEMBERED = 1024


class SimulatedProvider:
    """Answers by product, books in its ledger, misbehaves as told."""

    def __init__(
        self, ledger: Ledger, faults: Faults, unknown_product: str = "decline", demonstrations: bool = True
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._unknown_product = unknown_product
        self._demonstrations = DEMONSTRATIONS if demonstrations else {}
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, int] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: Settings, store: Store) -> "SimulatedProvider":
        """The provider that SIMULATED_… describes."""
        faults = Faults(
            latency_ms=settings.simulated_latency_ms,
            fail=settings.simulated_fail_percent,
            timeout_before=settings.simulated_timeout_before_percent,
            timeout_after=settings.simulated_timeout_after_percent,
        )
        ledger = Ledger(store)
        return cls(ledger, faults, settings.simulated_unknown_product, settings.demonstrations)

    def prepare(self) -> None:
        """Create what the books need."""
        self._ledger.prepare()

    def charge(self, call: Call) -> ProviderResponse:
        """Take the money, or decline."""
        return self._with_faults(call, self._demonstrations.get(call.product_id))

    def void(self, call: Call) -> ProviderResponse:
        """Book the key as voided, unless something else is booked there."""
        return self._with_faults(call)

    def refund(self, call: Call) -> ProviderResponse:
        """Give money back, once per key and never more than was taken."""
        return self._with_faults(call)

    def find(self, call: Call) -> ProviderResponse | None:
        """What is booked under the key."""
        try:
            if call.kind == Kind.REFUND:
                return ProviderResponse(answer=ResponseCode.REFUNDED) if self._ledger.refunded(call) else None
            entry = self._ledger.find(call.key)
        except Unavailable:
            return ProviderResponse(answer=ResponseCode.UNKNOWN, reason="the provider cannot look into its books")
        return _outcome(entry) if entry else None

    def _with_faults(self, call: Call, conduct: Conduct | None = None) -> ProviderResponse:
        latency_ms = self._faults.latency_ms + (conduct.latency_ms if conduct else 0)
        if latency_ms:
            time.sleep(latency_ms / 1000)
        fault, blames = self._faults.draw(), True
        if conduct and not fault:
            fault, blames = self._next_failure(call, conduct), False
        if fault == "fail":
            reason = "the provider is out of order"
            return ProviderResponse(answer=ResponseCode.NOT_ATTEMPTED, reason=reason, blames_provider=blames)
        timed_out = ProviderResponse(
            answer=ResponseCode.UNKNOWN, reason="the provider did not answer in time", blames_provider=blames
        )
        if fault == "timeout_before":
            return timed_out
        try:
            outcome = self._effect(call)
        except Unavailable as exc:
            return ProviderResponse(answer=ResponseCode.UNKNOWN, reason=f"the provider's books: {exc.detail}")
        return timed_out if fault == "timeout_after" else outcome

    def _next_failure(self, call: Call, conduct: Conduct) -> str:
        """The fault of a product whose first calls fail. Counted in this process alone: another begins anew."""
        with self._lock:
            failed = self._failed.get(call.key, 0)
            if failed >= conduct.failures:
                return ""
            self._failed[call.key] = failed + 1
            while len(self._failed) > REMEMBERED:
                self._failed.popitem(last=False)
        return conduct.fault

    def _effect(self, call: Call) -> ProviderResponse:
        if call.kind == Kind.REFUND:
            done = self._ledger.refund(call)
            return ProviderResponse(
                answer=ResponseCode.REFUNDED if done else ResponseCode.DECLINED,
                reason="" if done else "exceeds the charge",
            )
        if call.kind == Kind.VOID:
            return _outcome(self._ledger.enter(call, ResponseCode.VOIDED))
        answer, reason = self._verdict(call.product_id)
        return _outcome(self._ledger.enter(call, answer, reason))

    def _verdict(self, product_id: str) -> tuple[ResponseCode, str]:
        if product_id == "1" or product_id in self._demonstrations:
            return ResponseCode.CAPTURED, ""
        if product_id == "2":
            return ResponseCode.DECLINED, "declined by the issuer"
        if self._unknown_product == "capture":
            return ResponseCode.CAPTURED, ""
        return ResponseCode.DECLINED, "unknown product"


def _outcome(entry: Document) -> ProviderResponse:
    return ProviderResponse(
        answer=ResponseCode(entry["answer"]), reference=f"sim_{entry['_id']}", reason=entry.get("reason", "")
    )
