"""The same run against a fleet: two processes of each module, a broker, and lines between them that can be cut.

On one machine, or on a host for each of them.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Protocol

from app.config import MODULES
from tools.chaos.clients import Load
from tools.chaos.faults import Faults, Kind
from tools.chaos.harness import ENVIRONMENT, LEASE, Plan
from tools.chaos.network import Proxies
from tools.chaos.tap import Tap
from tools.chaos.verdict import Verdict, examine, sum_up, wait_until_settled
from tools.cluster.fleet import BROKER, DATABASE, Fleet
from tools.cluster.hosts import Hosts

TWO_EACH = dict.fromkeys(MODULES, 2)
CUT_SECONDS = (2.0, 7.0)
DOWN_SECONDS = (0.0, 1.5)
# RabbitMQ 3.10 writes down half a second later that a queue was made; killed before, it forgets half of it.
QUEUES_NOTED_SECONDS = 2.0
# As long as processes may take to find a broker again, and to make their queues.
QUEUES_MADE_SECONDS = 4.0

KILLS = {"gateway": Kind.KILL_GATEWAY, "orders": Kind.KILL_ORDERS, "payments": Kind.KILL_PAYMENTS}
PAUSES = {"orders": Kind.PAUSE_ORDERS, "payments": Kind.PAUSE_PAYMENTS}
ROLLS = {"gateway": Kind.REPLACE_GATEWAY, "orders": Kind.REPLACE_ORDERS, "payments": Kind.REPLACE_PAYMENTS}
CUTS = {
    ("gateway", BROKER): Kind.CUT_GATEWAY_BROKER,
    ("orders", BROKER): Kind.CUT_ORDERS_BROKER,
    ("payments", BROKER): Kind.CUT_PAYMENTS_BROKER,
    ("gateway", DATABASE): Kind.CUT_GATEWAY_DATABASE,
    ("orders", DATABASE): Kind.CUT_ORDERS_DATABASE,
    ("payments", DATABASE): Kind.CUT_PAYMENTS_DATABASE,
}
ROUND = (
    Kind.KILL_ORDERS,
    Kind.KILL_BROKER,
    Kind.KILL_PAYMENTS,
    Kind.KILL_GATEWAY,
    Kind.KILL_DATABASE,
    *CUTS.values(),
    *PAUSES.values(),
    Kind.UNPLUG,
    Kind.KILL_BROKER,
    Kind.UNPLUG,
    Kind.WIPE_BROKER,
    *ROLLS.values(),
)
FIRST = 3


class Network(Protocol):
    """What lies between the programs of a fleet."""

    def cut(self, one: str, other: str, *, silent: bool) -> None:
        """Let nothing pass between two; `silent` where neither is told."""

    def heal(self, one: str, other: str) -> None:
        """Let all pass again."""

    def unplug(self, name: str) -> None:
        """Let nothing pass to or from one."""

    def plug(self, name: str) -> None:
        """Let all pass again."""


class FleetFaults(Faults):
    """Those of a fleet: any of its programs, and the lines between them."""

    def __init__(
        self, fleet: Fleet, network: Network, random: Random, pause: float, kinds: Sequence[Kind], first: int
    ) -> None:
        ways = {
            Kind.KILL_BROKER: self._kill_broker,
            Kind.KILL_DATABASE: partial(self._kill_for_a_while, DATABASE),
            Kind.WIPE_BROKER: self._wipe_broker,
            Kind.UNPLUG: self._unplug,
            **{kind: partial(self._kill, module) for module, kind in KILLS.items()},
            **{kind: partial(self._pause, module) for module, kind in PAUSES.items()},
            **{kind: partial(self._roll, module) for module, kind in ROLLS.items()},
            **{kind: partial(self._cut, *pair) for pair, kind in CUTS.items()},
        }
        super().__init__(random, ways, kinds, first)
        self._fleet = fleet
        self._network = network
        self._pause_seconds = pause
        self._queues_made = time.monotonic()

    def _one_of(self, module: str) -> str:
        return self._random.choice([name for name, _ in self._fleet.of(module)])

    def _kill(self, module: str) -> bool:
        server = self._fleet.servers[self._one_of(module)]
        server.kill()
        server.start()
        return True

    def _kill_broker(self) -> bool:
        self.wait(max(0.0, self._queues_made + QUEUES_NOTED_SECONDS - time.monotonic()))
        return self._kill_for_a_while(BROKER)

    def _wipe_broker(self) -> bool:
        rabbit = self._fleet.rabbit
        if rabbit is None:
            return False
        # Cut off it would never be ready.
        self.undo_all()
        rabbit.kill()
        rabbit.forget()
        rabbit.restart()
        self._queues_made = time.monotonic() + QUEUES_MADE_SECONDS
        return True

    def _kill_for_a_while(self, name: str) -> bool:
        program = self._fleet.programs[name]
        program.kill()
        self.lasts(self._random.uniform(*DOWN_SECONDS), lambda: program.running or program.start())
        return True

    def _pause(self, module: str) -> bool:
        server = self._fleet.servers[self._one_of(module)]
        server.pause()
        self.lasts(self._pause_seconds, server.resume)
        return True

    def _roll(self, module: str) -> bool:
        # Whoever is paused or cut off would never be ready.
        self.undo_all()
        self._fleet.roll(module)
        return True

    def _cut(self, module: str, other: str) -> bool:
        names = [name for name, _ in self._fleet.of(module)]
        silent, whole = self._random.random() < 0.5, self._random.random() < 0.3
        for name in names if whole else [self._random.choice(names)]:
            self._network.cut(name, other, silent=silent)
            self.lasts(self._random.uniform(*CUT_SECONDS), partial(self._network.heal, name, other))
        return True

    def _unplug(self) -> bool:
        name = self._random.choice(list(self._fleet.programs))
        self._network.unplug(name)
        self.lasts(self._random.uniform(*CUT_SECONDS), partial(self._network.plug, name))
        return True


def run(plan: Plan, folder: Path) -> Verdict:
    """Do it, with all files in `folder`. Call it from the main thread."""
    environ = {**ENVIRONMENT, **plan.environment}
    with (
        Proxies() as network,
        Fleet(folder, environ, replicas=TWO_EACH, each=network.each, root=plan.root) as fleet,
    ):
        return attack(fleet, network, plan)


def run_on_hosts(plan: Plan, folder: Path) -> Verdict:
    """The same with a host of its own for each process, the broker and the database. Call it enclosed: see hosts.py."""
    environ = {**ENVIRONMENT, "ALLOW_UNSAFE": "no_identity", **plan.environment}
    with (
        Hosts(folder) as network,
        Fleet(folder, environ, replicas=TWO_EACH, places=network.place, root=plan.root) as fleet,
    ):
        return attack(fleet, network, plan)


def attack(fleet: Fleet, network: Network, plan: Plan, kinds: Sequence[Kind] = ROUND, first: int = FIRST) -> Verdict:
    """Do to a fleet at work what the plan says, wait for quiet, and judge; the `first` kinds come in their order."""
    verdict = Verdict(plan.seed, plan.duration)
    random = Random(plan.seed)  # noqa: S311 - a simulation
    faults = FleetFaults(fleet, network, random, LEASE + 1.5, kinds, first)
    tap = Tap(fleet.bus_url, fleet.prefix, Random(plan.seed))  # noqa: S311 - a simulation
    with Load(fleet.any_url, clients=plan.clients, rate=plan.rate, seed=plan.seed) as load:
        tap.start()
        faults.run(plan.duration, plan.gap)
    verdict.gave_up = load.gave_up
    names = fleet.databases()
    settled = wait_until_settled(fleet.mongodb_uri, names["orders"], payments=names["payments"])
    verdict.settled_after = settled - faults.last
    tap.stop()
    verdict.copies = tap.copies
    report = examine(fleet.mongodb_uri, names["orders"], load.book, payments=names["payments"])
    fleet.kill()
    verdict.broken = faults.broken
    return sum_up(verdict, report, load.book, faults.done)
