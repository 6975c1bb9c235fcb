"""A run: warm-up, then rounds of each kind of request, contestant by contestant, so that a slow minute affects all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tools.bench.contestants import Contestant, Kind
from tools.bench.processes import Memory
from tools.bench.rounds import Round, measure
from tools.bench.wrk import CONNECTIONS

Log = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """The length of a run: rounds, seconds a round and of warm-up, orders placed when idle, connections."""

    rounds: int = 5
    seconds: int = 6
    warmup: int = 2
    idle: int = 200
    connections: int = CONNECTIONS


@dataclass
class Results:
    """The results of a run: rounds by contestant and kind, and the memory after the run."""

    rounds: dict[str, dict[str, list[Round]]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)

    @property
    def errors(self) -> list[str]:
        """One line for each failed round."""
        return [
            f"{name}, {kind}: {one.error}"
            for name, kinds in self.rounds.items()
            for kind, rounds in kinds.items()
            for one in rounds
            if one.error
        ]


def run_rounds(contestants: list[Contestant], plan: Plan, log: Log, kinds: Sequence[str] = tuple(Kind)) -> Results:
    """Runs all rounds of these kinds."""
    results = Results({one.name: {} for one in contestants})
    for kind in kinds:
        taking_part = [one for one in contestants if kind in one.requests]
        _warm_up(taking_part, kind, plan, results)
        for number in range(plan.rounds):
            for one in taking_part:
                done = measure(one, kind, plan.seconds, plan.connections)
                results.rounds[one.name].setdefault(kind, []).append(done)
                log(_line(one, kind, number, done))
    results.memory = {one.name: one.server.memory() for one in contestants}
    return results


def _warm_up(contestants: list[Contestant], kind: str, plan: Plan, results: Results) -> None:
    if not plan.warmup:
        return
    for one in contestants:
        done = measure(one, kind, plan.warmup, plan.connections)
        if done.error:
            results.rounds[one.name].setdefault(kind, []).append(done)


def _line(one: Contestant, kind: str, number: int, done: Round) -> str:
    outcome = f"FAILED: {done.error}" if done.error else f"{done.flow_rate:,.0f}/s, p99 {done.p99_ms:.1f} ms"
    return f"{kind} · round {number + 1} · {one.name}: {outcome}"
