"""Back-pressure: no new orders while more is waiting than can be worked off soon."""

import time

from app.contracts.base import Backlog, Overloaded, Request, Unavailable
from app.contracts.orders import CheckOrderBacklog
from app.contracts.payments import CheckPaymentBacklog
from app.messaging.bus import RequestClient
from app.observability import metrics
from app.observability.logging import log

LOOK_SECONDS = 1.0
LONGEST_WAIT = 60


class Admission:
    """Looks at the backlogs once a second at the most, whatever the number of requests."""

    def __init__(self, bus: RequestClient) -> None:
        self._bus = bus
        self._looked = 0.0
        self._full: Backlog | None = None

    def check(self) -> None:
        """Let a new order in, or raise Overloaded. Where nobody can tell, it is let in: orders may outlive payments."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._full = self._look()
        if self._full:
            metrics.orders_rejected.inc()
            wait = max(1, min(LONGEST_WAIT, self._full.oldest_ms // 1000))
            raise Overloaded("more orders are waiting than can be paid for soon", retry_after=wait)

    def _look(self) -> Backlog | None:
        # One at a time: while payments cannot tell, what orders keep for it is what must not grow without end.
        backlogs = (self._backlog(CheckPaymentBacklog(request_id="")), self._backlog(CheckOrderBacklog(request_id="")))
        full = next((backlog for backlog in backlogs if backlog and backlog.overloaded), None)
        if full:
            log.warning(
                "overloaded", module="gateway", due=full.due, unfinished=full.unfinished, oldest_ms=full.oldest_ms
            )
        return full

    def _backlog(self, question: Request[Backlog]) -> Backlog | None:
        try:
            return self._bus.request(question)
        except Unavailable:
            return None
