"""One run: a server with its database, clients, faults; then quiet, and the verdict.

The provider goes on failing, being slow and timing out on a fifth of its calls to the very end, and it forgets keys.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from app.storage.embedded_mongod import Mongod
from tools.chaos.clients import Load
from tools.chaos.faults import Kind
from tools.chaos.server_faults import FIRST, ROUND, ServerFaults
from tools.chaos.target import Target
from tools.chaos.verdict import Verdict, examine, sum_up, wait_until_settled
from tools.cluster.servers import ROOT

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
    # Clients repeat requests across a jump in time, which takes no time for them.
    "IDEMPOTENCY_HOURS": "100000",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do: for how many seconds, with which seed, how many clients at how many orders a second in all.

    `gap` is the shortest and the longest time between two faults, `kinds` are those of one round, of which the `first`
    ones come first and in their order.
    """

    seed: int
    duration: float = 120.0
    clients: int = 8
    rate: float = 30.0
    gap: tuple[float, float] = (2.5, 6.5)
    kinds: Sequence[Kind] = ROUND
    first: int = FIRST
    environment: Mapping[str, str] = field(default_factory=dict)
    root: Path = ROOT


def run(plan: Plan, folder: Path) -> Verdict:
    """Do it, with all files in `folder`. Call it from the main thread."""
    verdict = Verdict(plan.seed, plan.duration)
    environ = {**ENVIRONMENT, **plan.environment, "MONGODB_DATABASE": DATABASE}
    target = Target(folder, environ, plan.root, small_data_disk=Kind.FILL_DATA_DISK in plan.kinds)
    random = Random(plan.seed)  # noqa: S311 - a simulation
    faults = ServerFaults(target, DATABASE, random, LEASE + 1.5, plan.kinds, plan.first)
    try:
        with target:
            with Load(target.url, clients=plan.clients, rate=plan.rate, seed=plan.seed, follow=True) as load:
                faults.run(plan.duration, plan.gap)
            verdict.gave_up = load.gave_up
            verdict.settled_after = wait_until_settled(target.mongodb_uri, DATABASE) - faults.last
        # Whatever became of the server's own database, it is judged by what is on its disk.
        with Mongod(target.data) as mongod:
            report = examine(mongod.uri, DATABASE, load.book, aged=faults.aged)
    finally:
        target.unmount()
    verdict.threads, verdict.broken = dict(Counter(target.ended_threads())), faults.broken
    return sum_up(verdict, report, load.book, faults.done)
