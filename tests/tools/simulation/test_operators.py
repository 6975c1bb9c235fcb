"""The simulated operators give a cancelled order's money back once, whatever others do meanwhile and whoever dies."""

from collections.abc import Callable
from itertools import count
from random import Random

import pytest

from tools.simulation.clients import SimulatedClient
from tools.simulation.operators import SimulatedOperator
from tools.simulation.world import Plan

TOTAL = 9000


class Accident:
    """A cancelled order whose refund has failed: the payer's bank accepts none."""

    def __init__(self, simulator):
        plans = (Plan(seed=seed, orders=0, crowd=0) for seed in count())
        self.world = next(world for world in map(simulator.world, plans) if world.notifier)
        self.world.faulting = False
        self.rest()
        client = SimulatedClient(self.world, 1, Random(1))
        client._product, client._value, client._manual = "refund-fails-later", TOTAL, False
        self.world._do(client.place_only)
        self.rest()
        self.order_id = client._order_id
        self.world._do(lambda: client._act("cancel"))
        self.rest()

    @property
    def process(self):
        return self.world.some_process(self.world._random("test"))

    @property
    def paid(self):
        """What operators have paid by other means."""
        return [movement.value for movement in self.world.history.movements]

    def rest(self):
        self.world._start_missing()
        self.world._rest()

    def act(self, work: Callable):
        """Let somebody work at a process, and everything come to rest."""
        process = self.process
        task = self.world.scheduler.spawn(process, "test", lambda: work(process))
        self.rest()
        assert task.ended or not process.alive

    def review(self, before: Callable = lambda _: None, after: Callable = lambda _: None):
        """Let an operator act; `before` and `after` happen around the next resolution."""

        def work(process):
            review = process.payments.manual_review
            resolve = review.resolve

            def resolve_once(*args):
                review.resolve = resolve
                before(process)
                status = resolve(*args)
                after(process)
                return status

            review.resolve = resolve_once
            SimulatedOperator(self.world, process).review()

        self.act(work)

    def refund_in_the_dashboard(self, share):
        """Whether it was possible: nobody refunds there what an operator gives back."""
        with self.world.pay_outs.refunding_elsewhere(self.order_id) as free:
            return free and self.world.notifier.refund_elsewhere(self.order_id, share)


@pytest.fixture
def accident(simulator):
    accident = Accident(simulator)
    yield accident
    accident.world.scheduler.close()


def test_what_was_recorded_is_paid_once(accident):
    accident.review()
    accident.review()
    assert accident.paid == [TOTAL]
    assert accident.world._end() == []


def test_a_resolution_that_another_operator_s_retry_refuses_is_not_paid(accident):
    accident.review(before=lambda process: process.payments.manual_review.retry(accident.order_id, "Bob", "again"))
    assert accident.paid == []
    # That retry has failed too, and the next operator pays.
    assert accident.world._end() == []
    assert accident.paid == [TOTAL]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_operator_whose_process_dies_looks_later_what_was_recorded_and_pays_it_once(accident, when):
    accident.review(**{when: accident.world.die})
    assert accident.paid == []
    assert accident.world._end() == []
    assert accident.paid == [TOTAL]


def test_what_went_back_in_the_provider_s_dashboard_is_not_paid_again(accident):
    accident.act(lambda _: accident.refund_in_the_dashboard(0.25))
    accident.review()
    assert accident.paid == []
    assert accident.world._end() == []
    assert accident.paid == [TOTAL * 3 // 4]


def test_an_operator_waits_while_somebody_refunds_in_the_dashboard(accident):
    with accident.world.pay_outs.refunding_elsewhere(accident.order_id):
        accident.review()
        assert accident.paid == []
    assert accident.world._end() == []
    assert accident.paid == [TOTAL]


def test_nobody_refunds_in_the_dashboard_what_an_operator_gives_back(accident):
    possible = []
    accident.review(before=lambda _: possible.append(accident.refund_in_the_dashboard(1.0)))
    assert possible == [False]
    assert accident.world._end() == []
    assert accident.paid == [TOTAL]
