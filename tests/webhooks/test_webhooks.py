"""The module from an order's change to its receiver: recorded, signed, sent, tried again, held, replayed."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from app.contracts.base import Money, Unavailable
from app.contracts.orders import OrderItem
from app.contracts.webhooks import (
    ChangeEndpoint,
    DeleteEndpoint,
    DeliveryNotFound,
    EndpointNotFound,
    FindDelivery,
    FindEndpoint,
    InvalidEndpointMember,
    ListDeliveries,
    ListEndpoints,
    ListSubscribers,
    ReplayDeliveries,
    RetryDelivery,
    RotateSecret,
    SendTestEvent,
    TooManyEndpoints,
)
from app.webhooks.delivery import RETRY_SECONDS
from app.webhooks.endpoint import ENDPOINTS_PER_USER
from app.webhooks.endpoint_repository import EndpointRepository
from app.webhooks.http_client import NO_PUBLIC_ADDRESS
from tests.stopped_clock import StoppedClock
from tests.webhooks.conftest import a_change, an_order
from tests.webhooks.receiver import Receiver, running

ME = {"request_id": "", "on_behalf_of": "shop"}


def failing(status: int, times: int = 10**9, headers: dict[str, str] | None = None):
    """Answers with a failure so many times, then takes what comes."""
    return lambda _request, count: (status, headers or {}, b"no") if count < times else (200, {}, b"")


def due_now(deliveries) -> None:
    """Let the time until the next attempts pass."""
    deliveries.update_many(
        {"dueAt": {"$exists": True}, "claim": {"$exists": False}},
        {"$set": {"dueAt": datetime.now(UTC) - timedelta(hours=1)}},
    )


def listed(process, endpoint_id: str, **filters):
    defaults = {"limit": 100, "status": "", "order_id": "", "since": 0, "until": 0, "before_at": "", "before_id": ""}
    return process.bus.request(ListDeliveries(endpoint_id=endpoint_id, **{**defaults, **filters}, **ME))


def test_a_change_of_an_order_is_told_as_it_was(process, receiver):
    endpoint = process.add_endpoint(receiver.url)
    event = a_change(refunded_value=0)
    process.tell(event)
    [request] = receiver.wait_for(1)
    body = Webhook(endpoint.secret).verify(request.body, request.headers)
    assert request.headers["webhook-id"] == body["id"] == event.event_id
    assert body["type"] == "order.succeeded"
    assert body["timestamp"].endswith("Z")
    assert {**body["data"], "order": None} == {"order": None, "sequence": 2, "previousStatus": "Processing"}
    order = body["data"]["order"]
    assert (order["id"], order["version"], order["orderStatus"]) == (event.order_id, 2, "Success")
    assert order["captured"] == order["refundable"] == {"value": 9900, "currency": "MYR"}
    assert order["productName"] == "Café set"
    assert "nextAction" not in order


def test_the_body_has_the_items_and_the_metadata_of_the_order(process, receiver):
    item = OrderItem(product_id="1", product_name="Beans", quantity=3, unit_amount=Money(3300, "MYR"))

    def described(order, request):
        assert request.with_items
        return msgspec.structs.replace(order, items=(item,), metadata={"cart": "A-1207"})

    process.change_order = described
    process.add_endpoint(receiver.url)
    process.tell(a_change(has_metadata=True))
    order = json.loads(receiver.wait_for(1)[0].body)["data"]["order"]
    unit = {"value": 3300, "currency": "MYR"}
    assert order["items"] == [{"productId": "1", "productName": "Beans", "quantity": 3, "unitAmount": unit}]
    assert order["metadata"] == {"cart": "A-1207"}


def test_an_order_that_comes_with_its_change_is_not_asked_for(process, receiver):
    process.add_endpoint(receiver.url)
    asked = []
    process.change_order = lambda order, request: asked.append(request.order_ids) or order
    told, other = (a_change() for _ in range(2))
    came = msgspec.structs.replace(an_order(told.order_id), product_name="Beans", version=2)
    process.tell(msgspec.structs.replace(told, order=came), other)
    orders = [json.loads(request.body)["data"]["order"] for request in receiver.wait_for(2)]
    assert asked == [(other.order_id,)]
    assert {order["id"]: order["productName"] for order in orders} == {
        told.order_id: "Beans",
        other.order_id: "Café set",
    }


def test_the_attempt_is_on_record(process, receiver, eventually):
    endpoint = process.add_endpoint(receiver.url)
    process.tell(a_change())
    [found] = eventually(lambda: listed(process, endpoint.id, status="succeeded").deliveries)
    whole = process.bus.request(FindDelivery(delivery_id=found.id, **ME))
    assert (whole.tries, whole.next_attempt_at, [attempt.status for attempt in whole.attempts]) == (1, "", [204])
    assert json.loads(whole.body)["id"] == whole.webhook_id == found.webhook_id


def test_only_what_an_endpoint_wants_is_recorded(process, receiver, deliveries):
    process.add_endpoint(receiver.url, events=("order.refunded",))
    process.add_endpoint(receiver.url, user_id="another")
    process.tell(a_change())
    assert deliveries.count_documents({}) == 0
    process.tell(a_change(change="PaymentRefunded"))
    assert [json.loads(one.body)["type"] for one in receiver.wait_for(1)] == ["order.refunded"]
    assert deliveries.count_documents({}) == 1


def test_an_event_that_comes_twice_is_delivered_once(process, receiver, deliveries, eventually):
    process.add_endpoint(receiver.url)
    event = a_change()
    process.tell(event)
    process.tell(event)
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 1)
    assert deliveries.count_documents({}) == len(receiver.requests) == 1


def test_without_orders_nothing_is_lost(process, receiver, deliveries):
    process.add_endpoint(receiver.url)
    process._find_orders = None
    process.bus._requests.signal("FindOrders").receivers.clear()
    with pytest.raises(Unavailable):
        process.tell(a_change())
    assert deliveries.count_documents({}) == 0


def test_a_failure_is_tried_again_with_the_same_id_and_body(still_process, deliveries, eventually):
    with running(Receiver(answer=failing(500, 2))) as receiver:
        still_process.add_endpoint(receiver.url)
        still_process.tell(a_change())
        for tries in (1, 2):
            eventually(lambda tries=tries: deliveries.count_documents({"tries": tries, "claim": {"$exists": False}}))
            due_now(deliveries)
        requests = receiver.wait_for(3)
    assert len({request.body for request in requests}) == 1
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    [doc] = eventually(lambda: [*deliveries.find({"status": "succeeded"})])
    assert [attempt.get("status") for attempt in doc["attempts"]] == [500, 500, 200]
    assert [attempt.get("response") for attempt in doc["attempts"]] == ["no", "no", None]


def test_the_pauses_grow_and_after_the_last_attempt_it_has_failed(still_process, deliveries, eventually):
    pauses = []
    with running(Receiver(answer=failing(400))) as receiver:
        still_process.add_endpoint(receiver.url)
        still_process.tell(a_change())
        for tries in range(1, 10):
            doc = eventually(lambda tries=tries: deliveries.find_one({"tries": tries, "claim": {"$exists": False}}))
            pauses.append((doc["dueAt"] - doc["attempts"][-1]["at"]).total_seconds())
            due_now(deliveries)
        doc = eventually(lambda: deliveries.find_one({"status": "failed"}))
    assert doc["tries"] == 10
    assert "dueAt" not in doc
    # Each pause is its place in the schedule, give or take a fifth.
    assert all(0.79 * usual <= pause <= 1.21 * usual for pause, usual in zip(pauses, RETRY_SECONDS, strict=True))


def test_a_receiver_may_ask_for_a_longer_pause(process, deliveries, eventually):
    with running(Receiver(answer=failing(429, headers={"Retry-After": "3000"}))) as receiver:
        process.add_endpoint(receiver.url)
        process.tell(a_change())
        doc = eventually(lambda: deliveries.find_one({"tries": 1, "claim": {"$exists": False}}))
    assert (doc["dueAt"] - doc["attempts"][0]["at"]).total_seconds() >= 2999


def test_a_dead_endpoint_delays_no_other(process, receiver, deliveries, eventually):
    silence = threading.Event()
    # The attempt lasts until all others are made, however slow the machine is.
    process.module._client._seconds = 60.0
    with running(Receiver(answer=lambda *_: silence.wait(60) and (200, {}, b""))) as dead:
        process.add_endpoint(dead.url)
        process.add_endpoint(receiver.url)
        process.tell(*(a_change() for _ in range(100)))
        receiver.wait_for(100)
        assert len(dead.requests) <= 1
        silence.set()
        eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 200)


def test_an_endpoint_that_is_gone_is_disabled_in_view(process, deliveries, eventually):
    with running(Receiver(answer=failing(410))) as receiver:
        endpoint = process.add_endpoint(receiver.url)
        process.tell(a_change())
        view = eventually(lambda: (one := find(process, endpoint)).disabled_reason and one)
        assert (view.enabled, view.disabled_reason) == (False, "its receiver answered 410 Gone")
        # It is stored a moment before the process knows it itself.
        eventually(lambda: not process.module._cache.get(endpoint.id).enabled)
        process.tell(a_change())
        eventually(lambda: deliveries.count_documents({"status": "held"}) == 2)
        assert len(receiver.requests) == 1


def test_an_endpoint_that_only_failed_for_five_days_is_disabled(process, database, deliveries, eventually):
    with running(Receiver(answer=failing(503))) as receiver:
        endpoint = process.add_endpoint(receiver.url)
        process.tell(a_change())
        assert eventually(lambda: find(process, endpoint).failing_since)
        age(database, endpoint, timedelta(days=5))
        process.tell(a_change())
        eventually(lambda: not find(process, endpoint).enabled)
        eventually(lambda: deliveries.count_documents({"status": "held"}) == 2)


def test_one_success_ends_the_days_of_failure(process, database, deliveries, eventually):
    with running(Receiver(answer=failing(503, 1))) as receiver:
        endpoint = process.add_endpoint(receiver.url)
        process.tell(a_change())
        eventually(lambda: find(process, endpoint).failing_since)
        age(database, endpoint, timedelta(days=6))
        process.tell(a_change())
        eventually(lambda: deliveries.count_documents({"status": "succeeded"}))
        eventually(lambda: not find(process, endpoint).failing_since)
        assert find(process, endpoint).enabled


def test_a_success_ends_the_days_of_failure_also_while_the_failure_is_recorded(
    still_process, deliveries, eventually, monkeypatch
):
    stored, counted = threading.Event(), threading.Event()
    change_endpoint = EndpointRepository.change

    def slow(self, *arguments):
        changed = change_endpoint(self, *arguments)
        stored.set()
        assert counted.wait(60)
        return changed

    with running(Receiver(answer=failing(503, 1))) as receiver:
        endpoint = still_process.add_endpoint(receiver.url)
        monkeypatch.setattr(EndpointRepository, "change", slow)
        still_process.tell(a_change())
        assert stored.wait(60)
        still_process.tell(a_change())
        eventually(lambda: deliveries.count_documents({"status": "succeeded"}))
        assert find(still_process, endpoint).failing_since
        counted.set()
        eventually(lambda: not find(still_process, endpoint).failing_since)


def test_what_was_held_is_sent_when_the_endpoint_is_enabled(process, receiver, deliveries, eventually):
    endpoint = process.add_endpoint(receiver.url)
    change(process, endpoint, enabled=False)
    process.tell(a_change(), a_change())
    assert deliveries.count_documents({"status": "held"}) == 2
    assert find(process, endpoint).disabled_reason == "disabled by its user"
    change(process, endpoint, enabled=True)
    receiver.wait_for(2)
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 2)


def test_a_range_is_replayed_without_what_was_taken(still_process, deliveries, eventually):
    with running(Receiver(answer=lambda _request, count: (400 if count in (1, 3) else 200, {}, b""))) as receiver:
        endpoint = still_process.add_endpoint(receiver.url)
        for count in range(1, 6):
            still_process.tell(a_change())
            receiver.wait_for(count)
        eventually(lambda: deliveries.count_documents({"claim": {"$exists": False}}) == 5)
        deliveries.update_many({"status": "pending"}, {"$set": {"status": "failed"}, "$unset": {"dueAt": ""}})
        missing = {doc["eventId"] for doc in deliveries.find({"status": "failed"})}
        replayed = replay(still_process, endpoint)
        assert replayed.count == len(missing) == 2
        assert {one.headers["webhook-id"] for one in receiver.wait_for(7)[5:]} == missing
        eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 5)
    assert replay(still_process, endpoint).count == 0


def test_a_delivery_is_sent_again_on_request(process, receiver, deliveries, eventually):
    process.add_endpoint(receiver.url)
    process.tell(a_change())
    doc = eventually(lambda: deliveries.find_one({"status": "succeeded"}))
    process.bus.request(RetryDelivery(delivery_id=doc["_id"], **ME))
    first, second = receiver.wait_for(2)
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


def test_a_test_event_goes_to_its_endpoint_whatever_it_wants(process, receiver):
    endpoint = process.add_endpoint(receiver.url, events=("order.refunded",))
    process.bus.request(SendTestEvent(endpoint_id=endpoint.id, event_id=uuid4().hex, **ME))
    [request] = receiver.wait_for(1)
    assert Webhook(endpoint.secret).verify(request.body, request.headers)["type"] == "endpoint.test"


def test_both_secrets_sign_while_one_is_replaced(process, receiver):
    endpoint = process.add_endpoint(receiver.url)
    rotated = process.bus.request(RotateSecret(endpoint_id=endpoint.id, overlap_seconds=3600, **ME))
    assert rotated.secret != endpoint.secret
    assert rotated.former_secret_until
    process.tell(a_change())
    [request] = receiver.wait_for(1)
    for secret in (endpoint.secret, rotated.secret):
        Webhook(secret).verify(request.body, request.headers)


def test_the_secret_is_shown_once(process, receiver):
    endpoint = process.add_endpoint(receiver.url)
    assert endpoint.secret.startswith("whsec_")
    assert endpoint.secret not in repr(endpoint)
    assert find(process, endpoint).secret == ""
    assert change(process, endpoint, description="mine").secret == ""
    asymmetric = process.add_endpoint(receiver.url, signature="v1a")
    assert asymmetric.secret == ""
    assert asymmetric.public_key.startswith("whpk_")


def test_a_deleted_endpoint_receives_nothing_more(process, receiver, deliveries):
    endpoint = process.add_endpoint(receiver.url)
    change(process, endpoint, enabled=False)
    process.tell(a_change())
    process.bus.request(DeleteEndpoint(endpoint_id=endpoint.id, **ME))
    process.tell(a_change())
    assert deliveries.count_documents({}) == 0
    with pytest.raises(EndpointNotFound):
        find(process, endpoint)


def test_another_users_endpoints_are_absent(process, receiver, eventually):
    endpoint = process.add_endpoint(receiver.url)
    process.tell(a_change())
    [delivery] = eventually(lambda: listed(process, endpoint.id, status="succeeded").deliveries)
    other = {"request_id": "", "on_behalf_of": "another"}
    with pytest.raises(EndpointNotFound):
        process.bus.request(FindEndpoint(endpoint_id=endpoint.id, **other))
    with pytest.raises(DeliveryNotFound):
        process.bus.request(FindDelivery(delivery_id=delivery.id, **other))
    with pytest.raises(DeliveryNotFound):
        process.bus.request(RetryDelivery(delivery_id=delivery.id, **other))
    first = {"limit": 100, "told_of": "", "after_at": "", "after_id": ""}
    for told_of in ("", ME["on_behalf_of"]):
        assert process.bus.request(ListEndpoints(**other, **{**first, "told_of": told_of})).endpoints == ()
    assert len(process.bus.request(ListEndpoints(request_id="", on_behalf_of="", **first)).endpoints) == 1


def test_deliveries_are_listed_in_pages_the_newest_first(process, receiver, deliveries, eventually):
    endpoint = process.add_endpoint(receiver.url)
    events = [a_change() for _ in range(5)]
    for event in events:
        process.tell(event)
    eventually(lambda: len(listed(process, endpoint.id, status="succeeded").deliveries) == 5)
    # Where a heartbeat is late, the database's clock is set back by a little.
    now = datetime.now(UTC)
    for number, event in enumerate(events):
        deliveries.update_one({"eventId": event.event_id}, {"$set": {"createdAt": now + timedelta(seconds=number)}})
    first = listed(process, endpoint.id, limit=3)
    rest = listed(process, endpoint.id, limit=3, before_at=first.deliveries[-1].created_at, before_id=first.last_id)
    assert [one.webhook_id for one in (*first.deliveries, *rest.deliveries)] == [
        one.event_id for one in reversed(events)
    ]
    assert rest.last_id == ""
    [one] = listed(process, endpoint.id, order_id=events[2].order_id).deliveries
    assert one.webhook_id == events[2].event_id
    assert listed(process, endpoint.id, until=events[0].at - 60_000).deliveries == ()


def test_what_a_user_asks_for_is_checked(process, receiver):
    with pytest.raises(InvalidEndpointMember) as refused:
        process.add_endpoint("ftp://shop.example/")
    assert refused.value.members == {"member": "url"}
    with pytest.raises(InvalidEndpointMember) as refused:
        process.add_endpoint(receiver.url, events=("order.paid",))
    assert refused.value.members == {"member": "events"}
    endpoint = process.add_endpoint(receiver.url)
    with pytest.raises(InvalidEndpointMember):
        change(process, endpoint, url="file:///etc/passwd")
    for _ in range(ENDPOINTS_PER_USER - 1):
        process.add_endpoint(receiver.url)
    with pytest.raises(TooManyEndpoints):
        process.add_endpoint(receiver.url)


def test_this_machine_is_refused_unless_it_is_allowed(make_process, receiver, deliveries, eventually):
    process = make_process(allow_unsafe="").start()
    with pytest.raises(InvalidEndpointMember):
        process.add_endpoint(receiver.url)
    process.add_endpoint("https://localhost/hooks")
    process.tell(a_change())
    doc = eventually(lambda: deliveries.find_one({"tries": 1}))
    assert doc["attempts"][0]["error"] == NO_PUBLIC_ADDRESS


def test_an_endpoint_of_another_process_is_known_a_moment_later(make_process, receiver, eventually):
    here, there = make_process().start(), make_process().start()
    endpoint = there.add_endpoint(receiver.url)
    eventually(lambda: here.bus.request(ListSubscribers(request_id="")).user_ids == ("shop",))
    here.tell(a_change())
    receiver.wait_for(1)
    there.bus.request(DeleteEndpoint(endpoint_id=endpoint.id, **ME))
    eventually(lambda: here.bus.request(ListSubscribers(request_id="")).user_ids == ())


def test_a_process_that_does_not_know_an_endpoint_yet_sends_what_it_claims_for_it(
    make_process, receiver, deliveries, eventually
):
    here, there = make_process(), make_process()
    assert here.bus.request(ListSubscribers(request_id="")).user_ids == ()
    there.add_endpoint(receiver.url)
    there.module.sender.accepted = lambda _: []
    there.tell(a_change())

    def swept():
        # By its own reading of the time, the delivery may be due a moment later.
        here.module.sender.sweep()
        return receiver.requests

    eventually(swept)
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 1)


def test_what_is_held_after_another_process_has_enabled_its_endpoint_is_sent(make_process, receiver, deliveries):
    # What it knows of endpoints stays as fresh as it is.
    here, there = make_process(StoppedClock()), make_process()
    endpoint = here.add_endpoint(receiver.url)
    change(here, endpoint, enabled=False)
    here.bus.request(ListSubscribers(request_id=""))
    change(there, endpoint, enabled=True)
    here.tell(a_change())
    assert deliveries.count_documents({"status": "held"}) == 1
    there.start()
    receiver.wait_for(1)


def test_what_is_recorded_after_another_process_has_deleted_its_endpoint_is_deleted(
    make_process, receiver, deliveries, eventually
):
    here, there = make_process(StoppedClock()), make_process()
    endpoints = [here.add_endpoint(receiver.url) for _ in range(2)]
    change(here, endpoints[0], enabled=False)
    here.bus.request(ListSubscribers(request_id=""))
    for endpoint in endpoints:
        there.bus.request(DeleteEndpoint(endpoint_id=endpoint.id, **ME))
    here.module.sender.accepted = lambda _: []
    here.tell(a_change())
    assert {doc["status"] for doc in deliveries.find()} == {"held", "pending"}
    there.start()
    eventually(lambda: deliveries.count_documents({}) == 0)
    assert receiver.requests == []


def test_an_endpoint_counts_as_failing_from_its_first_failure_whoever_sees_it(make_process, database, eventually):
    with running(Receiver(answer=failing(503))) as receiver:
        # Neither learns from the database what the other has seen.
        here, there = make_process(StoppedClock()), make_process(StoppedClock())
        endpoint = here.add_endpoint(receiver.url)
        for process in (here, there):
            process.bus.request(ListSubscribers(request_id=""))
        here.tell(a_change())
        first = eventually(lambda: find(here, endpoint).failing_since)
        there.tell(a_change())
        receiver.wait_for(2)
        there.module.stop(10)
        assert find(here, endpoint).failing_since == first


def test_what_a_dead_process_has_claimed_is_sent_by_another(make_process, receiver, deliveries, eventually):
    dead = make_process()
    dead.add_endpoint(receiver.url)
    dead.module.sender._stopping.set()  # It records, and dies before it attempts.
    dead.module.sender.accepted = list
    dead.tell(a_change())
    doc = deliveries.find_one({"claim": {"$exists": True}})
    assert doc["status"] == "pending"
    deliveries.update_one({"_id": doc["_id"]}, {"$set": {"dueAt": datetime.now(UTC)}})
    make_process().start()
    receiver.wait_for(1)
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 1)


def test_a_result_that_comes_after_another_process_has_taken_over_changes_nothing(make_process, receiver, deliveries):
    slow = make_process()
    slow.add_endpoint(receiver.url)
    taken_over = threading.Event()
    post = slow.module.sender._post

    def late(*request):
        result = post(*request)
        deliveries.update_many({}, {"$set": {"claim": "another"}})
        taken_over.set()
        return result

    slow.module.sender._post = late
    slow.tell(a_change())
    assert taken_over.wait(60)
    slow.module.stop(10)
    [doc] = deliveries.find()
    assert (doc["status"], doc["tries"], doc.get("attempts")) == ("pending", 0, None)


def test_an_attempt_does_not_wait_for_the_record_of_the_one_before(process, receiver, deliveries, eventually):
    process.add_endpoint(receiver.url)
    repository, goes_on = process.module.sender._deliveries, threading.Event()
    record = repository.record
    repository.record = lambda patches: goes_on.wait(20) and record(patches)
    process.tell(*(a_change() for _ in range(30)))
    receiver.wait_for(30)
    assert deliveries.count_documents({"status": "pending"}) == 30
    goes_on.set()
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 30)
    assert {doc["tries"] for doc in deliveries.find()} == {1}


def test_a_process_stops_once_its_results_are_recorded(make_process, receiver, deliveries):
    # No result waits for too long, and no stop.
    process = make_process(StoppedClock())
    process.add_endpoint(receiver.url)
    repository = process.module.sender._deliveries
    record = repository.record
    repository.record = lambda patches: time.sleep(0.2) or record(patches)
    process.tell(*(a_change() for _ in range(5)))
    receiver.wait_for(5)
    process.module.stop(10)
    assert deliveries.count_documents({"status": "succeeded"}) == 5


def test_what_is_not_recorded_is_sent_again_under_the_same_id(make_process, receiver, deliveries, eventually):
    process = make_process()
    process.add_endpoint(receiver.url)
    failed = threading.Event()

    def fail(_patches) -> None:
        failed.set()
        raise Unavailable("away")

    process.module.sender._deliveries.record = fail
    process.tell(a_change())
    assert failed.wait(60)
    process.module.stop(10)
    assert deliveries.find_one()["status"] == "pending"
    deliveries.update_one({}, {"$set": {"dueAt": datetime.now(UTC)}})
    make_process().start()
    eventually(lambda: deliveries.find_one()["status"] == "succeeded")
    first, second = receiver.wait_for(2)
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)


def test_a_stopped_process_leaves_the_rest_to_others(make_process, receiver, deliveries, eventually):
    stopping = make_process()
    stopping.add_endpoint(receiver.url)
    silence = threading.Event()
    receiver.answer = lambda *_: silence.wait(60) and (200, {}, b"")
    stopping.tell(*(a_change() for _ in range(5)))
    receiver.wait_for(1)
    sender = stopping.module.sender
    threading.Thread(target=lambda: eventually(sender._stopping.is_set) and silence.set()).start()
    stopping.module.stop(60)
    assert deliveries.count_documents({"status": "succeeded"}) == 1
    make_process().start()
    eventually(lambda: deliveries.count_documents({"status": "succeeded"}) == 5)
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(set(ids)) == 5


def find(process, endpoint):
    return process.bus.request(FindEndpoint(endpoint_id=endpoint.id, **ME))


def change(process, endpoint, **members):
    return process.bus.request(ChangeEndpoint(endpoint_id=endpoint.id, members=tuple(members), **members, **ME))


def replay(process, endpoint):
    now = datetime.now(UTC)
    bounds = {"since": now - timedelta(hours=1), "until": now + timedelta(hours=1)}
    milliseconds = {name: int(at.timestamp() * 1000) for name, at in bounds.items()}
    return process.bus.request(ReplayDeliveries(endpoint_id=endpoint.id, **milliseconds, **ME))


def age(database, endpoint, by: timedelta) -> None:
    """Let an endpoint have failed for longer, in every process."""
    now = datetime.now(UTC)
    database["webhook_endpoints"].update_one(
        {"_id": endpoint.id}, {"$set": {"failingSince": now - by, "changedAt": now}, "$inc": {"version": 1}}
    )
