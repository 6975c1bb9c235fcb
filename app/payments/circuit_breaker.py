"""A circuit breaker that counts failures of the latest calls, and the users whose latest call failed."""

import threading
from collections import OrderedDict, deque

from app.system import SYSTEM, System


class CircuitBreaker:
    """Opens when `failures` of the latest 2 x `failures` calls have failed, for most users of the last minute.

    One user whose calls all fail does not open it while another user's calls succeed. After `recovery` seconds it is half
    open: the next call closes it by succeeding, or opens it again by failing.
    """

    USER_SECONDS = 60.0
    MAX_USERS = 1024

    def __init__(self, failures: int, recovery: float, system: System = SYSTEM) -> None:
        self._system = system
        self._failures = failures
        self._recovery = recovery
        self._latest: deque[bool] = deque(maxlen=2 * failures)
        self._users: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        self._opened_at: float | None = None
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether no call is allowed."""
        opened_at = self._opened_at
        return opened_at is not None and self._system.monotonic() < opened_at + self._recovery

    @property
    def half_open(self) -> bool:
        """Whether one call may find out if calls succeed again."""
        return self._opened_at is not None and not self.open

    def record(self, user_id: str, failed: bool) -> None:
        """Count the outcome of a user's call."""
        with self._lock:
            if self.half_open and not failed:
                self._opened_at = None
                self._latest.clear()
            self._latest.append(failed)
            self._remember(user_id, failed)
            if self.half_open or (failed and not self.open and self._most_calls_fail() and self._most_users_fail()):
                self._opened_at = self._system.monotonic()

    def _remember(self, user_id: str, failed: bool) -> None:
        now = self._system.monotonic()
        self._users.pop(user_id, None)
        self._users[user_id] = (failed, now)
        oldest = next(iter(self._users))
        if len(self._users) > self.MAX_USERS or self._users[oldest][1] < now - self.USER_SECONDS:
            del self._users[oldest]

    def _most_calls_fail(self) -> bool:
        return sum(self._latest) >= self._failures

    def _most_users_fail(self) -> bool:
        since = self._system.monotonic() - self.USER_SECONDS
        latest = [failed for failed, at in self._users.values() if at >= since]
        return 2 * sum(latest) > len(latest)
