"""One run of a scenario: the point at which it ends, the signal, and the settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.config import Settings

KILL, STOP = "SIGKILL", "SIGSTOP"
# Longer than each lease below: a command that fails, or that is executed after its process died, leaves work until a lease ends.
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One scenario that ends at one point; without a point the run lists all points.

    With `swept`, events are delivered as by a relay's sweep, with an immediate acknowledgement, otherwise as from its local
    queue, with a delayed one. `late` is the delay in seconds of database replies to all threads but the first. `receiver` is where
    webhooks go.
    """

    scenario: str
    uri: str = ""
    database: str = ""
    point: str = ""
    death: str = KILL
    variant: str = ""
    swept: bool = False
    late: float = 0.0
    receiver: str = ""

    @property
    def name(self) -> str:
        """The name in failure messages."""
        path = ", handed over by sweeps" if self.swept else ""
        return f"{self.scenario}{path}: {self.death} at {self.point or 'no point'}"


def settings_for(cell: Cell, more: Mapping[str, Any]) -> Settings:
    """Deadlines that hold on a busy machine, fast retries, and the settings of the scenario."""
    defaults = {
        "request_deadline": 10.0,
        "background_deadline": 10.0,
        "payment_timeout": 9.0,
        "payment_lease": 30.0,
        "payment_threads": 2,
        "payment_backoff": 0.02,
        "payment_backoff_max": 0.1,
        "relay_lease": 30.0,
        "sweep_interval": 0.05,
        "allow_unsafe": "webhook_http",
        "log_format": "json",
        "log_level": "error",
    }
    return Settings(**{**defaults, **more}, mongodb_uri=cell.uri, database=cell.database)
