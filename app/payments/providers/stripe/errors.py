"""What an error of Stripe's library says about the call: whether Stripe may have acted, and whether another try can help."""

from collections.abc import Mapping
from dataclasses import replace

import httpx
import stripe

from app.payments.provider_port import ProviderResponse, ResponseCode

# The request was not sent.
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
# Another request works on the same key or payment.
IN_USE = frozenset({"idempotency_key_in_use", "lock_timeout"})
SOON_SECONDS = 2.0
# An operator must change the key first.
WRONG_KEY_SECONDS = 60.0
# Issuers advise these where the same customer may succeed another time.
RETRY_HELPS = frozenset({"try_again_later", "confirm_card_data"})
RETRY_HELPS_CODES = frozenset(
    {
        *("authentication_required", "expired_card", "incorrect_cvc", "incorrect_number", "insufficient_funds"),
        *("issuer_not_available", "payment_intent_authentication_failure", "processing_error", "reenter_transaction"),
        "try_again_later",
    }
)


def response_to(error: stripe.StripeError) -> ProviderResponse:
    """The response that an error stands for, where it says nothing about the payment itself.

    A request that Stripe did not take up is `not attempted`. What it may have taken up is `unknown`. A request that it will never
    take is `refused`: sending it again, or with another key, is of no use.
    """
    if isinstance(error, stripe.APIConnectionError):
        return _not_connected(error)
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return ProviderResponse(
            code=ResponseCode.NOT_ATTEMPTED,
            reason=f"Stripe refuses the key in STRIPE_SECRET_KEY: {said(error)}",
            retry_after=WRONG_KEY_SECONDS,
            counts_as_try=False,
        )
    if isinstance(error, stripe.RateLimitError):
        return ProviderResponse(
            code=ResponseCode.NOT_ATTEMPTED,
            reason=f"Stripe asks for fewer requests: {said(error)}",
            retry_after=max(_retry_after(error), SOON_SECONDS),
            counts_as_try=False,
            blames_provider=code_of(error) not in IN_USE,
        )
    if isinstance(error, stripe.IdempotencyError):
        reason = f"the key was sent before with other members, which is a defect of this application: {said(error)}"
        return ProviderResponse(code=ResponseCode.REFUSED, reason=reason, blames_provider=False)
    if isinstance(error, stripe.InvalidRequestError | stripe.CardError):
        return ProviderResponse(code=ResponseCode.REFUSED, reason=f"Stripe: {said(error)}", blames_provider=False)
    if code_of(error) in IN_USE:
        reason = "another request with this key is under way"
        return ProviderResponse(
            code=ResponseCode.UNKNOWN, reason=reason, retry_after=SOON_SECONDS, blames_provider=False
        )
    return ProviderResponse(
        code=ResponseCode.UNKNOWN, reason=f"Stripe failed with status {error.http_status}: {said(error)}"
    )


def unknown_after(error: stripe.StripeError) -> ProviderResponse:
    """The response to a call with an error in a later request: an earlier one may have had its effect."""
    return replace(response_to(error), code=ResponseCode.UNKNOWN)


def said(error: stripe.StripeError) -> str:
    """What Stripe says, on one line, with the id of the request for its support."""
    text = " ".join(str(error.user_message or type(error).__name__).split())
    return f"{text} ({error.request_id})" if error.request_id else text


def code_of(error: stripe.StripeError) -> str:
    """Stripe's code of the error; empty where there is none. Some errors have it only in their body."""
    return error.code or (error.error.code if error.error else None) or ""


def is_replayed(headers: Mapping[str, str] | None) -> bool:
    """Whether a response is the stored one to an earlier request with the same key."""
    return bool(httpx.Headers(headers).get("idempotent-replayed") == "true")


def retry_helps(decline_code: str, advice_code: str) -> bool:
    """Whether the customer may succeed another time, by the issuer's advice, or else by the code of the decline."""
    return advice_code in RETRY_HELPS or (not advice_code and decline_code in RETRY_HELPS_CODES)


def _not_connected(error: stripe.APIConnectionError) -> ProviderResponse:
    cause = error.__cause__
    name = type(cause).__name__ if cause else "no connection"
    if isinstance(cause, NEVER_SENT):
        return ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason=f"Stripe cannot be reached: {name}")
    return ProviderResponse(code=ResponseCode.UNKNOWN, reason=f"Stripe did not answer: {name}")


def _retry_after(error: stripe.StripeError) -> float:
    """The pause that Stripe asks for, in seconds; 0 where it does not."""
    text = httpx.Headers(error.headers or {}).get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0
