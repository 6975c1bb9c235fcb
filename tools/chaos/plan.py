"""The plan of a chaos run: its length, its load, its faults, and the settings of the application under it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.chaos.faults import FaultKind
from tools.chaos.server_faults import FIRST, ROUND
from tools.cluster.processes import ROOT

LEASE = 7.0
ENVIRONMENT = {
    "PAYMENT_TIMEOUT": "2",
    "BACKGROUND_DEADLINE": "2",
    "PAYMENT_LEASE": str(LEASE),
    "RELAY_LEASE": "3",
    "PAYMENT_BACKOFF": "0.2",
    "PAYMENT_BACKOFF_MAX": "2",
    "PAYMENT_TRIES": "30",
    # A payment that waits is looked at every few seconds, and voided after some more, within a run.
    "PAYMENT_POLL_MIN": "1",
    "PAYMENT_POLL_MAX": "3",
    "PAYMENT_PENDING_HOURS": "0.004",
    "AUTHORIZATION_DAYS": "0.00015",
    "SIMULATED_DEMONSTRATIONS": "on",
    "BREAKER_RECOVERY": "1",
    "SIMULATED_LATENCY_MS": "150",
    "SIMULATED_FAIL_PERCENT": "8",
    "SIMULATED_TIMEOUT_BEFORE_PERCENT": "6",
    "SIMULATED_TIMEOUT_AFTER_PERCENT": "6",
    # Clients repeat requests after a time jump, which takes no time for them.
    "IDEMPOTENCY_HOURS": "100000",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run of `duration` seconds in which `clients` place `rate` orders a second together.

    `gap` is the shortest and the longest time between two faults in seconds. `kinds` are the faults of one round; the
    `first` ones come first and in their order. `notifications_lost` is the share of the provider's notifications that never arrive.
    """

    seed: int
    duration: float = 120.0
    clients: int = 8
    rate: float = 30.0
    gap: tuple[float, float] = (2.5, 6.5)
    kinds: Sequence[FaultKind] = ROUND
    first: int = FIRST
    notifications_lost: float = 0.3
    environment: Mapping[str, str] = field(default_factory=dict)
    root: Path = ROOT
