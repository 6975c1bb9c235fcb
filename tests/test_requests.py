"""Which request did that: its id goes through every module, and comes back with what it led to."""

from dataclasses import replace

import pytest
from bson import ObjectId

from app.main import create_app, runtime
from app.observability import stages


@pytest.fixture
def settings(settings):
    """Settings with which no sweep delivers once more what is on its way, so that every stage is recorded once."""
    return replace(settings, relay_lease=30.0)


@pytest.fixture
def recorded():
    """The stages that are recorded during the test, each as `(stage, record)`."""
    found = []

    def subscriber(stage, _at, records):
        found.extend((str(stage), record) for record in records)

    stages.subscribe(subscriber)
    yield found
    stages.unsubscribe(subscriber)


@pytest.fixture
def send(live, new_order):
    """Send a request under this id."""

    def ask(method, path, request_id, **members):
        answer = live.open(path, method=method, headers={"X-Request-Id": request_id}, **members)
        assert answer.status_code < 300, answer.text
        return answer

    return ask


@pytest.fixture
def paid(send, live, new_order, eventually):
    """An order that the request `placed` has placed, and that was paid."""
    order_id = send("POST", "/orders", "placed", json=new_order()).json["created"]["id"]
    eventually(lambda: live.get(f"/orders/one/{order_id}").json["order"]["paymentStatus"] == "Captured")
    return order_id


@pytest.fixture
def requests_of(live):
    return lambda order_id: live.get(f"/orders/one/{order_id}/requests").json["requests"]


def changes(request):
    return [change["type"] for change in request["changes"]]


def calls(request):
    return [(attempt["call"], attempt["answer"]) for attempt in request["attempts"]]


def test_a_refund_and_a_cancellation_are_told_with_the_requests_that_asked_for_them(
    paid, send, requests_of, live, eventually, recorded
):
    send("POST", f"/orders/one/{paid}/refunds", "part", json={"amount": "RM 9"})
    eventually(lambda: live.get(f"/orders/one/{paid}").json["order"]["paymentStatus"] == "Captured")
    send("PUT", "/orders", "cancelled", json={"orderId": paid, "orderStatus": "Cancelled"})
    eventually(lambda: live.get(f"/orders/one/{paid}").json["order"]["paymentStatus"] == "Refunded")
    placed, part, cancelled = requests_of(paid)
    assert [one["requestId"] for one in (placed, part, cancelled)] == ["placed", "part", "cancelled"]
    assert (changes(placed), calls(placed)) == (["OrderCreated", "PaymentCaptured"], [("charge", "captured")])
    assert (changes(part), calls(part)) == (["RefundRequested", "PaymentRefunded"], [("refund", "refunded")])
    assert (changes(cancelled), calls(cancelled)) == (["OrderCancelled", "PaymentRefunded"], [("refund", "refunded")])
    assert [change["sequence"] for one in (placed, part, cancelled) for change in one["changes"]] == [1, 2, 3, 4, 5, 6]
    timeline = live.get(f"/orders/one/{paid}/events").json["events"]
    assert [entry["requestId"] for entry in timeline] == ["placed"] * 2 + ["part"] * 2 + ["cancelled"] * 2
    path = ["gateway received", "orders received", "order updated", "event handed to payments", "payments received"]
    path += ["payment processed", "result handed to orders", "orders received result", "order updated"]
    for request_id in ("part", "cancelled"):
        seen = [stage for stage, record in recorded if (record["order_id"], record["request_id"]) == (paid, request_id)]
        # A sweep of a busy machine may deliver once more what has just been delivered.
        assert {*seen} == {*path}


def test_a_capture_is_told_with_the_request_that_asked_for_it(send, new_order, requests_of, live, eventually):
    order = new_order(capture="manual")
    order_id = send("POST", "/orders", "placed", json=order).json["created"]["id"]
    eventually(lambda: live.get(f"/orders/one/{order_id}").json["order"]["paymentStatus"] == "Authorized")
    send("POST", f"/orders/one/{order_id}/capture", "taken", json={})
    eventually(lambda: live.get(f"/orders/one/{order_id}").json["order"]["paymentStatus"] == "Captured")
    placed, taken = requests_of(order_id)
    assert (changes(placed), calls(placed)) == (["OrderCreated", "PaymentAuthorized"], [("charge", "authorized")])
    assert (changes(taken), calls(taken)) == (["CaptureRequested", "PaymentCaptured"], [("capture", "captured")])


def test_two_refunds_under_way_at_once_keep_their_requests_apart(paid, send, requests_of, live, eventually):
    for number in (1, 2, 3):
        send("POST", f"/orders/one/{paid}/refunds", f"part-{number}", json={"amount": "RM 9"})
    eventually(lambda: len(live.get(f"/orders/one/{paid}/events").json["events"]) == 8)
    _, *parts = requests_of(paid)
    assert [one["requestId"] for one in parts] == ["part-1", "part-2", "part-3"]
    for one in parts:
        assert (changes(one), calls(one)) == (["RefundRequested", "PaymentRefunded"], [("refund", "refunded")])


def test_what_an_earlier_release_stored_is_still_read(paid, requests_of, live, database):
    database.orders.update_one({"_id": ObjectId(paid)}, {"$unset": {"events.$[].requestId": ""}})
    database.payments.update_one({"_id": paid}, {"$unset": {"attempts.$[].requestId": ""}})
    assert requests_of(paid) == []
    assert all("requestId" not in entry for entry in live.get(f"/orders/one/{paid}/events").json["events"])


def test_a_refund_that_an_earlier_release_has_begun_ends_under_the_id_of_the_order(
    settings, paid, app, database, eventually
):
    runtime(app).stop()
    refund = {"refund_id": "old", "value": 900, "status": "requested", "reference": ""}
    database.payments.update_one(
        {"_id": paid},
        {
            "$set": {"refunds": [refund], "status": "Refunding"},
            "$currentDate": {"dueAt": True},
            "$inc": {"version": 1},
        },
    )
    database.orders.update_one(
        {"_id": ObjectId(paid)},
        {
            "$set": {"refunds": [{"id": "old", "value": 900, "requested": "900 MYR"}], "paymentStatus": "Refunding"},
            "$inc": {"version": 1},
        },
    )
    after = create_app(settings)
    runtime(after).start()
    try:
        client = after.test_client()
        eventually(lambda: client.get(f"/orders/one/{paid}").json["order"]["paymentStatus"] == "Captured")
        [placed] = client.get(f"/orders/one/{paid}/requests").json["requests"]
        assert calls(placed) == [("charge", "captured"), ("refund", "refunded")]
    finally:
        runtime(after).stop()
