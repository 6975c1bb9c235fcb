"""Giving money back: whole, in parts, side by side, and never more than was taken."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from bson import ObjectId

from app.main import create_app, runtime
from app.payments.provider_port import CallKind, ProviderResponse, ResponseCode
from app.payments.providers import make


class Forgetful:
    """The simulated provider; the first refunds time out, `after` their effect or before it."""

    def __init__(self, real, after):
        self._real = real
        self._after = after
        self.silent = 2
        self.refunds = []

    def __getattr__(self, name):
        return getattr(self._real, name)

    def find(self, call):
        return None if call.kind == CallKind.REFUND else self._real.find(call)

    def refund(self, call):
        self.refunds.append(call.key)
        if len(self.refunds) > self.silent:
            return self._real.refund(call)
        if self._after:
            self._real.refund(call)
        return ProviderResponse(code=ResponseCode.UNKNOWN, reason="timed out")


@pytest.fixture
def refund(live):
    def send(order_id, amount=None, key=None, client=live):
        return client.post(
            f"/orders/one/{order_id}/refunds",
            json={"amount": amount} if amount else {},
            headers={"Idempotency-Key": key} if key else {},
        )

    return send


@pytest.fixture
def paid(live, place, eventually):
    """An order of RM 99 that was paid."""
    order_id = place(live)
    eventually(lambda: live.get(f"/orders/one/{order_id}").json["order"]["paymentStatus"] == "Captured")
    return order_id


@pytest.fixture
def money(database):
    """What the provider holds of an order, and by how many refunds it came to that."""

    def look(order_id):
        [charge] = database.ledger.find({"orderId": order_id, "answer": "captured"})
        return charge["value"] - charge["refunded"], len(charge["refunds"])

    return look


@pytest.fixture
def becomes(live, eventually):
    """Wait until an order has this payment status, and return it."""

    def wait(order_id, payment_status):
        def look():
            order = live.get(f"/orders/one/{order_id}").json["order"]
            return order["paymentStatus"] == payment_status and order

        return eventually(look)

    return wait


def cancel(client, order_id):
    return client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})


@pytest.mark.parametrize("amount", [None, "RM 99"], ids=["all that is left", "the whole total"])
def test_a_whole_refund_leaves_nothing_with_the_provider(refund, paid, becomes, money, amount):
    answer = refund(paid, amount)
    assert answer.status_code == 201
    assert answer.json["refund"]["amount"] == {"value": 9900, "currency": "MYR"}
    assert answer.headers["Location"] == f"/orders/one/{paid}/refunds/{answer.json['refund']['id']}"
    order = becomes(paid, "Refunded")
    assert order["orderStatus"] == "Success"
    assert money(paid) == (0, 1)


def test_a_refund_of_a_part_leaves_the_rest_captured(refund, paid, becomes, money, eventually):
    assert refund(paid, "RM 30.50").json["refund"]["amount"]["value"] == 3050
    eventually(lambda: money(paid) == (6850, 1))
    assert becomes(paid, "Captured")["orderStatus"] == "Success"


def test_parts_add_up_to_the_whole(refund, paid, becomes, money):
    for amount in ("RM 30", "RM 60", None):
        assert refund(paid, amount).status_code == 201
    becomes(paid, "Refunded")
    assert money(paid) == (0, 3)


@pytest.mark.parametrize(("first", "then", "left"), [(None, None, 0), ("RM 90", "RM 9.01", 900), (None, "RM 1", 0)])
def test_more_than_is_left_is_refused_and_told_how_much_is(refund, paid, money, eventually, first, then, left):
    assert refund(paid, first).status_code == 201
    answer = refund(paid, then)
    assert (answer.status_code, answer.json["code"]) == (409, "refund_exceeds_balance")
    assert answer.json["remaining"] == left
    eventually(lambda: money(paid) == (left, 1))


def test_refunds_asked_for_at_once_never_exceed_the_total(app, refund, paid, becomes, money):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: refund(paid, "RM 40", client=app.test_client()), range(8)))
    accepted = [answer for answer in answers if answer.status_code == 201]
    assert len(accepted) == 2
    assert {answer.json["code"] for answer in answers if answer.status_code != 201} <= {
        "refund_exceeds_balance",
        "conflict",
    }
    becomes(paid, "Captured")
    assert money(paid) == (1900, 2)


def test_before_the_capture_there_is_nothing_to_refund(client, place, refund):
    answer = refund(place(client), client=client)
    assert (answer.status_code, answer.json["code"]) == (409, "illegal_transition")


def test_a_declined_order_has_nothing_to_refund(live, place, refund, becomes):
    order_id = place(live, productId="2")
    becomes(order_id, "Declined")
    assert (refund(order_id).status_code, refund(order_id).json["code"]) == (409, "illegal_transition")


def test_a_cancelled_order_is_not_refunded_again(live, refund, paid, becomes, money):
    cancel(live, paid)
    assert (refund(paid).status_code, refund(paid).json["code"]) == (409, "illegal_transition")
    becomes(paid, "Refunded")
    assert refund(paid, "RM 1").json["code"] == "illegal_transition"
    assert money(paid) == (0, 1)


def test_another_currency_is_refused(refund, paid, database):
    answer = refund(paid, "USD 1")
    assert (answer.status_code, answer.json["code"]) == (422, "wrong_currency")
    assert "refunds" not in database.orders.find_one()


@pytest.mark.parametrize("order_id", ["0123456789abcdef01234567", "x", "0123456789ABCDEF01234567"])
def test_an_unknown_order_is_not_found(refund, order_id):
    answer = refund(order_id)
    assert (answer.status_code, answer.json["code"]) == (404, "order_not_found")


@pytest.mark.parametrize("amount", ["RM 0", "RM -1", "much", 7.5, "", [], "RM 1.001"])
def test_what_is_no_amount_is_refused(live, paid, database, amount):
    answer = live.post(f"/orders/one/{paid}/refunds", json={"amount": amount})
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_members")
    assert "refunds" not in database.orders.find_one()


def test_the_same_key_again_tells_of_the_first_refund(refund, paid, becomes, money):
    first = refund(paid, "RM 60", "key")
    becomes(paid, "Captured")
    again = refund(paid, "RM 60", "key")
    assert (again.status_code, again.json, again.headers["Idempotent-Replayed"]) == (201, first.json, "true")
    assert "Idempotent-Replayed" not in first.headers
    assert money(paid) == (3900, 1)


def test_the_same_key_for_another_amount_is_refused(refund, paid, eventually, money):
    assert refund(paid, "RM 10", "key").status_code == 201
    answer = refund(paid, "RM 11", "key")
    assert (answer.status_code, answer.json["code"]) == (422, "idempotency_key_reused")
    eventually(lambda: money(paid) == (8900, 1))


def test_cancelled_after_a_part_was_refunded_exactly_the_rest_goes_back(live, refund, paid, becomes, money, database):
    assert refund(paid, "RM 30").status_code == 201
    assert cancel(live, paid).status_code == 200
    order = becomes(paid, "Refunded")
    assert order["orderStatus"] == "Cancelled"
    assert money(paid) == (0, 2)
    [charge] = database.ledger.find()
    assert sorted(made["value"] for made in charge["refunds"]) == [3000, 6900]


def test_cancelled_after_everything_was_refunded_nothing_more_goes_back(live, refund, paid, becomes, money):
    refund(paid)
    becomes(paid, "Refunded")
    assert cancel(live, paid).status_code == 200
    assert becomes(paid, "Refunded")["orderStatus"] == "Cancelled"
    assert money(paid) == (0, 1)


def test_a_refund_says_so_while_it_is_under_way_and_goes_on_record(refund, paid, becomes, database):
    refund(paid, "RM 30")
    becomes(paid, "Captured")
    entries = database.orders.find_one({"_id": ObjectId(paid)})["events"]
    seen = [(entry["type"], entry["actor"], entry["paymentStatus"]) for entry in entries]
    assert seen == [
        ("OrderCreated", "client", "Processing"),
        ("PaymentCaptured", "payments", "Captured"),
        ("RefundRequested", "client", "Refunding"),
        ("PaymentRefunded", "payments", "Captured"),
    ]
    assert [entry.get("amount") for entry in entries] == [None, None, 3000, 3000]


@pytest.mark.parametrize("after", [True, False], ids=["after its effect", "before its effect"])
def test_a_refund_that_times_out_is_sent_again_with_its_key_and_made_once(settings, place, eventually, database, after):
    made = []

    def provider(given, store):
        made.append(Forgetful(make(given, store), after))
        return made[0]

    app = create_app(replace(settings, payment_timeout=15.0), make_provider=provider)
    try:
        runtime(app).prepare()
        runtime(app).start()
        client = app.test_client()
        order_id = place(client)
        # As the application sees it: what a majority has, which may be a moment behind what the primary has.
        eventually(lambda: client.get(f"/orders/one/{order_id}").json["order"]["paymentStatus"] == "Captured")
        assert client.post(f"/orders/one/{order_id}/refunds", json={"amount": "RM 30"}).status_code == 201
        eventually(lambda: database.payments.count_documents({"status": "Captured", "refunds.status": "done"}))
    finally:
        runtime(app).stop()
    assert len(made[0].refunds) == 3
    assert len(set(made[0].refunds)) == 1
    [charge] = database.ledger.find()
    assert (charge["refunded"], len(charge["refunds"])) == (3000, 1)


def test_a_paid_order_with_as_many_texts_as_it_may_have_can_still_be_refunded_and_cancelled(
    live, refund, paid, becomes, money
):
    def text(number):
        return live.put("/orders", json={"orderId": paid, "orderStatus": f"step {number}"})

    answers = [text(number) for number in range(199)]
    refused = [answer.json["code"] for answer in answers if answer.status_code != 200]
    assert refused == ["timeline_full"] * len(refused) != []
    assert refund(paid, "RM 30").status_code == 201
    assert cancel(live, paid).status_code == 200
    assert becomes(paid, "Refunded")["orderStatus"] == "Cancelled"
    assert money(paid) == (0, 2)
