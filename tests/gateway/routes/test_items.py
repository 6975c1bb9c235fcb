"""Orders of several items: exact sums, what is refused and where it points, and what is shown."""

import json
from uuid import uuid4

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from app.contracts.base import Money
from app.gateway.http.item_schemas import MAX_QUANTITY, NewItemOrderSchema
from app.gateway.http.money import MAX_VALUE
from tests.stored import hash_of

BEANS = {"productId": "1", "productName": "Beans, 1 kg", "quantity": 3, "unitAmount": "RM 19.90"}
MILK = {"productId": "milk", "productName": "Milk", "quantity": 1, "unitAmount": {"value": 655, "currency": "MYR"}}
SHOWN = [
    {**BEANS, "unitAmount": {"value": 1990, "currency": "MYR"}},
    {**MILK, "unitAmount": {"value": 655, "currency": "MYR"}},
]


def body_of(*items, **members) -> dict:
    return {"userId": "user-7", "items": [*items], **members}


def order_of(http, answer) -> dict:
    assert answer.status_code == 201, answer.text
    return http.get(answer.headers["Location"]).json["order"]


def test_the_amount_follows_from_the_items(http, orders):
    order = order_of(http, http.post("/orders", json=body_of(BEANS, MILK)))
    assert (order["total"], order["totalOrderAmount"]) == ({"value": 6625, "currency": "MYR"}, "MYR 66.25")
    assert (order["productId"], order["productName"]) == ("1", "Beans, 1 kg")
    assert order["items"] == SHOWN
    stored = orders.find_one({"_id": ObjectId(order["id"])})
    assert [item["unitValue"] for item in stored["items"]] == [1990, 655]


@pytest.mark.parametrize("amount", ["RM 66.25", "66.25 MYR", {"value": 6625, "currency": "MYR"}])
def test_an_amount_that_is_the_sum_is_kept_as_it_is_written(http, amount):
    order = order_of(http, http.post("/orders", json=body_of(BEANS, MILK, totalOrderAmount=amount)))
    assert order["totalOrderAmount"] == (amount if isinstance(amount, str) else "MYR 66.25")


@pytest.mark.parametrize("amount", ["RM 66.24", "RM 66.26", "RM 66", "SGD 66.25", {"value": 6624, "currency": "MYR"}])
def test_any_other_amount_is_refused_with_the_sum(http, refused, nothing_stored, amount):
    body = refused(http.post("/orders", json=body_of(BEANS, MILK, totalOrderAmount=amount)), 422, "invalid_members")
    assert body["errors"] == [{"pointer": "/totalOrderAmount", "detail": "Must be the sum of the items, MYR 66.25."}]


def test_an_order_of_a_single_product_has_no_items(http, place, orders):
    order_id = place(http)
    assert "items" not in http.get(f"/orders/one/{order_id}").json["order"]
    assert "items" not in orders.find_one({"_id": ObjectId(order_id)})


def without(item: dict, member: str) -> dict:
    return {name: value for name, value in item.items() if name != member}


REFUSED = {
    "null": (None, "/items"),
    "no list": ({"0": BEANS}, "/items"),
    "none": ([], "/items"),
    "101": ([BEANS] * 101, "/items"),
    "no object": (["Beans"], "/items/0"),
    **{f"no {member}": ([BEANS, without(MILK, member)], f"/items/1/{member}") for member in BEANS},
    **{
        f"a quantity of {quantity!r}": ([BEANS, {**MILK, "quantity": quantity}], "/items/1/quantity")
        for quantity in (0, -1, 1.0, 1.5, "1", True, None, MAX_QUANTITY + 1, 10**30, [1])
    },
    **{
        f"an amount of {amount!r}": ([{**MILK, "unitAmount": amount}], "/items/0/unitAmount")
        for amount in ("RM 0", "RM -1", "RM 1.005", "1", 1, None, {"value": 1.5, "currency": "MYR"}, "XYZ 1", "$ 1")
    },
    "another currency": ([BEANS, {**MILK, "unitAmount": "SGD 1"}], "/items/1/unitAmount"),
    "an unknown member": ([{**BEANS, "price": "RM 1"}], "/items/0/price"),
    "an unknown member of an amount": (
        [{**BEANS, "unitAmount": {"value": 1, "currency": "MYR", "x": 1}}],
        "/items/0/unitAmount/x",
    ),
    "a blank name": ([{**BEANS, "productName": " "}], "/items/0/productName"),
    "a long name": ([{**BEANS, "productName": "x" * 513}], "/items/0/productName"),
    "a long id": ([{**BEANS, "productId": "x" * 129}], "/items/0/productId"),
    "a sum that is too large": ([{**BEANS, "quantity": 2, "unitAmount": f"JPY {MAX_VALUE}"}], "/items"),
    "a sum of many that is too large": (
        [{**BEANS, "quantity": MAX_QUANTITY, "unitAmount": "JPY 999999999"}] * 2,
        "/items",
    ),
}


@pytest.mark.parametrize(("items", "pointer"), REFUSED.values(), ids=REFUSED)
def test_items_that_cannot_be_ordered_are_refused_with_a_pointer(http, pointers, nothing_stored, items, pointer):
    assert pointers(http.post("/orders", json={"userId": "user-7", "items": items})) == [pointer]


def test_every_wrong_item_is_named(http, pointers):
    wrong = [{**BEANS, "quantity": 0}, MILK, {**MILK, "unitAmount": "RM x"}, {**BEANS, "unitAmount": "SGD 1"}]
    assert pointers(http.post("/orders", json=body_of(*wrong))) == ["/items/0/quantity", "/items/2/unitAmount"]


@pytest.mark.parametrize("strict", ["true", "false"])
def test_a_single_product_beside_items_is_refused(http, pointers, nothing_stored, strict):
    body = body_of(BEANS, productId="1", productName="Beans")
    answer = http.post(f"/orders?strict={strict}", json=body)
    assert pointers(answer) == ["/productId", "/productName"]


def test_unknown_members_of_an_item_are_ignored_where_those_of_the_body_are(http):
    amount = {"value": 1990, "currency": "MYR", "x": 1}
    body = body_of({**BEANS, "colour": "brown", "unitAmount": amount}, colour="brown")
    order = order_of(http, http.post("/orders?strict=false", json=body))
    assert order["items"] == SHOWN[:1]


def test_a_hundred_items_and_the_largest_sum_are_accepted(http):
    items = [{**BEANS, "productId": str(at), "quantity": 1, "unitAmount": "JPY 1"} for at in range(99)]
    items.append({**BEANS, "quantity": 1, "unitAmount": f"JPY {MAX_VALUE - 99}"})
    order = order_of(http, http.post("/orders", json=body_of(*items)))
    assert order["total"] == {"value": MAX_VALUE, "currency": "JPY"}
    assert [item["productId"] for item in order["items"]] == [*map(str, range(99)), "1"]


def test_a_card_number_in_an_item_is_refused(http, refused, nothing_stored):
    for member in ("productId", "productName"):
        answer = http.post("/orders", json=body_of({**BEANS, member: "4242 4242 4242 4242"}))
        refused(answer, 422, "card_number_refused")


def test_items_are_part_of_what_an_idempotency_key_stands_for(http, refused, orders, new_order):
    headers = {"Idempotency-Key": uuid4().hex}
    first = http.post("/orders", json=body_of(BEANS, MILK), headers=headers)
    again = http.post("/orders", json=body_of(BEANS, {**MILK, "unitAmount": "RM 6.55"}), headers=headers)
    assert (again.status_code, again.json) == (201, first.json)
    before = hash_of(orders)
    single = new_order(productName=BEANS["productName"], totalOrderAmount="MYR 66.25")
    halves = [{**BEANS, "quantity": 1}, {**BEANS, "quantity": 2}]
    for other in (body_of(MILK, BEANS), body_of(*halves, MILK), single):
        refused(http.post("/orders", json=other, headers=headers), 422, "idempotency_key_reused")
    assert hash_of(orders) == before


def test_items_are_in_no_list(http):
    user = f"shop-{uuid4().hex}"
    order_of(http, http.post("/orders", json=body_of(BEANS, MILK, userId=user)))
    [order] = http.get(f"/orders/{user}").json["orders"]
    assert "items" not in order
    assert order["productName"] == "Beans, 1 kg"


def test_an_order_of_items_is_refunded_by_amount(http, orders):
    order = order_of(http, http.post("/orders", json=body_of(BEANS, MILK)))
    changes = {"orderStatus": "Success", "paymentStatus": "Captured"}
    orders.update_one({"_id": ObjectId(order["id"])}, {"$set": changes})
    answer = http.post(f"/orders/one/{order['id']}/refunds", json={"amount": "RM 19.90"})
    assert answer.status_code == 201
    left = http.get(f"/orders/one/{order['id']}").json["order"]
    assert (left["refundable"]["value"], left["items"]) == (6625 - 1990, SHOWN)


quantities = st.integers(1, MAX_QUANTITY)
prices = st.integers(1, 10**10)


@given(st.lists(st.tuples(quantities, prices), min_size=1, max_size=100))
def test_the_sum_is_exact_whatever_is_ordered(lines):
    items = [
        {**BEANS, "quantity": quantity, "unitAmount": {"value": price, "currency": "KWD"}} for quantity, price in lines
    ]
    expected = sum(quantity * price for quantity, price in lines)
    errors = NewItemOrderSchema().validate(body_of(*items))
    if expected > MAX_VALUE:
        assert "items" in errors
        return
    loaded = NewItemOrderSchema().load(json.loads(json.dumps(body_of(*items))))
    assert loaded["total"] == Money(expected, "KWD")
