"""Many callers, one command: who joins which batch, and that each gets its own outcome."""

import itertools
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.contracts.base import NotFound, Unavailable
from app.storage.group_commit import GroupCommit
from app.system import System

pytestmark = pytest.mark.extended

PATIENCE = 60.0
# Whoever waits for so long waits until a test says that this time is over.
IMPATIENT = 0.3


class ToldWhenTimeIsOver(System):
    """A machine on which the time of impatient callers is over when a test sets `over`, however slow it is."""

    def __init__(self):
        self.over = threading.Event()

    def wait(self, event, seconds=None):
        if seconds == IMPATIENT:
            assert self.over.wait(PATIENCE)
            seconds = 0
        return super().wait(event, seconds)


class Gated:
    """A command that begins when it is called and ends when it is let through; ten times each item."""

    def __init__(self):
        self.batches = []
        self._let_through = threading.Semaphore(0)

    def __call__(self, items):
        self.batches.append(list(items))
        assert self._let_through.acquire(timeout=PATIENCE)
        return self.answers([self.outcome(item) for item in items])

    def outcome(self, item):
        return item * 10

    def answers(self, outcomes):
        return outcomes

    def let_through(self, times=1):
        self._let_through.release(times)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as threads:
        yield threads


@pytest.fixture
def command():
    gated = Gated()
    yield gated
    gated.let_through(1000)


@pytest.fixture
def busy(pool, command, eventually):
    """A coalescer of at most four, whose first command is under way for item 1; callers are added by `busy.join`."""
    return Busy(command, pool, eventually)


class Busy:
    def __init__(self, command, pool, eventually):
        self.system = ToldWhenTimeIsOver()
        self.call = GroupCommit("things", command, limit=4, system=self.system)
        self._pool = pool
        self._eventually = eventually
        self._joined = 0
        self.first = pool.submit(self.call, 1, PATIENCE)
        eventually(lambda: command.batches == [[1]])

    def join(self, *items, timeout=PATIENCE):
        """Callers that arrive one after the other; their futures."""
        return [self._join(item, timeout) for item in items]

    def _join(self, item, timeout):
        before = len(self.call._waiting)
        future = self._pool.submit(self.call, item, timeout)
        self._eventually(lambda: len(self.call._waiting) == before + 1)
        return future


def results(futures):
    return [future.result(PATIENCE) for future in futures]


def test_an_idle_caller_runs_at_once_in_its_own_thread():
    threads = []

    def command(items):
        threads.append(threading.current_thread())
        return items

    # Nobody waits, so that no time to wait is needed.
    assert GroupCommit("things", command)(7, timeout=0.0) == 7
    assert threads == [threading.current_thread()]


def test_one_caller_after_the_other_gets_a_command_each():
    batches = []
    call = GroupCommit("things", lambda items: batches.append(items) or items)
    assert [call(item, PATIENCE) for item in range(5)] == list(range(5))
    assert batches == [[0], [1], [2], [3], [4]]


def test_callers_arriving_during_a_command_form_the_next_batch(busy, command):
    others = busy.join(2, 3, 4)
    assert command.batches == [[1]]
    command.let_through(2)
    assert results([busy.first, *others]) == [10, 20, 30, 40]
    assert command.batches == [[1], [2, 3, 4]]


def test_a_batch_is_no_larger_than_the_limit_and_takes_the_longest_waiting(busy, command):
    others = busy.join(*range(2, 12))
    command.let_through(4)
    assert results(others) == [item * 10 for item in range(2, 12)]
    assert command.batches == [[1], [2, 3, 4, 5], [6, 7, 8, 9], [10, 11]]


def test_nobody_joins_a_command_that_is_under_way(busy, command, eventually):
    [second] = busy.join(2)
    command.let_through()
    eventually(lambda: len(command.batches) == 2)
    [third] = busy.join(3)
    command.let_through(2)
    assert results([second, third]) == [20, 30]
    assert command.batches == [[1], [2], [3]]


def test_whoever_led_a_batch_goes_as_soon_as_it_is_done(busy, command):
    others = busy.join(2, 3)
    command.let_through()
    assert busy.first.result(PATIENCE) == 10
    assert not any(other.done() for other in others)
    command.let_through()
    assert results(others) == [20, 30]


def test_each_caller_gets_its_own_error(busy, command):
    missing = {item: NotFound(f"no {item}") for item in (3, 4)}
    command.outcome = lambda item: missing.get(item, item * 10)
    others = busy.join(2, 3, 4, 5)
    command.let_through(2)
    assert [other.exception(PATIENCE) for other in others] == [None, missing[3], missing[4], None]
    assert results([others[0], others[3]]) == [20, 50]


def test_nothing_is_a_result_too(busy, command):
    command.outcome = lambda item: None
    others = busy.join(2)
    command.let_through(2)
    assert results([busy.first, *others]) == [None, None]


def test_a_command_that_raises_fails_its_own_batch_and_no_other(busy, command):
    def outcome(item):
        if item == 3:
            raise ValueError("broken")
        return item * 10

    command.outcome = outcome
    others = busy.join(2, 3, 4, 5)
    later = busy.join(6, 7)
    command.let_through(3)
    assert [str(other.exception(PATIENCE)) for other in others] == ["broken"] * 4
    assert results([busy.first, *later]) == [10, 60, 70]


@pytest.mark.parametrize("given", [0, 1, 2, 4])
def test_too_few_or_too_many_results_are_nobodys(busy, command, given):
    command.answers = lambda outcomes: outcomes if len(outcomes) == 1 else [True] * given
    others = busy.join(2, 3, 4)
    command.let_through(2)
    assert [type(other.exception(PATIENCE)) for other in others] == [ValueError] * 3
    assert busy.first.result(PATIENCE) == 10


def test_after_an_error_an_idle_caller_runs_at_once_again():
    outcomes = iter([ValueError("once"), "fine"])

    def command(items):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return [outcome]

    call = GroupCommit("things", command)
    with pytest.raises(ValueError):
        call(1, PATIENCE)
    assert call(1, timeout=0.0) == "fine"


def test_whoever_waits_too_long_for_a_batch_is_told_and_never_carried(busy, command):
    [impatient] = busy.join(2, timeout=IMPATIENT)
    [patient] = busy.join(3)
    busy.system.over.set()
    refused = impatient.exception(PATIENCE)
    assert isinstance(refused, Unavailable)
    assert refused.members == {"retry_after": 1}
    command.let_through(2)
    assert results([busy.first, patient]) == [10, 30]
    assert command.batches == [[1], [3]]


def test_whoever_is_carried_already_waits_for_the_outcome(busy, command, eventually):
    [leader] = busy.join(2)
    [carried] = busy.join(3, timeout=IMPATIENT)
    command.let_through()
    eventually(lambda: command.batches == [[1], [2, 3]])
    busy.system.over.set()
    with pytest.raises(TimeoutError):
        carried.result(0.6)
    command.let_through()
    assert results([leader, carried]) == [20, 30]


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_command_that_is_broken_off_gives_nobody_a_success(busy, command, end):
    def outcome(item):
        if item == 3:
            raise end
        return item * 10

    command.outcome = outcome
    [leader, *carried] = busy.join(2, 3, 4)
    command.let_through(2)
    assert isinstance(leader.exception(PATIENCE), end)
    assert [type(other.exception(PATIENCE)) for other in carried] == [Unavailable, Unavailable]


def test_after_a_command_was_broken_off_the_waiting_go_on(busy, command):
    def outcome(item):
        if item == 2:
            raise SystemExit
        return item * 10

    command.outcome = outcome
    broken = busy.join(2, 3, 4, 5)
    later = busy.join(6, 7)
    command.let_through(4)
    assert results(later) == [60, 70]
    assert not any(other.exception(PATIENCE) is None for other in broken)
    assert busy.call(8, timeout=0.0) == 80


def test_under_load_every_caller_gets_its_own_answer():
    running, overlaps, sizes = threading.Lock(), [], []

    def command(items):
        if not running.acquire(blocking=False):
            overlaps.append(items)
        sizes.append(len(items))
        time.sleep(random.random() / 2000)
        running.release()
        return [NotFound(str(item)) if item % 7 == 0 else item * 10 for item in items]

    call = GroupCommit("things", command, limit=8)

    def answer(item):
        try:
            return call(item, PATIENCE)
        except NotFound as refused:
            return refused.detail

    def caller(number):
        items = range(number * 200, number * 200 + 200)
        return [answer(item) for item in items] == [item * 10 if item % 7 else str(item) for item in items]

    with ThreadPoolExecutor(32) as callers:
        assert all(callers.map(caller, range(32)))
    assert overlaps == []
    assert sum(sizes) == 32 * 200
    assert 1 < max(sizes) <= 8


def test_under_load_no_call_joins_a_command_that_began_before_it():
    ticks = itertools.count()

    def command(items):
        began = next(ticks)
        time.sleep(0.0002)
        return [began] * len(items)

    call = GroupCommit("things", command, limit=16)

    def caller(_):
        for _ in range(100):
            arrived = next(ticks)
            assert call(None, PATIENCE) > arrived
        return True

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(caller, range(16)))


def test_under_load_with_little_patience_a_refused_call_was_never_carried():
    carried, refused = [], []

    def command(items):
        carried.extend(items)
        time.sleep(0.002)
        return items

    call = GroupCommit("things", command, limit=2)

    def caller(number):
        for item in range(number * 25, number * 25 + 25):
            try:
                assert call(item, timeout=0.004) == item
            except Unavailable:
                refused.append(item)
        return True

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(caller, range(16)))
    assert refused
    assert sorted(carried + refused) == list(range(16 * 25))


def greenlets(program: str) -> str:
    """What `program` prints, run where threads are greenlets, as they are in a gevent worker."""
    prelude = "from gevent import monkey; monkey.patch_all()\nimport gevent, time\nfrom app.storage.group_commit import GroupCommit\n"
    done = subprocess.run([sys.executable, "-c", prelude + program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_greenlets_get_their_own_answers_too():
    program = """
sizes = []
def command(items):
    sizes.append(len(items))
    time.sleep(0.001)
    return [item * 10 for item in items]
call = GroupCommit("things", command, limit=32)
def caller(number):
    return all(call(item, 20.0) == item * 10 for item in range(number * 50, number * 50 + 50))
callers = [gevent.spawn(caller, number) for number in range(64)]
gevent.joinall(callers)
print(all(caller.value for caller in callers), sum(sizes), max(sizes))
"""
    assert greenlets(program).split() == ["True", "3200", "32"]


def test_a_caller_that_dies_waiting_holds_nobody_up():
    program = """
def command(items):
    time.sleep(0.1)
    return items
call = GroupCommit("things", command, limit=1)
first, dying, next_one = (gevent.spawn(call, item, 20.0) for item in ("first", "dying", "next"))
gevent.sleep(0.05)
dying.kill()
gevent.joinall([first, next_one])
print(first.value, next_one.value, call("last", 20.0))
"""
    assert greenlets(program).split() == ["first", "next", "last"]


def test_a_caller_that_dies_just_before_it_leads_holds_nobody_up():
    program = """
def command(items):
    time.sleep(0.1)
    if items == ["first"]:
        dying.kill(block=False)
    return items
call = GroupCommit("things", command, limit=1)
first, dying, next_one = (gevent.spawn(call, item, 20.0) for item in ("first", "dying", "next"))
gevent.joinall([first, next_one])
print(first.value, next_one.value, call("last", 20.0))
"""
    assert greenlets(program).split() == ["first", "next", "last"]
