"""Erases a user's personal data in all modules, and goes on with it after a crash until it is complete."""

import threading
from typing import Any

from app.contracts.base import Unavailable
from app.contracts.orders import EraseOrders, ErasureList, ErasureRecord, ListErasureRecords, OrdersInProgress
from app.contracts.payments import ErasePayments
from app.contracts.webhooks import EraseDeliveries, EraseEndpoints
from app.messaging.bus import RequestClient
from app.messaging.handlers import handles
from app.observability.logging import log
from app.observability.supervision import BackgroundThread
from app.orders.erasure_repository import PAGE, ErasureRepository, PendingErasure
from app.storage.bulk import in_batches
from app.system import SYSTEM, System

INTERVAL_SECONDS = 5.0
# Everything is done twice. What was read before the first round, and is written or published by a request, an event or a provider call that
# was under way, is written by then: longer than any of them takes.
ROUNDS = 2
SECOND_ROUND_SECONDS = 120.0
# How long it is waited for an order that was placed just before the request.
OPEN_ORDER_SECONDS = 30.0


class ErasureService:
    """Takes erasures, and does them in a thread of its own. `webhooks`: whether that module is there.

    Each module erases what it has and confirms that by its reply; without one the erasure is repeated.
    """

    def __init__(
        self, erasures: ErasureRepository, requests: RequestClient, *, webhooks: bool, system: System = SYSTEM
    ) -> None:
        self._erasures = erasures
        self._requests = requests
        self._webhooks = webhooks
        self._system = system
        self._wake = threading.Event()
        self._stopping = False
        self.thread = BackgroundThread("orders-erasures", self.run)

    @handles(EraseOrders)
    def erase(self, request: EraseOrders) -> ErasureRecord:
        """Record an erasure durably; it is done soon after. Raises OrdersInProgress."""
        if self._erasures.has_open_orders(request.user_id, self._erasures.now()):
            raise OrdersInProgress(
                "the money of an order of this user moves, or may move; erase again when it has settled"
            )
        record = self._erasures.add(request)
        log.info(
            "erasure requested",
            module="orders",
            erasure_id=record.id,
            requested_by=record.requested_by,
            request_id=request.request_id,
        )
        self._wake.set()
        return record

    @handles(ListErasureRecords)
    def list_records(self, request: ListErasureRecords) -> ErasureList:
        """The newest erasures."""
        return ErasureList(erasures=tuple(self._erasures.newest(request.limit)))

    def prepare(self) -> None:
        """Create what the collection needs."""
        self._erasures.prepare()

    def start(self) -> None:
        """Begin to look for erasures that are due."""
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """End the thread; what it has begun is taken up by another process, or after the next start."""
        self._stopping = True
        self._wake.set()
        self.thread.join(timeout)

    def run(self) -> None:
        """Do what is due until the module stops: the work of the thread."""
        while not self._stopping:
            self.thread.beat()
            self._wake.clear()
            try:
                while not self._stopping and self.work():
                    self.thread.beat()
            except Unavailable as exc:
                log.debug("erasure is repeated later", module="orders", reason=exc.detail)
            if not self._stopping:
                self._system.wait(self._wake, INTERVAL_SECONDS)

    def work(self) -> bool:
        """Do one round of an erasure that is due; false where none is. Raises Unavailable."""
        job = self._erasures.claim()
        if job is None:
            return False
        if self._erasures.has_open_orders(job.user_id, job.requested_at):
            self._erasures.postpone(job, OPEN_ORDER_SECONDS)
            return True
        orders = self._erase_everywhere(job)
        if job.rounds + 1 < ROUNDS:
            self._erasures.postpone(job, SECOND_ROUND_SECONDS, round_done=True)
        else:
            self._erasures.complete(job, orders)
            log.info("erasure complete", module="orders", erasure_id=job.erasure_id, orders=orders)
        return True

    def _erase_everywhere(self, job: PendingErasure) -> int:
        """How many orders have the pseudonym in the end."""
        # Orders come first: events that are made from then on have the pseudonym.
        self._erasures.pseudonymize(job)
        order_ids = self._erasures.order_ids(job)
        for some in in_batches(order_ids, PAGE):
            self.thread.beat()
            self._erasures.extend(job)
            members: dict[str, Any] = {
                "request_id": job.request_id,
                "pseudonym": job.pseudonym,
                "order_ids": tuple(some),
            }
            self._requests.request(ErasePayments(former_user_id=job.user_id, **members))
            if self._webhooks:
                self._requests.request(EraseDeliveries(**members))
        if self._webhooks:
            self._requests.request(
                EraseEndpoints(request_id=job.request_id, user_id=job.user_id, pseudonym=job.pseudonym)
            )
        return len(order_ids)
