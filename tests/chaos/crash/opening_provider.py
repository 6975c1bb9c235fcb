"""The simulated provider, as one that gives each payment an id before it charges it."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

from app.payments import payment as domain
from app.payments import provider_calls, providers
from app.payments.provider_port import CallKind, ProviderCall, ProviderResponse, ResponseCode
from app.payments.providers.simulated import CAPABILITIES


class OpeningProvider:
    """Charges each id at most once, whatever the key; an id is the key of an entry in the ledger."""

    capabilities = replace(CAPABILITIES, opens=True)

    def __init__(self, settings: Any, ledger: Any) -> None:
        self._provider: Any = providers.make(settings, ledger)

    def prepare(self) -> None:
        self._provider.prepare()

    def open(self, call: ProviderCall) -> ProviderResponse:
        return ProviderResponse(code=ResponseCode.OPENED, reference=uuid4().hex)

    def charge(self, call: ProviderCall) -> ProviderResponse:
        return self._by_id(self._provider.charge(_keyed_by_id(call)), call)

    def void(self, call: ProviderCall) -> ProviderResponse:
        return self._by_id(self._provider.void(_keyed_by_id(call)), call)

    def refund(self, call: ProviderCall) -> ProviderResponse:
        return self._provider.refund(_keyed_by_id(call))

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        found = self._provider.find(_keyed_by_id(call))
        return self._by_id(found, call) if found else None

    def _by_id(self, response: ProviderResponse, call: ProviderCall) -> ProviderResponse:
        return replace(response, reference=call.reference)


def _keyed_by_id(call: ProviderCall) -> ProviderCall:
    key = call.key if call.kind == CallKind.REFUND else call.reference
    return replace(call, key=key, charge_key=call.reference)


def charged_before_its_id_is_stored() -> None:
    """Each attempt charges an id of its own, which is stored with the result only."""
    usual = provider_calls.next_call

    def next_call(payment: domain.Payment) -> ProviderCall | None:
        call = usual(payment)
        if call is None or call.kind != CallKind.OPEN:
            return call
        return replace(call, kind=CallKind.CHARGE, key=call.charge_key, reference=uuid4().hex)

    provider_calls.next_call = next_call
