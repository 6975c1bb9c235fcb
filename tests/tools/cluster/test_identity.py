"""A cluster with authentication: the gateway checks tokens, and another user's order is not found."""

import time

import httpx
import jwt
import pytest

from tools.cluster.cluster import Cluster

pytestmark = [pytest.mark.extended, pytest.mark.long]

KEY = "a key of 32 bytes, neither more or less"
AUTHENTICATION = {
    "AUTH_JWT_ALGORITHM": "HS256",
    "AUTH_JWT_KEY": KEY,
    "AUTH_JWT_ISSUER": "https://issuer.example",
    "AUTH_JWT_AUDIENCE": "orderflow",
}
SCOPES = "orders:read orders:write orders:fulfil orders:refund"
ORDER = {"productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}


@pytest.fixture
def cluster(mongodb_uri, bus_url, bus_prefix, mongo, tmp_path):
    """A process of each module; only the gateway has the settings of authentication."""

    def extra_environ(name, *_):
        # A busy machine may make a command slow.
        return {"REQUEST_DEADLINE": "10", **(AUTHENTICATION if name.startswith("gateway") else {})}

    made = Cluster(tmp_path, extra_environ=extra_environ, mongodb_uri=mongodb_uri, bus_url=bus_url, prefix=bus_prefix)
    with made:
        yield made
    for database in made.databases().values():
        mongo.drop_database(database)


def bearer(user_id, scope=SCOPES):
    now = int(time.time())
    claims = {
        "iss": AUTHENTICATION["AUTH_JWT_ISSUER"],
        "aud": "orderflow",
        "sub": user_id,
        "iat": now,
        "exp": now + 600,
    }
    return {"Authorization": f"Bearer {jwt.encode(claims | {'scope': scope}, KEY)}"}


def test_a_foreign_order_is_absent_and_its_owner_sees_and_refunds_it(cluster):
    with httpx.Client(base_url=cluster.any_url(), timeout=40, trust_env=False) as http:
        body = {**ORDER, "userId": "owner"}
        assert http.post("/orders", json=body).status_code == 401
        assert http.post("/orders", json=body, headers=bearer("stranger")).status_code == 403
        assert http.post("/orders", json=body, headers=bearer("owner", "orders:read")).status_code == 403
        placed = http.post("/orders", json=body, headers=bearer("owner") | {"Prefer": "wait=30"})
        assert (placed.status_code, placed.json()["order"]["orderStatus"]) == (201, "Success"), placed.text
        order_id = placed.json()["created"]["id"]
        for path in (f"/orders/one/{order_id}", f"/orders/status/{order_id}", f"/orders/one/{order_id}/events"):
            assert http.get(path, headers=bearer("owner")).status_code == 200
            assert http.get(path, headers=bearer("stranger")).status_code == 404
        refund = f"/orders/one/{order_id}/refunds"
        assert http.post(refund, json={}, headers=bearer("stranger")).status_code == 404
        assert http.post(refund, json={"amount": "RM 1"}, headers=bearer("owner")).status_code == 201
