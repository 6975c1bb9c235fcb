"""Notifications of the simulated provider: JSON that an HMAC signs together with its time, as those of real ones are. Pure."""

import hmac
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256

import msgspec

from app.payments.provider_port import NotificationRefused, ProviderNotification

HEADER = "Simulated-Signature"
MAX_BYTES = 64 * 1024
MAX_AGE_SECONDS = 300
MAX_HEADER_LENGTH = 200
MAX_TEXT_LENGTH = 200


class NotificationMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a notification says: `id` is the same in every repetition, `reference` names the payment."""

    id: str
    type: str
    reference: str
    order_id: str


def encode(message: NotificationMessage, secret: bytes, now: datetime) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a notification."""
    body = msgspec.json.encode(message)
    return body, {"Content-Type": "application/json", HEADER: signature(body, secret, now)}


def signature(body: bytes, secret: bytes, at: datetime) -> str:
    """The signature of a body that is sent at this time."""
    seconds = str(int(at.timestamp()))
    return f"t={seconds},v1={_digest(seconds, body, secret)}"


def decode(body: bytes, headers: Mapping[str, str], secret: bytes, now: datetime) -> ProviderNotification:
    """The notification in a request. Raises NotificationRefused where the provider has not sent it just now."""
    if len(body) > MAX_BYTES:
        raise NotificationRefused("the notification is too long")
    seconds = _verified_time(body, _header(headers), secret)
    if abs(now.timestamp() - seconds) > MAX_AGE_SECONDS:
        raise NotificationRefused("the notification was signed at another time")
    message = _message(body)
    return ProviderNotification(
        event_id=message.id, type=message.type, reference=message.reference, order_id=message.order_id
    )


def _header(headers: Mapping[str, str]) -> str:
    found = [value for name, value in headers.items() if name.lower() == HEADER.lower()]
    if len(found) != 1 or len(found[0]) > MAX_HEADER_LENGTH or not found[0].isascii():
        raise NotificationRefused("the notification is not signed")
    return found[0]


def _verified_time(body: bytes, header: str, secret: bytes) -> int:
    seconds, _, given = header.removeprefix("t=").partition(",v1=")
    # At most 12 digits: a longer number is no time.
    if not (seconds.isdecimal() and len(seconds) <= 12 and hmac.compare_digest(given, _digest(seconds, body, secret))):
        raise NotificationRefused("the signature is not the provider's")
    return int(seconds)


def _digest(seconds: str, body: bytes, secret: bytes) -> str:
    return hmac.new(secret, seconds.encode() + b"." + body, sha256).hexdigest()


def _message(body: bytes) -> NotificationMessage:
    try:
        message = msgspec.json.decode(body, type=NotificationMessage)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise NotificationRefused(f"the notification is not valid: {type(exc).__name__}") from None
    texts = (message.id, message.type, message.reference, message.order_id)
    if not all(0 < len(text) <= MAX_TEXT_LENGTH and text.isprintable() for text in texts):
        raise NotificationRefused("a member of the notification is no short text")
    return message
