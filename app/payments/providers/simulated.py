"""A payment provider for laptops, tests and demonstrations, with a ledger of its own and configurable faults.

Product "1" is captured, "2" declined, any other declined as unknown (or captured, by a setting). Where demonstrations are
turned on, the products in DEMONSTRATIONS are captured after faults of their own, which the circuit breaker ignores, and those
in PLANS go on after their charge: by themselves after a while, or by a decision on a page of the provider.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from random import Random

from app.config import Settings
from app.contracts.base import Unavailable
from app.payments.provider_port import (
    CallKind,
    Capabilities,
    DisputeStatus,
    ProviderCall,
    ProviderNotification,
    ProviderPayment,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers import entries, signed_notifications
from app.payments.providers.demonstrations import DEMONSTRATIONS, PLANS, PaymentPlan, ProductFaults
from app.payments.providers.ledger import Ledger
from app.storage.mongodb import Store
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


MAX_FAILING_KEYS = 1024
# The ledger remembers every key.
CAPABILITIES = Capabilities(name="simulated", key_lifetime=math.inf, captures_later=True, notifies=True)
# Plans whose charge is not answered with what becomes of it.
PENDING_PLANS = frozenset({PaymentPlan.CAPTURE_LATER, PaymentPlan.DECLINE_LATER, PaymentPlan.ASK_CUSTOMER})
UNKNOWN_PAYMENT = ProviderResponse(
    code=ResponseCode.REFUSED, reason="the provider does not know this payment", blames_provider=False
)
LEDGER_UNAVAILABLE = ProviderResponse(code=ResponseCode.UNKNOWN, reason="the provider's ledger is unavailable")


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
        self.ledger = ledger
        self.demonstrates = demonstrations
        self._faults = faults
        self._unknown_product = unknown_product
        self._demonstrations = DEMONSTRATIONS if demonstrations else {}
        self._plans = PLANS if demonstrations else {}
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
        """Create the ledger's validator and indexes."""
        self.ledger.prepare()

    def open(self, call: ProviderCall) -> ProviderResponse:
        """Refused: this provider charges payments without opening them."""
        return ProviderResponse(code=ResponseCode.REFUSED, reason=f"this provider has no call {call.kind}")

    def charge(self, call: ProviderCall) -> ProviderResponse:
        """Capture or authorize, decline, or leave it pending."""
        return self._with_faults(call, self._demonstrations.get(call.product_id))

    def capture(self, call: ProviderCall) -> ProviderResponse:
        """Capture what is authorized or a part of it, once."""
        return self._with_faults(call)

    def void(self, call: ProviderCall) -> ProviderResponse:
        """Record the key as voided, unless it was captured or declined."""
        return self._with_faults(call)

    def refund(self, call: ProviderCall) -> ProviderResponse:
        """Refund once per key, and never more than was captured."""
        return self._with_faults(call)

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        """The response recorded under the key."""
        try:
            if call.kind == CallKind.REFUND:
                return self._found_refund(call)
            entry = self.ledger.find_payment(call)
            response = entries.charge_response(self.ledger.settled(entry)) if entry else None
        except Unavailable:
            return LEDGER_UNAVAILABLE
        # A payment that is held says nothing of a capture or a void: that one has not been made.
        held = response is not None and response.code in entries.HELD
        return None if held and call.kind in (CallKind.CAPTURE, CallKind.VOID) else response

    def retrieve(self, call: ProviderCall) -> ProviderResponse:
        """The payment with all its refunds and its dispute."""
        return self._with_faults(call)

    def notifications(self, body: bytes, headers: Mapping[str, str]) -> tuple[ProviderNotification, ...]:
        """The notification in a request; none where it is about another application's payment.

        Raises NotificationRefused, and Unavailable where the database does not have its key at the moment.
        """
        notification = signed_notifications.decode(body, headers, self.ledger.secret(), self.ledger.now())
        return (notification,) if notification.reference.startswith(entries.REFERENCE_PREFIX) else ()

    def list_payments(self, since: datetime) -> Iterator[ProviderPayment]:
        """The ledger's entries made since then. Raises OSError."""
        try:
            for entry in self.ledger.entries_since(since):
                yield entries.listed_payment(self.ledger.settled(entry))
        except Unavailable as exc:
            raise OSError(exc.detail) from exc

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
        match call.kind:
            case CallKind.REFUND:
                return self._refund(call)
            case CallKind.CAPTURE:
                return self._capture(call)
            case CallKind.VOID:
                return self._void(call)
            case CallKind.RETRIEVE:
                return self._retrieve(call)
        return self._charge(call)

    def _charge(self, call: ProviderCall) -> ProviderResponse:
        plan = self._plans.get(call.product_id)
        reason, decline_code = self._decline(call.product_id)
        if decline_code:
            entry = self.ledger.record(call, ResponseCode.DECLINED, reason, {"declineCode": decline_code})
        elif plan:
            members = entries.plan_members(plan, call, self.ledger.now(), self._system.new_id())
            entry = self.ledger.record(call, _planned_code(plan, call.manual_capture), "", members)
        else:
            entry = self.ledger.record(call, ResponseCode.AUTHORIZED if call.manual_capture else ResponseCode.CAPTURED)
        return entries.charge_response(self.ledger.settled(entry))

    def _capture(self, call: ProviderCall) -> ProviderResponse:
        found = self.ledger.find_payment(call)
        if found is None:
            return UNKNOWN_PAYMENT
        entry = self.ledger.settled(found)
        if entry["answer"] == ResponseCode.AUTHORIZED:
            if call.value > entry["value"]:
                return ProviderResponse(code=ResponseCode.DECLINED, reason="exceeds what is authorized")
            entry = self.ledger.update(entry, entries.captured(entry, call.value, self.ledger.now()))
        return entries.charge_response(entry)

    def _void(self, call: ProviderCall) -> ProviderResponse:
        known = self.ledger.find_payment(call) if call.reference else None
        entry = self.ledger.settled(known or self.ledger.record(call, ResponseCode.VOIDED))
        if entry["answer"] in entries.HELD:
            entry = self.ledger.update(entry, entries.voided(entry))
        return entries.charge_response(entry)

    def _retrieve(self, call: ProviderCall) -> ProviderResponse:
        found = self.ledger.find_payment(call)
        if found is None:
            return UNKNOWN_PAYMENT
        entry = self.ledger.settled(found)
        return replace(entries.charge_response(entry), refunds=entries.refunds(entry), disputes=entries.disputes(entry))

    def _refund(self, call: ProviderCall) -> ProviderResponse:
        plan = self._plans.get(call.product_id)
        if plan and (entry := self.ledger.find(call.charge_key)):
            # A dispute that is due comes before the refund.
            self.ledger.settled(entry)
        fails_at = self.ledger.now() + entries.DELAY if plan == PaymentPlan.FAIL_REFUNDS else None
        if self.ledger.refund(call, fails_at):
            return _refunded(call)
        return self._found_refund(call) or self._refund_refusal(call)

    def _found_refund(self, call: ProviderCall) -> ProviderResponse | None:
        if self.ledger.has_refund(call):
            return _refunded(call)
        entry = self.ledger.find(call.charge_key)
        failed = entry and any(one["key"] == call.key for one in entry.get("failedRefunds", ()))
        if not failed:
            return None
        reference = entries.refund_reference(call.key)
        return ProviderResponse(code=ResponseCode.DECLINED, reference=reference, reason=entries.REFUND_FAILED)

    def _refund_refusal(self, call: ProviderCall) -> ProviderResponse:
        entry = self.ledger.find(call.charge_key)
        disputed = entry and entries.disputed(entry) in (DisputeStatus.OPEN, DisputeStatus.LOST)
        reason = "the charge is disputed" if disputed else "exceeds the charge"
        return ProviderResponse(code=ResponseCode.DECLINED, reason=reason)

    def _decline(self, product_id: str) -> tuple[str, str]:
        """Why a product is declined, in words and as a code; empty where it is not."""
        if product_id == "1" or product_id in self._demonstrations or product_id in self._plans:
            return "", ""
        if product_id == "2":
            return "declined by the issuer", "generic_decline"
        return ("", "") if self._unknown_product == "capture" else ("unknown product", "unknown_product")


def _planned_code(plan: PaymentPlan, manual: bool) -> ResponseCode:
    if plan in PENDING_PLANS:
        return ResponseCode.PENDING
    return ResponseCode.AUTHORIZED if manual else ResponseCode.CAPTURED


def _refunded(call: ProviderCall) -> ProviderResponse:
    return ProviderResponse(code=ResponseCode.REFUNDED, reference=entries.refund_reference(call.key))
