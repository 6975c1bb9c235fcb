"""No key is sent once the provider may have forgotten it: a real database, a provider that forgets, and moved times."""

from dataclasses import replace

import pytest
from bson import ObjectId

from app.contracts.base import NotPossible
from app.main import make_doctor
from app.payments import provider_calls
from app.payments.provider_port import CallKind, ResponseCode
from tests.chaos.expiring_provider import ExpiringKeyProvider
from tests.chaos.model import Process, unhurried

pytestmark = pytest.mark.extended

HOUR = 3600.0
TOTAL = 9900
OPEN = {"$or": [{"outbox.0": {"$exists": True}}, {"dueAt": {"$exists": True}}]}


class World:
    """One process, a provider that forgets its keys after a day, and one time for both."""

    def __init__(self, settings, database) -> None:
        self.settings = unhurried(settings)
        self.stored = database
        self.provider = ExpiringKeyProvider(24 * HOUR)
        self.process = Process(self.settings, real=self.provider)
        self.process.prepare()

    def close(self) -> None:
        self.process.close()

    def pass_hours(self, hours: float) -> None:
        self.process.jump(hours * HOUR)
        self.provider.now += hours * HOUR

    def restart(self, **changes) -> None:
        """Another process, with the same time."""
        ahead = self.process.ahead
        self.process.close()
        self.process = Process(replace(self.settings, **changes), real=self.provider)
        self.process.ahead = ahead

    def settle(self) -> None:
        """Let everything happen that happens by itself, with pauses as they come."""
        for _ in range(60):
            self.process.sweep()
            self.process.hear_hints()
            while self.process.hands.jobs:
                self.process.work()
            if not any(self.stored[name].find_one(OPEN) for name in ("orders", "payments")):
                return
            self.pass_hours(60 / HOUR)
        raise AssertionError("it does not settle")

    def backup(self) -> dict[str, list[dict]]:
        return {name: list(self.stored[name].find()) for name in ("orders", "payments")}

    def restore(self, backup: dict[str, list[dict]]) -> None:
        for name, docs in backup.items():
            self.stored[name].delete_many({})
            if docs:
                self.stored[name].insert_many(docs)

    def cancel(self, order_id: str) -> None:
        answer = self.process.client.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"})
        assert answer.status_code == 200, answer.text

    def refund(self, order_id: str, amount: str = "RM 9") -> str:
        answer = self.process.client.post(f"/orders/one/{order_id}/refunds", json={"amount": amount})
        assert answer.status_code == 201, answer.text
        return answer.json["refund"]["id"]

    def statuses(self, order_id: str) -> tuple[str, str]:
        order = self.process.client.get(f"/orders/one/{order_id}").json["order"]
        assert order["paymentStatus"] == self.stored.payments.find_one({"_id": order_id})["status"]
        return order["orderStatus"], order["paymentStatus"]


@pytest.fixture
def world(settings, database):
    made = World(settings, database)
    yield made
    made.close()


@pytest.fixture
def order(world, place):
    return place(world.process.client)


@pytest.fixture
def charged(world, order):
    """An order that was charged by a process that died before it recorded that."""
    world.process.hear_hints()
    world.process.work(mood="dies after")
    assert world.provider.charged(order) == 1
    return order


@pytest.fixture
def paid(world, order):
    world.settle()
    assert world.statuses(order) == ("Success", "Captured")
    return order


def test_killed_between_charge_and_record_and_restarted_after_the_keys_life_it_is_not_charged_again(world, charged):
    world.pass_hours(25)
    world.settle()
    assert world.provider.charged(charged) == 1
    assert world.statuses(charged) == ("Processing", "Unknown")


def test_restarted_within_the_keys_life_it_is_settled(world, charged):
    world.pass_hours(23)
    world.settle()
    assert world.provider.charged(charged) == 1
    assert world.statuses(charged) == ("Success", "Captured")


def test_what_the_provider_still_finds_settles_it_however_old_the_key_is(world, charged):
    world.provider.searchable = True
    world.pass_hours(72)
    world.settle()
    assert len(world.provider.sent) == 1
    assert world.statuses(charged) == ("Success", "Captured")


def test_cancelled_after_the_keys_life_an_open_payment_is_not_voided(world, charged):
    world.pass_hours(25)
    world.cancel(charged)
    world.settle()
    assert [call.kind for call in world.provider.sent] == [CallKind.CHARGE]
    assert world.statuses(charged) == ("Cancelled", "Unknown")


def test_cancelled_after_the_keys_life_a_charge_that_is_found_is_given_back(world, charged):
    world.provider.searchable = True
    world.pass_hours(25)
    world.cancel(charged)
    world.settle()
    assert world.provider.refunded(charged) == TOTAL
    assert world.statuses(charged) == ("Cancelled", "Refunded")


def test_a_parked_payment_that_is_cancelled_after_the_keys_life_is_not_voided(world, charged):
    world.pass_hours(25)
    world.settle()
    assert world.statuses(charged) == ("Processing", "Unknown")
    world.cancel(charged)
    world.settle()
    assert [call.kind for call in world.provider.sent] == [CallKind.CHARGE]
    assert world.statuses(charged) == ("Cancelled", "Unknown")


@pytest.fixture
def refunding(world, paid):
    """A paid order whose refund was made by a process that died before it recorded that."""
    world.refund(paid)
    world.process.hear_hints()
    world.process.sweep()
    world.process.work(mood="dies after")
    assert world.provider.refunded(paid) == 900
    return paid


def test_a_parked_refund_is_not_made_again_when_the_order_is_cancelled_days_later(world, refunding):
    world.pass_hours(72)
    world.settle()
    assert world.statuses(refunding) == ("Success", "Unknown")
    world.cancel(refunding)
    world.settle()
    assert world.provider.refunded(refunding) == 900
    assert world.statuses(refunding) == ("Cancelled", "Unknown")


def test_an_operator_who_resolves_the_refund_lets_the_cancellation_give_back_the_rest(world, refunding):
    world.pass_hours(72)
    world.cancel(refunding)
    world.settle()
    world.process.payments.manual_review.resolve(refunding, ResponseCode.REFUNDED, "", "Ada", "seen in the dashboard")
    world.settle()
    assert world.provider.refunded(refunding) == TOTAL
    assert world.statuses(refunding) == ("Cancelled", "Refunded")


def test_a_refund_has_a_key_of_its_own_whose_life_begins_with_it(world, paid):
    world.pass_hours(72)
    world.refund(paid)
    world.settle()
    assert world.provider.refunded(paid) == 900
    world.pass_hours(72)
    world.cancel(paid)
    world.settle()
    assert world.provider.refunded(paid) == TOTAL
    assert world.statuses(paid) == ("Cancelled", "Refunded")


def test_an_operator_cannot_have_an_old_key_sent(world, charged):
    world.pass_hours(25)
    world.settle()
    with pytest.raises(NotPossible, match="forgotten"):
        world.process.payments.manual_review.retry(charged, "Ada", "it works again")
    assert world.provider.charged(charged) == 1


def test_a_retry_that_is_taken_up_after_the_keys_life_sends_nothing(world, order):
    """The operator decides within the key's life; the worker comes to it later."""
    world.process.hear_hints()
    world.process.work(mood="dies after")
    world.stored.payments.update_one(
        {"_id": order}, {"$set": {"status": "Unknown", "parkedReason": "?"}, "$unset": {"dueAt": 1}}
    )
    world.pass_hours(23)
    assert world.process.payments.manual_review.retry(order, "Ada", "it works again") == "Processing"
    world.pass_hours(2)
    world.settle()
    assert world.provider.charged(order) == 1
    assert world.statuses(order) == ("Processing", "Unknown")


# A key that the provider cannot have received may be sent at any age.


def test_an_order_that_waited_unsent_through_a_long_outage_is_paid_once(world, order):
    world.process.payments.worker.draining = True
    world.process.hear_hints()
    world.pass_hours(30)
    world.process.payments.worker.draining = False
    world.settle()
    assert world.provider.charged(order) == 1
    assert world.statuses(order) == ("Success", "Captured")


def test_a_lease_that_was_released_before_its_call_sent_nothing(world, order):
    world.process.hear_hints()
    assert world.stored.payments.find_one({"_id": order})["keySent"]
    world.process.payments.worker.stop(10.0)
    world.process.payments.worker._release([world.process.payments.worker._payments.find(order)])
    world.pass_hours(30)
    world.restart()
    world.settle()
    assert world.provider.charged(order) == 1
    assert world.statuses(order) == ("Success", "Captured")


def test_refused_probes_during_an_outage_do_not_use_up_the_keys_life(world, order):
    """A probe now and then finds the provider down; it never received the key."""
    world.process.hear_hints()
    for _ in range(5):
        world.process.work(mood="busy")
        world.pass_hours(6)
        world.process.sweep()
    world.settle()
    assert world.provider.charged(order) == 1
    assert world.statuses(order) == ("Success", "Captured")


def test_a_probe_without_an_answer_begins_the_keys_life(world, order):
    world.process.hear_hints()
    world.process.work(mood="before")
    world.pass_hours(6)
    world.process.sweep()
    world.process.work(mood="busy")
    world.pass_hours(19)
    world.settle()
    assert world.provider.sent == []
    assert world.statuses(order) == ("Processing", "Unknown")


def test_the_rule_is_what_protects(world, charged, monkeypatch):
    """Without it the same way ends in a second charge."""
    monkeypatch.setattr(provider_calls, "may_send", lambda *_: True)
    world.pass_hours(25)
    world.settle()
    assert world.provider.charged(charged) == 2


# A database that is restored from a backup is older than the provider's books.


def stored_only(world, order):
    """The order is stored; payments has not been told of it."""


def recorded(world, order):
    """The payment is recorded, and nothing was sent for it."""
    world.process.payments.worker.draining = True
    world.process.hear_hints()
    world.process.payments.worker.draining = False


def claimed(world, order):
    """The payment is about to be sent."""
    world.process.hear_hints()


def cancelled(world, order):
    """The order is cancelled; payments has been told of neither."""
    world.cancel(order)


def refund_stored(world, order):
    """The payment is captured, and a refund reserved; payments has not been told."""
    world.settle()
    world.refund(order)


def refund_recorded(world, order):
    """The payment is captured, and a refund is recorded; nothing was sent for it."""
    world.settle()
    world.refund(order)
    world.process.hear_hints()


MOMENTS = (stored_only, recorded, claimed, cancelled, refund_stored, refund_recorded)
moments = pytest.mark.parametrize("reach", MOMENTS, ids=lambda reach: reach.__name__)


def restored(world, order, reach, hours, **changes):
    """Back up, let everything happen, and restore the backup after some hours."""
    reach(world, order)
    backup = world.backup()
    world.process.orders.outbox.dequeue_local(128, 0.0)
    world.process.payments.outbox.dequeue_local(128, 0.0)
    world.process.die()
    world.settle()
    before = world.provider.charged(order), world.provider.refunded(order)
    world.pass_hours(hours)
    world.restore(backup)
    world.restart(**{"restored_at": world.process.database.clock.now().isoformat()} | changes)
    world.settle()
    return before


@moments
@pytest.mark.parametrize("hours", [1, 25, 500])
def test_a_restored_database_repeats_nothing_and_all_of_it_settles_or_is_parked(world, order, reach, hours):
    before = restored(world, order, reach, hours)
    assert (world.provider.charged(order), world.provider.refunded(order)) == before
    _, payment_status = world.statuses(order)
    assert payment_status == "Unknown" if hours > 24 else payment_status not in ("Unknown", "Processing", "Refunding")


@moments
def test_a_restored_database_settles_by_itself_where_the_provider_finds_old_keys(world, order, reach):
    world.provider.searchable = True
    before = restored(world, order, reach, 25)
    assert (world.provider.charged(order), world.provider.refunded(order)) == before
    assert world.statuses(order)[1] not in ("Unknown", "Processing", "Refunding")


def test_orders_and_refunds_that_come_after_a_restore_are_made(world, order, place):
    world.settle()
    restored(world, order, refund_recorded, 25)
    fresh = place(world.process.client)
    world.settle()
    assert world.statuses(fresh) == ("Success", "Captured")
    world.refund(fresh)
    world.cancel(fresh)
    world.settle()
    assert world.provider.refunded(fresh) == TOTAL
    assert world.statuses(fresh) == ("Cancelled", "Refunded")


def test_without_the_time_of_the_restore_a_restored_order_is_charged_again(world, order):
    restored(world, order, stored_only, 25, restored_at="")
    assert world.provider.charged(order) == 2


# A refund that the provider refuses for good.


@pytest.fixture
def refused(world, paid):
    """A paid order with a refund that was refused, and its id."""
    world.provider.refuses = lambda call: call.value == 900
    refund_id = world.refund(paid)
    world.settle()
    assert world.statuses(paid) == ("Success", "Unknown")
    return paid, refund_id


def timeline(world, order_id):
    return [entry["type"] for entry in world.stored.orders.find_one({"_id": ObjectId(order_id)})["events"]]


def test_a_dropped_refund_releases_its_reservation(world, refused):
    order_id, refund_id = refused
    assert (
        world.process.payments.manual_review.drop_refund(order_id, refund_id, "Ada", "the card was closed")
        == "Captured"
    )
    world.settle()
    assert world.statuses(order_id) == ("Success", "Captured")
    assert timeline(world, order_id)[-1] == "PaymentRefundFailed"
    world.provider.refuses = lambda call: False
    world.refund(order_id, "RM 99")
    world.settle()
    assert world.provider.refunded(order_id) == TOTAL
    assert world.statuses(order_id) == ("Success", "Refunded")


def test_a_dropped_refund_of_a_cancelled_order_goes_back_with_the_rest(world, refused):
    order_id, refund_id = refused
    world.cancel(order_id)
    world.settle()
    assert world.statuses(order_id) == ("Cancelled", "Unknown")
    assert (
        world.process.payments.manual_review.drop_refund(order_id, refund_id, "Ada", "the card was closed")
        == "Refunding"
    )
    world.settle()
    assert world.provider.refunded(order_id) == TOTAL
    assert world.statuses(order_id) == ("Cancelled", "Refunded")
    assert timeline(world, order_id)[-2:] == ["PaymentRefundFailed", "PaymentRefunded"]


def test_a_cancellation_after_a_dropped_refund_gives_all_back(world, refused):
    order_id, refund_id = refused
    world.process.payments.manual_review.drop_refund(order_id, refund_id, "Ada", "the card was closed")
    world.settle()
    world.cancel(order_id)
    world.settle()
    assert world.provider.refunded(order_id) == TOTAL
    assert world.statuses(order_id) == ("Cancelled", "Refunded")


def test_a_refund_that_was_made_cannot_be_dropped(world, refunding):
    """It was parked because its answer was lost; the provider says that it was made."""
    world.provider.searchable = True
    world.stored.payments.update_one(
        {"_id": refunding}, {"$set": {"status": "Unknown", "parkedReason": "?"}, "$unset": {"dueAt": 1, "owner": 1}}
    )
    refund_id = world.stored.payments.find_one({"_id": refunding})["refunds"][0]["refund_id"]
    with pytest.raises(NotPossible, match="refunded"):
        world.process.payments.manual_review.drop_refund(refunding, refund_id, "Ada", "a mistake")


def test_the_same_request_for_a_dropped_refund_is_not_made_again(world, paid):
    """A client that repeats it with its Idempotency-Key gets the first answer."""
    world.provider.refuses = lambda call: call.value == 900
    ask = {"path": f"/orders/one/{paid}/refunds", "json": {"amount": "RM 9"}, "headers": {"Idempotency-Key": "k"}}
    first = world.process.client.post(**ask).json["refund"]
    world.settle()
    world.process.payments.manual_review.drop_refund(paid, first["id"], "Ada", "the card was closed")
    world.settle()
    world.provider.refuses = lambda call: False
    again = world.process.client.post(**ask)
    assert (again.headers["Idempotent-Replayed"], again.json["refund"]["id"]) == ("true", first["id"])
    world.settle()
    assert world.provider.refunded(paid) == 0


def test_the_doctor_finds_the_books_right_after_a_refund_was_dropped(world, refused):
    order_id, refund_id = refused
    world.process.payments.manual_review.drop_refund(order_id, refund_id, "Ada", "the card was closed")
    world.settle()
    charge = {"_id": f"{order_id}:1", "orderId": order_id, "answer": "captured", "value": TOTAL, "currency": "MYR"}
    world.stored.ledger.insert_one({**charge, "refunded": 0, "refunds": []})
    report = make_doctor(world.process.database, world.settings, 5.0).examine([order_id], 0.0)
    assert report.violations == []
