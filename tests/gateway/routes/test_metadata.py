"""Metadata: what clients note with an order, how they find orders by it, and what it never does."""

import io
import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from bson import ObjectId

from app.contracts.orders import UpdateMetadata
from app.observability import logging
from app.observability.logging import log
from tests.stored import hash_of

PAIRS = {"cart": "A-1207", "Tisch.$7": "drei, am Fenster ☀", "सारणी": "क्‍ष"}
CARD = "4242424242424242"
MOST = {f"key{number}": "v" for number in range(20)}


@pytest.fixture
def mine() -> str:
    return f"shop-{uuid4().hex}"


def order_of(http, order_id: str) -> dict:
    return http.get(f"/orders/one/{order_id}").json["order"]


def patch(http, order_id: str, **pairs):
    return http.patch(f"/orders/one/{order_id}", json={"metadata": pairs})


def test_metadata_is_shown_wherever_the_order_is(http, place, mine):
    order_id = place(http, userId=mine, metadata=PAIRS)
    assert order_of(http, order_id)["metadata"] == PAIRS
    assert [order["metadata"] for order in http.get(f"/orders/{mine}").json["orders"]] == [PAIRS]


@pytest.mark.parametrize("given", [{}, {"metadata": {}}])
def test_an_order_without_metadata_shows_and_stores_none(http, place, orders, given):
    order_id = place(http, **given)
    assert "metadata" not in order_of(http, order_id)
    assert "metadata" not in orders.find_one({"_id": ObjectId(order_id)})


LONGEST = {"k" * 40: "v" * 500, "ключ" * 10: "\U0001f600" * 500}


@pytest.mark.parametrize("metadata", [MOST, LONGEST], ids=["the most pairs", "the longest texts"])
def test_metadata_goes_up_to_its_limits(http, place, metadata):
    assert order_of(http, place(http, metadata=metadata))["metadata"] == metadata


NOT_STORED = {
    "no object": ("cart", "/metadata"),
    "a list": ([["cart", "A"]], "/metadata"),
    "null": (None, "/metadata"),
    "21 pairs": ({**MOST, "one more": "v"}, "/metadata"),
    "a number": ({"cart": 7}, "/metadata/cart"),
    "true": ({"cart": True}, "/metadata/cart"),
    "null as a value": ({"cart": None}, "/metadata/cart"),
    "an object as a value": ({"cart": {"$ne": ""}}, "/metadata/cart"),
    "an empty value": ({"cart": ""}, "/metadata/cart"),
    "a long value": ({"cart": "v" * 501}, "/metadata/cart"),
    "a line break": ({"cart": "A\nB"}, "/metadata/cart"),
    "NUL": ({"cart": "A\0"}, "/metadata/cart"),
    "a surrogate": ({"cart": "\ud800"}, "/metadata/cart"),
    "another direction": ({"cart": "A\u202eB"}, "/metadata/cart"),
    "an empty key": ({"": "A"}, "/metadata/"),
    "a blank key": ({" ": "A"}, "/metadata/ "),
    "a long key": ({"k" * 41: "A"}, f"/metadata/{'k' * 41}"),
    "a control character in a key": ({"a\x07": "A"}, "/metadata/a\x07"),
    "a bracket in a key": ({"a[b": "A"}, "/metadata/a[b"),
    "the other bracket in a key": ({"a]b": "A"}, "/metadata/a]b"),
    "a slash in a wrong key": ({"a/b[": "A"}, "/metadata/a~1b["),
}


@pytest.mark.parametrize(("metadata", "pointer"), NOT_STORED.values(), ids=NOT_STORED)
def test_other_metadata_is_refused_with_a_pointer_to_it(
    http, new_order, pointers, captured, nothing_stored, metadata, pointer
):
    body = json.dumps({"metadata": metadata})
    placed = http.post("/orders", data=json.dumps(new_order(metadata=metadata)), content_type="application/json")
    assert pointers(placed) == [pointer]
    if pointer != "/metadata/cart" or metadata["cart"] is not None:  # Null removes a pair.
        changed = http.patch(f"/orders/one/{captured}", data=body, content_type="application/json")
        assert pointers(changed) == [pointer]


def test_every_wrong_pair_is_named(http, new_order, pointers):
    answer = http.post("/orders", json=new_order(metadata={"a": 1, "b": "good", "c": ""}))
    assert pointers(answer) == ["/metadata/a", "/metadata/c"]


@pytest.mark.parametrize("metadata", [{"card": CARD}, {CARD: "card"}, {"card": "4242 4242-4242 4242"}])
def test_a_card_number_is_refused_as_a_value_and_as_a_key(http, new_order, refused, captured, nothing_stored, metadata):
    for answer in (http.post("/orders", json=new_order(metadata=metadata)), patch(http, captured, **metadata)):
        body = refused(answer, 422, "card_number_refused")
        assert CARD not in json.dumps(body)


def test_metadata_is_part_of_what_an_idempotency_key_stands_for(http, new_order, refused, orders):
    headers = {"Idempotency-Key": uuid4().hex}
    first = http.post("/orders", json=new_order(metadata={"a": "1", "b": "2"}), headers=headers)
    again = http.post("/orders", json=new_order(metadata={"b": "2", "a": "1"}), headers=headers)
    assert (again.json, again.headers["Idempotent-Replayed"]) == (first.json, "true")
    before = hash_of(orders)
    for other in ({"a": "1"}, {"a": "1", "b": "3"}, {}):
        answer = http.post("/orders", json=new_order(metadata=other), headers=headers)
        refused(answer, 422, "idempotency_key_reused")
    assert hash_of(orders) == before


def test_a_changed_order_is_still_found_by_its_idempotency_key(http, new_order):
    headers, body = {"Idempotency-Key": uuid4().hex}, new_order(metadata={"a": "1"})
    first = http.post("/orders", json=body, headers=headers)
    assert patch(http, first.json["created"]["id"], a="2").status_code == 200
    assert http.post("/orders", json=body, headers=headers).json == first.json


def test_a_change_sets_and_removes_pairs_and_leaves_the_others(http, place):
    order_id = place(http, metadata={"a": "1", "b": "2", "c": "3"})
    answer = patch(http, order_id, b="two", c=None, d="4")
    after = {"a": "1", "b": "two", "d": "4"}
    assert (answer.status_code, answer.json) == (200, {"ok": True, "metadata": after})
    order = order_of(http, order_id)
    assert (order["metadata"], order["version"]) == (after, 2)
    assert answer.headers["ETag"] == f'"{order_id}-2"'
    assert http.get(f"/orders/one/{order_id}").headers["ETag"] == answer.headers["ETag"]


def test_the_timeline_says_who_changed_which_keys_and_no_values(http, place):
    order_id = place(http, metadata={"a": "first", "b": "second"})
    patch(http, order_id, a="third", b=None)
    *_, entry = http.get(f"/orders/one/{order_id}/events").json["events"]
    assert (entry["type"], entry["sequence"], entry["actor"]) == ("MetadataUpdated", 2, "client")
    assert (entry["from"], entry["to"], entry["detail"]) == ("Processing", "Processing", "set: a; removed: b")


def test_metadata_explains_no_state(http, place):
    order_id = place(http)
    patch(http, order_id, a="1")
    sentence = http.get(f"/orders/one/{order_id}/explain").json["sentence"]
    assert sentence.startswith(
        "The order is Processing and its payment Processing; last, a client changed its metadata at "
    )


def test_the_last_pair_can_be_removed_and_a_first_one_added(http, place, orders):
    order_id = place(http, metadata={"a": "1"})
    assert patch(http, order_id, a=None).json["metadata"] == {}
    assert "metadata" not in orders.find_one({"_id": ObjectId(order_id)})
    assert patch(http, order_id, b="2").json["metadata"] == {"b": "2"}
    assert order_of(http, order_id)["metadata"] == {"b": "2"}


def test_the_metadata_of_an_unknown_order_cannot_be_changed(http, refused, nothing_stored):
    refused(patch(http, "692000000000000000000000", a="1"), 404, "order_not_found")


def test_the_same_change_again_changes_nothing(http, place, orders):
    order_id = place(http, metadata={"a": "1"})
    before = hash_of(orders)
    for same in ({"a": "1"}, {"gone": None}, {}):
        answer = patch(http, order_id, **same)
        assert (answer.status_code, answer.json["metadata"]) == (200, {"a": "1"})
    assert hash_of(orders) == before


def test_more_than_twenty_pairs_are_refused_with_what_is_stored(http, place, refused, orders):
    order_id = place(http, metadata=MOST)
    before = hash_of(orders)
    refused(patch(http, order_id, more="1"), 422, "too_much_metadata")
    assert hash_of(orders) == before
    assert len(patch(http, order_id, more="1", key0=None).json["metadata"]) == 20


def test_a_change_minds_if_match(http, place, refused):
    order_id = place(http)
    path, body = f"/orders/one/{order_id}", {"metadata": {"a": "1"}}
    tag = http.get(path).headers["ETag"]
    assert http.patch(path, json=body, headers={"If-Match": tag}).status_code == 200
    refused(http.patch(path, json={"metadata": {"a": "2"}}, headers={"If-Match": tag}), 412, "precondition_failed")


def test_nothing_else_of_an_order_can_be_changed_like_this(http, captured, pointers, nothing_stored):
    for member in ("orderStatus", "userId", "totalOrderAmount", "productName"):
        answer = http.patch(f"/orders/one/{captured}", json={"metadata": {"a": "1"}, member: "x"})
        assert pointers(answer) == [f"/{member}"]


def test_an_order_with_a_hundred_changes_keeps_its_metadata(http, place, orders, refused):
    order_id = place(http)
    orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"sequence": 100, "version": 100}})
    refused(patch(http, order_id, a="1"), 409, "timeline_full")


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [order["id"] for order in answer.json["orders"]]


@pytest.fixture
def carts(http, place, mine) -> dict[str, list[str]]:
    """Orders of three carts in turn, newest first, by cart; every second is on table 7."""
    found: dict[str, list[str]] = {"A": [], "B": [], "C": []}
    for at in range(18):
        cart, table = "ABC"[at % 3], str(7 + at % 2)
        found[cart].insert(0, place(http, userId=mine, metadata={"cart": f"{mine}-{cart}", "table": table}))
    place(http, userId=mine)
    return found


@pytest.mark.parametrize("whose", ["in the path", "in the query", "of all users"])
def test_a_list_can_be_of_orders_with_a_pair_page_by_page(http, mine, carts, whose):
    address = {"in the path": f"/orders/{mine}?", "in the query": f"/orders?userId={mine}&", "of all users": "/orders?"}
    answer = http.get(f"{address[whose]}limit=4&metadata[cart]={mine}-B")
    second = http.get(answer.headers["Link"].removeprefix("<").partition(">")[0])
    assert [*ids(answer), *ids(second)] == carts["B"]
    assert "Link" not in second.headers


def test_a_list_can_be_of_several_pairs_and_a_status_at_once(http, mine, carts, orders):
    at_table_7 = [order_id for order_id in carts["A"] if order_of(http, order_id)["metadata"]["table"] == "7"]
    query = {"metadata[cart]": f"{mine}-A", "metadata[table]": "7"}
    assert ids(http.get(f"/orders/{mine}", query_string=query)) == at_table_7
    orders.update_one({"_id": ObjectId(at_table_7[1])}, {"$set": {"orderStatus": "Packed"}})
    for address in (f"/orders/{mine}", "/orders"):
        assert ids(http.get(address, query_string={**query, "status": "Packed"})) == [at_table_7[1]]


def test_a_pair_is_one_key_with_its_own_value(http, place, mine):
    place(http, userId=mine, metadata={"a": "1", "b": "2"})
    for query in ("metadata[a]=2", "metadata[b]=1", "metadata[A]=1", "metadata[a]=1&metadata[b]=1"):
        assert ids(http.get(f"/orders/{mine}?{query}")) == []


@pytest.mark.parametrize("key", ["Tisch.$7", "$where", "a.b", "सारणी", "k/v&=?"])
def test_any_key_can_be_searched(http, place, mine, key):
    order_id = place(http, userId=mine, metadata={key: "$ne"})
    assert ids(http.get(f"/orders/{mine}", query_string={f"metadata[{key}]": "$ne"})) == [order_id]


def test_a_changed_value_is_found_and_the_former_is_not(http, place, mine):
    order_id = place(http, userId=mine, metadata={"cart": "old"})
    patch(http, order_id, cart="new")
    assert ids(http.get(f"/orders/{mine}?metadata[cart]=new")) == [order_id]
    assert ids(http.get(f"/orders/{mine}?metadata[cart]=old")) == []


def test_a_cursor_is_bound_to_the_pairs_whatever_their_order(http, mine, carts, refused):
    first = http.get(f"/orders/{mine}?limit=1&metadata[table]=7&metadata[cart]={mine}-A")
    path = f"/orders/{mine}?limit=1&cursor={first.json['nextCursor']}"
    assert ids(http.get(f"{path}&metadata[cart]={mine}-A&metadata[table]=7"))
    for other in ("", "&metadata[table]=7", f"&metadata[table]=8&metadata[cart]={mine}-A"):
        refused(http.get(path + other), 400, "invalid_cursor")


WRONG = {
    "metadata=x": "metadata",
    "metadata[]=x": "metadata[]",
    "metadata[a": "metadata[a",
    "metadata[a][b]=x": "metadata[a][b]",
    "metadata[a]=": "metadata[a]",
    "metadata[a]=1&metadata[a]=2": "metadata[a]",
    f"metadata[a]={'v' * 501}": "metadata[a]",
    f"metadata[{'k' * 41}]=v": "metadata",
    "&".join(f"metadata[{number}]=v" for number in range(21)): "metadata",
    "status[a]=x": "status[a]",
    "metadata[a]=x&stuck=true": "metadata[a]",
}


@pytest.mark.parametrize(("query", "parameter"), WRONG.items(), ids=range(len(WRONG)))
def test_a_filter_that_cannot_be_meant_is_refused(http, refused, query, parameter):
    assert refused(http.get(f"/orders?{query}"), 400, "invalid_parameter")["parameter"] == parameter


@pytest.fixture
def said(monkeypatch) -> Iterator[io.StringIO]:
    """All that is logged meanwhile, at the finest level."""
    logging.configure("json", "debug")
    output = io.StringIO()
    monkeypatch.setattr(logging, "_output", output)
    yield output
    logging.configure("json", "warning")


def test_no_value_gets_into_the_log_or_into_the_text_of_a_message(http, place, mine, said, eventually):
    order_id = place(http, userId=mine, metadata={"note": "wanted-by-Ada"})
    patch(http, order_id, note="wanted-by-Bob")
    http.get(f"/orders/{mine}?metadata[note]=wanted-by-Bob")
    # Other tests may have left a logger with its level, and a thread that writes.
    log.error("the last line")
    eventually(lambda: "the last line" in said.getvalue())
    update = UpdateMetadata(
        request_id="r", order_id=order_id, on_behalf_of="", expected_versions=(), metadata={"note": "wanted-by-Bob"}
    )
    assert "wanted-by" not in said.getvalue() + repr(update)
