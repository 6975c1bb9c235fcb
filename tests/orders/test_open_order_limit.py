"""One user may have so many orders open, and no more; others do not notice."""

from dataclasses import replace

import pytest

from app.contracts.orders import TooManyOpenOrders
from app.main import create_app, runtime
from app.orders.open_order_limit import OpenOrderLimit
from tests.stopped_clock import StoppedClock


@pytest.fixture
def clock():
    return StoppedClock()


class Counter:
    """Counts a user's open orders, and how often it is asked."""

    def __init__(self):
        self.open, self.asked = {}, 0

    def __call__(self, user_id, limit):
        self.asked += 1
        return min(limit, self.open.get(user_id, 0))


def test_orders_are_counted_once_for_an_eighth_of_the_limit():
    count = Counter()
    limit = OpenOrderLimit(count, 80)
    for _ in range(100):
        limit.check("a")
    assert count.asked == 9


def test_a_user_with_as_many_open_orders_as_may_be_is_refused_for_a_second_without_counting(clock):
    count = Counter()
    limit = OpenOrderLimit(count, 8, clock)
    limit.check("a")
    count.open["a"] = 8
    for _ in range(5):
        with pytest.raises(TooManyOpenOrders) as refusal:
            limit.check("a")
        assert refusal.value.members == {"retry_after": 1}
    assert count.asked == 1
    limit.check("b")
    clock.now += 1.1
    count.open["a"] = 7
    limit.check("a")


def test_users_that_come_once_are_forgotten():
    limit = OpenOrderLimit(Counter(), 8)
    for number in range(5000):
        limit.check(f"user-{number}")
    assert len(limit._users) <= OpenOrderLimit.USERS_LIMIT


def test_over_http_one_user_is_answered_429_and_another_201(settings, new_order, database):
    app = create_app(replace(settings, open_orders_per_user=4))
    running = runtime(app)
    running.prepare()
    client = app.test_client()
    answers = [client.post("/orders", json=new_order(userId="crowd")) for _ in range(12)]
    assert {answer.status_code for answer in answers} == {201, 429}
    refused = answers[-1]
    assert (refused.status_code, refused.json["code"]) == (429, "too_many_open_orders")
    assert int(refused.headers["Retry-After"]) >= 1
    assert client.post("/orders", json=new_order(userId="single")).status_code == 201
    assert database.orders.count_documents({"userId": "crowd"}) <= 5
    running.stop()
