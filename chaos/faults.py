"""What goes wrong, and when: a schedule made from a seed."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

import psutil

from chaos.servers import Base, Server, hurt


class Kind(StrEnum):
    """One way to be cruel."""

    KILL_WORKER = "kill -9 of a worker"
    KILL_DATABASE = "kill -9 of mongod"
    KILL_SERVER = "kill -9 of the whole server"
    PAUSE_WORKER = "SIGSTOP of a worker past its lease"
    END_WORKER = "SIGTERM of a worker"
    RELOAD = "HUP of the server"


# What one round holds. The first round begins with the first two, so that even a short run has both.
ROUND = (
    Kind.KILL_WORKER,
    Kind.KILL_DATABASE,
    Kind.PAUSE_WORKER,
    Kind.KILL_WORKER,
    Kind.KILL_SERVER,
    Kind.KILL_WORKER,
    Kind.END_WORKER,
    Kind.KILL_WORKER,
    Kind.RELOAD,
)
FIRST = 2


@dataclass(frozen=True)
class Strike:
    """One fault that was done, by the monotonic clock."""

    kind: Kind
    at: float


def schedule(random: Random, gap: tuple[float, float]) -> Iterator[tuple[float, Kind]]:
    """Without end: how many seconds to wait, from shortest to longest `gap`, then what to do."""
    kinds = list(ROUND)
    rest = kinds[FIRST:]
    random.shuffle(rest)
    kinds[FIRST:] = rest
    while True:
        for kind in kinds:
            yield random.uniform(*gap), kind
        random.shuffle(kinds)


class Faults:
    """Does the faults, one after the other; a paused worker stays paused meanwhile, `pause` seconds long."""

    def __init__(self, server: Server, base: Base, random: Random, pause: float) -> None:
        self._server = server
        self._base = base
        self._random = random
        self._pause = pause
        self._paused: tuple[psutil.Process, float] | None = None
        self.done: list[Strike] = []
        self.last = time.monotonic()
        self._ways: dict[Kind, Callable[[], bool]] = {
            Kind.KILL_WORKER: lambda: self._hurt(signal.SIGKILL),
            Kind.END_WORKER: lambda: self._hurt(signal.SIGTERM),
            Kind.PAUSE_WORKER: self._stop_worker,
            Kind.RELOAD: self._reload,
            Kind.KILL_SERVER: self._kill_server,
            Kind.KILL_DATABASE: self._kill_database,
        }

    def run(self, seconds: float, gap: tuple[float, float]) -> None:
        """Follow the schedule for so long, then end what is still going on."""
        ends = time.monotonic() + seconds
        try:
            for wait, kind in schedule(self._random, gap):
                if time.monotonic() + wait >= ends:
                    break
                self._wait(wait)
                at = time.monotonic()
                if self._ways[kind]():
                    self.done.append(Strike(kind, at))
                    self.last = time.monotonic()
            self._wait(max(0.0, ends - time.monotonic()))
        finally:
            self.resume()

    def resume(self) -> None:
        """Let a paused worker go on."""
        if self._paused:
            worker, _ = self._paused
            self._paused = None
            if hurt(worker, signal.SIGCONT):
                self.last = time.monotonic()

    def _wait(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            if self._paused and time.monotonic() >= self._paused[1]:
                self.resume()
            time.sleep(min(0.1, left))

    def _hurt(self, number: signal.Signals) -> bool:
        return hurt(self._victim(), number)

    def _victim(self) -> psutil.Process:
        paused = self._paused[0] if self._paused else None
        return self._random.choice([worker for worker in self._server.workers() if worker != paused] or [paused])

    def _stop_worker(self) -> bool:
        if self._paused:
            return False
        worker = self._victim()
        self._paused = (worker, time.monotonic() + self._pause)
        return hurt(worker, signal.SIGSTOP)

    def _reload(self) -> bool:
        self._server.reload()
        return True

    def _kill_server(self) -> bool:
        self._server.kill()
        self._paused = None
        self._server.start()
        return True

    def _kill_database(self) -> bool:
        self._base.kill()
        self._wait(self._random.uniform(0.0, 1.5))
        self._base.restart()
        return True
