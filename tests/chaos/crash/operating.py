"""Scenarios that need an operator: parked payments that are retried or resolved, dead letters that are replayed."""

from typing import Any

from app.main import runtime
from tests.chaos.crash import clients
from tests.chaos.crash.cancelling import result_waits
from tests.chaos.crash.scenario import CALLED_OFF, CAPTURED, PAID, RETURNED, SENT_BACK, STEPS_OF_PAY, VOIDED, Scenario
from tests.chaos.crash.world import World, mend

# Whatever goes wrong once is left to an operator.
ONE_TRY = {"payment_tries": 1}
TWO_DELIVERIES = {"relay_tries": 2}


def _parked_uncharged(world: World) -> None:
    world.place()
    world.provider.deaf = True
    world.pay()
    world.provider.deaf = False


def _parked_charged(world: World) -> None:
    world.place()
    world.provider.mute = True
    world.pay()
    world.provider.mute = False


def _retry(world: World) -> None:
    world.retry()
    world.call_provider()
    world.hand_to_orders()
    world.acknowledge()


def _resolve(world: World, answer: str = "captured") -> None:
    world.let_time_pass()
    clients.resolve(world.client, world.order_id, answer)


def _resolve_voided(world: World) -> None:
    _resolve(world, "voided")


def _cancel(world: World) -> None:
    world.cancel()
    world.hand_to_payments()
    world.call_provider()
    world.hand_to_orders()
    world.call_provider()
    world.hand_to_orders()
    world.acknowledge()


def _event_spoilt(world: World) -> None:
    world.place()
    world.spoil("orders")
    world.lose_hints()


def _result_spoilt(world: World) -> None:
    world.place()
    world.hand_to_payments()
    world.wait_for_result()
    world.acknowledge()
    world.spoil("payments")
    world.let_time_pass()


def _dies_twice(world: World, module: Any) -> None:
    world.sweep(module.relay.sweep)
    world.let_time_pass()
    world.sweep(module.relay.sweep)


def _replay_event(world: World) -> None:
    _dies_twice(world, world.orders)
    world.mend()
    world.replay()
    world.sweep(world.orders.relay.sweep)
    world.hand_to_orders()
    world.acknowledge()


def _replay_result(world: World) -> None:
    _dies_twice(world, world.payments)
    world.mend()
    world.replay()
    world.sweep(world.payments.relay.sweep)


def _cancellation_dead(world: World) -> None:
    result_waits(world)
    world.acknowledge()
    world.cancel()
    world.spoil("orders")
    world.orders.outbox.dequeue_local(128, 0)
    world.let_time_pass()
    _dies_twice(world, world.orders)


def _payment_event_then_replay(world: World) -> None:
    """The news of the charge comes while the cancellation is a dead letter, and leaves it alone."""
    world.hand_on_kept()
    world.mend()
    world.replay()
    world.sweep(world.orders.relay.sweep)
    world.call_provider()
    world.hand_to_orders()
    world.acknowledge()


def _resolve_parked(client: Any, order_id: str) -> None:
    if order_id in clients.parked(client):
        clients.resolve(client, order_id, "captured")


def _resolve_parked_as_voided(client: Any, order_id: str) -> None:
    if order_id in clients.parked(client):
        clients.resolve(client, order_id, "voided")


def _replay_dead(client: Any, order_id: str) -> None:
    running = runtime(client.application)
    mend(running.database.client[running.settings.database])
    if order_id in clients.dead_letters(client):
        clients.replay(client, order_id)


SCENARIOS = {
    "parked, then retried": Scenario(
        setup=_parked_uncharged,
        act=_retry,
        ends=PAID,
        books=[(CAPTURED,)],
        least=20,
        through=("provider.find", "provider.charge #2", *STEPS_OF_PAY[3:]),
        settings=ONE_TRY,
        operator=clients.retry_parked,
    ),
    "parked, then resolved": Scenario(
        setup=_parked_charged,
        act=_resolve,
        ends=PAID,
        books=[(CAPTURED,)],
        least=10,
        through=("payments.update", "orders.update"),
        settings=ONE_TRY,
        operator=_resolve_parked,
    ),
    "parked, then resolved as voided": Scenario(
        setup=_parked_uncharged,
        act=_resolve_voided,
        operator=_resolve_parked_as_voided,
        ends=[("Declined", "Voided")],
        books=[()],
        least=10,
        through=("payments.update", "orders.update"),
        settings=ONE_TRY,
    ),
    "parked, then cancelled": Scenario(
        setup=_parked_charged,
        act=_cancel,
        again=clients.cancel,
        ends=[*SENT_BACK, *CALLED_OFF],
        books=[(RETURNED,), (VOIDED,)],
        least=30,
        through=("orders.findAndModify", "provider.find", "provider.refund", "ledger.update", "payments.update"),
        settings=ONE_TRY,
        operator=clients.retry_parked,
    ),
    "an event is a dead letter, then replayed": Scenario(
        setup=_event_spoilt,
        act=_replay_event,
        ends=PAID,
        books=[(CAPTURED,)],
        least=30,
        through=STEPS_OF_PAY,
        settings=TWO_DELIVERIES,
        operator=_replay_dead,
    ),
    "a result is a dead letter, then replayed": Scenario(
        setup=_result_spoilt,
        act=_replay_result,
        ends=PAID,
        books=[(CAPTURED,)],
        least=20,
        through=("payments.update", "orders.update"),
        settings=TWO_DELIVERIES,
        operator=_replay_dead,
    ),
    "a cancellation is a dead letter when the event comes": Scenario(
        setup=_cancellation_dead,
        act=_payment_event_then_replay,
        ends=SENT_BACK,
        books=[(RETURNED,)],
        least=30,
        through=("orders.update", "provider.refund", "ledger.update", "payments.update"),
        settings=TWO_DELIVERIES,
        operator=_replay_dead,
    ),
}
