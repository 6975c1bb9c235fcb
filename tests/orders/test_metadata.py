"""Metadata in the documents of orders: what it costs, what the database refuses, and changes at the same time."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from bson import ObjectId
from pymongo.errors import WriteError

from app.contracts.orders import UpdateMetadata
from app.orders.documents import INDEXES, SCHEMA, metadata_pairs
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.service import OrderService

NO_LIMIT = OpenOrderLimit(lambda *_: 0, 1)


def keys_in(database, index: str) -> int:
    """How many keys an index has."""
    checked = database.command("validate", "orders", full=False)
    return checked["keysPerIndex"][index]


@pytest.fixture
def note(orders):
    """Changes the metadata of an order, as a client does."""

    def change(order_id: str, **pairs: str):
        request = UpdateMetadata(
            request_id="r-note", order_id=order_id, on_behalf_of="", expected_versions=(), metadata=pairs
        )
        return OrderService(orders, NO_LIMIT).update_metadata(request)

    return change


def test_an_order_without_metadata_has_no_key_in_its_indexes(create, database):
    for _ in range(5):
        create()
    create(metadata={"a": "1", "b": "2"})
    assert [keys_in(database, name) for name in ("by_metadata", "newest_of_user_by_metadata")] == [2, 2]


def test_an_order_whose_metadata_was_removed_has_none_either(create, note, stored, database):
    order_id = create(metadata={"a": "1"})
    note(order_id, a="")
    assert "metadata" not in stored(order_id)
    assert keys_in(database, "by_metadata") == 0


def test_an_order_without_metadata_is_stored_as_it_was_before_there_was_any(create, stored):
    assert {*stored(create())} == {
        "_id", "userId", "productId", "productName", "totalOrderAmount", "total", "orderStatus", "paymentStatus",
        "version", "sequence", "paymentSequence", "requestId", "createdAt", "updatedAt", "events", "outbox", "relayDue",
    }  # fmt: skip


WRONG = {
    "no pairs": [],
    "an object": {"a": "1"},
    "21 pairs": metadata_pairs({str(at): "v" for at in range(21)}),
    "an empty key": metadata_pairs({"": "v"}),
    "a long key": metadata_pairs({"k" * 41: "v"}),
    "an empty value": metadata_pairs({"a": ""}),
    "a long value": metadata_pairs({"a": "v" * 501}),
    "a number": [{"k": "a", "v": 1}],
    "more members": [{"k": "a", "v": "1", "x": "1"}],
}


@pytest.mark.parametrize("metadata", WRONG.values(), ids=WRONG)
def test_the_database_refuses_metadata_that_the_gateway_would(create, database, metadata):
    order_id = ObjectId(create())
    with pytest.raises(WriteError, match="validation"):
        database.orders.update_one({"_id": order_id}, {"$set": {"metadata": metadata}})


def test_changes_at_the_same_time_lose_none(create, note, stored):
    order_id = create()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: note(order_id, **{f"key{at}": "v"}), range(4)))
    doc = stored(order_id)
    assert {pair["k"] for pair in doc["metadata"]} == {f"key{at}" for at in range(4)}
    assert [entry["type"] for entry in doc["events"]] == ["OrderCreated", *["MetadataUpdated"] * 4]


def test_a_change_leaves_the_money_and_the_events_for_payments_alone(create, note, stored):
    order_id = create(metadata={"a": "1"})
    before = stored(order_id)
    note(order_id, a="2")
    after = stored(order_id)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"metadata", "version", "sequence", "events", "updatedAt"}


def test_the_indexes_of_metadata_leave_out_orders_without_any():
    partial = [index.document for index in INDEXES if "metadata" in index.document["key"]]
    assert len(partial) == 2
    assert all(one["partialFilterExpression"] == {"metadata": {"$exists": True}} for one in partial)
    assert "metadata" not in SCHEMA["required"]
