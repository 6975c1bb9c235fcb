"""Notifications of a provider: forged, early, late, twice, out of order, foreign, and what they lead to."""

import json
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta

import pytest

from app.contracts.base import Unavailable
from app.contracts.payments import NotificationRejected, NotificationsReceived, ReceiveNotifications, UnknownProvider
from app.payments.notification_repository import NotificationRepository
from app.payments.notifications import NotificationService
from app.payments.providers.simulated import CAPABILITIES


@pytest.fixture
def repository(settings, store):
    """The collection of notifications."""
    collection = store._database.collection("notifications", 30.0)
    collection.clock = store.clock
    made = NotificationRepository(collection)
    made.prepare()
    return made


@pytest.fixture
def service(provider, repository, payments, worker):
    """Receives and applies; its thread is not started."""
    return NotificationService(provider, repository, payments, worker._results, interval=0.05)


def request(*notifications, provider="simulated", signature="right", body=None):
    raw = json.dumps(notifications).encode() if body is None else body
    return ReceiveNotifications(
        request_id="r", provider=provider, headers=(f"signature: {signature}",), body=b64encode(raw).decode()
    )


def about(order_id="", event_id="evt_1", reference=""):
    return {"event_id": event_id, "type": "payment.changed", "reference": reference, "order_id": order_id}


@pytest.fixture
def captured(worker, lease_payment):
    """A captured payment's order id."""
    leased = lease_payment()
    worker.process(leased)
    return leased.payment.order_id


def test_a_notification_leads_to_a_refresh_and_to_nothing_else(service, captured, stored, worker, take_up, provider):
    before = stored(captured)
    assert service.receive(request(about(captured))) == NotificationsReceived(stored=1, repeated=0)
    assert service.apply_due() == 1
    after = stored(captured)
    assert {name for name in after if before.get(name) != after[name]} <= {
        "refreshesRequested",
        "refreshRequestId",
        "dueAt",
        "version",
        "writeId",
        "keySent",
        "firstSend",
    }
    worker.process(take_up(captured))
    assert provider.calls[-1][0] == "retrieve"
    assert service.apply_due() == 0


def test_a_repeated_notification_is_stored_once_and_applied_once(service, captured, stored, database):
    for expected in ((1, 0), (0, 1), (0, 1)):
        received = service.receive(request(about(captured)))
        assert (received.stored, received.repeated) == expected
    service.apply_due()
    service.receive(request(about(captured)))
    assert service.apply_due() == 0
    assert stored(captured)["refreshesRequested"] == 1
    assert database.notifications.find_one()["outcome"] == "applied"


@pytest.mark.parametrize(
    ("body", "signature"),
    [(b"[]", "wrong"), (b"not json", "right"), (b"\xff\xfe", "right"), (b'[{"x": 1}]', "right"), (b"", "right")],
    ids=["forged", "no json", "not utf-8", "other members", "empty"],
)
def test_what_is_no_notification_is_refused_and_leaves_nothing(service, database, body, signature):
    with pytest.raises(NotificationRejected):
        service.receive(request(body=body, signature=signature))
    assert database.notifications.count_documents({}) == 0


def test_another_provider_is_unknown(service, provider):
    with pytest.raises(UnknownProvider):
        service.receive(request(provider="stripe"))
    provider.capabilities = replace(CAPABILITIES, notifies=False)
    with pytest.raises(UnknownProvider):
        service.receive(request())


def test_a_notification_that_concerns_nothing_is_accepted(service, database):
    assert service.receive(request()) == NotificationsReceived(stored=0, repeated=0)
    assert database.notifications.count_documents({}) == 0


def test_an_early_notification_waits_for_its_payment(service, created, payments, database, stored):
    from app.payments import payment as domain

    event = created()
    service.receive(request(about(event.order_id)))
    service.apply_due()
    [waiting] = database.notifications.find()
    assert (waiting["dueAt"] > waiting["receivedAt"], "outcome" in waiting) == (True, False)
    payments.insert([domain.open_payment(event, CAPABILITIES)], 1)
    database.notifications.update_one({}, {"$set": {"dueAt": waiting["receivedAt"]}})
    service.apply_due()
    assert (stored(event.order_id)["refreshesRequested"], database.notifications.find_one()["outcome"]) == (
        1,
        "applied",
    )


def test_a_notification_finds_its_payment_by_the_providers_id(service, created, payments, worker, provider, stored):
    from app.payments import payment as domain

    provider.capabilities = replace(CAPABILITIES, opens=True)
    [leased] = payments.insert([domain.open_payment(created(), provider.capabilities)], 1)
    worker.process(leased)
    reference = stored(leased.payment.order_id)["reference"]
    service.receive(request(about(reference=reference)))
    service.apply_due()
    assert stored(leased.payment.order_id)["refreshesRequested"] == 1


def test_a_notification_without_a_payment_is_given_up_after_a_day(service, database):
    service.receive(request(about("692000000000000000000000")))
    day_ago = service._notifications.now() - timedelta(days=1, seconds=1)
    database.notifications.update_one({}, {"$set": {"receivedAt": day_ago}})
    service.apply_due()
    [given_up] = database.notifications.find()
    assert (given_up["outcome"], "dueAt" in given_up) == ("unmatched", False)


def test_one_notification_that_cannot_be_applied_does_not_stop_the_others(service, captured, database, stored):
    service.receive(
        request(
            about(
                captured,
                "evt_1",
            ),
            about(captured, "evt_2"),
        )
    )
    database.command("collMod", "notifications", validator={})
    database.notifications.update_one({"_id": "evt_1"}, {"$set": {"orderId": 7}})
    service.apply_due()
    assert stored(captured)["refreshesRequested"] == 1
    assert database.notifications.find_one("evt_2")["outcome"] == "applied"


def test_without_a_database_nothing_is_acknowledged(service, provider, captured, monkeypatch):
    def gone(*_):
        raise Unavailable("the database does not answer at the moment")

    monkeypatch.setattr(service._notifications._store, "with_deadline", gone)
    with pytest.raises(Unavailable):
        service.receive(request(about(captured)))


def test_a_key_that_cannot_be_read_now_is_no_reason_to_refuse(service, provider, captured, monkeypatch):
    def gone(*_):
        raise Unavailable("the database does not answer at the moment")

    monkeypatch.setattr(provider, "notifications", gone)
    with pytest.raises(Unavailable):
        service.receive(request(about(captured)))


def test_the_thread_applies_what_comes_and_what_a_dead_process_has_left(service, captured, stored, eventually):
    service.receive(request(about(captured, "left")))
    service.start()
    eventually(lambda: stored(captured).get("refreshesRequested") == 1)
    service.receive(request(about(captured, "new")))
    eventually(lambda: stored(captured).get("refreshesRequested") == 2)
    service.stop(10.0)


def test_a_notification_and_the_worker_never_decide_both(service, worker, lease_payment, provider, stored):
    """A notification that comes during the charge changes neither the lease nor the outcome."""
    leased = lease_payment()
    order_id = leased.payment.order_id

    def notify(verb, call):
        service.receive(request(about(order_id)))
        service.apply_due()
        assert stored(order_id)["dueAt"] == leased.lease_end

    provider.on_call = notify
    worker.process(leased)
    doc = stored(order_id)
    assert (doc["status"], [entry["type"] for entry in doc["outbox"]]) == ("Captured", ["PaymentCaptured"])
