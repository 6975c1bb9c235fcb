"""What goes wrong, and when: a schedule made from a seed. server_faults.py has it for one server, fleet_run.py for a fleet."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from tools.cluster.servers import NotReady


class Kind(StrEnum):
    """One way to be cruel."""

    KILL_WORKER = "kill -9 of a worker"
    KILL_DATABASE = "kill -9 of mongod"
    KILL_SERVER = "kill -9 of the whole server"
    PAUSE_WORKER = "SIGSTOP of a worker past its lease"
    END_WORKER = "SIGTERM of a worker"
    RELOAD = "HUP of the server"
    KILL_LOG_READER = "kill -9 of the log's reader until the next start"
    STOP_LOG_READER = "SIGSTOP of the log's reader until the next start"
    FILL_LOG_DISK = "the log's disk is full"
    FILL_DATA_DISK = "mongod's disk is full"
    END_THREAD = "SystemExit in a background thread of each worker"
    KILL_SUPERVISOR = "kill -9 of the supervisor of mongod"
    KILL_SUPERVISOR_AND_DATABASE = "kill -9 of mongod and its supervisor"
    TAKE_PORT = "kill -9 of mongod, and its port is taken"
    TIME_JUMP = "kill -9 of all workers, and stored times a day or more older"

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


@dataclass(frozen=True)
class Strike:
    """One fault that was done, by the monotonic clock."""

    kind: Kind
    at: float


def schedule(
    random: Random, gap: tuple[float, float], kinds: Sequence[Kind], first: int
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

    `ways` tells how each is done: the way tells whether it was. `broken` names those that something did not come back
    from.
    """

    def __init__(
        self, random: Random, ways: Mapping[Kind, Callable[[], bool]], kinds: Sequence[Kind], first: int
    ) -> None:
        self._random = random
        self._ways = ways
        self._kinds = kinds
        self._first = first
        self._lasting: list[tuple[float, Callable[[], object]]] = []
        self.done: list[Strike] = []
        self.broken: list[str] = []
        self.last = self._began = time.monotonic()

    def run(self, seconds: float, gap: tuple[float, float]) -> None:
        """Follow the schedule for so long, and until the first kinds were done; then end what is still going on."""
        ends = time.monotonic() + seconds
        try:
            following = schedule(self._random, gap, self._kinds, self._first)
            for number, (wait, kind) in enumerate(following):
                if number >= self._first and time.monotonic() + wait >= ends:
                    break
                self.wait(wait)
                self.strike(kind)
            self.wait(max(0.0, ends - time.monotonic()))
        finally:
            self.undo_all()

    def strike(self, kind: Kind) -> None:
        """Do one."""
        self.begins()
        try:
            done = self._ways[kind]()
        except NotReady as exc:
            self.broken.append(f"{kind}: {exc}")
            done = True
        if done:
            self.done.append(Strike(kind, self._began))
            self.last = time.monotonic()

    def begins(self) -> None:
        """Note that the fault begins now: what was done before only prepared it."""
        self._began = time.monotonic()

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
