"""The points at which a process may end: before and after each database command, provider call and acknowledgement."""

import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.messaging.outbox import Outbox, PendingEvents
from app.payments import providers
from app.payments.provider_port import Capabilities, ProviderCall, ProviderNotification, ProviderResponse, ResponseCode
from app.webhooks.sender import Sender
from tests.chaos.crash.cells import TIMEOUT_SECONDS, Cell
from tests.stepwise_pool import StepwisePool

R = TypeVar("R")


class Points(CommandListener):
    """Numbers the points of the process, and kills it at the armed one."""

    def __init__(self, cell: Cell, tell: Callable[..., None]) -> None:
        self._cell = cell
        self._tell = tell
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._under_way: dict[int, str] = {}
        self.counting = False

    def started(self, event: CommandStartedEvent) -> None:
        collection = event.command.get(event.command_name)
        if self.counting and event.database_name == self._cell.database and isinstance(collection, str):
            self._under_way[event.request_id] = self.before(f"{collection}.{event.command_name}")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if self._cell.late and threading.current_thread() is not threading.main_thread():
            time.sleep(self._cell.late)
        self._ended(event.request_id)

    def failed(self, event: CommandFailedEvent) -> None:
        self._ended(event.request_id)

    def before(self, what: str) -> str:
        """Marks the begin of a step; returns its name."""
        with self._lock:
            self._counts[what] += 1
            name = f"{what} #{self._counts[what]}"
        self._reach(f"before {name}")
        return name

    def after(self, name: str) -> None:
        """Marks the end of a step."""
        self._reach(f"after {name}")

    def around(self, what: str, step: Callable[[], R]) -> R:
        """Runs a step between its two points; without points while counting is off."""
        if not self.counting:
            return step()
        name = self.before(what)
        done = step()
        self.after(name)
        return done

    def _ended(self, request_id: int) -> None:
        name = self._under_way.pop(request_id, None)
        if name:
            self.after(name)

    def _reach(self, point: str) -> None:
        if not self.counting:
            return
        if not self._cell.point:
            self._tell("point", point)
        elif point == self._cell.point:
            self._tell("fired", point)
            # To this thread: it must not continue while the signal is delivered to another one.
            signal.pthread_kill(threading.get_ident(), getattr(signal, self._cell.death))


class WatchedProvider:
    """The real provider, with a point before and after each call.

    Calls wait while `released` is not set, and responses while `answering` is not. With `deaf`, requests are lost; with `mute`,
    responses are lost; with `refusing`, refunds are declined.
    """

    def __init__(self, provider: providers.Provider, points: Points) -> None:
        self._provider = provider
        self._points = points
        self.released = threading.Event()
        self.released.set()
        self.answering = threading.Event()
        self.answering.set()
        self.held = queue.Queue[str]()
        self.deaf = False
        self.mute = False
        self.refusing = False

    def prepare(self) -> None:
        self._provider.prepare()

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    def open(self, call: ProviderCall) -> ProviderResponse:
        return self._around("open", call)

    def charge(self, call: ProviderCall) -> ProviderResponse:
        return self._around("charge", call)

    def capture(self, call: ProviderCall) -> ProviderResponse:
        return self._around("capture", call)

    def void(self, call: ProviderCall) -> ProviderResponse:
        return self._around("void", call)

    def refund(self, call: ProviderCall) -> ProviderResponse:
        return self._around("refund", call)

    def notifications(self, body: bytes, headers: Mapping[str, str]) -> tuple[ProviderNotification, ...]:
        return self._provider.notifications(body, headers)

    def retrieve(self, call: ProviderCall) -> ProviderResponse:
        return self._around("retrieve", call)

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        name = self._points.before("provider.find")
        found = self._provider.find(call)
        self._points.after(name)
        return found

    def _around(self, verb: str, call: ProviderCall) -> ProviderResponse:
        name = self._points.before(f"provider.{verb}")
        if not self.released.is_set():
            self.held.put(verb)
            assert self.released.wait(TIMEOUT_SECONDS)
        outcome = self._outcome(verb, call)
        if not self.answering.is_set():
            self.held.put(verb)
            assert self.answering.wait(TIMEOUT_SECONDS)
        self._points.after(name)
        return ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer") if self.mute else outcome

    def _outcome(self, verb: str, call: ProviderCall) -> ProviderResponse:
        if self.deaf:
            return ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer")
        if self.refusing and verb == "refund":
            return ProviderResponse(code=ResponseCode.DECLINED, reason="refused")
        return getattr(self._provider, verb)(call)


def watch_webhooks(sender: Sender, points: Points) -> StepwisePool:
    """Adds a point before and after each attempt to deliver; returns the pool that makes the attempts."""
    post = sender._post
    sender._post = lambda *request: points.around("receiver.post", partial(post, *request))
    sender._pool = StepwisePool()
    return sender._pool


def watch_acknowledgements(module: str, outbox: Outbox, points: Points) -> None:
    """Adds points to each step of a delayed acknowledgement: remembered, done by another write, written."""
    later, at_once_by_others, all_of_them = outbox.acknowledge_later, outbox.mark_acknowledged, outbox.acknowledge_all

    def acknowledge_later(batch: Iterable[PendingEvents]) -> None:
        kept = list(batch)
        if kept:
            points.around(f"{module}.acknowledge_later", lambda: later(kept))

    def mark_acknowledged(key: Any) -> None:
        points.around(f"{module}.mark_acknowledged", lambda: at_once_by_others(key))

    def acknowledge_all() -> None:
        if outbox.unacknowledged:
            points.around(f"{module}.acknowledge_all", all_of_them)

    outbox.acknowledge_later = acknowledge_later
    outbox.mark_acknowledged = mark_acknowledged
    outbox.acknowledge_all = acknowledge_all
