"""The API through the real server, two workers of it: streams that are cut, servers that stop, a client made of the document."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import httpx
import pytest
from bson import ObjectId

from tools.cluster.servers import Server

pytestmark = pytest.mark.extended

ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
STEPS = 25
SSE = {"Accept": "text/event-stream"}


@pytest.fixture
def server(settings, tmp_path):
    """Two workers on the test's own database."""
    environ = {
        "MONGODB_URI": settings.mongodb_uri,
        "MONGODB_DATABASE": settings.database,
        "REQUEST_DEADLINE": "10",
    }
    with Server(tmp_path, environ) as running:
        yield running


def place(server):
    answer = httpx.post(f"{server.url}/orders", json=ORDER, headers={"Prefer": "wait=20"}, timeout=30)
    assert (answer.status_code, answer.json()["order"]["orderStatus"]) == (201, "Success")
    return answer.json()["created"]["id"]


def put(server, order_id, order_status):
    answer = httpx.put(f"{server.url}/orders", json={"orderId": order_id, "orderStatus": order_status}, timeout=30)
    assert answer.status_code == 200, answer.text


def until_cut(address, last, random):
    """The sequences of the complete events in a stream that is cut after a random number of characters, or ends by itself."""
    left, text = random.randrange(1, 1200), ""
    headers = SSE if last is None else {**SSE, "Last-Event-ID": str(last)}
    with httpx.stream("GET", address, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        for chunk in answer.iter_text():
            text += chunk[:left]
            left -= len(chunk)
            if left <= 0 or f"id: {STEPS + 2}\n" in text:
                break
    whole = text.split("\n\n")[:-1]
    lines = [line for block in whole for line in block.splitlines()]
    return [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]


@pytest.mark.parametrize("seed", [7])
def test_a_stream_that_is_cut_again_and_again_has_no_gap_and_no_repeat(server, seed, database, eventually):
    order_id = place(server)
    address = f"{server.url}/orders/one/{order_id}/events"
    assert len(server.workers(2)) == 2

    def move_on():
        for at in range(STEPS):
            put(server, order_id, f"step {at}")

    def follow(random):
        seen, cuts = [], 0
        while not seen or seen[-1] < STEPS + 2:
            told = until_cut(address, seen[-1] if seen else None, random)
            assert told == sorted(told)
            seen += told
            cuts += 1
        return seen, cuts

    with ThreadPoolExecutor(4) as pool:
        following = [pool.submit(follow, Random(seed + at)) for at in range(3)]
        pool.submit(move_on).result(60)
        for one in following:
            seen, cuts = one.result(60)
            assert seen == list(range(1, STEPS + 3))
            assert cuts > 5
    stops(server, order_id, database, eventually)


def stops(server, order_id, database, eventually):
    """A stopping server ends its streams in order, and lets those who wait go with the state as it is."""
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"orderStatus": "Processing"}})

    def stream():
        with httpx.stream("GET", f"{server.url}/orders/one/{order_id}/events", headers=SSE, timeout=30) as answer:
            for _ in answer.iter_text():
                pass
        return answer.status_code

    def wait():
        return httpx.get(f"{server.url}/orders/status/{order_id}?wait=30", timeout=40).json()["orderStatus"]

    def waiting():
        """How many streams and waits both workers hold."""
        told = httpx.get(f"{server.url}/metrics", timeout=30).text
        return int(float(re.search(r"^orderflow_streams_open (\S+)$", told, re.MULTILINE)[1]))

    # A worker notices after a while that a client has cut its stream.
    eventually(lambda: waiting() == 0)
    with ThreadPoolExecutor(8) as pool:
        streams, waits = [pool.submit(stream) for _ in range(4)], [pool.submit(wait) for _ in range(4)]
        eventually(lambda: waiting() == 8)
        assert not any(one.done() for one in (*streams, *waits))
        started = time.monotonic()
        server.stop()
        assert [one.result(60) for one in streams] == [200] * 4
        assert [one.result(60) for one in waits] == ["Processing"] * 4
    assert time.monotonic() - started < 25


@pytest.fixture
def generated(server, tmp_path, monkeypatch):
    """The package that openapi-python-client makes of the document."""
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"{server.url}/api-json", timeout=30).content)
    tool = Path(sys.executable).parent
    command = [tool / "openapi-python-client", "generate", "--path", document, "--output-path", tmp_path / "made"]
    made = subprocess.run(
        [*map(str, command), "--meta", "none", "--fail-on-warning"],
        env={**os.environ, "PATH": f"{tool}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: importlib.import_module(f"made.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "made"]:
        del sys.modules[name]


def test_a_client_made_of_the_document_does_what_the_documentation_shows(server, generated):
    models = generated("models")
    # A server that stops waits for connections that are kept open.
    headers = {"Accept": "application/json", "Connection": "close"}
    client = generated("client").Client(server.url, headers=headers, timeout=httpx.Timeout(30.0))

    def ask(tag, operation, *path, **more):
        return generated(f"api.{tag}.{operation}").sync_detailed(*path, client=client, **more)

    new = models.NewOrder.from_dict(ORDER)
    placed = ask("orders", "place_order", body=new, idempotency_key="readme", prefer="wait=20")
    again = ask("orders", "place_order", body=new, idempotency_key="readme", prefer="wait=20")
    order_id = placed.parsed.created.id
    assert (placed.status_code, placed.parsed.order.order_status) == (201, "Success")
    assert (again.parsed.created.id, again.headers["Idempotent-Replayed"]) == (order_id, "true")

    shown = ask("orders", "find_order", order_id)
    order, tag = shown.parsed.order, shown.headers["ETag"]
    assert (order.total_order_amount, order.total.value, order.payment_status) == ("RM 99", 9900, "Captured")
    assert order.created_at.tzinfo is not None
    assert ask("orders", "find_order", order_id, if_none_match=tag).status_code == 304
    assert ask("orders", "check_order_status", order_id, wait=5).parsed.order_status == "Success"

    in_members = models.NewOrder.from_dict({**ORDER, "totalOrderAmount": {"value": 500, "currency": "JPY"}})
    assert ask("orders", "place_order", body=in_members).status_code == 201
    first = ask("orders", "list_orders", "user-7", limit=1).parsed
    second = ask("orders", "list_orders_of", user_id="user-7", limit=1, cursor=first.next_cursor).parsed
    assert (first.has_more, second.has_more) == (True, False)
    assert [first.orders[0].total_order_amount, second.orders[0].id] == ["JPY 500", order_id]

    oldest = {"created_from": order.created_at, "sort": models.ListOrdersSort.CREATEDAT}
    listed = ask("orders", "list_orders", "user-7", **oldest).parsed.orders
    assert [one.id for one in listed] == [order_id, first.orders[0].id]
    asked = {"user_id": "user-7", "format_": models.ExportOrdersFormat.NDJSON, "after": first.orders[0].id}
    exported = ask("orders", "export_orders", **asked)
    assert [json.loads(line)["id"] for line in exported.content.splitlines()] == [order_id]

    some = models.RefundRequest(amount="RM 10")
    refund = ask("orders", "refund_order", order_id, body=some, idempotency_key="r", if_match=tag).parsed.refund
    assert (refund.amount.value, refund.amount.currency) == (1000, "MYR")
    step = models.OrderUpdate(order_id=order_id, order_status="Cancelled")
    stale = ask("orders", "update_order", body=step, if_match=tag)
    assert (stale.status_code, stale.parsed.code) == (412, "precondition_failed")
    assert ask("orders", "update_order", body=step).parsed.message == "Update order success"
    refused = ask("orders", "update_order", body=models.OrderUpdate(order_id=order_id, order_status="Confirm"))
    problem = refused.parsed
    assert (refused.status_code, problem.code, problem.allowed) == (409, "illegal_transition", [])

    item = {"productId": "1", "productName": "Beans", "quantity": 3, "unitAmount": "RM 33"}
    basket = models.NewItemOrder.from_dict({"userId": "shop", "items": [item], "metadata": {"cart": "A-1207"}})
    basket_id = ask("orders", "place_order", body=basket).parsed.created.id
    noted = models.MetadataUpdate.from_dict({"metadata": {"cart": None, "table": "7"}})
    assert ask("orders", "update_metadata", basket_id, body=noted).parsed.metadata.to_dict() == {"table": "7"}
    shown = ask("orders", "find_order", basket_id).parsed.order
    assert (shown.total.value, shown.items[0].quantity, shown.metadata["table"]) == (9900, 3, "7")

    steps = ask("orders", "show_timeline", order_id, after=1).parsed.events
    assert {one.type_ for one in steps} >= {"PaymentCaptured", "RefundRequested", "OrderCancelled"}
    told = ask("orders", "explain_order", order_id).parsed
    assert (told.order_status, told.on_cancel, told.allowed) == ("Cancelled", None, [])
    assert ask("problems", "show_problem", problem.type_.rpartition("/")[2]).parsed.status == 409
    machine = ask("state_machine", "show_state_machine").parsed
    assert {one.from_ for one in machine.transitions} > {"Success", "Declined"}
    assert ask("healthz", "healthz").parsed.ok
    assert ask("readyz", "readyz").parsed.ok
    unknown = ask("orders", "find_order", "nothing")
    assert (unknown.status_code, unknown.parsed.code, json.loads(unknown.content)["ok"]) == (
        404,
        "order_not_found",
        False,
    )
