"""Ends background threads of the process it runs in, from inside: only servers of a chaos run load it.

On SIGUSR2 it reads a number from the file that CHAOS_THREAD names, chooses by it one of the application's background
threads, raises SystemExit in that thread, and appends the thread's name to CHAOS_ENDED.
"""

import ctypes
import os
import signal
import threading
from pathlib import Path
from typing import Any

import gevent
from gevent.monkey import is_module_patched
from greenlet import getcurrent

_greenlets: dict[threading.Thread, Any] = {}


def listen() -> None:
    """Wait for SIGUSR2. Call it in the main thread, before other threads start."""
    begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def remembered(thread: threading.Thread) -> None:
        _greenlets[thread] = getcurrent()
        try:
            begin(thread)
        finally:
            del _greenlets[thread]

    threading.Thread._bootstrap_inner = remembered  # type: ignore[attr-defined]
    signal.signal(signal.SIGUSR2, _on_signal)


def background_threads() -> list[threading.Thread]:
    """The threads that run code of the application, by name; a pool's threads run the pool's code."""
    return sorted((thread for thread in list(_greenlets) if _runs_application(thread)), key=lambda one: one.name)


def end(thread: threading.Thread) -> None:
    """Raise SystemExit in a thread, wherever it is."""
    if is_module_patched("threading"):
        gevent.kill(_greenlets[thread], SystemExit)
    elif thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def _runs_application(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    code = getattr(target, "func", target) if target else type(thread)
    return str(getattr(code, "__module__", "")).startswith("app.")


def _on_signal(*_: object) -> None:
    chosen = int(Path(os.environ["CHAOS_THREAD"]).read_text())
    threads = background_threads()
    if not threads:
        return
    thread = threads[chosen % len(threads)]
    end(thread)
    with Path(os.environ["CHAOS_ENDED"]).open("a") as ended:
        ended.write(f"{os.getpid()} {thread.name}\n")
