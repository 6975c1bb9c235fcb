"""Settings: the environment, read once, validated, frozen. `.env.example` explains each name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


class BadSettings(ValueError):
    """One sentence a line on what in the environment cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be set, with defaults that run on a laptop. Times are in seconds unless the name says otherwise."""

    port: int = 7000
    bind: str = "127.0.0.1"
    mongodb_uri: str | None = None
    database: str = "orderflow"
    data: Path = Path(".orderflow")
    log_format: str = "auto"
    log_level: str = "info"

    request_deadline: float = 1.8
    background_deadline: float = 5.0

    payment_provider: str = "simulated"
    payment_threads: int = 32
    payment_timeout: float = 10.0
    payment_lease: float = 30.0
    payment_tries: int = 12
    payment_horizon: float = 20 * 3600.0
    provider_key_hours: float = 24.0
    payment_backoff: float = 2.0
    payment_backoff_max: float = 300.0

    breaker_failures: int = 10
    breaker_recovery: float = 10.0
    backlog_limit: int = 10_000
    idempotency_hours: float = 24.0

    relay_lease: float = 10.0
    relay_tries: int = 8
    sweep_interval: float = 1.0

    simulated_unknown_product: str = "decline"
    simulated_latency_ms: int = 0
    simulated_fail_percent: int = 0
    simulated_timeout_before_percent: int = 0
    simulated_timeout_after_percent: int = 0

    def __post_init__(self) -> None:
        wrong = [sentence for holds, sentence in self._rules() if not holds]
        if wrong:
            raise BadSettings("\n".join(wrong))

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """The settings that `environ` names. Raises BadSettings.

        An empty value counts as not set. `NAME_FILE` names a file that holds the value of `NAME`, as Docker hands
        secrets over.
        """
        given: dict[str, Any] = {}
        wrong: list[str] = []
        for field in fields(cls):
            name = env_name(field.name)
            try:
                text = _value(environ, name)
                if text:
                    given[field.name] = KINDS.get(field.type, str)(text)
            except ValueError:
                wrong.append(f"{name} must be a number")
            except OSError as exc:
                wrong.append(f"{name}_FILE cannot be read: {exc.strerror}")
        try:
            settings = cls(**given)
        except BadSettings as exc:
            wrong.append(str(exc))
        if wrong:
            raise BadSettings("\n".join(wrong))
        return settings

    def _rules(self) -> list[tuple[bool, str]]:
        least_lease = self.payment_timeout + 2 * self.background_deadline
        percents = [
            self.simulated_fail_percent,
            self.simulated_timeout_before_percent,
            self.simulated_timeout_after_percent,
        ]
        times = [(field.name, getattr(self, field.name)) for field in fields(self) if field.type is float]
        return [
            *((0 < value < math.inf, f"{env_name(name)} must be a number above 0") for name, value in times),
            (self.simulated_latency_ms >= 0, "SIMULATED_LATENCY_MS must not be below 0"),
            (0 <= self.port <= 65535, f"PORT is {self.port}: a port lies between 0 and 65535"),
            (self.log_format in LOG_FORMATS, f"LOG_FORMAT is {self.log_format!r}: use one of {LOG_FORMATS}"),
            (self.log_level in LOG_LEVELS, f"LOG_LEVEL is {self.log_level!r}: use one of {LOG_LEVELS}"),
            (1 <= self.payment_threads <= 512, "PAYMENT_THREADS must lie between 1 and 512"),
            (self.payment_tries >= 1, "PAYMENT_TRIES must be at least 1"),
            (
                self.payment_horizon < self.provider_key_hours * 3600,
                "PAYMENT_HORIZON must end before the provider forgets its keys (PROVIDER_KEY_HOURS)",
            ),
            (self.relay_tries >= 1, "RELAY_TRIES must be at least 1"),
            (self.breaker_failures >= 1, "BREAKER_FAILURES must be at least 1"),
            (self.backlog_limit >= 1, "BACKLOG_LIMIT must be at least 1"),
            (
                self.payment_lease > least_lease,
                f"PAYMENT_LEASE must outlast PAYMENT_TIMEOUT and two BACKGROUND_DEADLINEs: {least_lease:g} s",
            ),
            (
                self.simulated_unknown_product in ("decline", "capture"),
                "SIMULATED_UNKNOWN_PRODUCT must be decline or capture",
            ),
            (
                all(0 <= percent <= 100 for percent in percents) and sum(percents) <= 100,
                "SIMULATED_…_PERCENT must lie between 0 and 100, and together not exceed 100",
            ),
        ]


LOG_FORMATS = ("auto", "console", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
ENV_NAMES = {"data": "ORDERFLOW_DATA", "database": "MONGODB_DATABASE"}


def env_name(field: str) -> str:
    """The environment's name for a setting."""
    return ENV_NAMES.get(field, field.upper())


KINDS: dict[Any, Callable[[str], Any]] = {int: int, float: float, Path: Path}


def _value(environ: Mapping[str, str], name: str) -> str:
    file = environ.get(f"{name}_FILE", "").strip()
    return environ.get(name, "").strip() or (Path(file).read_text().strip() if file else "")
