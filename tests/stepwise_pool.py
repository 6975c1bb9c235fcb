"""A pool without threads, whose work runs when a test says so."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any


class StepwisePool(Executor):
    """Runs submitted work when `run` is called, in the thread that calls it."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    @property
    def waiting(self) -> int:
        """How much work waits."""
        return len(self._waiting)

    def submit(self, work: Callable[..., Any], /, *args: Any, **members: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, partial(work, *args, **members)))
        return future

    def run(self) -> None:
        """Runs all, also what is submitted meanwhile."""
        while self._waiting:
            future, work = self._waiting.popleft()
            future.set_result(work())
