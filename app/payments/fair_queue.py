"""A queue of leased payments that users share fairly."""

import threading
from collections import OrderedDict, deque

from app.payments.documents import LeasedPayment


class FairQueue:
    """A queue in which a user's second payment comes after every other user's first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_user: OrderedDict[str, deque[LeasedPayment]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def count_of(self, user_id: str) -> int:
        """How many payments of a user are queued."""
        return len(self._by_user.get(user_id, ()))

    def put(self, leased: LeasedPayment) -> None:
        """Add a payment."""
        with self._lock:
            self._by_user.setdefault(leased.payment.user_id, deque()).append(leased)
            self._length += 1

    def get(self) -> LeasedPayment | None:
        """Remove and return the next payment; None where the queue is empty."""
        with self._lock:
            return self._get() if self._length else None

    def clear(self) -> list[LeasedPayment]:
        """Remove and return all payments."""
        with self._lock:
            return [self._get() for _ in range(self._length)]

    def _get(self) -> LeasedPayment:
        user_id, queued = self._by_user.popitem(last=False)
        leased = queued.popleft()
        self._length -= 1
        if queued:
            self._by_user[user_id] = queued
        return leased
