"""What Stripe's PaymentIntents, refunds and disputes say, as responses. Pure; objects are given as Stripe's JSON."""

from collections.abc import Mapping
from typing import Any

from app.payments.provider_port import (
    ActionKind,
    DisputeStatus,
    NextAction,
    ProviderDispute,
    ProviderRefund,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers.stripe.amounts import from_stripe
from app.payments.providers.stripe.errors import retry_helps

Json = Mapping[str, Any]

# Marks what this application makes in an account that other programs may use too.
APPLICATION = "orderflow"
REFUND_CODES = {"succeeded": ResponseCode.REFUNDED, "failed": ResponseCode.DECLINED, "canceled": ResponseCode.DECLINED}
DISPUTE_STATUSES = {"won": DisputeStatus.WON, "lost": DisputeStatus.LOST}
# Inquiries, and disputes that were prevented, take no money unless their balance transactions say so.
NO_DISPUTE = ("warning_", "prevented")


def metadata_of(order_id: str, **more: str) -> dict[str, str]:
    """The metadata of an object that belongs to an order."""
    return {"application": APPLICATION, "order_id": order_id, **more}


def order_id_of(made: Json) -> str:
    """The order that an object of Stripe belongs to; empty where another program made it."""
    metadata = made.get("metadata")
    if not isinstance(metadata, Mapping) or metadata.get("application") != APPLICATION:
        return ""
    order_id = metadata.get("order_id")
    return order_id if isinstance(order_id, str) else ""


def payment_response(intent: Json, payment_method: str) -> ProviderResponse:
    """What a PaymentIntent says about its charge.

    `payment_method` is what the application confirms it with; empty where a page of the shop collects it from the customer, who
    may then try several. Opened: nothing has been tried.
    """
    reference = str(intent["id"])
    match intent.get("status"):
        case "succeeded":
            return _amount(intent, ResponseCode.CAPTURED, "amount_received")
        case "requires_capture":
            return _amount(intent, ResponseCode.AUTHORIZED, "amount_capturable")
        case "processing":
            reason = "the customer's bank has not answered"
            return ProviderResponse(code=ResponseCode.PENDING, reference=reference, reason=reason)
        case "requires_action":
            return _action(intent)
        case "requires_payment_method" | "requires_confirmation" if not payment_method:
            return _action(intent)
        case "requires_payment_method":
            return _declined(intent) or ProviderResponse(code=ResponseCode.OPENED, reference=reference)
        case "requires_confirmation":
            return ProviderResponse(code=ResponseCode.OPENED, reference=reference)
        case "canceled":
            return _declined(intent) or ProviderResponse(code=ResponseCode.VOIDED, reference=reference)
    reason = f"Stripe says {intent.get('status')!r}, which this application does not know"
    return ProviderResponse(code=ResponseCode.UNKNOWN, reference=reference, reason=reason)


def is_confirmable(intent: Json) -> bool:
    """Whether somebody with the client secret could still pay a PaymentIntent."""
    return intent.get("status") in ("requires_payment_method", "requires_confirmation", "requires_action")


def refund_response(refund: Json) -> ProviderResponse:
    """What became of a refund."""
    code = REFUND_CODES.get(str(refund.get("status")), ResponseCode.PENDING)
    return ProviderResponse(code=code, reference=str(refund["id"]), reason=_refund_reason(refund, code))


def listed_refund(refund: Json) -> ProviderRefund:
    """A refund in the list of its payment."""
    code = REFUND_CODES.get(str(refund.get("status")), ResponseCode.PENDING)
    return ProviderRefund(
        reference=str(refund["id"]),
        value=from_stripe(refund["amount"], refund["currency"]),
        code=code,
        refund_id=refund_id_of(refund),
        reason=_refund_reason(refund, code),
    )


def refund_id_of(refund: Json) -> str:
    """The application's id of a refund; empty where it was made elsewhere."""
    return str(refund["metadata"].get("refund_id") or "") if order_id_of(refund) else ""


def listed_dispute(dispute: Json) -> ProviderDispute | None:
    """A dispute in the list of its payment; None for one that takes no money."""
    status = str(dispute.get("status"))
    if status.startswith(NO_DISPUTE) and not _is_withdrawn(dispute):
        return None
    return ProviderDispute(
        reference=str(dispute["id"]),
        value=from_stripe(dispute["amount"], dispute["currency"]),
        status=DISPUTE_STATUSES.get(status, DisputeStatus.OPEN),
        reason=str(dispute.get("reason") or ""),
    )


def latest_charge(intent: Json) -> Json:
    """The latest charge of a PaymentIntent that was read with it; empty where there is none."""
    charge = intent.get("latest_charge")
    return charge if isinstance(charge, Mapping) else {}


def _amount(intent: Json, code: ResponseCode, member: str) -> ProviderResponse:
    value = from_stripe(intent[member], intent["currency"])
    return ProviderResponse(code=code, reference=str(intent["id"]), value=value)


def _action(intent: Json) -> ProviderResponse:
    wanted = intent.get("next_action") or {}
    url = (wanted.get("redirect_to_url") or {}).get("url") or ""
    secret = str(intent.get("client_secret") or "")
    action = (
        NextAction(type=ActionKind.REDIRECT, url=url)
        if url
        else NextAction(type=ActionKind.CONFIRM, client_secret=secret)
    )
    return ProviderResponse(
        code=ResponseCode.PENDING, reference=str(intent["id"]), reason="the customer must act", action=action
    )


def _declined(intent: Json) -> ProviderResponse | None:
    """The decline of the latest try; None where there was none. A cancellation may clear the error, and keeps the charge."""
    error, charge = intent.get("last_payment_error"), latest_charge(intent)
    if error:
        code = str(error.get("decline_code") or error.get("code") or "")
        advice = str(error.get("advice_code") or "")
        return decline(str(intent["id"]), str(error.get("message") or code), code, advice)
    if charge.get("status") == "failed":
        code = str((charge.get("outcome") or {}).get("reason") or charge.get("failure_code") or "")
        return decline(str(intent["id"]), str(charge.get("failure_message") or code), code)
    return None


def decline(reference: str, reason: str, code: str, advice: str = "") -> ProviderResponse:
    """A decline, with the code and the advice of the issuer."""
    return ProviderResponse(
        code=ResponseCode.DECLINED,
        reference=reference,
        reason=reason or "declined",
        decline_code=code,
        retry_helps=retry_helps(code, advice),
    )


def _refund_reason(refund: Json, code: ResponseCode) -> str:
    if code == ResponseCode.REFUNDED:
        return ""
    return str(refund.get("failure_reason") or refund.get("pending_reason") or refund.get("status"))


def _is_withdrawn(dispute: Json) -> bool:
    return bool(sum(one["amount"] for one in dispute.get("balance_transactions") or ()) < 0)
