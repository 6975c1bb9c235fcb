"""A bound on how many orders of one user may wait for the outcome of their payment."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from app.contracts.orders import TooManyOpenOrders

Count = Callable[[str, int], int]


@dataclass
class _User:
    """How many orders of a user were accepted since they were counted, and until when further ones are refused."""

    accepted: int = 0
    refused_until: float = 0.0


class OpenOrderLimit:
    """Refuses a user's new orders while `limit` of theirs are open; `count` counts them in the database up to a limit.

    They are counted once for every eighth of the limit that this process accepts, so most orders cost no further
    command and each process may exceed the limit by an eighth.
    """

    REFUSED_SECONDS = 1.0
    MOST_USERS = 4096

    def __init__(self, count: Count, limit: int) -> None:
        self._count = count
        self._limit = limit
        self._unchecked = max(1, limit // 8)
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, user_id: str) -> None:
        """Count one more order of the user. Raises TooManyOpenOrders, and Unavailable where they cannot be counted."""
        user = self._user(user_id)
        if time.monotonic() < user.refused_until:
            raise self._refusal()
        if user.accepted >= self._unchecked:
            self._count_anew(user_id, user)
        user.accepted += 1

    def _count_anew(self, user_id: str, user: _User) -> None:
        if self._count(user_id, self._limit) >= self._limit:
            user.refused_until = time.monotonic() + self.REFUSED_SECONDS
            raise self._refusal()
        user.accepted = 0

    def _refusal(self) -> TooManyOpenOrders:
        detail = f"{self._limit} orders of this user wait to be paid, which is as many as may"
        return TooManyOpenOrders(detail, retry_after=int(self.REFUSED_SECONDS))

    def _user(self, user_id: str) -> _User:
        with self._lock:
            user = self._users.setdefault(user_id, _User())
            self._users.move_to_end(user_id)
            if len(self._users) > self.MOST_USERS:
                self._users.popitem(last=False)
            return user
