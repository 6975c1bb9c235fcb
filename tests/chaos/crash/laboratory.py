"""Runs cells at the same time, each in a database of its own.

A cell is two processes, forked from a server that has imported the application and nothing else: one plays the
scenario and ends at the armed point, as hard as kill -9. Then whatever is leased falls due, and the other takes over.
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
from tests.chaos.crash.cells import KILL, PATIENCE, Cell, settings_for
from tests.chaos.crash.judge import Stored, let_time_pass
from tests.chaos.crash.processes import COLLECTIONS, successor, victim
from tests.chaos.crash.scenarios import SCENARIOS

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.chaos.crash.laboratory"])
# multiprocessing looks after all its children at every start: never while another thread waits for one.
family = threading.Lock()
composing = threading.Lock()


@dataclass
class Seen:
    """What a process told before it ended."""

    told: list[tuple[str, str]] = field(default_factory=list)
    exitcode: int | None = None

    def of(self, kind: str) -> list[str]:
        return [what for one, what in self.told if one == kind]


class Process:
    """A forked process and what it tells."""

    def __init__(self, target: Callable[..., None], cell: Cell, *more: Any) -> None:
        self._pipe, other = forks.Pipe(duplex=False)
        self._process = forks.Process(target=target, args=(cell, other, *more), daemon=True)
        with family:
            self._process.start()
        other.close()
        self.seen = Seen()

    def until(self, kind: str = "") -> Seen:
        """What it told until the first of this kind, or until its end."""
        try:
            while not kind or not self.seen.of(kind):
                assert self._pipe.poll(3 * PATIENCE), f"a process hangs; it told {self.seen.told[-3:]}"
                self.seen.told.append(self._pipe.recv())
        except EOFError:
            with family:
                self._process.join(PATIENCE)
                self.seen.exitcode = self._process.exitcode
            self._pipe.close()
        return self.seen

    def wait_until_stopped(self) -> None:
        """Until SIGSTOP has reached it."""
        ends = time.monotonic() + PATIENCE
        while psutil.Process(self._process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < ends, "a process does not stop"
            time.sleep(0.001)

    def go_on(self) -> None:
        """After SIGSTOP."""
        os.kill(self._process.pid, signal.SIGCONT)


class Laboratory:
    """Runs cells side by side, each on a database of its own."""

    SIDE_BY_SIDE = 6

    def __init__(self, uri: str, mongo: MongoClient) -> None:
        self._uri = uri
        self._mongo = mongo
        self._databases = queue.Queue[str]()
        self._names = [f"crash_{uuid4().hex}" for _ in range(self.SIDE_BY_SIDE)]
        for name in self._names:
            self._databases.put(name)
            self._prepare(name)

    def close(self) -> None:
        """Nothing stays."""
        for name in self._names:
            self._mongo.drop_database(name)

    def points(self, scenario: str, sabotage: str = "", *, swept: bool = False, late: float = 0.0) -> list[str]:
        """Every point of a scenario, found by playing it once; it must end well."""
        with self._database(fresh=SCENARIOS[scenario].fresh) as name:
            cell = Cell(scenario=scenario, uri=self._uri, database=name, sabotage=sabotage, swept=swept, late=late)
            seen = Process(victim, cell).until()
        assert not seen.of("broken"), seen.of("broken")[0]
        assert seen.exitcode == 0
        points = seen.of("point")
        return [point for point in points if _steady(point)] if SCENARIOS[scenario].threads else points

    def troubles(self, cells: Sequence[Cell]) -> list[str]:
        """What was wrong after each of the cells, none being the hope."""
        with ThreadPoolExecutor(self.SIDE_BY_SIDE) as hands:
            return [trouble for found in hands.map(self._play, cells) for trouble in found]

    def _play(self, cell: Cell) -> list[str]:
        with self._database(fresh=SCENARIOS[cell.scenario].fresh) as name:
            cell = replace(cell, uri=self._uri, database=name)
            found = self._killed(cell) if cell.death == KILL else self._stopped(cell)
            return [f"{cell.name}: {trouble}" for trouble in found]

    def _killed(self, cell: Cell) -> list[str]:
        seen = Process(victim, cell).until()
        if seen.exitcode != -signal.SIGKILL or seen.of("fired") != [cell.point]:
            return [f"the point never came; {seen.told[-2:]}"]
        return self._taken_over(cell, seen.of("acknowledged"))

    def _stopped(self, cell: Cell) -> list[str]:
        """The process hangs past its leases, others do its work and a client cancels; then it goes on."""
        process = Process(victim, cell)
        seen = process.until("fired")
        if not seen.of("fired"):
            return [f"the point never came; {seen.told[-2:]}"]
        process.wait_until_stopped()
        acknowledged = seen.of("acknowledged")
        found = self._taken_over(cell, [*{*acknowledged}], "cancel")
        process.go_on()
        process.until()
        return found + self._taken_over(cell, [*{*seen.of("acknowledged")}], "look")

    def _taken_over(self, cell: Cell, acknowledged: Sequence[str], meanwhile: str = "") -> list[str]:
        let_time_pass(Stored.of(self._mongo[cell.database]))
        seen = Process(successor, cell, acknowledged, meanwhile).until()
        return seen.of("trouble") if seen.of("done") else [*seen.of("trouble"), "the new process died"]

    @contextmanager
    def _database(self, *, fresh: bool) -> Iterator[str]:
        name = self._databases.get(timeout=60)
        try:
            if fresh:
                self._mongo.drop_database(name)
            yield name
        finally:
            for collection in COLLECTIONS[:-1]:
                self._mongo[name][collection].delete_many({})
            if fresh:
                self._prepare(name)
            self._databases.put(name)

    def _prepare(self, name: str) -> None:
        # Werkzeug compiles its routes, and Python 3.11 does not bear that in two threads at once.
        with composing:
            app = create_app(settings_for(Cell(scenario="", uri=self._uri, database=name), {}))
        runtime(app).prepare()
        runtime(app).stop()


def _steady(point: str) -> bool:
    """Whether a point comes in every run, however the threads meet.

    Looks come as often as they like, the feed, which is on no order's way, may hold its lines beyond the end, and news
    that comes soon saves orders a write of its own for the acknowledgement.
    """
    _, what, number = point.split(maxsplit=2)
    if what.startswith("steps.") or what == "orders.acknowledge_all":
        return False
    return number == "#1" or (number == "#2" and what == "payments.update")
