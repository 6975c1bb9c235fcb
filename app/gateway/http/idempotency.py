"""The Idempotency-Key header, 1 to 255 visible ASCII characters, quoted or not; and the ids of refunds that follow from it."""

import re
import secrets
from hashlib import sha256

from flask import Request

from app.contracts.base import ApplicationError
from app.gateway.apidocs.operation import Parameter

IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    where="header",
    description="Makes repeating safe: the same key and body have one effect. Kept for 24 hours.",
    schema={"type": "string", "pattern": '^("[!#-~]{1,255}"|[!#-~]{1,255})$'},
    example="5f1c7b1e-3a52-4f0a-9d37-0d6a2a1c9e11",
)
KEY = re.compile(r'"([\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')


class MalformedKey(ApplicationError):
    """The header is present but not one valid key."""

    code = "malformed_idempotency_key"


def idempotency_key(request: Request) -> str:
    """The request's key, empty if it has none. Raises MalformedKey."""
    header = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if header is None:
        return ""
    # A repeated header arrives as one, joined by commas.
    key = KEY.fullmatch(header.strip())
    if key is None:
        raise MalformedKey("send one Idempotency-Key, of 1 to 255 visible ASCII characters")
    return key[1] or key[2]


def refund_id_of(order_id: str, key: str) -> str:
    """The id of a refund that is requested with this key; a new one where the key is empty."""
    return sha256(f"{order_id}:{key}".encode()).hexdigest()[:24] if key else secrets.token_hex(12)
