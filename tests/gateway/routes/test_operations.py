"""What operators see and do over HTTP: parked payments and dead letters, with their names on the timeline."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId
from structlog.testing import CapturingLogger

from app.doctor import Doctor
from app.main import create_app, runtime
from app.storage.mongodb import Database

WHO = {"operator": "Ada", "reason": "seen in the dashboard"}
ABSENT = "692000000000000000000000"


@pytest.fixture
def desk(unresponsive):
    """HTTP to the application whose provider did not respond."""
    return unresponsive[0].test_client()


@pytest.fixture
def timeline(desk):
    """The entries of an order as (type, actor, from, to, payment status, detail)."""

    def read(order_id):
        events = desk.get(f"/orders/one/{order_id}/events").json["events"]
        names = ("type", "actor", "from", "to", "paymentStatus", "detail")
        return [tuple(entry[name] for name in names) for entry in events]

    return read


@pytest.fixture
def recorded(timeline, eventually):
    """Wait for an order's newest entry of this type, and return it."""

    def wait(order_id, kind):
        eventually(lambda: timeline(order_id)[-1][0] == kind)
        return timeline(order_id)[-1]

    return wait


@pytest.fixture
def violations(settings):
    """What the doctor finds broken."""

    def examine():
        database = Database(settings.mongodb_uri, settings.database)
        doctor = Doctor(*(database.collection(name, 30.0) for name in ("orders", "payments", "ledger")), 60.0)
        found = doctor.examine((), 0.5).violations
        database.close()
        return found

    return examine


def resolve(client, order_id, outcome, **members):
    return client.post(f"/operations/parked/{order_id}/resolve", json={**WHO, "outcome": outcome, **members})


def test_a_parked_payment_is_listed_with_all_that_an_operator_needs(desk, parked, place):
    order_id = parked()
    [row] = desk.get("/operations/parked").json["parked"]
    since = datetime.fromisoformat(row.pop("since"))
    assert row.pop("ageSeconds") >= (datetime.now(UTC) - since).total_seconds() - 60
    assert row == {
        "orderId": order_id,
        "userId": "user-7",
        "amount": {"value": 9900, "currency": "MYR"},
        "paymentStatus": "Unknown",
        "reason": "no response",
        "pendingCall": "charge",
        "providerKey": f"{order_id}:1",
        "providerReference": "",
        "attempts": 2,
        "lastAnswer": "unknown: no response",
    }


def test_while_the_last_call_may_arrive_the_list_says_until_when(desk, parked, settings, database):
    order_id = parked(call_ended=False)
    [row] = desk.get("/operations/parked").json["parked"]
    last = database.payments.find_one()["attempts"][-1]["at"]
    ends = datetime.fromisoformat(row["callEnds"])
    assert ends == last.replace(tzinfo=UTC) + timedelta(seconds=settings.payment_lease)
    answer = resolve(desk, order_id, "declined")
    assert (answer.status_code, answer.json["code"]) == (409, "not_possible")
    assert "may still reach the provider" in answer.json["detail"]


def test_pages_of_parked_payments_hold_each_once(desk, parked, unresponsive):
    placed = []
    for _ in range(3):
        placed.append(parked())
        unresponsive[1].unresponsive = True
    address, found = "/operations/parked?limit=1", []
    while address:
        page = desk.get(address).json
        found += [row["orderId"] for row in page["parked"]]
        address = page["hasMore"] and f"/operations/parked?limit=1&cursor={page['nextCursor']}"
    assert found == sorted(placed)
    assert desk.get("/operations/parked?cursor=made-up").json["code"] == "invalid_cursor"


def test_a_retry_is_on_the_timeline_with_name_and_reason(desk, parked, timeline, becomes):
    order_id = parked()
    answer = desk.post(f"/operations/parked/{order_id}/retry", json=WHO)
    assert answer.json == {"ok": True, "paymentStatus": "Processing"}
    becomes(order_id, "Success", "Captured")
    retried, captured = timeline(order_id)[-2:]
    assert retried == (
        "PaymentRetried", "operator Ada", "Processing", "Processing", "Processing", "retried: seen in the dashboard",
    )  # fmt: skip
    assert captured[:2] == ("PaymentCaptured", "payments")
    again = desk.post(f"/operations/parked/{order_id}/retry", json=WHO)
    assert (again.status_code, "not parked" in again.json["detail"]) == (409, True)


def test_a_resolution_is_on_the_timeline_with_name_and_reason(desk, parked, recorded):
    order_id = parked(after=True)
    assert resolve(desk, order_id, "captured", reference="ref-9").json == {"ok": True, "paymentStatus": "Captured"}
    assert recorded(order_id, "PaymentCaptured") == (
        "PaymentCaptured",
        "operator Ada",
        "Processing",
        "Success",
        "Captured",
        "ref-9; resolved as captured: seen in the dashboard",
    )
    sentence = desk.get(f"/orders/one/{order_id}/explain").json["sentence"]
    assert "since operator Ada acted at " in sentence
    assert "resolved as captured: seen in the dashboard" in sentence


def test_the_same_resolution_again_has_the_same_answer_and_no_second_entry(
    desk, parked, recorded, database, eventually
):
    order_id = parked(after=True)
    first = resolve(desk, order_id, "captured")
    recorded(order_id, "PaymentCaptured")
    # The relay removes what it has delivered a moment later.
    before = eventually(lambda: database.payments.find_one({"outbox": []}))
    assert resolve(desk, order_id, "captured").json == first.json
    assert database.payments.find_one() == before
    other = resolve(desk, order_id, "captured", operator="Bob")
    assert (other.status_code, "operator Ada has resolved" in other.json["detail"]) == (409, True)


@pytest.mark.parametrize("right", ["declined", "voided"])
def test_a_wrong_capture_is_corrected_to_nothing_taken(desk, parked, recorded, becomes, violations, right):
    order_id = parked()
    resolve(desk, order_id, "captured")
    becomes(order_id, "Success", "Captured")
    assert desk.put("/orders", json={"orderId": order_id, "orderStatus": "Confirm"}).status_code == 200
    status = right.capitalize()
    assert resolve(desk, order_id, right, reason="it was another order").json["paymentStatus"] == status
    entry = recorded(order_id, f"Payment{status}")
    assert entry[:5] == (f"Payment{status}", "operator Ada", "Confirm", "Declined", status)
    assert f"corrected from captured to {right}: it was another order" in entry[5]
    assert violations() == []


def test_a_wrong_decline_is_corrected_to_captured(desk, parked, recorded, becomes, violations):
    order_id = parked(after=True)
    resolve(desk, order_id, "declined")
    becomes(order_id, "Declined", "Declined")
    assert resolve(desk, order_id, "captured", reference="ref-9").json["paymentStatus"] == "Captured"
    assert recorded(order_id, "PaymentCaptured")[1:5] == ("operator Ada", "Declined", "Success", "Captured")
    assert violations() == []
    refund = desk.post(f"/orders/one/{order_id}/refunds", json={"amount": "RM 9"})
    assert refund.status_code == 201
    becomes(order_id, "Success", "Captured")
    answer = resolve(desk, order_id, "declined")
    assert (answer.status_code, "refunds of it" in answer.json["detail"]) == (409, True)


def test_a_declined_order_that_was_cancelled_gets_its_money_back_when_the_decline_is_corrected(
    desk, parked, becomes, violations, database, eventually
):
    order_id = parked(after=True)
    resolve(desk, order_id, "declined")
    becomes(order_id, "Declined", "Declined")
    assert desk.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
    # Refused while the cancellation is being recorded: the payment changes meanwhile.
    eventually(lambda: resolve(desk, order_id, "captured").status_code == 200)
    becomes(order_id, "Cancelled", "Refunded")
    assert database.ledger.find_one()["refunded"] == 9900
    assert violations() == []


def test_a_capture_that_went_back_already_is_corrected_to_refunded(desk, parked, recorded, becomes):
    order_id = parked(after=True)
    resolve(desk, order_id, "captured")
    becomes(order_id, "Success", "Captured")
    answer = resolve(desk, order_id, "refunded")
    assert (answer.status_code, "name the refund" in answer.json["detail"]) == (409, True)
    assert resolve(desk, order_id, "refunded", reference="re_9").json["paymentStatus"] == "Refunded"
    entry = recorded(order_id, "PaymentRefunded")
    assert (entry[1], entry[3:5]) == ("operator Ada", ("Success", "Refunded"))
    assert "corrected from captured to refunded" in entry[5]


def test_a_refund_that_is_requested_while_a_capture_is_corrected_fails(desk, parked, becomes, unresponsive, database):
    """The request is on its way to payments when the correction is recorded."""
    order_id = parked()
    resolve(desk, order_id, "captured")
    becomes(order_id, "Success", "Captured")
    runtime(unresponsive[0]).modules["orders"].relay.stop(60.0)
    requested = desk.post(f"/orders/one/{order_id}/refunds", json={})
    assert requested.status_code == 201, requested.text
    assert resolve(desk, order_id, "declined").json["paymentStatus"] == "Declined"
    becomes(order_id, "Declined", "Declined")
    runtime(unresponsive[0]).modules["orders"].relay._stopping.clear()
    database.orders.update_one({}, {"$set": {"relayDue": database.orders.find_one()["createdAt"]}})
    runtime(unresponsive[0]).modules["orders"].relay.sweep()
    becomes(order_id, "Declined", "Declined")
    assert database.payments.find_one()["refunds"][0]["status"] == "failed"


def test_a_dropped_refund_is_on_the_timeline_with_name_and_reason(
    desk, parked, becomes, recorded, unresponsive, database
):
    order_id = parked(after=True)
    resolve(desk, order_id, "captured")
    becomes(order_id, "Success", "Captured")
    database.ledger.update_one({"_id": f"{order_id}:1"}, {"$set": {"refunded": 9900}})
    refund_id = desk.post(f"/orders/one/{order_id}/refunds", json={"amount": "RM 9"}).json["refund"]["id"]
    becomes(order_id, "Success", "Unknown")
    [row] = desk.get("/operations/parked").json["parked"]
    assert (row["pendingCall"], row["refundId"], row["amount"]["value"]) == ("refund", refund_id, 900)
    answer = desk.post(f"/operations/parked/{order_id}/drop-refund", json={**WHO, "refundId": refund_id})
    assert answer.json["paymentStatus"] == "Captured"
    entry = recorded(order_id, "PaymentRefundFailed")
    assert entry[1] == "operator Ada"
    assert f"refund {refund_id} dropped: seen in the dashboard" in entry[5]


@pytest.mark.parametrize("module", ["orders", "payments"])
def test_a_dead_letter_is_listed_and_replayed_with_name_and_reason(
    desk, parked, becomes, timeline, unresponsive, database, eventually, module
):
    order_id = parked(after=True)
    key = ObjectId(order_id) if module == "orders" else order_id
    documents = database[module]
    resolve(desk, order_id, "captured")
    becomes(order_id, "Success", "Captured")
    eventually(lambda: documents.find_one({"_id": key})["outbox"] == [])
    event = {
        "type": "OrderCancelled" if module == "orders" else "PaymentRefunded",
        "event_id": "e",
        "order_id": order_id,
        "sequence": 1,
        "request_id": "r",
        "at": 1,
    }
    letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": datetime(2026, 1, 1, tzinfo=UTC)}
    extra = {} if module == "orders" else {"refund_id": "x", "refund_value": 1, "refunded_total": 1}
    documents.update_one({"_id": key}, {"$set": {"deadLetter": letter, "outbox": [{**event, **extra}]}})
    [row] = desk.get("/operations/dead-letters").json["deadLetters"]
    assert row.pop("ageSeconds") > 0
    assert row == {
        "module": module,
        "orderId": order_id,
        "userId": "user-7",
        "amount": {"value": 9900, "currency": "MYR"},
        "event": event["type"],
        "at": "2026-01-01T00:00:00.000Z",
        "failures": 8,
        "reason": "poison",
    }
    other = {"orders": "payments", "payments": "orders"}[module]
    refused = desk.post(f"/operations/dead-letters/{order_id}/replay", json={**WHO, "module": other})
    assert (refused.status_code, refused.json["code"]) == (409, "not_possible")
    answer = desk.post(f"/operations/dead-letters/{order_id}/replay", json=WHO)
    assert answer.json == {"ok": True, "replayedIn": [module]}
    eventually(lambda: timeline(order_id)[-1][0] == "DeadLetterReplayed")
    assert timeline(order_id)[-1] == (
        "DeadLetterReplayed",
        "operator Ada",
        "Success",
        "Success",
        "Captured",
        f"dead letter of {module} delivered again: seen in the dashboard",
    )
    eventually(lambda: documents.find_one({"_id": key})["outbox"] == [])
    assert desk.get("/operations/dead-letters").json["deadLetters"] == []
    again = desk.post(f"/operations/dead-letters/{order_id}/replay", json=WHO)
    assert (again.status_code, "no dead letter" in again.json["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"/operations/parked/{ABSENT}/retry", WHO),
        (f"/operations/parked/{ABSENT}/resolve", {**WHO, "outcome": "captured"}),
        (f"/operations/parked/{ABSENT}/drop-refund", {**WHO, "refundId": "r"}),
        (f"/operations/dead-letters/{ABSENT}/replay", WHO),
        ("/operations/dead-letters/x/replay", WHO),
    ],
)
def test_an_unknown_order_is_404(http, path, body):
    answer = http.post(path, json=body)
    assert (answer.status_code, answer.json["code"]) == (404, "order_not_found")


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("retry", {"reason": "x"}, "/operator"),
        ("retry", {"operator": "Ada"}, "/reason"),
        ("retry", {"operator": "Ada", "reason": " "}, "/reason"),
        ("retry", {**WHO, "outcome": "captured"}, "/outcome"),
        ("resolve", {**WHO, "outcome": "perhaps"}, "/outcome"),
        ("resolve", WHO, "/outcome"),
        ("drop-refund", WHO, "/refundId"),
    ],
)
def test_a_command_without_what_it_needs_is_refused_by_name(http, path, body, pointer):
    answer = http.post(f"/operations/parked/{ABSENT}/{path}", json=body)
    assert (answer.status_code, [error["pointer"] for error in answer.json["errors"]]) == (422, [pointer])


def test_parking_is_a_warning_in_the_log(monkeypatch, parked, database, eventually):
    log = CapturingLogger()
    monkeypatch.setattr("app.payments.results.log", log)
    order_id = parked()
    # It is logged after the payment has been stored.
    [warning] = eventually(lambda: [call for call in log.calls if call.args == ("payment parked",)])
    facts = {"order_id": order_id, "amount": 9900, "currency": "MYR", "reason": "no response", "module": "payments"}
    request_id = database.orders.find_one()["requestId"]
    assert (warning.method_name, warning.kwargs) == ("warning", facts | {"request_id": request_id})


def test_a_module_that_does_not_answer_is_503(settings):
    app = create_app(
        replace(
            settings,
            mongodb_uri="mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100",
            request_deadline=0.2,
            background_deadline=0.2,
        )
    )
    answer = app.test_client().get("/operations/parked")
    runtime(app).stop()
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
