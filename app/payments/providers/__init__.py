"""The payment providers behind the port, and the factory of the configured one.

A provider may import what payments may import, and `provider_port` for calls and responses.
"""

from app.config import BadSettings, Settings
from app.payments.provider_port import Provider
from app.storage.mongodb import Store


def make(settings: Settings, ledger: Store) -> Provider:
    """The provider that the settings name. Raises BadSettings for an unknown name."""
    if settings.payment_provider == "simulated":
        from app.payments.providers.simulated import SimulatedProvider

        return SimulatedProvider.from_settings(settings, ledger)
    raise BadSettings(f"PAYMENT_PROVIDER is {settings.payment_provider!r}: there is only 'simulated'")
