"""Signatures of Standard Webhooks 1.0.0: what a receiver verifies. Pure.

`v1` is HMAC-SHA256 with a secret that both sides have (`whsec_…`). `v1a` is Ed25519: the receiver has the public key only
(`whpk_…`). What is signed is the id, the time in seconds since 1970 and the body, with dots between them.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.contracts.webhooks import SignatureScheme

HMAC_PREFIX = "whsec_"
PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A key that signs until `expires_at`, or without end. `value` begins with `whsec_`, or `whsk_` for Ed25519."""

    value: str
    created_at: datetime
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return f"Secret(…, created_at={self.created_at!r}, expires_at={self.expires_at!r})"

    @property
    def scheme(self) -> SignatureScheme:
        """What it signs with."""
        return SignatureScheme.HMAC if self.value.startswith(HMAC_PREFIX) else SignatureScheme.ED25519

    @property
    def shared(self) -> str:
        """What the receiver verifies with: the secret itself, or the public key."""
        return self.value if self.scheme == SignatureScheme.HMAC else public_key(self.value)


def secret_value(scheme: SignatureScheme, random_bytes: bytes) -> str:
    """A secret as text, from SECRET_BYTES random bytes."""
    prefix = HMAC_PREFIX if scheme == SignatureScheme.HMAC else PRIVATE_PREFIX
    return prefix + b64encode(random_bytes).decode()


def public_key(private: str) -> str:
    """The public key of an Ed25519 secret, as text."""
    return PUBLIC_PREFIX + b64encode(_ed25519(private).public_key().public_bytes_raw()).decode()


def signature_header(secrets: Iterable[Secret], message_id: str, seconds: int, body: bytes) -> str:
    """The value of `webhook-signature`: a signature for each secret, with spaces between them."""
    content = b"%s.%d.%s" % (message_id.encode(), seconds, body)
    return " ".join(_signature(secret.value, content) for secret in secrets)


def _signature(secret: str, content: bytes) -> str:
    if secret.startswith(HMAC_PREFIX):
        key = b64decode(secret.removeprefix(HMAC_PREFIX))
        return f"{SignatureScheme.HMAC},{b64encode(hmac.digest(key, content, sha256)).decode()}"
    return f"{SignatureScheme.ED25519},{b64encode(_ed25519(secret).sign(content)).decode()}"


@lru_cache(maxsize=1024)
def _ed25519(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b64decode(secret.removeprefix(PRIVATE_PREFIX)))
