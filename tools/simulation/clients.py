"""Clients: what they ask for, and what they learn."""

from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any

from msgspec import to_builtins

from app.contracts.base import NotFound
from app.contracts.orders import (
    AwaitTimeline,
    CaptureOrder,
    CreateOrder,
    FindOrder,
    RefundOrder,
    UpdateMetadata,
    UpdateOrder,
)
from app.contracts.payments import ExplainPayment, ListAttempts
from tools.auditor import reading
from tools.auditor.history import (
    ACCEPTED,
    UNANSWERED,
    CaptureAnswer,
    FinalOrder,
    PauseAnswer,
    PlaceAnswer,
    ReadAnswer,
    RefundAnswer,
    StatusAnswer,
)
from tools.simulation.coverage import USUAL, Profile
from tools.simulation.process import SimulatedProcess

PRODUCTS = ("1", "1", "1", "1", "2")
CURRENCY = "MYR"
USERS = 3
PLACE_ATTEMPTS = 4
# How long a client thinks, in seconds; time passes faster where nothing else is to be done.
THOUGHTS = (0.0, 0.0, 0.01, 1.0, 30.0, 3600.0, 40 * 3600.0)
# The share of its actions that a client takes from those that its seed looks for.
FOCUS_SHARE = 0.7
# What clients order where the provider has later outcomes, and the share of them who capture later.
LATER_PRODUCTS = (
    "1",
    "1",
    "1",
    "2",
    "pending",
    "pending-declined",
    "action-required",
    "refund-fails-later",
    "disputed",
)
WAITING_PRODUCTS = ("pending", "action-required", "1")
MANUAL_SHARE = 0.3
CROWD_MANUAL_SHARE = 0.05
HASTY_SECONDS = 1.0
MOST_ACTIONS = 6
# How often a client asks for a capture, and after how many seconds again: the payment may not be authorized yet.
CAPTURE_REQUESTS = 6
CAPTURE_PAUSE = 10.0
ACTIONS = (
    "capture",
    "capture all",
    "read",
    "read",
    "cancel",
    "confirm",
    "confirm, then cancel",
    "custom",
    "refund",
    "refund",
    "refund rest",
    "explain",
    "metadata",
    "again",
)


class SimulatedClient:
    """A client with one order."""

    def __init__(
        self, world: Any, number: int, random: Random, profile: Profile = USUAL, *, crowd: bool = False
    ) -> None:
        self._world = world
        self._actions = profile.actions or ACTIONS
        self._fewest_actions = 4 if profile.actions else 0
        self._longest_thought = HASTY_SECONDS if profile.hasty else THOUGHTS[-1]
        self._random = random
        self._number = number
        self.user = f"user-{random.randrange(USERS)}"
        self._value = random.randrange(2, 10_000)
        later = world.notifier and not crowd
        self._product = random.choice((WAITING_PRODUCTS if profile.waits else LATER_PRODUCTS) if later else PRODUCTS)
        share = CROWD_MANUAL_SHARE if crowd else MANUAL_SHARE
        manual = random.random() < share or (profile.waits and self._product == "1")
        self._manual = bool(world.notifier) and manual
        self._key = f"key-{number}" if random.random() < 0.8 else ""
        self._order_id = ""
        self._refunds = 0

    def live(self) -> None:
        """Place an order and work on it."""
        self.place_only()
        for _ in range(self._random.randrange(self._fewest_actions, MOST_ACTIONS)):
            self._think(self._longest_thought)
            frequent = self._random.random() < FOCUS_SHARE
            action = self._random.choice(self._actions if frequent else ACTIONS)
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
        acts: dict[str, Callable[[], object]] = {
            "read": lambda: self.read(self._order_id),
            "cancel": lambda: self._set_status("Cancelled"),
            "confirm": lambda: self._set_status("Confirm"),
            "confirm, then cancel": lambda: self._set_statuses("Confirm", "Cancelled"),
            "custom": lambda: self._set_status(self._random.choice(("Packed", "Shipped"))),
            "refund": lambda: self._refund(self._random.randrange(1, self._value + 2)),
            "refund rest": lambda: self._refund(0),
            "capture": lambda: self._capture(self._random.randrange(1, self._value + 2)),
            "capture all": lambda: self._capture(0),
            "explain": lambda: self.explain(self._order_id),
            "metadata": self._set_metadata,
        }
        if act := acts.get(action):
            act()

    def _think(self, longest: float) -> None:
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
                manual_capture=self._manual,
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

    def _set_statuses(self, *statuses: str) -> None:
        for status in statuses:
            self._set_status(status)

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

    def _set_metadata(self) -> None:
        """Set a pair that belongs to no money and no status: the auditor sees the timeline go on by a step."""
        self._send(
            UpdateMetadata(
                request_id="",
                order_id=self._order_id,
                on_behalf_of=self.user,
                expected_versions=(),
                metadata={"shelf": f"{self._random.randrange(100)}"},
            )
        )

    def _capture(self, value: int) -> None:
        for _ in range(CAPTURE_REQUESTS if self._manual else 0):
            if self._request_capture(value) == ACCEPTED:
                break
            self._world.scheduler.wait(None, CAPTURE_PAUSE, "asks again")

    def _request_capture(self, value: int) -> str:
        world, began = self._world, self._world.scheduler.now
        outcome = self._send(
            CaptureOrder(
                request_id="",
                order_id=self._order_id,
                on_behalf_of=self.user,
                expected_versions=(),
                capture_value=value,
                currency=CURRENCY if value else "",
            )
        )
        if outcome:
            world.record(
                CaptureAnswer(
                    order_id=self._order_id,
                    outcome=outcome.outcome,
                    began=began,
                    ended=world.scheduler.now,
                    value=outcome.reply.capture_value if outcome.reply else value,
                )
            )
        return outcome.outcome if outcome else UNANSWERED

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


def _milliseconds(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)
