"""What orders stores of the money, and what it answers: payments that wait, captures, late facts and disputes."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from bson import ObjectId

from app.contracts.base import Conflict, Money, NotFound
from app.contracts.orders import (
    AlreadyCaptured,
    AwaitOrder,
    CaptureRequested,
    DescribeStates,
    ExplainOrder,
    FindRefund,
    IdempotencyKeyReused,
    IllegalTransition,
    ListRefunds,
    NextActionView,
    OrderCancelled,
    OrderCreated,
    RefundDuringDispute,
    RefundNotFound,
    StaleVersion,
)
from app.contracts.payments import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentVoided,
)
from app.messaging.outbox import decode_event

ACTION = {"action_type": "confirm", "action_url": "", "client_secret": "pi_1_secret_2"}
CHOICES = {"payment_method": "pm_card", "return_url": "https://shop.example/back", "manual_capture": True}
# The members of an order's document that only some orders have.
RARE = {"paymentMethod", "returnUrl", "capture", "authorized", "captureRequested", "captured", "disputed", "nextAction"}


def last_event(doc):
    return decode_event(doc["outbox"][-1])


def test_how_an_order_is_paid_is_stored_and_told_to_payments(create, stored):
    doc = stored(create(**CHOICES))
    assert {name: doc[name] for name in RARE & doc.keys()} == {
        "paymentMethod": "pm_card",
        "returnUrl": "https://shop.example/back",
        "capture": "manual",
    }
    event = last_event(doc)
    assert isinstance(event, OrderCreated)
    assert (event.payment_method, event.return_url, event.manual_capture) == (*CHOICES.values(),)


def test_an_ordinary_order_has_none_of_the_rare_members(create, tell, refund, update, stored):
    order_id = create()
    tell(order_id, PaymentCaptured)
    refund(order_id, "r1", 900)
    update(order_id, "Cancelled")
    assert not RARE & stored(order_id).keys()


@pytest.mark.parametrize("choice", CHOICES)
def test_the_key_of_an_order_that_is_paid_otherwise_is_refused(create, request_for, choice):
    ordinary = create(idempotency_key="k1")
    chosen = create(idempotency_key="k2", **CHOICES)
    assert create(idempotency_key="k1") == ordinary
    assert create(idempotency_key="k2", **CHOICES) == chosen
    with pytest.raises(IdempotencyKeyReused):
        create(idempotency_key="k1", **{choice: CHOICES[choice]})
    with pytest.raises(IdempotencyKeyReused):
        create(idempotency_key="k2", **CHOICES | {choice: type(CHOICES[choice])()})


def test_the_fingerprint_of_an_ordinary_order_is_that_of_earlier_versions(create, stored):
    doc = stored(create(idempotency_key="k1"))
    assert doc["idempotency"]["fingerprint"] == "2e0e8f8a5f87b90256ad999a6fbcec7363689d4d5db3451317e9113da4851cc3"


@pytest.mark.parametrize(
    "after",
    [
        PaymentDelayed,
        PaymentAuthorized,
        PaymentCaptured,
        PaymentDeclined,
        (PaymentVoided, {"reason": "it waited too long"}),
        (PaymentParked, {"reason": "no answer"}),
    ],
    ids=lambda event: getattr(event, "__name__", None) or event[0].__name__,
)
def test_what_the_customer_must_do_is_there_until_the_payment_moves_on(create, tell, stored, reads, after):
    order_id = create()
    tell(order_id, (PaymentActionRequired, ACTION))
    view = reads.view(order_id, "user-7", with_next_action=True)
    assert view.payment_status == "ActionRequired"
    assert view.next_action == NextActionView(
        type="confirm", client_secret="pi_1_secret_2", expires_at="2027-01-15T08:00:00.000Z"
    )
    assert "nextAction" in stored(order_id)
    tell(order_id, after, first=2)
    assert "nextAction" not in stored(order_id)
    assert reads.view(order_id, "user-7", with_next_action=True).next_action is None


def test_another_action_takes_the_place_of_the_first(create, tell, reads):
    order_id = create()
    tell(order_id, (PaymentActionRequired, ACTION), PaymentActionRequired)
    action = reads.view(order_id, "", with_next_action=True).next_action
    assert (action.type, action.url, action.client_secret) == ("redirect", "https://bank.example/3ds?one", "")


def test_the_action_ends_with_a_cancellation_and_payments_is_told(create, tell, update, stored):
    order_id = create()
    tell(order_id, (PaymentActionRequired, ACTION))
    update(order_id, "Cancelled")
    doc = stored(order_id)
    assert (doc["orderStatus"], doc["paymentStatus"]) == ("Cancelled", "Processing")
    assert "nextAction" not in doc
    assert isinstance(last_event(doc), OrderCancelled)
    tell(order_id, (PaymentActionRequired, ACTION), first=2)
    assert "nextAction" not in stored(order_id)


def test_the_action_is_shown_to_nobody_who_does_not_ask_for_it_and_in_no_list(create, tell, reads, stored):
    order_id = create()
    tell(order_id, (PaymentActionRequired, ACTION))
    shown = [
        reads.view(order_id, "user-7"),
        reads.status(order_id, "user-7"),
        reads.timeline(order_id, "user-7", 0),
        reads.list_by_user("user-7", 10),
        reads.list_all(10),
        reads.find_many([order_id]),
        reads.queries.explain(ExplainOrder(request_id="r", order_id=order_id, on_behalf_of="user-7")),
    ]
    texts = [msgspec.json.encode(reply).decode() for reply in shown]
    assert not any("secret" in text or "nextAction" in text for text in texts)
    doc = stored(order_id)
    assert "secret" not in str({name: value for name, value in doc.items() if name != "nextAction"})


@pytest.mark.parametrize("waits", [PaymentActionRequired, PaymentAuthorized, PaymentDelayed])
def test_who_waits_for_an_order_may_stop_where_its_payment_waits(create, tell, reads, waits):
    order_id = create()
    tell(order_id, waits)

    def wait(**more):
        request = AwaitOrder(request_id="r", order_id=order_id, on_behalf_of="", **more)
        return reads.queries.await_order(request)

    assert wait(wait_ms=60_000, or_waiting=True).order_status == "Processing"
    assert wait(wait_ms=1).order_status == "Processing"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, wait_ms=60_000)
        tell(order_id, PaymentCaptured, first=2)
        assert waiting.result().order_status == "Success"


def test_a_capture_is_stored_and_asked_of_payments_in_one_write(create, tell, capture, commands, stored, reads):
    order_id = create(manual_capture=True)
    tell(order_id, PaymentAuthorized)
    assert reads.view(order_id, "").authorized == Money(9900, "MYR")
    commands.sent.clear()
    answer = capture(order_id, 4000)
    assert [name for name, _ in commands.sent] == ["find", "findAndModify"]
    assert (answer.capture_value, answer.currency, answer.version, answer.replayed) == (4000, "MYR", 3, False)
    doc = stored(order_id)
    assert (doc["orderStatus"], doc["paymentStatus"], doc["captureRequested"]) == ("Processing", "Authorized", 4000)
    assert (doc["events"][-1]["type"], doc["events"][-1]["amount"]) == ("CaptureRequested", 4000)
    event = last_event(doc)
    assert isinstance(event, CaptureRequested)
    assert (event.order_id, event.sequence, event.capture_value) == (order_id, 3, 4000)


def test_a_capture_asked_for_again_is_told_again_and_another_amount_refused(create, tell, capture, stored):
    order_id = create(manual_capture=True)
    tell(order_id, PaymentAuthorized)
    assert capture(order_id).capture_value == 9900
    before = stored(order_id)
    again = capture(order_id, 9900, expected=(2,))
    assert (again.replayed, again.capture_value, again.version) == (True, 9900, 3)
    with pytest.raises(AlreadyCaptured):
        capture(order_id, 4000)
    assert stored(order_id) == before
    tell(order_id, PaymentCaptured, first=2)
    assert capture(order_id).replayed


def test_captures_asked_for_at_once_are_made_once(create, tell, capture, stored):
    order_id = create(manual_capture=True)
    tell(order_id, PaymentAuthorized)

    def ask(value):
        while True:
            try:
                return capture(order_id, value).capture_value
            except Conflict:
                continue
            except AlreadyCaptured:
                return 0

    with ThreadPoolExecutor(8) as pool:
        captured = list(pool.map(ask, range(1000, 1008)))
    doc = stored(order_id)
    assert sorted(captured) == [0] * 7 + [doc["captureRequested"]]
    assert [entry["type"] for entry in doc["events"]].count("CaptureRequested") == 1


def test_a_capture_of_a_stale_version_or_of_another_users_order_is_refused(create, tell, capture, stored):
    order_id = create(manual_capture=True)
    tell(order_id, PaymentAuthorized)
    before = stored(order_id)
    with pytest.raises(StaleVersion):
        capture(order_id, expected=(1,))
    with pytest.raises(NotFound):
        capture(order_id, user="somebody else")
    assert stored(order_id) == before
    assert capture(order_id, expected=(2,)).version == 3


def test_what_was_not_authorized_or_is_cancelled_is_not_captured(create, tell, update, capture, stored):
    fresh, cancelled = create(), create(manual_capture=True)
    tell(cancelled, PaymentAuthorized)
    update(cancelled, "Cancelled")
    assert stored(cancelled)["paymentStatus"] == "Processing"
    assert isinstance(last_event(stored(cancelled)), OrderCancelled)
    for order_id in (fresh, cancelled):
        before = stored(order_id)
        with pytest.raises(IllegalTransition):
            capture(order_id)
        assert stored(order_id) == before


def test_what_was_captured_is_stored_only_where_it_is_not_the_total(create, tell, reads, stored):
    part, whole = create(manual_capture=True), create(manual_capture=True)
    tell(part, PaymentAuthorized, (PaymentCaptured, {"captured_value": 4000}))
    tell(whole, PaymentAuthorized, (PaymentCaptured, {"captured_value": 9900}))
    assert (stored(part)["captured"], "captured" in stored(whole)) == (4000, False)
    views = {view.id: view for view in reads.list_by_user("user-7", 10).orders}
    assert views[part].captured == Money(4000, "MYR")
    assert views[whole].captured == Money(9900, "MYR")


def test_a_refund_made_at_the_provider_joins_the_orders_refunds(create, tell, refund, stored):
    order_id = create()
    elsewhere = {"refund_id": "re_9", "refund_value": 500, "refunded_total": 500}
    tell(order_id, PaymentCaptured, (PaymentRefunded, elsewhere))
    doc = stored(order_id)
    assert [(one["id"], one["value"]) for one in doc["refunds"]] == [("re_9", 500)]
    assert refund(order_id, "r1").refund_value == 9400
    tell(order_id, (PaymentRefundFailed, {**elsewhere, "refunded_total": 0, "reason": "closed"}), first=3)
    doc = stored(order_id)
    assert [(one["id"], one["status"]) for one in doc["refunds"]] == [("re_9", "failed"), ("r1", "pending")]
    assert (doc["refunds"][0]["failure"], doc["paymentStatus"]) == ("closed", "Refunding")
    assert refund(order_id, "r2").refund_value == 500


def test_a_disputed_order_is_not_refunded_until_the_dispute_is_won(create, tell, refund, stored):
    order_id = create()
    tell(order_id, PaymentCaptured, PaymentDisputed)
    assert (stored(order_id)["paymentStatus"], stored(order_id)["disputed"]) == ("Disputed", True)
    with pytest.raises(RefundDuringDispute):
        refund(order_id, "r1", 900)
    tell(order_id, PaymentDisputeClosed, first=3)
    assert (stored(order_id)["paymentStatus"], "disputed" in stored(order_id)) == ("Captured", False)
    assert refund(order_id, "r1", 900).refund_value == 900


def test_a_dispute_that_is_lost_stays_with_the_order(create, tell, refund, stored):
    order_id = create()
    tell(order_id, PaymentCaptured, PaymentDisputed, (PaymentDisputeClosed, {"won": False, "disputed": True}))
    assert (stored(order_id)["paymentStatus"], stored(order_id)["disputed"]) == ("Disputed", True)
    with pytest.raises(RefundDuringDispute):
        refund(order_id, "r1", 900)


def test_what_is_captured_for_a_declined_or_cancelled_order_goes_back(create, tell, update, refund, stored):
    declined, cancelled = create(), create()
    tell(declined, PaymentVoided, PaymentCaptured)
    update(cancelled, "Cancelled")
    tell(cancelled, PaymentCaptured)
    for order_id, order_status in ((declined, "Declined"), (cancelled, "Cancelled")):
        doc = stored(order_id)
        assert (doc["orderStatus"], doc["paymentStatus"]) == (order_status, "Refunding")
        with pytest.raises(IllegalTransition):
            refund(order_id, "r1", 900)
        tell(order_id, PaymentRefunded, first=3)
        assert stored(order_id)["paymentStatus"] == "Refunded"
        assert [(one["id"], one["value"], one["status"]) for one in stored(order_id)["refunds"]] == [
            ("cancel", 9900, "succeeded")
        ]


def test_the_explanation_names_what_may_be_done_with_the_money(create, tell, capture, reads):
    order_id = create(manual_capture=True)
    explain = ExplainOrder(request_id="r", order_id=order_id, on_behalf_of="")
    assert reads.queries.explain(explain).actions == ()
    tell(order_id, PaymentAuthorized)
    found = reads.queries.explain(explain)
    assert (found.actions, found.allowed) == (("capture",), ("Cancelled",))
    assert found.sentence.startswith(
        "The order is Processing and its payment Authorized, since payments had the amount"
    )
    capture(order_id)
    assert reads.queries.explain(explain).actions == ()
    tell(order_id, PaymentCaptured, first=2)
    assert reads.queries.explain(explain).actions == ("refund",)
    tell(order_id, PaymentDisputed, first=3)
    found = reads.queries.explain(explain)
    assert (found.actions, found.on_cancel) == ((), "a refund is started if the dispute is won")


def test_the_state_machine_has_the_statuses_of_a_payment(reads):
    machine = reads.queries.describe_states(DescribeStates(request_id="r"))
    by_status = {view.status: view for view in machine.payment_statuses}
    assert by_status["Authorized"].actions == ("capture",)
    assert {"ActionRequired", "Pending", "Authorized", "Disputed"} <= by_status.keys()


def test_a_cancellation_is_among_the_refunds_from_the_moment_it_is_asked_for(
    create, tell, update, refund, stored, reads
):
    order_id = create()
    tell(order_id, PaymentCaptured)
    refund(order_id, "r1", 900)
    update(order_id, "Cancelled")
    view = reads.view(order_id, "")
    assert [(one.id, one.amount, one.status) for one in view.refunds] == [
        ("r1", Money(900, "MYR"), "pending"),
        ("cancel", Money(9000, "MYR"), "pending"),
    ]
    assert (view.captured, view.pending, view.refundable) == (Money(9900, "MYR"), Money(9900, "MYR"), Money(0, "MYR"))
    for sequence, (refund_id, value, total) in enumerate((("r1", 900, 900), ("cancel", 9000, 9900)), 2):
        made = {"refund_id": refund_id, "refund_value": value, "refunded_total": total}
        tell(order_id, (PaymentRefunded, made), first=sequence)
    view = reads.view(order_id, "")
    assert ([one.status for one in view.refunds], view.refunded) == (["succeeded"] * 2, Money(9900, "MYR"))
    assert [one["at"] for one in stored(order_id)["refunds"]] == [
        entry["at"] for entry in stored(order_id)["events"] if entry["type"] in ("RefundRequested", "OrderCancelled")
    ]


def test_money_that_a_parked_payment_has_taken_is_known_whatever_the_order_becomes(
    create, tell, update, reads, database
):
    paid, unpaid, earlier = create(), create(), create()
    parked = (PaymentParked, {"reason": "no answer"})
    for order_id in (paid, earlier):
        tell(order_id, PaymentCaptured, parked)
        assert reads.view(order_id, "").blocked == Money(9900, "MYR")
    tell(unpaid, parked)
    # What an order that was stored earlier lacks is recorded when it is cancelled.
    database.orders.update_one({"_id": ObjectId(earlier)}, {"$unset": {"captured": ""}})
    for order_id, amount in ((paid, 9900), (earlier, 9900), (unpaid, 0)):
        update(order_id, "Cancelled")
        view = reads.view(order_id, "")
        assert (view.order_status, view.payment_status) == ("Cancelled", "Unknown")
        assert (view.captured, view.pending, view.blocked) == (Money(amount, "MYR"), Money(amount, "MYR"), None)


def test_a_refund_of_a_cancelled_order_that_fails_later_is_not_shown_as_refunded(create, tell, update, reads):
    order_id = create()
    tell(order_id, PaymentCaptured)
    update(order_id, "Cancelled")
    made = {"refund_id": "cancel", "refund_value": 9900, "refunded_total": 9900}
    tell(order_id, (PaymentRefunded, made), first=2)
    assert reads.view(order_id, "").refunded == Money(9900, "MYR")
    failed = {"reason": "closed", "failed_refund_id": "cancel", "failed_refund_value": 9900}
    tell(order_id, (PaymentParked, failed), first=3)
    view = reads.view(order_id, "")
    assert (view.refunded, view.pending) == (Money(0, "MYR"), Money(9900, "MYR"))
    assert [(one.id, one.status, one.failure) for one in view.refunds] == [
        ("cancel", "failed", "closed"),
        ("cancel-2", "pending", ""),
    ]


def test_one_refund_is_found_and_others_are_not(create, tell, refund, reads):
    order_id = create()
    tell(order_id, PaymentCaptured)
    refund(order_id, "r1", 900)
    asked = {"request_id": "r", "order_id": order_id}
    found = reads.queries.find_refund(FindRefund(**asked, on_behalf_of="user-7", refund_id="r1"))
    assert reads.queries.list_refunds(ListRefunds(**asked, on_behalf_of="user-7")).refunds == (found,)
    for refund_id in ("r2", "", "R1"):
        with pytest.raises(RefundNotFound):
            reads.queries.find_refund(FindRefund(**asked, on_behalf_of="", refund_id=refund_id))
    for request in (FindRefund(**asked, on_behalf_of="bob", refund_id="r1"), ListRefunds(**asked, on_behalf_of="bob")):
        with pytest.raises(NotFound):
            (reads.queries.find_refund if isinstance(request, FindRefund) else reads.queries.list_refunds)(request)


def test_the_timeline_has_amounts_in_the_orders_currency(create, tell, refund, reads, database):
    order_id, part = create(total_currency="JPY"), create(manual_capture=True)
    tell(order_id, PaymentCaptured)
    made = {"refund_id": "re_9", "refund_value": 500, "refunded_total": 500}
    tell(order_id, (PaymentRefunded, made), PaymentDisputed, first=2)
    tell(part, PaymentAuthorized, (PaymentCaptured, {"captured_value": 4000}))
    seen = {entry.type: entry.amount for entry in reads.timeline(order_id, "", 0).entries}
    assert (seen["OrderCreated"], seen["PaymentCaptured"]) == (None, Money(9900, "JPY"))
    assert seen["PaymentRefunded"] == Money(500, "JPY")
    assert seen["PaymentDisputed"].currency == "JPY"
    # An entry that was stored before entries had amounts.
    database.orders.update_many({}, {"$unset": {"events.$[].amount": ""}})
    amounts = [entry.amount for entry in reads.timeline(part, "", 0).entries]
    assert amounts == [None, None, Money(4000, "MYR")]
    assert reads.diagnose(part, "").last.amount == Money(4000, "MYR")


def test_a_refund_takes_as_many_commands_as_ever(create, tell, refund, update, commands):
    order_id = create()
    tell(order_id, PaymentCaptured)
    made = {"refund_id": "r1", "refund_value": 900, "refunded_total": 900}
    for act, expected in (
        (lambda: refund(order_id, "r1", 900, "", ()), ["find", "findAndModify"]),
        (lambda: tell(order_id, (PaymentRefunded, made), first=2), ["find", "update"]),
        (lambda: update(order_id, "Cancelled"), ["find", "findAndModify"]),
    ):
        commands.sent.clear()
        act()
        assert [name for name, _ in commands.sent] == expected
