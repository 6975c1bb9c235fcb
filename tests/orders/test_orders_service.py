"""What orders answers to requests, and makes of news."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from bson import ObjectId

from app.contracts.base import Conflict, NotFound
from app.contracts.orders import (
    CheckOrderStatus,
    FindOrder,
    IllegalTransition,
    ListOrders,
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    RefundExceedsBalance,
    RefundRequested,
)
from app.contracts.payments import PaymentCaptured, PaymentDeclined, PaymentParked, PaymentRefunded, PaymentVoided
from app.main import runtime
from app.messaging.outbox import PendingEvents, decode_event
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.service import OrderService

NO_LIMIT = OpenOrderLimit(lambda *_: 0, 1)

MEMBERS = {
    "_id", "userId", "productId", "productName", "totalOrderAmount", "total", "orderStatus", "paymentStatus", "version",
    "sequence", "paymentSequence", "requestId", "createdAt", "updatedAt", "events", "outbox", "relayDue",
    "changes", "changesDue",
}  # fmt: skip


def list_of(user_id, limit=100, **more):
    nothing = {"order_status": "", "before_at": "", "before_id": ""}
    return ListOrders(request_id="r", user_id=user_id, limit=limit, **nothing | more)


def outbox_of(doc):
    return [decode_event(entry) for entry in doc["outbox"]]


def test_a_new_order_is_acknowledged_with_its_id_and_first_version(orders, request_for, stored):
    request = request_for()
    accepted = OrderService(orders, NO_LIMIT).create_order(request)
    assert (type(accepted), accepted.order_id, accepted.version) == (OrderAccepted, request.order_id, 1)
    assert stored(request.order_id)["requestId"] == request.request_id


def test_a_new_order_asks_for_its_payment(orders, request_for, stored):
    request = request_for(product_id="p-9", total_value=123, total_currency="JPY", user_id="u-3")
    OrderService(orders, NO_LIMIT).create_order(request)
    doc = stored(request.order_id)
    [event] = outbox_of(doc)
    assert event == OrderCreated(
        event_id=event.event_id,
        order_id=request.order_id,
        sequence=1,
        request_id=request.request_id,
        at=round(doc["createdAt"].timestamp() * 1000),
        user_id="u-3",
        product_id="p-9",
        total_value=123,
        total_currency="JPY",
    )
    assert event.event_id


def test_every_event_has_an_id_of_its_own(orders, create, stored):
    ids = {event.event_id for _ in range(20) for event in outbox_of(stored(create()))}
    assert len(ids) == 20


def test_a_step_is_told_with_the_version_it_led_to(orders, create, update, payment_event):
    order_id = create()
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id)])
    answers = [update(order_id, text) for text in ("Confirm", "Shipped", "Shipped", "Delivered", "Cancelled")]
    assert [(answer.order_status, answer.version, answer.changed) for answer in answers] == [
        ("Confirm", 3, True),
        ("Shipped", 4, True),
        ("Shipped", 4, False),
        ("Delivered", 5, True),
        ("Cancelled", 6, True),
    ]


def test_an_illegal_step_changes_nothing(orders, create, update, stored):
    order_id = create()
    before = stored(order_id)
    for text in ("Confirm", "Success", "Declined", "Shipped", "cancelled"):
        with pytest.raises(IllegalTransition):
            update(order_id, text)
    assert stored(order_id) == before


def test_a_step_of_an_unknown_order_is_refused(orders, update):
    for order_id in (str(ObjectId()), "no-such-order"):
        with pytest.raises(NotFound):
            update(order_id, "Cancelled")


def test_a_cancellation_is_announced_once_with_its_place_in_the_timeline(orders, create, update, payment_event, stored):
    order_id = create()
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id)])
    update(order_id, "Confirm")
    for _ in range(3):
        update(order_id, "Cancelled")
    doc = stored(order_id)
    [_, event] = outbox_of(doc)
    assert isinstance(event, OrderCancelled)
    assert (event.order_id, event.sequence, event.request_id) == (order_id, 4, "r-update")
    assert event.at == round(doc["updatedAt"].timestamp() * 1000)


def test_only_cancelling_is_announced(orders, create, update, payment_event, stored):
    fulfilled, declined = create(), create()
    OrderService(orders, NO_LIMIT).on_payment_events(
        [payment_event(PaymentCaptured, fulfilled), payment_event(PaymentDeclined, declined)]
    )
    update(fulfilled, "Confirm")
    update(fulfilled, "Shipped")
    update(declined, "Cancelled")
    assert [type(event) for event in outbox_of(stored(fulfilled))] == [OrderCreated]
    assert [type(event) for event in outbox_of(stored(declined))] == [OrderCreated, OrderCancelled]
    assert (stored(declined)["orderStatus"], stored(declined)["paymentStatus"]) == ("Cancelled", "Declined")


def test_the_timeline_tells_who_did_what(orders, create, update, payment_event, stored):
    order_id = create()
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id, reference="ref-9")])
    update(order_id, "Confirm")
    update(order_id, "Shipped")
    update(order_id, "Cancelled")
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentRefunded, order_id, 2)])
    entries = stored(order_id)["events"]
    assert [(entry["type"], entry["actor"], entry["from"], entry["to"], entry["paymentStatus"]) for entry in entries] == [
        ("OrderCreated", "client", "(new)", "Processing", "Processing"),
        ("PaymentCaptured", "payments", "Processing", "Success", "Captured"),
        ("OrderUpdated", "client", "Success", "Confirm", "Captured"),
        ("OrderUpdated", "client", "Confirm", "Shipped", "Captured"),
        ("OrderCancelled", "client", "Shipped", "Cancelled", "Refunding"),
        ("PaymentRefunded", "payments", "Cancelled", "Cancelled", "Refunded"),
    ]  # fmt: skip
    assert entries[1]["detail"] == "ref-9"
    members = {"sequence", "type", "at", "actor", "from", "to", "paymentStatus", "detail", "requestId"}
    assert [set(entry) - members for entry in entries] == [set(), set(), set(), set(), set(), {"amount"}]
    assert (entries[0]["at"], entries[-1]["at"]) == (stored(order_id)["createdAt"], stored(order_id)["updatedAt"])


@pytest.mark.parametrize(
    ("kind", "members", "statuses"),
    [
        (PaymentCaptured, {}, ("Success", "Captured")),
        (PaymentDeclined, {}, ("Declined", "Declined")),
        (PaymentVoided, {}, ("Declined", "Voided")),
        (PaymentParked, {"reason": "nobody knows"}, ("Processing", "Unknown")),
    ],
)
def test_news_is_applied_once_however_often_it_comes(orders, create, payment_event, stored, kind, members, statuses):
    order_id = create()
    event = payment_event(kind, order_id, **members)
    for batch in ([event], [event, event], [event]):
        OrderService(orders, NO_LIMIT).on_payment_events(batch)
    doc = stored(order_id)
    assert (doc["orderStatus"], doc["paymentStatus"]) == statuses
    assert [entry["type"] for entry in doc["events"]] == ["OrderCreated", kind.__name__]


def test_news_of_a_missing_order_is_refused_so_that_the_relay_sees_it(orders, create, payment_event):
    with pytest.raises(NotFound):
        OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, str(ObjectId()))])


def test_an_order_its_status_and_the_list_agree(reads, orders, create, update):
    order_id = create(user_id="u-8")
    update(order_id, "Cancelled")
    view = reads.queries.find_order(FindOrder(request_id="r", order_id=order_id, on_behalf_of=""))
    status = reads.queries.check_status(CheckOrderStatus(request_id="r", order_id=order_id, on_behalf_of=""))
    listed = reads.queries.list_by_user(list_of("u-8"))
    assert listed.orders == (msgspec.structs.replace(view, refunds=None),)
    assert (status.order_id, status.order_status, status.payment_status, status.version) == (
        view.id,
        view.order_status,
        view.payment_status,
        view.version,
    )


def test_asking_for_an_unknown_order_is_refused(reads, orders, create):
    create()
    for order_id in (str(ObjectId()), "no-such-order"):
        with pytest.raises(NotFound):
            reads.queries.find_order(FindOrder(request_id="r", order_id=order_id, on_behalf_of=""))
        with pytest.raises(NotFound):
            reads.queries.check_status(CheckOrderStatus(request_id="r", order_id=order_id, on_behalf_of=""))
    assert reads.queries.list_by_user(list_of("nobody")).orders == ()


def test_what_a_client_adds_to_an_order_is_never_stored(client, new_order, database):
    order = new_order(
        orderStatus="Success",
        createdAt="1999-01-01T00:00:00Z",
        paymentStatus="Captured",
        version=7,
        outbox=[],
        isAdmin=True,
        _id="6920c1b05be0d3a1f2c4e687",
        **{"$set": {"orderStatus": "Success"}, "total": {"value": 1, "currency": "MYR"}, "a.b": 1},
    )
    answer = client.post("/orders?strict=false", json=order)
    assert answer.status_code == 201, answer.text
    order_id = answer.json["created"]["id"]
    doc = database.orders.find_one()
    # As long as nobody has said who wants to hear of changes, all are kept.
    assert set(doc) == MEMBERS | {"changes", "changesDue"}
    assert str(doc["_id"]) == order_id
    assert (doc["orderStatus"], doc["paymentStatus"], doc["version"]) == ("Processing", "Processing", 1)
    assert doc["total"] == {"value": 9900, "currency": "MYR"}
    assert doc["createdAt"].year > 2000


def test_an_update_changes_the_status_and_nothing_else(client, place, database):
    order_id = place(client)
    [before] = database.orders.find()
    sent = {
        "orderId": order_id,
        "orderStatus": "Cancelled",
        "userId": "thief",
        "totalOrderAmount": "RM 1",
        "isAdmin": 1,
    }
    assert client.put("/orders?strict=false", json=sent).status_code == 200
    [after] = database.orders.find()
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {
        "orderStatus",
        "version",
        "sequence",
        "updatedAt",
        "events",
        "outbox",
        "relayDue",
        "changes",
        "changesDue",
    }
    assert set(after) == set(before)


def test_internal_members_never_leave_the_house(client, place):
    order_id = place(client, userId="u-8")
    order = client.get(f"/orders/one/{order_id}").json["order"]
    assert not {
        "_id",
        "events",
        "outbox",
        "sequence",
        "paymentSequence",
        "requestId",
        "relayDue",
        "relayClaim",
        "changes",
    } & set(order)
    assert order.pop("refunds") == []
    assert client.get("/orders/u-8").json["orders"] == [order]
    assert set(client.get(f"/orders/status/{order_id}").json) == {"ok", "orderStatus"}


def test_news_of_a_missing_order_holds_back_no_other(app, client, place, database, payment_event):
    ids = [place(client), str(ObjectId()), place(client)]
    batch = [PendingEvents(order_id, [payment_event(PaymentCaptured, order_id)]) for order_id in ids]
    runtime(app).modules["payments"].relay.deliver(batch)
    assert [doc["orderStatus"] for doc in database.orders.find()] == ["Success", "Success"]
    assert [bool(pending.error) for pending in batch] == [False, True, False]


def test_handlers_never_answer_for_another_order(orders, create, update, stored):
    mine, other = create(), create()
    before = stored(other)
    update(mine, "Cancelled")
    assert stored(other) == before


def test_a_refund_is_reserved_and_asked_of_payments_in_one_write(
    orders, create, refund, commands, payment_event, stored
):
    order_id = create()
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id)])
    commands.sent.clear()
    answer = refund(order_id, "r1", 900)
    assert [name for name, _ in commands.sent] == ["find", "findAndModify"]
    assert (answer.refund_id, answer.refund_value, answer.currency, answer.version) == ("r1", 900, "MYR", 3)
    assert not answer.replayed
    doc = stored(order_id)
    assert [(made["id"], made["value"]) for made in doc["refunds"]] == [("r1", 900)]
    [_, event] = outbox_of(doc)
    assert isinstance(event, RefundRequested)
    assert (event.order_id, event.sequence, event.refund_id, event.refund_value) == (order_id, 3, "r1", 900)


def test_a_refund_without_a_value_is_all_that_is_left(orders, create, refund, payment_event):
    order_id = create()
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id)])
    assert refund(order_id, "r1", 900).refund_value == 900
    assert refund(order_id, "rest").refund_value == 9000
    with pytest.raises(RefundExceedsBalance):
        refund(order_id, "more")


def test_a_refund_asked_for_again_is_told_again_and_not_made_again(orders, create, refund, payment_event, stored):
    order_id = create()
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id)])
    refund(order_id, "r1", 900)
    before = stored(order_id)
    again = refund(order_id, "r1", 900)
    assert (again.replayed, again.refund_value, again.version) == (True, 900, 3)
    assert stored(order_id) == before


def test_refunds_asked_for_at_once_never_exceed_what_was_captured(orders, create, refund, payment_event, stored):
    order_id = create()
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id)])

    def ask(at: int) -> int:
        while True:
            try:
                return refund(order_id, f"r{at}", 4000).refund_value
            except Conflict:
                continue
            except RefundExceedsBalance:
                return 0

    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(ask, range(8)))
    assert sorted(granted) == [0] * 6 + [4000] * 2
    doc = stored(order_id)
    assert sum(made["value"] for made in doc["refunds"]) == 8000
    assert [entry["type"] for entry in doc["outbox"]] == ["OrderCreated", "RefundRequested", "RefundRequested"]


def test_amounts_that_need_64_bits_are_plain_integers_for_every_encoder(orders, create, refund, payment_event):
    order_id = create(total_value=2**40)
    OrderService(orders, NO_LIMIT).on_payment_events([payment_event(PaymentCaptured, order_id)])
    refund(order_id, "r1", value=2**39)
    again = refund(order_id, "r1", value=2**39)
    assert msgspec.json.decode(msgspec.json.encode(again))["refund_value"] == 2**39
