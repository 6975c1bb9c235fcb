"""The scheduler: tasks that run one at a time, under a virtual clock, in an order that a seed decides.

A task is a greenlet. It runs until it pauses or waits; then the scheduler chooses the next one. Nothing else runs.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from random import Random
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from app.system import System

# The virtual time of the start, and how much passes with every step.
START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
STEP_SECONDS = 0.001
FOREVER = float("inf")


class Owner:
    """What owns tasks: a process, or the world around the processes. Tasks of a dead owner never run again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True


class Task:
    """A piece of work. It is ready when its event is set, or when its deadline has passed."""

    def __init__(self, owner: Owner, name: str, work: Callable[[], object], parent: greenlet) -> None:
        self.owner = owner
        self.name = name
        self.greenlet = greenlet(self._run, parent)
        self.event: threading.Event | None = None
        self.deadline = 0.0
        self.site = "starts"
        self.failure: BaseException | None = None
        self.endless = False
        self._work = work

    def __str__(self) -> str:
        return f"{self.owner.name}, {self.name}"

    @property
    def ended(self) -> bool:
        """Whether its work is done."""
        return self.greenlet.dead

    def ready(self, now: float) -> bool:
        """Whether it can go on."""
        return self.deadline <= now or (self.event is not None and self.event.is_set())

    def _run(self) -> None:
        try:
            self._work()
        except GreenletExit:
            pass
        except BaseException as exc:
            self.failure = exc


class Scheduler:
    """Runs tasks. `now` is the virtual time in seconds since 1970; `steps` counts the runs of tasks."""

    def __init__(self, random: Random) -> None:
        self.now = START
        self.steps = 0
        self._random = random
        self._hub = getcurrent()
        self._tasks: list[Task] = []
        self._dead: list[Task] = []
        self._current: Task | None = None
        # Calls on their way to the provider must arrive by these times: see `bound`.
        self._bounds: dict[Task, float] = {}

    @property
    def current(self) -> Task:
        """The task that runs."""
        assert self._current
        return self._current

    def spawn(
        self, owner: Owner, name: str, work: Callable[[], object], *, endless: bool = False, within: float | None = None
    ) -> Task:
        """Add a task; it starts when it is chosen, and at most `within` seconds pass before that.

        An `endless` task is no work that must end.
        """
        task = Task(owner, name, work, self._hub)
        task.endless = endless
        if within is not None:
            self._bounds[task] = self.now + within
        self._tasks.append(task)
        return task

    def kill(self, owner: Owner) -> None:
        """End an owner. Its tasks stay where they are, and never go on."""
        owner.alive = False
        self._dead += [task for task in self._tasks if task.owner is owner]
        self._tasks = [task for task in self._tasks if task.owner is not owner]
        self._bounds = {task: until for task, until in self._bounds.items() if task.owner is not owner}

    def pause(self, site: str) -> None:
        """Let other tasks run before the current one goes on."""
        self._suspend(site, None, 0.0)

    def wait(self, event: threading.Event | None, seconds: float | None, site: str = "waits") -> bool:
        """Let the current task wait for an event or until `seconds` have passed."""
        self._suspend(site, event, FOREVER if seconds is None else self.now + max(0.0, seconds))
        return event is not None and event.is_set()

    def bound(self, seconds: float | None) -> None:
        """Let at most `seconds` pass before the current task goes on; None removes the bound."""
        if self._current is None:
            # A task of a dead process is being removed from memory.
            return
        if seconds is None or not self.current.owner.alive:
            self._bounds.pop(self.current, None)
        else:
            self._bounds[self.current] = self.now + seconds

    def run_one(self) -> Task | None:
        """Run one ready task up to its next pause; None where no task is ready."""
        now = self.now
        # Without a call for each of them: this is where a simulation spends most of its own time.
        ready = [task for task in self._tasks if task.deadline <= now or (task.event and task.event.is_set())]
        if not ready:
            return None
        soon = self.now + STEP_SECONDS * len(ready)
        urgent = [task for task, until in self._bounds.items() if until <= soon and task.ready(self.now)]
        task = self._random.choice(urgent or ready)
        self.steps += 1
        self.now += STEP_SECONDS
        self._current = task
        task.greenlet.switch()
        self._current = None
        if task.greenlet.dead:
            self._bounds.pop(task, None)
            self._tasks = [other for other in self._tasks if other is not task]
            if task.failure and task.owner.alive:
                raise task.failure
        return task

    def advance(self, seconds: float) -> float:
        """Let time pass, no further than calls on their way allow; returns how much has passed.

        A call that is late waits for another task: at least a step passes, so that this one goes on.
        """
        before = self.now
        latest = max(self.now + STEP_SECONDS, min(self._bounds.values(), default=FOREVER))
        self.now = min(self.now + seconds, latest)
        return self.now - before

    def vanish(self) -> None:
        """End the current task, whose owner is dead."""
        raise GreenletExit

    def has_work(self) -> bool:
        """Whether a client or an operator is at work: a task of a living owner that does not run for ever."""
        return any(not task.endless for task in self._tasks)

    def close(self) -> None:
        """End all tasks."""
        self._current = None
        for task in [*self._tasks, *self._dead]:
            task.owner.alive = False
            if not task.greenlet.dead:
                task.greenlet.throw(GreenletExit)

    def next_deadline(self) -> float:
        """Seconds until a task becomes ready by time alone."""
        return max(0.0, min((task.deadline for task in self._tasks), default=FOREVER) - self.now)

    def _suspend(self, site: str, event: threading.Event | None, deadline: float) -> None:
        task = self._current
        if task is None or task.greenlet is not getcurrent() or not task.owner.alive:
            # A task of a dead process is being removed from memory: it must not go on.
            raise GreenletExit
        task.site, task.event, task.deadline = site, event, deadline
        self._hub.switch()
        if not task.owner.alive:
            raise GreenletExit


class SimulatedSystem(System):
    """The machine of one simulated process: its time, chance, waiting and threads come from the scheduler."""

    def __init__(self, scheduler: Scheduler, owner: Owner, random: Random) -> None:
        self._scheduler = scheduler
        self._owner = owner
        self.random = random

    def monotonic(self) -> float:
        return self._scheduler.now

    def sleep(self, seconds: float) -> None:
        self._scheduler.wait(None, seconds, "sleeps")

    def wait(self, event: threading.Event, seconds: float | None = None) -> bool:
        return event.is_set() or self._scheduler.wait(event, seconds)

    def acquire(self, semaphore: threading.Semaphore, seconds: float) -> bool:
        if semaphore.acquire(blocking=False):
            return True
        self._scheduler.wait(None, seconds, "waits for a thread")
        return semaphore.acquire(blocking=False)

    def new_id(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def thread_pool(self, _threads: int, name: str) -> Executor:
        return TaskPool(self._scheduler, self._owner, name)


class TaskPool(Executor):
    """An executor whose threads are tasks."""

    def __init__(self, scheduler: Scheduler, owner: Owner, name: str) -> None:
        self._scheduler = scheduler
        self._owner = owner
        self._name = name
        self._closed = False

    def submit(self, work: Callable[..., Any], /, *args: Any, **members: Any) -> Future[Any]:
        if self._closed:
            raise RuntimeError("the pool has shut down")
        future: Future[Any] = Future()

        def run() -> None:
            future.set_result(work(*args, **members))

        self._scheduler.spawn(self._owner, self._name, run)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - the base class has them
        self._closed = True
