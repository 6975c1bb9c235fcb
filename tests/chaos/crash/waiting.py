"""Scenarios of payments that go on after their charge: pending, for the customer to act, authorized."""

from typing import Any

from tests.chaos.crash import clients
from tests.chaos.crash.scenario import CALLED_OFF, CAPTURED, DECLINED, PAID, REFUSED, VOIDED, Scenario
from tests.chaos.crash.world import World

PART = 4000
THROUGH_A_REFRESH = ("provider.charge", "provider.retrieve", "ledger.update", "payments.update", "orders.update")


def _place_pending(world: World) -> None:
    world.place("pending")


def _place_pending_declined(world: World) -> None:
    world.place("pending-declined")


def _place_action_required(world: World) -> None:
    world.place("action-required")


def _place_manual(world: World) -> None:
    world.place(manual=True)


def _pay_and_refresh(world: World) -> None:
    world.pay()
    world.until_idle()
    world.let_time_pass()
    world.call_provider()
    world.hand_to_orders()
    world.until_idle()
    world.acknowledge()


def _pay_and_approve(world: World) -> None:
    world.pay()
    world.until_idle()
    clients.approve(world.client, world.order_id)
    world.notice()


def _authorize_and_capture(world: World) -> None:
    world.pay()
    world.capture(PART)
    world.pay_back()


def _authorized(world: World) -> None:
    _place_manual(world)
    world.pay()


def _cancel(world: World) -> None:
    world.cancel()
    world.pay_back()


def _capture_again(client: Any, order_id: str) -> None:
    clients.capture(client, order_id, PART)


SCENARIOS = {
    "pending, then captured": Scenario(
        setup=_place_pending,
        act=_pay_and_refresh,
        ends=PAID,
        books=[(CAPTURED,)],
        least=24,
        through=THROUGH_A_REFRESH,
    ),
    "pending, then declined": Scenario(
        setup=_place_pending_declined,
        act=_pay_and_refresh,
        ends=REFUSED,
        books=[(DECLINED,)],
        least=24,
        through=THROUGH_A_REFRESH,
    ),
    # A customer who has not acted when the process dies acts too late.
    "action required, then approved": Scenario(
        setup=_place_action_required,
        act=_pay_and_approve,
        ends=[*PAID, *REFUSED],
        books=[(CAPTURED,), (DECLINED,)],
        least=40,
        through=("notifications.insert", "notifications.update", *THROUGH_A_REFRESH),
    ),
    "authorize, then capture a part": Scenario(
        setup=_place_manual,
        act=_authorize_and_capture,
        again=_capture_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=30,
        through=("provider.charge", "orders.findAndModify", "provider.capture", "ledger.update", "payments.update"),
    ),
    "authorize, then cancel": Scenario(
        setup=_authorized,
        act=_cancel,
        again=clients.cancel,
        ends=CALLED_OFF,
        books=[(VOIDED,)],
        least=16,
        through=("orders.findAndModify", "provider.void", "ledger.update", "payments.update", "orders.update"),
    ),
}
