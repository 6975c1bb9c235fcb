"""A scenario, and the end states of its order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.main import MakeProvider
from app.payments import providers
from tests.chaos.crash.clients import TOTAL
from tests.chaos.crash.world import World

# An entry of the provider's ledger: response, refunded amount, number of refunds.
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
    """`setup` runs before the points, `act` between them; `again` is the repetition by a client without an answer.

    `ends` are the permitted end states of the order, `books` those of the provider's ledger. `least` is the minimum number
    of points, `through` names some of them. `operator` is the action of an operator once no work runs; until then the
    order may wait for one. `make_provider` makes the provider of both processes. With `tells` an endpoint receives webhooks.
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
    make_provider: MakeProvider = providers.make
    tells: bool = False

    @property
    def all_settings(self) -> Mapping[str, Any]:
        """The settings of its processes: webhooks run only where they are looked at, since their work would be points too."""
        return {"webhooks": self.tells, **self.settings}


def nothing(world: World) -> None:
    """The setup of a scenario without one."""
