"""Many concurrent callers, one database command: group commit and batched reads.

Idle, a caller waits for nobody. While a command is under way the callers that arrive form the next batch, so the
batch grows with the load and latency stays that of one or two commands. A call joins only a batch that starts after
it arrived, hence a read sees whatever was written before it was asked.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.contracts.base import Unavailable
from app.observability import metrics

CROWD = 3
LINGER_SECONDS = 0.003

In = TypeVar("In")
Out = TypeVar("Out")


class _Call(Generic[In, Out]):
    __slots__ = ("done", "item", "leads", "outcome")

    def __init__(self, item: In) -> None:
        self.item = item
        self.done = threading.Event()
        self.leads = False
        # Stands until a command has really run: nobody is told of a success that did not happen.
        self.outcome: Out | Exception = Unavailable("the command was broken off", retry_after=1)


class GroupCommit(Generic[In, Out]):
    """Runs `command` on batches of at most `limit` items; it returns a result or an exception for each, in order.

    `what` names it in the metrics.

    An exception that `command` itself raises fails the callers of that batch and no others.
    """

    def __init__(self, what: str, command: Callable[[list[In]], Sequence[Out | Exception]], limit: int = 128) -> None:
        self._sizes = metrics.batch_sizes.labels(what)
        self._command = command
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[_Call[In, Out]] = deque()
        self._busy = False
        self._crowded = False

    def __call__(self, item: In, timeout: float) -> Out:
        """The result for `item`. Raises its error, or Unavailable when no batch took it within `timeout` seconds."""
        call: _Call[In, Out] = _Call(item)
        with self._lock:
            call.leads = not self._busy
            self._busy = True
            if not call.leads:
                self._waiting.append(call)
        if not call.leads:
            try:
                self._await(call, timeout)
            except BaseException:
                self._abandon(call)
                raise
        if call.leads:
            self._lead(call)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome

    def _await(self, call: _Call[In, Out], timeout: float) -> None:
        if call.done.wait(timeout):
            return
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                call.outcome = Unavailable("too many are waiting for the database", retry_after=1)
                return
        # The command that carries it is under way and has a deadline of its own.
        call.done.wait()

    def _abandon(self, call: _Call[In, Out]) -> None:
        """The caller was killed while it waited: a batch that it was to lead must not wait for it."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
        if call.leads:
            self._hand_over()

    def _lead(self, first: _Call[In, Out]) -> None:
        # Whoever is ready to ask by now comes along; where there were many, more of them are about to.
        time.sleep(LINGER_SECONDS if self._crowded else 0)
        with self._lock:
            batch = [first]
            while self._waiting and len(batch) < self._limit:
                batch.append(self._waiting.popleft())
        self._crowded = len(batch) >= CROWD
        self._sizes.observe(len(batch))
        try:
            for call, outcome in zip(batch, self._command([call.item for call in batch]), strict=True):
                call.outcome = outcome
        except Exception as exc:
            if isinstance(exc, Unavailable):
                # Whoever waits behind would only learn the same, and later than it can wait.
                batch += self._take_waiting()
            for call in batch:
                call.outcome = exc
        finally:
            first.leads = False
            self._hand_over()
            for call in batch[1:]:
                call.done.set()

    def _take_waiting(self) -> list[_Call[In, Out]]:
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting

    def _hand_over(self) -> None:
        with self._lock:
            if self._waiting:
                successor = self._waiting.popleft()
                successor.leads = True
                successor.done.set()
            else:
                self._busy = False
