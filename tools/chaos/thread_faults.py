"""Ends background threads of its own process on a signal; only servers of a chaos run load it.

On SIGUSR2 it reads a number from the file CHAOS_THREAD, chooses one of the application's background threads by it,
raises SystemExit in that thread, and appends the thread's name to the file CHAOS_ENDED.
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


def install_signal_handler() -> None:
    """Handles SIGUSR2. Call it in the main thread before other threads start."""
    original = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def registered(thread: threading.Thread) -> None:
        _greenlets[thread] = getcurrent()
        try:
            original(thread)
        finally:
            del _greenlets[thread]

    threading.Thread._bootstrap_inner = registered  # type: ignore[attr-defined]
    signal.signal(signal.SIGUSR2, _on_signal)


def background_threads() -> list[threading.Thread]:
    """Returns the threads whose target is code of the application, sorted by name; pool threads are none."""
    return sorted((thread for thread in list(_greenlets) if _runs_application(thread)), key=lambda thread: thread.name)


def end_thread(thread: threading.Thread) -> None:
    """Raises SystemExit in a thread, whatever it does at that moment."""
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
    end_thread(thread)
    with Path(os.environ["CHAOS_ENDED"]).open("a") as ended:
        ended.write(f"{os.getpid()} {thread.name}\n")
