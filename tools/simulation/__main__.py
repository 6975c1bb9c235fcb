"""`python -m tools.simulation`: runs seeds, says what they took, and what they found."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tools.simulation.coverage import BUSY_CROWD, PAIRS, missing
from tools.simulation.memory_mongod import memory_mongod
from tools.simulation.mutations import MUTATIONS
from tools.simulation.runner import Simulator, Summary, run_all
from tools.simulation.world import Plan, Result

MUTATION_SEEDS = 1000
SHOWN_FAILURES = 5
KINDS = ("order transition", "payment transition", "timeline", "world fault", "pair", "recovery", "log")
PROGRESS_SEEDS = 500


def main(arguments: Sequence[str]) -> int:
    """Run as the arguments say; returns 0 if nothing was found and nothing is missing."""
    options = _options(arguments)
    console = Console(soft_wrap=True)
    with memory_mongod() as uri:
        if options.mutations is not None:
            return _run_mutations(uri, options, console)
        return _run_seeds(uri, options, console)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many seeds, from --seed on")
    parser.add_argument("--seed", type=int, help="the first seed; without --seeds only this one")
    parser.add_argument("--steps", type=int, default=Plan.steps, help="steps with faults in each seed")
    parser.add_argument("--orders", type=int, default=Plan.orders, help="orders in each seed")
    parser.add_argument(
        "--crowd",
        type=int,
        help=f"further orders in each seed, only placed (default: {Plan.crowd}, and in every other seed {BUSY_CROWD})",
    )
    parser.add_argument("--jobs", type=int, default=max(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--mutations", nargs="*", metavar="NAME", help="seek a violation in mutated copies")
    parser.add_argument("--table", action="store_true", help="print how often each thing was taken")
    options = parser.parse_args(arguments)
    if unknown := {*(options.mutations or ())} - {*MUTATIONS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MUTATIONS)}")
    if options.seed is not None and "--seeds" not in arguments:
        options.seeds = 1
    return options


def _plans(options: argparse.Namespace, seeds: int) -> list[Plan]:
    first = options.seed or 0
    return [
        Plan(seed=seed, steps=options.steps, orders=options.orders, crowd=_crowd(seed, options.crowd))
        for seed in range(first, first + seeds)
    ]


def _crowd(seed: int, wanted: int | None) -> int:
    """How many further orders a seed has at most: a rare step has fewer in any case."""
    if wanted is not None:
        return wanted
    return BUSY_CROWD if seed % 2 else Plan.crowd


def _run_seeds(uri: str, options: argparse.Namespace, console: Console) -> int:
    began, progress = time.monotonic(), _Progress(console)
    summary = run_all(
        uri, _plans(options, options.seeds), options.jobs, progress=progress.show, stopped=_stop_signals().is_set
    )
    _print_summary(summary, time.monotonic() - began, console)
    if options.table:
        _print_table(summary, console)
    for failure in summary.failures[:SHOWN_FAILURES]:
        _print_failure(uri, failure, console)
    lacking = missing(summary.taken, summary.seeds) if options.seed is None else []
    for what in lacking:
        console.print(f"never taken: {what}", style="red", markup=False)
    return 1 if summary.failures or lacking else 0


class _Progress:
    """Prints a line every PROGRESS_SEEDS seeds, and each failure when it is found."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._failures = self._lines = 0

    def show(self, summary: Summary) -> None:
        """Print what is new."""
        for failure in summary.failures[self._failures :]:
            self._console.print(f"seed {failure.plan.seed}: {failure.violations[0]}", style="red", markup=False)
        self._failures = len(summary.failures)
        if summary.seeds // PROGRESS_SEEDS > self._lines:
            self._lines = summary.seeds // PROGRESS_SEEDS
            self._console.print(f"{summary.seeds} seeds, {self._failures} failed", style="dim")


def _stop_signals() -> threading.Event:
    """Set by SIGINT and SIGTERM: what was covered by then is still told."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _print_summary(summary: Summary, seconds: float, console: Console) -> None:
    pairs = sum(1 for what, _ in summary.taken if what == "pair")
    console.print(
        f"{summary.seeds} seeds in {seconds:.1f} s: {summary.orders} orders ({summary.orders / seconds:.0f} a second), "
        f"{summary.steps} steps ({summary.steps / seconds:.0f} a second), {summary.virtual_days:.0f} days "
        f"({summary.virtual_days / seconds * 60:.0f} a minute), {pairs} of {len(PAIRS)} pairs of fault and step, "
        f"{len(summary.failures)} failed"
    )


def _print_table(summary: Summary, console: Console) -> None:
    for kind in KINDS:
        table = Table("times", kind)
        for (what, name), times in sorted(summary.taken.items()):
            if what == kind:
                table.add_row(str(times), name)
        console.print(table)


def _print_failure(uri: str, failure: Result, console: Console) -> None:
    simulator = Simulator(uri, "simulation_shrink")
    shortest = simulator.shrink(failure)
    simulator.close()
    plan = shortest.plan
    console.rule(f"seed {plan.seed}")
    for line in [*shortest.last_steps, *map(str, shortest.violations)]:
        console.print(line, markup=False)
    console.print(
        f"shrunk to {plan.orders} orders, {plan.steps} steps, without {', '.join(sorted(plan.without)) or 'nothing'}; "
        f"again: make simulate SEED={plan.seed} STEPS={failure.plan.steps}"
    )


def _run_mutations(uri: str, options: argparse.Namespace, console: Console) -> int:
    table = Table("protection taken out", "seeds until found", "found as")
    survived, stopped = 0, _stop_signals().is_set
    for name in options.mutations or MUTATIONS:
        if stopped():
            break
        plans = _plans(options, MUTATION_SEEDS)
        summary = run_all(uri, plans, options.jobs, mutation=name, until_failure=True, stopped=stopped)
        found = min(summary.failures, key=lambda failure: failure.plan.seed, default=None)
        survived += found is None
        first = options.seed or 0
        seeds = str(found.plan.seed - first + 1) if found else f"not in {summary.seeds}"
        console.print(f"{name}: {seeds}", style="dim")
        table.add_row(name.replace("_", " "), seeds, str(found.violations[0])[:110] if found else "")
    console.print(table)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
