"""Scenarios of orders that are cancelled: before, during and after the charge, and while its event is undelivered."""

from tests.chaos.crash import clients
from tests.chaos.crash.paying import begin_payment, paid, until_given_up
from tests.chaos.crash.scenario import CALLED_OFF, RETURNED, SENT_BACK, STEPS_OF_PAY_BACK, VOIDED, Scenario
from tests.chaos.crash.world import World


def _before_payment(world: World) -> None:
    with world.no_capacity():
        world.cancel()
        world.hand_to_payments()
    world.hand_to_orders()
    world.acknowledge()


def _in_flight(world: World) -> None:
    world.cancel()
    world.hand_to_payments()
    world.provider.released.set()
    world.hand_to_orders()
    world.call_provider()
    world.hand_to_orders()
    world.acknowledge()


def _unheard_charge(world: World) -> None:
    world.place()
    world.provider.deaf = True
    world.hand_to_payments()
    until_given_up(world)
    world.provider.deaf = False


def _and_settle(world: World) -> None:
    world.cancel()
    world.pay_back()


def result_waits(world: World) -> None:
    """Places an order that is charged; its payment event is not delivered yet."""
    world.place()
    world.hand_to_payments()
    world.keep_results()


def _payment_event_first(world: World) -> None:
    """The news of the charge was sent before payments received the cancellation."""
    world.cancel()
    world.hand_on_kept()
    world.pay_back()


def _acknowledged_meanwhile(world: World) -> None:
    """The order's first event is acknowledged while its second is not delivered yet."""
    world.cancel()
    world.acknowledge_without_the_last()
    world.hand_to_payments()
    world.call_provider()
    # Both of its results go to orders at once.
    world.keep_results()
    world.hand_on_kept()
    world.acknowledge()


SCENARIOS = {
    "cancel before the payment": Scenario(
        act=_before_payment,
        again=clients.cancel,
        ends=[*CALLED_OFF, *SENT_BACK],
        books=[(), (VOIDED,), (RETURNED,)],
        least=16,
        through=("orders.findAndModify", "payments.insert", "payments.update", "orders.update"),
    ),
    "cancel in flight": Scenario(
        setup=begin_payment,
        act=_in_flight,
        again=clients.cancel,
        ends=[*CALLED_OFF, *SENT_BACK],
        books=[(VOIDED,), (RETURNED,)],
        least=40,
        through=("orders.findAndModify", "ledger.insert", *STEPS_OF_PAY_BACK),
    ),
    "cancel, the charge unheard": Scenario(
        setup=_unheard_charge,
        act=_and_settle,
        again=clients.cancel,
        ends=[*CALLED_OFF, *SENT_BACK],
        books=[(VOIDED,), (RETURNED,)],
        least=28,
        through=("orders.findAndModify", "provider.find", "provider.void", "ledger.insert", "payments.update"),
    ),
    "cancel after success": Scenario(
        setup=paid,
        act=_and_settle,
        again=clients.cancel,
        ends=SENT_BACK,
        books=[(RETURNED,)],
        least=30,
        through=("orders.findAndModify", *STEPS_OF_PAY_BACK),
    ),
    "cancel, then the event of the charge": Scenario(
        setup=result_waits,
        act=_payment_event_first,
        again=clients.cancel,
        ends=SENT_BACK,
        books=[(RETURNED,)],
        least=30,
        through=("orders.findAndModify", *STEPS_OF_PAY_BACK),
    ),
    "cancel, then an acknowledgement": Scenario(
        setup=result_waits,
        act=_acknowledged_meanwhile,
        again=clients.cancel,
        ends=SENT_BACK,
        books=[(RETURNED,)],
        least=30,
        through=("orders.findAndModify", *STEPS_OF_PAY_BACK),
    ),
}
