"""The commands: what they print, what they change, and how they end."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from bson import ObjectId
from werkzeug.serving import make_server

from app.cli.load import percentile
from app.main import NO_DATABASE, create_app, runtime
from app.observability.stages import Stage
from app.payments.payment import ProviderResponse, ResponseCode
from app.payments.providers import make

UNKNOWN = "692000000000000000000000"


class Silent:
    """The simulated provider while it says nothing: calls time out, `after` their effect or before it."""

    def __init__(self, real):
        self._real = real
        self.silent = True
        self.after = False
        self.charged = []

    def __getattr__(self, name):
        return getattr(self._real, name)

    def find(self, call):
        return None if self.silent else self._real.find(call)

    def charge(self, call):
        self.charged.append(call.key)
        if self.silent and not self.after:
            return ProviderResponse(answer=ResponseCode.UNKNOWN, reason="no word")
        outcome = self._real.charge(call)
        return ProviderResponse(answer=ResponseCode.UNKNOWN, reason="no word") if self.silent else outcome


@pytest.fixture
def silent(settings):
    """An application at work whose provider says nothing, and that provider; two tries, then a payment is parked."""
    made = []

    def provider(given, store):
        made.append(Silent(make(given, store)))
        return made[-1]

    app = create_app(replace(settings, payment_tries=2), make_provider=provider)
    runtime(app).prepare()
    runtime(app).start()
    yield app, made[0]
    runtime(app).stop()


@pytest.fixture
def parked(silent, place, eventually, database):
    """The id of an order whose payment is parked."""
    app, provider = silent

    def make(after=False, **changes):
        provider.after = after
        order_id = place(app.test_client(), **changes)
        eventually(lambda: database.payments.count_documents({"_id": order_id, "status": "Unknown"}))
        eventually(lambda: database.orders.count_documents({"_id": ObjectId(order_id), "paymentStatus": "Unknown"}))
        provider.silent = False
        return order_id

    return make


@pytest.fixture
def run(app):
    """Run a command as an operator does, beside the server; tells its exit code and its output; `typed` is what they answer it."""

    def command(*words, within=app, typed=None):
        told = within.test_cli_runner().invoke(args=words, input=typed)
        assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
        return told.exit_code, told.output

    return command


@pytest.fixture
def served(app, running):
    """The address of an application that works."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def becomes(database, eventually):
    """Wait until an order has this state."""

    def wait(order_id, *statuses):
        wanted = dict(zip(("orderStatus", "paymentStatus"), statuses, strict=True))
        eventually(lambda: database.orders.count_documents({"_id": ObjectId(order_id), **wanted}))

    return wait


@pytest.fixture
def buried(client, place, database):
    """The id of an order whose first event became a dead letter."""
    order_id = place(client)
    database.orders.update_one({}, {"$set": {"outbox.0.type": "Nonsense"}})
    relay = runtime(client.application).modules["orders"].relay
    for _ in range(relay._tries):
        runtime(client.application).modules["orders"].outbox.dequeue_local(128, 0.0)
        database.orders.update_one({}, {"$set": {"relayDue": database.orders.find_one()["createdAt"]}})
        relay.sweep()
    return order_id


def test_the_demo_shows_nine_steps_of_a_good_order_and_of_a_declined_one(run, served):
    code, output = run("demo", "--url", served)
    assert code == 0, output
    good, declined = output.split("an order that is declined")
    for told in (good, declined):
        # A sweep may hand on once more what has just been handed on.
        assert {line.split()[0] for line in told.splitlines() if line.startswith("  ")} == {*"123456789"}
    assert "is now Success" in output
    assert "is now Declined" in output


def test_the_demo_says_that_nothing_listens(run):
    code, output = run("demo", "--url", "http://127.0.0.1:9")
    assert code == 3
    assert "no Orderflow answers at http://127.0.0.1:9" in output
    assert "Traceback" not in output


def test_the_demo_says_when_stages_are_missing(run, app):
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
    assert (row["orderId"], row["why"], row.keys()) == (order_id, "no word", {"orderId", "since", "why", "refundId"})
    assert order_id in run("payments", "list")[1]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_retried_payment_is_settled_with_the_same_key(run, parked, silent, becomes, database, after):
    order_id = parked(after)
    assert run("payments", "retry", order_id) == (0, f"{order_id} is now Processing\n")
    becomes(order_id, "Success", "Captured")
    assert database.ledger.count_documents({"answer": "captured"}) == 1
    assert set(silent[1].charged) == {f"{order_id}:1"}


def test_a_retry_is_refused_when_the_provider_may_have_forgotten_the_key(run, parked, silent, database, settings):
    order_id = parked()
    silent[1].charged.clear()
    grow_old(database, order_id, settings)
    code, output = run("payments", "retry", order_id)
    assert (code, "may have forgotten this key" in output) == (1, True)
    assert database.payments.find_one()["status"] == "Unknown"
    assert silent[1].charged == []


def test_a_retry_settles_an_old_payment_by_what_the_provider_still_knows(run, parked, becomes, database, settings):
    order_id = parked(after=True)
    grow_old(database, order_id, settings)
    assert run("payments", "retry", order_id) == (0, f"{order_id} is now Captured\n")
    becomes(order_id, "Success", "Captured")
    assert database.ledger.count_documents({"answer": "captured"}) == 1


@pytest.mark.parametrize(
    ("answer", "status", "ends"),
    [
        ("captured", "Captured", ("Success", "Captured")),
        ("declined", "Declined", ("Declined", "Declined")),
    ],
)
def test_a_payment_is_resolved_as_the_operator_found_it(run, parked, becomes, database, answer, status, ends):
    order_id = parked(after=answer == "captured")
    told = run(
        "payments", "resolve", order_id, answer, "--reference", "ref-9", "--reason", "Ann called the bank", "--yes"
    )
    assert told == (0, f"{order_id} is now {status}\n")
    becomes(order_id, *ends)
    assert "Ann called the bank" in database.payments.find_one()["attempts"][-1]["reason"]
    assert json.loads(run("payments", "list", "--json")[1]) == []


def test_a_payment_resolved_as_captured_after_its_order_was_cancelled_is_refunded(
    run, silent, parked, becomes, database, eventually
):
    order_id = parked(after=True)
    silent[1].silent = True
    silent[0].test_client().put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
    silent[1].silent = False
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
    assert (row["refundId"], "declined" in row["why"]) == (refund, True)
    code, output = run("payments", "drop-refund", order_id, "another", "--reason", "x")
    assert (code, "does not wait" in output) == (1, True)
    told = run("payments", "drop-refund", order_id, refund, "--reason", "the card was closed")
    assert told == (0, f"{order_id} is now Captured\n")
    becomes(order_id, "Success", "Captured")
    # As the application sees it: what a majority has, which may be a moment behind what the primary has.
    eventually(lambda: "could not give money back" in live.get(f"/orders/one/{order_id}/explain").json["sentence"])
    assert "the card was closed" in database.orders.find_one()["events"][-1]["detail"]


@pytest.mark.parametrize(("answered", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_a_payment_is_resolved_only_when_the_operator_says_so_twice(run, parked, database, answered, code):
    order_id = parked(after=True)
    told = run("payments", "resolve", order_id, "captured", "--reason", "x", typed=answered)
    assert told[0] == code, told[1]
    assert f"{order_id} goes on record as captured for good" in told[1]
    assert database.payments.find_one()["status"] == ("Unknown" if code else "Captured")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["retry", "0123456789abcdef01234567"], 1, "there is no payment for order"),
        (
            ["resolve", "0123456789abcdef01234567", "captured", "--reason", "x", "--yes"],
            1,
            "there is no payment for order",
        ),
        (["resolve", "x", "captured"], 2, "--reason"),
        (["drop-refund", "0123456789abcdef01234567", "r", "--reason", "x"], 1, "there is no payment for order"),
        (["drop-refund", "x", "r"], 2, "--reason"),
        (["resolve", "x", "perhaps", "--reason", "x"], 2, "perhaps"),
        (["retry"], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_done_to_a_payment_is_said_in_a_sentence(run, words, code, said):
    told = run("payments", *words)
    assert (told[0], said in told[1]) == (code, True), told[1]
    assert "Traceback" not in told[1]


def test_a_payment_that_is_not_parked_is_left_alone(run, served, place, app, becomes, database):
    order_id = place(app.test_client())
    becomes(order_id, "Success", "Captured")
    for words in (["retry", order_id], ["resolve", order_id, "declined", "--reason", "x", "--yes"]):
        code, output = run("payments", *words)
        assert (code, "not parked" in output) == (1, True)
    assert database.payments.find_one()["status"] == "Captured"


def test_a_refund_cannot_be_resolved_as_a_decline_of_the_charge(run, parked, database):
    order_id = parked()
    code, output = run("payments", "resolve", order_id, "refunded", "--reason", "x", "--yes")
    assert (code, "cannot be resolved as refunded" in output) == (1, True)
    assert database.payments.find_one()["status"] == "Unknown"


def test_dead_letters_are_listed_with_their_reason(run, buried):
    [row] = json.loads(run("dead-letters", "list", "--json")[1])
    assert (row["module"], row["orderId"], row["event"], row["tries"]) == ("orders", buried, "Nonsense", 8)
    assert "Nonsense" in row["why"]
    assert buried in run("dead-letters", "list")[1]


def test_a_replayed_dead_letter_is_delivered(run, buried, app, database, becomes):
    database.orders.update_one({}, {"$set": {"outbox.0.type": "OrderCreated"}})
    assert run("dead-letters", "replay", buried) == (0, f"{buried}: due again in orders\n")
    assert json.loads(run("dead-letters", "list", "--json")[1]) == []
    runtime(app).start()
    becomes(buried, "Success", "Captured")


def test_replaying_what_is_no_dead_letter_is_said_in_a_sentence(run):
    for order_id in ("0123456789abcdef01234567", "x"):
        code, output = run("dead-letters", "replay", order_id)
        assert (code, f"order {order_id} has no dead letter" in output) == (1, True)


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


def test_the_demo_tells_programs_the_same_steps(run, served):
    code, output = run("demo", "--url", served, "--json")
    told = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert {line["stage"] for line in told if "stage" in line} == {*Stage}
    assert [line["orderStatus"] for line in told if "stage" not in line] == ["Success", "Declined"]


def test_orders_of_a_user_are_listed_newest_first(run, client, place):
    first, second = place(client, userId="ada"), place(client, userId="ada")
    place(client, userId="bob")
    told = json.loads(run("orders", "list", "--user", "ada", "--json")[1])
    assert [order["id"] for order in told] == [second, first]
    shown = run("orders", "list", "--user", "ada", "--limit", "1")[1]
    assert second in shown
    assert first not in shown
    assert "none" in run("orders", "list", "--user", "ada", "--status", "Success")[1]


def test_orders_of_all_are_listed_whole_or_by_status(run, client, place):
    placed = [place(client, userId=user) for user in ("ada", "bob", "ada")]
    told = json.loads(run("orders", "list", "--json")[1])
    assert {order["id"] for order in told} == set(placed)
    assert len(json.loads(run("orders", "list", "--limit", "2", "--json")[1])) == 2
    assert len(json.loads(run("orders", "list", "--status", "Processing", "--json")[1])) == 3
    assert json.loads(run("orders", "list", "--status", "Success", "--json")[1]) == []


def test_orders_that_do_not_get_on_are_listed(run, buried, client, place):
    late = place(client, userId="ada")
    assert [order["id"] for order in json.loads(run("orders", "list", "--stuck", "--json")[1])] == [buried]
    told = json.loads(run("orders", "list", "--stuck", "--user", "ada", "--overdue", "-60", "--json")[1])
    assert [order["id"] for order in told] == [late]
    assert json.loads(run("orders", "list", "--stuck", "--status", "Success", "--json")[1]) == []


def test_orders_whose_payment_is_parked_do_not_get_on(run, parked):
    order_id = parked()
    assert [order["id"] for order in json.loads(run("orders", "list", "--stuck", "--json")[1])] == [order_id]


def test_an_order_is_shown_with_its_way(run, served, place, app, becomes, eventually):
    order_id = place(app.test_client())
    becomes(order_id, "Success", "Captured")
    told = json.loads(run("orders", "show", order_id, "--json")[1])
    assert (told["order"]["id"], told["order"]["orderStatus"]) == (order_id, "Success")
    assert [event["type"] for event in told["events"]] == ["OrderCreated", "PaymentCaptured"]
    assert [attempt["answer"] for attempt in told["attempts"]] == ["captured"]
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
    told = json.loads(run("orders", "explain", order_id, "--json")[1])
    assert (told["sentence"], told["waitsFor"]) == (sentence, "the relay")
    shown = run("orders", "explain", order_id)[1]
    assert sentence in shown
    assert "the relay" in shown


@pytest.mark.parametrize("command", ["show", "watch", "explain"])
@pytest.mark.parametrize("order_id", [UNKNOWN, "x"])
def test_an_order_that_is_not_there_is_said_in_a_sentence(run, command, order_id):
    code, output = run("orders", command, order_id)
    assert (code, "there is no order with this id" in output) == (1, True), output


@pytest.mark.parametrize(
    ("word", "more", "status"),
    [("retry", [], "Processing"), ("resolve", ["captured", "--reason", "x", "--yes"], "Captured")],
)
def test_what_is_done_to_a_payment_is_told_to_programs_too(run, parked, word, more, status):
    order_id = parked()
    told = json.loads(run("payments", word, order_id, *more, "--json")[1])
    assert told == {"orderId": order_id, "paymentStatus": status}


def test_what_is_done_to_a_dead_letter_is_told_to_programs_too(run, buried):
    told = json.loads(run("dead-letters", "replay", buried, "--json")[1])
    assert told == {"orderId": buried, "dueAgainIn": ["orders"]}


def test_a_load_tells_what_became_of_its_orders(run, served, database):
    words = ["load", "--orders", "30", "--rate", "200", "--connections", "4", "--url", served]
    code, output = run(*words, "--json")
    told = json.loads(output.splitlines()[-1])
    assert code == 0, output
    assert (told["sent"], told["answers"], told["accepted"], told["settled"]) == (30, {"201": 30}, 30, 30)
    assert told["orderStatuses"] == {"Success": 30}
    assert (
        0 < told["latencyMs"]["p50"] <= told["latencyMs"]["p90"] <= told["latencyMs"]["p99"] <= told["latencyMs"]["max"]
    )
    assert told["seconds"] >= 29 / 200
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
    told = json.loads(output.splitlines()[-1])
    assert (code, told["accepted"], told["settled"], told["orderStatuses"]) == (1, 3, 0, {"Processing": 3})


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
def test_a_load_that_cannot_be_is_said_in_a_sentence(run, words, code, said):
    told = run("load", *words)
    assert (told[0], said in told[1], "Traceback" in told[1]) == (code, True, False), told[1]


def test_percentiles_are_values_that_were_seen():
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert (percentile([7.0], 50), percentile([], 99)) == (7.0, 0.0)


def test_a_shell_completes_the_commands(tmp_path):
    flask = Path(sys.executable).parent / "flask"
    asked = {"_FLASK_COMPLETE": "bash_complete", "COMP_WORDS": "flask --app app.main orders ", "COMP_CWORD": "4"}
    environ = {**os.environ, **asked, "ORDERFLOW_DATA": str(tmp_path)}
    told = subprocess.run([flask], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert {line.partition(",")[2] for line in told.stdout.split()} == {"explain", "list", "show", "watch"}


def test_every_command_answers_programs_and_explains_itself(app):
    def commands(group, *words):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, *words, name)
            else:
                yield " ".join((*words, name)), command

    found = dict(commands(app.cli))
    assert found.pop("worker").help  # It becomes the server, and answers nothing.
    assert {"demo", "doctor", "load", "orders list", "payments resolve", "dead-letters replay"} <= found.keys()
    for name, command in found.items():
        assert command.help, name
        assert "--json" in {option for parameter in command.params for option in parameter.opts}, name


def grow_old(database, order_id, settings):
    first = database.payments.find_one({"_id": order_id})["keySentAt"]
    older = first - timedelta(hours=settings.provider_key_hours, minutes=1)
    database.payments.update_one({"_id": order_id}, {"$set": {"keySentAt": older}})
