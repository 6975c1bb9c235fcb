"""The erasure of a user's personal data: what is left in the whole database, whoever dies on the way, and what is told later."""

import time
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from bson import ObjectId

from app.contracts.base import Unavailable, rfc3339
from app.contracts.orders import EraseOrders
from app.contracts.payments import ErasePayments, PaymentDisputed
from app.contracts.webhooks import EraseDeliveries, EraseEndpoints
from app.gateway.security.development_tokens import make_token
from app.main import create_app, make_doctor, runtime
from app.orders.erasures import ErasureService
from app.storage.mongodb import Database
from tests.webhooks.receiver import Receiver, running

pytestmark = pytest.mark.extended

RETURN_URL = "https://shop.example/thanks"
ISSUED = {
    "auth_jwt_algorithm": "HS256",
    "auth_jwt_key": "k" * 32,
    "auth_jwt_issuer": "i",
    "auth_jwt_audience": "a",
}


@pytest.fixture
def user() -> str:
    return f"ada-{uuid4().hex}"


@pytest.fixture
def settings(settings):
    return replace(settings, allow_unsafe="webhook_http", return_url_origins="https://shop.example")


@pytest.fixture
def traces(database, user):
    """The documents in the whole database that have the user's id or a text of the user's, by collection."""

    def look(*texts: str) -> dict[str, list[dict]]:
        found = {
            name: [doc for doc in database[name].find() if any(text in str(doc) for text in (user, *texts))]
            for name in database.list_collection_names()
        }
        return {name: docs for name, docs in found.items() if docs}

    return look


@pytest.fixture
def settled(live, database, user, new_order, eventually):
    """Orders of the user that are settled, with all that an order can have of its user: one captured and refunded, one declined."""

    def place(number: int, **changes) -> str:
        body = new_order(userId=user, metadata={"note": "wanted-by-Ada"}, returnUrl=RETURN_URL, **changes)
        answer = live.post("/orders", json=body, headers={"Idempotency-Key": f"key-of-ada-{number}"})
        assert answer.status_code == 201, answer.text
        return answer.json["created"]["id"]

    order_ids = [place(1), place(2, productId="2"), place(3)]
    state = {"userId": user, "orderStatus": {"$ne": "Processing"}}
    eventually(lambda: database.orders.count_documents({**state, "outbox": []}) == 3)
    live.post(f"/orders/one/{order_ids[0]}/refunds", json={"amount": "RM 9", "reason": "Ada did not like it"})
    eventually(lambda: live.get(f"/orders/one/{order_ids[0]}").json["order"]["refunded"]["value"] == 900)
    eventually(lambda: database.payments.count_documents({"userId": user, "outbox": []}) == 3)
    return order_ids


def leave_traces(database, user: str, order_ids: list[str]) -> None:
    """What an order and a payment have of their user besides: the caller of a change, a token, and events that wait for an operator."""
    letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": database.orders.find_one()["createdAt"]}
    event = {"type": "Nonsense", "event_id": "e", "user_id": user, "sequence": 1}
    members = {"events.0.caller": user, "events.1.caller": "an operator", "paymentMethod": "pm-of-ada"}
    waiting = {"outbox": [event], "deadLetter": letter, "changes": [event], "changesDeadLetter": letter}
    database.orders.update_one({"_id": ObjectId(order_ids[0])}, {"$set": {**members, **waiting}})
    members = {"paymentMethod": "pm-of-ada", "outbox": [event], "deadLetter": letter}
    database.payments.update_one({"_id": order_ids[0]}, {"$set": members})


def erase(client, user: str):
    return client.delete(f"/users/{user}/personal-data")


@pytest.fixture
def place_one(live, new_order, user, eventually, database):
    """Place an order of the user, and wait until it is settled."""

    def place() -> str:
        order_id = live.post("/orders", json=new_order(userId=user)).json["created"]["id"]
        eventually(lambda: database.orders.count_documents({"_id": ObjectId(order_id), "orderStatus": "Success"}))
        return order_id

    return place


def finish(database, eventually, erasure_id: str) -> dict:
    """Let the second round come now, and wait until the erasure is complete."""
    eventually(lambda: database.erasures.find_one({"_id": erasure_id, "rounds": {"$gte": 1}}))
    due_now(database)
    return eventually(lambda: database.erasures.find_one({"_id": erasure_id, "completedAt": {"$exists": True}}))


def test_nothing_in_the_database_tells_who_it_was(live, database, user, settled, traces, eventually):
    before = {order["id"]: order for order in live.get(f"/orders/{user}").json["orders"]}
    leave_traces(database, user, settled)
    answer = erase(live, user)
    assert (answer.status_code, answer.json["ok"]) == (202, True)
    record = finish(database, eventually, answer.json["erasure"]["id"])
    assert traces("wanted-by-Ada", RETURN_URL, "key-of-ada", "pm-of-ada", "Ada did not like it") == {}
    kept = database.orders.find_one({"_id": ObjectId(settled[0])})
    assert kept["events"][0]["caller"] == kept["changes"][0]["user_id"] == record["pseudonym"]
    assert kept["events"][1]["caller"] == "an operator"
    assert (record["orders"], record["pseudonym"]) == (3, answer.json["erasure"]["pseudonym"])
    assert live.get(f"/orders/{user}").json["orders"] == []
    after = live.get(f"/orders/{record['pseudonym']}").json["orders"]
    assert {order["id"] for order in after} == set(settled)
    for order in after:
        kept = (
            "total",
            "totalOrderAmount",
            "productName",
            "orderStatus",
            "paymentStatus",
            "captured",
            "refunded",
            "createdAt",
        )
        assert {name: order[name] for name in kept} == {name: before[order["id"]][name] for name in kept}
        assert "metadata" not in order


def test_the_timeline_stays_and_says_what_was_done(live, database, user, settled, eventually):
    before = live.get(f"/orders/one/{settled[0]}/events").json["events"]
    finish(database, eventually, erase(live, user).json["erasure"]["id"])
    *entries, last = live.get(f"/orders/one/{settled[0]}/events").json["events"]
    assert [(entry["type"], entry["to"], entry.get("amount")) for entry in entries] == [
        (entry["type"], entry["to"], entry.get("amount")) for entry in before
    ]
    assert (last["type"], last["sequence"]) == ("PersonalDataErased", len(before) + 1)
    assert (last["from"], last["to"]) == (entries[-1]["to"], entries[-1]["to"])
    shown = live.get(f"/orders/one/{settled[0]}")
    assert shown.headers["ETag"] == f'"{settled[0]}-{len(before) + 1}"'
    sentence = live.get(f"/orders/one/{settled[0]}/explain").json["sentence"]
    assert "; last, a client had its personal data erased at " in sentence


def test_the_doctor_finds_nothing_wrong_afterwards(live, database, settings, user, settled, eventually):
    finish(database, eventually, erase(live, user).json["erasure"]["id"])
    checked = Database(settings.mongodb_uri, settings.database)
    doctor = make_doctor(checked, settings, grace=5.0)
    # On a busy machine an event may be due for longer than the grace.
    report = eventually(lambda: (report := doctor.examine()).state == "healthy" and report)
    checked.close()
    assert report.orders == 3


@pytest.mark.parametrize(
    "state",
    [
        {"orderStatus": "Processing"},
        {"paymentStatus": "Refunding"},
        {"paymentStatus": "Unknown"},
        {"orderStatus": "Cancelled", "paymentStatus": "Processing"},
        {"orderStatus": "Processing", "paymentStatus": "Authorized"},
    ],
    ids=str,
)
def test_it_is_refused_while_money_moves(client, database, user, place, state, refused_with):
    order_id = place(client, userId=user)
    settled = {"orderStatus": "Success", "paymentStatus": "Captured"}
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {**settled, **state}})
    assert refused_with(erase(client, user)) == (409, "orders_in_progress")
    assert database.erasures.count_documents({}) == 0
    assert database.orders.count_documents({"userId": user}) == 1


@pytest.fixture
def refused_with():
    return lambda answer: (answer.status_code, answer.json["code"])


def test_the_same_request_again_meanwhile_is_the_same_erasure(client, user, database):
    first, again = (erase(client, user).json["erasure"] for _ in range(2))
    assert (first["id"], first["pseudonym"]) == (again["id"], again["pseudonym"])
    assert database.erasures.count_documents({}) == 1


def test_a_user_erases_only_what_is_its_own_and_an_administrator_anybodys(settings, user):
    app = create_app(replace(settings, **ISSUED))
    runtime(app).prepare()
    secured = replace(settings, **ISSUED)

    def bearer(name: str, *scopes: str) -> dict:
        return {"Authorization": f"Bearer {make_token(secured, name, scopes, 60)}"}

    client, path = app.test_client(), f"/users/{user}/personal-data"
    assert client.delete(path).status_code == 401
    assert client.delete(path, headers=bearer("bob", "orders:write")).status_code == 404
    assert client.delete(path, headers=bearer(user, "orders:read")).status_code == 403
    own = client.delete(path, headers=bearer(user, "orders:write"))
    assert (own.status_code, own.json["erasure"]["requestedBy"]) == (202, "the user")
    other = client.delete("/users/eve/personal-data", headers=bearer("boss", "orders:admin"))
    assert (other.status_code, other.json["erasure"]["requestedBy"]) == (202, "boss")
    assert client.get("/operations/erasures", headers=bearer(user, "orders:read")).status_code == 403
    found = client.get("/operations/erasures", headers=bearer("boss", "orders:admin")).json["erasures"]
    assert [one["requestedBy"] for one in found] == ["boss", "the user"]
    assert user not in str(found)
    runtime(app).stop()


DEATHS = {
    "before payments": ErasePayments,
    "before deliveries": EraseDeliveries,
    "before endpoints": EraseEndpoints,
}


class Dies(Exception):
    """The process ends here."""


class DyingClient:
    """Sends requests until one of this kind comes: it is not sent, or sent and its reply is lost."""

    def __init__(self, bus, kind: type, after: bool) -> None:
        self.bus, self.kind, self.after = bus, kind, after

    def request(self, message):
        if not isinstance(message, self.kind):
            return self.bus.request(message)
        if self.after:
            self.bus.request(message)
        raise Dies


@pytest.fixture
def service(app, settings):
    """The erasures of a process that does nothing by itself; `requests` stand for its bus."""

    def make(requests=None) -> ErasureService:
        found = runtime(app).modules["orders"]._erasures
        return ErasureService(found._erasures, requests or runtime(app).bus, webhooks=True)

    return make


def due_now(database) -> None:
    """Whatever waits is due, by the clock of any process."""
    past = database.client.admin.command("hello")["localTime"] - timedelta(seconds=1)
    database.erasures.update_many({"dueAt": {"$exists": True}}, {"$set": {"dueAt": past}})


def rounds(service: ErasureService, database) -> None:
    """Do all rounds, each as soon as it may be."""
    for _ in range(2):
        due_now(database)
        assert service.work()
    assert not service.work()


@pytest.fixture
def still(app, client, database, user, place):
    """Settled orders of the user and a delivery about one; no background work runs."""
    order_ids = [place(client, userId=user, metadata={"note": "wanted-by-Ada"}) for _ in range(3)]
    database.orders.update_many({}, {"$set": {"orderStatus": "Success", "paymentStatus": "Captured", "outbox": []}})
    database.orders.update_many({}, {"$unset": {"relayDue": ""}})
    return order_ids


@pytest.mark.parametrize("after", [False, True], ids=["unsent", "unanswered"])
@pytest.mark.parametrize("kind", DEATHS.values(), ids=DEATHS)
@pytest.mark.parametrize("in_round", [1, 2])
def test_a_process_that_dies_on_the_way_leaves_an_erasure_that_another_completes(
    app, client, database, user, still, service, traces, kind, after, in_round
):
    erasure_id = erase(client, user).json["erasure"]["id"]
    due_now(database)
    if in_round == 2:
        assert service().work()
        due_now(database)
    with pytest.raises(Dies):
        service(DyingClient(runtime(app).bus, kind, after)).work()
    assert user in str(database.erasures.find_one({"_id": erasure_id}))
    due_now(database)
    another = service()
    while another.work():
        due_now(database)
    record = database.erasures.find_one({"_id": erasure_id})
    assert (record["orders"], "completedAt" in record) == (3, True)
    assert traces("wanted-by-Ada") == {}
    types = [[entry["type"] for entry in doc["events"]] for doc in database.orders.find()]
    assert types == [["OrderCreated", "PersonalDataErased"]] * 3


def test_without_an_answer_of_another_module_it_is_not_complete(app, client, database, user, still, service):
    erase(client, user)

    class Silent:
        def request(self, message):
            raise Unavailable("payments do not answer")

    due_now(database)
    with pytest.raises(Unavailable):
        service(Silent()).work()
    assert database.erasures.count_documents({"userId": user, "completedAt": {"$exists": False}}) == 1


def test_an_order_that_was_placed_just_before_is_waited_for(client, database, user, still, place, service, traces):
    erase(client, user)
    late = place(client, userId=user)
    # Its request had come before, and was stored after the orders were looked at.
    requested_at = database.erasures.find_one()["requestedAt"]
    database.orders.update_one({"_id": ObjectId(late)}, {"$set": {"createdAt": requested_at}})
    due_now(database)
    assert service().work()
    assert database.orders.count_documents({"userId": user}) == 4
    database.orders.update_one(
        {"_id": ObjectId(late)}, {"$set": {"orderStatus": "Declined", "paymentStatus": "Declined", "outbox": []}}
    )
    rounds(service(), database)
    assert traces() == {}


def test_an_order_that_is_placed_afterwards_is_a_new_one(client, database, user, still, place, service):
    erase(client, user)
    time.sleep(0.002)
    after = place(client, userId=user)
    rounds(service(), database)
    assert [str(doc["_id"]) for doc in database.orders.find({"userId": user})] == [after]


def test_what_was_written_during_the_first_round_is_erased_by_the_second(
    client, database, user, still, service, traces
):
    erase(client, user)
    due_now(database)
    assert service().work()
    # By a request that had read the order before.
    database.orders.update_one({"_id": ObjectId(still[0])}, {"$set": {"userId": user}})
    due_now(database)
    assert service().work()
    assert traces() == {}


def test_two_processes_at_once_do_no_harm(client, database, user, still, service, traces):
    erase(client, user)
    first, second = service(), service()
    due_now(database)
    assert first.work()
    due_now(database)
    assert second.work()
    assert not first.work()
    assert traces() == {}


def test_a_payment_event_from_before_reaches_its_order(app, live, database, user, settled, eventually):
    payment = database.payments.find_one({"_id": settled[2]})
    finish(database, eventually, erase(live, user).json["erasure"]["id"])
    event = PaymentDisputed(
        event_id="late",
        order_id=settled[2],
        sequence=payment["sequence"] + 1,
        request_id="r",
        at=1,
        user_id=user,
        dispute_id="d",
        dispute_value=9900,
        reason="fraudulent",
    )
    assert runtime(app).bus.publish([event])["orders"] is None
    doc = database.orders.find_one({"_id": ObjectId(settled[2])})
    assert (doc["paymentStatus"], user in str(doc)) == ("Disputed", False)


def test_endpoints_of_the_user_are_gone_and_others_are_told_the_pseudonym(
    live, database, user, new_order, eventually, traces
):
    answers = {"body": b"wanted-by-Ada"}

    def refuse(*_) -> tuple:
        return 500, {}, answers["body"]

    with running(Receiver()) as receiver, running(Receiver(answer=refuse)) as failing:
        own = live.post(
            "/webhooks/endpoints", json={"url": receiver.url, "userId": user, "description": "wanted-by-Ada"}
        )
        everybodys = live.post("/webhooks/endpoints", json={"url": failing.url})
        assert (own.status_code, everybodys.status_code) == (201, 201)

        # A new endpoint is told of changes from about three seconds on: orders are placed until one is told.
        def told() -> bool:
            order = new_order(userId=user, metadata={"a": "wanted-by-Ada"})
            assert live.post("/orders", json=order).status_code == 201
            attempted = {"orderId": {"$exists": True}, "attempts.response": {"$exists": True}}
            try:
                return bool(eventually(lambda: database.webhook_deliveries.count_documents(attempted), 2.0))
            except AssertionError:
                return False

        eventually(told, 60.0)
        answers["body"] = b""
        unfinished = {"$or": [{"orderStatus": "Processing"}, {"changes": {"$exists": True}}]}
        eventually(lambda: not database.orders.count_documents(unfinished))
        answer = erase(live, user)
        record = finish(database, eventually, answer.json["erasure"]["id"])
    assert traces("wanted-by-Ada", receiver.url) == {}
    endpoint_id = everybodys.json["endpoint"]["id"]
    left = list(database.webhook_deliveries.find())
    assert left
    assert all(doc["endpointId"] == endpoint_id and record["pseudonym"] in doc["body"] for doc in left)
    assert live.get(f"/webhooks/endpoints/{own.json['endpoint']['id']}").status_code == 404


def test_no_line_of_the_log_and_no_text_of_a_message_has_the_user(user):
    request = EraseOrders(request_id="r", user_id=user, requested_by=user)
    told = [request, EraseEndpoints(request_id="r", user_id=user, pseudonym="p")]
    told.append(ErasePayments(request_id="r", former_user_id=user, pseudonym="p", order_ids=()))
    assert user not in str(told)


def test_the_same_request_again_takes_the_orders_that_came_in_between(
    live, database, user, place_one, traces, eventually
):
    place_one()
    first = erase(live, user).json["erasure"]
    eventually(lambda: database.erasures.find_one({"_id": first["id"], "rounds": 1}))
    newer = place_one()
    again = erase(live, user).json["erasure"]
    assert (again["id"], again["pseudonym"]) == (first["id"], first["pseudonym"])
    assert again["requestedAt"] > first["requestedAt"]
    eventually(lambda: database.orders.find_one({"_id": ObjectId(newer), "userId": first["pseudonym"]}))
    assert finish(database, eventually, first["id"])["orders"] == 2
    assert traces() == {}


def test_who_works_on_an_erasure_that_began_anew_does_not_complete_it(app, database, user):
    erasures = runtime(app).modules["orders"]._erasures._erasures
    request = EraseOrders(request_id="r", user_id=user, requested_by="")
    erasures.add(request)
    job = erasures.claim()
    again = erasures.add(request)
    erasures.complete(job, 1)
    stored = database.erasures.find_one()
    assert ("completedAt" in stored, stored["rounds"], stored["dueAt"]) == (False, 0, stored["requestedAt"])
    assert again.requested_at >= rfc3339(job.requested_at)


@pytest.mark.parametrize("method", ["delete", "post"])
def test_nobody_is_a_pseudonym(live, new_order, method):
    pseudonym = f"erased-{uuid4().hex}"
    answer = live.post("/orders", json=new_order(userId=pseudonym)) if method == "post" else erase(live, pseudonym)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_members")
    assert answer.json["errors"] == [
        {"pointer": "/userId", "detail": "Is the pseudonym of a user whose personal data was erased."}
    ]
