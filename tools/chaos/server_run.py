"""A chaos run against one server with its database, as `make run` starts it.

The provider fails, is slow or times out in a fifth of its calls to the very end, and its idempotency keys expire. Its notifications
get lost, doubled, late and out of order. What nobody has told of then is found by a reconciliation, as in production. Webhooks go
to receivers most of which fail.
"""

import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

from app.storage.embedded_mongod import Mongod
from tools.chaos.clients import LoadGenerator
from tools.chaos.faults import FaultKind
from tools.chaos.final_state import read_final_state
from tools.chaos.notifier import UnreliableNotifier
from tools.chaos.plan import ENVIRONMENT, LEASE, Plan
from tools.chaos.reconciling import reconcile
from tools.chaos.server_faults import ServerFaultInjector
from tools.chaos.target import Target
from tools.chaos.verdict import Verdict, examine, summarize, wait_until_settled, wait_until_unchanging
from tools.chaos.webhook_receivers import WebhookReceivers

DATABASE = "orderflow"


def run(plan: Plan, folder: Path) -> Verdict:
    """Runs the plan with all files in `folder`. Call it from the main thread."""
    verdict = Verdict(plan.seed, plan.duration)
    environ = {**ENVIRONMENT, **plan.environment, "MONGODB_DATABASE": DATABASE, "ALLOW_UNSAFE": "webhook_http"}
    target = Target(folder, environ, plan.root, small_data_disk=FaultKind.FILL_DATA_DISK in plan.kinds)
    random = Random(plan.seed)  # noqa: S311 - a simulation
    random_notices = Random(f"{plan.seed}-notices")  # noqa: S311 - a simulation
    faults = ServerFaultInjector(target, DATABASE, random, LEASE + 1.5, plan.kinds, plan.first)
    try:
        with WebhookReceivers() as receivers, target:
            receivers.add_endpoints(target.url)
            notifier = UnreliableNotifier(
                lambda: target.url, lambda: target.mongodb_uri, DATABASE, random_notices, plan.notifications_lost
            )
            notifier.start()
            with LoadGenerator(
                target.url, clients=plan.clients, rate=plan.rate, seed=plan.seed, wait=True, waiting_products=True
            ) as load:
                faults.run(plan.duration, plan.gap)
            wait_until_unchanging(target.mongodb_uri, DATABASE)
            verdict.settled_after = wait_until_settled(target.mongodb_uri, DATABASE) - faults.last
            load.refund_recent()
            verdict.gave_up = load.gave_up
            wait_until_unchanging(target.mongodb_uri, DATABASE)
            notifier.stop()
            wait_until_settled(target.mongodb_uri, DATABASE)
            verdict.notifications = dict(notifier.counts)
            try:
                verdict.reconciled = reconcile(target.mongodb_uri, DATABASE, environ)
            except subprocess.CalledProcessError as exc:
                faults.failed_recoveries.append(f"the reconciliation ended with {exc.returncode}")
            receivers.wait_until_told(target.mongodb_uri, DATABASE)
            final = read_final_state(lambda: target.url, target.mongodb_uri, DATABASE, load.record.acknowledged)
        # The judgement reads the data on the disk, in whatever state the server's own mongod is.
        with Mongod(target.data) as mongod:
            report = examine(mongod.uri, DATABASE, load.record, aged=faults.aged, final=final)
        report = replace(report, auditor=[*report.auditor, *receivers.violations(final, faults.aged)])
        verdict.webhooks, verdict.webhook_delay = receivers.counts, receivers.delay
    finally:
        target.unmount()
    verdict.threads, verdict.failed_recoveries = dict(Counter(target.ended_threads())), faults.failed_recoveries
    return summarize(verdict, report, load.record, faults.injected)
