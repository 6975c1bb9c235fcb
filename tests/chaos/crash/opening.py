"""Scenarios of payments that are opened before they are charged."""

from tests.chaos.crash import clients
from tests.chaos.crash.opening_provider import OpeningProvider
from tests.chaos.crash.scenario import CALLED_OFF, CAPTURED, PAID, RETURNED, SENT_BACK, VOIDED, Scenario
from tests.chaos.crash.world import World


def _open_and_pay(world: World) -> None:
    world.hand_to_payments()
    world.until("called for", lambda database: database["payments"].find_one({"attempts.0": {"$exists": True}}))
    world.until_idle()
    with world.stored() as database:
        charged = database["payments"].find_one({"captured": {"$gt": 0}})
    if not charged:
        # The payment is opened and due at once.
        world.call_provider()
    world.hand_to_orders()
    world.acknowledge()


def _opened(world: World) -> None:
    world.place()
    world.hand_to_payments()
    world.until("opened", lambda database: database["payments"].find_one({"reference": {"$ne": ""}}))
    world.until_idle()


def _cancel(world: World) -> None:
    world.cancel()
    world.hand_to_payments()
    world.call_provider()
    world.hand_to_orders()
    world.acknowledge()


SCENARIOS = {
    "open and pay": Scenario(
        act=_open_and_pay,
        ends=PAID,
        books=[(CAPTURED,)],
        least=20,
        through=("payments.insert", "provider.open", "payments.update", "provider.charge", "ledger.insert"),
        make_provider=OpeningProvider,
    ),
    "cancel, already opened": Scenario(
        setup=_opened,
        act=_cancel,
        again=clients.cancel,
        ends=[*CALLED_OFF, *SENT_BACK],
        books=[(VOIDED,), (RETURNED,)],
        least=16,
        through=("orders.findAndModify", "provider.void", "payments.update"),
        make_provider=OpeningProvider,
    ),
}
