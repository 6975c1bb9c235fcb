"""The history of a run: every answer to a client, every movement of money, and every event that was told to others.

Times are seconds of one clock. Values are integers in minor units of the order's currency.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

ACCEPTED, REFUSED, UNANSWERED = "accepted", "refused", "unanswered"
# A refund that failed later comes back. A dispute takes its amount back until it is won; a lost one moves nothing more.
CAPTURE, REFUND, FAILED_REFUND = "capture", "refund", "failed refund"
DISPUTE, WON_DISPUTE, LOST_DISPUTE = "dispute", "won dispute", "lost dispute"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One request of a client between `began` and `ended`.

    `outcome` is ACCEPTED, REFUSED, or UNANSWERED where the client cannot know whether it took effect. `version` is the order's
    version in the answer, 0 where there is none.
    """

    order_id: str
    outcome: str = ACCEPTED
    version: int = 0
    began: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PlaceAnswer(Answer):
    """The answer to a new order. Without an answer, `order_id` is the id that the client proposed.

    `key` names the client and its idempotency key; equal keys must get equal orders. `value` is the order's total.
    """

    value: int
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class StatusAnswer(Answer):
    """The answer to a request to set the order's status to `status`."""

    status: str


@dataclass(frozen=True, kw_only=True)
class RefundAnswer(Answer):
    """The answer to a request for a refund.

    `value` is what was reserved, where it was accepted. `refund_id` differs between requests, also without an answer.
    """

    refund_id: str
    value: int = 0


@dataclass(frozen=True, kw_only=True)
class CaptureAnswer(Answer):
    """The answer to a request for the capture of what is authorized; `value` is what was accepted."""

    value: int = 0


@dataclass(frozen=True, kw_only=True)
class ReadAnswer(Answer):
    """The statuses of an order as a client read them; `payment_status` is empty where the answer does not have it."""

    order_status: str
    payment_status: str


@dataclass(frozen=True, kw_only=True)
class PauseAnswer(Answer):
    """When the next call was planned: `milliseconds` after the last one, of which there were `calls`."""

    calls: int
    milliseconds: int


@dataclass(frozen=True, kw_only=True)
class TimelineStep:
    """One entry of an order's timeline, as a client read it in the end.

    `value` is the amount of a refund, a dispute, a requested capture, or the part of the total that was captured; else 0. `won`:
    it is the end of a dispute that was won. `until` is when a wait for a customer, a bank or a capture ends, in RFC 3339.
    """

    sequence: int
    type: str
    from_status: str
    to_status: str
    payment_status: str
    value: int = 0
    won: bool = False
    until: str = ""


@dataclass(frozen=True, kw_only=True)
class FinalOrder:
    """What a client read of an order at the end: its statuses, its total and its whole timeline."""

    order_status: str
    payment_status: str
    version: int
    value: int
    timeline: Sequence[TimelineStep]


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Money that moved, from the provider's books: one of the kinds above, with its idempotency key.

    `elsewhere`: it was made at the provider, and nobody asked for it here.
    """

    order_id: str
    kind: str
    value: int
    key: str = ""
    elsewhere: bool = False


@dataclass(frozen=True, kw_only=True)
class ToldEvent:
    """An event that one module published and another received."""

    order_id: str
    module: str
    sequence: int
    type: str
    event_id: str
    value: int = 0


@dataclass(kw_only=True)
class History:
    """A whole run.

    A client's idempotency key is kept for `idempotency_seconds` seconds. `final` has the orders that a client found at the end. `operator_list` has the ids of orders that operators were shown as
    parked or as dead letters at the end: they need not be settled. `problems` are failures to reach an end at all. `ended_at` is the
    time of the end in RFC 3339: a payment may wait for a customer, a bank or a capture beyond it; where it is empty, none may.
    """

    answers: list[Answer] = field(default_factory=list)
    final: dict[str, FinalOrder] = field(default_factory=dict)
    movements: list[Movement] = field(default_factory=list)
    told: list[ToldEvent] = field(default_factory=list)
    operator_list: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    idempotency_seconds: float = float("inf")
    ended_at: str = ""
