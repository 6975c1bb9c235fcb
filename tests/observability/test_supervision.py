"""Background threads go on whatever is raised in them; one that makes no progress is found."""

import threading

import pytest

from app.observability import supervision
from app.observability.supervision import BackgroundThread, Heartbeat, Watchdog


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that stands still until a test moves it."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(supervision.time, "monotonic", made.monotonic)
    return made


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_a_thread_goes_on_whatever_is_raised_in_it(monkeypatch, eventually, error):
    monkeypatch.setattr(BackgroundThread, "RESTART_SECONDS", 0.0)
    rounds = []

    def work():
        rounds.append(1)
        if len(rounds) < 4:
            raise error

    thread = BackgroundThread("some-work", work)
    thread.start()
    thread.join(60.0)
    assert (len(rounds), thread.idle, thread.dead) == (4, True, False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_without_being_asked_to_is_dead(monkeypatch, eventually):
    def fail(*_, **__):
        raise SystemExit

    monkeypatch.setattr(supervision.log, "exception", fail)
    thread = BackgroundThread("some-work", fail)
    assert (thread.idle, thread.dead) == (True, False)
    thread.start()
    eventually(lambda: thread.dead)
    assert Watchdog(60.0).failing([thread]) == [thread]


def test_a_heart_that_beats_is_never_found_failing(clock):
    watchdog, heartbeat = Watchdog(5.0), Heartbeat("some-work")
    for _ in range(100):
        clock.now += 1.0
        heartbeat.beat()
        assert watchdog.failing([heartbeat]) == []


def test_no_progress_for_longer_than_the_limit_is_found(clock):
    watchdog, silent, beating = Watchdog(5.0), Heartbeat("silent"), Heartbeat("beating")
    found = []
    for _ in range(8):
        clock.now += 1.0
        beating.beat()
        found.append(watchdog.failing([silent, beating]))
    assert found == [[]] * 6 + [[silent]] * 2


def test_work_that_has_nothing_to_come_round_for_is_not_found_failing_however_long(clock):
    class Idle(Heartbeat):
        idle = True

    watchdog, heartbeat = Watchdog(5.0), Idle("some-work")
    for _ in range(20):
        clock.now += 1.0
        assert watchdog.failing([heartbeat]) == []
    Idle.idle = False
    clock.now += 1.0
    assert watchdog.failing([heartbeat]) == []


def test_a_process_that_was_stopped_as_a_whole_is_not_judged_by_that_time(clock):
    watchdog, heartbeat = Watchdog(5.0), Heartbeat("some-work")
    watchdog.failing([heartbeat])
    clock.now += 3600.0
    assert watchdog.failing([heartbeat]) == []
    heartbeat.beat()
    clock.now += 3600.0
    assert watchdog.failing([heartbeat]) == []


def test_a_thread_that_has_not_been_started_or_has_returned_is_not_watched(clock):
    watchdog, waiting = Watchdog(5.0), BackgroundThread("waiting", lambda: None)
    returned = BackgroundThread("returned", lambda: None)
    returned.start()
    returned.join(60.0)
    for _ in range(10):
        clock.now += 1.0
        assert watchdog.failing([waiting, returned]) == []


def test_a_thread_is_a_daemon_so_that_it_keeps_no_process_from_ending():
    seen = []
    thread = BackgroundThread("some-work", lambda: seen.append(threading.current_thread().daemon))
    thread.start()
    thread.join(60.0)
    assert seen == [True]
