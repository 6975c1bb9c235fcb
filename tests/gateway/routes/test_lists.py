"""Lists page by page: nothing missed, nothing twice, and no cursor that we did not make."""

import re
import threading
from dataclasses import replace
from datetime import datetime
from urllib.parse import quote
from uuid import uuid4

import pytest
from bson import ObjectId

from app.main import create_app, runtime


@pytest.fixture
def mine():
    return f"pager-{uuid4().hex}"


@pytest.fixture
def stock(http, place, orders, mine):
    """Orders of one user, newest first, several of each moment."""
    placed = [place(http, userId=mine, productId=str(at)) for at in range(23)]
    for at, order_id in enumerate(placed):
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"createdAt": datetime(2030, 1, 1, 0, 0, at // 5)}})
    return sorted(placed, key=lambda order_id: (placed.index(order_id) // 5, order_id), reverse=True)


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [order["id"] for order in answer.json["orders"]]


def pages(client, address, following):
    """All pages from here, each found as `following` finds it."""
    while address:
        answer = client.get(address)
        yield ids(answer)
        assert answer.json["hasMore"] == ("nextCursor" in answer.json) == ("Link" in answer.headers)
        address = following(answer)


def by_link(answer):
    link = answer.headers.get("Link")
    return link and re.fullmatch(r'<(/[!-~]+)>; rel="next"', link)[1]


@pytest.mark.parametrize("limit", [1, 2, 5, 7, 22, 23, 24, 100])
def test_pages_hold_every_order_once_and_in_order(http, mine, stock, limit):
    found = list(pages(http, f"/orders/{mine}?limit={limit}", by_link))
    assert [order_id for page in found for order_id in page] == stock
    assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)


def test_a_page_without_a_limit_holds_a_hundred(http, mine, stock):
    answer = http.get(f"/orders/{mine}")
    assert (ids(answer), answer.json["hasMore"]) == (stock, False)
    assert answer.json.keys() == {"ok", "orders", "hasMore"}


def test_a_list_can_be_of_one_status(http, mine, stock, orders):
    for order_id in stock[::3]:
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "On the way"}})
    found = pages(http, f"/orders/{mine}?limit=3&status=On+the+way", by_link)
    assert [order_id for page in found for order_id in page] == stock[::3]
    rest = pages(http, f"/orders/{mine}?limit=3&status=Processing", by_link)
    assert {order_id for page in rest for order_id in page} == set(stock) - set(stock[::3])
    assert ids(http.get(f"/orders/{mine}?status=Nowhere")) == []


@pytest.mark.parametrize("user", ["a/b", "/", "one/x", "..", "a b", "Ünïcode/用户", "x?y=z&limit=1#", "%2F", "🦀"])
def test_a_user_of_any_name_is_listed_and_paged(http, place, user):
    name = f"{user}{uuid4().hex}"
    placed = {place(http, userId=name) for _ in range(3)}
    found = pages(http, f"/orders?userId={quote(name, safe='')}&limit=2", by_link)
    assert {order_id for page in found for order_id in page} == placed


def test_nothing_is_missed_or_twice_while_orders_arrive(http, shared_app, place, mine):
    existing = [place(http, userId=mine) for _ in range(40)]
    stop, client = threading.Event(), shared_app.test_client()
    arrived = []

    def arrive():
        while not stop.is_set():
            arrived.append(place(client, userId=mine))

    arriving = threading.Thread(target=arrive)
    arriving.start()
    try:
        found = [order_id for page in pages(http, f"/orders/{mine}?limit=3", by_link) for order_id in page]
    finally:
        stop.set()
        arriving.join()
    assert len(found) == len(set(found))
    assert set(existing) <= set(found)
    assert arrived


def test_cursors_of_other_users_and_other_filters_are_refused(http, place, mine, stock, refused):
    cursor = http.get(f"/orders/{mine}?limit=2").json["nextCursor"]
    other = f"other-{mine}"
    place(http, userId=other)
    refused(http.get(f"/orders/{other}?cursor={cursor}"), 400, "invalid_cursor")
    refused(http.get(f"/orders/{mine}?status=Processing&cursor={cursor}"), 400, "invalid_cursor")
    assert len(ids(http.get(f"/orders/{mine}?limit=100&cursor={cursor}"))) == 21


def test_a_cursor_with_a_letter_changed_is_refused(http, mine, stock, refused):
    cursor = http.get(f"/orders/{mine}?limit=2").json["nextCursor"]
    for at in range(0, len(cursor), 3):
        # Not the next letter: of the last one, two bits do not count.
        changed = cursor[:at] + ("A" if cursor[at] not in "ABCD" else "z") + cursor[at + 1 :]
        refused(http.get(f"/orders/{mine}?cursor={changed}"), 400, "invalid_cursor")


@pytest.mark.parametrize(
    "cursor", ["", "x", ".", "a.b", "WyJ4Il0.x", "%00", "é", "{}", "x" * 512, "x" * 3000, "[]", ".eJw.x"]
)
def test_what_was_never_a_cursor_is_refused(http, mine, refused, cursor):
    refused(http.get(f"/orders/{mine}?cursor={cursor}"), 400, "invalid_cursor")


def test_a_cursor_works_in_every_process_and_after_a_restart(http, shared_settings, mine, stock, refused):
    cursor = http.get(f"/orders/{mine}?limit=20").json["nextCursor"]
    others = [create_app(shared_settings), create_app(replace(shared_settings, cursor_key="k" * 32))]
    try:
        assert ids(others[0].test_client().get(f"/orders/{mine}?cursor={cursor}")) == stock[20:]
        refused(others[1].test_client().get(f"/orders/{mine}?cursor={cursor}"), 400, "invalid_cursor")
    finally:
        for app in others:
            runtime(app).stop()


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        *[
            (f"limit={limit}", "limit")
            for limit in ("0", "101", "-1", "1.5", "x", "", "1e2", "0x1", "%D9%A1", "9" * 99)
        ],
        *[(f"status={status}", "status") for status in ("", "%20", "x" * 65, "a%00", "a%0Ab")],
        ("limit=1&limit=1", "limit"),
        ("status=a&status=b", "status"),
        ("cursor=a&cursor=b", "cursor"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(http, mine, refused, query, parameter):
    assert refused(http.get(f"/orders/{mine}?{query}"), 400, "invalid_parameter")["parameter"] == parameter


@pytest.mark.parametrize(
    "query", ["?userId=", "?userId=%20", "?userId=%00", f"?userId={'x' * 129}", "?userId=a&userId=b"]
)
def test_a_list_of_an_empty_user_is_rejected(http, refused, query):
    assert refused(http.get(f"/orders{query}"), 400, "invalid_parameter")["parameter"] == "userId"


def test_unknown_parameters_are_ignored_and_not_in_the_link(http, mine, stock):
    answer = http.get(f"/orders/{mine}?limit=2&$where=1&x[$ne]=1")
    assert ids(answer) == stock[:2]
    assert re.fullmatch(rf'</orders/{mine}\?limit=2&cursor=[\w.-]+>; rel="next"', answer.headers["Link"])


@pytest.fixture(scope="module")
def everybody(shared_settings, mongo):
    """An application with a database of its own, for lists of all orders."""
    app = create_app(replace(shared_settings, database=f"{shared_settings.database}_all"))
    runtime(app).prepare()
    yield app.test_client(), mongo[f"{shared_settings.database}_all"]
    runtime(app).stop()
    mongo.drop_database(f"{shared_settings.database}_all")


@pytest.fixture
def all_orders(everybody, place):
    """Orders of three users, newest first."""
    client, database = everybody
    database.orders.delete_many({})
    database.payments.delete_many({})
    placed = [place(client, userId=f"user-{at % 3}") for at in range(9)]
    return sorted(placed, reverse=True)


@pytest.mark.parametrize("limit", [1, 4, 9, 100])
def test_without_a_user_the_list_is_everybodys(everybody, all_orders, limit):
    found = list(pages(everybody[0], f"/orders?limit={limit}", by_link))
    assert [order_id for page in found for order_id in page] == all_orders


def test_everybodys_orders_can_be_of_one_status(everybody, all_orders):
    client, database = everybody
    for order_id in all_orders[::2]:
        database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Packed"}})
    found = list(pages(client, "/orders?limit=2&status=Packed", by_link))
    assert [order_id for page in found for order_id in page] == all_orders[::2]


def test_a_status_is_searched_in_bounded_scans(everybody, all_orders, monkeypatch):
    client, database = everybody
    monkeypatch.setattr("app.orders.queries.STATUS_SCAN_LIMIT", 4)
    database.orders.update_one({"_id": ObjectId(all_orders[-1])}, {"$set": {"orderStatus": "Packed"}})
    found = list(pages(client, "/orders?limit=2&status=Packed", by_link))
    assert found == [[], [], [all_orders[-1]]]


def test_cursors_of_all_orders_and_of_a_user_are_not_interchangeable(everybody, all_orders, refused):
    client, _ = everybody
    every, one = (client.get(f"/orders?limit=1{query}").json["nextCursor"] for query in ("", "&userId=user-1"))
    refused(client.get(f"/orders?userId=user-1&cursor={every}"), 400, "invalid_cursor")
    refused(client.get(f"/orders?cursor={one}"), 400, "invalid_cursor")


def stored_payment(order_id, **state):
    return {
        "_id": order_id, "userId": "user-1", "productId": "1", "total": {"value": 9900, "currency": "MYR"},
        "status": "Processing", "cancelled": False, "keySent": True, "captured": 0, "refunds": [], "parkedReason": "",
        **dict.fromkeys(("generation", "fencingToken", "retryCount", "sequence", "orderSequence", "version"), 1),
        "requestId": "r", "reference": "", "attempts": [], "outbox": [], "requestedAt": datetime(2020, 1, 1),
        **state,
    }  # fmt: skip


def test_stuck_orders_are_those_that_wait_too_long_or_for_an_operator(everybody, all_orders):
    client, database = everybody
    parked, slow, quick, late, done = all_orders[:5]
    database.orders.update_many({}, {"$set": {"outbox": []}, "$unset": {"relayDue": ""}})
    database.orders.update_one({"_id": ObjectId(late)}, {"$set": {"relayDue": datetime(2020, 1, 1)}})
    database.payments.insert_many([
        stored_payment(parked, status="Unknown", parkedReason="no word"),
        stored_payment(slow, dueAt=datetime(2099, 1, 1)),
        stored_payment(quick, dueAt=datetime(2099, 1, 1), requestedAt=datetime(2098, 1, 1)),
        stored_payment(done, status="Captured", captured=9900),
    ])  # fmt: skip
    answer = client.get("/orders?stuck=true")
    assert (ids(answer), answer.json["hasMore"]) == ([parked, slow, late], False)
    answer = client.get("/orders?stuck=true&limit=2")
    assert (len(ids(answer)), answer.json["hasMore"]) == (2, True)


def test_dead_letters_of_both_modules_are_listed(everybody, all_orders):
    client, database = everybody
    letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": datetime(2020, 1, 1)}
    database.orders.update_one({"_id": ObjectId(all_orders[3])}, {"$set": {"deadLetter": letter}})
    database.payments.insert_one(stored_payment(all_orders[1], deadLetter=letter))
    assert ids(client.get("/orders?deadLetter=true")) == [all_orders[1], all_orders[3]]
    assert ids(client.get("/orders?deadLetter=true&limit=1")) == [all_orders[1]]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("stuck=1", "stuck"),
        ("deadLetter=false", "deadLetter"),
        ("stuck=true&stuck=true", "stuck"),
        ("stuck=true&userId=user-1", "userId"),
        ("stuck=true&status=Success", "status"),
        ("deadLetter=true&cursor=x", "cursor"),
        ("stuck=true&deadLetter=true", "deadLetter"),
    ],
)
def test_stuck_orders_cannot_be_combined_with_other_filters(http, refused, query, parameter):
    assert refused(http.get(f"/orders?{query}"), 400, "invalid_parameter")["parameter"] == parameter
