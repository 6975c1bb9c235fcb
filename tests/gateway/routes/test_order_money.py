"""How an order is paid, over HTTP: choices of the client, captures, what the customer must do, disputes."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from uuid import uuid4

import pytest
from bson import ObjectId

from app.contracts.payments import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentRefunded,
    PaymentRefundFailed,
)
from app.main import create_app, runtime
from app.messaging.outbox import PendingEvents
from app.observability import logging

EXPIRES = 1_800_000_000_000
EXPIRES_TEXT = "2027-01-15T08:00:00.000Z"
SECRET, PAGE = "pi_1_secret_2", "https://bank.example/3ds?one"
REDIRECT = {"action_type": "redirect", "action_url": PAGE, "client_secret": "", "expires_at": EXPIRES}
CONFIRM = {"action_type": "confirm", "action_url": "", "client_secret": SECRET, "expires_at": EXPIRES}
AUTHORIZED = {"reference": "ref-1", "authorized_value": 9900, "expires_at": EXPIRES}
DISPUTE = {"dispute_id": "d1", "dispute_value": 9900, "reason": "fraudulent"}


def teller(app):
    """Tells an application's orders what happened to a payment, as the relay of payments does."""
    sequence = count(1)

    def tell(order_id, kind, **members):
        base = {"event_id": uuid4().hex, "order_id": order_id, "sequence": next(sequence), "request_id": "r", "at": 1}
        batch = [PendingEvents(order_id, [kind(**base | members)])]
        runtime(app).modules["payments"].relay.deliver(batch)
        assert batch[0].error is None

    return tell


@pytest.fixture
def tell(shared_app):
    return teller(shared_app)


@pytest.fixture
def authorized(http, place, tell):
    """An order whose total is authorized."""
    order_id = place(http, capture="manual")
    tell(order_id, PaymentAuthorized, **AUTHORIZED)
    return order_id


def order_of(http, order_id):
    return http.get(f"/orders/one/{order_id}").json["order"]


def capture(http, order_id, amount=None, **more):
    return http.post(f"/orders/one/{order_id}/capture", json={"amount": amount} if amount else {}, **more)


def test_how_an_order_is_paid_is_kept_and_not_shown(http, place, orders):
    order_id = place(http, paymentMethod="pm_card_visa", capture="manual")
    stored = orders.find_one({"_id": ObjectId(order_id)})
    assert (stored["paymentMethod"], stored["capture"], "returnUrl" in stored) == ("pm_card_visa", "manual", False)
    [created] = stored["outbox"]
    assert (created["payment_method"], created["manual_capture"]) == ("pm_card_visa", True)
    assert not {"paymentMethod", "returnUrl", "capture"} & order_of(http, order_id).keys()


def test_automatic_capture_is_what_an_order_has_anyway(http, new_order, orders):
    headers = {"Idempotency-Key": uuid4().hex}
    answers = [http.post("/orders", json=new_order(**more), headers=headers) for more in ({"capture": "automatic"}, {})]
    assert answers[0].json == answers[1].json
    assert "capture" not in orders.find_one({"_id": ObjectId(answers[0].json["created"]["id"])})


@pytest.mark.parametrize("changes", [{"paymentMethod": "pm_2"}, {"capture": "manual"}])
def test_the_key_of_an_order_that_is_paid_otherwise_is_refused(http, new_order, refused, changes):
    headers = {"Idempotency-Key": uuid4().hex}
    assert http.post("/orders", json=new_order(paymentMethod="pm_1"), headers=headers).status_code == 201
    answer = http.post("/orders", json={**new_order(paymentMethod="pm_1"), **changes}, headers=headers)
    refused(answer, 422, "idempotency_key_reused")


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("paymentMethod", value) for value in ("", " ", "x" * 256, "pm\n1", "pm\u200b1", "pm\u202e1", 7, None, ["pm"], {})),
        *(("capture", value) for value in ("", "Manual", "later", True, None, 1, ["manual"])),
    ],
)  # fmt: skip
def test_a_malformed_choice_is_pointed_at(http, new_order, pointers, member, value):
    assert pointers(http.post("/orders", json=new_order(**{member: value}))) == [f"/{member}"]


def test_a_payment_method_of_255_characters_is_accepted(http, place, orders):
    order_id = place(http, paymentMethod="x" * 255)
    assert orders.find_one({"_id": ObjectId(order_id)})["paymentMethod"] == "x" * 255


def test_a_capture_is_answered_with_what_is_taken(http, authorized):
    assert order_of(http, authorized)["authorized"] == {"value": 9900, "currency": "MYR"}
    answer = capture(http, authorized, "RM 40")
    assert answer.status_code == 202
    assert answer.json == {"ok": True, "capture": {"amount": {"value": 4000, "currency": "MYR"}}}
    assert answer.headers["Location"] == f"/orders/one/{authorized}"
    assert answer.headers["ETag"] == http.get(f"/orders/one/{authorized}").headers["ETag"] == f'"{authorized}-3"'
    assert "Idempotent-Replayed" not in answer.headers


@pytest.mark.parametrize(
    "body", [{}, {"amount": "all"}, {"amount": "RM 99"}, {"amount": {"value": 9900, "currency": "MYR"}}]
)
def test_all_forms_of_a_full_capture_are_the_same(http, authorized, body):
    assert capture(http, authorized).json["capture"]["amount"]["value"] == 9900
    again = http.post(f"/orders/one/{authorized}/capture", json=body)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.json["capture"]["amount"] == {"value": 9900, "currency": "MYR"}


def test_another_amount_than_the_first_is_refused(http, authorized, orders, refused):
    capture(http, authorized, "RM 40")
    before = orders.find_one({"_id": ObjectId(authorized)})
    for amount in (None, "RM 41"):
        refused(capture(http, authorized, amount), 409, "already_captured")
    assert orders.find_one({"_id": ObjectId(authorized)}) == before


def test_more_than_is_authorized_is_refused_and_told_how_much_is(http, authorized, refused):
    assert refused(capture(http, authorized, "RM 99.01"), 409, "capture_exceeds_authorization")["authorized"] == 9900
    refused(capture(http, authorized, "USD 40"), 422, "wrong_currency")


@pytest.mark.parametrize("body", [{"amout": "RM 1"}, {"amount": "RM 0"}, {"amount": 7}, {"amount": None}, {"value": 1}])
def test_a_misspelt_capture_takes_nothing(http, authorized, orders, pointers, body):
    before = orders.find_one({"_id": ObjectId(authorized)})
    assert pointers(http.post(f"/orders/one/{authorized}/capture", json=body)) == [f"/{next(iter(body))}"]
    assert orders.find_one({"_id": ObjectId(authorized)}) == before


def test_an_order_that_is_not_authorized_is_not_captured(http, place, captured, refused):
    for order_id in (place(http), captured):
        body = refused(capture(http, order_id), 409, "illegal_transition")
        status = body["paymentStatus"]
        assert body["detail"] == f"the order cannot be captured: its payment is {status}, not Authorized"
        assert "to" not in body


def test_what_forbids_a_refund_is_said(http, place, refused):
    order_id = place(http)
    body = refused(http.post(f"/orders/one/{order_id}/refunds", json={}), 409, "illegal_transition")
    assert body["detail"] == "the order cannot be refunded: its payment is Processing, not Captured"
    assert http.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}).status_code == 200
    body = refused(http.post(f"/orders/one/{order_id}/refunds", json={}), 409, "illegal_transition")
    assert body["detail"] == "the order cannot be refunded: it is Cancelled"


def test_a_capture_of_another_version_is_refused(http, authorized, refused):
    stale = {"If-Match": f'"{authorized}-1"'}
    refused(capture(http, authorized, headers=stale), 412, "precondition_failed")
    fresh = {"If-Match": f'"{authorized}-2"'}
    assert capture(http, authorized, headers=fresh).status_code == 202
    assert capture(http, authorized, headers=fresh).headers["Idempotent-Replayed"] == "true"


def test_an_authorized_order_that_is_cancelled_is_not_captured(http, authorized, refused, orders):
    cancelled = http.put("/orders", json={"orderId": authorized, "orderStatus": "Cancelled"})
    assert cancelled.status_code == 200
    refused(capture(http, authorized), 409, "illegal_transition")
    stored = orders.find_one({"_id": ObjectId(authorized)})
    assert [entry["type"] for entry in stored["outbox"]][-1] == "OrderCancelled"


def test_the_amounts_of_a_capture_in_part_are_shown_and_bound_the_refunds(http, authorized, tell, refused):
    capture(http, authorized, "RM 40")
    tell(authorized, PaymentCaptured, reference="ref-1", took_ms=1, captured_value=4000)
    order = order_of(http, authorized)
    assert (order["orderStatus"], order["captured"]) == ("Success", {"value": 4000, "currency": "MYR"})
    address = f"/orders/one/{authorized}/refunds"
    assert refused(http.post(address, json={"amount": "RM 41"}), 409, "refund_exceeds_balance")["remaining"] == 4000
    assert http.post(address, json={}).json["refund"]["amount"]["value"] == 4000


def test_an_ordinary_order_shows_none_of_the_rare_members(http, captured):
    assert not {"authorized", "blocked", "nextAction"} & order_of(http, captured).keys()


def test_a_disputed_order_is_not_refunded(http, captured, tell, refused, orders):
    tell(captured, PaymentDisputed, **DISPUTE)
    address = f"/orders/one/{captured}/refunds"
    refused(http.post(address, json={}), 409, "payment_disputed")
    told = http.get(f"/orders/one/{captured}/explain").json
    assert (told["paymentStatus"], told["actions"]) == ("Disputed", [])
    assert told["onCancel"] == "a refund is started if the dispute is won"
    closed = {**DISPUTE, "won": True, "disputed": False, "refunded_total": 0, "reason": ""}
    tell(captured, PaymentDisputeClosed, **closed)
    assert http.get(f"/orders/one/{captured}/explain").json["actions"] == ["refund"]
    assert http.post(address, json={}).status_code == 201


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (REDIRECT, {"type": "redirect", "url": PAGE, "expiresAt": EXPIRES_TEXT}),
        (CONFIRM, {"type": "confirm", "clientSecret": SECRET, "expiresAt": EXPIRES_TEXT}),
    ],
)
def test_what_the_customer_must_do_is_shown_with_the_order_until_it_is_done(http, place, tell, told, shown):
    order_id = place(http)
    tell(order_id, PaymentActionRequired, **told)
    order = order_of(http, order_id)
    assert (order["paymentStatus"], order["nextAction"]) == ("ActionRequired", shown)
    tell(order_id, PaymentCaptured, reference="ref-1", took_ms=1)
    assert "nextAction" not in order_of(http, order_id)


def test_what_the_customer_must_do_is_shown_nowhere_else_and_never_logged(http, place, tell, orders, monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr(logging, "_output", said)
    user = f"user-{uuid4().hex}"
    order_id = place(http, userId=user)
    tell(order_id, PaymentActionRequired, **{**REDIRECT, "client_secret": SECRET})
    answers = [
        http.get(address)
        for address in (
            *(f"/orders/{user}", f"/orders?userId={user}", "/orders", f"/orders/status/{order_id}"),
            *(f"/orders/one/{order_id}/{part}" for part in ("events", "explain", "latency")),
        )
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert sum(order_id in answer.text for answer in answers) == 5
    feed = list(orders.database.stages.find({"order_id": order_id}))
    for text in (*(answer.text for answer in answers), str(feed), said.getvalue()):
        assert SECRET not in text
        assert PAGE not in text
        assert "nextAction" not in text


@pytest.fixture
def waiting_app(shared_settings, mongo):
    """An application with a database of its own, in which the test tells what happens to payments."""
    settings = replace(shared_settings, database=f"test_{uuid4().hex}")
    app = create_app(settings)
    runtime(app).prepare()
    yield app, mongo[settings.database].orders
    runtime(app).stop()
    mongo.drop_database(settings.database)


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        (PaymentActionRequired, REDIRECT),
        (PaymentDelayed, {"reason": "the bank", "expires_at": EXPIRES}),
        (PaymentAuthorized, AUTHORIZED),
    ],
)
def test_who_waits_for_a_new_order_is_answered_once_its_payment_waits(
    waiting_app, new_order, eventually, kind, members
):
    app, orders = waiting_app
    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(app.test_client().post, "/orders", json=new_order(), headers={"Prefer": "wait=30"})
        order_id = str(eventually(orders.find_one)["_id"])
        teller(app)(order_id, kind, **members)
        answer = posting.result()
    order = answer.json["order"]
    assert (answer.status_code, order["orderStatus"]) == (201, "Processing")
    assert order["paymentStatus"] == kind.__name__.removeprefix("Payment").replace("Delayed", "Pending")
    assert order.get("nextAction", {}).get("url") == (PAGE if kind is PaymentActionRequired else None)
    assert answer.headers["ETag"] == f'"{order_id}-2"'


def refunds_of(http, order_id, refund_id=""):
    return http.get(f"/orders/one/{order_id}/refunds{refund_id and '/' + refund_id}")


def test_an_order_shows_where_its_money_is(http, captured, tell):
    zero, whole = {"value": 0, "currency": "MYR"}, {"value": 9900, "currency": "MYR"}
    shown = {"captured": whole, "refunded": zero, "pending": zero, "refundable": whole}
    assert order_of(http, captured).items() >= shown.items()
    asked = http.post(f"/orders/one/{captured}/refunds", json={"amount": "RM 10"}).json["refund"]["id"]
    pending = {"value": 1000, "currency": "MYR"}
    shown |= {"pending": pending, "refundable": {"value": 8900, "currency": "MYR"}}
    assert order_of(http, captured).items() >= shown.items()
    tell(captured, PaymentRefunded, refund_id=asked, refund_value=1000, refunded_total=1000)
    shown |= {"pending": zero, "refunded": pending}
    assert order_of(http, captured).items() >= shown.items()
    [listed] = [order for order in http.get("/orders/user-7").json["orders"] if order["id"] == captured]
    assert listed.items() >= shown.items()
    assert "refunds" not in listed


def test_a_refund_is_shown_at_its_location_and_in_the_list(http, captured, tell):
    answer = http.post(f"/orders/one/{captured}/refunds", json={"amount": "RM 10", "reason": "Damaged 📦"})
    refund_id = answer.json["refund"]["id"]
    refund = http.get(answer.headers["Location"]).json["refund"]
    asked = {"id": refund_id, "amount": {"value": 1000, "currency": "MYR"}, "status": "pending", "reason": "Damaged 📦"}
    assert refund == {**asked, "at": refund["at"]}
    tell(captured, PaymentRefundFailed, refund_id=refund_id, refund_value=1000, refunded_total=0, reason="closed")
    tell(captured, PaymentRefunded, refund_id="re_9", refund_value=500, refunded_total=500)
    listed = refunds_of(http, captured).json
    assert listed == {"ok": True, "refunds": order_of(http, captured)["refunds"]}
    assert listed["refunds"][0] == {**refund, "status": "failed", "failure": "closed"}
    elsewhere = {"id": "re_9", "amount": {"value": 500, "currency": "MYR"}, "status": "succeeded"}
    assert listed["refunds"][1] == {**elsewhere, "at": listed["refunds"][1]["at"], "reason": "made at the provider"}
    assert refunds_of(http, captured, "re_9").json == {"ok": True, "refund": listed["refunds"][1]}


def test_a_refund_that_is_not_there_is_not_found(http, captured, refused):
    assert refunds_of(http, captured).json == {"ok": True, "refunds": []}
    refused(refunds_of(http, captured, "r1"), 404, "refund_not_found")
    for refund_id in ("", "r1"):
        refused(refunds_of(http, "692000000000000000000000", refund_id), 404, "order_not_found")


@pytest.mark.parametrize(
    "reason", ["", " ", "x" * 501, "two\nlines", "\u202eabc", "a\u0000", 7, None, ["x"]], ids=ascii
)
def test_a_reason_that_cannot_be_read_refunds_nothing(http, captured, pointers, orders, reason):
    before = orders.find_one({"_id": ObjectId(captured)})
    assert pointers(http.post(f"/orders/one/{captured}/refunds", json={"reason": reason})) == ["/reason"]
    assert orders.find_one({"_id": ObjectId(captured)}) == before


def test_the_longest_reason_is_taken(http, captured):
    assert http.post(f"/orders/one/{captured}/refunds", json={"reason": "é" * 500}).status_code == 201
    assert order_of(http, captured)["refunds"][0]["reason"] == "é" * 500


def test_a_key_stands_for_one_amount_and_one_reason(http, captured, refused):
    address, key = f"/orders/one/{captured}/refunds", {"Idempotency-Key": "r1"}
    body = {"amount": "RM 10", "reason": "damaged"}
    first = http.post(address, json=body, headers=key)
    again = http.post(address, json=body, headers=key)
    assert (again.json, again.headers["Location"]) == (first.json, first.headers["Location"])
    assert again.headers["Idempotent-Replayed"] == "true"
    for other in ({"amount": "RM 11", "reason": "damaged"}, {"amount": "RM 10"}, {**body, "reason": "late"}, {}):
        refused(http.post(address, json=other, headers=key), 422, "idempotency_key_reused")
    assert len(order_of(http, captured)["refunds"]) == 1


def test_the_timeline_shows_amounts_and_its_texts_have_none(http, place, orders, tell):
    order_id = place(http, totalOrderAmount="JPY 5000")
    tell(order_id, PaymentCaptured, reference="ref-1", took_ms=1)
    http.post(f"/orders/one/{order_id}/refunds", json={"amount": "JPY 1000", "reason": "damaged"})
    events = http.get(f"/orders/one/{order_id}/events").json["events"]
    assert [(event.get("amount"), event["detail"]) for event in events] == [
        (None, "a payment is started"),
        ({"value": 5000, "currency": "JPY"}, "ref-1"),
        ({"value": 1000, "currency": "JPY"}, "damaged"),
    ]
    assert http.get(f"/orders/one/{order_id}/explain").json["because"] == events[-1]
