"""The port to payment providers, and the factory of the configured one.

A provider may import what payments may import, and `payment` for calls and responses.
"""

from typing import Protocol

from app.config import BadSettings, Settings
from app.payments.payment import ProviderCall, ProviderResponse
from app.storage.mongodb import Store


class Provider(Protocol):
    """Moves money. Calls may take long and may come from many threads; failures are returned as a ProviderResponse.

    Each effect happens at most once per `call.key`: a repeated call with the same key returns the response to the first.
    An exception counts as an unknown outcome.
    """

    def charge(self, call: ProviderCall) -> ProviderResponse:
        """Take `call.value`: captured, declined, voided, not attempted or unknown."""

    def void(self, call: ProviderCall) -> ProviderResponse:
        """Make sure that `call.key` is never charged: voided, or the response to the charge that came before."""

    def refund(self, call: ProviderCall) -> ProviderResponse:
        """Give `call.value` of the charge `call.charge_key` back: refunded, declined, not attempted or unknown."""

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        """The response stored for `call.key`; None where the provider does not know the key, which proves nothing."""


def make(settings: Settings, ledger: Store) -> Provider:
    """The provider that the settings name. Raises BadSettings for an unknown name."""
    if settings.payment_provider == "simulated":
        from app.payments.providers.simulated import SimulatedProvider

        return SimulatedProvider.from_settings(settings, ledger)
    raise BadSettings(f"PAYMENT_PROVIDER is {settings.payment_provider!r}: there is only 'simulated'")
