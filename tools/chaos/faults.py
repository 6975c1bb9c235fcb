"""Kinds of faults, their schedule by a seed, and the injector; `server_faults` and `cluster_run` say how each is done."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from tools.cluster.programs import StartupError


class FaultKind(StrEnum):
    """A kind of fault; the value is its name in reports."""

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
    OCCUPY_PORT = "kill -9 of mongod, and another program listens on its port"
    TIME_JUMP = "kill -9 of all workers, and stored times one to four days older"

    KILL_BROKER = "kill -9 of the broker"
    WIPE_BROKER = "kill -9 of the broker, and all it had is lost"
    KILL_GATEWAY = "kill -9 of a gateway"
    KILL_ORDERS = "kill -9 of an orders process"
    KILL_PAYMENTS = "kill -9 of a payments process"
    KILL_WEBHOOKS = "kill -9 of a webhooks process"
    PAUSE_ORDERS = "SIGSTOP of an orders process past its lease"
    PAUSE_PAYMENTS = "SIGSTOP of a payments process past its lease"
    PAUSE_WEBHOOKS = "SIGSTOP of a webhooks process"
    REPLACE_GATEWAY = "rolling restart of the gateways"
    REPLACE_ORDERS = "rolling restart of orders"
    REPLACE_PAYMENTS = "rolling restart of payments"
    REPLACE_WEBHOOKS = "rolling restart of webhooks"
    CUT_GATEWAY_BROKER = "network cut, a gateway from the broker"
    CUT_ORDERS_BROKER = "network cut, orders from the broker"
    CUT_PAYMENTS_BROKER = "network cut, payments from the broker"
    CUT_WEBHOOKS_BROKER = "network cut, webhooks from the broker"
    CUT_GATEWAY_DATABASE = "network cut, a gateway from mongod"
    CUT_ORDERS_DATABASE = "network cut, orders from mongod"
    CUT_PAYMENTS_DATABASE = "network cut, payments from mongod"
    CUT_WEBHOOKS_DATABASE = "network cut, webhooks from mongod"
    DISCONNECT_HOST = "a host's network interface down"


@dataclass(frozen=True)
class InjectedFault:
    """A fault that was injected at a time of the monotonic clock."""

    kind: FaultKind
    at: float


def fault_schedule(
    random: Random, gap: tuple[float, float], kinds: Sequence[FaultKind], first: int
) -> Iterator[tuple[float, FaultKind]]:
    """Yields without end how many seconds to wait, within `gap`, and the fault to inject then.

    The `first` kinds come in their order, the rest shuffled; each further round is shuffled as a whole.
    """
    rest = list(kinds[first:])
    random.shuffle(rest)
    round_of_kinds = [*kinds[:first], *rest]
    while True:
        for kind in round_of_kinds:
            yield random.uniform(*gap), kind
        random.shuffle(round_of_kinds)


class FaultInjector:
    """Injects faults one after the other; a lasting fault continues beside the next ones and is undone when it is due.

    `actions` has the function that injects each kind; it returns whether it did. `failed_recoveries` names the faults from
    which a program did not come back.
    """

    def __init__(
        self, random: Random, actions: Mapping[FaultKind, Callable[[], bool]], kinds: Sequence[FaultKind], first: int
    ) -> None:
        self._random = random
        self._actions = actions
        self._kinds = kinds
        self._first = first
        self._active: list[tuple[float, Callable[[], object]]] = []
        self.injected: list[InjectedFault] = []
        self.failed_recoveries: list[str] = []
        self.last = self._began = time.monotonic()

    def run(self, seconds: float, gap: tuple[float, float]) -> None:
        """Injects faults for `seconds`, and at least the `first` kinds; then undoes those that still last."""
        deadline = time.monotonic() + seconds
        try:
            schedule = fault_schedule(self._random, gap, self._kinds, self._first)
            for number, (wait, kind) in enumerate(schedule):
                if number >= self._first and time.monotonic() + wait >= deadline:
                    break
                self.wait(wait)
                self.inject(kind)
            self.wait(max(0.0, deadline - time.monotonic()))
        finally:
            self.undo_all()

    def inject(self, kind: FaultKind) -> None:
        """Injects one fault."""
        self.mark_begin()
        try:
            done = self._actions[kind]()
        except StartupError as exc:
            self.failed_recoveries.append(f"{kind}: {exc}")
            done = True
        if done:
            self.injected.append(InjectedFault(kind, self._began))
            self.last = time.monotonic()

    def mark_begin(self) -> None:
        """Sets the fault's time to now; an action calls it after its preparations."""
        self._began = time.monotonic()

    def undo_after(self, seconds: float, undo: Callable[[], object]) -> None:
        """Calls `undo` in `seconds`, or earlier if all faults are undone."""
        self._active.append((time.monotonic() + seconds, undo))

    def wait(self, seconds: float) -> None:
        """Waits, and undoes faults that are due meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._undo(time.monotonic())
            time.sleep(min(0.1, left))

    def undo_all(self) -> None:
        """Undoes all lasting faults now."""
        self._undo(float("inf"))

    def _undo(self, until: float) -> None:
        due = [one for one in self._active if one[0] <= until]
        self._active = [one for one in self._active if one[0] > until]
        for _, undo in due:
            undo()
            self.last = time.monotonic()
