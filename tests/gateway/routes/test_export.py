"""The export of orders: all of a list in one response, in lines that can be taken up again wherever they were cut."""

import csv
import gzip
import io
import json
import re
import zlib
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from random import Random
from types import SimpleNamespace
from urllib.parse import urlencode
from uuid import uuid4

import msgspec
import pytest
from bson import ObjectId

from app.contracts.base import Unavailable
from app.gateway.http.order_lines import AMOUNTS, COLUMNS, csv_lines
from app.gateway.routes import export
from app.main import create_app, runtime
from app.messaging.rabbitmq import codec
from app.messaging.signal_bus import SignalBus
from tests.gateway.security.test_authentication import identity, show, token

IDENTITY = {name: value for name, value in vars(identity()).items() if name.startswith("auth_jwt_")}
SCOPES = "orders:read orders:write"


@pytest.fixture
def mine():
    return f"exporter-{uuid4().hex}"


@pytest.fixture
def small_pages(monkeypatch):
    """Pages of four orders, so that some have many."""
    monkeypatch.setattr(export, "PAGE_SIZE", 4)


@pytest.fixture
def stock(http, place, orders, mine, small_pages):
    """Orders of one user, newest first, several of each moment."""
    placed = [place(http, userId=mine, productId=str(at)) for at in range(23)]
    for at, order_id in enumerate(placed):
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"createdAt": datetime(2030, 1, 1, 0, 0, at // 5)}})
    return sorted(placed, key=lambda order_id: (placed.index(order_id) // 5, order_id), reverse=True)


@pytest.fixture
def pauses(monkeypatch):
    """The clock of an export, which only its pauses move."""
    slept = []
    # Only this module's: other threads of the process pause as well.
    monkeypatch.setattr(export, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept)))
    return slept


def fetch(client, address, **headers):
    """The whole answer, closed as a server closes it."""
    return client.get(address, headers=headers, buffered=True)


def exported(client, address, **headers):
    answer = fetch(client, address, **headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-ndjson; charset=utf-8")
    return [json.loads(line) for line in answer.data.decode().split("\n")[:-1]]


def ids(client, address, **headers):
    return [order["id"] for order in exported(client, address, **headers)]


def rows(text):
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_an_export_has_each_order_once_as_lists_have_it(http, mine, stock):
    found = exported(http, f"/orders/export?userId={mine}")
    assert [order["id"] for order in found] == stock
    assert found == http.get(f"/orders/{mine}").json["orders"]


SELECTIONS = {
    "": slice(None),
    "sort=createdAt": slice(None, None, -1),
    "createdFrom=2030-01-01T00:00:02Z": slice(None, 13),
    "createdFrom=2030-01-01T00:00:01Z&createdTo=2030-01-01T00:00:03Z&sort=createdAt": slice(17, 7, -1),
    "createdTo=2029-01-01T00:00:00Z": slice(0, 0),
}


@pytest.mark.parametrize(("query", "selected"), SELECTIONS.items(), ids=SELECTIONS)
def test_an_export_is_selected_and_sorted_as_lists_are(http, mine, stock, orders, query, selected):
    address = f"/orders/export?userId={mine}&{query}"
    assert ids(http, address) == stock[selected]
    packed = stock[::2]
    for order_id in packed:
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Packed", "paymentStatus": "Disputed"}})
    wanted = [order_id for order_id in stock[selected] if order_id in packed]
    assert ids(http, f"{address}&status=Packed") == ids(http, f"{address}&paymentStatus=Disputed") == wanted


def taken_in_pieces(client, address, end, random):
    """What a client has of an export that is cut again and again: whole lines only, and what follows the last of them."""
    taken, cuts = b"", 0
    while True:
        line = taken.removesuffix(end).rpartition(b"\n")[2]
        order_id = re.search(rb"[0-9a-f]{24}", line)
        if not order_id:
            taken = b""
        rest = fetch(client, f"{address}&after={order_id[0].decode()}" if order_id else address).data
        cut = min(random.randrange(2000), len(rest))
        taken += rest[: rest.rfind(end, 0, cut) + len(end)] if end in rest[:cut] else b""
        if cut == len(rest):
            return taken, cuts
        cuts += 1


@pytest.mark.parametrize("query", SELECTIONS, ids=SELECTIONS)
@pytest.mark.parametrize(("name", "end"), [("ndjson", b"\n"), ("csv", b"\r\n")])
def test_an_export_that_is_cut_anywhere_goes_on_without_a_gap_or_a_repeat(http, mine, stock, query, name, end):
    address, random = f"/orders/export?userId={mine}&format={name}&{query}", Random(7)
    whole = fetch(http, address).data
    pieces = [taken_in_pieces(http, address, end, random) for _ in range(5)]
    assert [taken for taken, _ in pieces] == [whole] * 5
    assert len(whole) < 1000 or sum(cuts for _, cuts in pieces) > 5


def test_after_the_last_order_nothing_follows(http, mine, stock):
    assert ids(http, f"/orders/export?userId={mine}&after={stock[-1]}") == []
    assert fetch(http, f"/orders/export?userId={mine}&format=csv&after={stock[-1]}").data == b""


def test_after_an_order_outside_of_its_times_an_export_begins_at_them(http, mine, stock):
    times = f"/orders/export?userId={mine}&createdFrom=2030-01-01T00:00:01Z&createdTo=2030-01-01T00:00:03Z"
    assert ids(http, f"{times}&sort=createdAt&after={stock[-1]}") == stock[17:7:-1]
    assert ids(http, f"{times}&sort=createdAt&after={stock[0]}") == []
    assert ids(http, f"{times}&after={stock[0]}") == stock[8:18]


def test_orders_that_change_while_they_are_exported_are_there_once(http, mine, stock, orders):
    """As they are when their page is read."""
    with http.get(f"/orders/export?userId={mine}", buffered=False) as answer:
        lines = answer.iter_encoded()
        first = next(lines)
        for order_id in stock:
            orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Packed"}})
        found = [json.loads(line) for line in (first + b"".join(lines)).splitlines()]
    assert [order["id"] for order in found] == stock
    assert [order["orderStatus"] for order in found] == ["Processing"] * 4 + ["Packed"] * 19


def test_pages_are_read_as_the_client_reads_and_nothing_is_kept_in_between(http, mine, stock, monkeypatch):
    read, real = [], SignalBus.request

    def count(bus, message):
        read.append(type(message).__name__)
        return real(bus, message)

    monkeypatch.setattr(SignalBus, "request", count)
    with http.get(f"/orders/export?userId={mine}", buffered=False) as answer:
        lines = answer.iter_encoded()
        for pages in range(1, 7):
            assert len(next(lines).splitlines()) == (4 if pages < 6 else 3)
            assert read == ["ListOrders"] * pages
        assert next(lines, None) is None
    # One that has gone reads no more.
    read.clear()
    with http.get(f"/orders/export?userId={mine}", buffered=False) as answer:
        next(answer.iter_encoded())
    assert read == ["ListOrders"]


def test_over_a_broker_an_export_goes_in_messages_of_one_page(http, mine, stock, monkeypatch):
    sizes, real = [], SignalBus.request

    def send(bus, message):
        name = type(message).__name__
        reply = real(bus, codec.REQUESTS[name].decode(msgspec.json.encode(message)))
        sizes.append(len(msgspec.json.encode(reply)))
        return codec.REPLIES[name].decode(msgspec.json.encode(reply))

    whole = fetch(http, f"/orders/export?userId={mine}").data
    monkeypatch.setattr(SignalBus, "request", send)
    assert fetch(http, f"/orders/export?userId={mine}").data == whole
    assert len(sizes) == 6
    assert max(sizes) < 4 * 1000


# --- CSV ---


def test_csv_has_a_header_and_the_amounts_as_exact_decimal_numbers(http, place, mine, orders):
    order_id = place(http, userId=mine, totalOrderAmount={"value": 9_007_199_254_740, "currency": "KWD"})
    other = place(http, userId=mine, totalOrderAmount="JPY 500", productName='Said "so", über 用户')
    orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Success", "paymentStatus": "Captured"}})
    answer = fetch(http, f"/orders/export?userId={mine}", Accept="text/csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="orders.csv"'
    assert answer.text.startswith(",".join(COLUMNS) + "\r\n")
    assert answer.text.endswith("\r\n")
    by_id = {row["id"]: row for row in rows(answer.text)}
    assert [*by_id] == [other, order_id]
    dinars, yen = by_id[order_id], by_id[other]
    assert {name: dinars[name] for name in ("currency", "total", "captured", "refunded", "blocked")} == {
        "currency": "KWD",
        "total": "9007199254.740",
        "captured": "9007199254.740",
        "refunded": "0.000",
        "blocked": "",
    }
    assert (yen["total"], yen["captured"], yen["currency"]) == ("500", "0", "JPY")
    assert yen["productName"] == 'Said "so", über 用户'
    [view] = [order for order in exported(http, f"/orders/export?userId={mine}") if order["id"] == order_id]
    for name in AMOUNTS:
        assert dinars[name] == "" or Decimal(dinars[name]).scaleb(3) == view[name]["value"]
    assert {name for name in COLUMNS if name not in (*AMOUNTS, "currency", "metadata")} == view.keys() - {*AMOUNTS}


def test_metadata_is_in_both_formats_and_selects(http, place, mine):
    metadata = {"cart": '=1+1, "A-1207"', "table": "7"}
    order_id = place(http, userId=mine, metadata=metadata)
    place(http, userId=mine)
    address = f"/orders/export?userId={mine}&metadata[table]=7"
    [order] = exported(http, address)
    [row] = rows(fetch(http, f"{address}&format=csv").text)
    assert order["id"] == row["id"] == order_id
    assert order["metadata"] == json.loads(row["metadata"]) == metadata


FORMULAS = ["=1+1", "+1", "-1", "@SUM(1)", "＝1+1", "＋1", "－1", "＠SUM(1)", '=HYPERLINK("https://evil.example")']


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_of_csv_begins_like_a_formula(http, place, mine, formula, orders):
    user = f"{formula}{mine}"
    order_id = place(http, userId=user, productName=formula, productId=formula)
    orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": formula, "totalOrderAmount": formula}})
    query = urlencode({"userId": user})
    [row] = rows(fetch(http, f"/orders/export?format=csv&{query}").text)
    assert row["userId"] == f"'{user}"
    for name in ("productName", "productId", "orderStatus", "totalOrderAmount"):
        assert row[name] == f"'{formula}"
    assert exported(http, f"/orders/export?{query}")[0]["userId"] == user


def test_a_line_break_in_a_cell_stays_in_its_record(http, place, mine, orders):
    order_id = place(http, userId=mine)
    for text in ("two\r\nlines", "\ttab", "\rreturn", "\nfeed"):
        orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"productName": text}})
        [row] = rows(fetch(http, f"/orders/export?userId={mine}&format=csv").text)
        assert row["productName"] == (text if text[0] == "t" else f"'{text}")


def test_csv_without_orders_is_its_header(http, mine):
    assert rows(fetch(http, f"/orders/export?userId={mine}&format=csv").text) == []
    assert csv_lines([]) == b""


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/x-ndjson"),
        ("text/html, */*;q=0.1", "application/x-ndjson"),
        ("text/csv", "text/csv"),
        ("text/csv;q=0.5, application/x-ndjson", "application/x-ndjson"),
        ("application/json", "application/x-ndjson"),
    ],
)
def test_the_header_accept_chooses_the_format_and_the_query_overrides_it(http, mine, accept, media_type):
    answer = fetch(http, f"/orders/export?userId={mine}", Accept=accept)
    assert answer.mimetype == media_type
    assert "Accept" in answer.headers["Vary"].split(", ")
    assert fetch(http, f"/orders/export?userId={mine}&format=csv", Accept=accept).mimetype == "text/csv"


# --- Compression ---


@pytest.mark.parametrize("accept", ["gzip", "br, gzip;q=0.5", "*"])
def test_a_client_that_accepts_gzip_gets_each_page_as_soon_as_it_is_read(http, mine, stock, accept):
    with http.get(f"/orders/export?userId={mine}", headers={"Accept-Encoding": accept}, buffered=False) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        unpacker, chunks = zlib.decompressobj(31), answer.iter_encoded()
        assert unpacker.decompress(next(chunks)).count(b"\n") == 4
        assert unpacker.decompress(b"".join(chunks)).count(b"\n") == 19
        assert unpacker.eof
    whole = fetch(http, f"/orders/export?userId={mine}").data
    packed = fetch(http, f"/orders/export?userId={mine}", **{"Accept-Encoding": accept}).data
    assert gzip.decompress(packed) == whole


@pytest.mark.parametrize("accept", ["", "identity", "br", "gzip;q=0"])
def test_any_other_client_gets_it_as_it_is(http, mine, accept):
    answer = fetch(http, f"/orders/export?userId={mine}", **{"Accept-Encoding": accept})
    assert "Content-Encoding" not in answer.headers
    assert "Accept-Encoding" in answer.headers["Vary"].split(", ")


# --- Who may ---


@pytest.fixture(scope="module")
def guarded(shared_settings, mongo):
    """A server with authentication and a database of its own."""
    name = f"{shared_settings.database}_export"
    app = create_app(replace(shared_settings, database=name, **IDENTITY))
    runtime(app).prepare()
    yield app.test_client()
    runtime(app).stop()
    mongo.drop_database(name)


def as_user(name, scope=SCOPES):
    return dict(show(token(sub=name, scope=scope)))


def test_users_export_their_own_orders_and_administrators_those_of_all(guarded, refused):
    ada, bob, admin = as_user("ada"), as_user("bob"), as_user("root", "orders:admin")
    body = {"productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
    of_ada, of_bob = (
        guarded.post("/orders", json={**body, "userId": user}, headers=theirs).json["created"]["id"]
        for user, theirs in (("ada", ada), ("bob", bob))
    )
    assert ids(guarded, "/orders/export", **ada) == ids(guarded, "/orders/export?userId=ada", **ada) == [of_ada]
    assert ids(guarded, "/orders/export", **admin) == [of_bob, of_ada]
    assert ids(guarded, "/orders/export?sort=createdAt", **admin) == [of_ada, of_bob]
    assert ids(guarded, "/orders/export?userId=bob", **admin) == [of_bob]
    assert ids(guarded, f"/orders/export?after={of_bob}", **admin) == [of_ada]
    refused(guarded.get("/orders/export?userId=bob", headers=ada), 404, "order_not_found")
    refused(guarded.get(f"/orders/export?after={of_bob}", headers=ada), 400, "invalid_parameter")
    refused(guarded.get("/orders/export"), 401, "unauthenticated")
    refused(guarded.get("/orders/export", headers=as_user("ada", "orders:write")), 403, "insufficient_scope")
    body = refused(guarded.get(f"/orders/export?userId=ada&after={of_bob}", headers=admin), 400, "invalid_parameter")
    assert body["parameter"] == "after"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("format=xml", 400, "invalid_parameter"),
        ("format=", 400, "invalid_parameter"),
        ("sort=id", 400, "invalid_parameter"),
        ("createdFrom=now", 400, "invalid_parameter"),
        ("limit=5", 400, "invalid_parameter"),
        ("cursor=x", 400, "invalid_parameter"),
        ("after=", 400, "invalid_parameter"),
        ("after=x", 400, "invalid_parameter"),
        ("after=692000000000000000000000", 400, "invalid_parameter"),
    ],
)
def test_what_cannot_be_exported_is_refused(http, refused, query, status, code):
    refused(http.get(f"/orders/export?{query}"), status, code)


# --- Limits and failures ---


def test_a_worker_writes_so_many_exports_at_once_and_half_of_them_for_one_caller(
    shared_settings, place, refused, small_pages
):
    app = create_app(replace(shared_settings, exports_max=4, forwarded_allow_ips="127.0.0.1"))
    client, mine = app.test_client(), f"exporter-{uuid4().hex}"
    address = f"/orders/export?userId={mine}"
    try:
        for _ in range(5):
            place(client, userId=mine)
        opened = []
        for caller in ("192.0.2.1", "192.0.2.2"):
            theirs = {"X-Forwarded-For": caller}
            opened += [client.get(address, headers=theirs, buffered=False) for _ in range(2)]
            over = client.get(address, headers=theirs)
            refused(over, 429, "too_many_streams")
            assert over.headers["Retry-After"]
        other = {"X-Forwarded-For": "192.0.2.3"}
        refused(client.get(address, headers=other), 429, "too_many_streams")
        # One that ends, one whose client goes, and one that is refused for another reason leave their places.
        assert len(opened[0].data.splitlines()) == 5
        opened[0].close()
        opened[1].close()
        refused(client.get("/orders/export?after=x", headers=other), 400, "invalid_parameter")
        client.head(address, headers=other, buffered=True)
        held = [client.get(address, headers=other, buffered=False) for _ in range(2)]
        assert [one.status_code for one in held] == [200, 200]
        for one in (*opened, *held):
            one.close()
    finally:
        runtime(app).stop()


def failing(times, error):
    """A page of one order, and then so many failures before the last page."""
    left = [error] * times

    def read(place):
        if left:
            raise left.pop()
        return ["last"], None

    return (["first"], ("at", "id")), read


def test_while_orders_do_not_answer_an_export_waits(pauses):
    page, read = failing(29, Unavailable("no primary"))
    assert [*export.pages_after(read, page)] == [["first"], ["last"]]
    assert len(pauses) == 29


def test_an_export_that_cannot_go_on_is_cut_so_that_its_client_sees_it(pauses):
    page, read = failing(99, Unavailable("no primary"))
    pages = export.pages_after(read, page)
    assert next(pages) == ["first"]
    with pytest.raises(ConnectionResetError, match="no primary"):
        next(pages)
    assert sum(pauses) == export.PATIENCE_SECONDS


def test_a_process_that_stops_cuts_its_exports(pauses):
    page, read = failing(0, None)
    pages = export.pages_after(read, page, lambda: True)
    assert next(pages) == ["first"]
    with pytest.raises(ConnectionResetError, match="stopping"):
        next(pages)


def test_an_export_that_cannot_begin_is_a_problem_and_leaves_its_place(http, refused, monkeypatch):
    def unavailable(*_):
        raise Unavailable("no primary", retry_after=1)

    for _ in range(5):
        with monkeypatch.context() as patched:
            patched.setattr(export, "read_page", unavailable)
            refused(http.get("/orders/export"), 503, "unavailable")
    assert fetch(http, "/orders/export?createdTo=2020-01-01T00:00:00Z").status_code == 200
