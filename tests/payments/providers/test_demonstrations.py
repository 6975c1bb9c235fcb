"""The products that go on after their charge, in the whole application: nobody but the provider's notifications hurries it."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from app.contracts.base import Unavailable
from app.main import create_app, runtime
from app.payments.provider_port import CallKind, ProviderCall
from app.payments.providers import entries, signed_notifications
from app.payments.providers.ledger import Ledger
from app.payments.providers.notification_sender import NotificationSender
from app.payments.providers.signed_notifications import NotificationMessage
from app.storage.mongodb import Database
from tests.payments.steady_clock import SteadyClock

pytestmark = pytest.mark.extended


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """What takes seconds at the provider takes a moment; the worker's own look at a waiting payment comes after a minute."""
    monkeypatch.setattr(entries, "DELAY", timedelta(seconds=0.3))
    monkeypatch.setattr(NotificationSender, "INTERVAL_SECONDS", 0.05)


@pytest.fixture
def payment(database):
    """Reads a payment."""
    return lambda order_id: database.payments.find_one({"_id": order_id}) or {}


@pytest.fixture
def becomes(payment, eventually):
    """Waits until a payment has a status, and returns it."""

    def wait(order_id: str, status: str) -> dict:
        return eventually(lambda: (found := payment(order_id)).get("status") == status and found)

    return wait


@pytest.fixture
def page(database, eventually):
    """The path of the provider's page for an order."""

    def path(order_id: str) -> str:
        entry = eventually(lambda: database.ledger.find_one({"orderId": order_id}))
        return f"{entries.PAGE}{entry['token']}"

    return path


def decide(client, path: str, decision: str):
    answer = client.post(path, data={"decision": decision})
    assert (answer.status_code, answer.headers["Location"]) == (303, path)
    return client.get(path).text


@pytest.mark.parametrize(("product", "final"), [("pending", "Captured"), ("pending-declined", "Declined")])
def test_a_pending_payment_settles_by_the_providers_notification(
    live, place, becomes, database, eventually, product, final
):
    order_id = place(live, productId=product)
    becomes(order_id, final)
    # Where the charge is answered late, it is settled before the notification comes.
    eventually(lambda: database.notifications.find_one({"orderId": order_id, "type": f"payment.{final.lower()}"}))
    assert database.ledger.find_one({"orderId": order_id})["answer"] == final.lower()


@pytest.mark.parametrize(("decision", "final"), [("approve", "Captured"), ("refuse", "Declined")])
def test_the_customer_decides_on_the_page_that_the_payment_names(live, place, becomes, decision, final):
    order_id = place(live, productId="action-required")
    path = becomes(order_id, "ActionRequired")["action"]["url"]
    shown = live.get(path)
    assert "The payment waits for you." in shown.text
    assert "<button" not in decide(live, path, decision)
    becomes(order_id, final)


@pytest.mark.parametrize(("hours", "minutes"), [(24.0, 15), (0.1, 6)], ids=["the provider's time", "the setting"])
def test_the_customer_can_act_until_the_first_end_and_is_told_so(
    settings, place, becomes, eventually, database, hours, minutes
):
    app = create_app(replace(settings, payment_pending_hours=hours))
    runtime(app).prepare()
    runtime(app).start()
    client = app.test_client()
    order_id = place(client, productId="action-required")
    becomes(order_id, "ActionRequired")
    action = eventually(lambda: client.get(f"/orders/one/{order_id}").json["order"].get("nextAction"))
    entry = database.ledger.find_one({"orderId": order_id})
    ends = datetime.fromisoformat(action["expiresAt"])
    assert abs(ends - entry["at"] - timedelta(minutes=minutes)) < timedelta(minutes=2)
    assert (ends == entry["changesAt"]) == (minutes == 15)
    sentence = client.get(f"/orders/one/{order_id}/explain").json["sentence"]
    assert f"the customer must confirm its payment until {action['expiresAt']}" in sentence
    runtime(app).stop()


def types(client, order_id: str) -> list[str]:
    """The types of the entries of an order's timeline."""
    return [event["type"] for event in client.get(f"/orders/one/{order_id}/events").json["events"]]


def test_a_refund_succeeds_and_fails_later(live, place, becomes, eventually, payment, database):
    order_id = place(live, productId="refund-fails-later")
    eventually(lambda: "PaymentCaptured" in types(live, order_id))
    assert live.post(f"/orders/one/{order_id}/refunds", json={"amount": "RM 10"}).status_code == 201
    eventually(lambda: "PaymentRefundFailed" in types(live, order_id))
    assert types(live, order_id)[-3:] == ["RefundRequested", "PaymentRefunded", "PaymentRefundFailed"]
    assert [one["status"] for one in payment(order_id)["refunds"]] == ["failed"]
    becomes(order_id, "Captured")
    entry = database.ledger.find_one({"orderId": order_id})
    assert (entry["refunded"], entry["refunds"], len(entry["failedRefunds"])) == (0, [], 1)


@pytest.mark.parametrize(("decision", "final"), [("approve", "Captured"), ("refuse", "Disputed")])
def test_a_charge_is_disputed_and_the_bank_decides(live, place, becomes, eventually, payment, page, decision, final):
    order_id = place(live, productId="disputed")
    [dispute] = becomes(order_id, "Disputed")["disputes"]
    assert (dispute["value"], dispute["status"]) == (9900, "open")
    assert "Who is right?" in live.get(page(order_id)).text
    decide(live, page(order_id), decision)
    eventually(lambda: payment(order_id)["disputes"][0]["status"] == ("won" if decision == "approve" else "lost"))
    becomes(order_id, final)


def test_the_first_decision_stands(live, place, becomes):
    order_id = place(live, productId="action-required")
    path = becomes(order_id, "ActionRequired")["action"]["url"]
    decide(live, path, "approve")
    assert "The payment is made." in decide(live, path, "refuse")
    becomes(order_id, "Captured")


def test_a_forged_notification_changes_nothing(live, place, becomes, database):
    order_id = place(live)
    before = becomes(order_id, "Captured")
    body = b'{"id": "evt_1", "type": "payment.declined", "reference": "sim_%s:1", "orderId": "%s"}' % (
        order_id.encode(), order_id.encode()
    )  # fmt: skip
    forged = signed_notifications.signature(body, b"guess", before["requestedAt"])
    for headers in ({}, {signed_notifications.HEADER: forged}):
        answer = live.post("/providers/simulated/notifications", data=body, headers=headers)
        assert (answer.status_code, answer.json["code"]) == (400, "notification_rejected")
    assert database.notifications.count_documents({}) == 0


CALL = ProviderCall(
    kind=CallKind.REFUND, key="", charge_key="k:1", order_id="o", product_id="1", value=1, currency="MYR"
)


@pytest.fixture
def ledger(settings):
    database = Database(settings.mongodb_uri, settings.database)
    store = database.collection("ledger", 30.0)
    store.clock = SteadyClock(store.clock)
    made = Ledger(store)
    made.prepare()
    yield made
    database.close()


@pytest.fixture
def due(ledger):
    """An entry that is due to be captured."""
    now = ledger.now()
    entry = {"_id": "k:1", "orderId": "o", "answer": "pending", "value": 1, "currency": "MYR", "refunded": 0}
    more = {"refunds": [], "plan": "capture later", "manual": False, "changesAt": now, "at": now}
    ledger._store.collection.insert_one(entry | more)


class Receiver:
    """Takes notifications, or fails for a while."""

    def __init__(self, ledger: Ledger) -> None:
        self.failures = 0
        self.received: list[NotificationMessage] = []
        self._ledger = ledger

    def __call__(self, body, headers) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")
        self.received.append(signed_notifications.decode(body, headers, self._ledger.secret(), self._ledger.now()))


@pytest.mark.usefixtures("due")
def test_a_change_is_told_once(ledger):
    receiver = Receiver(ledger)
    sender = NotificationSender(ledger, receiver)
    for _ in range(3):
        sender.send_due()
    [told] = receiver.received
    assert (told.type, told.reference, told.order_id) == ("payment.captured", "sim_k:1", "o")
    assert ledger.find("k:1")["notices"] == []


@pytest.mark.usefixtures("due")
def test_an_entry_that_was_removed_does_not_change(ledger):
    entry = ledger.find("k:1")
    ledger._store.collection.delete_one({})
    assert ledger.settled(entry) == entry


@pytest.mark.usefixtures("due")
def test_a_notification_that_is_not_taken_is_sent_again_later_with_the_same_id(ledger):
    receiver = Receiver(ledger)
    receiver.failures = 1
    sender = NotificationSender(ledger, receiver)
    sender.send_due()
    [kept] = ledger.find("k:1")["notices"]
    sender.send_due()
    assert receiver.received == []
    ledger._store.collection.update_one({"_id": "k:1"}, {"$set": {"notices.0.at": ledger.now()}})
    sender.send_due()
    assert [one.event_id for one in receiver.received] == [kept["id"]]
    assert ledger.find("k:1")["notices"] == []


def test_two_refunds_fail_each_in_its_time(ledger):
    entry = {"_id": "k:1", "orderId": "o", "answer": "captured", "value": 9, "currency": "MYR", "refunded": 0}
    ledger._store.collection.insert_one(
        entry | {"refunds": [], "plan": "fail refunds", "manual": False, "at": ledger.now()}
    )
    call = replace(CALL, key="k:1:refund:a", refund_id="a", value=2)
    assert ledger.refund(call, ledger.now())
    assert ledger.refund(replace(call, key="k:1:refund:b", refund_id="b", value=3), ledger.now() + timedelta(hours=1))
    after = ledger.settled(ledger.find("k:1"))
    assert (after["refunded"], [one["refundId"] for one in after["refunds"]]) == (3, ["b"])
    assert [one["refundId"] for one in after["failedRefunds"]] == ["a"]
    assert after["changesAt"] == after["refunds"][0]["failsAt"]
    assert not ledger.refund(call)
