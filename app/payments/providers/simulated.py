"""A payment provider for laptops, tests and demonstrations, with a ledger of its own and configurable faults.

Product "1" is captured, "2" declined, any other declined as unknown (or captured, by a setting). Where demonstrations are
turned on, the products in DEMONSTRATIONS are captured after faults of their own, which the circuit breaker ignores.
"""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from random import Random

from app.config import Settings
from app.contracts.base import Unavailable
from app.payments.provider_port import CallKind, Capabilities, ProviderCall, ProviderResponse, ResponseCode
from app.payments.providers.ledger import Ledger
from app.storage.mongodb import Document, Store
from app.system import SYSTEM, System


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Faults of the provider: latency in milliseconds, the others in percent of its calls."""

    latency_ms: int = 0
    fail: int = 0
    timeout_before: int = 0
    timeout_after: int = 0

    def draw(self, source: Random) -> str:
        """Draw the fault of one call from a source of chance; empty for none."""
        die = source.uniform(0, 100)
        for fault in ("fail", "timeout_before", "timeout_after"):
            share = getattr(self, fault)
            if die < share:
                return fault
            die -= share
        return ""


@dataclass(frozen=True, kw_only=True)
class ProductFaults:
    """How charging one product goes: its first `failures` calls fail with `fault`; each call takes `latency_ms`."""

    latency_ms: int = 0
    failures: int = 0
    fault: str = ""


# By product id.
DEMONSTRATIONS = {
    "slow": ProductFaults(latency_ms=4000),
    "flaky": ProductFaults(failures=2, fault="fail"),
    "timeout-after-charge": ProductFaults(failures=1, fault="timeout_after"),
}
MAX_FAILING_KEYS = 1024
# The ledger remembers every key.
CAPABILITIES = Capabilities(name="simulated", key_lifetime=math.inf, captures_later=True, notifies=True)


class SimulatedProvider:
    """Decides by product, records in its ledger, and fails as configured."""

    capabilities = CAPABILITIES

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        unknown_product: str = "decline",
        demonstrations: bool = True,
        system: System = SYSTEM,
    ) -> None:
        self._system = system
        self._ledger = ledger
        self._faults = faults
        self._unknown_product = unknown_product
        self._demonstrations = DEMONSTRATIONS if demonstrations else {}
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, int] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: Settings, store: Store, system: System = SYSTEM) -> "SimulatedProvider":
        """The provider that the SIMULATED_… settings describe."""
        faults = Faults(
            latency_ms=settings.simulated_latency_ms,
            fail=settings.simulated_fail_percent,
            timeout_before=settings.simulated_timeout_before_percent,
            timeout_after=settings.simulated_timeout_after_percent,
        )
        ledger = Ledger(store, system)
        return cls(ledger, faults, settings.simulated_unknown_product, settings.demonstrations, system)

    def prepare(self) -> None:
        """Create the ledger's validator."""
        self._ledger.prepare()

    def charge(self, call: ProviderCall) -> ProviderResponse:
        """Capture or decline."""
        return self._with_faults(call, self._demonstrations.get(call.product_id))

    def void(self, call: ProviderCall) -> ProviderResponse:
        """Record the key as voided, unless it has an entry."""
        return self._with_faults(call)

    def refund(self, call: ProviderCall) -> ProviderResponse:
        """Refund once per key, and never more than was captured."""
        return self._with_faults(call)

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        """The response recorded under the key."""
        try:
            if call.kind == CallKind.REFUND:
                return ProviderResponse(code=ResponseCode.REFUNDED) if self._ledger.has_refund(call) else None
            entry = self._ledger.find(call.key)
        except Unavailable:
            return ProviderResponse(code=ResponseCode.UNKNOWN, reason="the provider's ledger is unavailable")
        return _response(entry) if entry else None

    def _with_faults(self, call: ProviderCall, product: ProductFaults | None = None) -> ProviderResponse:
        latency_ms = self._faults.latency_ms + (product.latency_ms if product else 0)
        if latency_ms:
            self._system.sleep(latency_ms / 1000)
        fault, blames = self._faults.draw(self._system.random), True
        if product and not fault:
            fault, blames = self._next_failure(call, product), False
        if fault == "fail":
            reason = "the provider is out of order"
            return ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason=reason, blames_provider=blames)
        timed_out = ProviderResponse(
            code=ResponseCode.UNKNOWN, reason="the provider did not answer in time", blames_provider=blames
        )
        if fault == "timeout_before":
            return timed_out
        try:
            response = self._effect(call)
        except Unavailable as exc:
            return ProviderResponse(code=ResponseCode.UNKNOWN, reason=f"the provider's ledger: {exc.detail}")
        return timed_out if fault == "timeout_after" else response

    def _next_failure(self, call: ProviderCall, product: ProductFaults) -> str:
        """The fault of a product whose first calls fail; each process counts for itself."""
        with self._lock:
            failed = self._failed.get(call.key, 0)
            if failed >= product.failures:
                return ""
            self._failed[call.key] = failed + 1
            while len(self._failed) > MAX_FAILING_KEYS:
                self._failed.popitem(last=False)
        return product.fault

    def _effect(self, call: ProviderCall) -> ProviderResponse:
        if call.kind == CallKind.REFUND:
            done = self._ledger.refund(call)
            return ProviderResponse(
                code=ResponseCode.REFUNDED if done else ResponseCode.DECLINED,
                reason="" if done else "exceeds the charge",
            )
        if call.kind == CallKind.VOID:
            return _response(self._ledger.record(call, ResponseCode.VOIDED))
        code, reason = self._charge_result(call.product_id)
        return _response(self._ledger.record(call, code, reason))

    def _charge_result(self, product_id: str) -> tuple[ResponseCode, str]:
        if product_id == "1" or product_id in self._demonstrations:
            return ResponseCode.CAPTURED, ""
        if product_id == "2":
            return ResponseCode.DECLINED, "declined by the issuer"
        if self._unknown_product == "capture":
            return ResponseCode.CAPTURED, ""
        return ResponseCode.DECLINED, "unknown product"


def _response(entry: Document) -> ProviderResponse:
    return ProviderResponse(
        code=ResponseCode(entry["answer"]), reference=f"sim_{entry['_id']}", reason=entry.get("reason", "")
    )
