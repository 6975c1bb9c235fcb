"""The targets of a run, and whether they were met."""

from collections.abc import Mapping
from dataclasses import dataclass

from tools.bench.contestants import Kind, Name
from tools.bench.figures import Figures, ratio

AT_LEAST = {
    (Kind.POST, Name.FLASK): 2.3,
    (Kind.POST, Name.FASTAPI): 2.5,
    (Kind.ONE, Name.FLASK): 2.3,
    (Kind.ONE, Name.FASTAPI): 1.6,
    (Kind.STATUS, Name.FLASK): 2.3,
    (Kind.STATUS, Name.FASTAPI): 1.6,
    (Kind.LIST, Name.FLASK): 1.7,
    (Kind.LIST, Name.FASTAPI): 1.25,
    (Kind.ONE, Name.HELLO): 0.65,
    (Kind.POST, Name.HELLO): 0.5,
}
# Orderflow split against Orderflow in one process; and settled orders a second of the system that it replaces.
SPLIT_AT_LEAST = 0.4
REPLACED_AT_LEAST = 1080.0
# The first two are of plain Flask's times.
AT_MOST = {
    "POST to Success, idle, p50 / plain Flask": (1.5, "×"),
    "POST answered, idle, p50 / plain Flask": (1.0, "×"),
    "POST to Success, under load, p99": (250.0, "ms"),
    "resident memory after the run": (160.0, "MB"),
}
FULL_OF_EMPTY_AT_LEAST = 0.93


@dataclass(frozen=True)
class TargetResult:
    """One target and what was measured; None where nothing was."""

    name: str
    target: float
    measured: float | None
    unit: str = "×"
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.target if self.at_most else self.measured >= self.target


Medians = Mapping[str, Mapping[Kind, Figures | None]]


def ratios(medians: Medians) -> list[TargetResult]:
    """Returns Orderflow against each of the others; a POST counts when its order is settled."""
    return [
        TargetResult(f"{kind}, {name}", least, _ratio(medians, kind, name)) for (kind, name), least in AT_LEAST.items()
    ]


def split_ratios(medians: Medians) -> list[TargetResult]:
    """Returns the targets of Orderflow with a process for each module; a POST counts when its order is settled."""
    posts = {name: medians.get(name, {}).get(Kind.POST) for name in (Name.SPLIT, Name.ORDERFLOW)}
    ours = posts[Name.SPLIT]
    share = ratio(ours and ours.flow_rate, posts[Name.ORDERFLOW] and posts[Name.ORDERFLOW].flow_rate)
    return [
        TargetResult("split: POST, of that in one process", SPLIT_AT_LEAST, share),
        TargetResult("split: POST, of the system it replaces", REPLACED_AT_LEAST, ours and ours.flow_rate, "/s"),
    ]


def limits(measured: Mapping[str, float | None]) -> list[TargetResult]:
    """Returns the targets for times and memory, by the names in AT_MOST."""
    return [TargetResult(name, most, measured.get(name), unit, at_most=True) for name, (most, unit) in AT_MOST.items()]


def _ratio(medians: Medians, kind: Kind, other: Name) -> float | None:
    ours, theirs = (medians.get(name, {}).get(kind) for name in (Name.ORDERFLOW, other))
    return ratio(ours.flow_rate, theirs.flow_rate) if ours and theirs else None
