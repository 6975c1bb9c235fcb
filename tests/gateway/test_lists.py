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
def test_a_list_of_nobody_is_refused(http, refused, query):
    assert refused(http.get(f"/orders{query}"), 400, "invalid_parameter")["parameter"] == "userId"


def test_parameters_that_nobody_knows_are_ignored_and_not_carried_on(http, mine, stock):
    answer = http.get(f"/orders/{mine}?limit=2&$where=1&x[$ne]=1")
    assert ids(answer) == stock[:2]
    assert re.fullmatch(rf'</orders/{mine}\?limit=2&cursor=[\w.-]+>; rel="next"', answer.headers["Link"])
