"""Draws the results of a run as a chart."""

from collections.abc import Sequence
from pathlib import Path

from tools.bench.contestants import LABELS, Kind
from tools.bench.report import Report

COLOURS = {
    "orderflow": "#1b6ca8",
    "split": "#6ea3c9",
    "flask": "#9aa5b1",
    "fastapi": "#6fb07f",
    "hello": "#d9c27a",
}
MONGOD = "#444b54"
INK = "#20262d"
TITLES = {
    Kind.POST: "POST /orders, until settled",
    Kind.ONE: "GET one order",
    Kind.STATUS: "GET status",
    Kind.LIST: "List of 20 orders",
}


def draw(report: Report, file: Path) -> None:
    """Writes a PNG with the rates of each kind of request, the CPU time of a POST, and the memory."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "figure.facecolor": "white"}):
        figure, axes = plt.subplots(2, 3, figsize=(19, 6.6), layout="constrained")
        panels = axes.flatten()
        for axis, kind in zip(panels, Kind, strict=False):
            _rates(axis, kind, report)
        _cpu(panels[4], report)
        _memory(panels[5], report)
        figure.suptitle(_headline(report), x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.savefig(file, dpi=110)
        plt.close(figure)


def _headline(report: Report) -> str:
    machine, rounds = report.machine, report.plan.rounds
    return (
        f"Orderflow beside plain peers: {machine['cores']} cores, wrk -t1 -c{report.plan.connections}, two workers each, MongoDB "
        f"{machine['mongodb']} majority and journaled, medians of {rounds} round{'s' if rounds > 1 else ''}"
    )


def _rates(axis, kind: Kind, report: Report) -> None:
    medians = report.medians()
    rates = {name: medians[name][kind].flow_rate for name in medians if medians[name].get(kind)}
    ours = rates.get("orderflow")
    labels = [f"{rate:,.0f}/s" + _ratio_label(name, ours, rate) for name, rate in rates.items()]
    _bars(axis, list(rates), list(rates.values()), labels)
    axis.set_title(f"{TITLES[kind]}: requests a second", loc="left", fontsize=10.5)


def _ratio_label(name: str, ours: float | None, rate: float) -> str:
    return "" if name == "orderflow" or not ours or not rate else f"  (Orderflow {ours / rate:.2f} x)"


def _cpu(axis, report: Report) -> None:
    medians = report.medians()
    posts = {name: medians[name][Kind.POST] for name in medians if medians[name].get(Kind.POST)}
    server = [one.server_us for one in posts.values()]
    mongod = [one.mongod_us for one in posts.values()]
    labels = [f"{ours:,.0f} + {theirs:,.0f} µs" for ours, theirs in zip(server, mongod, strict=True)]
    _bars(axis, list(posts), server, labels, more=mongod)
    axis.set_title("CPU time of a settled POST: server + mongod (dark)", loc="left", fontsize=10.5)


def _memory(axis, report: Report) -> None:
    memory = {name: one.rss_mb for name, one in report.results.memory.items()}
    _bars(axis, list(memory), list(memory.values()), [f"{value:,.0f} MB" for value in memory.values()])
    axis.set_title("Resident memory after the run", loc="left", fontsize=10.5)


def _bars(
    axis, names: list[str], values: Sequence[float], labels: list[str], more: Sequence[float] | None = None
) -> None:
    places = range(len(names))
    axis.barh(places, values, color=[COLOURS.get(name, "#888888") for name in names], height=0.62)
    if more:
        axis.barh(places, more, left=values, color=MONGOD, height=0.62)
    ends = [value + above for value, above in zip(values, more or [0.0] * len(values), strict=True)]
    for place, end, label in zip(places, ends, labels, strict=True):
        axis.text(end + max(ends) * 0.015, place, label, va="center", fontsize=9)
    axis.set_yticks(places, [LABELS.get(name, name) for name in names])
    axis.set_xlim(0, (max(ends) or 1.0) * 1.62)
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
