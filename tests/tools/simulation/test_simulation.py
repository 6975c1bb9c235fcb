"""The simulation: it finds what is broken, finds nothing in what is sound, and repeats itself."""

import pytest

from tools.simulation import runner
from tools.simulation.coverage import PAIRS, missing
from tools.simulation.faults import NOTIFICATION, NotificationFault, ProviderFault
from tools.simulation.mutations import MUTATIONS
from tools.simulation.runner import run_all
from tools.simulation.world import Plan

pytestmark = pytest.mark.timeout(1200)

SEEDS = 360
# The seeds of a mutated copy in this test; `make simulate SIMULATE=--mutations` tries more.
MUTATION_SEEDS = 60
QUICKLY_FOUND = (
    "no_key_age",
    "attempt_in_the_key",
    "answer_before_the_write",
    "acknowledged_before_delivery",
    "key_may_be_used_twice",
    "waiting_never_expires",
    "waiting_is_charged_again",
    "notification_is_not_verified",
    "facts_after_the_capture_are_not_read",
)


# A seed with a bank, and one with the simulated provider and its notifications.
@pytest.mark.parametrize("seed", [17, PAIRS.index(("lost", NOTIFICATION))])
def test_a_seed_repeats_itself_step_by_step(simulator, seed):
    plan = Plan(seed=seed, steps=250, crowd=10)
    first, second = simulator.run(plan), simulator.run(plan)
    assert first.violations == second.violations == []
    assert (first.digest, first.steps, first.taken) == (second.digest, second.steps, second.taken)


def test_other_seeds_run_otherwise(simulator):
    digests = {simulator.run(Plan(seed=seed, steps=100, crowd=5)).digest for seed in range(4)}
    assert len(digests) == 4


def test_a_fault_that_is_left_out_does_not_happen(simulator):
    taken = simulator.run(Plan(seed=3, without=frozenset({"time jumps"}))).taken
    assert ("world fault", "time jumps") not in taken
    assert any(what == "world fault" for what, _ in taken)


@pytest.mark.extended
def test_a_failing_seed_is_made_shorter_and_still_fails(simulator, monkeypatch):
    audit = runner.World._end

    def forbids_two_orders(world):
        found = audit(world)
        return found or [runner.Violation("test", "", "many")] * (len(world.history.final) > 1)

    monkeypatch.setattr(runner.World, "_end", forbids_two_orders)
    # However slow the machine is.
    monkeypatch.setattr(runner, "SHRINK_SECONDS", float("inf"))
    failed = simulator.run(Plan(seed=5))
    shortest = simulator.shrink(failed)
    assert shortest.violations
    assert shortest.plan.crowd < failed.plan.crowd
    assert shortest.plan.steps < failed.plan.steps
    assert len(shortest.plan.without) > 3
    assert shortest.last_steps


def test_an_error_that_no_part_handles_is_a_violation(simulator, monkeypatch):
    monkeypatch.setattr(runner.World, "_inject", lambda self: 1 / 0)
    [violation] = simulator.run(Plan(seed=1)).violations
    assert "ZeroDivisionError" in str(violation)


@pytest.mark.extended
def test_a_run_that_is_stopped_has_what_was_covered_by_then(mongodb_uri):
    seen = []
    plans = [Plan(seed=seed, steps=30, orders=1, crowd=0) for seed in range(60)]
    summary = run_all(
        mongodb_uri, plans, jobs=1, progress=lambda now: seen.append(now.seeds), stopped=lambda: any(seen)
    )
    assert 0 < summary.seeds < len(plans)


@pytest.mark.parametrize("wanted", ["PaymentAuthorized", "PaymentDelayed", "PaymentActionRequired", "CaptureRequested"])
def test_some_seed_takes_what_happens_after_the_charge(simulator, wanted):
    first = PAIRS.index((ProviderFault.REFUSED, "provider capture"))
    results = (simulator.run(Plan(seed=seed)) for seed in range(first, first + 40))
    assert any(result.taken["timeline", wanted] for result in results)


@pytest.mark.parametrize("fault", list(NotificationFault))
def test_the_seed_that_looks_for_a_fault_of_a_notification_finds_it(simulator, fault):
    first = PAIRS.index((fault, NOTIFICATION))
    seeds = range(first, first + 20 * len(PAIRS), len(PAIRS))
    results = (simulator.run(Plan(seed=seed)) for seed in seeds)
    assert any(result.taken["pair", f"{fault} at {NOTIFICATION}"] and not result.violations for result in results)


def test_what_was_never_taken_is_named():
    lacking = missing({}, 1)
    assert "order transition: (new) -> Processing" in lacking
    assert "world fault: time jumps" in lacking
    assert not [what for what in lacking if what.startswith("pair")]
    assert len([what for what in missing({}, 10**6) if what.startswith("pair")]) == len(PAIRS)


@pytest.mark.extended
@pytest.mark.long
def test_no_seed_breaks_a_promise_and_every_way_is_taken(mongodb_uri):
    summary = run_all(mongodb_uri, [Plan(seed=seed) for seed in range(SEEDS)], jobs=2)
    assert [(failure.plan, [*map(str, failure.violations)]) for failure in summary.failures] == []
    assert summary.seeds == SEEDS
    assert missing(summary.taken, summary.seeds) == []


@pytest.mark.extended
@pytest.mark.parametrize("mutation", QUICKLY_FOUND)
def test_a_copy_without_a_protection_is_found(mongodb_uri, mutation):
    plans = [Plan(seed=seed) for seed in range(MUTATION_SEEDS)]
    assert run_all(mongodb_uri, plans, jobs=1, mutation=mutation, until_failure=True).failures


def test_every_mutation_says_what_it_takes_out():
    assert len(MUTATIONS) > 15
    assert all(mutation.__doc__ for mutation in MUTATIONS.values())
