"""A bank that forgets idempotency keys, and the faulty line to it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from app.payments.provider_port import (
    CallKind,
    Provider,
    ProviderCall,
    ProviderNotification,
    ProviderPayment,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers.simulated import CAPABILITIES
from tools.auditor.history import CAPTURE, REFUND, Movement
from tools.simulation.faults import ProviderFault
from tools.simulation.scheduler import Owner, Scheduler

DECLINED_PRODUCT = "2"
# A call arrives at the bank within this time after it was sent: less than a lease, which the key's life is shorter by.
LINE_SECONDS = 12.0
TIMED_OUT = ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer in time")


@dataclass
class Bank:
    """Keeps books for ever and knows a key for `life` seconds. Where it is `searchable`, `find` knows keys for ever.

    `closed` has orders whose refunds it declines.
    """

    now: Callable[[], float]
    life: float
    searchable: bool
    movements: list[Movement] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    _known: dict[str, tuple[float, ProviderResponse]] = field(default_factory=dict)

    def send(self, call: ProviderCall) -> ProviderResponse:
        """Carry out a call, once for each key that it knows."""
        known = self._known.get(call.key)
        if known and self.now() - known[0] < self.life:
            return known[1]
        response = self._effect(call)
        self._known[call.key] = (self.now(), response)
        return response

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        """The first response to a key that it still knows."""
        at, response = self._known.get(call.key, (0.0, None))
        return response if self.searchable or self.now() - at < self.life else None

    def held(self, order_id: str) -> int:
        """What was captured for an order and not refunded."""
        own = [one for one in self.movements if one.order_id == order_id]
        return sum(one.value if one.kind == CAPTURE else -one.value for one in own)

    def _effect(self, call: ProviderCall) -> ProviderResponse:
        if call.kind == CallKind.VOID:
            return ProviderResponse(code=ResponseCode.VOIDED)
        if call.kind == CallKind.CHARGE:
            if call.product_id == DECLINED_PRODUCT:
                return ProviderResponse(code=ResponseCode.DECLINED, reason="declined by the issuer")
            self._book(CAPTURE, call)
            return ProviderResponse(code=ResponseCode.CAPTURED, reference=call.key)
        if call.order_id in self.closed or call.value > self.held(call.order_id):
            return ProviderResponse(code=ResponseCode.DECLINED, reason="the card is closed")
        self._book(REFUND, call)
        return ProviderResponse(code=ResponseCode.REFUNDED)

    def _book(self, kind: str, call: ProviderCall) -> None:
        self.movements.append(Movement(order_id=call.order_id, kind=kind, value=call.value, key=call.key))


class CallFaults(Protocol):
    """Decides which fault, if any, happens to a call."""

    scheduler: Scheduler
    world: Owner

    def provider_fault(self, verb: str) -> ProviderFault | None:
        """The fault of the call that begins now."""

    def hang_seconds(self) -> float:
        """How long a call hangs."""

    def line_share(self) -> float:
        """Which part of the longest time on the line a late copy of a call takes."""

    def die(self, owner: Owner) -> None:
        """End a process, with the task that calls this."""


class FaultyProvider:
    """The bank, or another provider, as one process reaches it."""

    def __init__(self, real: Any, owner: Owner, faults: CallFaults) -> None:
        self._real = real
        self._owner = owner
        self._faults = faults

    capabilities = CAPABILITIES

    def charge(self, call: ProviderCall) -> ProviderResponse:
        """Take money, with faults."""
        return self._call("charge", call)

    def void(self, call: ProviderCall) -> ProviderResponse:
        """Make sure that no money is taken, with faults."""
        return self._call("void", call)

    def refund(self, call: ProviderCall) -> ProviderResponse:
        """Give money back, with faults."""
        return self._call("refund", call)

    def capture(self, call: ProviderCall) -> ProviderResponse:
        """Take what is authorized, with faults."""
        return self._call("capture", call)

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        """Look a key up, with faults."""
        return TIMED_OUT if self._is_lost("find") else self._real.find(call)

    def retrieve(self, call: ProviderCall) -> ProviderResponse:
        """Read the record of a payment, with faults."""
        return TIMED_OUT if self._is_lost("retrieve") else self._real.retrieve(call)

    def notifications(self, body: bytes, headers: Mapping[str, str]) -> tuple[ProviderNotification, ...]:
        """The verified notifications in a request."""
        found: tuple[ProviderNotification, ...] = self._real.notifications(body, headers)
        return found

    def list_payments(self, since: datetime) -> Iterator[ProviderPayment]:
        """The provider's own list."""
        yield from self._real.list_payments(since)

    def _is_lost(self, verb: str) -> bool:
        """Begin a call that changes nothing; whether it is lost."""
        fault = self._faults.provider_fault(verb)
        self._begin(fault, verb)
        return fault == ProviderFault.REQUEST_LOST

    def _call(self, verb: str, call: ProviderCall) -> ProviderResponse:
        faults, scheduler = self._faults, self._faults.scheduler
        fault = faults.provider_fault(verb)
        # The key's age was checked just now: the call arrives while the bank still knows the key.
        scheduler.bound(LINE_SECONDS)
        try:
            self._begin(fault if fault != ProviderFault.HANGS else None, verb)
        finally:
            scheduler.bound(None)
        if fault == ProviderFault.REFUSED:
            return ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason="out of order")
        if fault == ProviderFault.LATE:
            self._send_later(f"late {verb}", call)
        if fault in (ProviderFault.LATE, ProviderFault.REQUEST_LOST):
            return TIMED_OUT
        if fault == ProviderFault.TWICE:
            self._send_later(f"second {verb}", call)
        response = self._send(call)
        if fault == ProviderFault.HANGS:
            scheduler.wait(None, faults.hang_seconds(), f"{verb} hangs")
        if fault == ProviderFault.DEATH_AFTER:
            faults.die(self._owner)
        return TIMED_OUT if fault == ProviderFault.REPLY_LOST else response

    def _begin(self, fault: ProviderFault | None, verb: str) -> None:
        faults = self._faults
        if fault == ProviderFault.DEATH_BEFORE:
            faults.die(self._owner)
        if fault == ProviderFault.HANGS:
            faults.scheduler.wait(None, faults.hang_seconds(), f"{verb} hangs")
        faults.scheduler.pause(f"provider {verb}")
        if fault == ProviderFault.RAISES:
            raise OSError("simulated")

    def _send_later(self, name: str, call: ProviderCall) -> None:
        # The simulated provider's books are reached through the process, and a copy on its way dies with it.
        owner = self._faults.world if isinstance(self._real, Bank) else self._owner
        self._faults.scheduler.spawn(owner, name, lambda: self._late(call), within=LINE_SECONDS / 4)

    def _late(self, call: ProviderCall) -> None:
        self._faults.scheduler.bound(LINE_SECONDS / 4)
        self._faults.scheduler.wait(None, self._faults.line_share() * LINE_SECONDS / 4, "is on the line")
        self._faults.scheduler.bound(None)
        self._send(call)

    def _send(self, call: ProviderCall) -> ProviderResponse:
        if isinstance(self._real, Bank):
            return self._real.send(call)
        provider: Provider = self._real
        # It writes its books in steps of its own, which belong to the call.
        self._faults.scheduler.bound(LINE_SECONDS / 4)
        try:
            response: ProviderResponse = getattr(provider, call.kind.value)(call)
        finally:
            self._faults.scheduler.bound(None)
        return response
