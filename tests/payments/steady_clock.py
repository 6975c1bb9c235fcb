"""The database's clock, as tests need it that compare times."""

from contextlib import suppress
from datetime import datetime
from typing import Any

from app.contracts.base import Unavailable


class SteadyClock:
    """The database's clock, except that it never steps back by the millisecond that a late heartbeat makes."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._latest = self._first()

    def _first(self) -> datetime:
        """The first answer, which a busy machine may keep waiting."""
        for _ in range(10):
            with suppress(Unavailable):
                return self._clock.now()
        return self._clock.now()

    def now(self) -> datetime:
        self._latest = max(self._latest, self._clock.now())
        return self._latest
