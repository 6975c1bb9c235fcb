"""Cuts the link between each two hosts of a cluster, then disconnects each host; prints the verdict as JSON.

`python -m tests.chaos.disconnected_hosts FOLDER` first enters a network namespace of its own.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from tools.chaos.clients import LoadGenerator
from tools.chaos.cluster_run import WORKER
from tools.chaos.final_state import read_final_state
from tools.chaos.verdict import Verdict, examine, summarize, wait_until_settled
from tools.chaos.webhook_receivers import WebhookReceivers
from tools.cluster import hosts
from tools.cluster.cluster import Cluster
from tools.cluster.hosts import BRIDGE_ADDRESS, VirtualHosts

ENVIRONMENT = {
    "ALLOW_UNSAFE": "no_identity,webhook_http",
    "WEBHOOK_NETWORKS": BRIDGE_ADDRESS,
    "PAYMENT_TIMEOUT": "1",
    "BACKGROUND_DEADLINE": "1",
    "PAYMENT_LEASE": "3.5",
    "RELAY_LEASE": "2",
    "PAYMENT_BACKOFF": "0.2",
    "PAYMENT_BACKOFF_MAX": "1",
    "BREAKER_RECOVERY": "1",
    "SIMULATED_LATENCY_MS": "50",
}
# Longer than any deadline; a shorter cut is a delay to TCP.
CUT_SECONDS = 2.4
DISCONNECTED_SECONDS = 0.6


def main(folder: Path) -> Verdict:
    with (
        VirtualHosts(folder) as network,
        WebhookReceivers(host=BRIDGE_ADDRESS) as receivers,
        Cluster(folder, ENVIRONMENT, host_of=network.host_of, worker=WORKER) as cluster,
    ):
        receivers.add_endpoints(cluster.any_url())
        began = time.monotonic()
        with LoadGenerator(cluster.any_url, clients=6, rate=20, timeout=4) as load:
            for number, pairs in enumerate(rounds(list(cluster.programs))):
                for one, other in pairs:
                    network.cut(one, other, silent=number % 2 == 0)
                time.sleep(CUT_SECONDS)
                for one, other in pairs:
                    network.heal(one, other)
            for name in cluster.programs:
                network.disconnect(name)
                time.sleep(DISCONNECTED_SECONDS)
                network.reconnect(name)
            healed = time.monotonic()
        names = cluster.databases()
        settled = wait_until_settled(cluster.mongodb_uri, names["orders"], payments=names["payments"])
        receivers.wait_until_told(cluster.mongodb_uri, names["webhooks"], orders=names["orders"])
        final = read_final_state(cluster.any_url, cluster.mongodb_uri, names["payments"], load.record.acknowledged)
        report = examine(cluster.mongodb_uri, names["orders"], load.record, payments=names["payments"], final=final)
        cluster.kill()
    report = replace(report, auditor=[*report.auditor, *receivers.violations(final)])
    verdict = Verdict(0, healed - began, gave_up=load.gave_up, settled_after=settled - healed)
    verdict.webhooks = receivers.counts
    return summarize(verdict, report, load.record, [])


def rounds(names):
    """Yields rounds of disjoint pairs that together have every two of the names."""
    # Of an even number, one has no partner in each round.
    partners = [*names, None] if len(names) % 2 == 0 else names
    count = len(partners)
    for number in range(count):
        pairs = [(partners[number - step], partners[(number + step) % count]) for step in range(1, count // 2 + 1)]
        yield [pair for pair in pairs if None not in pair]


if __name__ == "__main__":
    if not hosts.in_namespace():
        hosts.enter_namespace([sys.executable, "-m", "tests.chaos.disconnected_hosts", *sys.argv[1:]])
    print(json.dumps(main(Path(sys.argv[1])).as_dict()))
