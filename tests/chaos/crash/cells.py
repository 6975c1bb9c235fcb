"""One run of a scenario: which point ends it, how, and with which settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.config import Settings

KILL, STOP = "SIGKILL", "SIGSTOP"
PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One scenario that ends at one point; without a point the run lists the points there are.

    `swept` hands events over as the sweep of a relay does, with an acknowledgement at once; otherwise they go as a
    relay hands over what it was hinted, with a delayed acknowledgement. `late` is by how many seconds replies of the
    database reach the process's other threads later than its first one.
    """

    scenario: str
    uri: str = ""
    database: str = ""
    point: str = ""
    death: str = KILL
    sabotage: str = ""
    swept: bool = False
    late: float = 0.0

    @property
    def name(self) -> str:
        """The name that a failure shows."""
        path = ", handed over by sweeps" if self.swept else ""
        return f"{self.scenario}{path}: {self.death} at {self.point or 'no point'}"


def settings_for(cell: Cell, more: Mapping[str, Any]) -> Settings:
    """Deadlines that a busy machine keeps, retries that come soon, and what the scenario sets besides."""
    usual = {
        "request_deadline": 10.0,
        "background_deadline": 10.0,
        "payment_timeout": 9.0,
        "payment_lease": 30.0,
        "payment_threads": 2,
        "payment_backoff": 0.02,
        "payment_backoff_max": 0.1,
        "relay_lease": 30.0,
        "sweep_interval": 0.05,
        "log_format": "json",
        "log_level": "error",
    }
    return Settings(**{**usual, **more}, mongodb_uri=cell.uri, database=cell.database)
