"""Scenarios of what the provider changes after a payment was settled: a refund that fails, a dispute."""

from typing import Any

from tests.chaos.crash import clients
from tests.chaos.crash.scenario import CAPTURED, PAID, Scenario
from tests.chaos.crash.world import World

SOME = 2500
DISPUTED = (("Success", "Disputed"),)
THROUGH_A_NOTICE = ("notifications.insert", "notifications.update", "payments.update", "orders.update")


def _refundable(world: World) -> None:
    world.place("refund-fails-later")
    world.pay()


def _refund_that_fails(world: World) -> None:
    world.refund(SOME, "some")
    world.pay_back()
    world.until_idle()
    world.let_time_pass()
    world.notice()


def _refund_again(client: Any, order_id: str) -> None:
    clients.refund(client, order_id, SOME, "some")


def _disputable(world: World) -> None:
    world.place("disputed")
    world.pay()
    world.let_time_pass()


def _opened(world: World) -> None:
    world.notice()


def _disputed(world: World) -> None:
    _disputable(world)
    world.notice()


def _lost(world: World) -> None:
    clients.refuse(world.client, world.order_id)
    world.notice()


def _won(world: World) -> None:
    clients.approve(world.client, world.order_id)
    world.notice()


SCENARIOS = {
    "refund that fails later": Scenario(
        setup=_refundable,
        act=_refund_that_fails,
        again=_refund_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=40,
        through=("provider.refund", "provider.retrieve", *THROUGH_A_NOTICE),
    ),
    "dispute opened": Scenario(
        setup=_disputable,
        act=_opened,
        ends=DISPUTED,
        books=[(CAPTURED,)],
        least=20,
        through=("provider.retrieve", "ledger.update", *THROUGH_A_NOTICE),
    ),
    "dispute lost": Scenario(
        setup=_disputed,
        act=_lost,
        again=clients.refuse,
        ends=DISPUTED,
        books=[(CAPTURED,)],
        least=20,
        through=("provider.retrieve #2", "ledger.update", *THROUGH_A_NOTICE),
    ),
    "dispute won": Scenario(
        setup=_disputed,
        act=_won,
        again=clients.approve,
        ends=PAID,
        books=[(CAPTURED,)],
        least=20,
        through=("provider.retrieve #2", "ledger.update", *THROUGH_A_NOTICE),
    ),
}
