"""Stripe keeps the contract of payment providers, over HTTP, with what stands in for Stripe."""

import time
from contextlib import AbstractContextManager
from typing import Any

import pytest

from app.payments.provider_port import ProviderCall
from tests.payments.providers.contract import Behaviour, Fault, ProviderContract
from tests.payments.providers.stripe_contract import StripeControls, behind_proxy
from tests.standins.stripe.server import KEY, StripeStandIn

pytestmark = [pytest.mark.extended, pytest.mark.long]

CARDS = {
    Behaviour.DECLINED: "4000000000000341",
    Behaviour.ACTION_REQUIRED: "4000002760003184",
}
BANK_ACCOUNTS = {
    Behaviour.PENDING_CAPTURED: "DE89370400440532013000",
    Behaviour.PENDING_DECLINED: "DE62370400440532013001",
}
SETTLED_SECONDS = 60.0


class StandInControls(StripeControls):
    """The stand-in, and what it lets a test make happen."""

    def __init__(self, standin: StripeStandIn, provider, client) -> None:
        super().__init__(provider, client)
        self.standin = standin

    def members(self, behaviour: Behaviour) -> dict[str, Any]:
        if behaviour in BANK_ACCOUNTS:
            made = self.standin.request(
                "POST", "payment_methods", **{"type": "sepa_debit", "sepa_debit[iban]": BANK_ACCOUNTS[behaviour]}
            )
            if behaviour == Behaviour.PENDING_CAPTURED:
                self.standin.control("banks", payment_method=made["id"], answers="later")
            return {"payment_method": made["id"]}
        number = CARDS.get(behaviour, "4242424242424242")
        card = {"card[number]": number, "card[exp_month]": 12, "card[exp_year]": 2030, "card[cvc]": "123"}
        return {"payment_method": self.standin.request("POST", "payment_methods", type="card", **card)["id"]}

    def faulty(self, fault: Fault) -> AbstractContextManager[Any]:
        return behind_proxy(self.standin.port, KEY, fault)

    def settle(self, charge: ProviderCall) -> None:
        """Its bank answers now, or where it refuses, half a second after the charge."""
        self.standin.control("banks", payment_method=charge.payment_method, answers="now")
        ends = time.monotonic() + SETTLED_SECONDS
        while self._intent(charge)["status"] == "processing":
            assert time.monotonic() < ends, "the bank does not answer"
            time.sleep(0.05)

    def act(self, charge: ProviderCall, approve: bool) -> None:
        secret = self._intent(charge)["client_secret"]
        path = f"payment_intents/{charge.reference}/_authenticate"
        self.standin.request("POST", path, client_secret=secret, success=str(approve).lower())

    def fail_refund(self, refund: ProviderCall) -> None:
        [made] = self.standin.request("GET", "refunds", payment_intent=refund.reference)["data"]
        self.standin.control(f"refunds/{made['id']}", status="failed", failure_reason="expired_or_canceled_card")

    def open_dispute(self, charge: ProviderCall) -> None:
        self._dispute(charge, "needs_response")

    def close_dispute(self, charge: ProviderCall, won: bool) -> None:
        self._dispute(charge, "won" if won else "lost")

    def _intent(self, charge: ProviderCall) -> dict[str, Any]:
        return self.standin.request("GET", f"payment_intents/{charge.reference}")

    def _dispute(self, charge: ProviderCall, status: str) -> None:
        self.standin.control(
            "disputes",
            id=f"dp_{charge.reference}",
            payment_intent=charge.reference,
            amount=charge.value,
            currency="myr",
            status=status,
            reason="fraudulent",
        )


@pytest.fixture
def controls(standin: StripeStandIn, provider, client) -> StandInControls:
    return StandInControls(standin, provider, client)


class TestStripe(ProviderContract):
    pass
