"""Scenarios of webhooks: an order's changes are recorded for an endpoint, attempted, and the answers recorded."""

from typing import Any

from tests.chaos.crash import clients
from tests.chaos.crash.scenario import CAPTURED, PAID, Scenario
from tests.chaos.crash.webhook_sink import UNANSWERED
from tests.chaos.crash.world import World

RECORDED = ("webhook_deliveries.insert", "receiver.post", "webhook_deliveries.update")


def _tell(world: World) -> None:
    world.place()
    world.hand_to_payments()
    world.hand_to_webhooks()
    world.attempt_deliveries()
    world.hand_to_orders()
    world.hand_to_webhooks()
    world.attempt_deliveries()
    world.acknowledge()


def _tell_at_once(world: World) -> None:
    world.place()
    world.hand_to_payments()
    with world.prompt_endpoint():
        world.hand_to_webhooks()
        world.hand_to_orders()
        world.hand_to_webhooks()
    world.acknowledge()


def _placed_unhinted(world: World) -> None:
    world.add_endpoint()
    world.place()
    world.lose_hints()


def _found_by_sweeps(world: World) -> None:
    with world.no_room():
        world.sweep(world.orders.relay.sweep)
        world.sweep(world.orders.changes_relay.sweep)
    world.sweep_deliveries()
    world.hand_to_orders()
    with world.no_room():
        world.hand_to_webhooks()
    world.sweep_deliveries()
    world.acknowledge()


def _answer_lost(world: World) -> None:
    world.place()
    world.hand_to_payments()
    world.hand_to_webhooks()
    world.attempt_deliveries()
    world.let_time_pass()
    world.sweep_deliveries()
    world.hand_to_orders()
    world.acknowledge()


def _held(world: World) -> None:
    world.add_endpoint()
    world.enable_endpoint(enabled=False)
    world.place()
    world.hand_to_payments()
    world.hand_to_orders()
    world.hand_to_webhooks()
    world.acknowledge()


def _enable(world: World) -> None:
    world.enable_endpoint(enabled=True)
    world.sweep_deliveries()


def _place_again(client: Any, _order_id: str) -> None:
    clients.place(client)


def _enable_unless_enabled(client: Any, _order_id: str) -> None:
    clients.enable_endpoint(client, enabled=True)


SCENARIOS = {
    "tell": Scenario(
        setup=World.add_endpoint,
        act=_tell,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=30,
        through=("orders.insert", *RECORDED, "receiver.post #2", "orders.mark_acknowledged"),
        tells=True,
    ),
    "tell, answered at once": Scenario(
        setup=World.add_endpoint,
        act=_tell_at_once,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=26,
        through=(
            "orders.insert",
            "receiver.post",
            "webhook_deliveries.insert",
            "receiver.post #2",
            "orders.mark_acknowledged",
        ),
        tells=True,
    ),
    "tell by sweeps": Scenario(
        setup=_placed_unhinted,
        act=_found_by_sweeps,
        ends=PAID,
        books=[(CAPTURED,)],
        least=30,
        through=(*RECORDED, "webhook_deliveries.find", "webhook_deliveries.update #4", "receiver.post #2"),
        tells=True,
    ),
    "tell, the answer lost": Scenario(
        setup=lambda world: world.add_endpoint(UNANSWERED),
        act=_answer_lost,
        again=_place_again,
        ends=PAID,
        books=[(CAPTURED,)],
        least=30,
        through=(*RECORDED, "webhook_deliveries.update #3", "receiver.post #2"),
        tells=True,
    ),
    "tell when it is enabled again": Scenario(
        setup=_held,
        act=_enable,
        again=_enable_unless_enabled,
        ends=PAID,
        books=[(CAPTURED,)],
        least=10,
        through=("webhook_endpoints.update", "webhook_deliveries.update", "receiver.post #2"),
        tells=True,
    ),
}
