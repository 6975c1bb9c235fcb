"""The port to payment providers, and the providers there are."""

from typing import Protocol

from app.config import BadSettings, Settings
from app.payments.payment import Call, ProviderResponse
from app.storage.mongodb import Store


class Provider(Protocol):
    """Moves money. Calls may take long and may come from many threads; whatever goes wrong is told as an Outcome.

    Each effect happens at most once per `call.key`: a repeated call with the same key tells what became of the
    first. Exceptions count as unknown outcomes.
    """

    def charge(self, call: Call) -> ProviderResponse:
        """Take `call.value`: captured, declined, voided, not attempted or unknown."""

    def void(self, call: Call) -> ProviderResponse:
        """Make sure that `call.key` is never charged: voided, or what had become of the charge before."""

    def refund(self, call: Call) -> ProviderResponse:
        """Give `call.value` of the charge `call.charge_key` back: refunded, declined, not attempted or unknown."""

    def find(self, call: Call) -> ProviderResponse | None:
        """What became of `call.key`; None when the provider does not know it, which proves nothing."""


def make(settings: Settings, ledger: Store) -> Provider:
    """The provider that the settings name."""
    if settings.payment_provider == "simulated":
        from app.payments.providers.simulated import SimulatedProvider

        return SimulatedProvider.from_settings(settings, ledger)
    raise BadSettings(f"PAYMENT_PROVIDER is {settings.payment_provider!r}: there is only 'simulated'")
