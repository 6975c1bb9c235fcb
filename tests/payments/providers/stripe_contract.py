"""Stripe under the contract of payment providers: what its stand-in and its sandbox have in common."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from unittest.mock import patch

import stripe
from stripe import WebhookSignature

from app.payments.provider_port import Provider, ProviderCall
from app.payments.providers.stripe.provider import StripeProvider, http_client
from tests.payments.providers.contract import Fault, ProviderControls
from tools.chaos.proxy import Direction, Mode, Proxy

WEBHOOK_SECRET = "whsec_standin"
# Long enough for a busy machine, where the test does not wait for its end.
TIMEOUT = 60.0
# Where no answer ever comes, the test waits for it.
SHORT_TIMEOUT = 1.0
MODES = {Fault.BEFORE: Mode.CUT, Fault.AFTER: Mode.ANSWERS_LOST}


@contextmanager
def make_provider(key: str, url: str = "", timeout: float = TIMEOUT) -> Iterator[StripeProvider]:
    """A provider whose connections are closed in the end."""
    with closing(http_client(timeout)) as http:
        yield StripeProvider(key, (WEBHOOK_SECRET,), http, url)


def event(kind: str, about: dict[str, Any], event_id: str = "evt_1") -> bytes:
    """An event as Stripe sends it, which no stand-in has."""
    return json.dumps({"id": event_id, "object": "event", "type": kind, "data": {"object": about}}).encode()


def signed(body: bytes, age: float = 0.0, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
    # The library signs text; a body that is none is signed as the text that comes closest.
    text = body.decode("utf-8", "replace")
    return {"Stripe-Signature": WebhookSignature.generate_signature_header(text, secret, int(time.time() - age))}


class StripeControls(ProviderControls):
    """A provider at `client`'s account, and the same account as a dashboard or a page of the shop uses it."""

    unknown_reference = "pi_unknown"

    def __init__(self, provider: Provider, client: stripe.StripeClient) -> None:
        self.provider = provider
        self.client = client

    def refund_elsewhere(self, charge: ProviderCall, value: int) -> None:
        self.client.v1.refunds.create({"payment_intent": charge.reference, "amount": value})

    def notification(self, charge: ProviderCall) -> tuple[bytes, dict[str, str]]:
        intent = self.client.v1.payment_intents.retrieve(charge.reference)
        body = event("payment_intent.succeeded", intent.to_dict())
        return body, signed(body)

    def foreign_notification(self) -> tuple[bytes, dict[str, str]]:
        foreign = {"id": "pi_foreign", "object": "payment_intent", "metadata": {"order_id": "4711"}}
        body = event("payment_intent.succeeded", foreign)
        return body, signed(body)

    def headers(self, body: bytes, age: float = 0.0) -> dict[str, str]:
        return signed(body, age)


@contextmanager
def behind_proxy(port: int, key: str, fault: Fault) -> Iterator[StripeProvider]:
    """A provider whose line to the stand-in fails. Where an answer is lost, there is one in the end."""
    directions: list[Direction] = []

    class Watched(Direction):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            directions.append(self)

    with (
        patch("tools.chaos.proxy.Direction", Watched),
        Proxy(port) as proxy,
        make_provider(key, f"http://127.0.0.1:{proxy.port}", SHORT_TIMEOUT) as provider,
    ):
        proxy.set_mode(MODES[fault])
        yield provider
        # A busy machine may answer later than the provider waits.
        ends = time.monotonic() + TIMEOUT
        while fault == Fault.AFTER and not any(one.silent for one in directions):
            assert time.monotonic() < ends, "nothing was answered"
            time.sleep(0.02)
