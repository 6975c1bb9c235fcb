"""The export through real servers: one that stops, a client that does not read, and another process that goes on."""

import json
import socket
from contextlib import ExitStack, closing

import httpx
import pytest
from bson import ObjectId
from pymongo.read_concern import ReadConcern

from tools.cluster.servers import Server

pytestmark = pytest.mark.extended

ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
# More than the buffers of a connection hold.
ORDERS = 20_000
TAKEN = 1_000


@pytest.fixture
def servers(settings, tmp_path):
    """Two servers on the test's own database."""
    environ = {
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        "WEB_CONCURRENCY": "1",
        "REQUEST_DEADLINE": "10",
    }
    with ExitStack() as stack:
        yield [stack.enter_context(Server(tmp_path / name, environ)) for name in ("one", "other")]


@pytest.fixture
def stock(servers, database):
    """The ids of many orders, newest first."""
    answer = httpx.post(f"{servers[0].url}/orders", json=ORDER, headers={"Prefer": "wait=20"}, timeout=30)
    assert answer.json()["order"]["orderStatus"] == "Success"
    [one] = database.orders.find()
    database.orders.insert_many([{**one, "_id": ObjectId()} for _ in range(ORDERS - 1)])
    return [str(one["_id"]) for one in database.orders.find({}, {"_id": 1}).sort("_id", -1)]


def lines_until_cut(address):
    """The ids of the whole lines that arrive before the connection ends, and whether it ended in order."""
    text, whole = "", True
    try:
        with httpx.stream("GET", address, timeout=60) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_text():
                text += piece
                if text.count("\n") > TAKEN:
                    yield text
    except httpx.RemoteProtocolError:
        whole = False
    yield text, whole


def ids_of(text):
    return [json.loads(line)["id"] for line in text.split("\n")[:-1]]


def test_an_export_that_a_stopping_server_cuts_goes_on_at_another(servers, stock):
    one, other = servers
    pieces = lines_until_cut(f"{one.url}/orders/export")
    next(pieces)
    one.stop()
    *_, (text, whole) = pieces
    taken = ids_of(text)
    assert not whole
    assert TAKEN <= len(taken) < ORDERS
    *_, (text, whole) = lines_until_cut(f"{other.url}/orders/export?after={taken[-1]}")
    assert whole
    assert [*taken, *ids_of(text)] == stock


def test_a_client_that_does_not_read_holds_no_cursor_of_the_database(servers, stock, database, eventually):
    """And one that goes leaves its place."""

    def open_cursors():
        # What is running has no other read concern.
        idle = database.client.admin.with_options(read_concern=ReadConcern("local")).aggregate([
            {"$currentOp": {"allUsers": True, "idleCursors": True}},
            {"$match": {"type": "idleCursor", "ns": f"{database.name}.orders"}},
        ])  # fmt: skip
        return [one for one in idle if "$changeStream" not in str(one["cursor"].get("originatingCommand", ""))]

    url = httpx.URL(servers[0].url)
    request = f"GET /orders/export HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(closing(socket.create_connection((url.host, url.port), timeout=30)))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request)
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert open_cursors() == []
        assert httpx.get(f"{url}/orders/export", timeout=30).status_code == 429
        assert httpx.get(f"{url}/orders?limit=1", timeout=30).status_code == 200
    eventually(lambda: httpx.head(f"{url}/orders/export", timeout=30).status_code == 200)
