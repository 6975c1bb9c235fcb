"""Runs cells concurrently, each in a database of its own.

A cell is two processes, forked from a server that has imported only the application: one plays the scenario and dies at
the armed point by kill -9. Then all leased work becomes due, and the other one takes over.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import psutil
from pymongo import MongoClient

from app.main import create_app, runtime
from tests.chaos.crash.cells import KILL, TIMEOUT_SECONDS, Cell, settings_for
from tests.chaos.crash.judge import Stored, deliveries_of, let_time_pass
from tests.chaos.crash.processes import COLLECTIONS, successor, victim
from tests.chaos.crash.scenarios import SCENARIOS
from tests.chaos.crash.webhook_sink import WebhookSink, told_twice
from tools.auditor.reading import final_order
from tools.auditor.webhooks import audit_webhooks

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.chaos.crash.runner"])
# multiprocessing polls all its children at every start: never while another thread waits for one.
children_lock = threading.Lock()
compose_lock = threading.Lock()


@dataclass
class ProcessOutput:
    """The messages of a process until its end, as pairs of kind and text."""

    messages: list[tuple[str, str]] = field(default_factory=list)
    exitcode: int | None = None

    def of(self, kind: str) -> list[str]:
        return [text for message_kind, text in self.messages if message_kind == kind]


class Process:
    """A forked process and its messages."""

    def __init__(self, target: Callable[..., None], cell: Cell, *more: Any) -> None:
        self._pipe, other = forks.Pipe(duplex=False)
        self._process = forks.Process(target=target, args=(cell, other, *more), daemon=True)
        with children_lock:
            self._process.start()
        other.close()
        self.output = ProcessOutput()

    def until(self, kind: str = "") -> ProcessOutput:
        """Reads messages until the first of this kind, or until the end of the process."""
        try:
            while not kind or not self.output.of(kind):
                assert self._pipe.poll(3 * TIMEOUT_SECONDS), (
                    f"a process hangs; its last messages: {self.output.messages[-3:]}"
                )
                self.output.messages.append(self._pipe.recv())
        except EOFError:
            with children_lock:
                self._process.join(TIMEOUT_SECONDS)
                self.output.exitcode = self._process.exitcode
            self._pipe.close()
        return self.output

    def wait_until_stopped(self) -> None:
        """Waits until SIGSTOP has reached it."""
        ends = time.monotonic() + TIMEOUT_SECONDS
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < ends, "a process does not stop"
            time.sleep(0.001)

    def resume(self) -> None:
        """Continues it after SIGSTOP."""
        os.kill(self._process.pid, signal.SIGCONT)


class CrashRunner:
    """Runs cells concurrently, each in a database of its own."""

    CONCURRENT_CELLS = 2

    def __init__(self, uri: str, mongo: MongoClient) -> None:
        self._uri = uri
        self._mongo = mongo
        self._sink = WebhookSink()
        self._databases = queue.Queue[str]()
        self._names = [f"crash_{uuid4().hex}" for _ in range(self.CONCURRENT_CELLS)]
        for name in self._names:
            self._databases.put(name)
            self._prepare(name)

    def close(self) -> None:
        """Drops all databases, and ends the receiver of webhooks."""
        self._sink.close()
        for name in self._names:
            self._mongo.drop_database(name)

    def points(self, scenario: str, variant: str = "", *, swept: bool = False, late: float = 0.0) -> list[str]:
        """Plays a scenario once and returns its points; it must end without an error."""
        with self._database(fresh=SCENARIOS[scenario].fresh) as name:
            cell = Cell(scenario=scenario, uri=self._uri, database=name, variant=variant, swept=swept, late=late)
            cell = replace(cell, receiver=self._sink.url(name))
            seen = Process(victim, cell).until()
        assert not seen.of("broken"), seen.of("broken")[0]
        assert seen.exitcode == 0
        points = seen.of("point")
        return [point for point in points if _steady(point)] if SCENARIOS[scenario].threads else points

    def violations(self, cells: Sequence[Cell]) -> list[str]:
        """Runs the cells and returns all violations."""
        with ThreadPoolExecutor(self.CONCURRENT_CELLS) as pool:
            return [violation for found in pool.map(self._play, cells) for violation in found]

    def _play(self, cell: Cell) -> list[str]:
        with self._database(fresh=SCENARIOS[cell.scenario].fresh) as name:
            cell = replace(cell, uri=self._uri, database=name, receiver=self._sink.url(name))
            found = self._killed(cell) if cell.death == KILL else self._stopped(cell)
            if SCENARIOS[cell.scenario].tells:
                found += self._telling_violations(name)
            return [f"{cell.name}: {violation}" for violation in found]

    def _telling_violations(self, database: str) -> list[str]:
        """Every step of every order must have reached the endpoint, each under one webhook-id."""
        stored = Stored.of(self._mongo[database])
        final = {str(order["_id"]): final_order(order, order["events"]) for order in stored.orders.find()}
        found = audit_webhooks(self._sink.take(database), final, ["the endpoint"])
        return [*(f"the auditor: {violation}" for violation in found), *told_twice(deliveries_of(stored))]

    def _killed(self, cell: Cell) -> list[str]:
        seen = Process(victim, cell).until()
        if seen.exitcode != -signal.SIGKILL or seen.of("fired") != [cell.point]:
            return [f"the point was not reached; {seen.messages[-2:]}"]
        return self._taken_over(cell, seen.of("acknowledged"))

    def _stopped(self, cell: Cell) -> list[str]:
        """The process is stopped past its leases, another one does its work and a client cancels; then it continues."""
        process = Process(victim, cell)
        seen = process.until("fired")
        if not seen.of("fired"):
            return [f"the point was not reached; {seen.messages[-2:]}"]
        process.wait_until_stopped()
        acknowledged = seen.of("acknowledged")
        found = self._taken_over(cell, [*{*acknowledged}], "cancel")
        process.resume()
        process.until()
        return found + self._taken_over(cell, [*{*seen.of("acknowledged")}], "look")

    def _taken_over(self, cell: Cell, acknowledged: Sequence[str], meanwhile: str = "") -> list[str]:
        let_time_pass(Stored.of(self._mongo[cell.database]))
        seen = Process(successor, cell, acknowledged, meanwhile).until()
        return seen.of("violation") if seen.of("done") else [*seen.of("violation"), "the new process died"]

    @contextmanager
    def _database(self, *, fresh: bool) -> Iterator[str]:
        name = self._databases.get(timeout=60)
        try:
            if fresh:
                self._mongo.drop_database(name)
            yield name
        finally:
            self._sink.take(name)
            for collection in COLLECTIONS[:-1]:
                self._mongo[name][collection].delete_many({})
            if fresh:
                self._prepare(name)
            self._databases.put(name)

    def _prepare(self, name: str) -> None:
        # Werkzeug compiles its routes, which fails in two threads at once on Python 3.11.
        with compose_lock:
            app = create_app(settings_for(Cell(scenario="", uri=self._uri, database=name), {}))
        runtime(app).prepare()
        runtime(app).stop()


def _steady(point: str) -> bool:
    """Whether a point comes in every run, whatever the order of the threads.

    The number of polling reads varies, the live feed may write after the end, and an early payment event saves the write of
    the acknowledgement.
    """
    _, what, number = point.split(maxsplit=2)
    if what.startswith("stages.") or what == "orders.acknowledge_all":
        return False
    return number == "#1" or (number == "#2" and what == "payments.update")
