"""The Idempotency-Key from the first request to the day it is forgotten, on a system at work."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from bson import ObjectId

from app.main import create_app, runtime


@pytest.fixture
def key():
    return uuid4().hex


@pytest.fixture
def post(new_order):
    def send(client, key, **changes):
        return client.post("/orders", json=new_order(**changes), headers={"Idempotency-Key": key})

    return send


def age(database, order_id, **by):
    [doc] = database.orders.find({"_id": ObjectId(order_id)})
    database.orders.update_one({"_id": doc["_id"]}, {"$set": {"createdAt": doc["createdAt"] - timedelta(**by)}})


def test_the_same_order_again_is_answered_as_the_first_time(client, post, key, database):
    first, again = post(client, key), post(client, key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json == first.json
    for header in ("Location", "ETag"):
        assert again.headers[header] == first.headers[header]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert database.orders.count_documents({}) == 1


def test_a_key_is_the_same_quoted_and_bare(client, post, key):
    assert post(client, f'"{key}"').json == post(client, key).json


def test_another_order_under_the_same_key_is_refused(client, post, key, database):
    post(client, key)
    refused = post(client, key, productId="2")
    assert (refused.status_code, refused.json["code"]) == (422, "idempotency_key_reused")
    assert database.orders.count_documents({}) == 1


def test_forty_keys_posted_sixteen_times_at_once_make_forty_orders(app, post, database):
    """One thing decides, the unique index: two processes' worth of applications post side by side."""
    other = create_app(runtime(app).settings)
    keys = [f"key-{number}" for number in range(40)]

    def send(number):
        client = (app, other)[number % 2].test_client()
        return number % 40, post(client, keys[number % 40])

    try:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(send, range(640)))
    finally:
        runtime(other).stop()
    ids = {}
    for number, answer in answers:
        assert answer.status_code == 201, answer.text
        ids.setdefault(number, set()).add(answer.json["created"]["id"])
    assert all(len(made) == 1 for made in ids.values())
    assert len(set.union(*ids.values())) == database.orders.count_documents({}) == 40
    assert sum("Idempotent-Replayed" not in answer.headers for _, answer in answers) == 40


def test_one_order_of_sixteen_posted_at_once_is_charged_once(app, running, post, key, eventually, database):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(app.test_client(), key), range(16)))
    assert len({answer.json["created"]["id"] for answer in answers}) == 1
    eventually(lambda: database.orders.count_documents({"orderStatus": "Success"}) == 1)
    assert database.ledger.count_documents({}) == 1


def test_a_key_belongs_to_its_user(client, post, key):
    ann, bob = post(client, key, userId="ann"), post(client, key, userId="bob", productId="2")
    assert (ann.status_code, bob.status_code) == (201, 201)
    assert ann.json["created"]["id"] != bob.json["created"]["id"]
    assert "Idempotent-Replayed" not in bob.headers


@pytest.mark.parametrize("bad", ["", "x" * 256, "a\x07b", "é", "a b"], ids=["empty", "long", "control", "é", "space"])
def test_a_key_that_cannot_be_used_is_refused_and_nothing_stored(client, new_order, database, bad):
    answer = client.post("/orders", json=new_order(), environ_overrides={"HTTP_IDEMPOTENCY_KEY": bad})
    assert (answer.status_code, answer.json["code"]) == (400, "malformed_idempotency_key")
    assert database.orders.count_documents({}) == 0


def test_two_keys_on_one_request_are_refused(client, new_order, database):
    headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    answer = client.post("/orders", json=new_order(), headers=headers)
    assert (answer.status_code, answer.json["code"]) == (400, "malformed_idempotency_key")
    assert database.orders.count_documents({}) == 0


@pytest.mark.parametrize("wrong", [{"totalOrderAmount": "RM -1"}, {"userId": 7}, {"productId": ""}])
def test_a_refused_order_leaves_its_key_unused(client, post, key, wrong):
    assert post(client, key, **wrong).status_code == 422
    answer = post(client, key)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False)


@pytest.mark.parametrize(
    ("product", "status"),
    [("1", "Success"), ("2", "Declined"), ("1", "Cancelled")],
    ids=["paid", "declined", "cancelled"],
)
def test_the_first_answer_stands_whatever_became_of_the_order(live, post, key, eventually, product, status):
    first = post(live, key, productId=product)
    order_id = first.json["created"]["id"]
    # Asked of the application, which reads what a majority has: a look into the database may be a moment ahead.
    eventually(lambda: live.get(f"/orders/status/{order_id}").json["orderStatus"] != "Processing")
    if status == "Cancelled":
        assert live.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
    assert live.get(f"/orders/status/{order_id}").json["orderStatus"] == status
    again = post(live, key, productId=product)
    assert (again.status_code, again.data, again.headers["ETag"]) == (201, first.data, first.headers["ETag"])


def test_a_key_is_forgotten_when_its_time_is_over(app, client, post, key, eventually, database):
    kept, old = post(client, f"{key}-kept").json["created"]["id"], post(client, key).json["created"]["id"]
    hours = runtime(app).settings.idempotency_hours
    age(database, old, hours=hours, minutes=1)
    age(database, kept, hours=hours, minutes=-1)
    runtime(app).start()
    eventually(lambda: database.orders.count_documents({"idempotency": {"$exists": True}}) == 1)
    anew, again = post(client, key), post(client, f"{key}-kept")
    assert anew.json["created"]["id"] != old
    assert "Idempotent-Replayed" not in anew.headers
    assert again.json["created"]["id"] == kept
    assert again.headers["Idempotent-Replayed"] == "true"
