"""The clients of a chaos run keep what the auditor judges, and its violations break the promises of the verdict."""

import threading

import httpx
import pytest

from tools.auditor.history import ACCEPTED, REFUSED, UNANSWERED, FinalOrder, PlaceAnswer, TimelineStep
from tools.chaos import clients, final_state
from tools.chaos.clients import Client, ClientRecord, PlacedOrder
from tools.chaos.final_state import FinalState, read_final_state
from tools.chaos.verdict import Verdict, examine, summarize
from tools.chaos.webhook_receivers import Behaviour, WebhookReceivers

ORDER_ID = "a" * 24
TAG = {"ETag": f'"{ORDER_ID}-3"'}
BODY = {"userId": "user-1", "productId": "1", "productName": "Grinder", "totalOrderAmount": "RM 99"}
PLACED = httpx.Response(201, json={"created": {"id": ORDER_ID}}, headers=TAG)
CANCELLED = httpx.Response(200, json={}, headers=TAG)
REFUNDED = httpx.Response(201, json={"refund": {"id": "one", "amount": {"value": 300}}}, headers=TAG)
REFUSAL = httpx.Response(409, json={"code": "conflict"})
UNCLEAR = httpx.Response(503, json={})
ORDER = PlacedOrder(ORDER_ID, 9900, "MYR")
READ = {"orderStatus": "Success", "paymentStatus": "Captured"}


@pytest.fixture
def sent(monkeypatch):
    """Lets a client make one request that gets these answers in turn, then stops it; returns its record."""
    monkeypatch.setattr(clients, "PAUSE", 0.02)
    monkeypatch.setattr(clients, "GIVE_UP_SECONDS", 0.0)

    def send(do, *answers):
        remaining, record, stopping = list(answers), ClientRecord(), threading.Event()
        client = Client(lambda: "http://server", 1, 0, 1.0, record, stopping)

        def answer(_):
            if len(remaining) == 1:
                stopping.set()
            return remaining.pop(0)

        with httpx.Client(transport=httpx.MockTransport(answer)) as http:
            do(client, http)
        return record

    return send


@pytest.mark.parametrize(
    ("answers", "outcome", "version"),
    [
        ((CANCELLED,), ACCEPTED, 3),
        ((UNCLEAR, CANCELLED), ACCEPTED, 3),
        ((REFUSAL,), REFUSED, 0),
        ((UNCLEAR, REFUSAL), UNANSWERED, 0),
        ((UNCLEAR, UNCLEAR), UNANSWERED, 0),
    ],
)
def test_a_cancellation_is_kept_from_its_first_sending_to_its_answer(sent, answers, outcome, version):
    record = sent(lambda client, http: client._cancel(http, ORDER), *answers)
    [kept] = record.outcomes

    assert (kept.order_id, kept.status, kept.outcome, kept.version) == (ORDER_ID, "Cancelled", outcome, version)
    assert kept.began <= record.sent[0].began
    assert kept.ended >= record.sent[-1].ended


def test_an_order_is_kept_with_its_key_and_total(sent):
    [kept] = sent(lambda client, http: client._post(http, "key-1", BODY), UNCLEAR, PLACED).outcomes
    assert (kept.order_id, kept.key, kept.value, kept.outcome) == (ORDER_ID, "key-1", 9900, ACCEPTED)

    [kept] = sent(lambda client, http: client._post(http, "key-1", BODY), UNCLEAR, UNCLEAR).outcomes
    assert (kept.order_id, kept.outcome) == ("", UNANSWERED)


@pytest.mark.parametrize(("answer", "refund_id"), [(REFUNDED, "one"), (REFUSAL, "key-1")])
def test_a_refund_is_kept_with_its_id_or_the_key_of_its_request(sent, answer, refund_id):
    [kept] = sent(lambda client, http: client._refund(http, ORDER, 300, "key-1"), answer).outcomes
    assert (kept.refund_id, kept.value) == (refund_id, 300)


def test_a_read_is_kept_with_its_statuses(sent):
    shown = httpx.Response(200, json={"order": READ}, headers=TAG)
    [kept] = sent(lambda client, http: client._read(http, ORDER), shown).outcomes
    assert (kept.order_status, kept.payment_status, kept.version) == ("Success", "Captured", 3)


@pytest.fixture
def verdict(mongodb_uri, settings):
    """Judges a run without stored orders by a final state that clients read."""

    def judged(final, *outcomes):
        record = ClientRecord(outcomes=list(outcomes))
        report = examine(mongodb_uri, settings.database, record, final=final)
        return summarize(Verdict(0, 1.0), report, record, [])

    return judged


DECLINED = FinalOrder(
    order_status="Declined",
    payment_status="Declined",
    version=1,
    value=9900,
    timeline=[
        TimelineStep(
            sequence=1, type="OrderCreated", from_status="(new)", to_status="Declined", payment_status="Declined"
        )
    ],
)


def test_a_violation_that_the_auditor_finds_breaks_the_promises(verdict):
    placed = PlaceAnswer(order_id=ORDER_ID, value=9900)
    kept = verdict(FinalState(orders={ORDER_ID: DECLINED}), placed)
    assert (kept.auditor, kept.judged, kept.kept_promises) == (0, 1, True)

    lost = verdict(FinalState(orders={"b" * 24: DECLINED}), placed)
    assert (lost.auditor, lost.judged, lost.kept_promises) == (1, 1, False)
    assert [line for line in lost.details if line.startswith(f"auditor, lost: {ORDER_ID}")]


def test_an_unreachable_service_breaks_the_promises(verdict, monkeypatch, mongodb_uri, settings):
    monkeypatch.setattr(final_state, "READ_SECONDS", 0.0)
    final = read_final_state(lambda: "http://127.0.0.1:9", mongodb_uri, settings.database, [ORDER_ID])
    unreachable = verdict(final, PlaceAnswer(order_id=ORDER_ID, value=9900))

    assert (unreachable.auditor, unreachable.judged, unreachable.kept_promises) == (1, 0, False)
    assert [line for line in unreachable.details if "the end could not be read: GET /orders" in line]


@pytest.fixture
def received():
    """What is found of an order of which one step was told twice: with these differences the second time."""

    def told(aged=(), **changes):
        order = {"id": ORDER_ID, "orderStatus": "Declined", "paymentStatus": "Declined", "createdAt": "12:00"}
        content = {"id": "w", "timestamp": "12:00", "data": {"order": {**order, "updatedAt": "12:00"}, "sequence": 1}}
        again = {**content, "timestamp": "13:00"}
        again["data"] = {**content["data"], "order": {**content["data"]["order"], "createdAt": "11:00", **changes}}
        with WebhookReceivers([Behaviour.LIVING]) as receivers:
            url = f"http://127.0.0.1:{receivers._server.server_port}/{Behaviour.LIVING.name}"
            for one in (content, again):
                assert httpx.post(url, json=one, headers={"webhook-id": "w"}).status_code == 204
            final = FinalState(orders={ORDER_ID: DECLINED})
            return [violation.detail for violation in receivers.violations(final, aged)]

    return told


def test_times_of_webhooks_may_differ_only_where_the_run_has_changed_them(received):
    assert received() == ["takes all: w came with two bodies"]
    assert received(aged={ORDER_ID}) == []
    assert received(aged={ORDER_ID}, totalOrderAmount="RM 1") == ["takes all: w came with two bodies"]
