"""The doctor finds nothing on a healthy database, and each kind of damage under its own name."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure

from app.config import Settings
from app.contracts.base import Unavailable
from app.doctor import INVARIANTS, MENDS, NEEDS_OPERATOR
from app.main import create_app, make_doctor, runtime
from app.storage.mongodb import Database

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def doctor(settings):
    """A doctor with a grace period of a minute."""
    database = Database(settings.mongodb_uri, settings.database)
    yield make_doctor(database, settings, 60.0)
    database.close()


@pytest.fixture
def paid(app, settings, place, eventually, database):
    """The ids of a paid order, a declined and a cancelled one; all work is finished by then."""
    at_work = create_app(settings)
    runtime(at_work).start()
    client = at_work.test_client()
    ids = place(client), place(client, productId="2"), place(client)
    eventually(lambda: database.orders.count_documents({"orderStatus": "Processing"}) == 0)
    client.put("/orders", json={"orderId": ids[2], "orderStatus": "Cancelled"})
    left = {"$or": [{"outbox.0": {"$exists": True}}, {"dueAt": {"$exists": True}}]}
    eventually(
        lambda: (
            database.orders.count_documents({"paymentStatus": "Refunded"}) == 1
            and not database.orders.count_documents(left)
            and not database.payments.count_documents(left)
        )
    )
    runtime(at_work).stop()
    return ids


@pytest.fixture
def lift(database):
    """Let the collections take what their validators would refuse."""
    for name in ("orders", "payments", "ledger", "webhook_deliveries"):
        database.command("collMod", name, validationLevel="off")


def order(database, order_id, **changes):
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": changes})


def payment(database, order_id, **changes):
    database.payments.update_one({"_id": order_id}, {"$set": changes})


def charge(database, order_id, **changes):
    assert database.ledger.update_one({"orderId": order_id}, {"$set": changes}).matched_count == 1


def second_charge(database, order_id):
    [entry] = database.ledger.find({"orderId": order_id})
    database.ledger.insert_one({**entry, "_id": f"{order_id}:2"})
    order(database, order_id, paymentStatus="Unknown")
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"events.1.paymentStatus": "Unknown"}})
    payment(database, order_id, status="Unknown")


def stuck(database, order_id):
    order(database, order_id, updatedAt=LONG_AGO, paymentStatus="Refunding")
    database.orders.update_one({"_id": ObjectId(order_id)}, {"$set": {"events.1.paymentStatus": "Refunding"}})
    payment(database, order_id, status="Refunding")


def unanswered_capture(database, order_id, value):
    """The provider has captured this value, and the order's payment still waits for the answer."""
    waits = {"orderStatus": "Processing", "paymentStatus": "Authorized", "updatedAt": LONG_AGO}
    order(database, order_id, **waits, **{"events.1.to": "Processing", "events.1.paymentStatus": "Authorized"})
    payment(database, order_id, status="Authorized", captured=0, dueAt=datetime.now(UTC) + timedelta(seconds=30))
    charge(database, order_id, value=value, authorized=9900)


def refunded_in_part(database, order_id):
    """A refund of 100 that all have made."""
    order(database, order_id, refunds=[{"id": "r", "value": 100, "requested": "100 MYR", "at": LONG_AGO}])
    payment(database, order_id, refunds=[{"refund_id": "r", "value": 100, "status": "done", "reference": ""}])
    made = {"key": f"{order_id}:1:refund:r", "refundId": "r", "value": 100, "at": LONG_AGO}
    charge(database, order_id, refunded=100, refunds=[made])


def never_paid(database, order_id):
    [doc] = database.orders.find({"_id": ObjectId(order_id)})
    order(
        database,
        order_id,
        orderStatus="Processing",
        paymentStatus="Processing",
        updatedAt=LONG_AGO,
        sequence=1,
        events=doc["events"][:1],
    )
    database.payments.delete_one({"_id": order_id})
    database.ledger.delete_one({"orderId": order_id})


def same_key(database, order_id):
    database.orders.drop_index("one_order_a_key")
    database.orders.update_many({}, {"$set": {"idempotency": {"key": "k", "fingerprint": ""}}})
    database.orders.update_one({"orderStatus": "Declined"}, {"$unset": {"idempotency": ""}})


def delivery(database, **members):
    """A webhook for an endpoint that takes what it is sent, unless members say otherwise."""
    doc = {"_id": "e.we_1", "endpointId": "we_1", "eventId": "e", "type": "order.created", "body": "{}", "tries": 0}
    database.webhook_deliveries.insert_one({**doc, "createdAt": datetime.now(UTC), **members})


def endpoint(database, **members):
    doc = {"_id": "we_1", "userId": "u", "url": "https://shop.example/", "events": ["*"], "secrets": [], "version": 1}
    database.webhook_endpoints.insert_one({**doc, "createdAt": LONG_AGO, "changedAt": LONG_AGO, **members})


EVENT = {"type": "PaymentVoided", "event_id": "e"}
DAMAGE = {
    "an order without its amount": (
        "document format",
        lambda db, one: db.orders.update_one({"_id": ObjectId(one)}, {"$unset": {"total": ""}}),
    ),
    "an order whose time has another name": (
        "document format",
        lambda db, one: db.orders.update_one({"_id": ObjectId(one)}, {"$rename": {"createdAt": "created_at"}}),
    ),
    "an order whose time is text": ("document format", lambda db, one: order(db, one, createdAt="2020-01-01")),
    "an order whose amount is text": ("document format", lambda db, one: order(db, one, total="RM 99")),
    "a payment without its status": (
        "document format",
        lambda db, one: db.payments.update_one({"_id": one}, {"$unset": {"status": ""}}),
    ),
    "an order stuck while it is refunded": ("settled in time", stuck),
    "an order nobody ever paid": ("settled in time", never_paid),
    "two charges": ("single charge", second_charge),
    "a charge in another currency": ("single charge", lambda db, one: charge(db, one, currency="USD")),
    "a charge that went back": ("ledger balance", lambda db, one: charge(db, one, refunded=9900)),
    "a charge that was never made": ("ledger balance", lambda db, one: charge(db, one, answer="voided")),
    "a refund that was never made": (
        "ledger balance",
        lambda db, one: (
            order(db, one, refunds=[{"id": "r", "value": 100, "requested": "100 MYR", "at": LONG_AGO}]),
            payment(db, one, refunds=[{"refund_id": "r", "value": 100, "status": "done", "reference": ""}]),
        ),
    ),
    "a dispute that the payment does not know": (
        "ledger balance",
        lambda db, one: charge(db, one, dispute={"value": 9900, "status": "open", "at": LONG_AGO}),
    ),
    "a disputed order of which the ledger holds too much": (
        "ledger balance",
        lambda db, one: (
            order(db, one, paymentStatus="Disputed", **{"events.1.paymentStatus": "Disputed"}),
            payment(
                db,
                one,
                status="Disputed",
                disputes=[{"dispute_id": "d", "value": 9900, "status": "open"}],
            ),
        ),
    ),
    "a disputed order whose payment has a refund that it does not know": (
        "payment balance",
        lambda db, one: (
            order(db, one, paymentStatus="Disputed", **{"events.1.paymentStatus": "Disputed"}),
            payment(
                db,
                one,
                status="Disputed",
                disputes=[{"dispute_id": "d", "value": 9900, "status": "open"}],
                refunds=[{"refund_id": "r", "value": 100, "status": "requested", "reference": ""}],
            ),
            charge(db, one, dispute={"value": 9900, "status": "open", "at": LONG_AGO}),
        ),
    ),
    "a part that nobody asked to capture": (
        "single charge",
        lambda db, one: (unanswered_capture(db, one, 3000), order(db, one, captureRequested=4000)),
    ),
    "a capture of more than was authorized": ("single charge", lambda db, one: charge(db, one, authorized=9000)),
    "a refund that failed and that the order counts": (
        "ledger balance",
        lambda db, one: (
            refunded_in_part(db, one),
            charge(db, one, refunded=0, refunds=[], failedRefunds=[{"key": f"{one}:1:refund:r", "value": 100}]),
        ),
    ),
    "a payment that waits beyond its time": (
        "settled in time",
        lambda db, one: (unanswered_capture(db, one, 9900), payment(db, one, waitsUntil=LONG_AGO)),
    ),
    "a payment that captured another amount": ("payment balance", lambda db, one: payment(db, one, captured=100)),
    "a customer who is awaited for ever": (
        "settled in time",
        lambda db, one: (
            order(db, one, orderStatus="Processing", paymentStatus="Pending", updatedAt=LONG_AGO),
            order(db, one, **{"events.1.to": "Processing", "events.1.paymentStatus": "Pending"}),
            payment(db, one, status="Pending"),
        ),
    ),
    "a payment that says otherwise": ("payment status", lambda db, one: payment(db, one, status="Declined")),
    "an order without its payment": ("payment status", lambda db, one: db.payments.delete_one({"_id": one})),
    "a gap in the timeline": (
        "timeline",
        lambda db, one: db.orders.update_one({"_id": ObjectId(one)}, {"$set": {"events.1.sequence": 3}}),
    ),
    "a repeat in the timeline": (
        "timeline",
        lambda db, one: db.orders.update_one(
            {"_id": ObjectId(one)}, {"$push": {"events": {"sequence": 2, "from": "Success", "to": "Success"}}}
        ),
    ),
    "an entry from another state": (
        "timeline",
        lambda db, one: db.orders.update_one({"_id": ObjectId(one)}, {"$set": {"events.1.from": "Confirm"}}),
    ),
    "a state the timeline does not tell of": ("timeline", lambda db, one: order(db, one, orderStatus="Confirm")),
    "two orders of one key": ("idempotency key", same_key),
    "an event due for an hour": ("event delivery", lambda db, one: order(db, one, outbox=[EVENT], relayDue=LONG_AGO)),
    "a change that was not told for an hour": (
        "event delivery",
        lambda db, one: order(db, one, changes=[EVENT], changesDue=LONG_AGO),
    ),
    "a change that nobody will tell": ("event schedule", lambda db, one: order(db, one, changes=[EVENT])),
    "a webhook that waits for nothing": ("delivery schedule", lambda db, one: delivery(db, status="pending")),
    "a webhook that was taken and is due": (
        "delivery schedule",
        lambda db, one: delivery(db, status="succeeded", dueAt=datetime.now(UTC)),
    ),
    "a webhook claimed for ever": (
        "delivery schedule",
        lambda db, one: delivery(db, status="pending", claim="x", dueAt=datetime.now(UTC) + timedelta(days=9)),
    ),
    "a webhook due for an hour": (
        "delivery sent",
        lambda db, one: (endpoint(db), delivery(db, status="pending", dueAt=LONG_AGO)),
    ),
    "an event nobody will deliver": ("event schedule", lambda db, one: payment(db, one, outbox=[EVENT])),
    "a payment due for an hour": ("event delivery", lambda db, one: payment(db, one, dueAt=LONG_AGO)),
    "a charge without its order": (
        "no orphan",
        lambda db, one: db.ledger.insert_one(
            {**db.ledger.find_one(), "_id": "stray", "orderId": "0123456789abcdef01234567"}
        ),
    ),
    "a payment without its order": (
        "no orphan",
        lambda db, one: db.payments.insert_one({**db.payments.find_one(), "_id": "0123456789abcdef01234567"}),
    ),
}


def test_a_healthy_database_has_no_violation(doctor, paid):
    report = doctor.examine(paid, 0.0)
    assert (report.orders, report.violations, report.needs_operator, report.state) == (3, [], [], "healthy")


def test_an_empty_database_is_healthy(app, doctor):
    assert doctor.examine((), 0.0).state == "healthy"


@pytest.mark.extended
@pytest.mark.parametrize(("invariant", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_each_kind_of_damage_is_found_and_nothing_else(doctor, paid, lift, database, invariant, damage):
    damage(database, paid[0])
    report = doctor.examine(paid, 0.0)
    assert [finding.check for finding in report.violations] == [invariant]
    assert report.state == "broken"


def test_a_part_that_was_captured_is_in_order(doctor, paid, database):
    order(database, paid[0], captured=4000)
    payment(database, paid[0], captured=4000)
    charge(database, paid[0], value=4000, authorized=9900)
    assert doctor.examine(paid, 0.0).violations == []


def test_a_part_whose_capture_is_not_answered_yet_is_in_order(doctor, paid, database):
    unanswered_capture(database, paid[0], 4000)
    order(database, paid[0], captureRequested=4000)
    assert doctor.examine(paid, 0.0).violations == []


def test_a_refund_that_failed_later_is_in_order(doctor, paid, database):
    refunded_in_part(database, paid[0])
    assert doctor.examine(paid, 0.0).violations == []
    order(database, paid[0], failedRefunds=["r"])
    payment(database, paid[0], refunds=[{"refund_id": "r", "value": 100, "status": "failed", "reference": ""}])
    charge(database, paid[0], refunded=0, refunds=[], failedRefunds=[{"key": f"{paid[0]}:1:refund:r", "value": 100}])
    assert doctor.examine(paid, 0.0).violations == []


def test_a_dispute_that_both_sides_know_is_in_order(doctor, paid, database):
    order(database, paid[0], paymentStatus="Disputed", **{"events.1.paymentStatus": "Disputed"})
    lost = [{"dispute_id": "d", "value": 9900, "status": "lost"}]
    payment(database, paid[0], status="Disputed", disputes=lost)
    charge(database, paid[0], dispute={"value": 9900, "status": "lost", "at": LONG_AGO})
    assert doctor.examine(paid, 0.0).violations == []


@pytest.mark.parametrize("state", [{"failingSince": LONG_AGO}, {"disabledReason": "gone"}])
def test_a_webhook_may_wait_for_an_endpoint_that_does_not_take_it(doctor, paid, database, state):
    endpoint(database, **state)
    delivery(database, status="pending", dueAt=LONG_AGO)
    assert doctor.examine(paid, 0.0).state == "healthy"


def test_disabled_endpoints_are_counted_and_are_no_finding(app, doctor, paid, database):
    endpoint(database, disabledReason="it has only failed for five days")
    endpoint(database, _id="we_2", deletedAt=LONG_AGO, disabledReason="deleted")
    delivery(database, status="held")
    report = doctor.examine(paid, 0.0)
    assert (report.disabled_endpoints, report.held_deliveries, report.state) == (1, 1, "healthy")
    result = app.test_cli_runner().invoke(args=["doctor", "--pause", "0"])
    assert (result.exit_code, "1 disabled endpoints, 1 webhooks held" in result.output) == (0, True), result.output


def test_where_webhooks_are_off_they_are_not_looked_at(settings, app, paid, database):
    delivery(database, status="pending")
    off = replace(settings, webhooks=False)
    assert make_doctor(runtime(app).database, off, 60.0).examine(paid, 0.0).state == "healthy"


def test_an_acknowledged_order_that_is_gone_is_found(doctor, paid, database):
    database.orders.delete_one({"_id": ObjectId(paid[1])})
    report = doctor.examine(paid, 0.0)
    found = {(finding.check, finding.order_id) for finding in report.violations}
    assert found == {("acknowledged order", paid[1]), ("no orphan", paid[1])}


def test_collections_of_another_program_are_violations_and_no_failure(doctor, app, database, lift):
    database.orders.insert_many([{"_id": "a word"}, {"_id": 7, "userId": "u", "created_at": LONG_AGO}, {}])
    database.payments.insert_many([{"_id": {"of": 1}}, {"_id": 2, "deadLetter": {"at": LONG_AGO}}])
    database.ledger.insert_one({"_id": 1})
    report = doctor.examine((), 0.0)
    assert sorted(finding.check for finding in report.violations) == ["document format"] * 3 + ["no orphan"] * 3
    assert {finding.order_id for finding in report.violations} >= {"a word", "7", "{'of': 1}"}
    assert "lacks " in report.violations[0].detail


def test_every_invariant_is_put_to_the_test():
    assert {invariant for invariant, _ in DAMAGE.values()} | {"acknowledged order"} == set(INVARIANTS)


def test_work_that_is_young_is_not_stuck(client, place, doctor):
    place(client)
    assert doctor.examine((), 0.0).state == "healthy"


def test_a_violation_that_ends_within_the_pause_does_not_count(doctor, paid, database, monkeypatch):
    order(database, paid[0], orderStatus="Confirm")
    monkeypatch.setattr("app.doctor.time.sleep", lambda _: order(database, paid[0], orderStatus="Success"))
    assert doctor.examine(paid, 1.0).state == "healthy"


def test_work_for_an_operator_is_reported_and_is_no_violation(doctor, paid, database):
    order(database, paid[0], paymentStatus="Unknown")
    database.orders.update_one({"_id": ObjectId(paid[0])}, {"$set": {"events.1.paymentStatus": "Unknown"}})
    payment(database, paid[0], status="Unknown", parkedReason="nobody knows")
    letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": LONG_AGO}
    order(database, paid[1], deadLetter=letter, outbox=[EVENT])
    report = doctor.examine(paid, 0.0)
    assert report.state == "needs an operator"
    assert [(finding.check, finding.order_id, finding.detail) for finding in report.needs_operator] == [
        ("parked payment", paid[0], "nobody knows"),
        ("dead letter", paid[1], "poison"),
    ]


def test_a_parked_payment_that_a_cancellation_has_reopened_may_differ_from_its_order(doctor, paid, database):
    """The order says Unknown until its payment is settled."""
    order(database, paid[0], paymentStatus="Unknown")
    database.orders.update_one({"_id": ObjectId(paid[0])}, {"$set": {"events.1.paymentStatus": "Unknown"}})
    payment(database, paid[0], status="Processing", dueAt=datetime.now(UTC) + timedelta(seconds=30))
    report = doctor.examine(paid, 0.0)
    assert report.violations == []


def test_the_command_prints_a_table_and_ends_well_on_a_healthy_database(app, paid):
    result = app.test_cli_runner().invoke(args=["doctor", "--pause", "0"])
    assert (result.exit_code, "3 orders examined" in result.output) == (0, True), result.output
    for invariant in INVARIANTS:
        assert invariant in result.output


def test_the_command_ends_with_1_on_a_violation(app, paid, database):
    charge(database, paid[0], refunded=9900)
    result = app.test_cli_runner().invoke(args=["doctor", "--pause", "0"])
    assert result.exit_code == 1
    assert f"{paid[0]}: " in result.output
    assert f"payments refresh {paid[0]}" in result.output


def test_the_command_prints_json(app, paid, database):
    runner = app.test_cli_runner()
    result = json.loads(runner.invoke(args=["doctor", "--pause", "0", "--json"]).output)
    nothing = {"violations": [], "needs_operator": [], "disabled_endpoints": 0, "held_deliveries": 0}
    assert result == {"orders": 3, **nothing, "state": "healthy", "healthy": True}
    charge(database, paid[0], refunded=9900)
    result = runner.invoke(args=["doctor", "--pause", "0", "--json"])
    [finding] = json.loads(result.output)["violations"]
    assert (result.exit_code, finding["check"], finding["order_id"]) == (1, "ledger balance", paid[0])
    assert f"payments refresh {paid[0]}" in finding["mend"]


def test_the_command_ends_with_2_where_only_an_operator_is_needed(app, paid, database):
    letter = {"reason": "poison", "event_id": "e", "failures": 8, "at": LONG_AGO}
    order(database, paid[1], deadLetter=letter)
    result = app.test_cli_runner().invoke(args=["doctor", "--pause", "0"])
    assert (result.exit_code, "needs an operator" in result.output) == (2, True)
    assert f"dead-letters replay {paid[1]}" in result.output
    charge(database, paid[0], refunded=9900)
    assert app.test_cli_runner().invoke(args=["doctor", "--pause", "0"]).exit_code == 1


@pytest.mark.parametrize(
    "words", [["--grace", "-1"], ["--pause", "x"], ["--acknowledged", "/no/such/file"], ["--colour"]]
)
def test_wrong_usage_has_a_code_of_its_own(app, words):
    result = app.test_cli_runner().invoke(args=["doctor", *words])
    assert (result.exit_code, "Error: " in result.output) == (64, True), result.output


def test_a_database_that_is_away_is_said_in_plain_words(app):
    nowhere = create_app(Settings(mongodb_uri="mongodb://127.0.0.1:9/?replicaSet=orderflow", background_deadline=0.2))
    result = nowhere.test_cli_runner().invoke(args=["doctor"])
    runtime(nowhere).stop()
    assert result.exit_code == 3
    assert "the database does not answer" in result.output
    assert "Topology" not in result.output


def test_a_database_that_refuses_is_said_in_plain_words(doctor, paid, monkeypatch):
    refused = OperationFailure("not authorized on shop, full error: {…}", 13, {"errmsg": "not authorized on shop"})

    def refuse(*_: object) -> None:
        raise refused

    monkeypatch.setattr(doctor, "_examine", refuse)
    with pytest.raises(Unavailable, match=r"^the database refuses to be read: not authorized on shop$"):
        doctor.examine()


def test_the_command_checks_the_orders_that_were_acknowledged(app, paid, tmp_path):
    known = tmp_path / "acknowledged"
    known.write_text("\n".join([*paid, "", ""]))
    runner = app.test_cli_runner()
    assert runner.invoke(args=["doctor", "--pause", "0", "--acknowledged", str(known)]).exit_code == 0
    known.write_text("\n".join([*paid, "0123456789abcdef01234567"]))
    result = runner.invoke(args=["doctor", "--pause", "0", "--json", "--acknowledged", str(known)])
    assert result.exit_code == 1
    assert json.loads(result.output)["violations"] == [
        {
            "check": "acknowledged order",
            "order_id": "0123456789abcdef01234567",
            "detail": "is not stored",
            "mend": MENDS["acknowledged order"],
        }
    ]


def test_a_word_that_is_no_id_among_the_acknowledged_is_refused_in_a_sentence(app, paid, tmp_path):
    known = tmp_path / "acknowledged"
    known.write_text("not an id\n")
    result = app.test_cli_runner().invoke(args=["doctor", "--pause", "0", "--acknowledged", str(known)])
    assert result.exit_code == 64
    assert "not an id" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_the_doctor_changes_nothing(doctor, paid, lift, database):
    charge(database, paid[0], refunded=9900)
    payment(database, paid[0], dueAt=LONG_AGO)
    before = [list(database[name].find().sort("_id")) for name in ("orders", "payments", "ledger")]
    assert doctor.examine(paid, 0.0).state == "broken"
    assert [list(database[name].find().sort("_id")) for name in ("orders", "payments", "ledger")] == before


def test_the_runbook_has_a_row_for_each_invariant():
    runbook = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    rows = [*INVARIANTS.items(), *NEEDS_OPERATOR.items(), *MENDS.items()]
    assert [name for name, text in rows if f"| {name} | {text} |" not in runbook] == []
    assert MENDS.keys() == INVARIANTS.keys() | NEEDS_OPERATOR.keys()
