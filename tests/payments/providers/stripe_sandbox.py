"""Stripe keeps the contract of payment providers in its own test mode: `STRIPE_TEST_KEY=sk_test_… make test-stripe`.

What takes Stripe a while is waited for; what needs a browser or a broken line is left out.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, ClassVar

import pytest
import stripe

from app.payments.provider_port import CallKind, DisputeStatus, ProviderCall, ResponseCode
from app.payments.providers.stripe.provider import StripeProvider, http_client
from tests.payments.providers.contract import Behaviour, ProviderContract
from tests.payments.providers.stripe_contract import TIMEOUT, StripeControls, make_provider

PAYMENT_METHODS = {
    Behaviour.DECLINED: "pm_card_visa_chargeDeclined",
    Behaviour.REFUND_FAILS: "pm_card_refundFail",
    Behaviour.DISPUTED: "pm_card_createDispute",
}
# Stripe says "some time later".
LATER_SECONDS = 90.0
EVIDENCE = {True: "winning_evidence", False: "losing_evidence"}


class SandboxControls(StripeControls):
    """Stripe's test mode. What its test cards do by themselves is waited for."""

    currency = os.environ.get("STRIPE_TEST_CURRENCY", "USD")

    def members(self, behaviour: Behaviour) -> dict[str, Any]:
        return {"payment_method": PAYMENT_METHODS.get(behaviour, "pm_card_visa")}

    def fail_refund(self, refund: ProviderCall) -> None:
        self._await(lambda: self.provider.find(refund).code == ResponseCode.DECLINED)

    def open_dispute(self, charge: ProviderCall) -> None:
        self._await(lambda: self._disputes(charge))

    def close_dispute(self, charge: ProviderCall, won: bool) -> None:
        [dispute] = self._disputes(charge)
        evidence = {"evidence": {"uncategorized_text": EVIDENCE[won]}, "submit": True}
        self.client.v1.disputes.update(dispute.reference, evidence)
        self._await(lambda: self._disputes(charge)[0].status != DisputeStatus.OPEN)

    def _disputes(self, charge: ProviderCall):
        retrieval = ProviderCall(**vars(charge) | {"kind": CallKind.RETRIEVE})
        return self.provider.retrieve(retrieval).disputes

    def _await(self, happened: Callable[[], Any]) -> None:
        ends = time.monotonic() + LATER_SECONDS
        while not happened():
            assert time.monotonic() < ends, "it did not happen in Stripe's test mode"
            time.sleep(1.0)


@pytest.fixture(scope="session")
def key() -> str:
    given = os.environ["STRIPE_TEST_KEY"]
    # Not an assertion, which would show the key.
    if not given.startswith(("sk_test_", "rk_test_")):
        pytest.exit("STRIPE_TEST_KEY is no test key: these tests never use real money", returncode=1)
    return given


@pytest.fixture(scope="session")
def provider(key) -> Iterator[StripeProvider]:
    with make_provider(key) as made:
        yield made


@pytest.fixture(scope="session")
def client(key) -> Iterator[stripe.StripeClient]:
    with closing(http_client(TIMEOUT)) as http:
        yield stripe.StripeClient(key, http_client=http)


@pytest.fixture
def controls(provider, client) -> SandboxControls:
    return SandboxControls(provider, client)


class TestSandbox(ProviderContract):
    cannot: ClassVar = {
        "line faults": "the line to Stripe is encrypted: nothing on the way can fail as these tests want",
        "action": "a person must authenticate at the page of a bank",
        "pending": "no card of the test mode stays pending, and a bank debit needs a mandate",
        "pending decline": "no card of the test mode stays pending, and a bank debit needs a mandate",
    }
    left_out: ClassVar = 15
