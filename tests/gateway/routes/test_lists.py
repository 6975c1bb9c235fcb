"""Lists page by page: nothing missed, nothing twice, and no cursor that we did not make."""

import re
import threading
from dataclasses import replace
from datetime import datetime
from urllib.parse import quote
from uuid import uuid4

import pytest
from bson import ObjectId

from app.contracts.orders import OrderStatus
from app.contracts.payments import PaymentStatus
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


MISSPELT_STATUSES = {
    "success": "Success",
    "SUCCESS": "Success",
    " Success": "Success",
    "Canceled": "Cancelled",
    "Captured": "paymentStatus",
    "refunded": "paymentStatus",
    "Unknown": "paymentStatus",
}


@pytest.mark.parametrize(("status", "hint"), MISSPELT_STATUSES.items())
def test_a_status_that_no_order_can_have_is_refused_with_a_hint(http, refused, mine, status, hint):
    for address in (f"/orders/{mine}", "/orders"):
        body = refused(http.get(address, query_string={"status": status}), 400, "invalid_parameter")
        assert body["parameter"] == "status"
        assert hint in body["detail"]


SELECTIONS = {
    "paymentStatus=Disputed": {"paymentStatus": "Disputed"},
    "paymentStatus=Captured": {"paymentStatus": "Captured"},
    "refundFailed=true": {"refunds": [{"id": "r", "value": 1, "requested": "1 MYR", "status": "failed"}]},
}


@pytest.mark.parametrize(("query", "changes"), SELECTIONS.items(), ids=SELECTIONS)
def test_a_list_can_be_of_one_payment_status_or_of_failed_refunds(http, mine, stock, orders, query, changes):
    for order_id in stock[::3]:
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": changes})
    orders.update_one({"_id": ObjectId(stock[0])}, {"$set": {"orderStatus": "On the way"}})
    for address in (f"/orders/{mine}?", f"/orders?userId={mine}&"):
        found = list(pages(http, f"{address}limit=3&{query}", by_link))
        assert [order_id for page in found for order_id in page] == stock[::3]
    assert ids(http.get(f"/orders/{mine}?{query}&status=On+the+way")) == [stock[0]]


# Of the orders in `stock`, which have been created in five moments.
TIMES = {
    "createdFrom=2030-01-01T00:00:02Z": slice(None, 13),
    "createdTo=2030-01-01T00:00:02Z": slice(13, None),
    "createdFrom=2030-01-01T00:00:01Z&createdTo=2030-01-01T00:00:03.000Z": slice(8, 18),
    "createdFrom=2030-01-01T00:00:01.001Z&createdTo=2030-01-01T00:00:03.001Z": slice(3, 13),
    "createdFrom=2030-01-01T08:00:02%2B08:00": slice(None, 13),
    "createdTo=2029-12-31T19:00:02-05:00": slice(13, None),
    "createdFrom=2031-01-01T00:00:00Z": slice(0, 0),
    "createdTo=1960-01-01T00:00:00Z": slice(0, 0),
    "createdTo=9999-12-31T23:59:59-14:00": slice(None),
}


@pytest.mark.parametrize(("query", "selected"), TIMES.items(), ids=TIMES)
def test_a_list_can_be_of_the_orders_created_from_one_time_to_before_another(http, mine, stock, query, selected):
    for address in (f"/orders/{mine}?", f"/orders?userId={mine}&"):
        for sort, wanted in (("-createdAt", stock[selected]), ("createdAt", stock[selected][::-1])):
            found = list(pages(http, f"{address}limit=4&sort={sort}&{query}", by_link))
            assert [order_id for page in found for order_id in page] == wanted


@pytest.mark.parametrize("limit", [1, 2, 5, 22, 23, 100])
def test_pages_can_begin_with_the_oldest_order(http, mine, stock, limit):
    found = list(pages(http, f"/orders/{mine}?limit={limit}&sort=createdAt", by_link))
    assert [order_id for page in found for order_id in page] == stock[::-1]


def test_the_times_and_the_sorting_go_with_the_other_filters(http, mine, stock, orders):
    for order_id in stock[::2]:
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Packed", "paymentStatus": "Disputed"}})
    query = "limit=2&createdFrom=2030-01-01T00:00:01Z&createdTo=2030-01-01T00:00:04Z&sort=createdAt"
    wanted = [order_id for order_id in stock[3:18] if order_id in stock[::2]][::-1]
    for more in ("status=Packed", "paymentStatus=Disputed", "status=Packed&paymentStatus=Disputed"):
        found = list(pages(http, f"/orders/{mine}?{query}&{more}", by_link))
        assert [order_id for page in found for order_id in page] == wanted


def test_a_cursor_is_bound_to_the_times_and_the_sorting(http, mine, stock, refused):
    query = f"/orders/{mine}?limit=1&createdFrom=2030-01-01T00:00:01Z&createdTo=2030-01-01T00:00:04Z&sort=createdAt"
    cursor = http.get(query).json["nextCursor"]
    assert ids(http.get(f"{query}&cursor={cursor}")) == [stock[::-1][6]]
    # The same instant, written in another way.
    assert http.get(f"{query.replace('00:00:01Z', '00:00:01.000Z')}&cursor={cursor}").status_code == 200
    for changed in (
        query.replace("00:00:01Z", "00:00:00Z"),
        query.replace("00:00:04Z", "00:00:05Z"),
        query.replace("&createdTo=2030-01-01T00:00:04Z", ""),
        query.replace("sort=createdAt", "sort=-createdAt"),
        query.replace("&sort=createdAt", ""),
        f"/orders/{mine}?limit=1",
    ):
        refused(http.get(f"{changed}&cursor={cursor}"), 400, "invalid_cursor")


@pytest.mark.parametrize(
    ("query", "parameter", "hint"),
    [
        ("createdFrom=yesterday", "createdFrom", "such as 2026-11-22T15:00:00Z"),
        ("createdFrom=2026-11-22", "createdFrom", "with an offset"),
        ("createdTo=2026-11-22T15:00:00", "createdTo", "with an offset"),
        ("createdTo=2026-11-22T15:00:00+08:00", "createdTo", "%2B"),
        ("createdTo=", "createdTo", "with an offset"),
        ("createdTo=1795360983", "createdTo", "with an offset"),
        ("createdFrom=2026-13-22T15:00:00Z", "createdFrom", "with an offset"),
        ("createdFrom=2026-11-22T15:00:00Z&createdTo=2026-11-22T15:00:00Z", "createdTo", "later than createdFrom"),
        ("createdFrom=2026-11-22T15:00:00Z&createdTo=2026-11-22T16:00:00%2B02:00", "createdTo", "later than"),
        ("createdFrom=2026-11-22T15:00:00Z&createdFrom=2026-11-22T15:00:00Z", "createdFrom", "more than once"),
        ("sort=oldest", "sort", "createdAt or -createdAt"),
        ("sort=", "sort", "createdAt or -createdAt"),
        ("sort=%2BcreatedAt", "sort", "createdAt or -createdAt"),
    ],
)
def test_a_time_or_a_sorting_that_cannot_be_used_is_named(http, mine, refused, query, parameter, hint):
    for address in (f"/orders/{mine}", "/orders"):
        body = refused(http.get(f"{address}?{query}"), 400, "invalid_parameter")
        assert (body["parameter"], hint in body["detail"]) == (parameter, True), body["detail"]


def test_a_cursor_is_bound_to_the_payment_status_and_the_failed_refunds(http, mine, stock, refused):
    cursor = http.get(f"/orders/{mine}?limit=1&paymentStatus=Processing").json["nextCursor"]
    for query in ("", "&paymentStatus=Captured", "&paymentStatus=Processing&refundFailed=true", "&status=Processing"):
        refused(http.get(f"/orders/{mine}?limit=1&cursor={cursor}{query}"), 400, "invalid_cursor")


@pytest.mark.parametrize(("text", "hint"), [("disputed", "write Disputed"), ("Success", "Captured"), ("x", "Disputed")])
def test_a_payment_status_that_is_none_is_refused(http, refused, mine, text, hint):
    body = refused(http.get(f"/orders/{mine}?paymentStatus={text}"), 400, "invalid_parameter")
    assert (body["parameter"], hint in body["detail"]) == ("paymentStatus", True)


@pytest.mark.parametrize("status", PaymentStatus)
def test_every_payment_status_can_be_selected(http, mine, status):
    assert ids(http.get(f"/orders/{mine}?paymentStatus={status}")) == []


@pytest.mark.parametrize("status", OrderStatus)
def test_every_status_that_has_a_meaning_can_be_selected(http, mine, status):
    assert ids(http.get(f"/orders/{mine}?status={status}")) == []


@pytest.mark.parametrize("user", ["a/b", "/", "one/x", "..", "a b", "Ünïcode/用户", "x?y=z&limit=1#", "%2F", "🦀"])
def test_a_user_of_any_name_is_listed_and_paged(http, place, user):
    name = f"{user}{uuid4().hex}"
    placed = {place(http, userId=name) for _ in range(3)}
    found = pages(http, f"/orders?userId={quote(name, safe='')}&limit=2", by_link)
    assert {order_id for page in found for order_id in page} == placed


def test_nothing_is_missed_or_twice_while_orders_arrive(http, shared_app, place, mine, eventually):
    existing = [place(http, userId=mine) for _ in range(40)]
    stop, client = threading.Event(), shared_app.test_client()
    arrived = []

    def arrive():
        while not stop.is_set():
            arrived.append(place(client, userId=mine))

    arriving = threading.Thread(target=arrive)
    arriving.start()
    try:
        eventually(lambda: arrived)
        found = [order_id for page in pages(http, f"/orders/{mine}?limit=3", by_link) for order_id in page]
    finally:
        stop.set()
        arriving.join()
    assert len(found) == len(set(found))
    assert set(existing) <= set(found)


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


def test_the_link_has_the_known_parameters(http, mine, stock):
    answer = http.get(f"/orders/{mine}?limit=2")
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
    # The order in which they were placed, within the same second too.
    return placed[::-1]


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


@pytest.mark.parametrize(("query", "changes"), SELECTIONS.items(), ids=SELECTIONS)
def test_everybodys_orders_can_be_of_one_payment_status_or_of_failed_refunds(everybody, all_orders, query, changes):
    client, database = everybody
    for order_id in all_orders[::2]:
        database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Packed", **changes}})
    for address in (f"/orders?limit=2&{query}", f"/orders?limit=2&{query}&status=Packed"):
        found = list(pages(client, address, by_link))
        assert [order_id for page in found for order_id in page] == all_orders[::2]


@pytest.mark.parametrize("limit", [1, 2, 4, 100])
@pytest.mark.parametrize("more", ["", "&status=Packed", "&paymentStatus=Disputed", "&paymentStatus=Captured"])
def test_everybodys_orders_are_selected_by_time_and_sorted_both_ways(everybody, all_orders, limit, more):
    client, database = everybody
    # By time they are in another order than by id, and two are of the same moment.
    for at, order_id in enumerate(all_orders):
        statuses = {"orderStatus": "Packed", "paymentStatus": "Captured" if "Captured" in more else "Disputed"}
        moment = datetime(2030, 1, 1, 0, 0, at // 2)
        database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"createdAt": moment, **statuses}})
    wanted = sorted(all_orders[2:8], key=lambda order_id: (all_orders.index(order_id) // 2, order_id))
    query = f"/orders?limit={limit}&createdFrom=2030-01-01T00:00:01Z&createdTo=2030-01-01T00:00:04Z{more}"
    # A status that few orders have has an index by id.
    oldest, newest = (sorted(wanted), sorted(wanted)[::-1]) if "Disputed" in more else (wanted, wanted[::-1])
    for sort, expected in (("createdAt", oldest), ("-createdAt", newest)):
        found = list(pages(client, f"{query}&sort={sort}", by_link))
        assert [order_id for page in found for order_id in page] == expected


@pytest.mark.parametrize("limit", [1, 4, 9, 100])
def test_everybodys_orders_can_begin_with_the_oldest(everybody, all_orders, limit):
    found = list(pages(everybody[0], f"/orders?limit={limit}&sort=createdAt", by_link))
    assert [order_id for page in found for order_id in page] == all_orders[::-1]


@pytest.mark.parametrize("time", ["", "&createdFrom=2026-01-01T00:00:00Z"])
def test_a_status_is_searched_in_bounded_scans_from_the_oldest_as_well(everybody, all_orders, monkeypatch, time):
    client, database = everybody
    monkeypatch.setattr("app.orders.queries.STATUS_SCAN_LIMIT", 4)
    database.orders.update_one({"_id": ObjectId(all_orders[0])}, {"$set": {"orderStatus": "Packed"}})
    found = list(pages(client, f"/orders?limit=2&status=Packed&sort=createdAt{time}", by_link))
    assert found == [[], [], [all_orders[0]]]


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
        ("stuck=true&createdFrom=2026-11-22T15:00:00Z", "createdFrom"),
        ("deadLetter=true&sort=createdAt", "sort"),
        ("deadLetter=true&cursor=x", "cursor"),
        ("stuck=true&deadLetter=true", "deadLetter"),
    ],
)
def test_stuck_orders_cannot_be_combined_with_other_filters(http, refused, query, parameter):
    assert refused(http.get(f"/orders?{query}"), 400, "invalid_parameter")["parameter"] == parameter
