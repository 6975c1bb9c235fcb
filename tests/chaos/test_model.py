"""Random interleavings of everything that may happen, on the real database, against a model of ten lines."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
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

from app.main import make_doctor
from app.payments.manual_review import NotPossible
from tests.chaos.model import MOODS, Process, unhurried

TOTAL = 9900
LEASES = 60.0
ROUNDS = 60
STEPS = {
    "Processing": {"Success", "Declined", "Cancelled"},
    "Success": {"Confirm", "Cancelled", "Packed", "Sent"},
    "Confirm": {"Cancelled", "Packed", "Sent"},
    "Packed": {"Cancelled", "Sent"},
    "Sent": {"Cancelled", "Packed"},
    "Declined": {"Cancelled"},
    "Cancelled": set(),
}

processes = st.integers(0, 1)
which = st.integers(0, 50)


@dataclass
class Wish:
    """The model: what clients were promised of one order."""

    product: str
    key: str
    status: str = ""
    refunds: dict[str, int] = field(default_factory=dict)

    def end(self) -> tuple[str, int]:
        """The order's status, and what the provider holds, when all is done."""
        status = self.status or ("Success" if self.product == "1" else "Declined")
        kept = status not in ("Declined", "Cancelled")
        return status, TOTAL - sum(self.refunds.values()) if kept else 0


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
        for name in ("orders", "payments", "ledger"):
            self.stored[name].delete_many({})
        self.processes = [Process(self.settings, number) for number in (0, 1)]

    # What clients do.

    @rule(at=processes, product=st.sampled_from(["1", "1", "2"]))
    def create(self, at: int, product: str) -> None:
        key = f"key-{len(self.wishes)}"
        answer = self._post(at, product, key)
        assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False), answer.text
        self.wishes[answer.json["created"]["id"]] = Wish(product, key)

    @precondition(lambda self: self.wishes)
    @rule(at=processes, number=which, same=st.booleans())
    def create_again(self, at: int, number: int, same: bool) -> None:
        order_id, wish = self._order(number)
        answer = self._post(at, wish.product if same else "3", wish.key)
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
        left = TOTAL - sum(wish.refunds.values())
        asked = value or left
        if key in wish.refunds:
            assert (answer.status_code, answer.headers["Idempotent-Replayed"]) == (201, "true")
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

    # What happens behind.

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
            assert self.wishes[charge["orderId"]].product == "1"
            assert charge["refunded"] == sum(refund["value"] for refund in charge["refunds"]) <= charge["value"]

    def teardown(self) -> None:
        """Whatever happened: left to work, everything settles as the clients were promised."""
        if not self.processes:
            return
        try:
            self._settle()
            report = make_doctor(self.processes[0].database, self.settings, 5.0).examine(self.wishes, 0.0)
            assert report.healthy, report.violations
            assert not report.needs_operator
            for order_id, wish in self.wishes.items():
                held = sum(
                    charge["value"] - charge["refunded"]
                    for charge in self.stored.ledger.find({"orderId": order_id, "answer": "captured"})
                )
                assert (self._stored(order_id)["orderStatus"], held) == wish.end()
        finally:
            for process in self.processes:
                process.close()

    def _settle(self) -> None:
        for _ in range(ROUNDS):
            for process in self.processes:
                process.jump(LEASES)
                while process.provider.floating:
                    process.provider.land(0)
                process.sweep()
                while process.hands.jobs:
                    process.work()
                process.hear_hints()
                for held in process.payments.manual_review.list_parked(100):
                    with suppress(NotPossible):
                        process.payments.manual_review.retry(held.payment.order_id)
            if not any(self._left()):
                return
        raise AssertionError(f"not settled after {ROUNDS} rounds: {list(self._left())}")

    def _left(self) -> Iterator[dict]:
        due = {"$or": [{"outbox.0": {"$exists": True}}, {"dueAt": {"$exists": True}}, {"status": "Unknown"}]}
        for name in ("orders", "payments"):
            yield from self.stored[name].find(due)

    def _client(self, at: int):
        return self.processes[at].client

    def _post(self, at: int, product: str, key: str):
        body = {"userId": "ann", "productId": product, "productName": "Lamp", "totalOrderAmount": "RM 99"}
        return self._client(at).post("/orders", json=body, headers={"Idempotency-Key": key})

    def _order(self, number: int) -> tuple[str, Wish]:
        return list(self.wishes.items())[number % len(self.wishes)]

    def _stored(self, order_id: str) -> dict:
        return self.stored.orders.find_one({"_id": ObjectId(order_id)})


@pytest.mark.timeout(600)
def test_whatever_happens_in_whatever_order_each_order_ends_as_promised(settings, database):
    """MODEL_EXAMPLES tries more than the few that there is time for in every run."""
    unrushed = unhurried(settings, payment_tries=4)
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
