"""Writes log lines in a separate thread, so that a blocked log never delays other work.

If the reader is gone, a pipe is not emptied or the disk is full, lines are dropped and counted.
"""

import _thread
import os
import queue
import select
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

    At most LIMIT lines are queued, further ones are dropped. `dropped` counts the lines that were not written completely.
    Before `start` and after `stop` the caller's thread writes, and waits at most WRITABLE_SECONDS for a full pipe. A forked child
    begins as not started.
    """

    LIMIT = 10_000
    INTERVAL_SECONDS = 0.05
    STOP_SECONDS = 2.0
    MAX_RETRIES = 20
    WRITABLE_SECONDS = 0.5

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        self._stream = stream
        self.dropped = 0
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = _unpatched(_thread, "RLock")()
        self._entries: deque[Entry] = deque()
        self._waiting = 0
        self._running = self._stopping = self._finished = self._blocked = False

    @property
    def waiting(self) -> int:
        """Number of queued lines."""
        return self._waiting

    def write(self, text: str) -> int:
        """Write whole lines as soon as possible; the `write` of a file, for handlers of logging libraries."""
        self.put(text.count("\n"), lambda: text)
        if self._running and self._wake.empty():
            self._wake.put(None)
        return len(text)

    def flush(self) -> None:
        """Does nothing; the `flush` of a file, for handlers of logging libraries."""

    def put(self, lines: int, render: Callable[[], str]) -> None:
        """Queue a text of `lines` lines, written within INTERVAL_SECONDS; the writing thread calls `render` for it."""
        if not self._running:
            self._write_now(lines, render)
            return
        with self._lock:
            fits = self._waiting + lines <= self.LIMIT
            if fits:
                self._waiting += lines
                self._entries.append((lines, render))
        if not fits:
            self.drop(lines)

    def start(self) -> None:
        """Start the writing thread. Call it after any fork."""
        if self._running:
            return
        self._wake = _unpatched(queue, "SimpleQueue")()
        self._stopping = self._finished = False
        self._running = True
        # A real thread also under gevent, so that a blocked write does not stop the greenlets.
        _unpatched(_thread, "start_new_thread")(self._run, ())

    def stop(self) -> None:
        """Write the queued lines, for at most STOP_SECONDS, and end the thread."""
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
                self._finished = self._write_next()
            except BaseException:  # noqa: S112 - the log itself has failed  # nosec B112
                continue

    def _write_next(self) -> bool:
        """Wait for lines and write them; returns whether the writer is stopping."""
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
        texts = [self._render(*entry) for entry in entries]
        if not texts:
            return
        try:
            self._write_all("".join(texts).encode(errors="backslashreplace"))
        except Exception:
            self.drop(sum(lines for lines, _ in entries))

    def _write_all(self, data: bytes) -> None:
        descriptor, retries = self._stream().fileno(), 0
        while data:
            try:
                data, retries = data[os.write(descriptor, data) :], 0
            except BlockingIOError:
                # The descriptor is non-blocking, and its reader is slow or has stopped.
                retries += 1
                if retries > self.MAX_RETRIES:
                    raise
                _unpatched(time, "sleep")(self.INTERVAL_SECONDS)

    def _write_now(self, lines: int, render: Callable[[], str]) -> None:
        if self._blocked:
            self.drop(lines)
            return
        try:
            stream = self._stream()
            if not self._is_writable(stream):
                self.drop(lines)
                return
            stream.write(self._render(lines, render))
            stream.flush()
        except Exception:
            self.drop(lines)

    def _is_writable(self, stream: TextIO) -> bool:
        """Whether a line can be written without a long wait: a pipe may be full, because its reader has stopped."""
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError):
            return True  # Not a file, so nothing can block it.
        _, writable, _ = _unpatched(select, "select")([], [descriptor], [], self.WRITABLE_SECONDS)
        return bool(writable)

    def _render(self, lines: int, render: Callable[[], str]) -> str:
        try:
            return render()
        except Exception:
            self.drop(lines)
            return ""

    def drop(self, lines: int) -> None:
        """Count lines that were not written."""
        with self._lock:
            self.dropped += lines


def _unpatched(module: ModuleType, name: str) -> Any:
    """`name` of a module of the standard library, without gevent's patch."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module.__name__, name) if monkey else getattr(module, name)
