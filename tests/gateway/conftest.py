"""One application for the tests of HTTP, its background work not started; each looks at orders of its own only."""

import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from bson import ObjectId

from app.config import Settings
from app.main import create_app, runtime
from tests.stored import hash_of

MEMBERS = {"ok", "type", "title", "status", "detail", "code", "requestId"}
INSIDES = re.compile(
    r"Traceback|File \"|line \d+, in|pymongo|marshmallow|werkzeug|gunicorn|sys\.|<html|<!doctype", re.IGNORECASE
)


@pytest.fixture(scope="session")
def shared_settings(mongodb_uri, mongo) -> Iterator[Settings]:
    name = f"test_{uuid4().hex}"
    # The tests of one worker place more orders than a user may have open.
    limit = 1_000_000
    yield Settings(
        mongodb_uri=mongodb_uri,
        database=name,
        request_deadline=10.0,  # A busy machine may make a command slow.
        log_format="json",
        log_level="warning",
        open_orders_per_user=limit,
    )
    mongo.drop_database(name)


@pytest.fixture(scope="session")
def shared_app(shared_settings) -> Iterator:
    made = create_app(shared_settings)
    runtime(made).prepare()
    yield made
    runtime(made).stop()


@pytest.fixture
def http(shared_app):
    """HTTP to the shared application."""
    return shared_app.test_client()


@pytest.fixture(autouse=True)
def patient_counters(monkeypatch):
    """On a busy machine a count may take longer than a request waits for it, and an uncounted request passes."""
    monkeypatch.setattr("app.storage.rate_limits.TIMEOUT_SECONDS", 20.0)


@pytest.fixture(scope="session")
def orders(shared_settings, mongo):
    """The shared application's orders, to look into."""
    return mongo[shared_settings.database].orders


@pytest.fixture
def captured(http, place, orders) -> str:
    """An order set to Captured in the database: no background work runs here."""
    order_id = place(http)
    orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Success", "paymentStatus": "Captured"}})
    return order_id


@pytest.fixture
def nothing_stored(orders) -> Iterator[None]:
    """Whatever the test does leaves every stored order as it was, and adds none."""
    before = hash_of(orders)
    yield
    assert hash_of(orders) == before


@pytest.fixture(scope="session")
def refused() -> Callable[..., dict]:
    """Check that an answer is this problem, whole and silent about the inside; returns its body."""

    def check(answer, status: int, code: str) -> dict:
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
        body = answer.get_json()
        assert body.keys() >= MEMBERS
        assert (body["ok"], body["status"], body["code"]) == (False, status, code)
        assert body["type"] == f"/problems/{code}"
        assert body["requestId"] == answer.headers["X-Request-Id"] != ""
        assert all(isinstance(body[member], str) and body[member].strip() for member in ("title", "detail"))
        assert not INSIDES.search(answer.text), answer.text
        return body

    return check


@pytest.fixture(scope="session")
def pointers(refused) -> Callable[..., list[str]]:
    """Check that an answer refuses members of a request; returns JSON pointers to them, sorted."""

    def check(answer) -> list[str]:
        errors = refused(answer, 422, "invalid_members")["errors"]
        assert errors
        assert all(error.keys() == {"pointer", "detail"} and error["detail"].strip() for error in errors)
        return sorted({error["pointer"] for error in errors})

    return check
