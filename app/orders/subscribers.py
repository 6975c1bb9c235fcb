"""Whose orders' changes somebody wants to hear, so that the others' are not published."""

import math
import threading

from app.contracts.base import Unavailable
from app.contracts.webhooks import ListSubscribers
from app.messaging.bus import RequestClient
from app.observability import metrics
from app.observability.logging import log
from app.observability.supervision import BackgroundThread
from app.system import SYSTEM, System

INTERVAL_SECONDS = 1.0
# Without an answer for longer, nobody knows who has an endpoint by now.
MAX_AGE_SECONDS = 3.0


class SubscribedUsers:
    """The users that webhooks has endpoints of: asked for every second, in a thread of its own.

    Without an answer that is recent everybody counts: an event too many is ignored, one too few would be lost.
    """

    def __init__(self, requests: RequestClient, system: System = SYSTEM) -> None:
        self._requests = requests
        self._system = system
        self._all = False
        self._users: frozenset[str] = frozenset()
        self._known_until = -math.inf
        self._stopping = threading.Event()
        self.thread = BackgroundThread("orders-subscribers", self.run)

    def __contains__(self, user_id: object) -> bool:
        return self._all or user_id in self._users or self._system.monotonic() > self._known_until

    def start(self) -> None:
        """Begin to ask."""
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self._stopping.set()
        self.thread.join(timeout)

    def refresh(self) -> None:
        """Ask once; without an answer the last one stands for MAX_AGE_SECONDS from when it was asked for."""
        asked_at = self._system.monotonic()
        try:
            found = self._requests.request(ListSubscribers(request_id=""))
        except Unavailable as exc:
            log.debug("subscribers not known", module="orders", reason=exc.detail)
            return
        self._users, self._all = frozenset(found.user_ids), found.all_users
        self._known_until = asked_at + MAX_AGE_SECONDS

    def set_gauges(self) -> None:
        """Set the gauge of the module that does not answer."""
        metrics.webhooks_unreachable.set(self._system.monotonic() > self._known_until)

    def run(self) -> None:
        """Ask until the module stops: the work of the thread."""
        while not self._stopping.is_set():
            self.thread.beat()
            self.refresh()
            self._system.wait(self._stopping, INTERVAL_SECONDS)
