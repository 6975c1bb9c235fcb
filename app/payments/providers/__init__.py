"""The payment providers behind the port, and the factory of the configured one.

A provider may import what payments may import, and `provider_port` for calls and responses.
"""

from app.config import BadSettings, Settings
from app.payments.provider_port import Provider
from app.storage.mongodb import Store


def make(settings: Settings, ledger: Store) -> Provider:
    """The provider that the settings name. Raises BadSettings for an unknown name, and where its library is not installed."""
    if settings.payment_provider == "simulated":
        from app.payments.providers.simulated import SimulatedProvider

        return SimulatedProvider.from_settings(settings, ledger)
    if settings.payment_provider == "stripe":
        return _make_stripe(settings)
    raise BadSettings(f"PAYMENT_PROVIDER is {settings.payment_provider!r}: use simulated or stripe")


def _make_stripe(settings: Settings) -> Provider:
    try:
        from app.payments.providers.stripe.provider import StripeProvider
    except ModuleNotFoundError as exc:
        if exc.name != "stripe":
            raise
        raise BadSettings(
            "PAYMENT_PROVIDER is stripe, and its library is missing: pip install 'orderflow[stripe]'"
        ) from exc
    return StripeProvider.from_settings(settings)
