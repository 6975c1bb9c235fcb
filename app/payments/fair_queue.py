"""Payments under lease that wait for a thread, taken in turn across users."""

import threading
from collections import OrderedDict, deque

from app.payments.repository import LeasedPayment


class FairQueue:
    """A queue in which a user's second payment waits until every other user's first has been taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_user: OrderedDict[str, deque[LeasedPayment]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def of_user(self, user_id: str) -> int:
        """How many payments of a user wait."""
        return len(self._by_user.get(user_id, ()))

    def put(self, held: LeasedPayment) -> None:
        """Add a payment."""
        with self._lock:
            self._by_user.setdefault(held.payment.user_id, deque()).append(held)
            self._length += 1

    def take(self) -> LeasedPayment | None:
        """The next payment; None where none waits."""
        with self._lock:
            return self._take() if self._length else None

    def clear(self) -> list[LeasedPayment]:
        """All payments that wait; the queue is empty afterwards."""
        with self._lock:
            return [self._take() for _ in range(self._length)]

    def _take(self) -> LeasedPayment:
        user_id, waiting = self._by_user.popitem(last=False)
        held = waiting.popleft()
        self._length -= 1
        if waiting:
            self._by_user[user_id] = waiting
        return held
