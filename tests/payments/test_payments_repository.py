"""Payments in MongoDB: one an order, under lease, changed by nobody but the holder of the lease."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from bson import Int64
from pymongo.errors import WriteError

from app.contracts.base import Money
from app.contracts.payments import PaymentCaptured, PaymentDeclined, PaymentStatus
from app.messaging.outbox import decode_event
from app.payments.payment import Refund
from app.payments.repository import PaymentRepository, PaymentUpdate
from app.storage.mongodb import EPOCH


def captured(leased, sequence: int = 1) -> PaymentUpdate:
    payment = replace(
        leased.payment, status=PaymentStatus.CAPTURED, captured=leased.payment.total.value, sequence=sequence
    )
    event = PaymentCaptured(
        event_id=f"e-{leased.payment.order_id}", order_id=leased.payment.order_id, sequence=sequence, request_id="r", at=1,
        reference="ref-1", took_ms=1,
    )  # fmt: skip
    return PaymentUpdate(
        before=leased, payment=payment, event=event, log_entry={"attempt": leased.payment.fencing_token}
    )


def declined(leased, event_id: str = "late") -> PaymentUpdate:
    payment = replace(leased.payment, status=PaymentStatus.DECLINED, sequence=1)
    event = PaymentDeclined(
        event_id=event_id, order_id=leased.payment.order_id, sequence=1, request_id="r", at=1, reason="no", took_ms=1
    )
    return PaymentUpdate(
        before=leased, payment=payment, event=event, log_entry={"attempt": leased.payment.fencing_token}
    )


def test_a_payment_under_lease_is_on_record_as_about_to_be_sent(payments, new_payment, stored):
    payment = new_payment()
    [leased] = payments.insert([payment], 1)
    assert leased.payment == replace(payment, key_sent=True, first_send=True, fencing_token=1, retry_count=1)
    assert leased.under_lease
    doc = stored(payment.order_id)
    assert (doc["status"], doc["keySent"], doc["fencingToken"], doc["retryCount"]) == ("Processing", True, 1, 1)
    assert doc["dueAt"] == leased.lease_end == doc["keySentAt"] + timedelta(seconds=60)
    assert doc["owner"]
    assert payments.find(payment.order_id).payment == leased.payment


def test_what_does_not_fit_is_recorded_as_due_at_once_and_unsent(payments, new_payment, stored):
    batch = [new_payment() for _ in range(5)]
    leased = payments.insert(batch, 2)
    assert [one.payment.order_id for one in leased] == [payment.order_id for payment in batch[:2]]
    for payment in batch[2:]:
        doc = stored(payment.order_id)
        assert (doc["keySent"], doc["fencingToken"], doc["retryCount"], "owner" in doc) == (False, 0, 0, False)
        assert doc["dueAt"] <= payments.now()


def test_a_second_payment_for_one_order_changes_nothing(payments, other, new_payment, stored):
    payment = new_payment()
    payments.insert([payment], 1)
    before = stored(payment.order_id)
    for lease_count in (0, 1):
        assert other.insert([replace(payment, total=Money(1, "MYR"))], lease_count) == []
    assert stored(payment.order_id) == before


def test_of_a_batch_only_new_payments_are_leased(payments, other, new_payment, database):
    batch = [new_payment() for _ in range(6)]
    payments.insert(batch[::2], 1)
    taken = other.insert(batch, 6)
    assert [leased.payment.order_id for leased in taken] == [payment.order_id for payment in batch[1::2]]
    assert database.payments.count_documents({}) == 6
    assert payments.claim(10) != []


def test_the_same_orders_inserted_by_many_at_once_are_leased_once(payments, other, new_payment, database):
    batch = [new_payment() for _ in range(10)]
    with ThreadPoolExecutor(8) as pool:
        leased = list(pool.map(lambda at: (payments, other)[at % 2].insert(batch, 10), range(8)))
    ids = [one.payment.order_id for part in leased for one in part]
    assert sorted(ids) == sorted(payment.order_id for payment in batch)
    assert database.payments.count_documents({}) == 10


def test_a_payment_under_lease_is_not_claimed(payments, other, lease_payment):
    lease_payment()
    assert payments.claim(10) == other.claim(10) == []


def test_a_claim_takes_what_has_been_due_longest(payments, new_payment, database):
    batch = [new_payment() for _ in range(5)]
    payments.insert(batch, 0)
    for age, payment in enumerate(batch):
        due = payments.now() - timedelta(seconds=10 * age + 1)
        database.payments.update_one({"_id": payment.order_id}, {"$set": {"dueAt": due}})
    assert {leased.payment.order_id for leased in payments.claim(2)} == {payment.order_id for payment in batch[-2:]}
    assert len(payments.claim(10)) == 3
    assert payments.claim(10) == []


def test_users_take_turns_in_a_claim_however_much_of_one_is_due(payments, new_payment, database):
    crowd = [new_payment(user_id="crowd") for _ in range(30)]
    payments.insert(crowd, 0)
    single = new_payment(user_id="single")
    payments.insert([single], 0)
    database.payments.update_many({"userId": "crowd"}, {"$set": {"dueAt": payments.now() - timedelta(minutes=1)}})
    assert single.order_id in {leased.payment.order_id for leased in payments.claim(2)}


def test_a_claim_may_prefer_what_has_never_been_tried(payments, new_payment, database):
    tried, untried = new_payment(), new_payment()
    payments.insert([tried, untried], 0)
    long_due = payments.now() - timedelta(minutes=1)
    database.payments.update_one({"_id": tried.order_id}, {"$set": {"dueAt": long_due, "retryCount": 2}})
    assert [leased.payment.order_id for leased in payments.claim(1, untried_first=True)] == [untried.order_id]
    assert [leased.payment.order_id for leased in payments.claim(1)] == [tried.order_id]


def test_a_claim_leaves_alone_what_is_due_later_or_never(payments, new_payment, database):
    batch = [new_payment() for _ in range(3)]
    payments.insert(batch, 0)
    later = payments.now() + timedelta(seconds=30)
    database.payments.update_one({"_id": batch[0].order_id}, {"$set": {"dueAt": later}})
    database.payments.update_one({"_id": batch[1].order_id}, {"$unset": {"dueAt": ""}})
    assert [leased.payment.order_id for leased in payments.claim(10)] == [batch[2].order_id]


def test_a_claim_counts_the_attempt_and_the_try_before_anything_is_sent(payments, new_payment, stored):
    payment = new_payment()
    payments.insert([payment], 0)
    [leased] = payments.claim(1)
    assert (leased.payment.fencing_token, leased.payment.retry_count, leased.payment.key_sent, leased.under_lease) == (
        1,
        1,
        True,
        True,
    )
    doc = stored(payment.order_id)
    assert (doc["fencingToken"], doc["retryCount"], doc["keySent"], doc["version"]) == (
        1,
        1,
        True,
        leased.payment.version,
    )
    assert doc["dueAt"] == leased.lease_end > payments.now()


def test_claims_by_many_at_once_never_share_a_payment(payments, other, new_payment):
    batch = [new_payment() for _ in range(60)]
    payments.insert(batch, 0)
    claimed: list[str] = []

    def claim_on(repository: PaymentRepository) -> None:
        while part := repository.claim(7):
            claimed.extend(leased.payment.order_id for leased in part)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(claim_on, [payments, other] * 3))
    # A claimer that lost its whole batch to others may leave while there is work: the rest is one more claim.
    while rest := payments.claim(60):
        claimed.extend(leased.payment.order_id for leased in rest)
    assert sorted(claimed) == sorted(payment.order_id for payment in batch)


def test_an_expired_lease_is_claimed_under_a_new_fencing_token(dying, other, new_payment):
    payment = new_payment()
    [first] = dying.insert([payment], 1)
    [second] = other.claim(10)
    assert (first.payment.fencing_token, second.payment.fencing_token) == (1, 2)
    assert second.payment.retry_count == 2
    assert other.reload_if_unanswered(second).payment == second.payment
    assert dying.reload_if_unanswered(first) is None


def test_who_lost_the_lease_can_write_nothing_before_the_new_holder_settles_nor_after(
    dying, other, new_payment, stored
):
    payment = new_payment()
    [first] = dying.insert([payment], 1)
    [second] = other.claim(10)
    before = stored(payment.order_id)
    assert dying.save([declined(first)])[0] is False
    assert stored(payment.order_id) == before
    assert other.save([captured(second)])[0] is True
    after = stored(payment.order_id)
    assert dying.save([declined(first)])[0] is False
    assert stored(payment.order_id) == after
    assert after["status"] == "Captured"
    assert [entry["type"] for entry in after["outbox"]] == ["PaymentCaptured"]


def test_the_fencing_token_alone_is_a_fence(payments, lease_payment, stored, database):
    leased = lease_payment()
    database.payments.update_one({"_id": leased.payment.order_id}, {"$inc": {"fencingToken": 1}})
    assert payments.save([captured(leased)])[0] is False
    assert stored(leased.payment.order_id)["status"] == "Processing"


def test_a_change_meanwhile_is_a_fence_too(payments, lease_payment, stored, database):
    leased = lease_payment()
    database.payments.update_one({"_id": leased.payment.order_id}, {"$inc": {"version": 1}})
    assert payments.save([captured(leased)])[0] is False
    assert payments.reload_if_unanswered(leased).payment == replace(leased.payment, version=leased.payment.version + 1)
    assert payments.save([captured(payments.reload_if_unanswered(leased))])[0] is True


def test_a_result_its_event_and_its_log_line_are_one_write(payments, outbox, lease_payment, stored):
    leased = lease_payment()
    assert payments.save([captured(leased)])[0] is True
    doc = stored(leased.payment.order_id)
    assert (doc["status"], doc["captured"], doc["version"]) == ("Captured", 9900, leased.payment.version + 1)
    assert [decode_event(entry) for entry in doc["outbox"]] == [captured(leased).event]
    assert doc["attempts"] == [{"attempt": 1}]
    assert doc["relayDue"] > payments.now()
    assert not {"dueAt", "owner", "claim"} & set(doc)
    [pending] = outbox.dequeue_local(10, 0)
    assert (pending.key, [event.event_id for event in pending.events]) == (
        doc["_id"],
        [captured(leased).event.event_id],
    )


def test_a_result_that_was_refused_is_not_handed_on(dying, other, outbox, new_payment):
    [first] = dying.insert([new_payment()], 1)
    other.claim(10)
    dying.save([declined(first)])[0]
    assert outbox.dequeue_local(10, 0) == []


def test_a_call_to_repeat_lets_go_of_the_lease_until_it_is_due(payments, other, lease_payment, stored):
    leased = lease_payment()
    due = payments.now() + timedelta(milliseconds=1)
    assert payments.save([PaymentUpdate(before=leased, payment=leased.payment, due_at=due)])[0] is True
    doc = stored(leased.payment.order_id)
    assert (doc["dueAt"], "owner" in doc) == (due, False)


def test_a_cancellation_leaves_the_lease_to_the_running_call(payments, other, lease_payment, stored):
    leased = lease_payment()
    cancelled = replace(leased.payment, cancelled=True)
    assert payments.save([PaymentUpdate(before=leased, payment=cancelled, due_at=payments.now(), keeps_lease=True)])[0]
    doc = stored(leased.payment.order_id)
    assert (doc["dueAt"], "owner" in doc) == (leased.lease_end, True)
    assert other.claim(10) == []


def test_the_log_of_a_payment_keeps_its_latest_lines(payments, lease_payment, database):
    leased = lease_payment()
    lines = [{"attempt": at} for at in range(50)]
    database.payments.update_one({"_id": leased.payment.order_id}, {"$set": {"attempts": lines}})
    assert payments.save([PaymentUpdate(before=leased, payment=leased.payment, log_entry={"attempt": 50})])[0]
    [doc] = database.payments.find()
    assert [line["attempt"] for line in doc["attempts"]] == list(range(1, 51))


def test_the_time_of_the_first_try_stays_until_something_new_begins(payments, lease_payment, stored, database):
    leased = lease_payment()
    order_id = leased.payment.order_id
    long_ago = payments.now() - timedelta(hours=1)
    database.payments.update_one({"_id": order_id}, {"$set": {"requestedAt": long_ago}})
    leased = payments.find(order_id)
    payments.save([PaymentUpdate(before=leased, payment=leased.payment, due_at=payments.now())])[0]
    assert stored(order_id)["requestedAt"] == long_ago
    [again] = payments.claim(10)
    requested_at = payments.now()
    refund = replace(
        again.payment,
        status=PaymentStatus.REFUNDING,
        refunds=(Refund(refund_id="cancel", value=9900),),
        retry_count=0,
        requested_at=requested_at,
    )
    payments.save([PaymentUpdate(before=again, payment=refund, due_at=payments.now())])[0]
    assert payments.now() - stored(order_id)["requestedAt"] < timedelta(minutes=1)
    [kept] = stored(order_id)["refunds"]
    texts = dict.fromkeys(("reference", "request_id", "by_other_means"), "")
    assert kept == {"refund_id": "cancel", "value": 9900, "status": "requested", **texts}


def test_parked_payments_are_listed_up_to_a_limit(payments, new_payment, database):
    payments.insert([new_payment() for _ in range(5)], 0)
    ids = [doc["_id"] for doc in database.payments.find().limit(3)]
    database.payments.update_many({"_id": {"$in": ids}}, {"$set": {"status": "Unknown"}})
    assert sorted(leased.payment.order_id for leased in payments.list_parked(10)) == sorted(ids)
    assert len(payments.list_parked(2)) == 2


def test_the_backlog_counts_what_is_due_and_how_long_it_has_waited(payments, new_payment, database):
    assert payments.backlog(10) == (0, 0)
    payments.insert([new_payment() for _ in range(5)], 2)
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


def test_of_updates_saved_in_one_command_each_is_reported_as_written_or_not(
    payments, dying, other, new_payment, database
):
    mine = payments.insert([new_payment() for _ in range(5)], 5)
    gone = dying.insert([new_payment() for _ in range(4)], 4)
    assert len(other.claim(10)) == 4
    changed = payments.insert([new_payment()], 1)
    database.payments.update_one({"_id": changed[0].payment.order_id}, {"$inc": {"version": 1}})
    updates = [captured(mine[0]), *map(captured, (mine[1], gone[0], mine[2], gone[1], changed[0], gone[2], mine[3]))]
    # Twice the same payment in one batch: the first of them wins.
    updates += [captured(mine[4]), declined(mine[4], "second")]
    won = payments.save(updates)
    assert won == [True, True, False, True, False, False, False, True, True, False]
    for update, written in zip(updates, won, strict=True):
        doc = database.payments.find_one({"_id": update.before.payment.order_id})
        assert (update.event.event_id in [entry["event_id"] for entry in doc["outbox"]]) is written


def test_updates_whose_reply_was_lost_are_reported_rightly_when_they_are_repeated(payments, new_payment, database):
    updates = [captured(leased) for leased in payments.insert([new_payment() for _ in range(3)], 3)]
    assert payments.save(updates[:2]) == [True, True]
    assert payments.save(updates) == [True, True, True]
    assert [len(doc["outbox"]) for doc in database.payments.find()] == [1, 1, 1]


def test_updates_saved_by_many_at_once_are_each_reported_rightly(payments, other, new_payment, database):
    leased = payments.insert([new_payment() for _ in range(40)], 40)
    updates = [captured(one) for one in leased] + [declined(one, f"d-{one.payment.order_id}") for one in leased]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda update: payments.save([update])[0], updates))
    assert sum(won) == 40
    for one, capture_won, decline_won in zip(leased, won[:40], won[40:], strict=True):
        doc = database.payments.find_one({"_id": one.payment.order_id})
        assert capture_won != decline_won
        assert [entry["type"] for entry in doc["outbox"]] == ["PaymentCaptured" if capture_won else "PaymentDeclined"]


def test_a_released_payment_is_due_at_once_and_no_try_was_used(payments, other, new_payment, stored):
    batch = [new_payment() for _ in range(3)]
    leased = payments.insert(batch, 3)
    payments.release(leased[:2])
    for one in leased[:2]:
        doc = stored(one.payment.order_id)
        assert (doc["retryCount"], "owner" in doc) == (0, False)
        assert doc["dueAt"] <= payments.now()
    assert {one.payment.order_id for one in other.claim(10)} == {one.payment.order_id for one in leased[:2]}
    assert stored(batch[2].order_id)["owner"]


def test_releasing_what_another_has_leased_by_now_changes_nothing(dying, other, new_payment, stored):
    payment = new_payment()
    leased = dying.insert([payment], 1)
    other.claim(10)
    before = stored(payment.order_id)
    dying.release(leased)
    dying.release([])
    assert stored(payment.order_id) == before


def test_a_payment_cancelled_before_its_call_can_be_released_too(
    payments, other, lease_payment, cancel, worker, stored
):
    first, second = lease_payment(), lease_payment()
    cancel(worker, first.payment.order_id)
    payments.release([first, second])
    for leased in (first, second):
        doc = stored(leased.payment.order_id)
        assert (doc["retryCount"], "owner" in doc) == (0, False)
    assert len(other.claim(10)) == 2


def test_an_unknown_payment_is_none(payments):
    assert payments.find("6920c1b05be0d3a1f2c4e687") is None


GONE = object()
REQUIRED = (
    "userId",
    "total",
    "status",
    "cancelled",
    "keySent",
    "captured",
    "refunds",
    "fencingToken",
    "requestedAt",
    "outbox",
)
MALFORMED = [
    ("_id", 7),
    *[(name, GONE) for name in REQUIRED],
    *[
        (name, 7)
        for name in ("userId", "productId", "requestId", "reference", "parkedReason", "owner", "claim", "writeId")
    ],
    *[
        (name, -1)
        for name in ("generation", "fencingToken", "retryCount", "sequence", "orderSequence", "version", "captured")
    ],
    *[(name, 1.5) for name in ("fencingToken", "retryCount", "captured")],
    *[
        (name, "yes")
        for name in (
            *("cancelled", "keySent", "firstSend", "dueAt", "requestedAt", "keySentAt", "relayDue"),
            *("attempts", "refunds"),
        )
    ],
    ("fencingToken", Int64(2**40)),
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


def test_the_database_itself_refuses_a_malformed_payment(payments, lease_payment, database, stored):
    good = stored(lease_payment().payment.order_id)
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
    payments.insert([payment], 0)
    assert (stored(payment.order_id)["keySent"], "keySentAt" in stored(payment.order_id)) == (False, False)
    [first] = dying.claim(10)
    doc = stored(payment.order_id)
    assert (doc["keySent"], doc["firstSend"], first.payment.first_send) == (True, True, True)
    assert doc["keySentAt"] == first.key_sent_at <= payments.now()
    [again] = payments.claim(10)
    assert (again.payment.first_send, again.key_sent_at) == (False, first.key_sent_at)
    assert again.key_age(first.key_sent_at + timedelta(hours=2)) == 7200.0


def test_a_lease_released_before_its_call_leaves_the_key_as_it_was(payments, dying, new_payment):
    payment = new_payment()
    [leased] = payments.insert([payment], 1)
    payments.release([leased])
    assert not payments.find(payment.order_id).payment.key_sent
    [first] = payments.claim(10)
    assert first.payment.first_send
    payments.release([first])
    dying.claim(10)
    [again] = payments.claim(10)
    payments.release([again])
    assert payments.find(payment.order_id).payment.key_sent


def test_the_key_of_a_document_of_an_older_version_is_as_old_as_its_work(
    payments, lease_payment, stored, database, make_due
):
    order_id = lease_payment().payment.order_id
    database.payments.update_one({"_id": order_id}, {"$unset": {"keySentAt": 1, "firstSend": 1, "owner": 1}})
    began = stored(order_id)["requestedAt"]
    assert payments.find(order_id).key_sent_at == began
    make_due(order_id)
    [leased] = payments.claim(10)
    assert (leased.key_sent_at, leased.payment.first_send) == (began, False)


def test_a_key_requested_before_the_restored_backup_counts_as_sent(store, outbox, payments, new_payment):
    old, older, fresh = new_payment(at=1000), new_payment(at=2000), new_payment(at=2001)
    payments.insert([old], 0)
    restored = PaymentRepository(store, outbox, 60.0, EPOCH + timedelta(seconds=2))
    [unclaimed] = [restored.find(old.order_id)]
    leased_by_restored = restored.insert([older, fresh], 2)
    [claimed] = restored.claim(10)
    assert [leased.payment.key_sent for leased in (unclaimed, claimed, *leased_by_restored)] == [True] * 4
    assert [leased.payment.first_send for leased in (claimed, *leased_by_restored)] == [False, False, True]
    assert unclaimed.key_sent_at == claimed.key_sent_at == EPOCH + timedelta(seconds=1)
    assert leased_by_restored[0].key_sent_at == EPOCH + timedelta(seconds=2)
    assert leased_by_restored[1].key_sent_at > EPOCH + timedelta(days=1)
