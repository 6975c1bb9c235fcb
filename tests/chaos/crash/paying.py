"""Scenarios of orders that are placed and paid, step by step."""

from typing import Any

from tests.chaos.crash import clients
from tests.chaos.crash.scenario import CAPTURED, DECLINED, PAID, REFUSED, STEPS_OF_PAY, Scenario, nothing
from tests.chaos.crash.world import World


def _start(world: World) -> None:
    world.runtime.prepare()


def _create(world: World) -> None:
    world.place()
    world.place()


def _place_declined(world: World) -> None:
    world.place("2")


def _place_unhinted(world: World) -> None:
    world.place()
    world.lose_hints()


def _found_by_sweeps(world: World) -> None:
    with world.no_capacity():
        world.sweep(world.orders.relay.sweep)
    world.call_provider()
    world.wait_for_result()
    world.let_time_pass()
    world.sweep(world.payments.relay.sweep)


def _answer_lost(world: World) -> None:
    world.provider.mute = True
    world.hand_to_payments()
    # The call takes so long that the relay no longer waits for a payment event.
    world.acknowledge()
    until_given_up(world)
    world.provider.mute = False
    # Due now: a sweep that found nothing yet would be a point that does not always come.
    world.let_time_pass()
    world.call_provider()
    world.hand_to_orders()
    world.acknowledge()


def until_given_up(world: World) -> None:
    """Waits until the running call failed and is to be repeated, and its thread has finished that write."""
    unanswered = {"attempts.0": {"$exists": True}, "owner": {"$exists": False}}
    world.until("given up", lambda database: database["payments"].find_one(unanswered))
    world.until_idle()


def begin_payment(world: World) -> None:
    """Places an order whose charge is running."""
    world.place()
    world.provider.released.clear()
    world.hand_to_payments()
    world.provider.held.get(timeout=world.patience)


def paid(world: World) -> None:
    """Places an order that is paid."""
    world.place()
    world.pay()


def _two_of_which_one_waits(world: World) -> None:
    begin_payment(world)
    world.place(key="another")
    world.hand_to_payments()


def _stop(world: World) -> None:
    world.runtime.drain()
    world.provider.released.set()
    world.wait_for_result()
    # Its thread is free now and sees that the process is stopping.
    world.until_idle()
    world.payments.stop(world.patience)
    world.orders.stop(world.patience)


def _place_again(client: Any, _order_id: str) -> None:
    clients.place(client)


SCENARIOS = {
    "start": Scenario(
        setup=nothing,
        act=_start,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=12,
        through=("orders.create", "orders.createIndexes", "payments.createIndexes", "ledger.create", "stages.create"),
        fresh=True,
        settings={"webhooks": True},
    ),
    "create": Scenario(
        setup=nothing,
        act=_create,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=10,
        through=("orders.insert", "orders.find", "payments.find"),
    ),
    "pay": Scenario(act=World.pay, ends=PAID, books=[(CAPTURED,)], least=14, through=STEPS_OF_PAY),
    "decline": Scenario(
        setup=_place_declined, act=World.pay, ends=REFUSED, books=[(DECLINED,)], least=14, through=STEPS_OF_PAY
    ),
    "pay by sweeps": Scenario(
        setup=_place_unhinted,
        act=_found_by_sweeps,
        ends=PAID,
        books=[(CAPTURED,)],
        least=30,
        through=(*STEPS_OF_PAY, "payments.find"),
    ),
    "pay, the answer lost": Scenario(
        act=_answer_lost,
        ends=PAID,
        books=[(CAPTURED,)],
        least=24,
        through=(*STEPS_OF_PAY, "provider.find", "ledger.find"),
    ),
    "stop": Scenario(
        setup=_two_of_which_one_waits,
        act=_stop,
        ends=PAID,
        books=[(CAPTURED,)],
        least=4,
        through=("payments.update",),
        settings={"payment_threads": 1},
    ),
}
