"""Time, chance, waiting and threads: everything that the application takes from the machine. A simulation replaces it."""

import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from random import Random, SystemRandom
from uuid import uuid4


class System:
    """The machine on which this process runs. Times are in seconds."""

    # Not seeded, so that forked processes do not draw the same numbers.
    random: Random = SystemRandom()

    def monotonic(self) -> float:
        """The time of a clock that never goes back, from an unknown start."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let other threads run for `seconds`."""
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        """Wait for an event, for at most `seconds`; whether it was set."""
        return event.wait(seconds)

    def acquire(self, semaphore: threading.Semaphore, seconds: float) -> bool:
        """Acquire a semaphore within `seconds`; whether it succeeded."""
        return semaphore.acquire(timeout=seconds)

    def new_id(self) -> str:
        """A text that no other call returns, in any process."""
        return uuid4().hex

    def thread_pool(self, threads: int, name: str) -> Executor:
        """A pool that runs work in up to `threads` threads, whose names begin with `name`."""
        return ThreadPoolExecutor(threads, thread_name_prefix=name)


SYSTEM = System()
