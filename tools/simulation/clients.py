"""Clients and operators: what they ask for, and what they learn."""

from datetime import datetime
from random import Random
from typing import Any

from msgspec import to_builtins

from app.contracts.base import NotFound
from app.contracts.orders import AwaitTimeline, CreateOrder, FindOrder, RefundOrder, UpdateOrder
from app.contracts.payments import ExplainPayment, ListAttempts
from app.payments.documents import LeasedPayment
from app.payments.manual_review import NotPossible
from app.payments.payment import CANCELLATION_REFUND, next_call, retry
from app.payments.provider_port import CallKind, ResponseCode
from tools.auditor import reading
from tools.auditor.history import (
    ACCEPTED,
    UNANSWERED,
    FinalOrder,
    PauseAnswer,
    PlaceAnswer,
    ReadAnswer,
    RefundAnswer,
    StatusAnswer,
)
from tools.simulation.process import SimulatedProcess

PRODUCTS = ("1", "1", "1", "1", "2")
CURRENCY = "MYR"
USERS = 3
PLACE_ATTEMPTS = 4
# How long a client thinks, in seconds; time passes faster where nothing else is to be done.
THOUGHTS = (0.0, 0.0, 0.01, 1.0, 30.0, 3600.0, 40 * 3600.0)
ACTIONS = ("read", "read", "cancel", "confirm", "custom", "refund", "refund", "refund rest", "explain", "again")


class SimulatedClient:
    """A client with one order."""

    def __init__(self, world: Any, number: int, random: Random) -> None:
        self._world = world
        self._random = random
        self._number = number
        self.user = f"user-{random.randrange(USERS)}"
        self._value = random.randrange(2, 10_000)
        self._product = random.choice(PRODUCTS)
        self._key = f"key-{number}" if random.random() < 0.8 else ""
        self._order_id = ""
        self._refunds = 0

    def live(self) -> None:
        """Place an order and work on it."""
        self.place_only()
        for _ in range(self._random.randrange(6)):
            self._think()
            action = self._random.choice(ACTIONS)
            if action == "again" and self._key:
                self._place()
            elif self._order_id:
                self._act(action)

    def place_only(self) -> None:
        """Place an order, and repeat it with its key until an answer comes."""
        self._think(longest=30.0)
        for _ in range(PLACE_ATTEMPTS if self._key else 1):
            if self._place():
                break
            self._think(longest=30.0)

    def _act(self, action: str) -> None:
        match action:
            case "read":
                self.read(self._order_id)
            case "cancel":
                self._set_status("Cancelled")
            case "confirm":
                self._set_status("Confirm")
            case "custom":
                self._set_status(self._random.choice(("Packed", "Shipped")))
            case "refund":
                self._refund(self._random.randrange(1, self._value + 2))
            case "refund rest":
                self._refund(0)
            case "explain":
                self.explain(self._order_id)

    def _think(self, longest: float = THOUGHTS[-1]) -> None:
        seconds = min(longest, self._random.choice(THOUGHTS)) * self._random.random()
        if seconds:
            self._world.scheduler.wait(None, seconds, "thinks")

    def _send(self, message: Any) -> Any:
        process: SimulatedProcess | None = self._world.some_process(self._random)
        if process is None:
            self._world.scheduler.wait(None, 1.0, "finds no process")
            return None
        return process.request(message)

    def _place(self) -> bool:
        world, began = self._world, self._world.scheduler.now
        order_id = f"{self._random.getrandbits(96):024x}"
        outcome = self._send(
            CreateOrder(
                request_id=f"request-{self._number}",
                order_id=order_id,
                user_id=self.user,
                product_id=self._product,
                product_name="Espresso machine",
                total_text=f"{self._value} sen",
                total_value=self._value,
                total_currency=CURRENCY,
                idempotency_key=self._key,
            )
        )
        if outcome is None:
            return False
        accepted = outcome.outcome == ACCEPTED
        self._order_id = outcome.reply.order_id if accepted else self._order_id
        world.record(
            PlaceAnswer(
                order_id=outcome.reply.order_id if accepted else order_id,
                outcome=outcome.outcome,
                version=1 if accepted else 0,
                began=began,
                ended=world.scheduler.now,
                value=self._value,
                key=self._key and f"{self.user} {self._key}",
            )
        )
        return accepted

    def _set_status(self, status: str) -> None:
        world, began = self._world, self._world.scheduler.now
        outcome = self._send(
            UpdateOrder(
                request_id="",
                order_id=self._order_id,
                on_behalf_of=self.user,
                expected_versions=(),
                order_status=status,
            )
        )
        if outcome:
            world.record(
                StatusAnswer(
                    order_id=self._order_id,
                    outcome=outcome.outcome,
                    version=outcome.reply.version if outcome.reply else 0,
                    began=began,
                    ended=world.scheduler.now,
                    status=status,
                )
            )

    def _refund(self, value: int) -> None:
        self._refunds += 1
        refund_id = f"{self._number}-{self._refunds}"
        for _ in range(2):
            began = self._world.scheduler.now
            outcome = self._send(
                RefundOrder(
                    request_id="",
                    order_id=self._order_id,
                    on_behalf_of=self.user,
                    expected_versions=(),
                    refund_id=refund_id,
                    refund_value=value,
                    currency=CURRENCY if value else "",
                )
            )
            if outcome is None:
                return
            self._world.record(
                RefundAnswer(
                    order_id=self._order_id,
                    outcome=outcome.outcome,
                    version=0,
                    began=began,
                    ended=self._world.scheduler.now,
                    refund_id=refund_id,
                    value=outcome.reply.refund_value if outcome.reply else value,
                )
            )
            if outcome.outcome != UNANSWERED:
                return

    def read(self, order_id: str) -> None:
        """Read an order's statuses."""
        began = self._world.scheduler.now
        outcome = self._send(FindOrder(request_id="", order_id=order_id, on_behalf_of=self.user))
        if outcome and outcome.reply:
            self._world.record(
                ReadAnswer(
                    order_id=order_id,
                    version=outcome.reply.version,
                    began=began,
                    ended=self._world.scheduler.now,
                    order_status=outcome.reply.order_status,
                    payment_status=outcome.reply.payment_status,
                )
            )

    def explain(self, order_id: str) -> None:
        """Read when the next call is planned, and when the last one was."""
        explained = self._send(ExplainPayment(request_id="", order_id=order_id, on_behalf_of=""))
        attempts = self._send(ListAttempts(request_id="", order_id=order_id, on_behalf_of=""))
        if not (explained and explained.reply and explained.reply.next_attempt_at and attempts and attempts.reply):
            return
        calls = attempts.reply.attempts
        if calls and len(calls) == explained.reply.attempts:
            pause = _milliseconds(explained.reply.next_attempt_at) - _milliseconds(calls[-1].at)
            self._world.record(PauseAnswer(order_id=order_id, calls=len(calls), milliseconds=pause))


def final_order(process: SimulatedProcess, order_id: str) -> FinalOrder | None:
    """An order with its timeline, as a client reads it in the end; None where it is not found."""
    found = process.request(FindOrder(request_id="", order_id=order_id, on_behalf_of=""))
    if isinstance(found.error, NotFound):
        return None
    timeline = process.request(AwaitTimeline(request_id="", order_id=order_id, on_behalf_of="", after=0, wait_ms=0))
    return reading.final_order(to_builtins(found.reply), to_builtins(timeline.reply.entries))


class SimulatedOperator:
    """An operator who looks at dead letters and parked payments, and acts."""

    def __init__(self, world: Any, process: SimulatedProcess) -> None:
        self._world = world
        self._process = process

    def waiting(self) -> dict[str, str]:
        """The ids of the orders that wait for an operator, with the reasons."""
        review = self._process.payments.manual_review
        letters = [*self._process.orders.outbox.dead_letters(1000), *self._process.payments.outbox.dead_letters(1000)]
        parked = {leased.payment.order_id: leased.payment.parked_reason for leased in review.list_parked(1000)}
        return parked | {str(letter["_id"]): letter["deadLetter"]["reason"] for letter in letters}

    def replay(self) -> None:
        """Replay every dead letter."""
        for module in (self._process.orders, self._process.payments):
            for letter in module.outbox.dead_letters(1000):
                self._world.took("recovery", "dead letter replayed")
                module.outbox.replay(letter["_id"])

    def review(self, *, only_retry: bool = False) -> None:
        """Retry or settle every parked payment."""
        for leased in self._process.payments.manual_review.list_parked(1000):
            try:
                self._settle(leased) if not only_retry else self._retry(leased.payment.order_id)
            except NotPossible as exc:
                self._world.took("recovery", f"operator is told: {str(exc).split(':')[0][:60]}")

    def _retry(self, order_id: str) -> None:
        self._process.payments.manual_review.retry(order_id)
        self._world.took("recovery", "payment retried by hand")

    def _settle(self, leased: LeasedPayment) -> None:
        order_id, review = leased.payment.order_id, self._process.payments.manual_review
        call = next_call(retry(leased.payment).payment)
        if call is None:
            return
        if call.kind != CallKind.REFUND:
            nothing = ResponseCode.VOIDED if leased.payment.cancelled else ResponseCode.DECLINED
            code = ResponseCode.CAPTURED if self._world.captured(order_id) else nothing
        elif self._world.refunded(call.key):
            code = ResponseCode.REFUNDED
        elif call.refund_id != CANCELLATION_REFUND:
            review.drop_refund(order_id, call.refund_id, "the card is closed")
            self._world.took("recovery", "refund dropped by hand")
            return
        elif (ends := review.call_ends(leased)) and self._world.scheduler.now < ends.timestamp():
            # Nothing would refuse the refund itself: the operator was told to wait.
            return
        else:
            self._world.refund_by_hand(call)
            code = ResponseCode.REFUNDED
        review.resolve(order_id, code, "by hand", "found at the bank")
        self._world.took("recovery", f"payment resolved by hand as {code}")


def _milliseconds(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)
