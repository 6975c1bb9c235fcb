"""One run: a database, a server, clients, faults; then quiet, and the verdict.

The provider goes on failing, being slow and timing out on a fifth of its calls to the very end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from chaos.clients import Load
from chaos.faults import ServerFaults
from chaos.servers import ROOT, Base, Server
from chaos.verdict import Verdict, examine, sum_up, wait_until_settled

DATABASE = "orderflow"
LEASE = 7.0
ENVIRONMENT = {
    "PAYMENT_TIMEOUT": "2",
    "BACKGROUND_DEADLINE": "2",
    "PAYMENT_LEASE": str(LEASE),
    "RELAY_LEASE": "3",
    "PAYMENT_BACKOFF": "0.2",
    "PAYMENT_BACKOFF_MAX": "2",
    "PAYMENT_TRIES": "30",
    "BREAKER_RECOVERY": "1",
    "SIMULATED_LATENCY_MS": "150",
    "SIMULATED_FAIL_PERCENT": "8",
    "SIMULATED_TIMEOUT_BEFORE_PERCENT": "6",
    "SIMULATED_TIMEOUT_AFTER_PERCENT": "6",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do: for how many seconds, with which seed, how many clients at how many orders a second in all.

    `gap` is the shortest and the longest time between two faults.
    """

    seed: int
    duration: float = 120.0
    clients: int = 8
    rate: float = 30.0
    gap: tuple[float, float] = (2.5, 6.5)
    environment: Mapping[str, str] = field(default_factory=dict)
    root: Path = ROOT


def run(plan: Plan, folder: Path) -> Verdict:
    """Do it, with all files in `folder`. Call it from the main thread."""
    verdict = Verdict(plan.seed, plan.duration)
    with Base(folder / "data") as base:
        environ = {**ENVIRONMENT, **plan.environment, "MONGODB_URI": base.uri, "MONGODB_DATABASE": DATABASE}
        with Server(folder, environ, plan.root) as server:
            random = Random(plan.seed)  # noqa: S311 - a simulation
            faults = ServerFaults(server, base, random, LEASE + 1.5)
            with Load(server.url, clients=plan.clients, rate=plan.rate, seed=plan.seed) as load:
                faults.run(plan.duration, plan.gap)
            verdict.gave_up = load.gave_up
            verdict.settled_after = wait_until_settled(base.uri, DATABASE) - faults.last
            report = examine(base.uri, DATABASE, load.book)
    return sum_up(verdict, report, load.book, faults.done)
