"""Back-pressure: no new orders while the backlog is longer than what can be processed soon."""

import time

from app.contracts.base import Backlog, Overloaded, Request, Unavailable
from app.contracts.orders import CheckOrderBacklog
from app.contracts.payments import CheckPaymentBacklog
from app.messaging.bus import RequestClient
from app.observability import metrics
from app.observability.logging import log

CHECK_INTERVAL_SECONDS = 1.0
MAX_RETRY_AFTER = 60


class Admission:
    """Checks the backlogs at most once a second, independent of the number of requests."""

    def __init__(self, bus: RequestClient) -> None:
        self._bus = bus
        self._checked_at = 0.0
        self._overload: Backlog | None = None

    def check(self) -> None:
        """Admit a new order, or raise Overloaded. An unknown backlog admits: orders must work while payments are down."""
        now = time.monotonic()
        if now - self._checked_at > CHECK_INTERVAL_SECONDS:
            self._checked_at = now
            self._overload = self._find_overload()
        if self._overload:
            metrics.orders_rejected.inc()
            retry_after = max(1, min(MAX_RETRY_AFTER, self._overload.oldest_ms // 1000))
            raise Overloaded("too many orders wait for their payment", retry_after=retry_after)

    def _find_overload(self) -> Backlog | None:
        # Orders' own backlog bounds the outbox while payments do not answer.
        backlogs = (self._backlog(CheckPaymentBacklog(request_id="")), self._backlog(CheckOrderBacklog(request_id="")))
        overload = next((backlog for backlog in backlogs if backlog and backlog.overloaded), None)
        if overload:
            log.warning(
                "overloaded",
                module="gateway",
                due=overload.due,
                unfinished=overload.unfinished,
                oldest_ms=overload.oldest_ms,
            )
        return overload

    def _backlog(self, message: Request[Backlog]) -> Backlog | None:
        try:
            return self._bus.request(message)
        except Unavailable:
            return None
