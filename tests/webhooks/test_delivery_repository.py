"""What is due is claimed by turns of the endpoints, whatever waits for those that take nothing."""

from datetime import UTC, datetime, timedelta

import pytest

from app.storage.mongodb import Database
from app.webhooks.delivery_repository import DeliveryRepository


@pytest.fixture
def repository(settings):
    database = Database(settings.mongodb_uri, settings.database)
    made = DeliveryRepository(database.collection("webhook_deliveries", 10.0), 30.0)
    made.prepare()
    yield made
    database.close()


@pytest.fixture
def put_due(deliveries):
    """Store deliveries that have been due for an hour, each of them for a different time."""

    def put(endpoint_id: str, count: int) -> None:
        began = datetime.now(UTC) - timedelta(hours=1)
        deliveries.insert_many(
            {
                "_id": f"{number}.{endpoint_id}",
                "endpointId": endpoint_id,
                "eventId": str(number),
                "type": "order.created",
                "body": "{}",
                "status": "pending",
                "createdAt": began,
                "tries": 0,
                "dueAt": began + timedelta(milliseconds=number),
            }
            for number in range(count)
        )

    return put


def claimed(repository, limit: int, except_of=()) -> list[str]:
    found, _ = repository.claim_due(limit, except_of, list)
    return [one.delivery_id for one in found]


def test_an_endpoint_with_many_deliveries_lets_the_others_have_their_turn(repository, put_due):
    put_due("a", 30)
    put_due("b", 1)
    put_due("c", 2)
    assert claimed(repository, 10) == [f"{number}.a" for number in range(10)]
    assert sorted(claimed(repository, 10)) == sorted(
        ["0.b", "0.c", "1.c", *(f"{number}.a" for number in range(10, 17))]
    )
    assert len(claimed(repository, 10)) == 10
    assert len(claimed(repository, 10)) == 3
    assert claimed(repository, 10) == []


def test_what_waits_for_endpoints_that_take_nothing_is_not_looked_at(repository, put_due, database):
    put_due("dead", 5000)
    put_due("living", 3)
    database.command("profile", 2)
    assert len(claimed(repository, 128, ["dead"])) == 3
    database.command("profile", 0)
    looks = list(database["system.profile"].find({"op": "query", "ns": {"$regex": "deliveries$"}}))
    assert looks
    assert sum(one["keysExamined"] for one in looks) < 50
