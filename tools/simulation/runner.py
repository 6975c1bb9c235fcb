"""Runs many seeds in several processes on one mongod, and makes a failing one shorter."""

import gc
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any

import pymongo
from pymongo import WriteConcern
from pymongo.read_concern import ReadConcern

from app.orders import documents as order_documents
from app.payments import documents as payment_documents
from app.payments import notification_repository
from app.payments.providers import ledger
from app.storage.mongodb import Database, Store
from tools.auditor.audit import STUCK, Violation
from tools.simulation import coverage
from tools.simulation.direct_client import DirectClient
from tools.simulation.faults import DatabaseFault, ProviderFault, WorldFault
from tools.simulation.mutations import MUTATIONS
from tools.simulation.world import COLLECTIONS, DAY, Plan, Result, World

PREPARE_SECONDS = 30.0
SHRINK_SECONDS = 60.0
GARBAGE_OBJECTS = 100_000
# Processes die above mongod, which never dies: what it has taken is there, and journaling would only take time.
NOT_DURABLE = {"write_concern": WriteConcern(w=1, j=False), "read_concern": ReadConcern("local")}
SCHEMAS = {
    "orders": (order_documents.SCHEMA, order_documents.INDEXES),
    "payments": (payment_documents.SCHEMA, payment_documents.INDEXES),
    "ledger": (ledger.SCHEMA, ledger.INDEXES),
    # By virtual time all notifications are old enough for the real database to remove them.
    "notifications": (notification_repository.SCHEMA, notification_repository.INDEXES[:1]),
}


@dataclass
class Summary:
    """All results together; `failures` are the results with violations."""

    seeds: int = 0
    orders: int = 0
    steps: int = 0
    virtual_days: float = 0.0
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Add one result."""
        self.seeds += 1
        self.orders += result.orders
        self.steps += result.steps
        self.virtual_days += result.virtual_seconds / DAY
        self.taken += result.taken
        if result.violations:
            self.failures.append(result)


class Simulator:
    """Runs plans one after the other, in a database of its own."""

    def __init__(self, uri: str, name: str, mutation: str = "") -> None:
        if mutation:
            MUTATIONS[mutation]()
        self._client = DirectClient(uri, tz_aware=True)
        self._database: Any = self._client.get_database(name, **NOT_DURABLE)
        for collection, (schema, indexes) in SCHEMAS.items():
            Store(self._database[collection], Database(uri, name), PREPARE_SECONDS).prepare(schema, list(indexes))

    def run(self, plan: Plan) -> Result:
        """Run one plan. An exception that no part handles is a violation."""
        world = self.world(plan)
        coverage.count_log(world.took)
        try:
            return world.run()
        except Exception as exc:
            return world.result([Violation(STUCK, "", f"the application raised {exc!r}")])

    def world(self, plan: Plan) -> World:
        """The world of a plan, with nothing stored yet."""
        for collection in COLLECTIONS:
            self._database[collection].delete_many({})
        return World(plan, self._database)

    def shrink(self, failed: Result) -> Result:
        """The shortest run of the same seed that was found to fail."""
        ends = time.monotonic() + SHRINK_SECONDS
        for change in _changes(failed.plan):
            if time.monotonic() > ends:
                break
            result = self.run(change(failed.plan))
            if result.violations:
                failed = result
        return failed

    def drop(self) -> None:
        """Remove the database."""
        self._database.command("dropDatabase")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _changes(plan: Plan) -> Iterator[Callable[[Plan], Plan]]:
    for crowd in (0, 10):
        yield lambda now, crowd=crowd: replace(now, crowd=min(now.crowd, crowd))
    for orders in range(1, plan.orders):
        yield lambda now, orders=orders: replace(now, orders=min(now.orders, orders))
    for fault in sorted({*WorldFault, *DatabaseFault, *ProviderFault}):
        yield lambda now, fault=fault: replace(now, without=now.without | {str(fault)})
    for share in (0.25, 0.5, 0.75, 0.9):
        steps = int(plan.steps * share)
        yield lambda now, steps=steps: replace(now, steps=min(now.steps, steps))


_simulator: Simulator | None = None


def _open(uri: str, prefix: str, mutation: str) -> None:
    global _simulator
    # Only the parent stops: it says what was covered by then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _simulator = Simulator(uri, f"{prefix}{os.getpid()}", mutation)
    # Modules and classes stay: the search for garbage passes them over, and comes less often than by default.
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def _run(plans: list[Plan]) -> list[Result]:
    assert _simulator
    return [_simulator.run(plan) for plan in plans]


def run_all(
    uri: str,
    plans: Iterable[Plan],
    jobs: int,
    *,
    mutation: str = "",
    until_failure: bool = False,
    progress: Callable[[Summary], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Run plans in `jobs` processes; end soon after the first failure with `until_failure`, and where it is `stopped`."""
    summary, batches = Summary(), _batches(plans, 10 if not until_failure else jobs)
    spawn, prefix = multiprocessing.get_context("spawn"), f"simulation_{os.getpid()}_"
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_open, initargs=(uri, prefix, mutation)) as pool:
        waiting = [pool.submit(_run, batch) for batch in batches]
        for done in as_completed(waiting):
            # A signal to the whole group ends mongod too: what was under way then says nothing.
            for result in [] if stopped() else done.result():
                summary.add(result)
            progress(summary)
            if stopped() or (until_failure and summary.failures):
                pool.shutdown(cancel_futures=True)
                break
    _drop_databases(uri, prefix)
    return summary


def _drop_databases(uri: str, prefix: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        for name in client.list_database_names():
            if name.startswith(prefix):
                client.drop_database(name)


def _batches(plans: Iterable[Plan], size: int) -> Iterator[list[Plan]]:
    batch: list[Plan] = []
    for plan in plans:
        batch.append(plan)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
