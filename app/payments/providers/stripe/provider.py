"""Charges, captures, voids and refunds with Stripe's PaymentIntents.

A PaymentIntent is created unconfirmed, and confirmed once its id is stored. Whatever happens to it afterwards is found by that id.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar

import httpx
import stripe

from app.config import Settings
from app.payments.provider_port import (
    CallKind,
    Capabilities,
    DisputeStatus,
    ProviderCall,
    ProviderDispute,
    ProviderNotification,
    ProviderPayment,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers.stripe import notifications, states
from app.payments.providers.stripe.amounts import CURRENCIES, AmountNotPossible, from_stripe, to_stripe
from app.payments.providers.stripe.errors import code_of, is_replayed, response_to, said, unknown_after
from app.payments.providers.stripe.states import Json

# Stripe removes keys when they are at least 24 hours old.
KEY_LIFETIME = 24 * 3600.0
CAPABILITIES = Capabilities(
    name="stripe", key_lifetime=KEY_LIFETIME, opens=True, captures_later=True, notifies=True, currencies=CURRENCIES
)
# The shares of the time for one call to the provider, which may take several requests.
REQUEST_SHARE, CONNECT_SHARE = 0.6, 0.2
PAGE = 100
# Of an error that blames the amount or its currency, and not the application.
AMOUNT_MEMBERS = ("amount", "currency")

# Stripe's library would otherwise send times and names of this machine.
stripe.enable_telemetry = False
# Two lines a request, which the stage of the payment says already.
logging.getLogger("stripe").setLevel(logging.WARNING)

Answer = TypeVar("Answer")


def _unknown_on_error(
    method: Callable[["StripeProvider", ProviderCall], Answer],
) -> Callable[["StripeProvider", ProviderCall], Answer | ProviderResponse]:
    """Make an error that a call does not handle an unknown outcome: an earlier request may have had its effect."""

    @wraps(method)
    def call_or_unknown(self: "StripeProvider", call: ProviderCall) -> Answer | ProviderResponse:
        try:
            return method(self, call)
        except stripe.StripeError as exc:
            return unknown_after(exc)

    return call_or_unknown


def http_client(timeout: float) -> stripe.HTTPXClient:
    """The connections to Stripe, for calls that take up to `timeout` seconds."""
    timeouts = httpx.Timeout(timeout * REQUEST_SHARE, connect=timeout * CONNECT_SHARE)
    return stripe.HTTPXClient(timeout=timeouts, allow_sync_methods=True)


class StripeProvider:
    """Stripe. Any of `webhook_secrets` may have signed a notification; `api_base` is empty for Stripe's own address."""

    capabilities = CAPABILITIES

    def __init__(self, key: str, webhook_secrets: tuple[str, ...], http: stripe.HTTPClient, api_base: str = "") -> None:
        self._webhook_secrets = webhook_secrets
        # The worker repeats calls, and looks first.
        self._client = stripe.StripeClient(
            key, base_addresses={"api": api_base or stripe.DEFAULT_API_BASE}, max_network_retries=0, http_client=http
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> "StripeProvider":
        """The provider that the STRIPE_… settings describe."""
        http = http_client(settings.payment_timeout)
        return cls(settings.stripe_secret_key, settings.stripe_webhook_secrets, http, settings.stripe_api_base)

    def open(self, call: ProviderCall) -> ProviderResponse:
        """Create a PaymentIntent that nobody has confirmed."""
        try:
            amount = to_stripe(call.value, call.currency)
            intent = self._client.v1.payment_intents.create(_new_intent(call, amount), {"idempotency_key": call.key})
        except AmountNotPossible as exc:
            return ProviderResponse(code=ResponseCode.DECLINED, reason=str(exc))
        except stripe.InvalidRequestError as exc:
            blames_amount = exc.param in AMOUNT_MEMBERS or code_of(exc).startswith("amount_")
            return states.decline("", said(exc), code_of(exc)) if blames_amount else response_to(exc)
        except stripe.StripeError as exc:
            return response_to(exc)
        return ProviderResponse(code=ResponseCode.OPENED, reference=intent.id)

    @_unknown_on_error
    def charge(self, call: ProviderCall) -> ProviderResponse:
        """Confirm the PaymentIntent, or without a payment method wait until a page of the shop has."""
        if not call.payment_method:
            return self._settled(self._read(call), call)
        try:
            intent = self._client.v1.payment_intents.confirm(
                call.reference, _confirmation(call), {"idempotency_key": call.key}
            )
        except stripe.CardError as exc:
            return self._cancelled(_decline_by(exc, call), call)
        except stripe.InvalidRequestError as exc:
            return self._not_confirmed(states.decline(call.reference, said(exc), code_of(exc)), call)
        except stripe.StripeError as exc:
            if is_replayed(exc.headers):
                return self._not_confirmed(states.decline(call.reference, said(exc), "processing_error"), call)
            return response_to(exc)
        # A stored response says what was true when the key was new.
        stored = _is_stored(intent)
        return self._settled(self._read(call) if stored else intent.to_dict(), call)

    @_unknown_on_error
    def capture(self, call: ProviderCall) -> ProviderResponse:
        """Capture once. It needs no key: a PaymentIntent that is captured cannot be captured again."""
        try:
            amount = to_stripe(call.value, call.currency)
            intent = self._client.v1.payment_intents.capture(call.reference, {"amount_to_capture": amount})
        except AmountNotPossible as exc:
            return ProviderResponse(code=ResponseCode.REFUSED, reason=str(exc))
        except stripe.InvalidRequestError as exc:
            return self._ended(call) or response_to(exc)
        except stripe.StripeError as exc:
            return response_to(exc)
        return states.payment_response(intent.to_dict(), call.payment_method)

    @_unknown_on_error
    def void(self, call: ProviderCall) -> ProviderResponse:
        """Cancel the PaymentIntent. It needs no key: one that is cancelled or paid cannot be cancelled again."""
        try:
            self._client.v1.payment_intents.cancel(call.reference)
        except stripe.InvalidRequestError as exc:
            return self._not_voided(said(exc), call)
        except stripe.StripeError as exc:
            return response_to(exc)
        return ProviderResponse(code=ResponseCode.VOIDED, reference=call.reference)

    @_unknown_on_error
    def refund(self, call: ProviderCall) -> ProviderResponse:
        """Refund what was captured. An authorization is not refunded: that could release it."""
        intent = self._read(call)
        if states.payment_response(intent, call.payment_method).code != ResponseCode.CAPTURED:
            reason = f"nothing was captured: the PaymentIntent is {intent.get('status')}"
            return ProviderResponse(code=ResponseCode.DECLINED, reason=reason)
        try:
            refund = self._client.v1.refunds.create(
                _new_refund(call, to_stripe(call.value, call.currency)), {"idempotency_key": call.key}
            )
        except AmountNotPossible as exc:
            return ProviderResponse(code=ResponseCode.DECLINED, reason=str(exc))
        except (stripe.InvalidRequestError, stripe.CardError) as exc:
            return states.decline("", said(exc), code_of(exc))
        except stripe.StripeError as exc:
            return response_to(exc)
        if _is_stored(refund):
            refund = self._client.v1.refunds.retrieve(refund.id)
        return states.refund_response(refund.to_dict())

    @_unknown_on_error
    def find(self, call: ProviderCall) -> ProviderResponse | None:
        """What became of the call, by the PaymentIntent's id; None where it has not happened yet."""
        if not call.reference:
            return None
        if call.kind == CallKind.REFUND:
            return next((states.refund_response(one) for one in self._refunds(call) if _is_made_by(call, one)), None)
        if call.kind in (CallKind.VOID, CallKind.CAPTURE):
            return self._ended(call)
        response = self._settled(self._read(call), call)
        never_tried = response.code == ResponseCode.OPENED or (response.action and not call.payment_method)
        return None if never_tried else response

    @_unknown_on_error
    def retrieve(self, call: ProviderCall) -> ProviderResponse:
        """The PaymentIntent with all its refunds and disputes."""
        try:
            intent = self._read(call)
        except stripe.InvalidRequestError as exc:
            return response_to(exc)
        response = self._settled(intent, call)
        if response.code != ResponseCode.CAPTURED:
            return response
        refunds = tuple(map(states.listed_refund, self._refunds(call)))
        return replace(response, refunds=refunds, disputes=self._disputes(intent))

    def notifications(self, body: bytes, headers: Mapping[str, str]) -> tuple[ProviderNotification, ...]:
        """The payment that an event of Stripe is about. Raises NotificationRefused."""
        return notifications.read(body, headers, self._webhook_secrets)

    def list_payments(self, since: datetime) -> Iterator[ProviderPayment]:
        """All PaymentIntents created since then, also those of other programs. Raises OSError where it cannot be read."""
        try:
            listed = self._client.v1.payment_intents.list(
                {"created": {"gte": int(since.timestamp())}, "limit": PAGE, "expand": ["data.latest_charge"]}
            )
            for intent in listed.auto_paging_iter():
                yield self._listed(intent.to_dict())
        except stripe.StripeError as exc:
            raise OSError(response_to(exc).reason) from exc

    def _read(self, call: ProviderCall) -> Json:
        if not call.reference:
            raise ValueError("the call does not name a PaymentIntent")
        intent = self._client.v1.payment_intents.retrieve(call.reference, {"expand": ["latest_charge"]})
        return intent.to_dict()

    def _settled(self, intent: Json, call: ProviderCall) -> ProviderResponse:
        """What the PaymentIntent says. One that is declined is cancelled first, since it could still be paid."""
        response = states.payment_response(intent, call.payment_method)
        if response.code == ResponseCode.DECLINED and states.is_confirmable(intent):
            return self._cancelled(response, call)
        return response

    def _not_confirmed(self, decline: ProviderResponse, call: ProviderCall) -> ProviderResponse:
        """Stripe never confirms it with this key: cancelled, and then `decline`, unless something has happened after all."""
        response = self._settled(self._read(call), call)
        return self._cancelled(decline, call) if response.code == ResponseCode.OPENED else response

    def _cancelled(self, decline: ProviderResponse, call: ProviderCall) -> ProviderResponse:
        """`decline`, once the PaymentIntent is cancelled, or else what it says."""
        try:
            self._client.v1.payment_intents.cancel(call.reference)
        except stripe.InvalidRequestError as exc:
            intent = self._read(call)
            if states.is_confirmable(intent):
                reason = f"declined, and Stripe did not cancel it: {said(exc)}"
                return ProviderResponse(code=ResponseCode.UNKNOWN, reference=call.reference, reason=reason)
            response = states.payment_response(intent, call.payment_method)
            return decline if response.code == ResponseCode.VOIDED else response
        except stripe.StripeError as exc:
            reason = f"declined, and not cancelled yet: {response_to(exc).reason}"
            return ProviderResponse(code=ResponseCode.UNKNOWN, reference=call.reference, reason=reason)
        return decline

    def _ended(self, call: ProviderCall) -> ProviderResponse | None:
        return _end_of(self._read(call), call)

    def _not_voided(self, reason: str, call: ProviderCall) -> ProviderResponse:
        """What stands in the way: the end of the payment, or a bank that is at work on it."""
        intent = self._read(call)
        ended = _end_of(intent, call)
        if ended or intent.get("status") == "processing":
            return ended or states.payment_response(intent, call.payment_method)
        return ProviderResponse(code=ResponseCode.UNKNOWN, reference=call.reference, reason=reason)

    def _refunds(self, call: ProviderCall) -> Iterator[Json]:
        listed = self._client.v1.refunds.list({"payment_intent": call.reference, "limit": PAGE})
        return (refund.to_dict() for refund in listed.auto_paging_iter())

    def _disputes(self, intent: Json) -> tuple[ProviderDispute, ...]:
        if not states.latest_charge(intent).get("disputed"):
            return ()
        listed = self._client.v1.disputes.list({"payment_intent": intent["id"], "limit": PAGE})
        disputes = (states.listed_dispute(dispute.to_dict()) for dispute in listed.auto_paging_iter())
        return tuple(dispute for dispute in disputes if dispute)

    def _listed(self, intent: Json) -> ProviderPayment:
        charge, currency = states.latest_charge(intent), intent["currency"]
        disputes = self._disputes(intent)
        return ProviderPayment(
            reference=intent["id"],
            order_id=states.order_id_of(intent),
            at=datetime.fromtimestamp(intent["created"], UTC),
            code=states.payment_response(intent, "").code,
            currency=currency.upper(),
            captured=from_stripe(intent.get("amount_received") or 0, currency),
            refunded=from_stripe(charge.get("amount_refunded") or 0, currency),
            disputed=sum(dispute.value for dispute in disputes if dispute.status != DisputeStatus.WON),
            disputes=len(disputes),
        )


def _end_of(intent: Json, call: ProviderCall) -> ProviderResponse | None:
    """The end of the payment, for a call that makes it end; None where it has not ended."""
    if intent.get("status") == "canceled":
        return ProviderResponse(code=ResponseCode.VOIDED, reference=call.reference)
    response = states.payment_response(intent, call.payment_method)
    return response if response.code == ResponseCode.CAPTURED else None


def _decline_by(error: stripe.CardError, call: ProviderCall) -> ProviderResponse:
    facts = error.error
    code = (facts and facts.decline_code) or code_of(error)
    return states.decline(call.reference, said(error), code, (facts and facts.advice_code) or "")


def _is_made_by(call: ProviderCall, refund: Json) -> bool:
    return bool(call.refund_id) and states.refund_id_of(refund) == call.refund_id


def _new_refund(call: ProviderCall, amount: int) -> Any:
    metadata = states.metadata_of(call.order_id, refund_id=call.refund_id)
    return {"payment_intent": call.reference, "amount": amount, "metadata": metadata}


def _new_intent(call: ProviderCall, amount: int) -> Any:
    # A payment method that sends its customer away needs an address to come back to; a page of the shop has its own.
    redirects = "never" if call.payment_method and not call.return_url else "always"
    return {
        "amount": amount,
        "currency": call.currency.lower(),
        "capture_method": "manual" if call.manual_capture else "automatic",
        "automatic_payment_methods": {"enabled": True, "allow_redirects": redirects},
        "metadata": states.metadata_of(call.order_id, generation=call.charge_key.rpartition(":")[2]),
    }


def _confirmation(call: ProviderCall) -> Any:
    return {"payment_method": call.payment_method, **({"return_url": call.return_url} if call.return_url else {})}


def _is_stored(answer: stripe.StripeObject) -> bool:
    """Whether an answer is the stored one to an earlier request with the same key."""
    return answer.last_response is not None and is_replayed(answer.last_response.headers)
