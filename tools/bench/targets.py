"""What is wanted of a run, and whether it came true."""

from collections.abc import Mapping
from dataclasses import dataclass

from tools.bench.contestants import Kind, Name
from tools.bench.figures import Figures, ratio

AT_LEAST = {
    (Kind.POST, Name.FLASK): 3.0,
    (Kind.POST, Name.FASTAPI): 2.0,
    (Kind.ONE, Name.FLASK): 2.0,
    (Kind.ONE, Name.FASTAPI): 1.3,
    (Kind.STATUS, Name.FLASK): 2.0,
    (Kind.STATUS, Name.FASTAPI): 1.3,
    (Kind.LIST, Name.FLASK): 1.7,
    (Kind.LIST, Name.FASTAPI): 1.3,
    (Kind.ONE, Name.HELLO): 0.65,
    (Kind.POST, Name.HELLO): 0.5,
}
# Of Orderflow apart, against Orderflow in one process; and settled orders a second, those of the system it replaces.
APART_AT_LEAST = 0.4
REPLACED_AT_LEAST = 1080.0
AT_MOST = {
    "POST to Success, idle, p50": (6.0, "ms"),
    "POST to Success, idle, p99": (16.0, "ms"),
    "POST to Success, under load, p99": (250.0, "ms"),
    "resident memory after the run": (200.0, "MB"),
}
GROWN = 0.9


@dataclass(frozen=True)
class Judged:
    """One target: what was wanted, what was measured (None where nothing was), and whether it is met."""

    name: str
    wanted: float
    measured: float | None
    unit: str = "×"
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is; None where it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted


Medians = Mapping[str, Mapping[Kind, Figures | None]]


def ratios(medians: Medians) -> list[Judged]:
    """Orderflow against each of the others, by whole flows for POST."""
    return [Judged(f"{kind}, {name}", least, _ratio(medians, kind, name)) for (kind, name), least in AT_LEAST.items()]


def apart(medians: Medians) -> list[Judged]:
    """Orderflow with its modules apart, by whole flows of POST."""
    found = {name: medians.get(name, {}).get(Kind.POST) for name in (Name.APART, Name.ORDERFLOW)}
    ours = found[Name.APART]
    share = ratio(ours and ours.flow_rate, found[Name.ORDERFLOW] and found[Name.ORDERFLOW].flow_rate)
    return [
        Judged("apart: POST, of that in one process", APART_AT_LEAST, share),
        Judged("apart: POST, of the system it replaces", REPLACED_AT_LEAST, ours and ours.flow_rate, "/s"),
    ]


def limits(measured: Mapping[str, float | None]) -> list[Judged]:
    """Times and memory, by the names in AT_MOST."""
    return [Judged(name, most, measured.get(name), unit, at_most=True) for name, (most, unit) in AT_MOST.items()]


def _ratio(medians: Medians, kind: Kind, other: Name) -> float | None:
    ours, theirs = (medians.get(name, {}).get(kind) for name in (Name.ORDERFLOW, other))
    return ratio(ours.flow_rate, theirs.flow_rate) if ours and theirs else None
