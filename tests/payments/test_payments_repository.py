"""Payments in MongoDB: one an order, under lease, changed by nobody but the holder of the lease."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from bson import Int64
from pymongo.errors import WriteError

from app.contracts.payments import PaymentCaptured, PaymentDeclined
from app.messaging.outbox import decode_event
from app.payments.payment import Refund, Status
from app.payments.repository import PaymentRepository, Result
from app.storage.mongodb import EPOCH


def captured(held, sequence: int = 1) -> Result:
    payment = replace(held.payment, status=Status.CAPTURED, captured=held.payment.total_value, sequence=sequence)
    event = PaymentCaptured(
        event_id=f"e-{held.payment.order_id}", order_id=held.payment.order_id, sequence=sequence, request_id="r", at=1,
        reference="ref-1", took_ms=1,
    )  # fmt: skip
    return Result(before=held, payment=payment, event=event, line={"attempt": held.payment.attempt})


def declined(held, event_id: str = "late") -> Result:
    payment = replace(held.payment, status=Status.DECLINED, sequence=1)
    event = PaymentDeclined(
        event_id=event_id, order_id=held.payment.order_id, sequence=1, request_id="r", at=1, reason="no", took_ms=1
    )
    return Result(before=held, payment=payment, event=event, line={"attempt": held.payment.attempt})


def test_a_payment_under_lease_is_on_record_as_about_to_be_sent(payments, new_payment, stored):
    payment = new_payment()
    [held] = payments.record([payment], 1)
    assert held.payment == replace(payment, sent=True, first_send=True, attempt=1, tries=1)
    assert held.owned
    doc = stored(payment.order_id)
    assert (doc["status"], doc["sent"], doc["attempt"], doc["tries"]) == ("Processing", True, 1, 1)
    assert doc["dueAt"] == held.lease_end == doc["keySentAt"] + timedelta(seconds=60)
    assert doc["owner"]
    assert payments.find(payment.order_id).payment == held.payment


def test_what_does_not_fit_is_recorded_as_due_at_once_and_unsent(payments, new_payment, stored):
    batch = [new_payment() for _ in range(5)]
    held = payments.record(batch, 2)
    assert [one.payment.order_id for one in held] == [payment.order_id for payment in batch[:2]]
    for payment in batch[2:]:
        doc = stored(payment.order_id)
        assert (doc["sent"], doc["attempt"], doc["tries"], "owner" in doc) == (False, 0, 0, False)
        assert doc["dueAt"] <= payments.now()


def test_a_second_payment_for_one_order_changes_nothing(payments, other, new_payment, stored):
    payment = new_payment()
    payments.record([payment], 1)
    before = stored(payment.order_id)
    for room in (0, 1):
        assert other.record([replace(payment, total_value=1)], room) == []
    assert stored(payment.order_id) == before


def test_of_a_batch_only_what_is_new_is_taken_up(payments, other, new_payment, database):
    batch = [new_payment() for _ in range(6)]
    payments.record(batch[::2], 1)
    taken = other.record(batch, 6)
    assert [held.payment.order_id for held in taken] == [payment.order_id for payment in batch[1::2]]
    assert database.payments.count_documents({}) == 6
    assert payments.claim(10) != []


def test_the_same_orders_recorded_by_many_at_once_are_taken_up_once(payments, other, new_payment, database):
    batch = [new_payment() for _ in range(10)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda at: (payments, other)[at % 2].record(batch, 10), range(8)))
    ids = [held.payment.order_id for part in taken for held in part]
    assert sorted(ids) == sorted(payment.order_id for payment in batch)
    assert database.payments.count_documents({}) == 10


def test_nobody_takes_up_what_is_under_lease(payments, other, leased):
    leased()
    assert payments.claim(10) == other.claim(10) == []


def test_a_claim_takes_what_has_been_due_longest(payments, new_payment, database):
    batch = [new_payment() for _ in range(5)]
    payments.record(batch, 0)
    for age, payment in enumerate(batch):
        due = payments.now() - timedelta(seconds=10 * age + 1)
        database.payments.update_one({"_id": payment.order_id}, {"$set": {"dueAt": due}})
    assert {held.payment.order_id for held in payments.claim(2)} == {payment.order_id for payment in batch[-2:]}
    assert len(payments.claim(10)) == 3
    assert payments.claim(10) == []


def test_users_take_turns_in_a_claim_however_much_of_one_is_due(payments, new_payment, database):
    crowd = [new_payment(user_id="crowd") for _ in range(30)]
    payments.record(crowd, 0)
    single = new_payment(user_id="single")
    payments.record([single], 0)
    database.payments.update_many({"userId": "crowd"}, {"$set": {"dueAt": payments.now() - timedelta(minutes=1)}})
    assert single.order_id in {held.payment.order_id for held in payments.claim(2)}


def test_a_claim_may_prefer_what_has_never_been_tried(payments, new_payment, database):
    tried, untried = new_payment(), new_payment()
    payments.record([tried, untried], 0)
    long_due = payments.now() - timedelta(minutes=1)
    database.payments.update_one({"_id": tried.order_id}, {"$set": {"dueAt": long_due, "tries": 2}})
    assert [held.payment.order_id for held in payments.claim(1, untried_first=True)] == [untried.order_id]
    assert [held.payment.order_id for held in payments.claim(1)] == [tried.order_id]


def test_a_claim_leaves_alone_what_is_due_later_or_never(payments, new_payment, database):
    batch = [new_payment() for _ in range(3)]
    payments.record(batch, 0)
    later = payments.now() + timedelta(seconds=30)
    database.payments.update_one({"_id": batch[0].order_id}, {"$set": {"dueAt": later}})
    database.payments.update_one({"_id": batch[1].order_id}, {"$unset": {"dueAt": ""}})
    assert [held.payment.order_id for held in payments.claim(10)] == [batch[2].order_id]


def test_a_claim_counts_the_attempt_and_the_try_before_anything_is_sent(payments, new_payment, stored):
    payment = new_payment()
    payments.record([payment], 0)
    [held] = payments.claim(1)
    assert (held.payment.attempt, held.payment.tries, held.payment.sent, held.owned) == (1, 1, True, True)
    doc = stored(payment.order_id)
    assert (doc["attempt"], doc["tries"], doc["sent"], doc["version"]) == (1, 1, True, held.payment.version)
    assert doc["dueAt"] == held.lease_end > payments.now()


def test_claims_by_many_at_once_never_share_a_payment(payments, other, new_payment):
    batch = [new_payment() for _ in range(60)]
    payments.record(batch, 0)
    claimed: list[str] = []

    def claim_on(repository: PaymentRepository) -> None:
        while part := repository.claim(7):
            claimed.extend(held.payment.order_id for held in part)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(claim_on, [payments, other] * 3))
    # A claimer that was outrun on its whole batch may leave while there is work: the rest is one more claim.
    while rest := payments.claim(60):
        claimed.extend(held.payment.order_id for held in rest)
    assert sorted(claimed) == sorted(payment.order_id for payment in batch)


def test_an_expired_lease_is_taken_up_under_a_new_attempt(dying, other, new_payment):
    payment = new_payment()
    [first] = dying.record([payment], 1)
    [second] = other.claim(10)
    assert (first.payment.attempt, second.payment.attempt) == (1, 2)
    assert second.payment.tries == 2
    assert other.renewed(second).payment == second.payment
    assert dying.renewed(first) is None


def test_who_lost_the_lease_can_write_nothing_before_the_new_holder_settles_nor_after(
    dying, other, new_payment, stored
):
    payment = new_payment()
    [first] = dying.record([payment], 1)
    [second] = other.claim(10)
    before = stored(payment.order_id)
    assert dying.settle([declined(first)])[0] is False
    assert stored(payment.order_id) == before
    assert other.settle([captured(second)])[0] is True
    after = stored(payment.order_id)
    assert dying.settle([declined(first)])[0] is False
    assert stored(payment.order_id) == after
    assert after["status"] == "Captured"
    assert [entry["type"] for entry in after["outbox"]] == ["PaymentCaptured"]


def test_the_attempt_alone_is_a_fence(payments, leased, stored, database):
    held = leased()
    database.payments.update_one({"_id": held.payment.order_id}, {"$inc": {"attempt": 1}})
    assert payments.settle([captured(held)])[0] is False
    assert stored(held.payment.order_id)["status"] == "Processing"


def test_a_change_meanwhile_is_a_fence_too(payments, leased, stored, database):
    held = leased()
    database.payments.update_one({"_id": held.payment.order_id}, {"$inc": {"version": 1}})
    assert payments.settle([captured(held)])[0] is False
    assert payments.renewed(held).payment == replace(held.payment, version=held.payment.version + 1)
    assert payments.settle([captured(payments.renewed(held))])[0] is True


def test_a_result_its_event_and_its_log_line_are_one_write(payments, outbox, leased, stored):
    held = leased()
    assert payments.settle([captured(held)])[0] is True
    doc = stored(held.payment.order_id)
    assert (doc["status"], doc["captured"], doc["version"]) == ("Captured", 9900, held.payment.version + 1)
    assert [decode_event(entry) for entry in doc["outbox"]] == [captured(held).event]
    assert doc["attempts"] == [{"attempt": 1}]
    assert doc["relayDue"] > payments.now()
    assert not {"dueAt", "owner", "claim"} & set(doc)
    [pending] = outbox.dequeue_local(10, 0)
    assert (pending.key, [event.event_id for event in pending.events]) == (
        doc["_id"],
        [captured(held).event.event_id],
    )


def test_a_result_that_was_refused_is_not_handed_on(dying, other, outbox, new_payment):
    [first] = dying.record([new_payment()], 1)
    other.claim(10)
    dying.settle([declined(first)])[0]
    assert outbox.dequeue_local(10, 0) == []


def test_a_call_to_repeat_lets_go_of_the_lease_until_it_is_due(payments, other, leased, stored):
    held = leased()
    due = payments.now() + timedelta(milliseconds=1)
    assert payments.settle([Result(before=held, payment=held.payment, due_at=due)])[0] is True
    doc = stored(held.payment.order_id)
    assert (doc["dueAt"], "owner" in doc) == (due, False)


def test_a_cancellation_leaves_the_lease_to_the_running_call(payments, other, leased, stored):
    held = leased()
    cancelled = replace(held.payment, cancelled=True)
    assert payments.settle([Result(before=held, payment=cancelled, due_at=payments.now(), keeps_lease=True)])[0]
    doc = stored(held.payment.order_id)
    assert (doc["dueAt"], "owner" in doc) == (held.lease_end, True)
    assert other.claim(10) == []


def test_the_log_of_a_payment_keeps_its_latest_lines(payments, leased, database):
    held = leased()
    lines = [{"attempt": at} for at in range(50)]
    database.payments.update_one({"_id": held.payment.order_id}, {"$set": {"attempts": lines}})
    assert payments.settle([Result(before=held, payment=held.payment, line={"attempt": 50})])[0]
    [doc] = database.payments.find()
    assert [line["attempt"] for line in doc["attempts"]] == list(range(1, 51))


def test_the_time_of_the_first_try_stays_until_something_new_begins(payments, leased, stored, database):
    held = leased()
    order_id = held.payment.order_id
    long_ago = payments.now() - timedelta(hours=1)
    database.payments.update_one({"_id": order_id}, {"$set": {"firstAt": long_ago}})
    held = payments.find(order_id)
    payments.settle([Result(before=held, payment=held.payment, due_at=payments.now())])[0]
    assert stored(order_id)["firstAt"] == long_ago
    [again] = payments.claim(10)
    asked_at = int(payments.now().timestamp() * 1000)
    refund = replace(
        again.payment,
        status=Status.REFUNDING,
        refunds=(Refund(refund_id="cancel", value=9900),),
        tries=0,
        asked_at=asked_at,
    )
    payments.settle([Result(before=again, payment=refund, due_at=payments.now())])[0]
    assert payments.now() - stored(order_id)["firstAt"] < timedelta(minutes=1)
    assert stored(order_id)["refunds"] == [{"refund_id": "cancel", "value": 9900, "done": False}]


def test_parked_payments_are_listed_up_to_a_limit(payments, new_payment, database):
    payments.record([new_payment() for _ in range(5)], 0)
    ids = [doc["_id"] for doc in database.payments.find().limit(3)]
    database.payments.update_many({"_id": {"$in": ids}}, {"$set": {"status": "Unknown"}})
    assert sorted(held.payment.order_id for held in payments.parked(10)) == sorted(ids)
    assert len(payments.parked(2)) == 2


def test_the_backlog_counts_what_is_due_and_how_long_it_has_waited(payments, new_payment, database):
    assert payments.backlog(10) == (0, 0)
    payments.record([new_payment() for _ in range(5)], 2)
    due = {"owner": {"$exists": False}}
    database.payments.update_one(due, {"$set": {"dueAt": payments.now() - timedelta(seconds=30)}})
    count, oldest_ms = payments.backlog(10)
    assert count == 3
    assert 30_000 <= oldest_ms < 60_000
    assert payments.backlog(2)[0] == 2


class Slow:
    """A collection whose first command waits for a gate."""

    def __init__(self, store, gate) -> None:
        self._store = store
        self._gates = [gate]
        self.clock = store.clock

    @contextmanager
    def with_deadline(self, seconds=None):
        if self._gates:
            self._gates.pop()()
        with self._store.with_deadline(seconds) as documents:
            yield documents


def test_of_results_settled_in_one_command_each_hears_whether_it_won(payments, dying, other, new_payment, database):
    mine = payments.record([new_payment() for _ in range(5)], 5)
    gone = dying.record([new_payment() for _ in range(4)], 4)
    assert len(other.claim(10)) == 4
    changed = payments.record([new_payment()], 1)
    database.payments.update_one({"_id": changed[0].payment.order_id}, {"$inc": {"version": 1}})
    results = [captured(mine[0]), *map(captured, (mine[1], gone[0], mine[2], gone[1], changed[0], gone[2], mine[3]))]
    # Twice the same payment in one batch: the first of them wins.
    results += [captured(mine[4]), declined(mine[4], "second")]
    won = payments.settle(results)
    assert won == [True, True, False, True, False, False, False, True, True, False]
    for result, hears in zip(results, won, strict=True):
        doc = database.payments.find_one({"_id": result.before.payment.order_id})
        assert (result.event.event_id in [entry["event_id"] for entry in doc["outbox"]]) is hears


def test_results_whose_reply_was_lost_are_told_rightly_when_they_are_repeated(payments, new_payment, database):
    results = [captured(held) for held in payments.record([new_payment() for _ in range(3)], 3)]
    assert payments.settle(results[:2]) == [True, True]
    assert payments.settle(results) == [True, True, True]
    assert [len(doc["outbox"]) for doc in database.payments.find()] == [1, 1, 1]


def test_results_settled_by_many_at_once_are_each_told_rightly(payments, other, new_payment, database):
    held = payments.record([new_payment() for _ in range(40)], 40)
    results = [captured(one) for one in held] + [declined(one, f"d-{one.payment.order_id}") for one in held]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda result: payments.settle([result])[0], results))
    assert sum(won) == 40
    for one, capture_won, decline_won in zip(held, won[:40], won[40:], strict=True):
        doc = database.payments.find_one({"_id": one.payment.order_id})
        assert capture_won != decline_won
        assert [entry["type"] for entry in doc["outbox"]] == ["PaymentCaptured" if capture_won else "PaymentDeclined"]


def test_what_is_given_back_is_due_at_once_and_no_try_was_used(payments, other, new_payment, stored):
    batch = [new_payment() for _ in range(3)]
    held = payments.record(batch, 3)
    payments.give_back(held[:2])
    for one in held[:2]:
        doc = stored(one.payment.order_id)
        assert (doc["tries"], "owner" in doc) == (0, False)
        assert doc["dueAt"] <= payments.now()
    assert {one.payment.order_id for one in other.claim(10)} == {one.payment.order_id for one in held[:2]}
    assert stored(batch[2].order_id)["owner"]


def test_giving_back_what_another_holds_by_now_changes_nothing(dying, other, new_payment, stored):
    payment = new_payment()
    held = dying.record([payment], 1)
    other.claim(10)
    before = stored(payment.order_id)
    dying.give_back(held)
    dying.give_back([])
    assert stored(payment.order_id) == before


def test_what_was_cancelled_before_it_was_begun_can_be_given_back_too(payments, other, leased, cancel, worker, stored):
    first, second = leased(), leased()
    cancel(worker, first.payment.order_id)
    payments.give_back([first, second])
    for held in (first, second):
        doc = stored(held.payment.order_id)
        assert (doc["tries"], "owner" in doc) == (0, False)
    assert len(other.claim(10)) == 2


def test_an_unknown_payment_is_none(payments):
    assert payments.find("6920c1b05be0d3a1f2c4e687") is None


GONE = object()
REQUIRED = ("userId", "total", "status", "cancelled", "sent", "captured", "refunds", "attempt", "firstAt", "outbox")
MALFORMED = [
    ("_id", 7),
    *[(name, GONE) for name in REQUIRED],
    *[(name, 7) for name in ("userId", "productId", "requestId", "reference", "parked", "owner", "claim", "stamp")],
    *[(name, -1) for name in ("generation", "attempt", "tries", "sequence", "orderSequence", "version", "captured")],
    *[(name, 1.5) for name in ("attempt", "tries", "captured")],
    *[
        (name, "yes")
        for name in (
            *("cancelled", "sent", "firstSend", "dueAt", "firstAt", "keySentAt", "relayDue"),
            *("attempts", "refunds"),
        )
    ],
    ("attempt", Int64(2**40)),
    ("status", "captured"),
    ("status", None),
    ("total", {"value": 0, "currency": "MYR"}),
    ("total", {"value": "9900", "currency": "MYR"}),
    ("total", {"value": 9900}),
    ("refunds", [{"refund_id": "cancel"}]),
    ("attempts", [{}] * 51),
    ("outbox", [{"type": "PaymentCaptured"}]),
    ("isAdmin", True),
]


def test_the_database_itself_refuses_a_malformed_payment(payments, leased, database, stored):
    good = stored(leased().payment.order_id)
    database.payments.insert_one({**good, "_id": "well-formed"})
    for name, value in MALFORMED:
        doc = {**good, "_id": "malformed", name: value}
        doc = {member: given for member, given in doc.items() if given is not GONE}
        with pytest.raises(WriteError) as refusal:
            database.payments.insert_one(doc)
        assert refusal.value.code == 121, (name, value)


def test_the_claim_records_when_a_key_may_first_be_sent_and_no_later_one_moves_that(
    payments, dying, new_payment, stored
):
    payment = new_payment()
    payments.record([payment], 0)
    assert (stored(payment.order_id)["sent"], "keySentAt" in stored(payment.order_id)) == (False, False)
    [first] = dying.claim(10)
    doc = stored(payment.order_id)
    assert (doc["sent"], doc["firstSend"], first.payment.first_send) == (True, True, True)
    assert doc["keySentAt"] == first.key_sent_at <= payments.now()
    [again] = payments.claim(10)
    assert (again.payment.first_send, again.key_sent_at) == (False, first.key_sent_at)
    assert again.key_age(first.key_sent_at + timedelta(hours=2)) == 7200.0


def test_a_lease_given_back_before_its_call_leaves_the_key_as_it_was(payments, dying, new_payment):
    payment = new_payment()
    [held] = payments.record([payment], 1)
    payments.give_back([held])
    assert not payments.find(payment.order_id).payment.sent
    [first] = payments.claim(10)
    assert first.payment.first_send
    payments.give_back([first])
    dying.claim(10)
    [again] = payments.claim(10)
    payments.give_back([again])
    assert payments.find(payment.order_id).payment.sent


def test_the_key_of_a_document_of_an_older_version_is_as_old_as_its_work(payments, leased, stored, database, make_due):
    order_id = leased().payment.order_id
    database.payments.update_one({"_id": order_id}, {"$unset": {"keySentAt": 1, "firstSend": 1, "owner": 1}})
    began = stored(order_id)["firstAt"]
    assert payments.find(order_id).key_sent_at == began
    make_due(order_id)
    [held] = payments.claim(10)
    assert (held.key_sent_at, held.payment.first_send) == (began, False)


def test_what_was_asked_for_before_the_restored_backup_counts_as_sent(store, outbox, payments, new_payment):
    old, older, fresh = new_payment(at=1000), new_payment(at=2000), new_payment(at=2001)
    payments.record([old], 0)
    restored = PaymentRepository(store, outbox, 60.0, EPOCH + timedelta(seconds=2))
    [unclaimed] = [restored.find(old.order_id)]
    leased = restored.record([older, fresh], 2)
    [claimed] = restored.claim(10)
    assert [held.payment.sent for held in (unclaimed, claimed, *leased)] == [True] * 4
    assert [held.payment.first_send for held in (claimed, *leased)] == [False, False, True]
    assert unclaimed.key_sent_at == claimed.key_sent_at == EPOCH + timedelta(seconds=1)
    assert leased[0].key_sent_at == EPOCH + timedelta(seconds=2)
    assert leased[1].key_sent_at > EPOCH + timedelta(days=1)
