"""A provider whose idempotency keys expire, with a clock of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.payments.provider_port import CallKind, ProviderCall, ProviderResponse, ResponseCode
from app.payments.providers.simulated import CAPABILITIES


@dataclass
class ExpiringKeyProvider:
    """Captures every charge. A key is known for `life` seconds; sent again after that, it repeats its effect.

    With `searchable`, `find` knows the outcome of a key for ever. `now` is the provider's time in seconds. Money
    that has moved stays in `charges` and `refunds`; `sent` has every call that was not a find.
    """

    life: float
    searchable: bool = False
    now: float = 0.0
    charges: list[ProviderCall] = field(default_factory=list)
    refunds: list[ProviderCall] = field(default_factory=list)
    sent: list[ProviderCall] = field(default_factory=list)
    _known: dict[str, tuple[float, ProviderResponse]] = field(default_factory=dict)
    refuses: Callable[[ProviderCall], bool] = lambda call: False

    def prepare(self) -> None:
        """It stores nothing in the database."""

    capabilities = CAPABILITIES

    def charge(self, call: ProviderCall) -> ProviderResponse:
        return self._once(call)

    def void(self, call: ProviderCall) -> ProviderResponse:
        return self._once(call)

    def refund(self, call: ProviderCall) -> ProviderResponse:
        return self._once(call)

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        at, outcome = self._known.get(call.key, (0.0, None))
        return outcome if self.searchable or self.now - at < self.life else None

    def charged(self, order_id: str) -> int:
        """Returns how often the order was charged."""
        return sum(call.order_id == order_id for call in self.charges)

    def refunded(self, order_id: str) -> int:
        """Returns the refunded amount of the order."""
        return sum(call.value for call in self.refunds if call.order_id == order_id)

    def _once(self, call: ProviderCall) -> ProviderResponse:
        self.sent.append(call)
        at, known = self._known.get(call.key, (0.0, None))
        if known and self.now - at < self.life:
            return known
        outcome = self._effect(call)
        self._known[call.key] = self.now, outcome
        return outcome

    def _effect(self, call: ProviderCall) -> ProviderResponse:
        if call.kind == CallKind.CHARGE:
            self.charges.append(call)
            return ProviderResponse(code=ResponseCode.CAPTURED, reference=call.key)
        if call.kind == CallKind.VOID:
            return ProviderResponse(code=ResponseCode.VOIDED)
        taken = sum(charge.value for charge in self.charges if charge.order_id == call.order_id)
        if self.refuses(call) or self.refunded(call.order_id) + call.value > taken:
            return ProviderResponse(code=ResponseCode.DECLINED, reason="the card was closed")
        self.refunds.append(call)
        return ProviderResponse(code=ResponseCode.REFUNDED)
