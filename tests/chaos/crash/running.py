"""Scenarios in which all threads of the process run, as they do in production."""

from typing import Any

from tests.chaos.crash import clients
from tests.chaos.crash.scenario import (
    CAPTURED,
    DECLINED,
    PAID,
    REFUSED,
    RETURNED,
    SENT_BACK,
    STEPS_OF_PAY,
    Scenario,
    nothing,
)
from tests.chaos.crash.world import World


def _pay(world: World) -> None:
    world.runtime.start()
    world.place()
    _until_the_end(world)


def _decline(world: World) -> None:
    world.runtime.start()
    world.place("2")
    _until_the_end(world)


def _cancel(world: World) -> None:
    world.runtime.start()
    world.place()
    world.until_settled()
    world.cancel()
    _until_the_end(world)


def _until_the_end(world: World) -> None:
    world.until_settled()
    # The last reply may be on its way to its thread yet: a stop waits for that.
    world.orders.stop(world.patience)
    world.payments.stop(world.patience)


def _place_again(client: Any, _order_id: str) -> None:
    clients.place(client)


def _place_declined_again(client: Any, _order_id: str) -> None:
    clients.place(client, "2")


def _place_and_cancel_again(client: Any, order_id: str) -> None:
    clients.cancel(client, order_id or clients.place(client))


SCENARIOS = {
    "threads: pay": Scenario(
        setup=nothing,
        act=_pay,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=20,
        through=STEPS_OF_PAY,
        threads=True,
    ),
    "threads: decline": Scenario(
        setup=nothing,
        act=_decline,
        again=_place_declined_again,
        ends=REFUSED,
        books=[(DECLINED,)],
        least=20,
        through=STEPS_OF_PAY,
        threads=True,
    ),
    "threads: cancel": Scenario(
        setup=nothing,
        act=_cancel,
        again=_place_and_cancel_again,
        ends=SENT_BACK,
        books=[(RETURNED,)],
        least=24,
        through=(*STEPS_OF_PAY, "provider.refund", "ledger.update"),
        threads=True,
    ),
}
