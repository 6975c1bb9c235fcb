"""A chaos run against a cluster: two processes of each module, RabbitMQ, mongod, and network links that can be cut.

All run on one host, or each on a virtual host of its own. Webhooks go to receivers most of which fail.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Protocol

from app.config import MODULES
from tools.chaos.clients import LoadGenerator
from tools.chaos.event_duplicator import EventDuplicator
from tools.chaos.faults import FaultInjector, FaultKind
from tools.chaos.final_state import read_final_state
from tools.chaos.network import ProxyNetwork
from tools.chaos.plan import ENVIRONMENT, LEASE, Plan
from tools.chaos.verdict import Verdict, examine, summarize, wait_until_settled
from tools.chaos.webhook_receivers import WebhookReceivers
from tools.cluster.cluster import BROKER, DATABASE, Cluster
from tools.cluster.hosts import BRIDGE_ADDRESS, VirtualHosts
from tools.cluster.servers import GUNICORN

# The command of all modules but the gateway.
WORKER = (*GUNICORN, "tools.chaos.application:create_module()")
TWO_EACH = dict.fromkeys(MODULES, 2)
CUT_SECONDS = (2.0, 7.0)
DOWN_SECONDS = (0.0, 1.5)
# RabbitMQ 3.10 stores a new queue half a second after it was declared; killed earlier, it loses a part of it.
QUEUES_STORED_SECONDS = 2.0
# The most that processes need to reconnect to a broker and declare their queues.
QUEUES_DECLARED_SECONDS = 4.0

KILLS = {
    "gateway": FaultKind.KILL_GATEWAY,
    "orders": FaultKind.KILL_ORDERS,
    "payments": FaultKind.KILL_PAYMENTS,
    "webhooks": FaultKind.KILL_WEBHOOKS,
}
PAUSES = {
    "orders": FaultKind.PAUSE_ORDERS,
    "payments": FaultKind.PAUSE_PAYMENTS,
    "webhooks": FaultKind.PAUSE_WEBHOOKS,
}
RESTARTS = {
    "gateway": FaultKind.REPLACE_GATEWAY,
    "orders": FaultKind.REPLACE_ORDERS,
    "payments": FaultKind.REPLACE_PAYMENTS,
    "webhooks": FaultKind.REPLACE_WEBHOOKS,
}
CUTS = {
    ("gateway", BROKER): FaultKind.CUT_GATEWAY_BROKER,
    ("orders", BROKER): FaultKind.CUT_ORDERS_BROKER,
    ("payments", BROKER): FaultKind.CUT_PAYMENTS_BROKER,
    ("webhooks", BROKER): FaultKind.CUT_WEBHOOKS_BROKER,
    ("gateway", DATABASE): FaultKind.CUT_GATEWAY_DATABASE,
    ("orders", DATABASE): FaultKind.CUT_ORDERS_DATABASE,
    ("payments", DATABASE): FaultKind.CUT_PAYMENTS_DATABASE,
    ("webhooks", DATABASE): FaultKind.CUT_WEBHOOKS_DATABASE,
}
ROUND = (
    FaultKind.KILL_ORDERS,
    FaultKind.KILL_BROKER,
    FaultKind.KILL_PAYMENTS,
    FaultKind.KILL_GATEWAY,
    FaultKind.KILL_WEBHOOKS,
    FaultKind.KILL_DATABASE,
    *CUTS.values(),
    *PAUSES.values(),
    FaultKind.DISCONNECT_HOST,
    FaultKind.KILL_BROKER,
    FaultKind.DISCONNECT_HOST,
    FaultKind.WIPE_BROKER,
    *RESTARTS.values(),
)
FIRST = 3


class Network(Protocol):
    """The network links between the programs of a cluster."""

    def cut(self, one: str, other: str, *, silent: bool) -> None:
        """Cuts the link between two programs: packets are dropped if `silent`, else connections are refused."""

    def heal(self, one: str, other: str) -> None:
        """Restores the link."""

    def disconnect(self, name: str) -> None:
        """Drops all packets to and from one program."""

    def reconnect(self, name: str) -> None:
        """Restores all its links."""


class ClusterFaultInjector(FaultInjector):
    """Injects faults into the programs of a cluster and the links between them; a pause lasts `pause` seconds."""

    def __init__(
        self,
        cluster: Cluster,
        network: Network,
        random: Random,
        pause: float,
        kinds: Sequence[FaultKind],
        first: int,
    ) -> None:
        actions = {
            FaultKind.KILL_BROKER: self._kill_broker,
            FaultKind.KILL_DATABASE: partial(self._kill_for_a_while, DATABASE),
            FaultKind.WIPE_BROKER: self._wipe_broker,
            FaultKind.DISCONNECT_HOST: self._disconnect,
            **{kind: partial(self._kill, module) for module, kind in KILLS.items()},
            **{kind: partial(self._pause, module) for module, kind in PAUSES.items()},
            **{kind: partial(self._rolling_restart, module) for module, kind in RESTARTS.items()},
            **{kind: partial(self._cut, *pair) for pair, kind in CUTS.items()},
        }
        super().__init__(random, actions, kinds, first)
        self._cluster = cluster
        self._network = network
        self._pause_seconds = pause
        self._queues_declared = time.monotonic()

    def _one_of(self, module: str) -> str:
        return self._random.choice([name for name, _ in self._cluster.processes_of(module)])

    def _kill(self, module: str) -> bool:
        server = self._cluster.servers[self._one_of(module)]
        server.kill()
        server.start()
        return True

    def _kill_broker(self) -> bool:
        self.wait(max(0.0, self._queues_declared + QUEUES_STORED_SECONDS - time.monotonic()))
        return self._kill_for_a_while(BROKER)

    def _wipe_broker(self) -> bool:
        rabbitmq = self._cluster.rabbitmq
        if rabbitmq is None:
            return False
        # With a cut link it would never become ready.
        self.undo_all()
        rabbitmq.kill()
        rabbitmq.delete_data()
        rabbitmq.restart()
        self._queues_declared = time.monotonic() + QUEUES_DECLARED_SECONDS
        return True

    def _kill_for_a_while(self, name: str) -> bool:
        program = self._cluster.programs[name]
        program.kill()
        self.undo_after(self._random.uniform(*DOWN_SECONDS), lambda: program.running or program.start())
        return True

    def _pause(self, module: str) -> bool:
        server = self._cluster.servers[self._one_of(module)]
        server.pause()
        self.undo_after(self._pause_seconds, server.resume)
        return True

    def _rolling_restart(self, module: str) -> bool:
        # A paused or disconnected process would never become ready.
        self.undo_all()
        self._cluster.rolling_restart(module)
        return True

    def _cut(self, module: str, other: str) -> bool:
        names = [name for name, _ in self._cluster.processes_of(module)]
        silent, all_processes = self._random.random() < 0.5, self._random.random() < 0.3
        for name in names if all_processes else [self._random.choice(names)]:
            self._network.cut(name, other, silent=silent)
            self.undo_after(self._random.uniform(*CUT_SECONDS), partial(self._network.heal, name, other))
        return True

    def _disconnect(self) -> bool:
        name = self._random.choice(list(self._cluster.programs))
        self._network.disconnect(name)
        self.undo_after(self._random.uniform(*CUT_SECONDS), partial(self._network.reconnect, name))
        return True


def run(plan: Plan, folder: Path) -> Verdict:
    """Runs the plan on one host, with all files in `folder`. Call it from the main thread."""
    environ = {**ENVIRONMENT, "ALLOW_UNSAFE": "webhook_http", **plan.environment}
    with (
        ProxyNetwork() as network,
        WebhookReceivers() as receivers,
        Cluster(
            folder, environ, replicas=TWO_EACH, extra_environ=network.environ, root=plan.root, worker=WORKER
        ) as cluster,
    ):
        return inject_and_judge(cluster, network, receivers, plan)


def run_on_hosts(plan: Plan, folder: Path) -> Verdict:
    """Runs the plan with a virtual host for each program. Call it inside a network namespace, see `tools.cluster.hosts`."""
    unsafe = {"ALLOW_UNSAFE": "no_identity,webhook_http", "WEBHOOK_NETWORKS": BRIDGE_ADDRESS}
    environ = {**ENVIRONMENT, **unsafe, **plan.environment}
    with (
        VirtualHosts(folder) as network,
        WebhookReceivers(host=BRIDGE_ADDRESS) as receivers,
        Cluster(folder, environ, replicas=TWO_EACH, host_of=network.host_of, root=plan.root, worker=WORKER) as cluster,
    ):
        return inject_and_judge(cluster, network, receivers, plan)


def inject_and_judge(
    cluster: Cluster,
    network: Network,
    receivers: WebhookReceivers,
    plan: Plan,
    kinds: Sequence[FaultKind] = ROUND,
    first: int = FIRST,
) -> Verdict:
    """Injects the faults of a plan into a running cluster under load, waits until all work has settled, and judges.

    The cluster has processes of webhooks, whose command is WORKER.
    """
    verdict = Verdict(plan.seed, plan.duration)
    random = Random(plan.seed)  # noqa: S311 - a simulation
    faults = ClusterFaultInjector(cluster, network, random, LEASE + 1.5, kinds, first)
    duplicator = EventDuplicator(cluster.bus_url, cluster.prefix, Random(plan.seed))  # noqa: S311 - a simulation
    receivers.add_endpoints(cluster.any_url())
    with LoadGenerator(cluster.any_url, clients=plan.clients, rate=plan.rate, seed=plan.seed) as load:
        duplicator.start()
        faults.run(plan.duration, plan.gap)
    names = cluster.databases()
    settled = wait_until_settled(cluster.mongodb_uri, names["orders"], payments=names["payments"])
    verdict.settled_after = settled - faults.last
    load.refund_recent()
    verdict.gave_up = load.gave_up
    wait_until_settled(cluster.mongodb_uri, names["orders"], payments=names["payments"])
    duplicator.stop()
    verdict.duplicates = duplicator.copies
    receivers.wait_until_told(cluster.mongodb_uri, names["webhooks"], orders=names["orders"])
    final = read_final_state(cluster.any_url, cluster.mongodb_uri, names["payments"], load.record.acknowledged)
    report = examine(cluster.mongodb_uri, names["orders"], load.record, payments=names["payments"], final=final)
    cluster.kill()
    report = replace(report, auditor=[*report.auditor, *receivers.violations(final)])
    verdict.webhooks, verdict.webhook_delay = receivers.counts, receivers.delay
    verdict.failed_recoveries = faults.failed_recoveries
    return summarize(verdict, report, load.record, faults.injected)
