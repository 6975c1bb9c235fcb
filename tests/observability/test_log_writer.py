"""Log lines are written by a thread of their own; what cannot be written is counted and holds nothing up."""

import os
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from app.observability.log_writer import LogWriter


class Pipe:
    """A pipe whose writing end is the log."""

    def __init__(self):
        self.reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w")

    def close_reader(self):
        os.close(self.reader)


@pytest.fixture
def pipe():
    return Pipe()


@pytest.fixture
def writer(pipe):
    made = LogWriter(lambda: pipe.stream)
    # On a busy machine the thread may be late.
    made.STOP_SECONDS = 60.0
    yield made
    made.STOP_SECONDS = 0.0
    made.stop()


def test_lines_come_out_whole_and_in_order(pipe, writer):
    writer.start()
    for number in range(100):
        writer.put(1, lambda number=number: f"line {number}\n")
    writer.write("a warning\n")
    writer.stop()
    pipe.stream.close()
    with os.fdopen(pipe.reader) as read:
        assert read.read().splitlines() == [*(f"line {number}" for number in range(100)), "a warning"]
    assert writer.dropped == 0


@pytest.mark.parametrize("started", [False, True])
def test_lines_that_nobody_reads_any_more_are_counted_and_raise_nothing(pipe, writer, eventually, started):
    pipe.close_reader()
    if started:
        writer.start()
    for _ in range(10):
        writer.write("lost\n")
    eventually(lambda: writer.dropped >= 10)
    assert writer.waiting == 0


@pytest.mark.parametrize("started", [False, True])
def test_lines_for_a_full_disk_are_counted_and_raise_nothing(started):
    program = textwrap.dedent(f"""
        import sys, time
        from app.observability.log_writer import LogWriter
        writer = LogWriter(lambda: sys.stdout)
        {started} and writer.start()
        for _ in range(10):
            writer.write("lost\\n")
        while writer.dropped < 10: time.sleep(0.01)
        print(writer.dropped, file=sys.stderr)
        sys.stdout = None
    """)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.stderr.splitlines()[0] == "10"


def test_a_reader_that_reads_no_more_blocks_nobody_and_no_more_lines_wait_than_may(pipe, writer, eventually):
    writer.LIMIT = 100
    writer.start()
    writer.put(1, lambda: "x" * 1_000_000)  # Far more than a pipe holds.
    eventually(lambda: writer.waiting == 0)
    for number in range(1000):
        writer.put(1, lambda number=number: f"line {number}\n")
    assert (writer.waiting, writer.dropped) == (100, 900)
    writer.STOP_SECONDS = 0.0
    writer.stop()
    assert writer.dropped == 1000
    writer.write("after the end\n")
    assert writer.dropped == 1001
    reader = threading.Thread(target=lambda: os.read(pipe.reader, 2_000_000), daemon=True)
    reader.start()


def test_a_reader_that_comes_back_gets_what_is_written_from_then_on(pipe, writer, eventually):
    writer.LIMIT = 10
    writer.start()
    writer.put(1, lambda: "x" * 200_000 + "\n")
    eventually(lambda: writer.waiting == 0)
    for _ in range(50):
        writer.put(1, lambda: "waits\n")
    assert writer.dropped == 40
    with os.fdopen(pipe.reader) as read:
        assert read.readline() == "x" * 200_000 + "\n"
        assert [read.readline() for _ in range(10)] == ["waits\n"] * 10
        writer.write("new\n")
        assert read.readline() == "new\n"


def test_a_line_that_cannot_be_made_takes_no_other_along(pipe, writer):
    def fail():
        raise ValueError("no text")

    writer.start()
    writer.put(1, lambda: "before\n")
    writer.put(3, fail)
    writer.put(1, lambda: "after\n")
    writer.stop()
    pipe.stream.close()
    with os.fdopen(pipe.reader) as read:
        assert read.read() == "before\nafter\n"
    assert writer.dropped == 3


def test_under_gevent_a_blocked_write_lets_all_greenlets_go_on():
    program = textwrap.dedent("""
        from gevent import monkey; monkey.patch_all()
        import os, sys, time, gevent
        from app.observability.log_writer import LogWriter
        reader, write = os.pipe()
        stream = os.fdopen(write, "w")
        writer = LogWriter(lambda: stream)
        writer.start()
        writer.put(1, lambda: "x" * 1_000_000)
        while writer.waiting: gevent.sleep(0.01)
        went_on = gevent.spawn(lambda: [gevent.sleep(0.001) for _ in range(50)])
        went_on.join()
        print("went on", file=sys.stderr)
        os._exit(0)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "went on\n"


def test_a_forked_child_writes_for_itself_until_it_is_started(pipe, writer):
    writer.start()
    child = os.fork()
    if child == 0:
        writer.write("from the child\n")
        os._exit(0)
    os.waitpid(child, 0)
    writer.stop()
    pipe.stream.close()
    with os.fdopen(pipe.reader) as read:
        assert "from the child\n" in read.read()


def test_before_the_start_a_full_pipe_whose_reader_has_stopped_holds_nobody_up(pipe, writer):
    """A replaced worker logs its start before its writing thread runs: it must come up all the same."""
    os.set_blocking(pipe.stream.fileno(), False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe.stream.fileno(), b"x" * 4096)
    os.set_blocking(pipe.stream.fileno(), True)
    writing = threading.Thread(target=writer.write, args=("a line\n",), daemon=True)
    writing.start()
    writing.join(30)
    assert not writing.is_alive()
    assert writer.dropped == 1
