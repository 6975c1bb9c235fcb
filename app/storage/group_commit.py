"""Group commit: concurrent calls share one database command, for writes and for reads.

Without load a call runs at once. Calls that arrive while a command runs form the next batch, so batches grow with
the load while the latency stays that of one or two commands. A call joins only a batch that starts after it arrived,
so a read sees every write that finished before the call.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.contracts.base import Unavailable
from app.observability import metrics
from app.system import SYSTEM, System

# After a batch of so many calls the next one waits LINGER_SECONDS for more.
LARGE_BATCH = 3
LINGER_SECONDS = 0.003

In = TypeVar("In")
Out = TypeVar("Out")


class _Call(Generic[In, Out]):
    __slots__ = ("done", "is_leader", "item", "outcome")

    def __init__(self, item: In) -> None:
        self.item = item
        self.done = threading.Event()
        self.is_leader = False
        # Kept if the command is interrupted, so that no caller sees a success that did not happen.
        self.outcome: Out | Exception = Unavailable("the command was interrupted", retry_after=1)


class GroupCommit(Generic[In, Out]):
    """Runs `command` on batches of at most `limit` items; it returns a result or an exception for each, in order.

    The first caller of a batch is its leader: its thread runs the command for all of them, then passes the lead to the
    next waiting caller. `name` is the operation in the metrics. An exception that `command` itself raises fails the
    callers of that batch only.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[list[In]], Sequence[Out | Exception]],
        limit: int = 128,
        system: System = SYSTEM,
    ) -> None:
        self._system = system
        self._sizes = metrics.batch_sizes.labels(name)
        self._command = command
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[_Call[In, Out]] = deque()
        self._has_leader = False
        self._linger = False

    def __call__(self, item: In, timeout: float) -> Out:
        """The result for `item`. Raises its exception, or Unavailable if no batch took it within `timeout` seconds."""
        call: _Call[In, Out] = _Call(item)
        with self._lock:
            call.is_leader = not self._has_leader
            self._has_leader = True
            if not call.is_leader:
                self._waiting.append(call)
        if not call.is_leader:
            try:
                self._wait(call, timeout)
            except BaseException:
                self._withdraw(call)
                raise
        if call.is_leader:
            self._run_batch(call)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome

    def _wait(self, call: _Call[In, Out], timeout: float) -> None:
        if self._system.wait(call.done, timeout):
            return
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                call.outcome = Unavailable("too many requests wait for the database", retry_after=1)
                return
        # A running command has this call in its batch; the command has a deadline of its own.
        self._system.wait(call.done)

    def _withdraw(self, call: _Call[In, Out]) -> None:
        """Remove a call whose thread was killed while it waited; if it was to lead, pass the lead on."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
        if call.is_leader:
            self._pass_lead()

    def _run_batch(self, leader: _Call[In, Out]) -> None:
        # Lets callers that are ready join. After a large batch, more of them are about to arrive.
        self._system.sleep(LINGER_SECONDS if self._linger else 0)
        with self._lock:
            batch = [leader]
            while self._waiting and len(batch) < self._limit:
                batch.append(self._waiting.popleft())
        self._linger = len(batch) >= LARGE_BATCH
        self._sizes.observe(len(batch))
        try:
            for call, outcome in zip(batch, self._command([call.item for call in batch]), strict=True):
                call.outcome = outcome
        except Exception as exc:
            if isinstance(exc, Unavailable):
                # Fail the waiting calls too: their own commands would fail as well, and later than their timeout.
                batch += self._remove_waiting()
            for call in batch:
                call.outcome = exc
        finally:
            leader.is_leader = False
            self._pass_lead()
            for call in batch[1:]:
                call.done.set()

    def _remove_waiting(self) -> list[_Call[In, Out]]:
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting

    def _pass_lead(self) -> None:
        with self._lock:
            if self._waiting:
                successor = self._waiting.popleft()
                successor.is_leader = True
                successor.done.set()
            else:
                self._has_leader = False
