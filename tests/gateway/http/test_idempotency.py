"""The Idempotency-Key header: which keys are valid, and that repeating has one effect."""

from uuid import uuid4

import pytest
from bson import ObjectId

from tests.stored import hash_of

# Header values as a server hands them over, decoded as Latin-1.
WRONG = {
    "empty": "",
    "blank": " ",
    "too long": "x" * 256,
    "too long in quotes": f'"{"x" * 256}"',
    "empty quotes": '""',
    "half a quote": '"x',
    "the other half": 'x"',
    "quotes within": 'x"y',
    "quotes within quotes": '"x"y"',
    "a space": "x y",
    "a tab": "x\ty",
    "a line feed": "x\ny",
    "a line feed at the end of quotes": '"x\n"',
    "NUL": "x\0",
    "DEL": "x\x7f",
    "Latin-1": "é",
    "two in quotes": '"x", "y"',
}


@pytest.fixture
def key():
    return uuid4().hex


@pytest.fixture(params=["order", "refund"])
def send(request, http, captured, new_order):
    """Place an order, or ask for a refund, with this header; every time the same body."""
    address = "/orders" if request.param == "order" else f"/orders/one/{captured}/refunds"
    body = new_order() if request.param == "order" else {"amount": "RM 1"}
    return lambda key, **changes: http.post(
        address, json={**body, **changes}, environ_overrides={"HTTP_IDEMPOTENCY_KEY": key}
    )


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_malformed_key_is_refused_and_nothing_done(send, refused, orders, value):
    before = hash_of(orders)
    refused(send(value), 400, "malformed_idempotency_key")
    assert hash_of(orders) == before


def test_the_same_key_again_is_answered_as_before_and_has_no_effect(send, orders, key):
    first = send(key)
    before = hash_of(orders)
    for spelt in (key, f'"{key}"', f" {key} "):
        again = send(spelt)
        assert (again.status_code, again.json) == (first.status_code, first.json)
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert hash_of(orders) == before


@pytest.mark.parametrize("value", ["x" * 255, f'"{"y" * 255}"', "!", "~", "a,b;c=d", "{}$.", "\\"])
def test_any_visible_ascii_makes_a_key(send, value):
    first, again = send(value), send(value)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json == again.json


def test_other_keys_and_none_have_an_effect_of_their_own(send, key):
    bodies = [send(key), send(f"{key}x"), send(key.upper() + "X"), send(f"{key}."), send(f"{key}'")]
    assert len({answer.text for answer in bodies}) == len(bodies)
    assert {answer.status_code for answer in bodies} == {201}


def test_the_key_of_another_body_is_refused(http, refused, new_order, orders, key):
    headers = {"Idempotency-Key": key}
    placed = http.post("/orders", json=new_order(), headers=headers).json["created"]["id"]
    before = hash_of(orders)
    for changes in ({"productId": "2"}, {"productName": "Grinder"}, {"totalOrderAmount": "RM 98"}):
        refused(http.post("/orders", json=new_order(**changes), headers=headers), 422, "idempotency_key_reused")
    assert hash_of(orders) == before
    assert http.get(f"/orders/one/{placed}").status_code == 200


@pytest.mark.parametrize("ignored", [{"orderStatus": "Success"}, {"createdAt": "now"}, {"x": [1, 2]}])
def test_what_is_ignored_does_not_make_another_order(http, new_order, key, ignored):
    headers = {"Idempotency-Key": key}
    answers = [http.post("/orders?strict=false", json=new_order(**more), headers=headers) for more in (ignored, {})]
    assert answers[0].json == answers[1].json


def test_all_forms_of_a_full_refund_are_the_same_request(http, captured, key):
    address, headers = f"/orders/one/{captured}/refunds", {"Idempotency-Key": key}
    answers = [http.post(address, json=body, headers=headers) for body in ({}, {"amount": "all"})]
    assert answers[0].json == answers[1].json


def test_the_key_of_another_user_is_another_key(http, new_order, key):
    answers = [
        http.post("/orders", json=new_order(userId=user), headers={"Idempotency-Key": key}) for user in ("ann", "bob")
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json != answers[1].json


def test_the_same_key_may_refund_two_orders(http, place, orders, key):
    refunds = []
    for order_id in (place(http), place(http)):
        orders.update_one(
            {"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Success", "paymentStatus": "Captured"}}
        )
        answer = http.post(f"/orders/one/{order_id}/refunds", json={}, headers={"Idempotency-Key": key})
        assert answer.status_code == 201
        assert "Idempotent-Replayed" not in answer.headers
        refunds.append(answer.json["refund"]["id"])
    assert len(set(refunds)) == 2


@pytest.mark.parametrize("other", [{"amount": "RM 2"}, {}, {"amount": "USD 1"}])
def test_the_key_of_another_refund_is_refused(http, captured, refused, orders, key, other):
    address, headers = f"/orders/one/{captured}/refunds", {"Idempotency-Key": key}
    assert http.post(address, json={"amount": "RM 1"}, headers=headers).status_code == 201
    before = orders.find_one({"_id": ObjectId(captured)})
    refused(http.post(address, json=other, headers=headers), 422, "idempotency_key_reused")
    assert orders.find_one({"_id": ObjectId(captured)}) == before


def test_a_refused_order_does_not_use_its_key_up(http, new_order, pointers, key):
    headers = {"Idempotency-Key": key}
    pointers(http.post("/orders", json=new_order(totalOrderAmount="nothing"), headers=headers))
    answer = http.post("/orders", json=new_order(), headers=headers)
    assert answer.status_code == 201
    assert "Idempotent-Replayed" not in answer.headers
