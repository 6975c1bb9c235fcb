"""A bound on how many orders of one user may wait for the outcome of their payment."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from app.contracts.orders import TooManyOpenOrders
from app.system import SYSTEM, System

Count = Callable[[str, int], int]


@dataclass
class _UserCount:
    """How many orders of a user this process has accepted since the last count, and until when it refuses more."""

    accepted: int = 0
    refused_until: float = 0.0


class OpenOrderLimit:
    """Refuses new orders of a user who has `limit` open ones; `count` counts them in the database up to a limit.

    The count is repeated after each eighth of the limit that this process accepts. Most orders therefore need no further
    command, and each process may exceed the limit by an eighth.
    """

    REFUSED_SECONDS = 1.0
    USERS_LIMIT = 4096

    def __init__(self, count: Count, limit: int, system: System = SYSTEM) -> None:
        self._system = system
        self._count = count
        self._limit = limit
        self._unchecked = max(1, limit // 8)
        self._users: OrderedDict[str, _UserCount] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, user_id: str) -> None:
        """Count one more order of the user. Raises TooManyOpenOrders, or Unavailable if the database cannot count."""
        user = self._user(user_id)
        if self._system.monotonic() < user.refused_until:
            raise self._refusal()
        if user.accepted >= self._unchecked:
            self._recount(user_id, user)
        user.accepted += 1

    def _recount(self, user_id: str, user: _UserCount) -> None:
        if self._count(user_id, self._limit) >= self._limit:
            user.refused_until = self._system.monotonic() + self.REFUSED_SECONDS
            raise self._refusal()
        user.accepted = 0

    def _refusal(self) -> TooManyOpenOrders:
        detail = f"{self._limit} orders of this user wait for their payment; no more are accepted at the moment"
        return TooManyOpenOrders(detail, retry_after=int(self.REFUSED_SECONDS))

    def _user(self, user_id: str) -> _UserCount:
        with self._lock:
            user = self._users.setdefault(user_id, _UserCount())
            self._users.move_to_end(user_id)
            if len(self._users) > self.USERS_LIMIT:
                self._users.popitem(last=False)
            return user
