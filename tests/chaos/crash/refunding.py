"""Scenarios of refunds: several, partial, refused, and requested while the event of another one is undelivered."""

from typing import Any

from tests.chaos.crash import clients
from tests.chaos.crash.clients import TOTAL
from tests.chaos.crash.paying import paid
from tests.chaos.crash.scenario import CAPTURED, SENT_BACK, STEPS_OF_PAY_BACK, Scenario
from tests.chaos.crash.world import World

SOME, REST = 2500, TOTAL - 2500
IN_TWO = ("captured", TOTAL, 2)
THROUGH = ("orders.findAndModify", *STEPS_OF_PAY_BACK)
# The first call was made before.
THROUGH_SECOND = ("orders.findAndModify", "provider.refund #2", *STEPS_OF_PAY_BACK[1:])


def _one_after_the_other(world: World) -> None:
    world.refund(SOME, "some")
    world.pay_back()
    world.refund(REST, "rest")
    world.pay_back()


def _both_at_once(world: World) -> None:
    """Each of the two hints that either relay gets is of the same document."""
    world.refund(SOME, "some")
    world.refund(REST, "rest")
    world.hand_to_payments()
    world.call_provider()
    world.keep_results()
    world.call_provider()
    world.keep_results()
    world.hand_on_kept()
    world.acknowledge()


def _first_made(world: World) -> None:
    paid(world)
    world.refund(SOME, "some")
    world.hand_to_payments()
    world.call_provider()
    world.keep_results()


def _event_of_the_first(world: World) -> None:
    """The news of the first refund knows nothing of the second, which is not delivered yet."""
    world.refund(REST, "rest")
    world.hand_on_kept()
    world.pay_back()


def _cancel_the_rest(world: World) -> None:
    world.refund(SOME, "some")
    world.pay_back()
    world.cancel()
    world.pay_back()


def _refused(world: World) -> None:
    """The provider refuses the refund; an operator has it tried again, by when it does not."""
    world.provider.refusing = True
    world.refund(SOME, "some")
    world.pay_back()
    world.provider.refusing = False
    world.retry()
    world.call_provider()
    world.hand_to_orders()
    world.acknowledge()


def _refused_once(world: World) -> None:
    paid(world)
    world.provider.refusing = True
    world.refund(SOME, "some")
    world.pay_back()
    world.provider.refusing = False


def _give_up_refused(world: World) -> None:
    clients.drop_refused(world.client, world.order_id)


def _cancel_refused(world: World) -> None:
    """A cancellation takes the refused refund up again, and sends the rest back as well."""
    world.cancel()
    world.hand_to_payments()
    world.call_provider()
    world.keep_results()
    world.call_provider()
    world.keep_results()
    world.hand_on_kept()
    world.acknowledge()


def _both_again(client: Any, order_id: str) -> None:
    clients.refund(client, order_id, SOME, "some")
    clients.refund(client, order_id, REST, "rest")


def _rest_again(client: Any, order_id: str) -> None:
    clients.refund(client, order_id, REST, "rest")


def _some_again_and_cancel(client: Any, order_id: str) -> None:
    clients.refund(client, order_id, SOME, "some")
    clients.cancel(client, order_id)


def _some_again(client: Any, order_id: str) -> None:
    clients.refund(client, order_id, SOME, "some")


SCENARIOS = {
    "refund": Scenario(
        setup=paid,
        act=_one_after_the_other,
        again=_both_again,
        ends=[("Success", "Refunded")],
        books=[(IN_TWO,)],
        least=60,
        through=THROUGH,
    ),
    "two refunds at once": Scenario(
        setup=paid,
        act=_both_at_once,
        again=_both_again,
        ends=[("Success", "Refunded")],
        books=[(IN_TWO,)],
        least=50,
        through=THROUGH,
    ),
    "refund, then the event of another": Scenario(
        setup=_first_made,
        act=_event_of_the_first,
        again=_rest_again,
        ends=[("Success", "Refunded")],
        books=[(IN_TWO,)],
        least=30,
        through=THROUGH_SECOND,
    ),
    "refund in part, then cancel": Scenario(
        setup=paid,
        act=_cancel_the_rest,
        again=_some_again_and_cancel,
        ends=SENT_BACK,
        books=[(IN_TWO,)],
        least=60,
        through=THROUGH,
    ),
    "refund refused, then retried": Scenario(
        setup=paid,
        act=_refused,
        again=_some_again,
        ends=[("Success", "Captured")],
        books=[(("captured", SOME, 1),)],
        least=50,
        through=THROUGH,
        operator=clients.retry_parked,
    ),
    "refund refused, then given up": Scenario(
        setup=_refused_once,
        act=_give_up_refused,
        ends=[("Success", "Captured")],
        books=[(CAPTURED,)],
        least=10,
        through=("payments.update", "orders.update"),
        operator=clients.drop_refused,
    ),
    "refund refused, then cancelled": Scenario(
        setup=_refused_once,
        act=_cancel_refused,
        again=clients.cancel,
        ends=SENT_BACK,
        books=[(IN_TWO,)],
        least=40,
        through=THROUGH_SECOND,
        operator=clients.retry_parked,
    ),
}
