"""The command line: what can be asked for, and what is done then."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from tools.bench import growth, hop, machine, matrix, profiling, scaling
from tools.bench.chart import draw
from tools.bench.compare import compare, folder_on_disk
from tools.bench.contestants import Kind, Name
from tools.bench.processes import ROOT
from tools.bench.race import Plan
from tools.bench.report import show

Done = tuple[dict[str, Any], int]
CHART = ROOT / "docs" / "bench.png"
QUICK = Plan(rounds=1, seconds=1, warmup=1, idle=50)


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    top = argparse.ArgumentParser(prog="python -m tools.bench", description="How fast Orderflow is.")
    top.set_defaults(run=run_compare)
    _usual(top, Plan())
    top.add_argument("--idle", type=int, default=Plan.idle, help="orders placed one at a time (default: 200)")
    top.add_argument("--connections", type=_count, default=Plan.connections, help="of the load at once (default: 32)")
    top.add_argument("--quick", action="store_true", help="under a minute; shows that it works, not how fast it is")
    top.add_argument("--only", type=_names, default=list(Name), help="some contestants, as orderflow,hello")
    top.add_argument("--kinds", type=_kinds, default=list(Kind), help="some requests, as post,one,status,list")
    top.add_argument("--chart", type=Path, help="draw a PNG here (default: a full run draws docs/bench.png)")
    more = top.add_subparsers(title="closer looks")
    grown = more.add_parser("growth", help="many stored orders beside none")
    grown.set_defaults(run=run_growth)
    _usual(grown, Plan())
    grown.add_argument("--orders", type=int, default=1_000_000, help="orders to seed (default: 1000000)")
    grown.add_argument("--cache", type=float, default=1.0, help="mongod's cache in GB, for both (default: 1)")
    cells = more.add_parser("matrix", help="gunicorn's settings against each other")
    cells.set_defaults(run=run_matrix)
    _usual(cells, Plan(rounds=3, seconds=4, warmup=1))
    hopped = more.add_parser("hop", help="what a hop between processes costs")
    hopped.set_defaults(run=run_hop)
    _usual(hopped, Plan())
    hopped.add_argument("--calls", type=int, default=1000, help="calls of each kind (default: 1000)")
    looked = more.add_parser("profile", help="where a worker spends its time")
    looked.set_defaults(run=run_profile)
    _usual(looked, Plan(seconds=10))
    looked.add_argument("--kind", type=_kind, default="post", help="post, one, status or list (default: post)")
    sized = more.add_parser("scaling", help="the tables of docs/scaling.md")
    sized.set_defaults(run=run_scaling)
    sized.add_argument(
        "--measure", action="store_true", help="measure bytes, commands and the price of a broadcast first"
    )
    sized.add_argument("--json", type=Path, help="write the figures to this file; - for standard output")
    sized.add_argument("--folder", type=Path, help="keep the data under this folder meanwhile (default: .orderflow)")
    return top


def run_compare(given: argparse.Namespace, console: Console) -> Done:
    """Orderflow beside its peers."""
    plan = QUICK if given.quick else Plan(given.rounds, given.seconds, given.warmup, given.idle, given.connections)
    with folder_on_disk(given.folder) as folder:
        report = compare(given.only, given.kinds, plan, folder, _settings(given), console.print)
    show(report, console)
    if machine.busy(report.machine):
        console.print("Others were at work on this machine before the run: read the figures with care.", style="yellow")
    usual = given.only == list(Name) and given.kinds == list(Kind) and given.connections == Plan.connections
    full = usual and not given.quick
    if chart := given.chart or (CHART if full else None):
        draw(report, chart)
        console.print(f"chart: {chart}")
    return report.as_dict(), 1 if report.results.troubles else 0


def run_growth(given: argparse.Namespace, console: Console) -> Done:
    """Many stored orders beside none."""
    plan = Plan(given.rounds, given.seconds, given.warmup)
    with folder_on_disk(given.folder) as folder:
        results, judged = growth.grow(given.orders, plan, folder, _settings(given), given.cache, console.print)
    growth.show(results, judged, console)
    return growth.as_dict(results, judged), _code(results, console)


def run_matrix(given: argparse.Namespace, console: Console) -> Done:
    """Gunicorn's settings against each other."""
    plan = Plan(given.rounds, given.seconds, given.warmup)
    with folder_on_disk(given.folder) as folder:
        results = matrix.matrix(plan, folder, _settings(given), console.print)
    console.print(matrix.table(results))
    return matrix.as_dict(results), _code(results, console)


def run_hop(given: argparse.Namespace, console: Console) -> Done:
    """What a hop between processes costs."""
    with folder_on_disk(given.folder) as folder:
        found = list(hop.hops(folder, given.calls, console.print))
    console.print(hop.table(found))
    return hop.as_dict(found), 0


def run_profile(given: argparse.Namespace, console: Console) -> Done:
    """Where a worker spends its time."""
    with folder_on_disk(given.folder) as folder:
        found = profiling.profile(given.kind, given.seconds, folder, _settings(given))
    console.print(profiling.table(found))
    return {"samples": found.samples, "self": dict(found.own), "total": dict(found.total)}, 0


def run_scaling(given: argparse.Namespace, console: Console) -> Done:
    """What grows with the orders, and what that costs."""
    if given.measure:
        with folder_on_disk(given.folder) as folder:
            scaling.keep("measured", scaling.take(folder))
            scaling.keep("split", scaling.take_split(folder))
    scaling.write(console)
    return {name: vars(values) for name, values in vars(scaling.Figures()).items()}, 0


def _usual(parser: argparse.ArgumentParser, plan: Plan) -> None:
    parser.add_argument("--json", type=Path, help="write everything to this file; - for standard output")
    parser.add_argument("--folder", type=Path, help="keep the data under this folder meanwhile (default: .orderflow)")
    parser.add_argument("--rounds", type=_count, default=plan.rounds, help=f"rounds (default: {plan.rounds})")
    parser.add_argument("--seconds", type=_count, default=plan.seconds, help=f"of a round (default: {plan.seconds})")
    parser.add_argument("--warmup", type=int, default=plan.warmup, help=f"seconds before (default: {plan.warmup})")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting for Orderflow")


def _code(results, console: Console) -> int:
    for line in results.troubles:
        console.print(f"FAILED  {line}", style="red", markup=False)
    return 1 if results.troubles else 0


def _settings(given: argparse.Namespace) -> dict[str, str]:
    return dict(one.split("=", 1) for one in given.set)


def _count(text: str) -> int:
    if not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError("must lie between 1 and 1000")
    return int(text)


def _kind(text: str) -> Kind:
    try:
        return Kind[text.upper()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"use one of {', '.join(kind.name.lower() for kind in Kind)}") from None


def _kinds(text: str) -> list[Kind]:
    return [_kind(one) for one in text.split(",")]


def _names(text: str) -> list[Name]:
    try:
        return [Name(one) for one in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{exc}: use {', '.join(Name)}") from None
