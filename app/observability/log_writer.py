"""Writes log lines from a thread of its own, so that a log that cannot be written holds up nothing else.

A reader that has gone, a pipe that nobody empties or a full disk costs lines, which are counted, and nothing more.
"""

import _thread
import os
import queue
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, TextIO

Entry = tuple[int, Callable[[], str]]


class LogWriter:
    """Writes lines to a stream of this process. Never raises; between `start` and `stop` it never blocks its caller.

    At most LIMIT lines wait to be written, further ones are dropped. `dropped` counts the lines that were not written,
    or not whole. Before `start` and after `stop` a line is written by its caller. A forked child begins as not started.
    """

    LIMIT = 10_000
    INTERVAL_SECONDS = 0.05
    STOP_SECONDS = 2.0
    RETRIES = 20

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        self._stream = stream
        self.dropped = 0
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = _standard(_thread, "RLock")()
        self._entries: deque[Entry] = deque()
        self._waiting = 0
        self._running = self._stopping = self._finished = self._blocked = False

    @property
    def waiting(self) -> int:
        """How many lines wait to be written."""
        return self._waiting

    def write(self, text: str) -> int:
        """Write whole lines as soon as possible: a file's `write`, for the handlers of logging libraries."""
        self.put(text.count("\n"), lambda: text)
        if self._running and self._wake.empty():
            self._wake.put(None)
        return len(text)

    def flush(self) -> None:
        """A file's `flush`: lines are on their way already."""

    def put(self, lines: int, render: Callable[[], str]) -> None:
        """Write so many lines within INTERVAL_SECONDS; `render` makes their text and is called by the writing thread."""
        if not self._running:
            self._write_at_once(lines, render)
            return
        with self._lock:
            fits = self._waiting + lines <= self.LIMIT
            if fits:
                self._waiting += lines
                self._entries.append((lines, render))
        if not fits:
            self.drop(lines)

    def start(self) -> None:
        """Leave the writing to a thread. Call it after any fork."""
        if self._running:
            return
        self._wake = _standard(queue, "SimpleQueue")()
        self._stopping = self._finished = False
        self._running = True
        # A real thread, also under gevent: while a write blocks, all greenlets go on.
        _standard(_thread, "start_new_thread")(self._run, ())

    def stop(self) -> None:
        """Write what waits, for at most STOP_SECONDS; from then on callers write for themselves."""
        if not self._running:
            return
        self._stopping = True
        self._wake.put(None)
        ends = time.monotonic() + self.STOP_SECONDS
        while not self._finished and time.monotonic() < ends:
            time.sleep(0.005)
        self._blocked = not self._finished
        self._running = False
        self.drop(self._waiting)

    def _run(self) -> None:
        while not self._finished:
            try:
                self._finished = self._next_round()
            except BaseException:  # noqa: S112 - there is no log to report it to  # nosec B112
                continue

    def _next_round(self) -> bool:
        """Wait for lines and write them; whether the end has come."""
        last = self._stopping
        if not last:
            self._wait()
        self._write_waiting()
        return last

    def _wait(self) -> None:
        with suppress(queue.Empty):
            self._wake.get(timeout=self.INTERVAL_SECONDS)

    def _write_waiting(self) -> None:
        with self._lock:
            entries, self._entries = self._entries, deque()
            self._waiting = 0
        texts = [self._rendered(*entry) for entry in entries]
        if not texts:
            return
        try:
            self._write_all("".join(texts).encode(errors="backslashreplace"))
        except Exception:
            self.drop(sum(lines for lines, _ in entries))

    def _write_all(self, data: bytes) -> None:
        descriptor, tries = self._stream().fileno(), 0
        while data:
            try:
                data, tries = data[os.write(descriptor, data) :], 0
            except BlockingIOError:
                # Somebody made the descriptor non-blocking: its reader is slow, or has stopped.
                tries += 1
                if tries > self.RETRIES:
                    raise
                _standard(time, "sleep")(self.INTERVAL_SECONDS)

    def _write_at_once(self, lines: int, render: Callable[[], str]) -> None:
        if self._blocked:
            self.drop(lines)
            return
        try:
            stream = self._stream()
            stream.write(self._rendered(lines, render))
            stream.flush()
        except Exception:
            self.drop(lines)

    def _rendered(self, lines: int, render: Callable[[], str]) -> str:
        try:
            return render()
        except Exception:
            self.drop(lines)
            return ""

    def drop(self, lines: int) -> None:
        """Count lines as not written."""
        with self._lock:
            self.dropped += lines


def _standard(module: ModuleType, name: str) -> Any:
    """The standard library's own `name`, also where gevent has put its own in that place."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module.__name__, name) if monkey else getattr(module, name)
