"""One user's failing or slow payments hold up nobody else's."""

import pytest

from tests.chaos.http_client import CLIENT
from tools.cluster.servers import Server

pytestmark = [pytest.mark.extended, pytest.mark.long]

ORDER = {"productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}


@pytest.fixture
def server(tmp_path, settings):
    """A server with few lines to its provider and a circuit breaker that opens soon and for long."""
    environ = {
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        # A busy machine may make a command slow.
        "REQUEST_DEADLINE": "10",
        "PAYMENT_THREADS": "8",
        "BREAKER_FAILURES": "5",
        "BREAKER_RECOVERY": "600",
    }
    with Server(tmp_path, environ) as started:
        yield started


def place(server, user_id, product_id="1", **headers):
    body = {**ORDER, "userId": user_id, "productId": product_id}
    answer = CLIENT.post(f"{server.url}/orders", json=body, headers=headers, timeout=40)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.mark.parametrize(("product", "count"), [("flaky", 60), ("slow", 150)])
def test_others_are_paid_before_one_users_crowd_of_troubled_orders_is(server, database, product, count):
    for _ in range(count):
        place(server, "crowd", product)
    waiting = {"userId": "crowd", "orderStatus": "Processing"}
    before = database.orders.count_documents(waiting)
    for number in range(6):
        settled = place(server, f"other-{number}", Prefer="wait=30")
        assert settled["order"]["orderStatus"] == "Success", settled
        if number == 0:
            # As it was when this one was paid, which may be some time ago.
            paid_at = database.orders.find_one({"userId": "other-0"})["updatedAt"]
            waited = {"userId": "crowd", "$or": [{"orderStatus": "Processing"}, {"updatedAt": {"$gt": paid_at}}]}
            assert database.orders.count_documents(waited) > before / 2
