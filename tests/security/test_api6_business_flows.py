"""API6:2023 Unrestricted access to sensitive business flows: no order of calls, however quick, moves money wrongly."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from uuid import uuid4

import pytest
from bson import ObjectId

from app.main import create_app, runtime
from tests.security.conftest import NEW_ORDER, User

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def market(fort_settings, mongo):
    """The application at work, with a database of its own."""
    name = f"test_{uuid4().hex}"
    made = create_app(replace(fort_settings, database=name, sweep_interval=0.05, payment_backoff=0.05, relay_lease=0.5))
    runtime(made).prepare()
    runtime(made).start()
    yield made
    runtime(made).stop()
    mongo.drop_database(name)


@pytest.fixture(scope="module")
def books(market, mongo):
    """What the provider took and gave back for an order, in minor units."""
    ledger = mongo[runtime(market).settings.database].ledger

    def look(order_id):
        entries = list(ledger.find({"orderId": order_id}))
        taken = [entry["value"] for entry in entries if entry["answer"] == "captured"]
        given = [refund["value"] for entry in entries for refund in entry.get("refunds", [])]
        assert len(taken) <= 1
        return sum(taken), sum(given)

    return look


@pytest.fixture(scope="module")
def buyer(market, issuer):
    return User(market.test_client(), issuer.token("ada"))


def buy(user, **changes):
    answer = user.open("POST", "/orders", json={**NEW_ORDER, **changes}, headers={"Prefer": "wait=30"})
    assert answer.status_code == 201
    return answer.json["created"]["id"], answer.json["order"]["orderStatus"]


STEPS = {
    "confirm": lambda user, order_id: user.open("PUT", "/orders", json={"orderId": order_id, "orderStatus": "Confirm"}),
    "cancel": lambda user, order_id: user.open(
        "PUT", "/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}
    ),
    "pack": lambda user, order_id: user.open("PUT", "/orders", json={"orderId": order_id, "orderStatus": "Packed"}),
    "refund": lambda user, order_id: user.open("POST", f"/orders/one/{order_id}/refunds", json={"amount": "RM 60"}),
    "refund all": lambda user, order_id: user.open("POST", f"/orders/one/{order_id}/refunds", json={}),
}


@pytest.mark.parametrize("product", ["1", "2"])
@pytest.mark.parametrize("steps", list(permutations(STEPS, 3)), ids="-".join)
def test_no_sequence_of_changes_refunds_more_than_was_captured(buyer, books, eventually, product, steps):
    order_id, _ = buy(buyer, productId=product)
    answers = [STEPS[step](buyer, order_id) for step in steps]
    assert all(answer.status_code in {200, 201, 409} for answer in answers), [answer.text for answer in answers]
    if product == "2":
        assert [
            answer.status_code for step, answer in zip(steps, answers, strict=True) if step.startswith("refund")
        ].count(201) == 0

    def settled():
        order = buyer.open("GET", f"/orders/one/{order_id}").json["order"]
        return order if order["paymentStatus"] not in ("Processing", "Refunding") else None

    order = eventually(settled)
    taken, given = books(order_id)
    assert given <= taken <= 9900
    if order["orderStatus"] == "Cancelled":
        assert given == taken


@pytest.mark.parametrize("turn", range(5))
def test_many_at_once_give_back_once(market, issuer, books, eventually, turn):
    user = User(market.test_client(), issuer.token("ada"))
    order_id, status = buy(user)
    assert status == "Success"

    def act(number):
        step = STEPS["cancel" if number % 4 == 0 else "refund"]
        return step(User(market.test_client(), issuer.token("ada")), order_id).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(act, range(32)))
    assert statuses.keys() <= {200, 201, 409}
    eventually(lambda: books(order_id) == (9900, 9900))
    eventually(lambda: user.open("GET", f"/orders/one/{order_id}").json["order"]["paymentStatus"] == "Refunded")


@pytest.mark.parametrize(
    ("amount", "status"),
    [
        ("RM 99.01", 409),
        ("RM 100", 409),
        ("USD 99", 422),
        ("RM 0", 422),
        ("RM -1", 422),
        ("RM 0.001", 422),
        ("RM 1e2", 422),
        ({"value": 9901, "currency": "MYR"}, 409),
        ({"value": -1, "currency": "MYR"}, 422),
        ({"value": 2**63, "currency": "MYR"}, 422),
        ({"value": 1, "currency": "USD"}, 422),
        ({"value": True, "currency": "MYR"}, 422),
    ],
    ids=str,
)
def test_no_amount_is_talked_into_another(buyer, books, amount, status):
    order_id, _ = buy(buyer)
    answer = buyer.open("POST", f"/orders/one/{order_id}/refunds", json={"amount": amount})
    assert answer.status_code == status, answer.text
    assert books(order_id) == (9900, 0)


def test_a_price_is_what_was_agreed_at_first(buyer, books):
    """A second order under the same key does not make the first one cheaper."""
    named = {"Idempotency-Key": uuid4().hex, "Prefer": "wait=30"}
    first = buyer.open("POST", "/orders", json=NEW_ORDER, headers=named)
    cheaper = buyer.open("POST", "/orders", json={**NEW_ORDER, "totalOrderAmount": "RM 1"}, headers=named)
    assert (first.status_code, cheaper.status_code) == (201, 422)
    assert books(first.json["created"]["id"]) == (9900, 0)


def test_many_orders_at_once_under_one_key_are_one(market, issuer, mongo):
    key = uuid4().hex

    def place(_):
        user = User(market.test_client(), issuer.token("ada"))
        return user.open("POST", "/orders", json=NEW_ORDER, headers={"Idempotency-Key": key}).json["created"]["id"]

    with ThreadPoolExecutor(16) as pool:
        [order_id] = set(pool.map(place, range(32)))
    orders = mongo[runtime(market).settings.database].orders
    assert orders.count_documents({"idempotency.key": key}) == 1
    assert orders.find_one({"_id": ObjectId(order_id)})["userId"] == "ada"


def test_ids_cannot_be_counted_through(buyer):
    ids = [buy(buyer)[0] for _ in range(5)]
    tails = [int(order_id[8:], 16) for order_id in ids]
    assert len({tail >> 32 for tail in tails}) == 5
    assert min(abs(a - b) for a, b in permutations(tails, 2)) > 2**32
