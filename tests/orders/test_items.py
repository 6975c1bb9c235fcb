"""Items in the documents of orders: what the database refuses, and who reads them."""

import pytest
from bson import Int64, ObjectId
from pymongo.errors import WriteError

from app.contracts.base import Money
from app.contracts.orders import FindOrders, OrderItem

BEANS = OrderItem(product_id="1", product_name="Beans", quantity=2, unit_amount=Money(10**12, "MYR"))
STORED = {"productId": "1", "productName": "Beans", "quantity": 2, "unitValue": 10**12}


def test_one_order_has_its_items_and_a_list_has_none(create, reads):
    order_id = create(items=(BEANS,), total_value=2 * 10**12)
    assert reads.view(order_id, "").items == (BEANS,)
    assert reads.list_by_user("user-7", 5).orders[0].items is None
    assert reads.list_all(5).orders[0].items is None


@pytest.mark.parametrize(("with_items", "items"), [(True, (BEANS,)), (False, None)])
def test_several_orders_have_their_items_where_they_are_asked_for(create, reads, with_items, items):
    order_ids = (create(items=(BEANS,)), create())
    request = FindOrders(request_id="r", order_ids=order_ids, with_items=with_items)
    assert [order.items for order in reads.queries.find_many(request).orders] == [None, items]


def test_an_order_of_a_single_product_has_no_items(create, reads, stored):
    order_id = create()
    assert "items" not in stored(order_id)
    assert reads.view(order_id, "").items is None


WRONG = {
    "none": [],
    "101": [STORED] * 101,
    "a number": [7],
    "no quantity": [{name: value for name, value in STORED.items() if name != "quantity"}],
    "a quantity of nothing": [{**STORED, "quantity": 0}],
    "a part of one": [{**STORED, "quantity": 0.5}],
    "an amount of nothing": [{**STORED, "unitValue": 0}],
    "a fraction of a minor unit": [{**STORED, "unitValue": 1.5}],
    "no name": [{**STORED, "productName": ""}],
    "more members": [{**STORED, "price": 1}],
}


@pytest.mark.parametrize("items", WRONG.values(), ids=WRONG)
def test_the_database_refuses_items_that_the_gateway_would(create, database, items):
    order_id = ObjectId(create())
    with pytest.raises(WriteError, match="validation"):
        database.orders.update_one({"_id": order_id}, {"$set": {"items": items}})


def test_a_large_amount_is_read_as_a_plain_number(create, database, reads):
    order_id = create(items=(BEANS,))
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"items.0.unitValue": Int64(10**14)}})
    [item] = reads.view(order_id, "").items
    assert type(item.unit_amount.value) is int
