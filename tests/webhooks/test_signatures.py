"""Signatures are verified by a library that we did not write, and by the public key alone."""

from base64 import b64decode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.webhooks.signatures import (
    PUBLIC_PREFIX,
    Secret,
    SignatureScheme,
    public_key,
    secret_value,
    signature_header,
)

BODY = b'{"type":"order.succeeded","data":{"name":"caf\xc3\xa9"}}'


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


def a_secret(scheme: SignatureScheme, now: datetime, first: int = 0) -> Secret:
    return Secret(value=secret_value(scheme, bytes(range(first, first + 32))), created_at=now)


def headers(signature: str, now: datetime) -> dict[str, str]:
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }


def test_a_library_verifies_the_signature(now):
    secret = a_secret(SignatureScheme.HMAC, now)
    signed = headers(signature_header([secret], "evt_1", int(now.timestamp()), BODY), now)
    assert Webhook(secret.value).verify(BODY, signed)["type"] == "order.succeeded"


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp", "secret"])
def test_a_library_refuses_what_was_changed(now, changed):
    secret = a_secret(SignatureScheme.HMAC, now)
    signed = headers(signature_header([secret], "evt_1", int(now.timestamp()), BODY), now)
    verifier = Webhook(a_secret(SignatureScheme.HMAC, now, 7).value if changed == "secret" else secret.value)
    if changed == "webhook-id":
        signed["webhook-id"] = "evt_2"
    if changed == "webhook-timestamp":
        signed["webhook-timestamp"] = str(int((now + timedelta(seconds=1)).timestamp()))
    with pytest.raises(WebhookVerificationError):
        verifier.verify(BODY + b" " if changed == "body" else BODY, signed)


def test_while_a_secret_is_replaced_both_verify(now):
    former, new = (a_secret(SignatureScheme.HMAC, now, first) for first in (0, 50))
    signed = headers(signature_header([new, former], "evt_1", int(now.timestamp()), BODY), now)
    for secret in (former, new):
        Webhook(secret.value).verify(BODY, signed)


def test_the_public_key_verifies_an_ed25519_signature(now):
    secret = a_secret(SignatureScheme.ED25519, now)
    scheme, _, signature = signature_header([secret], "evt_1", 1234, BODY).partition(",")
    key = Ed25519PublicKey.from_public_bytes(b64decode(public_key(secret.value).removeprefix(PUBLIC_PREFIX)))
    assert scheme == "v1a"
    key.verify(b64decode(signature), b"evt_1.1234." + BODY)
    with pytest.raises(InvalidSignature):
        key.verify(b64decode(signature), b"evt_1.1235." + BODY)


def test_the_private_key_is_never_what_the_receiver_gets(now):
    secret = a_secret(SignatureScheme.ED25519, now)
    assert secret.shared.startswith(PUBLIC_PREFIX)
    assert secret.value not in repr(secret)
    assert a_secret(SignatureScheme.HMAC, now).shared.startswith("whsec_")
