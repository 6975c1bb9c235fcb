"""The database's clock, which a test moves on."""

from datetime import datetime, timedelta
from typing import Any


class MovableClock:
    """The clock of a store, ahead by what it was moved."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._ahead = timedelta()

    def now(self) -> datetime:
        return self._real.now() + self._ahead

    def move(self, by: timedelta) -> None:
        self._ahead += by
