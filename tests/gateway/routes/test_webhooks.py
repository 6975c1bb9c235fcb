"""Webhooks over HTTP: endpoints, their secrets, their keys, deliveries, and who may see them."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain

import jwt
import pytest
from standardwebhooks.webhooks import Webhook

from app.contracts.webhooks import EVENT_TYPES
from app.main import create_app, runtime
from tests.webhooks.receiver import Receiver, running

pytestmark = pytest.mark.extended

URL = "https://shop.example/webhooks"
ABSENT = "we_692000000000000000000000"
IDENTITY = {
    "auth_jwt_algorithm": "HS256",
    "auth_jwt_key": "k" * 32,
    "auth_jwt_issuer": "i",
    "auth_jwt_audience": "a",
    "auth_failure_limit": "",
}
SECRET = {
    "value": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "createdAt": datetime(2026, 11, 26, tzinfo=UTC),
}
CARD = "4242 4242 4242 4242"


@pytest.fixture
def make_app(settings):
    """Make applications on the test's own database, whose background work is not started."""
    made = []

    def make(**changes):
        made.append(create_app(replace(settings, **changes)))
        runtime(made[-1]).prepare()
        return made[-1]

    yield make
    for app in made:
        runtime(app).stop()


@pytest.fixture
def endpoints(database):
    """The endpoints as they are stored."""
    return database.webhook_endpoints


@pytest.fixture
def deliveries(database):
    """The deliveries as they are stored."""
    return database.webhook_deliveries


@pytest.fixture
def receiver():
    with running(Receiver()) as made:
        yield made


def add(client, **members):
    """Add an endpoint; returns it with its secret."""
    answer = client.post("/webhooks/endpoints", json={"url": URL, **members})
    assert answer.status_code == 201, answer.text
    return answer.json["endpoint"]


def keep(deliveries, endpoint_id, number, **members):
    """Store a delivery that was recorded `number` minutes after an hour; returns its id."""
    at = datetime(2026, 11, 26, 9, number, tzinfo=UTC)
    delivery_id = f"event-{number:02d}.{endpoint_id}"
    known = {"endpointId": endpoint_id, "eventId": f"event-{number:02d}", "type": "order.updated", "body": "{}"}
    deliveries.insert_one({"_id": delivery_id, **known, "status": "succeeded", "createdAt": at, "tries": 1, **members})
    return delivery_id


def listed(client, endpoint_id, **query):
    answer = client.get(f"/webhooks/endpoints/{endpoint_id}/deliveries", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json


# --- endpoints ---


def test_an_endpoint_is_added_and_its_secret_is_shown_once(client):
    answer = client.post("/webhooks/endpoints", json={"url": URL, "userId": "user-7", "description": "The warehouse"})
    added = answer.json["endpoint"]
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/webhooks/endpoints/{added['id']}")
    assert added["secret"].startswith("whsec_")
    assert {**added, "id": "", "secret": "", "createdAt": ""} == {
        "id": "",
        "secret": "",
        "createdAt": "",
        "userId": "user-7",
        "url": URL,
        "description": "The warehouse",
        "events": ["*"],
        "enabled": True,
        "signature": "v1",
        "version": 1,
    }
    shown = {name: value for name, value in added.items() if name != "secret"}
    assert client.get(answer.headers["Location"]).json == {"ok": True, "endpoint": shown}
    assert client.get("/webhooks/endpoints").json == {"ok": True, "endpoints": [shown], "hasMore": False}
    changed = client.patch(answer.headers["Location"], json={"description": ""})
    assert changed.json["endpoint"] == {**shown, "description": "", "version": 2}
    for other in (changed, client.delete(answer.headers["Location"])):
        assert "secret" not in other.json["endpoint"]


def test_an_endpoint_with_a_key_pair_shows_its_public_key_alone(client):
    added = add(client, signature="v1a")
    assert added["publicKey"].startswith("whpk_")
    assert "secret" not in added
    assert client.get(f"/webhooks/endpoints/{added['id']}").json["endpoint"]["publicKey"] == added["publicKey"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"url": 7}, "/url"),
        ({"url": ""}, "/url"),
        ({"url": None}, "/url"),
        ({"url": f"https://shop.example/{'x' * 2048}"}, "/url"),
        ({"description": 7}, "/description"),
        ({"description": "x" * 201}, "/description"),
        ({"description": "a\x00b"}, "/description"),
        ({"description": "a\u202eb"}, "/description"),
        ({"description": " "}, "/description"),
        ({"events": "order.*"}, "/events"),
        ({"events": []}, "/events"),
        ({"events": [7]}, "/events/0"),
        ({"events": ["x" * 65]}, "/events/0"),
        ({"events": ["order.*"] * 33}, "/events"),
        ({"signature": "v2"}, "/signature"),
        ({"signature": 1}, "/signature"),
        ({"userId": ""}, "/userId"),
        ({"userId": "x" * 129}, "/userId"),
        ({"secret": "whsec_b25l"}, "/secret"),
        ({"enabled": False}, "/enabled"),
        ({"id": ABSENT}, "/id"),
    ],
    ids=str,
)
def test_a_member_that_an_endpoint_cannot_have_is_refused_with_its_name(client, pointers, endpoints, changes, pointer):
    assert pointers(client.post("/webhooks/endpoints", json={"url": URL, **changes})) == [pointer]
    assert endpoints.count_documents({}) == 0


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({"url": "http://shop.example/"}, "url"),
        ({"url": "https://user:password@shop.example/"}, "url"),
        ({"url": "https://shop.example:8443/"}, "url"),
        ({"url": "https://shop.example/#x"}, "url"),
        ({"url": "https://2130706433/"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"events": ["order.paid"]}, "events"),
        ({"events": ["ord*"]}, "events"),
    ],
    ids=str,
)
def test_what_an_endpoint_may_not_be_is_refused_when_added_and_when_changed(client, refused, changes, member):
    body = refused(client.post("/webhooks/endpoints", json={"url": URL, **changes}), 422, "invalid_endpoint")
    assert body["member"] == member
    address = f"/webhooks/endpoints/{add(client)['id']}"
    assert refused(client.patch(address, json=changes), 422, "invalid_endpoint")["member"] == member
    assert client.get(address).json["endpoint"]["version"] == 1


@pytest.mark.parametrize(
    "changes",
    [{"enabled": "yes"}, {"enabled": 0}, {"enabled": 1}, {"enabled": None}, {"userId": "x"}, {"signature": "v1a"}],
    ids=str,
)
def test_a_change_of_what_cannot_be_changed_is_refused(client, pointers, changes):
    address = f"/webhooks/endpoints/{add(client)['id']}"
    assert pointers(client.patch(address, json=changes)) == [f"/{next(iter(changes))}"]


@pytest.mark.parametrize(
    "members", [{"description": CARD}, {"url": CARD}, {"events": [CARD]}, {"userId": CARD}, {CARD: 1}], ids=str
)
def test_a_card_number_is_refused_and_not_repeated(client, refused, endpoints, members):
    answer = client.post("/webhooks/endpoints", json={"url": URL, **members})
    refused(answer, 422, "card_number_refused")
    assert "4242" not in answer.text
    address = f"/webhooks/endpoints/{add(client)['id']}"
    refused(client.patch(address, json=members), 422, "card_number_refused")
    assert "4242" not in str(endpoints.find_one())


def test_a_user_has_16_endpoints_at_the_most(client, refused):
    for _ in range(16):
        add(client, userId="user-7")
    refused(client.post("/webhooks/endpoints", json={"url": URL, "userId": "user-7"}), 409, "too_many_endpoints")
    add(client, userId="user-8")


def test_an_endpoint_is_disabled_and_enabled(client):
    address = f"/webhooks/endpoints/{add(client)['id']}"
    disabled = client.patch(address, json={"enabled": False}).json["endpoint"]
    assert (disabled["enabled"], disabled["disabledReason"]) == (False, "disabled by its user")
    enabled = client.patch(address, json={"enabled": True, "events": ["order.*", "order.*"]}).json["endpoint"]
    assert (enabled["enabled"], enabled["events"]) == (True, ["order.*"])
    assert "disabledReason" not in enabled


def test_a_deleted_endpoint_is_absent_and_so_is_what_it_had_not_taken(client, refused, deliveries):
    endpoint_id = add(client)["id"]
    waiting = keep(deliveries, endpoint_id, 1, status="pending")
    address = f"/webhooks/endpoints/{endpoint_id}"
    assert client.delete(address).status_code == 200
    for answer in (client.get(address), client.delete(address), client.patch(address, json={"enabled": True})):
        refused(answer, 404, "endpoint_not_found")
    assert client.get("/webhooks/endpoints").json["endpoints"] == []
    refused(client.get(f"/webhooks/deliveries/{waiting}"), 404, "delivery_not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {}),
        ("DELETE", "", None),
        ("POST", "/rotate-secret", {}),
        ("POST", "/test", None),
        ("POST", "/replay", {"since": "2026-11-22T15:00:00Z", "until": "2026-11-22T16:00:00Z"}),
        ("GET", "/deliveries", None),
    ],
)
def test_an_endpoint_that_does_not_exist_is_not_found(client, refused, method, path, body):
    sent = {"json": body} if body is not None else {}
    for endpoint_id in (ABSENT, "nothing", "$ne"):
        answer = client.open(f"/webhooks/endpoints/{endpoint_id}{path}", method=method, **sent)
        refused(answer, 404, "endpoint_not_found")


# --- keys ---


def post(client, key, **members):
    return client.post("/webhooks/endpoints", json={"url": URL, **members}, headers={"Idempotency-Key": key})


def test_a_repeated_request_with_a_key_gets_the_first_answer(client, endpoints):
    first, second = post(client, "k1"), post(client, '"k1"')
    assert (second.status_code, second.json) == (201, first.json)
    assert ("Idempotent-Replayed" in first.headers, second.headers["Idempotent-Replayed"]) == (False, "true")
    assert second.headers["Location"] == first.headers["Location"]
    assert endpoints.count_documents({}) == 1
    assert post(client, "k2").json["endpoint"]["id"] != first.json["endpoint"]["id"]


def test_a_key_of_another_endpoint_is_refused(client, refused, endpoints):
    post(client, "k1")
    for changes in ({"url": f"{URL}/2"}, {"events": ["order.*"]}, {"description": "x"}, {"signature": "v1a"}):
        refused(post(client, "k1", **changes), 422, "idempotency_key_reused")
    assert endpoints.count_documents({}) == 1


def test_requests_at_the_same_time_with_one_key_add_one_endpoint(make_app, endpoints):
    app = make_app()
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: post(app.test_client(), "k1"), range(16))]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json["endpoint"]["secret"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert endpoints.count_documents({}) == 1


def test_a_key_works_where_the_user_has_no_room_for_another_endpoint(client):
    first = post(client, "k1")
    for _ in range(15):
        add(client)
    assert post(client, "k1").json == first.json


def test_the_secret_is_not_shown_again_after_a_day_nor_once_it_was_replaced(client, endpoints):
    first = post(client, "k1").json["endpoint"]
    old = datetime.now(UTC) - timedelta(hours=25)
    endpoints.update_one({"_id": first["id"]}, {"$set": {"createdAt": old, "secrets.0.createdAt": old}})
    repeated = post(client, "k1")
    assert (repeated.status_code, "secret" in repeated.json["endpoint"]) == (201, False)
    other = post(client, "k2").json["endpoint"]
    client.post(f"/webhooks/endpoints/{other['id']}/rotate-secret", json={"overlapHours": 0})
    assert "secret" not in post(client, "k2").json["endpoint"]


def test_the_key_of_a_deleted_endpoint_does_not_bring_it_back(client, refused):
    first = post(client, "k1").json["endpoint"]
    client.delete(f"/webhooks/endpoints/{first['id']}")
    refused(post(client, "k1"), 404, "endpoint_not_found")


def test_a_malformed_key_is_refused(client, refused, endpoints):
    refused(post(client, "a b"), 400, "malformed_idempotency_key")
    assert endpoints.count_documents({}) == 0


# --- secrets ---


def test_a_new_secret_is_shown_once_and_the_former_one_stays_for_a_while(client):
    added = add(client)
    address = f"/webhooks/endpoints/{added['id']}"
    rotated = client.post(f"{address}/rotate-secret", json={}).json["endpoint"]
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != added["secret"]
    ends = datetime.fromisoformat(rotated["formerSecretUntil"]) - datetime.now(UTC)
    assert timedelta(hours=23) < ends <= timedelta(hours=24)
    assert "secret" not in client.get(address).json["endpoint"]
    leaked = client.post(f"{address}/rotate-secret", json={"overlapHours": 0}).json["endpoint"]
    assert "formerSecretUntil" not in leaked


@pytest.mark.parametrize("hours", [-1, 169, 1.5, "24", True, None, 2**70])
def test_an_overlap_is_a_whole_number_of_hours_and_a_week_at_the_most(client, pointers, hours):
    address = f"/webhooks/endpoints/{add(client)['id']}/rotate-secret"
    assert pointers(client.post(address, json={"overlapHours": hours})) == ["/overlapHours"]
    assert pointers(client.post(address, json={"overlap_hours": 1})) == ["/overlap_hours"]


# --- deliveries ---


def test_deliveries_are_listed_in_pages_the_newest_first(client, deliveries):
    endpoint_id = add(client)["id"]
    wanted = [keep(deliveries, endpoint_id, number) for number in range(5)][::-1]
    keep(deliveries, add(client)["id"], 7)
    first = listed(client, endpoint_id, limit=2)
    # What the cursor points at may be gone by the time of the next page.
    deliveries.delete_one({"_id": wanted[1]})
    second = listed(client, endpoint_id, limit=2, cursor=first["nextCursor"])
    last = listed(client, endpoint_id, limit=2, cursor=second["nextCursor"])
    found = [one["id"] for page in (first, second, last) for one in page["deliveries"]]
    assert (found, last["hasMore"], "nextCursor" in last) == (wanted, False, False)
    assert "body" not in first["deliveries"][0]


def test_deliveries_are_selected_by_status_order_and_time(client, deliveries):
    endpoint_id = add(client)["id"]
    keep(deliveries, endpoint_id, 1, status="failed", orderId="a" * 24)
    keep(deliveries, endpoint_id, 2, status="pending", orderId="b" * 24)
    keep(deliveries, endpoint_id, 3, status="held")

    def numbers(**query):
        return [int(one["webhookId"][-2:]) for one in listed(client, endpoint_id, **query)["deliveries"]]

    assert numbers() == [3, 2, 1]
    assert [numbers(status=status) for status in ("failed", "pending", "held", "succeeded")] == [[1], [2], [3], []]
    assert numbers(orderId="b" * 24) == [2]
    assert numbers(since="2026-11-26T09:02:00Z") == [3, 2]
    assert numbers(until="2026-11-26T10:02:00+01:00") == [1]
    assert numbers(since="2026-11-26T09:02:00Z", until="2026-11-26T09:03:00Z", status="pending") == [2]
    assert numbers(since="9999-12-31T23:59:59-14:00") == []


@pytest.mark.parametrize(
    "query",
    [
        {"status": "sent"},
        {"status": ""},
        {"orderId": "x" * 25},
        {"orderId": ""},
        {"since": "yesterday"},
        {"since": "2026-11-26"},
        {"until": "2026-11-26T09:00:00"},
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "x"},
        {"order": "x"},
        {"since": ["2026-11-26T09:00:00Z"] * 2},
    ],
    ids=str,
)
def test_a_filter_that_is_none_is_refused_with_its_name(client, refused, query):
    answer = client.get(f"/webhooks/endpoints/{add(client)['id']}/deliveries", query_string=query)
    assert refused(answer, 400, "invalid_parameter")["parameter"] == next(iter(query))


def test_a_cursor_is_for_one_list_with_the_same_filters(client, refused, deliveries):
    endpoint_id, other = add(client)["id"], add(client)["id"]
    for number in range(3):
        keep(deliveries, endpoint_id, number)
    cursor = listed(client, endpoint_id, limit=1)["nextCursor"]
    for address, query in ((other, {}), (endpoint_id, {"status": "failed"}), (endpoint_id, {"cursor": "x" * 600})):
        answer = client.get(f"/webhooks/endpoints/{address}/deliveries", query_string={"cursor": cursor, **query})
        refused(answer, 400, "invalid_cursor")
    refused(client.get("/orders", query_string={"cursor": cursor}), 400, "invalid_cursor")


def test_a_delivery_is_shown_with_its_body_and_its_attempts(client, deliveries):
    endpoint_id = add(client)["id"]
    at = datetime(2026, 11, 26, 9, 1, tzinfo=UTC)
    attempts = [
        {"at": at, "tookMs": 12, "error": "no answer in time"},
        {"at": at, "tookMs": 7, "status": 500, "response": "no"},
    ]
    delivery_id = keep(deliveries, endpoint_id, 1, attempts=attempts, status="failed", body='{"a":1}')
    shown = client.get(f"/webhooks/deliveries/{delivery_id}").json["delivery"]
    assert shown["body"] == '{"a":1}'
    assert shown["attempts"] == [
        {"at": "2026-11-26T09:01:00.000Z", "tookMs": 12, "error": "no answer in time"},
        {"at": "2026-11-26T09:01:00.000Z", "tookMs": 7, "status": 500, "response": "no"},
    ]
    [row] = listed(client, endpoint_id)["deliveries"]
    assert "response" not in row["attempts"][1]


def test_a_failed_delivery_is_due_again_by_a_retry(client, refused, deliveries):
    delivery_id = keep(deliveries, add(client)["id"], 1, status="failed", tries=10)
    answer = client.post(f"/webhooks/deliveries/{delivery_id}/retry")
    retried = answer.json["delivery"]
    assert (answer.status_code, retried["status"], retried["tries"]) == (202, "pending", 0)
    assert retried["nextAttemptAt"]
    for unknown in (f"none.{ABSENT}", "nothing"):
        refused(client.post(f"/webhooks/deliveries/{unknown}/retry"), 404, "delivery_not_found")
        refused(client.get(f"/webhooks/deliveries/{unknown}"), 404, "delivery_not_found")


def test_a_replay_sends_what_was_not_taken_of_a_time(client, deliveries):
    endpoint_id = add(client)["id"]
    for number, status in enumerate(("failed", "failed", "succeeded", "held", "failed")):
        keep(deliveries, endpoint_id, number, status=status)
    times = {"since": "2026-11-26T09:01:00Z", "until": "2026-11-26T10:04:00+01:00"}
    answer = client.post(f"/webhooks/endpoints/{endpoint_id}/replay", json=times)
    assert (answer.status_code, answer.json) == (202, {"ok": True, "count": 2})
    assert [doc["status"] for doc in deliveries.find().sort("_id")] == [
        *("failed", "pending", "succeeded", "pending", "failed"),
    ]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, ["/since", "/until"]),
        ({"since": "2026-11-26T09:00:00Z"}, ["/until"]),
        ({"since": 7, "until": "2026-11-26T09:00:00Z"}, ["/since"]),
        ({"since": "2026-11-26T09:00:00", "until": "2026-11-26T10:00:00Z"}, ["/since"]),
        ({"since": "2026-11-26T09:00:00Z", "until": "2026-11-26T09:00:00Z"}, ["/until"]),
        ({"since": "2026-11-26T09:00:00Z", "until": "2026-11-26T10:00:00Z", "all": True}, ["/all"]),
    ],
    ids=str,
)
def test_a_replay_needs_two_times_in_their_order(client, pointers, body, wanted):
    address = f"/webhooks/endpoints/{add(client)['id']}/replay"
    assert pointers(client.post(address, json=body)) == wanted


def test_times_at_the_end_of_time_are_times(client):
    address = f"/webhooks/endpoints/{add(client)['id']}/replay"
    times = {"since": "0001-01-01T00:00:00+14:00", "until": "9999-12-31T23:59:59-14:00"}
    assert client.post(address, json=times).json == {"ok": True, "count": 0}


# --- from an order to a receiver ---


def test_a_test_event_reaches_the_receiver_and_is_on_record(make_app, receiver, eventually):
    app = make_app(allow_unsafe="webhook_http")
    runtime(app).start()
    client = app.test_client()
    added = add(client, url=receiver.url, events=["order.disputed"])
    answer = client.post(f"/webhooks/endpoints/{added['id']}/test")
    sent = answer.json["delivery"]
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/webhooks/deliveries/{sent['id']}")
    [request] = receiver.wait_for(1)
    body = Webhook(added["secret"]).verify(request.body, request.headers)
    assert (body["type"], body["data"]) == ("endpoint.test", {"endpointId": added["id"]})
    shown = eventually(lambda: (one := client.get(answer.headers["Location"]).json["delivery"]).get("attempts") and one)
    assert (shown["status"], json.loads(shown["body"]), shown["webhookId"]) == ("succeeded", body, body["id"])


def test_an_order_is_told_from_its_creation_on_without_a_gap(make_app, receiver, place, eventually):
    # With a short lease a busy machine may tell an event twice.
    app = make_app(allow_unsafe="webhook_http", relay_lease=30.0)
    client = app.test_client()
    added = add(client, url=receiver.url, userId="user-7")
    runtime(app).start()
    order_id = place(client)
    place(client, userId="user-8")
    requests = receiver.wait_for(2, 60.0)
    told = [Webhook(added["secret"]).verify(request.body, request.headers) for request in requests]
    told.sort(key=lambda body: body["data"]["sequence"])
    assert [(body["type"], body["data"]["sequence"], body["data"]["previousStatus"]) for body in told] == [
        ("order.created", 1, "(new)"),
        ("order.succeeded", 2, "Processing"),
    ]
    assert {body["data"]["order"]["id"] for body in told} == {order_id}
    # They are stored after the receiver has answered.
    eventually(lambda: len(listed(client, added["id"])["deliveries"]) == 2)
    assert {one["orderId"] for one in listed(client, added["id"])["deliveries"]} == {order_id}


def test_event_types_are_described_with_examples(client):
    told = client.get("/event-types").json["eventTypes"]
    assert {one["name"]: one["description"] for one in told} == EVENT_TYPES
    assert [json.loads(one["example"])["type"] for one in told] == [*EVENT_TYPES]


def test_without_the_module_there_are_no_routes(make_app, refused):
    client = make_app(webhooks=False).test_client()
    for path in ("/webhooks/endpoints", "/event-types"):
        refused(client.get(path), 404, "not_found")
    assert "webhooks" not in client.get("/api-json").json


# --- who may do what ---


class User:
    """A client with a token."""

    def __init__(self, app, user_id, scope="webhooks:manage"):
        now = int(time.time())
        claims = {"iss": "i", "aud": "a", "sub": user_id, "iat": now, "exp": now + 600, "scope": scope}
        token = jwt.encode(claims, IDENTITY["auth_jwt_key"], algorithm="HS256")
        self._client, self._token = app.test_client(), {"Authorization": f"Bearer {token}"}

    def __getattr__(self, method):
        def send(path, headers=None, **more):
            return getattr(self._client, method)(path, headers={**self._token, **(headers or {})}, **more)

        return send


@pytest.fixture
def guarded(make_app):
    """An application that asks who calls."""
    return make_app(**IDENTITY)


@pytest.fixture
def ada(guarded):
    return User(guarded, "ada")


@pytest.fixture
def operator(guarded):
    return User(guarded, "olga", "orders:admin")


def test_users_have_their_own_endpoints_and_an_administrator_sees_all(guarded, ada, operator):
    own = add(ada)
    assert own["userId"] == "ada"
    bob = User(guarded, "bob")
    others = add(bob)
    everybody = add(operator)
    of_carol = add(operator, userId="carol")
    assert ("userId" in everybody, of_carol["userId"]) == (False, "carol")
    assert [one["id"] for one in ada.get("/webhooks/endpoints").json["endpoints"]] == [own["id"]]
    assert [one["id"] for one in User(guarded, "carol").get("/webhooks/endpoints").json["endpoints"]] == [
        of_carol["id"]
    ]
    seen = operator.get("/webhooks/endpoints").json["endpoints"]
    assert [one["id"] for one in seen] == [one["id"] for one in (own, others, everybody, of_carol)]
    assert all("secret" not in one for one in seen)


def keep_endpoints(endpoints, count, **members):
    """Store endpoints that were made one after the other, three at a time; returns their ids in that order."""
    made = []
    for at in range(count):
        # The later one of a moment has the smaller id, so that no order of ids alone is right.
        name, created = (
            f"we_{at // 3:04d}{3 - at % 3}",
            datetime(2026, 11, 26, 9, tzinfo=UTC) + timedelta(seconds=at // 3),
        )
        known = {"userId": "", "url": URL, "description": "", "events": ["*"], "secrets": [SECRET], "version": 1}
        made.append({"_id": name, "createdAt": created, "changedAt": created, **known, **members})
    endpoints.insert_many(made)
    return [one["_id"] for one in sorted(made, key=lambda one: (one["createdAt"], one["_id"]))]


def pages(client, limit, **query):
    """The ids on each page of a list of endpoints, to its end."""
    found, cursor = [], {}
    while True:
        answer = client.get("/webhooks/endpoints", query_string={"limit": limit, **query, **cursor})
        assert answer.status_code == 200, answer.text
        found.append([one["id"] for one in answer.json["endpoints"]])
        assert answer.json["hasMore"] == ("nextCursor" in answer.json)
        if not answer.json["hasMore"]:
            return found
        cursor = {"cursor": answer.json["nextCursor"]}


def test_an_administrator_pages_through_all_endpoints(operator, endpoints):
    stored = keep_endpoints(endpoints, 1003)
    found = pages(operator, 100)
    assert [len(page) for page in found] == [100] * 10 + [3]
    assert [*chain(*found)] == stored
    # Pages end inside of what was made at one moment, and where nothing follows.
    assert [*chain(*pages(operator, 17))] == stored
    endpoints.delete_many({"_id": {"$nin": stored[:4]}})
    assert pages(operator, 2) == [stored[:2], stored[2:4]]
    assert pages(operator, 4) == [stored[:4]]


def test_a_page_of_endpoints_begins_after_one_that_is_gone(operator, endpoints):
    stored = keep_endpoints(endpoints, 6)
    first = operator.get("/webhooks/endpoints?limit=2").json
    operator.delete(f"/webhooks/endpoints/{stored[1]}")
    added = add(operator)["id"]
    rest = operator.get(f"/webhooks/endpoints?cursor={first['nextCursor']}").json
    assert [one["id"] for one in rest["endpoints"]] == [*stored[2:], added]


def test_an_administrator_sees_which_endpoints_are_told_of_a_user(operator, endpoints):
    everybodys = keep_endpoints(endpoints, 2)
    of_bob, of_carol = (add(operator, userId=name)["id"] for name in ("bob", "carol"))
    assert pages(operator, 100, userId="bob") == [[*everybodys, of_bob]]
    assert pages(operator, 1, userId="carol") == [[everybodys[0]], [everybodys[1]], [of_carol]]
    assert pages(operator, 100, userId="dora") == [everybodys]


def test_a_user_pages_through_own_endpoints_alone(guarded, ada, operator, endpoints):
    keep_endpoints(endpoints, 2)
    own = [add(ada)["id"] for _ in range(3)]
    add(User(guarded, "bob"))
    assert pages(ada, 2) == [own[:2], own[2:]]
    assert pages(ada, 2, userId="ada") == [own[:2], own[2:]]
    assert pages(ada, 2, userId="bob") == [[]]


def test_a_cursor_of_endpoints_is_for_one_user_and_one_filter(guarded, ada, operator, refused, endpoints):
    keep_endpoints(endpoints, 2)
    for _ in range(2):
        add(ada)
    cursor = operator.get("/webhooks/endpoints?limit=1").json["nextCursor"]
    own = ada.get("/webhooks/endpoints?limit=1").json["nextCursor"]
    for client, query in (
        (operator, {"cursor": cursor, "userId": "ada"}),
        (operator, {"cursor": own}),
        (ada, {"cursor": cursor}),
        (User(guarded, "bob"), {"cursor": own}),
        (operator, {"cursor": "x" * 600}),
    ):
        refused(client.get("/webhooks/endpoints", query_string=query), 400, "invalid_cursor")
    refused(
        operator.get("/webhooks/endpoints/we_00001/deliveries", query_string={"cursor": cursor}), 400, "invalid_cursor"
    )


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "101"}, {"userId": ""}, {"userId": "x" * 129}, {"user": "x"}], ids=str
)
def test_a_filter_of_endpoints_that_is_none_is_refused_with_its_name(client, refused, query):
    answer = client.get("/webhooks/endpoints", query_string=query)
    assert refused(answer, 400, "invalid_parameter")["parameter"] == next(iter(query))


def test_a_user_adds_no_endpoint_for_somebody_else(ada, refused, endpoints):
    refused(ada.post("/webhooks/endpoints", json={"url": URL, "userId": "bob"}), 403, "wrong_user")
    assert endpoints.count_documents({}) == 0
    assert add(ada, userId="ada")["userId"] == "ada"


def test_an_endpoint_of_somebody_else_is_absent(guarded, ada, operator, refused, deliveries, endpoints):
    before = None
    for foreign in (add(User(guarded, "bob")), add(operator)):
        delivery_id = keep(deliveries, foreign["id"], 1)
        address = f"/webhooks/endpoints/{foreign['id']}"
        before = [*endpoints.find()], [*deliveries.find()]
        times = {"since": "2026-11-22T15:00:00Z", "until": "2026-11-28T16:00:00Z"}
        for answer in (
            ada.get(address),
            ada.patch(address, json={"enabled": False}),
            ada.delete(address),
            ada.post(f"{address}/rotate-secret", json={}),
            ada.post(f"{address}/test"),
            ada.post(f"{address}/replay", json=times),
            ada.get(f"{address}/deliveries"),
        ):
            refused(answer, 404, "endpoint_not_found")
        for answer in (
            ada.get(f"/webhooks/deliveries/{delivery_id}"),
            ada.post(f"/webhooks/deliveries/{delivery_id}/retry"),
        ):
            refused(answer, 404, "delivery_not_found")
        assert ([*endpoints.find()], [*deliveries.find()]) == before
        assert operator.get(f"/webhooks/deliveries/{delivery_id}").status_code == 200


def test_a_key_of_somebody_else_is_free(guarded, ada, operator, endpoints):
    for user in (ada, User(guarded, "bob"), operator):
        answer = post(user, "shared")
        assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False)
    # An administrator's own key, for a user who has used the same one.
    assert "Idempotent-Replayed" not in post(operator, "shared", userId="ada").headers
    assert endpoints.count_documents({}) == 4


def test_without_the_scope_nothing_is_done(guarded, refused, endpoints):
    reader = User(guarded, "ada", "orders:read orders:write orders:fulfil orders:refund")
    answer = reader.post("/webhooks/endpoints", json={"url": URL})
    assert refused(answer, 403, "insufficient_scope")["scope"] == "webhooks:manage"
    assert endpoints.count_documents({}) == 0
