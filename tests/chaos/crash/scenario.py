"""What a scenario is, and what its order may come to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.crash.clients import TOTAL
from tests.chaos.crash.world import World

# An entry of the provider's ledger: the answer, what was refunded, in how many refunds.
Entry = tuple[str, int, int]

CAPTURED, DECLINED, VOIDED = ("captured", 0, 0), ("declined", 0, 0), ("voided", 0, 0)
RETURNED = ("captured", TOTAL, 1)

PAID = (("Success", "Captured"),)
REFUSED = (("Declined", "Declined"),)
SENT_BACK = (("Cancelled", "Refunded"),)
CALLED_OFF = (("Cancelled", "Voided"),)
STEPS_OF_PAY = (
    "orders.update",
    "payments.insert",
    "provider.charge",
    "ledger.insert",
    "payments.update",
)
STEPS_OF_PAY_BACK = ("provider.refund", "ledger.update", "payments.update", "orders.update")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`setup` comes before the points, `act` has them, `again` is what a client does that was left without answer.

    `ends` are the order's states when all is done, `books` what the provider may have booked by then; `least` is how
    few points there may be, `through` names some of them. `operator` is what an operator does when nothing is under way
    any more; until then the order may wait for one.
    """

    act: Callable[[World], None]
    ends: Sequence[tuple[str, str]]
    books: Sequence[tuple[Entry, ...]]
    least: int
    through: Sequence[str]
    setup: Callable[[World], None] = lambda world: world.place()
    again: Callable[[Any, str], None] = lambda client, order_id: None
    settings: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False
    threads: bool = False
    operator: Callable[[Any, str], None] | None = None


def nothing(world: World) -> None:
    """For a scenario that is all act."""
