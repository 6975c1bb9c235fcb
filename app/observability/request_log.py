"""One line for each HTTP request, as far as the setting REQUEST_LOG asks for it."""

import random
from typing import Any

from app.observability import logging

ALL, FAILED, OFF = "all", "failed", "off"
SHARES = {ALL: 1.0, FAILED: 0.0, OFF: 0.0}
FAILED_FROM = 400


class RequestLogger:
    """Writes lines `request`. `setting` is `all`, `failed`, `off`, or the share of the requests that did not fail, as text."""

    def __init__(self, setting: str) -> None:
        self._failed = setting != OFF
        self._share = SHARES[setting] if setting in SHARES else float(setting)

    def wants(self, status: int) -> bool:
        """Whether a request that was answered with this status gets a line."""
        if status >= FAILED_FROM:
            return self._failed
        # A share of the lines, and no secret.
        return self._share > 0.0 and (self._share >= 1.0 or random.random() < self._share)  # noqa: S311  # nosec B311

    def write(self, record: dict[str, Any]) -> None:
        """Write the line of one request, at level info."""
        logging.write_lines("request", [record])
