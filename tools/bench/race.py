"""A run: warm up, then rounds of each kind of request in turn, A B C D A B C D, so that a slow minute hits all alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tools.bench.contestants import Contestant, Kind
from tools.bench.processes import Memory
from tools.bench.rounds import Round, measure
from tools.bench.wrk import CONNECTIONS

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How long a run is."""

    rounds: int = 5
    seconds: int = 6
    warmup: int = 2
    idle: int = 200
    connections: int = CONNECTIONS


@dataclass
class Results:
    """What a run measured: rounds by contestant and kind, memory after it."""

    rounds: dict[str, dict[str, list[Round]]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)

    @property
    def troubles(self) -> list[str]:
        """One line for each round that failed."""
        return [
            f"{name}, {kind}: {one.trouble}"
            for name, kinds in self.rounds.items()
            for kind, rounds in kinds.items()
            for one in rounds
            if one.trouble
        ]


def race(contestants: list[Contestant], plan: Plan, tell: Tell, kinds: Sequence[str] = tuple(Kind)) -> Results:
    """Run all rounds of these kinds."""
    results = Results({one.name: {} for one in contestants})
    for kind in kinds:
        able = [one for one in contestants if kind in one.requests]
        _warm(able, kind, plan, results)
        for number in range(plan.rounds):
            for one in able:
                done = measure(one, kind, plan.seconds, plan.connections)
                results.rounds[one.name].setdefault(kind, []).append(done)
                tell(_line(one, kind, number, done))
    results.memory = {one.name: one.server.memory() for one in contestants}
    return results


def _warm(contestants: list[Contestant], kind: str, plan: Plan, results: Results) -> None:
    if not plan.warmup:
        return
    for one in contestants:
        done = measure(one, kind, plan.warmup, plan.connections)
        if done.trouble:
            results.rounds[one.name].setdefault(kind, []).append(done)


def _line(one: Contestant, kind: str, number: int, done: Round) -> str:
    told = f"FAILED: {done.trouble}" if done.trouble else f"{done.flow_rate:,.0f}/s, p99 {done.p99_ms:.1f} ms"
    return f"{kind} · round {number + 1} · {one.name}: {told}"
