"""What an operator does is settled, is on record under the operator's own request, and is seen at once."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import CapturingLogger

from app.doctor import Doctor
from app.main import create_app, runtime
from app.observability import metrics
from app.payments.providers import entries
from app.storage.mongodb import Database

pytestmark = pytest.mark.extended

WHO = ["--operator", "Ada", "--reason", "bank transfer 7", "--yes"]


@pytest.fixture
def run(settings):
    """Run a command in an application of its own, as beside a server, with `changes` of settings; returns exit code and output."""

    def command(*words, **changes):
        beside = create_app(replace(settings, **changes))
        result = beside.test_cli_runner().invoke(args=words)
        runtime(beside).stop()
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout if result.exit_code == 0 else result.output

    return command


@pytest.fixture
def examine(settings):
    """What the doctor finds broken."""

    def find():
        database = Database(settings.mongodb_uri, settings.database)
        doctor = Doctor(*(database.collection(name, 30.0) for name in ("orders", "payments", "ledger")), 60.0)
        found = [(one.check, one.detail) for one in doctor.examine((), 0.0).violations]
        database.close()
        return found

    return find


@pytest.fixture
def refund_failed(live, place, becomes, eventually, database, monkeypatch):
    """The id of a cancelled order whose refund has failed at the provider, so that its payment is parked."""
    monkeypatch.setattr(entries, "DELAY", timedelta(0))
    order_id = place(live, productId="refund-fails-later")
    becomes(order_id, "Success", "Captured")
    cancelled = live.put(
        "/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}, headers={"X-Request-Id": "the-cancel"}
    )
    assert cancelled.status_code == 200
    becomes(order_id, "Cancelled", "Unknown")
    # Until the provider's notification is applied, the payment may change under the operator's hands.
    applied = {
        "_id": order_id,
        "dueAt": {"$exists": False},
        "$expr": {"$eq": ["$refreshesRequested", "$refreshesMade"]},
    }
    told = {"orderId": order_id, "outcome": "applied"}
    eventually(lambda: database.notifications.count_documents(told) and database.payments.count_documents(applied))
    return order_id


def differences(run):
    return [one["kind"] for one in json.loads(run("payments", "reconcile", "--json")[1])]


def test_money_given_back_by_other_means_is_settled(run, examine, refund_failed, becomes):
    assert run("payments", "resolve", refund_failed, "refunded", *WHO)[0] == 0
    becomes(refund_failed, "Cancelled", "Refunded")
    assert (examine(), differences(run)) == ([], [])
    assert run("doctor", "--pause", "0")[0] == 0


def test_of_what_was_given_back_by_other_means_no_other_amount_is_hidden(
    run, examine, refund_failed, becomes, database
):
    run("payments", "resolve", refund_failed, "refunded", *WHO)
    becomes(refund_failed, "Cancelled", "Refunded")
    database.ledger.update_one({"orderId": refund_failed}, {"$set": {"refunded": 100}})
    assert examine() == [("ledger balance", "Cancelled, the provider holds 9800 instead of 9900")]


def test_a_refund_that_an_operator_names_must_be_at_the_provider(run, examine, refund_failed, becomes):
    assert run("payments", "resolve", refund_failed, "refunded", "--reference", "re_none", *WHO)[0] == 0
    becomes(refund_failed, "Cancelled", "Refunded")
    assert examine() == [("ledger balance", "Cancelled, the provider holds 9900 instead of 0")]
    assert differences(run) == ["amounts"]


def test_what_was_not_given_back_after_all_is_no_longer_settled(
    run, live, refund_failed, becomes, database, eventually
):
    run("payments", "resolve", refund_failed, "refunded", *WHO)
    becomes(refund_failed, "Cancelled", "Refunded")
    assert run("payments", "resolve", refund_failed, "captured", *WHO)[0] == 0
    becomes(refund_failed, "Cancelled", "Unknown")
    refunds = database.payments.find_one({"_id": refund_failed})["refunds"]
    assert [(one["refund_id"], one["status"], one["by_other_means"]) for one in refunds] == [
        ("cancel", "failed", ""),
        ("cancel-2", "failed", ""),
        ("cancel-3", "requested", ""),
    ]
    told = {one["id"]: one.get("failure") for one in live.get(f"/orders/one/{refund_failed}/refunds").json["refunds"]}
    assert told == {
        "cancel": "the payer's bank did not accept the refund",
        "cancel-2": "an operator has found that it was not made",
        "cancel-3": None,
    }
    assert database.payments.find_one()["parkedReason"] == (
        "refund cancel-2 failed, resolve it as refunded, then give it back by other means: "
        "an operator has found that it was not made"
    )


def test_a_failed_refund_of_a_cancelled_order_is_counted(request):
    before = metrics.refunds_failed._value.get()
    request.getfixturevalue("refund_failed")
    assert metrics.refunds_failed._value.get() == before + 1


def test_that_nothing_is_known_of_the_money_is_said(unresponsive, parked):
    client, order_id = unresponsive[0].test_client(), parked()
    order = client.get(f"/orders/one/{order_id}").json["order"]
    assert (order["captured"]["value"], order["uncertain"]) == (0, {"value": 9900, "currency": "MYR"})
    sentence = client.get(f"/orders/one/{order_id}/explain").json["sentence"]
    assert "it is not known whether its money was taken" in sentence


def test_what_is_known_of_a_failed_refund_is_said(live, refund_failed):
    known = live.get(f"/orders/one/{refund_failed}").json["order"]
    assert (known["captured"]["value"], "uncertain" in known) == (9900, False)
    sentence = live.get(f"/orders/one/{refund_failed}/explain").json["sentence"]
    assert "the payer's bank did not accept the refund" in sentence


def test_what_waits_for_its_customer_is_not_stuck(live, place, database, eventually, run):
    _, overdue = place(live, productId="action-required"), place(live, productId="action-required")
    eventually(lambda: database.payments.count_documents({"status": "ActionRequired", "outbox": []}) == 2)
    eventually(lambda: database.orders.count_documents({"paymentStatus": "ActionRequired", "outbox": []}) == 2)
    long_ago = database.payments.find_one()["requestedAt"] - timedelta(hours=2)
    database.payments.update_many({}, {"$set": {"requestedAt": long_ago}})
    assert live.get("/orders?stuck=true").json["orders"] == []
    late = {"waitsUntil": long_ago, "dueAt": database.payments.find_one()["dueAt"] + timedelta(hours=9)}
    database.payments.update_one({"_id": overdue}, {"$set": late})
    assert [one["id"] for one in live.get("/orders?stuck=true").json["orders"]] == [overdue]
    assert [one["id"] for one in json.loads(run("orders", "list", "--stuck", "--json")[1])] == [overdue]


def test_why_a_payment_was_declined_is_in_the_explanation(live, place, becomes, eventually):
    declined = place(live, productId="2")
    becomes(declined, "Declined", "Declined")
    eventually(lambda: "(declined by the issuer" in live.get(f"/orders/one/{declined}/explain").json["sentence"])


def requests(client, order_id):
    """The types of changes of an order by the request that caused them."""
    found = client.get(f"/orders/one/{order_id}/requests").json["requests"]
    return {one["requestId"]: [change["type"] for change in one["changes"]] for one in found}


def by_operator(client, path, request_id, **members):
    body = {"operator": "Ada", "reason": "seen", **members}
    answer = client.post(f"/operations{path}", json=body, headers={"X-Request-Id": request_id})
    assert answer.status_code == 200, answer.text


@pytest.fixture
def logged(monkeypatch):
    """The log's lines about what operators did, with their request ids."""
    captured = CapturingLogger()
    for module in ("app.payments.manual_review", "app.payments.review_service", "app.orders.service"):
        monkeypatch.setattr(f"{module}.log", captured)
    return lambda: [(call.args[0], call.kwargs.get("request_id")) for call in captured.calls]


def test_an_operators_request_is_on_the_order_and_in_the_log(unresponsive, parked, becomes, eventually, logged):
    client = unresponsive[0].test_client()
    order_id = parked()
    by_operator(client, f"/parked/{order_id}/retry", "the-retry")
    becomes(order_id, "Success", "Captured")
    eventually(lambda: requests(client, order_id).get("the-retry") == ["PaymentRetried"])
    assert ("payment reviewed", "the-retry") in logged()


def test_a_resolution_has_its_own_request_and_not_that_of_the_cancellation(live, refund_failed, eventually, logged):
    by_operator(live, f"/parked/{refund_failed}/resolve", "the-resolution", outcome="refunded")
    eventually(lambda: requests(live, refund_failed).get("the-resolution") == ["PaymentRefunded"])
    assert ("payment reviewed", "the-resolution") in logged()
    assert "PaymentRefunded" not in requests(live, refund_failed)["the-cancel"][2:]
    attempts = live.get(f"/orders/one/{refund_failed}/requests").json["requests"][-1]["attempts"]
    assert [one["answer"] for one in attempts] == ["refunded"]


def test_the_replay_of_a_dead_letter_has_its_own_request(client, dead_letter, logged):
    by_operator(client, f"/dead-letters/{dead_letter}/replay", "the-replay")
    assert requests(client, dead_letter)["the-replay"] == ["DeadLetterReplayed"]
    assert ("dead letter replayed", "the-replay") in logged()


def test_a_command_has_a_request_id_of_its_own(run, live, refund_failed, becomes):
    run("payments", "resolve", refund_failed, "refunded", *WHO)
    becomes(refund_failed, "Cancelled", "Refunded")
    [own] = [name for name, types in requests(live, refund_failed).items() if name.startswith("cli-")]
    assert requests(live, refund_failed)[own] == ["PaymentRefunded"]


@pytest.mark.parametrize("lease", [21.0, 39.0])
def test_until_when_a_call_may_arrive_is_what_the_calling_server_says(run, unresponsive, parked, lease):
    order_id = parked(call_ended=False)
    [shown] = unresponsive[0].test_client().get("/operations/parked").json["parked"]
    [row] = json.loads(run("payments", "list", "--json", payment_lease=lease)[1])
    assert row["callEnds"] == shown["callEnds"]
    code, _ = run("payments", "resolve", order_id, "captured", *WHO, payment_lease=lease)
    assert code == 1


@pytest.mark.usefixtures("unresponsive")
@pytest.mark.parametrize(
    ("words", "kind"), [(["resolve", "captured"], "PaymentCaptured"), (["retry"], "PaymentRetried")]
)
def test_what_a_command_does_is_on_the_order_when_the_command_ends(run, parked, database, words, kind):
    order_id = parked()
    assert run("payments", words[0], order_id, *words[1:], *WHO, relay_lease=600.0)[0] == 0
    [order] = database.orders.find()
    assert kind in [entry["type"] for entry in order["events"]]


def test_a_payment_of_another_provider_is_not_judged_by_this_one(run, live, place, becomes, database):
    order_id = place(live)
    becomes(order_id, "Success", "Captured")
    refunds = [{"refund_id": "r", "value": 100, "status": "requested", "reference": ""}]
    parked = {"status": "Unknown", "parkedReason": "refused", "provider": "stripe", "refunds": refunds}
    database.payments.update_one({"_id": order_id}, {"$set": parked})
    code, output = run("payments", "drop-refund", order_id, "r", *WHO)
    assert (code, "the payment is at stripe" in output) == (1, True)


def test_standard_output_is_one_document_and_the_log_is_beside_it(parked, settings):
    order_id = parked()
    environ = {**os.environ, "MONGODB_URI": settings.mongodb_uri, "MONGODB_DATABASE": settings.database}
    words = ["payments", "retry", order_id, *WHO, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "app", *words],
        env={**environ, "LOG_LEVEL": "info", "LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert json.loads(done.stdout) == {"orderId": order_id, "paymentStatus": "Processing"}, done
    assert '"event":"payment reviewed"' in done.stderr
