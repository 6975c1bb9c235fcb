"""The database's clock, which a test moves on."""

from datetime import datetime, timedelta
from typing import Any

from tests.payments.steady_clock import SteadyClock


class MovableClock:
    """The clock of a store: it stands still, until it is moved."""

    def __init__(self, real: Any) -> None:
        self._now = SteadyClock(real).now()

    def now(self) -> datetime:
        return self._now

    def move(self, by: timedelta) -> None:
        self._now += by
