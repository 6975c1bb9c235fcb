"""Random interleavings of everything that may happen, on the real database, against a model of ten lines."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from bson import ObjectId
from hypothesis import HealthCheck, Phase
from hypothesis import settings as bounds
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.contracts.base import NotPossible
from app.main import make_doctor
from tests.chaos.model import MOODS, Process, unhurried

pytestmark = pytest.mark.extended

TOTAL = 9900
LEASES = 60.0
ROUNDS = 60
WEEK = 7 * 86_400.0
STEPS = {
    "Processing": {"Success", "Declined", "Cancelled"},
    "Success": {"Confirm", "Cancelled", "Packed", "Sent"},
    "Confirm": {"Cancelled", "Packed", "Sent"},
    "Packed": {"Cancelled", "Sent"},
    "Sent": {"Cancelled", "Packed"},
    "Declined": {"Cancelled"},
    "Cancelled": set(),
}

PENDING = ("pending", "pending-declined", "action-required")
PRODUCTS = ("1", "1", "2", *PENDING, "refund-fails-later", "disputed")
NEVER_PAID = ("2", "pending-declined")
TAKEN_BACK = ("open", "lost")
WITH_PAGE = {"token": {"$exists": True}}
BY_OTHER_MEANS = "give it back by other means"
PARKED = {"status": "Unknown", "parkedReason": {"$not": {"$regex": BY_OTHER_MEANS}}}

processes = st.integers(0, 1)
which = st.integers(0, 50)


@dataclass
class Wish:
    """The model: what clients were promised of one order."""

    product: str
    key: str
    manual: bool = False
    status: str = ""
    capture: int = 0
    refunds: dict[str, int] = field(default_factory=dict)
    repeatable: bool = True

    @property
    def decided(self) -> bool:
        """Whether time, the customer and the bank have no part in whether it is paid."""
        return not self.manual and self.product not in PENDING

    def end(self, paid: bool, disputed: bool, failed: Collection[str]) -> tuple[str, int]:
        """The order's status, and what the provider holds, when all is done.

        It depends on whether the payment was `paid` at last, is `disputed`, and which refunds have `failed`.
        """
        if self.decided and self.status != "Cancelled":
            paid = self.product not in NEVER_PAID
        status = self.status or ("Success" if paid else "Declined")
        taken = (self.capture or TOTAL) if paid and not disputed else 0
        if self.product == "refund-fails-later":
            # An operator gives back what a cancelled order cost.
            return status, taken
        kept = status not in ("Declined", "Cancelled")
        return status, taken - sum(value for name, value in self.refunds.items() if name not in failed) if kept else 0


class Life(RuleBasedStateMachine):
    """Two processes with clocks of their own, clients, and a moody provider."""

    def __init__(self, settings, database) -> None:
        super().__init__()
        self.settings = settings
        self.stored = database
        self.wishes: dict[str, Wish] = {}
        self.seen: dict[str, tuple[str, int]] = {}
        self.processes: list[Process] = []

    @initialize()
    def begin(self) -> None:
        for name in ("orders", "payments", "ledger", "notifications"):
            self.stored[name].delete_many({})
        self.processes = [Process(self.settings, number) for number in (0, 1)]

    # What clients do.

    @rule(at=processes, product=st.sampled_from(PRODUCTS), manual=st.sampled_from([False, False, True]))
    def create(self, at: int, product: str, manual: bool) -> None:
        wish = Wish(product, f"key-{len(self.wishes)}", manual)
        answer = self._post(at, wish)
        assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False), answer.text
        self.wishes[answer.json["created"]["id"]] = wish

    @precondition(lambda self: any(wish.repeatable for wish in self.wishes.values()))
    @rule(at=processes, number=which, same=st.booleans())
    def create_again(self, at: int, number: int, same: bool) -> None:
        fresh = [(order_id, wish) for order_id, wish in self.wishes.items() if wish.repeatable]
        order_id, wish = fresh[number % len(fresh)]
        answer = self._post(at, wish if same else replace(wish, product="3"))
        if same:
            assert (answer.status_code, answer.headers["Idempotent-Replayed"]) == (201, "true")
            assert answer.json["created"]["id"] == order_id
        else:
            assert (answer.status_code, answer.json["code"]) == (422, "idempotency_key_reused")

    @precondition(lambda self: self.wishes)
    @rule(at=processes, number=which, status=st.sampled_from(["Cancelled", "Cancelled", "Confirm", "Packed", "Sent"]))
    def update(self, at: int, number: int, status: str) -> None:
        order_id, wish = self._order(number)
        before = self._stored(order_id)["orderStatus"]
        answer = self._client(at).put("/orders", json={"orderId": order_id, "orderStatus": status})
        if status == before or status in STEPS[before]:
            assert answer.status_code == 200, answer.text
            wish.status = status
        else:
            assert (answer.status_code, answer.json["code"], answer.json["from"]) == (409, "illegal_transition", before)

    @precondition(lambda self: self.wishes)
    @rule(at=processes, number=which, hundreds=st.integers(0, 40), key=st.sampled_from(["", "a", "b"]))
    def refund(self, at: int, number: int, hundreds: int, key: str) -> None:
        """Any part of the total, all that is left where `hundreds` is 0; the key's second use repeats its first."""
        order_id, wish = self._order(number)
        value = wish.refunds.get(key, hundreds * 300)
        before = self._stored(order_id)
        answer = self._client(at).post(
            f"/orders/one/{order_id}/refunds",
            json={"amount": f"RM {value // 100}"} if value else {},
            headers={"Idempotency-Key": key} if key else {},
        )
        failed = _failed_refunds(before)
        left = (wish.capture or TOTAL) - sum(value for name, value in wish.refunds.items() if name not in failed)
        asked = value or left
        if key in wish.refunds:
            assert (answer.status_code, answer.headers["Idempotent-Replayed"]) == (201, "true")
        elif before.get("disputed") and before["orderStatus"] not in ("Declined", "Cancelled"):
            assert (answer.status_code, answer.json["code"]) == (409, "payment_disputed")
        elif before["orderStatus"] == "Cancelled" or before["paymentStatus"] not in (
            "Captured",
            "Refunding",
            "Refunded",
        ):
            assert (answer.status_code, answer.json["code"]) == (409, "illegal_transition")
        elif 0 < asked <= left:
            assert (answer.status_code, answer.json["refund"]["amount"]["value"]) == (201, asked)
            wish.refunds[key or answer.json["refund"]["id"]] = asked
        else:
            assert (answer.status_code, answer.json["code"]) == (409, "refund_exceeds_balance")
            assert answer.json["remaining"] == left

    @precondition(lambda self: any(wish.manual for wish in self.wishes.values()))
    @rule(at=processes, number=which, hundreds=st.sampled_from([0, 10, 40, 99]))
    def capture(self, at: int, number: int, hundreds: int) -> None:
        """A part of what is authorized, all of it where `hundreds` is 0."""
        manual = [(order_id, wish) for order_id, wish in self.wishes.items() if wish.manual]
        order_id, wish = manual[number % len(manual)]
        before = self._stored(order_id)
        answer = self._client(at).post(
            f"/orders/one/{order_id}/capture", json={"amount": f"RM {hundreds}"} if hundreds else {}
        )
        value = hundreds * 100 or TOTAL
        states = before["orderStatus"], before["paymentStatus"]
        if wish.capture:
            assert (answer.status_code, answer.json.get("code")) in ((202, None), (409, "already_captured"))
            assert (answer.status_code == 202) == (value == wish.capture)
        elif states == ("Processing", "Authorized"):
            assert answer.status_code == 202, answer.text
            wish.capture = value
        else:
            assert (answer.status_code, answer.json["code"]) == (409, "illegal_transition")

    @precondition(lambda self: self.stored.ledger.find_one(WITH_PAGE))
    @rule(at=processes, number=which, decision=st.sampled_from(["approve", "approve", "refuse"]))
    def decide(self, at: int, number: int, decision: str) -> None:
        """The customer pays or not; the bank decides a dispute for the merchant or the payer."""
        entries = list(self.stored.ledger.find(WITH_PAGE).sort("orderId"))
        page = f"/providers/simulated/actions/{entries[number % len(entries)]['token']}"
        answer = self._client(at).post(page, data={"decision": decision})
        assert answer.status_code == 303, answer.text

    # What happens behind.

    @precondition(lambda self: self.wishes)
    @rule(at=processes, remembers=st.booleans())
    def the_provider_notifies(self, at: int, remembers: bool) -> None:
        self.processes[at].send_notifications(remembers=remembers)

    @precondition(lambda self: self.stored.ledger.find_one({"notices.0": {"$exists": True}}))
    @rule()
    def notifications_are_lost(self) -> None:
        self.stored.ledger.update_many({}, {"$unset": {"notices": 1}})

    @precondition(lambda self: self.stored.notifications.find_one({"dueAt": {"$exists": True}}))
    @rule(at=processes)
    def apply_notifications(self, at: int) -> None:
        self.processes[at].payments.notifications.apply_due()

    @rule(at=processes)
    def hear_hints(self, at: int) -> None:
        self.processes[at].hear_hints()

    @rule(at=processes)
    def hear_hints_without_room(self, at: int) -> None:
        """New payments are recorded, and left to whoever has a free thread."""
        worker = self.processes[at].payments.worker
        worker.draining = True
        self.processes[at].hear_hints()
        worker.draining = False

    @rule(at=processes)
    def sweep(self, at: int) -> None:
        self.processes[at].sweep()

    @precondition(lambda self: any(process.hands.jobs for process in self.processes))
    @rule(number=which, mood=st.sampled_from([*[""] * 6, *MOODS]), cancels=st.booleans(), expires=st.booleans())
    def work(self, number: int, mood: str, cancels: bool, expires: bool) -> None:
        """One call to the provider; while it is under way an order is cancelled, or its lease ends."""
        busy = [process for process in self.processes if process.hands.jobs]
        process = busy[number % len(busy)]
        other = self.processes[1 - process.number]

        def meanwhile() -> None:
            if expires:
                self.leases_expire()
            if cancels:
                self.update(other.number, number, "Cancelled")
                other.hear_hints()
            if expires:
                other.sweep()
                while other.hands.jobs:
                    other.work()

        process.work(number, mood, meanwhile)

    @precondition(lambda self: any(process.provider.floating for process in self.processes))
    @rule(number=which)
    def a_late_request_takes_effect(self, number: int) -> None:
        afloat = [process for process in self.processes if process.provider.floating]
        afloat[number % len(afloat)].provider.land(number)

    @precondition(lambda self: any(process.bus.delivered for process in self.processes))
    @rule(at=processes, number=which)
    def an_event_is_delivered_again(self, at: int, number: int) -> None:
        events = [event for process in self.processes for event in process.bus.delivered]
        delivery = self.processes[at].bus.publish((events[number % len(events)],))
        assert not any(delivery.values()), delivery

    @rule(at=processes)
    def crash(self, at: int) -> None:
        self.processes[at].die()

    @rule(at=processes, seconds=st.sampled_from([0.5, 31.0, 31.0, 600.0, -0.5, -31.0, -600.0]))
    def a_clock_jumps(self, at: int, seconds: float) -> None:
        self.processes[at].jump(seconds)

    @precondition(lambda self: self.wishes)
    @rule(hours=st.sampled_from([1, 25, 7 * 24]))
    def time_passes(self, hours: int) -> None:
        """The customer, the bank and the shop have had their time. After a day keys of orders may be forgotten.

        Keys of the provider get no older than that: what becomes of those is another test's.
        """
        if self._keys_under_way():
            hours = 1
        for process in self.processes:
            process.jump(hours * 3600)
        for wish in self.wishes.values():
            wish.repeatable &= hours < 24

    @rule()
    def leases_expire(self) -> None:
        for process in self.processes:
            process.jump(LEASES)

    # What always holds.

    @invariant()
    def orders_move_along_their_table_and_forget_nothing(self) -> None:
        for doc in self.stored.orders.find({}, {"orderStatus": 1, "version": 1, "events": 1, "refunds": 1}):
            order_id, status = str(doc["_id"]), doc["orderStatus"]
            for entry in doc["events"][1:]:
                assert entry["from"] == entry["to"] or entry["to"] in STEPS[entry["from"]]
            for one, next_one in pairwise(doc["events"]):
                assert (next_one["from"], next_one["sequence"]) == (one["to"], one["sequence"] + 1)
            assert doc["events"][-1]["to"] == status
            assert doc["version"] >= self.seen.get(order_id, ("", 0))[1]
            self.seen[order_id] = status, doc["version"]
            assert sum(refund["value"] for refund in doc.get("refunds", ())) == sum(
                self.wishes[order_id].refunds.values()
            )
        assert self.seen.keys() == self.wishes.keys()

    @invariant()
    def nobody_is_charged_twice_or_given_more_than_was_taken(self) -> None:
        captured = list(self.stored.ledger.find({"answer": "captured"}))
        assert len({charge["orderId"] for charge in captured}) == len(captured)
        for charge in captured:
            wish = self.wishes[charge["orderId"]]
            assert wish.product not in NEVER_PAID
            assert charge["value"] == (wish.capture if wish.manual else TOTAL)
            assert charge["refunded"] == sum(refund["value"] for refund in charge["refunds"])
            assert _held(charge) >= 0

    def teardown(self) -> None:
        """Whatever happened: left to work, everything settles as the clients were promised."""
        if not self.processes:
            return
        try:
            self._settle()
            report = make_doctor(self.processes[0].database, self.settings, 5.0).examine(self.wishes, 0.0)
            assert not report.violations, report.violations
            assert {finding.order_id for finding in report.needs_operator} == self._given_back_by_hand()
            for order_id, wish in self.wishes.items():
                charges = list(self.stored.ledger.find({"orderId": order_id, "answer": "captured"}))
                disputed = any(_disputed(charge) for charge in charges)
                order, held = self._stored(order_id), sum(map(_held, charges))
                expected = wish.end(bool(charges), disputed, _failed_refunds(order))
                assert (order["orderStatus"], held) == expected
                assert (order["paymentStatus"] == "Disputed") == disputed
        finally:
            for process in self.processes:
                process.close()

    def _settle(self) -> None:
        # What notifications did not tell, a reconciliation finds.
        for order_id in self.wishes:
            self.processes[0].payments.notifications.refresh(order_id)
        for _ in range(ROUNDS):
            keys_under_way = self._keys_under_way()
            for process in self.processes:
                # Whatever waits for somebody expires.
                process.jump(LEASES if keys_under_way else WEEK)
                process.send_notifications()
                process.payments.notifications.apply_due()
                while process.provider.floating:
                    process.provider.land(0)
                process.sweep()
                while process.hands.jobs:
                    process.work()
                process.hear_hints()
                for held in process.payments.manual_review.list_parked(100):
                    if BY_OTHER_MEANS in held.payment.parked_reason:
                        continue
                    with suppress(NotPossible):
                        process.payments.manual_review.retry(held.payment.order_id, "Ada", "it works again")
            if not any(self._left()):
                return
        raise AssertionError(f"not settled after {ROUNDS} rounds: {list(self._left())}")

    def _keys_under_way(self) -> bool:
        """Whether a payment may have a call under way that is known by its key alone."""
        return any(self.stored.payments.find({"status": {"$in": ["Processing", "Refunding"]}})) or any(
            self.stored.payments.find(PARKED)
        )

    def _left(self) -> Iterator[dict]:
        names = ("outbox.0", "dueAt", "changesAt", "notices.0")
        due = {"$or": [*({name: {"$exists": True}} for name in names), PARKED]}
        for name in ("orders", "payments", "ledger", "notifications"):
            yield from self.stored[name].find(due)

    def _given_back_by_hand(self) -> set[str]:
        """Cancelled orders whose refund has failed: it is parked, so that an operator gives the money back."""
        cancelled = {name for name, wish in self.wishes.items() if wish.status == "Cancelled"}
        parked = {doc["_id"] for doc in self.stored.payments.find({"parkedReason": {"$regex": BY_OTHER_MEANS}})}
        assert parked <= {name for name in cancelled if self.wishes[name].product == "refund-fails-later"}
        return parked

    def _client(self, at: int):
        return self.processes[at].client

    def _post(self, at: int, wish: Wish):
        body = {"userId": "ann", "productId": wish.product, "productName": "Lamp", "totalOrderAmount": "RM 99"}
        if wish.manual:
            body["capture"] = "manual"
        return self._client(at).post("/orders", json=body, headers={"Idempotency-Key": wish.key})

    def _order(self, number: int) -> tuple[str, Wish]:
        return list(self.wishes.items())[number % len(self.wishes)]

    def _stored(self, order_id: str) -> dict:
        return self.stored.orders.find_one({"_id": ObjectId(order_id)})


def _failed_refunds(order: dict) -> set[str]:
    return {refund["id"] for refund in order.get("refunds", ()) if refund["status"] == "failed"}


def _held(charge: dict) -> int:
    """What the provider holds of a captured charge."""
    taken_back = charge["dispute"]["value"] if _disputed(charge) else 0
    return charge["value"] - charge["refunded"] - taken_back


def _disputed(charge: dict) -> bool:
    return charge.get("dispute", {}).get("status") in TAKEN_BACK


@pytest.mark.timeout(600)
def test_whatever_happens_in_whatever_order_each_order_ends_as_promised(settings, database):
    """MODEL_EXAMPLES tries more than the few that there is time for in every run."""
    unrushed = unhurried(settings, payment_tries=4, webhooks=False)
    first = Process(unrushed)
    first.prepare()
    first.close()
    run_state_machine_as_test(
        lambda: Life(unrushed, database),
        settings=bounds(
            max_examples=int(os.environ.get("MODEL_EXAMPLES", "25")),
            stateful_step_count=int(os.environ.get("MODEL_STEPS", "30")),
            deadline=None,
            derandomize="MODEL_EXAMPLES" not in os.environ,
            database=None,
            phases=[Phase.generate, Phase.shrink] if "MODEL_EXAMPLES" in os.environ else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
