"""Verifies and reads the notifications of Stripe, which it calls events. What one says is a reason to look and no proof."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import stripe

from app.payments.provider_port import NotificationRefused, ProviderNotification
from app.payments.providers.stripe.states import order_id_of

# In bytes; Stripe's largest events are far below.
MAX_BODY = 1024 * 1024
MAX_TEXT = 200
# How many seconds the clocks may differ, in either direction.
TOLERANCE = 300
SIGNATURE = "stripe-signature"
# What happens to a payment. All others are ignored.
TYPES = frozenset(
    {
        *(f"payment_intent.{what}" for what in ("succeeded", "payment_failed", "processing", "requires_action")),
        *("payment_intent.canceled", "payment_intent.amount_capturable_updated"),
        *(f"charge.{what}" for what in ("captured", "expired", "failed", "refunded", "refund.updated")),
        *(f"charge.dispute.{what}" for what in ("created", "updated", "closed")),
        *("charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"),
        *(f"refund.{what}" for what in ("created", "updated", "failed")),
    }
)


def read(body: bytes, headers: Mapping[str, str], secrets: Sequence[str]) -> tuple[ProviderNotification, ...]:
    """The notification in a request; none where it is about something else. Raises NotificationRefused."""
    if len(body) > MAX_BODY:
        raise NotificationRefused("the notification is too large")
    signature = next((value for name, value in headers.items() if name.lower() == SIGNATURE), "")
    if not any(_is_signed(body, signature, secret) for secret in secrets):
        raise NotificationRefused("no secret in STRIPE_WEBHOOK_SECRET fits the signature, or it is too old or too new")
    try:
        return _read_event(json.loads(body))
    except (ValueError, RecursionError) as exc:
        raise NotificationRefused("the notification is not JSON") from exc


def _is_signed(body: bytes, signature: str, secret: str) -> bool:
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE)
        signed_at = int(next(part[2:] for part in signature.split(",") if part.startswith("t=")))
    # A hostile request raises more than the library's own errors.
    except Exception:
        return False
    # The library accepts any time in the future.
    return signed_at <= time.time() + TOLERANCE


def _read_event(event: Any) -> tuple[ProviderNotification, ...]:
    data = event.get("data") if isinstance(event, dict) else None
    about = data.get("object") if isinstance(data, dict) else None
    if not isinstance(about, dict) or not _is_text(event.get("id")) or not _is_text(event.get("type")):
        raise NotificationRefused("the notification is not an event of Stripe")
    if event["type"] not in TYPES:
        return ()
    is_payment = about.get("object") == "payment_intent"
    reference, order_id = about.get("id" if is_payment else "payment_intent"), order_id_of(about)
    if not _is_text(reference) or (is_payment and not order_id):
        return ()
    return (
        ProviderNotification(
            event_id=event["id"],
            type=event["type"],
            reference=str(reference),
            order_id=order_id if _is_text(order_id) else "",
        ),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
