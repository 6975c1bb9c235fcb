"""Waiting: an answer that comes when the order has settled, or when the time is over, and never costs the order."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest

from app.contracts.base import Unavailable
from app.gateway.http.long_poll import wait_from_prefer
from app.main import create_app, runtime
from app.orders.queries import OrderQueries

PREFERENCES = {
    "wait=5": 5,
    "wait=0": 0,
    "wait=007": 7,
    "wait=30": 30,
    "wait=31": 30,
    "wait=999999999": 30,
    "WAIT=5": 5,
    " wait = 5 ": 5,
    'wait="5"': 5,
    "wait=5; foo=bar": 5,
    "respond-async, wait=5": 5,
    'foo="a, wait=9", wait=3': 3,
    "wait=4, wait=9": 4,
}
IGNORED = [
    *["", "wait", "wait=", "wait=x", "wait=-1", "wait=1.5", "wait=+1", "wait=1e1", "wait=0x1", "wait=\u0661"],
    *["wait=1 2", '"wait=3"', 'wait="3', "wait;3", "waiting=3", "x-wait=3", "respond-async", "wait=x, wait=5"],
    "wait=" + "9" * 50,
]


@pytest.fixture(scope="module")
def make_app(shared_settings, mongo):
    """Applications on a database of this module's own."""
    settings = replace(shared_settings, database=f"test_{uuid4().hex}", sweep_interval=0.05)
    made = []

    def make(start=False, **changes):
        app = create_app(replace(settings, **changes))
        made.append(app)
        runtime(app).prepare()
        if start:
            runtime(app).start()
        return app

    yield make
    for app in made:
        runtime(app).stop()
    mongo.drop_database(settings.database)


@pytest.fixture(scope="module")
def working(make_app):
    """HTTP to an application that takes a moment to pay."""
    return make_app(start=True, simulated_latency_ms=200).test_client()


@pytest.fixture
def idle(make_app):
    """HTTP to an application in which nothing ever settles: all paying is done by hand."""
    return make_app(database=f"test_{uuid4().hex}").test_client()


@pytest.mark.parametrize(("given", "seconds"), PREFERENCES.items())
def test_a_preference_is_parsed_and_capped(shared_app, given, seconds):
    with shared_app.test_request_context(headers={"Prefer": given}):
        assert wait_from_prefer() == seconds


@pytest.mark.parametrize("given", IGNORED)
def test_a_malformed_preference_is_ignored(http, new_order, given):
    answer = http.post("/orders", json=new_order(), environ_overrides={"HTTP_PREFER": given})
    assert (answer.status_code, answer.json.keys()) == (201, {"ok", "created", "payment"})
    assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize(("product", "status"), [("1", "Success"), ("2", "Declined")])
def test_a_new_order_is_answered_when_it_has_settled(working, new_order, product, status):
    answer = working.post("/orders", json=new_order(productId=product), headers={"Prefer": "wait=20"})
    order = answer.json["order"]
    assert (answer.status_code, order["orderStatus"], order["version"]) == (201, status, 2)
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.headers["Location"] == f"/orders/one/{order['id']}"
    shown = working.get(answer.headers["Location"])
    assert (shown.json["order"], shown.headers["ETag"]) == (order, answer.headers["ETag"])


def test_a_repeated_order_is_waited_for_too(working, new_order):
    headers = {"Prefer": "wait=20", "Idempotency-Key": uuid4().hex}
    first, again = (working.post("/orders", json=new_order(), headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json == again.json
    assert again.headers["Idempotent-Replayed"] == "true"


def test_after_the_wait_the_present_state_is_returned(http, new_order):
    for preference, least in (("wait=0", 0.0), ("wait=1", 1.0)):
        started = time.monotonic()
        answer = http.post("/orders", json=new_order(), headers={"Prefer": preference})
        assert least <= time.monotonic() - started < least + 20
        assert (answer.status_code, answer.json["order"]["orderStatus"]) == (201, "Processing")
        assert answer.headers["Preference-Applied"] == preference


def test_a_status_is_returned_when_it_has_settled(working, place):
    order_id = place(working)
    answer = working.get(f"/orders/status/{order_id}?wait=20")
    assert (answer.json, answer.headers["ETag"]) == ({"ok": True, "orderStatus": "Success"}, f'"{order_id}-2"')
    known = working.get(f"/orders/status/{order_id}?wait=20", headers={"If-None-Match": f'"{order_id}-2"'})
    assert known.status_code == 304


def test_a_status_that_does_not_settle_in_time_is_returned_as_it_is(http, place):
    started = time.monotonic()
    answer = http.get(f"/orders/status/{place(http)}?wait=1")
    assert (answer.status_code, answer.json["orderStatus"]) == (200, "Processing")
    assert 1 <= time.monotonic() - started < 20


@pytest.mark.parametrize("wait", ["", "x", "-1", "1.5", "+1", "1e1", "%D9%A1", "9" * 10, "1&wait=2"])
def test_a_wait_that_cannot_be_understood_is_refused(http, place, refused, wait):
    answer = http.get(f"/orders/status/{place(http)}?wait={wait}")
    assert refused(answer, 400, "invalid_parameter")["parameter"] == "wait"


def test_above_the_limit_of_long_polls_an_order_is_still_accepted(make_app, place, new_order, refused, eventually):
    client = (app := make_app(streams_per_caller=2)).test_client()
    order_id = place(client)
    address = f"/orders/status/{order_id}?wait=20"
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(app.test_client().get, address) for _ in range(2)]
        eventually(lambda: runtime(app).modules["orders"].notifier.waiting == 2)
        answer = client.get(address)
        refused(answer, 429, "too_many_streams")
        assert answer.headers["Retry-After"] == "5"
        refused(
            client.get(f"/orders/one/{order_id}/events", headers={"Accept": "text/event-stream"}),
            429,
            "too_many_streams",
        )
        placed = client.post("/orders", json=new_order(), headers={"Prefer": "wait=20"})
        assert (placed.status_code, "Preference-Applied" in placed.headers) == (201, False)
        client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
        assert {one.result(60).json["orderStatus"] for one in waiting} == {"Cancelled"}
    assert client.get(address).status_code == 200


@pytest.mark.parametrize("proxy", ["", "10.0.0.1"], ids=["seen", "told by a proxy"])
def test_others_may_wait_where_one_has_all_his_places(make_app, place, eventually, proxy):
    app = make_app(streams_max=2, streams_per_caller=1, forwarded_allow_ips=proxy)
    order_id = place(app.test_client())

    def wait(address, seconds):
        environ = {"REMOTE_ADDR": proxy or address, "HTTP_X_FORWARDED_FOR": address if proxy else ""}
        return app.test_client().get(f"/orders/status/{order_id}?wait={seconds}", environ_overrides=environ).status_code

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(wait, address, 20) for address in ("192.0.2.1", "192.0.2.2")]
        eventually(lambda: runtime(app).modules["orders"].notifier.waiting == 2)
        assert [wait(address, 1) for address in ("192.0.2.3", "192.0.2.1")] == [429, 429]
        runtime(app).drain()
        assert [one.result(60) for one in waiting] == [200, 200]


def test_a_stopping_server_lets_all_go_with_the_state_as_it_is(make_app, place, new_order, eventually):
    app = make_app()
    order_id = place(app.test_client())
    with ThreadPoolExecutor(2) as pool:
        status = pool.submit(app.test_client().get, f"/orders/status/{order_id}?wait=30")
        placed = pool.submit(app.test_client().post, "/orders", json=new_order(), headers={"Prefer": "wait=30"})
        eventually(lambda: runtime(app).modules["orders"].notifier.waiting == 2)
        started = time.monotonic()
        runtime(app).drain()
        assert status.result(60).json["orderStatus"] == "Processing"
        assert placed.result(60).json["order"]["orderStatus"] == "Processing"
    assert time.monotonic() - started < 25


def test_an_order_stands_though_the_database_goes_while_it_is_waited_for(http, new_order, monkeypatch, orders):
    def gone(*_):
        raise Unavailable("away")

    monkeypatch.setattr(OrderQueries, "check_status", gone)
    answer = http.post("/orders", json=new_order(), headers={"Prefer": "wait=5"})
    assert (answer.status_code, answer.json.keys()) == (201, {"ok", "created", "payment"})
    assert "Preference-Applied" not in answer.headers
