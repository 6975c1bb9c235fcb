"""Each program on a host of its own, any two of which are parted, then each unplugged; tells the verdict as JSON.

`python -m tests.chaos.parted FOLDER`: enters a network of its own first.
"""

import json
import sys
import time
from pathlib import Path

from tools.chaos.clients import Load
from tools.chaos.verdict import Verdict, examine, sum_up, wait_until_settled
from tools.cluster import hosts
from tools.cluster.fleet import Fleet
from tools.cluster.hosts import Hosts

ENVIRONMENT = {
    "ALLOW_UNSAFE": "no_identity",
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
PARTED_SECONDS = 2.4
UNPLUGGED_SECONDS = 0.6


def main(folder: Path) -> Verdict:
    with Hosts(folder) as network, Fleet(folder, ENVIRONMENT, places=network.place) as fleet:
        began = time.monotonic()
        with Load(fleet.any_url, clients=6, rate=20, timeout=4) as load:
            for number, pairs in enumerate(rounds(list(fleet.programs))):
                for one, other in pairs:
                    network.cut(one, other, silent=number % 2 == 0)
                time.sleep(PARTED_SECONDS)
                for one, other in pairs:
                    network.heal(one, other)
            for name in fleet.programs:
                network.unplug(name)
                time.sleep(UNPLUGGED_SECONDS)
                network.plug(name)
            healed = time.monotonic()
        names = fleet.databases()
        settled = wait_until_settled(fleet.mongodb_uri, names["orders"], payments=names["payments"])
        report = examine(fleet.mongodb_uri, names["orders"], load.book, payments=names["payments"])
        fleet.kill()
    verdict = Verdict(0, healed - began, gave_up=load.gave_up, settled_after=settled - healed)
    return sum_up(verdict, report, load.book, [])


def rounds(names):
    """Every two of an odd number of names, in rounds of pairs that share none."""
    count = len(names)
    for number in range(count):
        yield [(names[number - step], names[(number + step) % count]) for step in range(1, count // 2 + 1)]


if __name__ == "__main__":
    if not hosts.enclosed():
        hosts.enclose([sys.executable, "-m", "tests.chaos.parted", *sys.argv[1:]])
    print(json.dumps(main(Path(sys.argv[1])).as_dict()))
