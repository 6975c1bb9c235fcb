"""What goes wrong, and when: a schedule made from a seed. Here for one server, in split.py for a fleet."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

    KILL_BROKER = "kill -9 of the broker"
    WIPE_BROKER = "kill -9 of the broker, and all it had is lost"
    KILL_GATEWAY = "kill -9 of a gateway"
    KILL_ORDERS = "kill -9 of an orders process"
    KILL_PAYMENTS = "kill -9 of a payments process"
    PAUSE_ORDERS = "SIGSTOP of an orders process past its lease"
    PAUSE_PAYMENTS = "SIGSTOP of a payments process past its lease"
    REPLACE_GATEWAY = "rolling restart of the gateways"
    REPLACE_ORDERS = "rolling restart of orders"
    REPLACE_PAYMENTS = "rolling restart of payments"
    CUT_GATEWAY_BROKER = "network cut, a gateway from the broker"
    CUT_ORDERS_BROKER = "network cut, orders from the broker"
    CUT_PAYMENTS_BROKER = "network cut, payments from the broker"
    CUT_GATEWAY_DATABASE = "network cut, a gateway from mongod"
    CUT_ORDERS_DATABASE = "network cut, orders from mongod"
    CUT_PAYMENTS_DATABASE = "network cut, payments from mongod"
    UNPLUG = "a host's link down"


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


def schedule(
    random: Random, gap: tuple[float, float], kinds: Sequence[Kind] = ROUND, first: int = FIRST
) -> Iterator[tuple[float, Kind]]:
    """Without end: how many seconds to wait, from shortest to longest `gap`, then what to do."""
    rest = list(kinds[first:])
    random.shuffle(rest)
    following = [*kinds[:first], *rest]
    while True:
        for kind in following:
            yield random.uniform(*gap), kind
        random.shuffle(following)


class Faults:
    """Does the faults, one after the other; what lasts goes on beside the next ones, and is undone in its time.

    `ways` tells how each is done: the way tells whether it was.
    """

    def __init__(
        self, random: Random, ways: Mapping[Kind, Callable[[], bool]], kinds: Sequence[Kind], first: int = FIRST
    ) -> None:
        self._random = random
        self._ways = ways
        self._kinds = kinds
        self._first = first
        self._lasting: list[tuple[float, Callable[[], object]]] = []
        self.done: list[Strike] = []
        self.last = time.monotonic()

    def run(self, seconds: float, gap: tuple[float, float]) -> None:
        """Follow the schedule for so long, then end what is still going on."""
        ends = time.monotonic() + seconds
        try:
            for wait, kind in schedule(self._random, gap, self._kinds, self._first):
                if time.monotonic() + wait >= ends:
                    break
                self.wait(wait)
                self.strike(kind)
            self.wait(max(0.0, ends - time.monotonic()))
        finally:
            self.undo_all()

    def strike(self, kind: Kind) -> None:
        """Do one."""
        at = time.monotonic()
        if self._ways[kind]():
            self.done.append(Strike(kind, at))
            self.last = time.monotonic()

    def lasts(self, seconds: float, undo: Callable[[], object]) -> None:
        """Have what was done undone in so many seconds."""
        self._lasting.append((time.monotonic() + seconds, undo))

    def wait(self, seconds: float) -> None:
        """Wait, and undo what has lasted long enough."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self._undo(time.monotonic())
            time.sleep(min(0.1, left))

    def undo_all(self) -> None:
        """Undo whatever is still going on."""
        self._undo(float("inf"))

    def _undo(self, until: float) -> None:
        due = [one for one in self._lasting if one[0] <= until]
        self._lasting = [one for one in self._lasting if one[0] > until]
        for _, undo in due:
            undo()
            self.last = time.monotonic()


class ServerFaults(Faults):
    """Those of one server and its database; a paused worker stays paused `pause` seconds."""

    def __init__(self, server: Server, base: Base, random: Random, pause: float) -> None:
        ways = {
            Kind.KILL_WORKER: lambda: hurt(self._victim(), signal.SIGKILL),
            Kind.END_WORKER: lambda: hurt(self._victim(), signal.SIGTERM),
            Kind.PAUSE_WORKER: self._pause_worker,
            Kind.RELOAD: self._reload,
            Kind.KILL_SERVER: self._kill_server,
            Kind.KILL_DATABASE: self._kill_database,
        }
        super().__init__(random, ways, ROUND)
        self._server = server
        self._base = base
        self._pause = pause
        self._paused: psutil.Process | None = None

    def _victim(self) -> psutil.Process:
        workers = self._server.workers()
        return self._random.choice([worker for worker in workers if worker != self._paused] or workers)

    def _pause_worker(self) -> bool:
        if self._paused:
            return False
        self._paused = self._victim()
        self.lasts(self._pause, self._resume)
        return hurt(self._paused, signal.SIGSTOP)

    def _resume(self) -> None:
        if self._paused:
            hurt(self._paused, signal.SIGCONT)
        self._paused = None

    def _reload(self) -> bool:
        self._server.reload()
        return True

    def _kill_server(self) -> bool:
        self._server.kill()
        self._server.start()
        return True

    def _kill_database(self) -> bool:
        self._base.kill()
        self.wait(self._random.uniform(0.0, 1.5))
        self._base.restart()
        return True
