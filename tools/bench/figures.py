"""Medians of rounds, ratios and percentiles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median

from tools.bench.rounds import Round


@dataclass(frozen=True)
class Figures:
    """Medians over the rounds of one contestant and one kind of request; named as in Round."""

    rate: float
    flow_rate: float
    p50_ms: float
    p99_ms: float
    server_us: float
    mongod_us: float


def medians(rounds: Sequence[Round]) -> Figures | None:
    """Returns the medians over the rounds without an error; None if there is no such round."""
    good = [one for one in rounds if not one.error]
    if not good:
        return None
    names = [field.name for field in fields(Figures)]
    return Figures(**{name: median(getattr(one, name) for one in good) for name in names})


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Returns `ours` divided by `theirs`; None if one is missing or `theirs` is 0."""
    return ours / theirs if ours is not None and theirs else None


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the smallest value that `percent` of the values do not exceed. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
