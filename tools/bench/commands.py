"""The command line of the bench: the parser, and one function for each command."""

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tools.bench import broker, checkouts, cluster, growth, machine, matrix, profiling, scaling, webhooks
from tools.bench.chart import draw
from tools.bench.compare import compare, folder_on_disk
from tools.bench.contestants import Kind, Name
from tools.bench.report import show
from tools.bench.runner import Plan
from tools.cluster.processes import ROOT

Outcome = tuple[dict[str, Any], int]
CHART = ROOT / "docs" / "bench.png"
QUICK = Plan(rounds=1, seconds=1, warmup=1, idle=50)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m tools.bench", description="How fast Orderflow is.")
    top.set_defaults(run=run_compare)
    _add_run_options(top, Plan())
    top.add_argument("--idle", type=int, default=Plan.idle, help="orders placed one at a time (default: 200)")
    top.add_argument("--connections", type=_count, default=Plan.connections, help="of the load at once (default: 32)")
    top.add_argument("--quick", action="store_true", help="under a minute; a check that it runs, not a measurement")
    top.add_argument("--only", type=_names, default=list(Name), help="only these contestants, such as orderflow,hello")
    top.add_argument(
        "--kinds", type=_kinds, default=list(Kind), help="only these requests, such as post,one,status,list"
    )
    top.add_argument("--chart", type=Path, help="draw a PNG here (default: a full run draws docs/bench.png)")
    more = top.add_subparsers(title="commands for one aspect")
    growth_parser = more.add_parser("growth", help="many stored orders beside none")
    growth_parser.set_defaults(run=run_growth)
    _add_run_options(growth_parser, Plan())
    growth_parser.add_argument("--orders", type=int, default=1_000_000, help="orders to seed (default: 1000000)")
    growth_parser.add_argument("--cache", type=float, default=1.0, help="mongod's cache in GB, for both (default: 1)")
    checkouts_parser = more.add_parser("checkouts", help="this checkout beside another one: what a change has gained")
    checkouts_parser.set_defaults(run=run_checkouts)
    _add_run_options(checkouts_parser, Plan(rounds=5, seconds=4, warmup=1))
    checkouts_parser.add_argument("--other", type=Path, required=True, help="the folder of the other checkout")
    checkouts_parser.add_argument("--kinds", type=_kinds, default=list(Kind), help="only these requests (default: all)")
    checkouts_parser.add_argument("--idle", type=int, default=50, help="orders placed one at a time (default: 50)")
    matrix_parser = more.add_parser("matrix", help="gunicorn's settings against each other")
    matrix_parser.set_defaults(run=run_matrix)
    _add_run_options(matrix_parser, Plan(rounds=3, seconds=4, warmup=1))
    broker_parser = more.add_parser("broker", help="the cost of a message over RabbitMQ")
    broker_parser.set_defaults(run=run_broker)
    _add_run_options(broker_parser, Plan())
    broker_parser.add_argument("--calls", type=int, default=1000, help="calls of each kind (default: 1000)")
    cluster_parser = more.add_parser("cluster", help="the CPU of an order with 1, 2 and 4 processes of each module")
    cluster_parser.set_defaults(run=run_cluster)
    _add_run_options(cluster_parser, Plan(rounds=3))
    cluster_parser.add_argument("--quick", action="store_true", help="a check that it runs, not a measurement")
    webhooks_parser = more.add_parser("webhooks", help="the cost of webhooks, and deliveries a second")
    webhooks_parser.set_defaults(run=run_webhooks)
    _add_run_options(webhooks_parser, Plan())
    webhooks_parser.add_argument(
        "--idle", type=int, default=Plan.idle, help="orders placed one at a time (default: 200)"
    )
    webhooks_parser.add_argument("--quick", action="store_true", help="a check that it runs, not a measurement")
    profile_parser = more.add_parser("profile", help="where a worker spends its CPU time")
    profile_parser.set_defaults(run=run_profile)
    _add_run_options(profile_parser, Plan(seconds=10))
    profile_parser.add_argument("--kind", type=_kind, default="post", help="post, one, status or list (default: post)")
    scaling_parser = more.add_parser("scaling", help="the tables of docs/scaling.md")
    scaling_parser.set_defaults(run=run_scaling)
    scaling_parser.add_argument(
        "--measure", action="store_true", help="first measure bytes, commands and the cost of a broadcast"
    )
    scaling_parser.add_argument("--json", type=Path, help="write the figures to this file; - for standard output")
    scaling_parser.add_argument(
        "--folder", type=Path, help="keep the data in this folder during the run (default: .orderflow)"
    )
    return top


def run_compare(options: argparse.Namespace, console: Console) -> Outcome:
    """Measures Orderflow beside its peers."""
    plan = (
        QUICK
        if options.quick
        else Plan(options.rounds, options.seconds, options.warmup, options.idle, options.connections)
    )
    with folder_on_disk(options.folder) as folder:
        report = compare(options.only, options.kinds, plan, folder, _settings(options), console.print)
    show(report, console)
    if machine.busy(report.machine):
        console.print("Other processes used this machine before the run: the figures may be off.", style="yellow")
    complete = options.only == list(Name) and options.kinds == list(Kind) and options.connections == Plan.connections
    full = complete and not options.quick
    if chart := options.chart or (CHART if full else None):
        draw(report, chart)
        console.print(f"chart: {chart}")
    return report.as_dict(), 1 if report.results.errors else 0


def run_growth(options: argparse.Namespace, console: Console) -> Outcome:
    """Measures an Orderflow with many stored orders beside an empty one."""
    plan = Plan(options.rounds, options.seconds, options.warmup)
    with folder_on_disk(options.folder) as folder:
        results, targets = growth.grow(options.orders, plan, folder, _settings(options), options.cache, console.print)
    growth.show(results, targets, console)
    return growth.as_dict(results, targets), _code(results, console)


def run_checkouts(options: argparse.Namespace, console: Console) -> Outcome:
    """Measures another checkout and this one."""
    plan = Plan(options.rounds, options.seconds, options.warmup, options.idle)
    with folder_on_disk(options.folder) as folder:
        found = checkouts.compare(options.other, options.kinds, plan, folder, _settings(options), console.print)
    console.print(checkouts.table(found))
    return checkouts.as_dict(found), _code(found.results, console)


def run_matrix(options: argparse.Namespace, console: Console) -> Outcome:
    """Measures gunicorn's settings against each other."""
    plan = Plan(options.rounds, options.seconds, options.warmup)
    with folder_on_disk(options.folder) as folder:
        results = matrix.matrix(plan, folder, _settings(options), console.print)
    console.print(matrix.table(results))
    return matrix.as_dict(results), _code(results, console)


def run_broker(options: argparse.Namespace, console: Console) -> Outcome:
    """Measures the cost of a message over RabbitMQ."""
    with folder_on_disk(options.folder) as folder:
        costs = list(broker.message_costs(folder, options.calls, console.print))
    console.print(broker.table(costs))
    return broker.as_dict(costs), 0


def run_cluster(options: argparse.Namespace, console: Console) -> Outcome:
    """Measures the CPU of an order with more and more processes; a full run writes the table of docs/scaling.md."""
    plan = QUICK if options.quick else Plan(options.rounds, options.seconds, options.warmup)
    with folder_on_disk(options.folder) as folder:
        costs = cluster.cluster_costs(folder, plan, console.print)
    console.print(cluster.table(costs))
    found = cluster.as_dict(costs)
    if not options.quick and not costs.errors:
        scaling.write_section("replicas", {"at": time.strftime("%Y-%m-%d"), **found})
        scaling.write_page(console)
    return found, _code(costs, console)


def run_webhooks(options: argparse.Namespace, console: Console) -> Outcome:
    """Measures Orderflow without and with webhooks."""
    plan = QUICK if options.quick else Plan(options.rounds, options.seconds, options.warmup, options.idle)
    with folder_on_disk(options.folder) as folder:
        measured = webhooks.measure(plan, folder, _settings(options), console.print)
    webhooks.show(measured, console)
    return webhooks.as_dict(measured), _code(measured.results, console)


def run_profile(options: argparse.Namespace, console: Console) -> Outcome:
    """Profiles a worker under load."""
    with folder_on_disk(options.folder) as folder:
        profile = profiling.profile(options.kind, options.seconds, folder, _settings(options))
    console.print(profiling.table(profile))
    return {"samples": profile.samples, "self": dict(profile.own), "total": dict(profile.total)}, 0


def run_scaling(options: argparse.Namespace, console: Console) -> Outcome:
    """Computes the tables of docs/scaling.md."""
    if options.measure:
        with folder_on_disk(options.folder) as folder:
            scaling.write_section("measured", scaling.measure_one_process(folder))
            scaling.write_section("split", scaling.measure_split(folder))
    scaling.write_page(console)
    return {name: vars(values) for name, values in vars(scaling.Figures()).items()}, 0


def _add_run_options(parser: argparse.ArgumentParser, plan: Plan) -> None:
    parser.add_argument("--json", type=Path, help="write all results to this file; - for standard output")
    parser.add_argument("--folder", type=Path, help="keep the data in this folder during the run (default: .orderflow)")
    parser.add_argument("--rounds", type=_count, default=plan.rounds, help=f"number of rounds (default: {plan.rounds})")
    parser.add_argument(
        "--seconds", type=_count, default=plan.seconds, help=f"seconds of a round (default: {plan.seconds})"
    )
    parser.add_argument("--warmup", type=int, default=plan.warmup, help=f"seconds of warm-up (default: {plan.warmup})")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting for Orderflow")


def _code(results, console: Console) -> int:
    for line in results.errors:
        console.print(f"FAILED  {line}", style="red", markup=False)
    return 1 if results.errors else 0


def _settings(options: argparse.Namespace) -> dict[str, str]:
    return dict(setting.split("=", 1) for setting in options.set)


def _count(text: str) -> int:
    if not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError("must be between 1 and 1000")
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
