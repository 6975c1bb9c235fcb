"""Scenarios of a notification: received and stored, applied, and the payment refreshed; also one that is false or early."""

from tests.chaos.crash import clients
from tests.chaos.crash.paying import paid
from tests.chaos.crash.scenario import CAPTURED, DECLINED, PAID, REFUSED, Scenario
from tests.chaos.crash.world import World


def _notified(world: World) -> None:
    clients.notify(world.client, world.order_id)
    world.apply_notification()
    world.call_provider()
    world.until("refreshed", lambda database: database["payments"].find_one({"refreshesMade": 1}))
    world.until_idle()


def _pending_declined(world: World) -> None:
    world.place("pending-declined")
    world.pay()
    world.until_idle()


def _told_what_is_not_so(world: World) -> None:
    """A notification says captured while the provider waits for the bank, which declines."""
    clients.notify(world.client, world.order_id, "payment.captured")
    world.apply_notification()
    # Where the notification has decided, nothing is left to be called for.
    world.payments.worker.sweep()
    world.until_idle()


def _charged_unanswered(world: World) -> None:
    """The provider has captured, and its response is on the way."""
    world.place()
    world.provider.answering.clear()
    world.hand_to_payments()
    world.provider.held.get(timeout=world.patience)


def _told_before_the_answer(world: World) -> None:
    clients.notify(world.client, world.order_id)
    world.apply_notification()
    world.provider.answering.set()
    world.until_idle()
    world.payments.worker.sweep()
    world.until_idle()
    world.payments.relay.sweep()


THROUGH = ("notifications.insert", "notifications.find", "notifications.update", "provider.retrieve", "payments.update")
SCENARIOS = {
    "notified": Scenario(
        setup=paid,
        act=_notified,
        again=clients.notify,
        ends=PAID,
        books=[(CAPTURED,)],
        least=16,
        through=("payments.find", *THROUGH),
    ),
    "told what is not so": Scenario(
        setup=_pending_declined,
        act=_told_what_is_not_so,
        ends=REFUSED,
        books=[(DECLINED,)],
        least=16,
        through=THROUGH,
    ),
    "told before the answer": Scenario(
        setup=_charged_unanswered,
        act=_told_before_the_answer,
        ends=PAID,
        books=[(CAPTURED,)],
        least=16,
        through=THROUGH,
    ),
}
