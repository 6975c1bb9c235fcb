"""A scenario of a notification: received and stored, applied, and the payment refreshed."""

from tests.chaos.crash import clients
from tests.chaos.crash.paying import paid
from tests.chaos.crash.scenario import CAPTURED, PAID, Scenario
from tests.chaos.crash.world import World


def _notified(world: World) -> None:
    clients.notify(world.client, world.order_id)
    assert world.payments.notifications.apply_due() == 1
    world.call_provider()
    world.until("refreshed", lambda database: database["payments"].find_one({"refreshesMade": 1}))
    world.until_idle()


SCENARIOS = {
    "notified": Scenario(
        setup=paid,
        act=_notified,
        again=clients.notify,
        ends=PAID,
        books=[(CAPTURED,)],
        least=16,
        through=(
            *("notifications.insert", "notifications.find", "notifications.update"),
            *("payments.find", "payments.update", "provider.retrieve"),
        ),
    ),
}
