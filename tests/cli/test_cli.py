"""The commands: what they print, what they change, and how they end."""

import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from bson import ObjectId
from werkzeug.serving import make_server

from app.cli.load import percentile
from app.contracts.base import rfc3339
from app.main import NO_DATABASE, create_app, runtime
from app.observability.stages import Stage

pytestmark = pytest.mark.extended

UNKNOWN = "692000000000000000000000"
WHY = ["--operator", "Ada", "--reason", "x", "--yes"]


@pytest.fixture
def run(app):
    """Run a command beside the server, with `typed` as standard input; returns its exit code and its output."""

    def command(*words, within=app, typed=None):
        result = within.test_cli_runner().invoke(args=words, input=typed)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    return command


@pytest.fixture
def served(app, running):
    """The address of a running application."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_demo_shows_nine_stages_of_a_good_order_and_of_a_declined_one(run, served):
    code, output = run("demo", "--url", served)
    assert code == 0, output
    good, declined = output.split("an order that is declined")
    for result in (good, declined):
        # A sweep may deliver once more what has just been delivered.
        assert set(re.findall(r"^  (\d)  ", result, re.MULTILINE)) == {*"123456789"}
    assert "is now Success" in output
    assert "is now Declined" in output


def test_the_demo_shows_who_passes_what_to_whom_and_the_order_itself(run, served):
    code, output = run("demo", "--url", served)
    assert code == 0, output
    for result, outcome in zip(output.split("an order that is declined"), ("Captured", "Declined"), strict=True):
        passed = re.findall(r"^  (\d)  .* (\w+) → (\w+) +(.+)$", result, re.MULTILINE)
        assert {*passed} >= {
            ("1", "client", "gateway", "POST /orders"),
            ("2", "gateway", "orders", "CreateOrder"),
            ("3", "orders", "database", "the order and OrderCreated"),
            ("4", "orders", "bus", "OrderCreated"),
            ("5", "bus", "payments", "OrderCreated"),
            ("6", "payments", "provider", f"a charge, which is {outcome.lower()}"),
            ("7", "payments", "bus", f"Payment{outcome}"),
            ("8", "bus", "orders", f"Payment{outcome}"),
            ("9", "orders", "database", f"{outcome.replace('Captured', 'Success')}, payment {outcome}"),
        }
        assert re.search(rf'^POST {served}/orders  {{"userId": "demo", "productId": "[12]", ', result, re.MULTILINE)
        assert re.search(rf"^     paymentStatus +{outcome}$", result, re.MULTILINE)
        assert re.search(r'^     total +{"value": 9900, "currency": "MYR"}$', result, re.MULTILINE)


def test_the_demo_reports_that_nothing_listens(run):
    code, output = run("demo", "--url", "http://127.0.0.1:9")
    assert code == 3
    assert "no Orderflow answers at http://127.0.0.1:9" in output
    assert "Traceback" not in output


def test_the_demo_reports_missing_stages(run, app):
    """A server whose background work does not run."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        code, output = run("demo", "--url", f"http://127.0.0.1:{server.port}", "--seconds", "0.5")
        server.shutdown()
    server.server_close()
    assert code == 1
    assert "of 9 stages were seen within 0.5 s" in output


@pytest.mark.parametrize("group", ["payments", "dead-letters"])
def test_lists_are_empty_where_all_is_well(run, group):
    assert run(group, "list")[0] == 0
    assert "none" in run(group, "list")[1]
    assert json.loads(run(group, "list", "--json")[1]) == []


def test_parked_payments_are_listed_with_their_reason(run, parked):
    order_id = parked()
    [row] = json.loads(run("payments", "list", "--json")[1])
    assert (row["orderId"], row["reason"], row["pendingCall"], row["amount"]) == (
        order_id,
        "no response",
        "charge",
        {"value": 9900, "currency": "MYR"},
    )
    assert order_id in run("payments", "list")[1]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_retried_payment_is_settled_with_the_same_key(run, parked, unresponsive, becomes, database, after):
    order_id = parked(after)
    assert run("payments", "retry", order_id, *WHY) == (0, f"{order_id} is now Processing\n")
    becomes(order_id, "Success", "Captured")
    assert database.ledger.count_documents({"answer": "captured"}) == 1
    assert set(unresponsive[1].charged) == {f"{order_id}:1"}


def test_a_retry_is_refused_when_the_provider_may_have_forgotten_the_key(run, parked, unresponsive, database, settings):
    order_id = parked()
    unresponsive[1].charged.clear()
    grow_old(database, order_id, settings)
    code, output = run("payments", "retry", order_id, *WHY)
    assert (code, "may have forgotten this key" in output) == (1, True)
    assert database.payments.find_one()["status"] == "Unknown"
    assert unresponsive[1].charged == []


def test_a_retry_settles_an_old_payment_by_what_the_provider_still_knows(run, parked, becomes, database, settings):
    order_id = parked(after=True)
    grow_old(database, order_id, settings)
    assert run("payments", "retry", order_id, *WHY) == (0, f"{order_id} is now Captured\n")
    becomes(order_id, "Success", "Captured")
    assert database.ledger.count_documents({"answer": "captured"}) == 1


@pytest.mark.parametrize(
    ("answer", "status", "ends"),
    [
        ("captured", "Captured", ("Success", "Captured")),
        ("declined", "Declined", ("Declined", "Declined")),
    ],
)
def test_a_payment_is_resolved_as_the_operator_says(run, parked, becomes, database, answer, status, ends):
    order_id = parked(after=answer == "captured")
    result = run(
        "payments", "resolve", order_id, answer, "--reference", "ref-9", "--reason", "Ann called the bank", "--yes"
    )
    assert result == (0, f"{order_id} is now {status}\n")
    becomes(order_id, *ends)
    assert "Ann called the bank" in database.payments.find_one()["attempts"][-1]["reason"]
    assert json.loads(run("payments", "list", "--json")[1]) == []


def test_a_payment_resolved_as_captured_after_its_order_was_cancelled_is_refunded(
    run, unresponsive, parked, becomes, database, eventually
):
    order_id = parked(after=True)
    unresponsive[1].unresponsive = True
    unresponsive[0].test_client().put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
    unresponsive[1].unresponsive = False
    becomes(order_id, "Cancelled", "Refunded")
    assert database.ledger.find_one()["refunded"] == 9900


def test_a_refund_that_is_refused_for_good_is_given_up(run, live, place, becomes, database, eventually):
    order_id = place(live)
    becomes(order_id, "Success", "Captured")
    # The provider has nothing left to give back.
    database.ledger.update_one({"_id": f"{order_id}:1"}, {"$set": {"refunded": 9900}})
    refund = live.post(f"/orders/one/{order_id}/refunds", json={"amount": "RM 9"}).json["refund"]["id"]
    becomes(order_id, "Success", "Unknown")
    [row] = json.loads(run("payments", "list", "--json")[1])
    assert (row["refundId"], "declined" in row["reason"]) == (refund, True)
    code, output = run("payments", "drop-refund", order_id, "another", *WHY)
    assert (code, "does not wait" in output) == (1, True)
    result = run("payments", "drop-refund", order_id, refund, "--reason", "the card was closed", "--yes")
    assert result == (0, f"{order_id} is now Captured\n")
    becomes(order_id, "Success", "Captured")
    # As the application sees it: what a majority has, which may be a moment behind what the primary has.
    eventually(lambda: "dropped: the card was closed" in live.get(f"/orders/one/{order_id}/explain").json["sentence"])
    assert "the card was closed" in database.orders.find_one()["events"][-1]["detail"]


def test_a_payment_is_not_resolved_while_its_last_call_may_still_reach_the_provider(run, parked, database, settings):
    order_id = parked(call_ended=False)
    [row] = json.loads(run("payments", "list", "--json")[1])
    last = database.payments.find_one()["attempts"][-1]["at"] + timedelta(seconds=settings.payment_lease)
    assert row["callEnds"] == rfc3339(last)
    code, output = run("payments", "resolve", order_id, "declined", "--reason", "x", "--yes")
    assert (code, f"look there after {last:%Y-%m-%dT%H:%M:%SZ}" in output) == (1, True), output
    assert database.payments.find_one()["status"] == "Unknown"


@pytest.mark.parametrize(("answered", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_a_payment_is_resolved_only_after_confirmation(run, parked, database, answered, code):
    order_id = parked(after=True)
    result = run("payments", "resolve", order_id, "captured", "--reason", "x", "--operator", "Ada", typed=answered)
    assert result[0] == code, result[1]
    assert f"{order_id} is recorded as captured by Ada" in result[1]
    assert database.payments.find_one()["status"] == ("Unknown" if code else "Captured")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["retry", "0123456789abcdef01234567", *WHY], 1, "there is no payment for order"),
        (["retry", "x"], 2, "--reason"),
        (
            ["resolve", "0123456789abcdef01234567", "captured", "--reason", "x", "--yes"],
            1,
            "there is no payment for order",
        ),
        (["resolve", "x", "captured"], 2, "--reason"),
        (["drop-refund", "0123456789abcdef01234567", "r", *WHY], 1, "there is no payment for order"),
        (["drop-refund", "x", "r"], 2, "--reason"),
        (["resolve", "x", "perhaps", "--reason", "x"], 2, "perhaps"),
        (["retry"], 2, "Missing argument"),
        (["retry", "x", "--operator", "Ada", "--reason", "4242 4242 4242 4242", "--yes"], 1, "card number"),
        (["retry", "x", "--operator", "4242424242424242", "--reason", "x", "--yes"], 1, "card number"),
        (["retry", "x", "--operator", "Ada", "--reason", "", "--yes"], 2, "must not be empty"),
        (["retry", "x", "--operator", "Ada", "--reason", "a\u202eb", "--yes"], 2, "invisible"),
    ],
)
def test_a_command_on_a_payment_that_fails_says_why_in_a_sentence(run, words, code, said):
    result = run("payments", *words)
    assert (result[0], said in result[1]) == (code, True), result[1]
    assert "Traceback" not in result[1]


def test_a_payment_that_is_not_parked_is_left_alone(run, served, place, app, becomes, database):
    order_id = place(app.test_client())
    becomes(order_id, "Success", "Captured")
    for words in (["retry", order_id, *WHY], ["resolve", order_id, "declined", *WHY]):
        code, output = run("payments", *words)
        assert (code, "not parked" in output) == (1, True)
    assert database.payments.find_one()["status"] == "Captured"


def test_a_refund_cannot_be_resolved_as_a_decline_of_the_charge(run, parked, database):
    order_id = parked()
    code, output = run("payments", "resolve", order_id, "refunded", "--reason", "x", "--yes")
    assert (code, "cannot be resolved as refunded" in output) == (1, True)
    assert database.payments.find_one()["status"] == "Unknown"


def test_dead_letters_are_listed_with_their_reason(run, dead_letter):
    [row] = json.loads(run("dead-letters", "list", "--json")[1])
    assert (row["module"], row["orderId"], row["event"], row["failures"]) == ("orders", dead_letter, "Nonsense", 8)
    assert "Nonsense" in row["reason"]
    assert dead_letter in run("dead-letters", "list")[1]


def test_a_replayed_dead_letter_is_delivered(run, dead_letter, app, database, becomes):
    database.orders.update_one({}, {"$set": {"outbox.0.type": "OrderCreated"}})
    assert run("dead-letters", "replay", dead_letter, *WHY) == (0, f"{dead_letter}: due again in orders\n")
    assert json.loads(run("dead-letters", "list", "--json")[1]) == []
    runtime(app).start()
    becomes(dead_letter, "Success", "Captured")


def test_a_replay_without_a_dead_letter_says_so_in_a_sentence(run):
    for order_id, said in ((UNKNOWN, f"order {UNKNOWN} has no dead letter"), ("x", "there is no order with this id")):
        code, output = run("dead-letters", "replay", order_id, *WHY)
        assert (code, said in output) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ["doctor"],
        ["payments", "list"],
        ["dead-letters", "list"],
        ["orders", "list"],
        ["orders", "show", UNKNOWN],
    ],
    ids=" ".join,
)
def test_without_a_database_a_command_says_so(run, settings, words):
    nowhere = create_app(replace(settings, mongodb_uri=NO_DATABASE, request_deadline=0.2, background_deadline=0.2))
    try:
        code, output = run(*words, within=nowhere)
    finally:
        runtime(nowhere).stop()
    assert (code, "is MONGODB_URI right" in output) == (3, True), output
    assert "Traceback" not in output


def test_the_demo_prints_the_same_stages_as_json(run, served):
    code, output = run("demo", "--url", served, "--json")
    result = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert {line["stage"] for line in result if "stage" in line} == {*Stage}
    assert [line["orderStatus"] for line in result if "stage" not in line] == ["Success", "Declined"]
    assert [line["order"]["paymentStatus"] for line in result if "stage" not in line] == ["Captured", "Declined"]
    assert all(line["from"] and line["to"] and line["passed"] for line in result if "stage" in line)


def come_apart(database, order_ids):
    """Let orders have come an hour apart: where a heartbeat is late, the database's clock is set back by a little."""
    for at, order_id in enumerate(order_ids):
        database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"createdAt": datetime(2030, 1, 1, at)}})


def test_orders_of_a_user_are_listed_newest_first(run, client, place, database):
    first, second = place(client, userId="ada"), place(client, userId="ada")
    come_apart(database, [first, second])
    place(client, userId="bob")
    result = json.loads(run("orders", "list", "--user", "ada", "--json")[1])
    assert [order["id"] for order in result] == [second, first]
    shown = run("orders", "list", "--user", "ada", "--limit", "1")[1]
    assert second in shown
    assert first not in shown
    assert "none" in run("orders", "list", "--user", "ada", "--status", "Success")[1]


def test_orders_of_all_are_listed_whole_or_by_status(run, client, place):
    placed = [place(client, userId=user) for user in ("ada", "bob", "ada")]
    result = json.loads(run("orders", "list", "--json")[1])
    assert {order["id"] for order in result} == set(placed)
    assert len(json.loads(run("orders", "list", "--limit", "2", "--json")[1])) == 2
    assert len(json.loads(run("orders", "list", "--status", "Processing", "--json")[1])) == 3
    assert json.loads(run("orders", "list", "--status", "Success", "--json")[1]) == []


def test_orders_are_listed_by_time_and_from_the_oldest(run, client, place, database):
    placed = [place(client, userId="ada") for _ in range(3)]
    come_apart(database, placed)
    times = ["--created-from", "2030-01-01T01:00:00Z", "--created-to", "2030-01-01T03:00:00+01:00"]
    for user in ([], ["--user", "ada"]):
        for words, wanted in (([], placed[::-1]), (["--oldest-first"], placed), (times, placed[1:2])):
            found = json.loads(run("orders", "list", *words, *user, "--json")[1])
            assert [order["id"] for order in found] == wanted


def test_orders_are_exported_and_taken_up_again(run, client, place, database):
    placed = [place(client, userId=user) for user in ("ada", "bob", "ada")]
    come_apart(database, placed)
    lines = run("orders", "export", "--oldest-first")[1].splitlines()
    assert [json.loads(line)["id"] for line in lines] == placed
    assert run("orders", "export", "--oldest-first", "--after", placed[0])[1].splitlines() == lines[1:]
    header, *records = run("orders", "export", "--user", "ada", "--format", "csv")[1].splitlines()
    assert header.startswith("id,createdAt,")
    assert [record[:24] for record in records] == [placed[2], placed[0]]
    assert run("orders", "export", "--status", "Success")[1] == ""
    code, output = run("orders", "export", "--after", "692000000000000000000000")
    assert (code, "no order with this id" in output) == (1, True)


def test_stuck_orders_are_listed(run, dead_letter, client, place):
    late = place(client, userId="ada")
    assert [order["id"] for order in json.loads(run("orders", "list", "--stuck", "--json")[1])] == [dead_letter]
    result = json.loads(run("orders", "list", "--stuck", "--user", "ada", "--overdue", "-60", "--json")[1])
    assert [order["id"] for order in result] == [late]
    assert json.loads(run("orders", "list", "--stuck", "--status", "Success", "--json")[1]) == []


def test_disputed_orders_and_failed_refunds_are_found(run, client, place, database):
    disputed, failed = place(client), place(client)
    place(client)
    database.orders.update_one({"_id": ObjectId(disputed)}, {"$set": {"paymentStatus": "Disputed"}})
    refunds = [{"id": "r", "value": 1, "requested": "1 MYR", "status": "failed"}]
    database.orders.update_one({"_id": ObjectId(failed)}, {"$set": {"refunds": refunds}})
    for words, order_id in ((["--payment-status", "Disputed"], disputed), (["--refund-failed"], failed)):
        for user in ([], ["--user", "user-7"]):
            found = json.loads(run("orders", "list", *words, *user, "--json")[1])
            assert [order["id"] for order in found] == [order_id]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--status", "Disputed"], "Disputed is a paymentStatus"),
        (["--status", "success"], "write Success"),
        (["--payment-status", "disputed"], "'Disputed'"),
        (["--stuck", "--refund-failed"], "cannot be combined"),
        (["--stuck", "--created-to", "2030-01-01T00:00:00Z"], "cannot be combined with --created-to"),
        (["--created-from", "2030-01-01"], "with an offset"),
    ],
)
def test_a_choice_of_orders_that_selects_nothing_is_refused(run, words, said):
    code, output = run("orders", "list", *words)
    assert (code, said in output) == (2, True)


def test_an_order_is_shown_with_its_changes_their_amounts_and_requests(run, live, place, eventually):
    order_id = place(live)
    eventually(lambda: live.get(f"/orders/one/{order_id}").json["order"]["paymentStatus"] == "Captured")
    live.post(
        f"/orders/one/{order_id}/refunds",
        json={"amount": "RM 10", "reason": "scratched"},
        headers={"X-Request-Id": "the-refund"},
    )
    eventually(lambda: live.get(f"/orders/one/{order_id}").json["order"]["refunded"]["value"] == 1000)
    [line] = [
        line for line in run("orders", "show", order_id)[1].splitlines() if "RefundRequested" in line and "→" in line
    ]
    assert re.search(r"^2\S+Z +3 ", line)
    assert [text in line for text in ("MYR 10", "scratched", "the-refund")] == [True] * 3
    assert re.search(rf"{order_id}\s+\S+T\S+Z", run("orders", "list")[1])


def test_differences_have_titles_for_people_and_amounts_a_currency(run, live, place, becomes, database):
    order_id = place(live)
    becomes(order_id, "Success", "Captured")
    database.ledger.update_one({"orderId": order_id}, {"$set": {"value": 9800}})
    code, output = run("payments", "reconcile")
    assert code == 1
    assert "order_id" not in output
    assert "the provider has captured 9800, refunded 0, disputed 0 in minor units of MYR" in output


def test_a_server_that_asks_for_a_token_is_answered_in_a_sentence(run, settings, served):
    def refuse(environ, start_response):
        start_response("401 Unauthorized", [("Content-Type", "application/problem+json")])
        return [json.dumps({"detail": "a bearer token is required", "code": "unauthorized"}).encode()]

    server = make_server("127.0.0.1", 0, refuse)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        code, output = run("demo", "--url", f"http://127.0.0.1:{server.port}")
        server.shutdown()
    server.server_close()
    assert (code, "a bearer token is required; --token takes one" in output, "{" in output.split("answered")[1]) == (
        1,
        True,
        False,
    )
    assert run("demo", "--url", served, "--token", "x")[0] == 0


def test_orders_whose_payment_is_parked_are_stuck(run, parked):
    order_id = parked()
    assert [order["id"] for order in json.loads(run("orders", "list", "--stuck", "--json")[1])] == [order_id]


def test_an_order_is_shown_with_its_latency(run, served, place, app, becomes, eventually):
    order_id = place(app.test_client())
    becomes(order_id, "Success", "Captured")
    result = json.loads(run("orders", "show", order_id, "--json")[1])
    assert (result["order"]["id"], result["order"]["orderStatus"]) == (order_id, "Success")
    assert [event["type"] for event in result["events"]] == ["OrderCreated", "PaymentCaptured"]
    assert [attempt["answer"] for attempt in result["attempts"]] == ["captured"]
    eventually(lambda: len(json.loads(run("orders", "show", order_id, "--json")[1])["stages"]) == len(Stage))
    shown = run("orders", "show", order_id)[1]
    facts = (order_id, "RM 99", "OrderCreated", "PaymentCaptured", "charge, attempt 1", "event handed to payments", "█")
    assert [text for text in facts if text not in shown] == []


def test_an_order_is_watched_until_it_has_settled(run, app, client, place):
    order_id = place(client)
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(run, "orders", "watch", order_id, "--json")
        runtime(app).start()
        code, output = watching.result()
    assert code == 0
    assert [json.loads(line)["to"] for line in output.splitlines()] == ["Processing", "Success"]
    code, output = run("orders", "watch", order_id)
    assert (code, output.count("→")) == (0, 2)


def test_an_order_that_does_not_settle_is_watched_only_so_long(run, client, place):
    code, output = run("orders", "watch", place(client), "--seconds", "0.1")
    assert (code, "did not settle within 0.1 s" in output) == (1, True)


def test_an_order_is_explained_as_the_api_does(run, client, place):
    order_id = place(client)
    sentence = client.get(f"/orders/one/{order_id}/explain").json["sentence"]
    result = json.loads(run("orders", "explain", order_id, "--json")[1])
    assert (result["sentence"], result["waitsFor"]) == (sentence, "the relay")
    shown = run("orders", "explain", order_id)[1]
    assert sentence in shown
    assert "the relay" in shown


@pytest.fixture
def authorized(client, place, database):
    """The id of an order whose total is authorized, and whose customer must do something that no command shows."""
    order_id = place(client, capture="manual")
    action = {"type": "confirm", "clientSecret": "pi_1_secret_2", "expiresAt": database.orders.find_one()["createdAt"]}
    state = {"paymentStatus": "Authorized", "authorized": 9900, "nextAction": action}
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": state})
    return order_id


def test_an_order_is_captured_once_in_part(run, authorized, database):
    code, output = run("orders", "capture", authorized, "--amount", "RM 40")
    assert (code, output) == (0, f"{authorized}: the capture of MYR 40.00 is on record\n")
    stored = database.orders.find_one({"_id": ObjectId(authorized)})
    assert (stored["captureRequested"], stored["outbox"][-1]["type"]) == (4000, "CaptureRequested")
    again = json.loads(run("orders", "capture", authorized, "--amount", "MYR 40.00", "--json")[1])
    assert again == {"orderId": authorized, "amount": "MYR 40.00", "replayed": True}
    code, output = run("orders", "capture", authorized)
    assert (code, "another amount" in output) == (1, True)
    assert database.orders.find_one({"_id": ObjectId(authorized)}) == stored


def test_an_order_is_captured_whole(run, authorized, database):
    assert run("orders", "capture", authorized)[0] == 0
    assert database.orders.find_one({"_id": ObjectId(authorized)})["captureRequested"] == 9900


@pytest.mark.parametrize(("amount", "code"), [("40", 2), ("RM 99.01", 1), ("USD 1", 1)])
def test_a_wrong_capture_takes_nothing(run, authorized, database, amount, code):
    before = database.orders.find_one({"_id": ObjectId(authorized)})
    assert run("orders", "capture", authorized, "--amount", amount)[0] == code
    assert database.orders.find_one({"_id": ObjectId(authorized)}) == before


@pytest.fixture
def paid(client, place, database):
    """The id of an order of 5000 yen that was paid."""
    order_id = place(client, totalOrderAmount="JPY 5000")
    state = {"orderStatus": "Success", "paymentStatus": "Captured"}
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": state})
    return order_id


def test_an_order_is_refunded_in_part_and_once_for_one_key(run, paid, database):
    asked = ("orders", "refund", paid, "--amount", "JPY 1000", "--reason", "damaged", "--key", "k1")
    code, output = run(*asked)
    [refund] = database.orders.find_one({"_id": ObjectId(paid)})["refunds"]
    assert (code, output) == (0, f"{paid}: the refund {refund['id']} of JPY 1000 is on record\n")
    assert (refund["value"], refund["reason"], refund["status"]) == (1000, "damaged", "pending")
    again = json.loads(run(*asked, "--json")[1])
    assert again == {"orderId": paid, "refundId": refund["id"], "amount": "JPY 1000", "replayed": True}
    assert run("orders", "refund", paid, "--key", "k1")[0] == 1
    assert json.loads(run("orders", "refund", paid, "--json")[1])["amount"] == "JPY 4000"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--amount", "1000"), 2),
        (("--amount", "JPY 5001"), 1),
        (("--amount", "USD 1"), 1),
        (("--reason", "two\nlines"), 2),
        (("--reason", "4242 4242 4242 4242"), 1),
    ],
)
def test_a_wrong_refund_gives_nothing_back(run, paid, database, options, code):
    before = database.orders.find_one({"_id": ObjectId(paid)})
    assert run("orders", "refund", paid, *options)[0] == code
    assert database.orders.find_one({"_id": ObjectId(paid)}) == before


def test_an_order_is_shown_with_its_money(run, paid, database):
    run("orders", "refund", paid, "--amount", "JPY 1000", "--reason", "damaged")
    shown = run("orders", "show", paid)[1]
    for name, text in (
        ("captured", "JPY 5000"),
        ("refunded", "JPY 0"),
        ("pending", "JPY 1000"),
        ("refundable", "JPY 4000"),
    ):
        assert re.search(rf"^\s*{name}\s+{text}\s*$", shown, re.MULTILINE), name
    [refund] = database.orders.find_one({"_id": ObjectId(paid)})["refunds"]
    assert f"{refund['id']} of JPY 1000 at" in shown
    assert "pending (damaged)" in shown
    [row] = [line for line in run("orders", "list")[1].splitlines() if paid in line]
    assert row.split()[3:] == ["JPY", "5000", "JPY", "5000", "-", "Success", "Refunding"]
    watched = run("orders", "watch", paid, "--seconds", "0.1")[1]
    assert "payment Refunding  JPY 1000, damaged" in watched


def test_an_authorized_order_is_shown_with_its_amount_and_no_secret(run, authorized):
    shown = run("orders", "show", authorized)[1]
    assert "MYR 99.00" in shown
    for words in (("orders", "show"), ("orders", "explain"), ("orders", "watch", "--seconds", "0.1")):
        for output in (run(*words, authorized)[1], run(*words, authorized, "--json")[1]):
            assert authorized in output or "Authorized" in output
            assert "secret" not in output
            assert "nextAction" not in output
    assert "capture" in run("orders", "explain", authorized)[1]


@pytest.mark.parametrize("command", ["show", "watch", "explain", "capture"])
@pytest.mark.parametrize("order_id", [UNKNOWN, "x"])
def test_an_unknown_order_is_reported_in_a_sentence(run, command, order_id):
    code, output = run("orders", command, order_id)
    assert (code, "there is no order with this id" in output) == (1, True), output


@pytest.mark.parametrize(
    ("word", "more", "status"),
    [("retry", WHY, "Processing"), ("resolve", ["captured", "--reason", "x", "--yes"], "Captured")],
)
def test_commands_on_payments_print_json(run, parked, word, more, status):
    order_id = parked()
    result = json.loads(run("payments", word, order_id, *more, "--json")[1])
    assert result == {"orderId": order_id, "paymentStatus": status}


def test_a_replay_prints_json(run, dead_letter):
    result = json.loads(run("dead-letters", "replay", dead_letter, *WHY, "--json")[1])
    assert result == {"orderId": dead_letter, "replayedIn": ["orders"]}


def test_a_load_reports_responses_latency_and_statuses(run, served, database):
    words = ["load", "--orders", "30", "--rate", "200", "--connections", "4", "--url", served]
    code, output = run(*words, "--json")
    result = json.loads(output.splitlines()[-1])
    assert code == 0, output
    assert (result["sent"], result["responses"], result["accepted"], result["settled"]) == (30, {"201": 30}, 30, 30)
    assert result["orderStatuses"] == {"Success": 30}
    assert (
        0
        < result["latencyMs"]["p50"]
        <= result["latencyMs"]["p90"]
        <= result["latencyMs"]["p99"]
        <= result["latencyMs"]["max"]
    )
    assert result["seconds"] >= 29 / 200
    assert database.orders.count_documents({"userId": "load"}) == 30
    shown = run(*words, "--product", "2")[1]
    assert "now Declined" in shown
    assert "30 of 30" in shown


def test_a_load_that_does_not_settle_ends_with_a_code(run, app):
    """A server whose background work does not run."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        words = ["--orders", "3", "--settle", "0.1", "--url", f"http://127.0.0.1:{server.port}", "--json"]
        code, output = run("load", *words)
        server.shutdown()
    server.server_close()
    result = json.loads(output.splitlines()[-1])
    assert (code, result["accepted"], result["settled"], result["orderStatuses"]) == (1, 3, 0, {"Processing": 3})


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--url", "http://127.0.0.1:9"], 3, "no Orderflow answers at http://127.0.0.1:9"),
        (["--url", "http://192.0.2.1:7000"], 2, "--remote"),
        (["--url", "http://shop.example"], 2, "--remote"),
        (["--orders", "0"], 2, "0"),
        (["--rate", "1000000"], 2, "1000000"),
        (["--connections", "100000"], 2, "100000"),
    ],
)
def test_an_impossible_load_is_refused_in_a_sentence(run, words, code, said):
    result = run("load", *words)
    assert (result[0], said in result[1], "Traceback" in result[1]) == (code, True, False), result[1]


def test_percentiles_are_values_that_were_seen():
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert (percentile([7.0], 50), percentile([], 99)) == (7.0, 0.0)


def test_a_shell_completes_the_commands(tmp_path):
    flask = Path(sys.executable).parent / "flask"
    completion = {"_FLASK_COMPLETE": "bash_complete", "COMP_WORDS": "flask --app app.main orders ", "COMP_CWORD": "4"}
    environ = {**os.environ, **completion, "ORDERFLOW_DATA": str(tmp_path)}
    result = subprocess.run([flask], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert {line.partition(",")[2] for line in result.stdout.split()} == {
        "capture",
        "explain",
        "export",
        "list",
        "refund",
        "show",
        "watch",
    }


def test_every_command_prints_json_and_has_a_help(app):
    def commands(group, *words):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, *words, name)
            else:
                yield " ".join((*words, name)), command

    found = dict(commands(app.cli))
    assert found.pop("worker").help  # It becomes the server, and answers nothing.
    assert found.pop("orders export").help  # Its output has a format of its own.
    assert {"demo", "doctor", "load", "orders list", "payments resolve", "dead-letters replay"} <= found.keys()
    for name, command in found.items():
        assert command.help, name
        assert "--json" in {option for parameter in command.params for option in parameter.opts}, name


def grow_old(database, order_id, settings):
    first = database.payments.find_one({"_id": order_id})["keySentAt"]
    older = first - timedelta(hours=settings.provider_key_hours, minutes=1)
    database.payments.update_one({"_id": order_id}, {"$set": {"keySentAt": older}})


def test_orders_are_listed_and_shown_with_their_metadata(run, client, place):
    place(client, metadata={"cart": "A-1"})
    order_id = place(client, metadata={"cart": "B=2", "table": "7"})
    pairs = ("--metadata", "cart=B=2", "--metadata", "table=7")
    for user in ((), ("--user", "user-7")):
        [row] = json.loads(run("orders", "list", "--json", *pairs, *user)[1])
        assert (row["id"], row["metadata"]) == (order_id, {"cart": "B=2", "table": "7"})
    assert "cart=B=2" in run("orders", "show", order_id)[1]
    for wrong in ("cart", "=7"):
        code, output = run("orders", "list", "--metadata", wrong)
        assert (code, "write KEY=VALUE" in output) == (2, True)
    assert run("orders", "list", "--stuck", *pairs)[0] == 2


def test_an_order_is_shown_with_its_items(run, client):
    item = {"productId": "1", "productName": "Beans", "quantity": 3, "unitAmount": "RM 33"}
    placed = client.post("/orders", json={"userId": "user-7", "items": [item]}).json["created"]["id"]
    assert "3 × Beans (1), each MYR 33.00" in run("orders", "show", placed)[1]


def test_a_users_personal_data_is_erased_by_a_server(run, client, place, app, database, eventually):
    order_id = place(client, userId="ada")
    code, output = run("users", "erase", "ada", "--operator", "Eve", "--yes")
    assert (code, "the money of an order of this user moves" in output) == (1, True)
    settled = {"orderStatus": "Success", "paymentStatus": "Captured", "outbox": []}
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": settled, "$unset": {"relayDue": ""}})
    assert run("users", "erase", "ada", "--operator", "Eve", "--yes")[0] == 0
    [row] = json.loads(run("users", "erasures", "--json")[1])
    assert (row["requestedBy"], row["pseudonym"][:7], "completedAt" in row) == ("Eve", "erased-", False)
    assert "not yet" in run("users", "erasures")[1]
    runtime(app).start()
    eventually(lambda: database.orders.count_documents({"userId": row["pseudonym"]}) == 1)
