"""An application that asks who calls, attacked: two users, an operator, and strangers."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import jwt
import pytest
from bson import ObjectId
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from app.config import Settings
from app.main import create_app, runtime
from tests.security.surface import BODIES
from tests.stored import hash_of

NEW_ORDER = BODIES["POST", "/orders"]
ISSUER, AUDIENCE = "https://issuer.example", "orderflow"
# All that a user may be given for their own orders; what each scope alone allows is tried in test_api5.
USER_SCOPES = "orders:read orders:write orders:fulfil orders:refund webhooks:manage"
MEMBERS = {"ok", "type", "title", "status", "detail", "code", "requestId"}
INSIDES = re.compile(
    r"Traceback|File \"|line \d+, in|pymongo|bson|mongo|marshmallow|werkzeug|gunicorn|python|jwt\b|/app/|<html",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Issuer:
    """Who signs tokens, with the key that the application trusts."""

    key: rsa.RSAPrivateKey

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def claims(self, sub: str = "ada", scope: str = USER_SCOPES, **changes: Any) -> dict[str, Any]:
        """Good claims, with changes; None takes one away."""
        now = int(time.time())
        # Some tokens are made once for all tests, and these may take long.
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "iat": now, "exp": now + 86400, "scope": scope}
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def token(self, sub: str = "ada", scope: str = USER_SCOPES, **changes: Any) -> str:
        return jwt.encode(self.claims(sub, scope, **changes), self.key, algorithm="RS256")


class User:
    """A client that shows its token with every request."""

    def __init__(self, client: Any, token: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def open(self, method: str, address: str, **more: Any) -> Any:
        headers = {**self._headers, "X-Request-Id": "same", **more.pop("headers", {})}
        return self._client.open(address, method=method, headers=headers, **more)


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer(rsa.generate_private_key(public_exponent=65537, key_size=2048))


@pytest.fixture(scope="session")
def fort_settings(mongodb_uri, mongo, issuer) -> Iterator[Settings]:
    name = f"test_{uuid4().hex}"
    yield Settings(
        mongodb_uri=mongodb_uri,
        database=name,
        log_format="json",
        log_level="warning",
        auth_jwt_algorithm="RS256",
        auth_jwt_key=issuer.public_pem.decode(),
        auth_jwt_issuer=ISSUER,
        auth_jwt_audience=AUDIENCE,
        auth_failure_limit="1000000/second",
        request_deadline=10.0,  # A busy machine may make a command slow.
        # The tests of one worker place more orders than a user may have open.
        open_orders_per_user=1_000_000,
    )
    mongo.drop_database(name)


@pytest.fixture(scope="session")
def fort(fort_settings) -> Iterator:
    """The application, its background work not started."""
    made = create_app(fort_settings)
    runtime(made).prepare()
    yield made
    runtime(made).stop()


@pytest.fixture(scope="session")
def orders(fort_settings, mongo):
    """Its orders, to look into."""
    return mongo[fort_settings.database].orders


@pytest.fixture(scope="session")
def endpoints(fort_settings, mongo):
    """Its endpoints of webhooks, to look into."""
    return mongo[fort_settings.database].webhook_endpoints


@pytest.fixture(scope="session")
def ada(fort, issuer) -> User:
    return User(fort.test_client(), issuer.token("ada"))


@pytest.fixture(scope="session")
def bob(fort, issuer) -> User:
    return User(fort.test_client(), issuer.token("bob"))


@pytest.fixture(scope="session")
def operator(fort, issuer) -> User:
    return User(fort.test_client(), issuer.token("olga", "orders:admin"))


@pytest.fixture(scope="session")
def stranger(fort) -> User:
    return User(fort.test_client(), "")


@pytest.fixture(scope="session")
def order_of(fort, issuer, orders) -> Callable[..., str]:
    """Place an order of a user, set it to Captured in the database, and return its id."""

    def place(user_id: str, **changes: Any) -> str:
        client = User(fort.test_client(), issuer.token(user_id))
        answer = client.open("POST", "/orders", json={**NEW_ORDER, "userId": user_id, **changes})
        assert answer.status_code == 201, answer.text
        order_id = answer.json["created"]["id"]
        captured = {"orderStatus": "Success", "paymentStatus": "Captured"}
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": captured})
        return order_id

    return place


@pytest.fixture
def untouched(orders) -> Iterator[None]:
    """Whatever the test does leaves every stored order as it was, and adds none."""
    before = hash_of(orders)
    yield
    assert hash_of(orders) == before


@pytest.fixture(scope="session")
def refused() -> Callable[..., dict]:
    """Check that an answer is this problem, whole and silent about the inside; returns its body."""

    def check(answer: Any, status: int, code: str | None = None) -> dict:
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
        body = json.loads(answer.data)
        assert body.keys() >= MEMBERS
        assert (body["ok"], body["status"]) == (False, status)
        assert code in (None, body["code"]), body
        assert body["requestId"] == answer.headers["X-Request-Id"] != ""
        assert not INSIDES.search(answer.text), answer.text
        return body

    return check
