"""Notifications of the payment provider: verified, stored, then taken as a reason to refresh the payment.

What a notification says decides nothing. It may come early, late, twice, out of order or never: the refresh that follows
shows what is true, under the payment's lease and by the same compare-and-set as every other change.
"""

import threading
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

from app.contracts.base import Unavailable
from app.contracts.payments import (
    NotificationRejected,
    NotificationsReceived,
    ReceiveNotifications,
    UnknownProvider,
)
from app.messaging.handlers import handles
from app.observability import metrics
from app.observability.logging import log
from app.observability.supervision import BackgroundThread
from app.payments.notification_repository import NotificationRepository
from app.payments.provider_port import NotificationRefused, Provider, ProviderNotification
from app.payments.repository import PaymentRepository
from app.payments.results import ResultWriter
from app.storage.mongodb import Document
from app.system import SYSTEM, System


class NotificationService:
    """Receives notifications, and applies them in a background thread."""

    BATCH = 128
    # A notification may come before its payment has stored the provider's id.
    MAX_WAIT_SECONDS = 86_400.0
    MIN_WAIT_SECONDS = 1.0

    def __init__(
        self,
        provider: Provider,
        notifications: NotificationRepository,
        payments: PaymentRepository,
        results: ResultWriter,
        *,
        interval: float,
        system: System = SYSTEM,
    ) -> None:
        self._provider = provider
        self._notifications = notifications
        self._payments = payments
        self._results = results
        self._interval = interval
        self._system = system
        self._received = threading.Event()
        self._stopping = threading.Event()
        # An alert on an increase needs the series to exist before the first increment.
        metrics.provider_notifications.labels("refused")
        self.thread = BackgroundThread("payments-notifications", self.run)

    @handles(ReceiveNotifications)
    def receive(self, request: ReceiveNotifications) -> NotificationsReceived:
        """Verify the notifications of a request and store them. Raises UnknownProvider and NotificationRejected."""
        capabilities = self._provider.capabilities
        if request.provider != capabilities.name or not capabilities.notifies:
            raise UnknownProvider("no payment provider of this name sends notifications here")
        notifications = self._verified(b64decode(request.body), _by_name(request.headers))
        stored = self._notifications.insert(notifications, request.request_id)
        _count(received=stored, repeated=len(notifications) - stored)
        if stored:
            self._received.set()
        return NotificationsReceived(stored=stored, repeated=len(notifications) - stored)

    def deliver(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Receive a notification of a provider that is part of this process. Raises what `receive` raises."""
        self.receive(
            ReceiveNotifications(
                request_id="",
                provider=self._provider.capabilities.name,
                headers=tuple(f"{name.lower()}: {value}" for name, value in headers.items()),
                body=b64encode(body).decode(),
            )
        )

    def start(self) -> None:
        """Start to apply notifications."""
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """End the thread; what is not applied stays stored."""
        self._stopping.set()
        self._received.set()
        self.thread.join(timeout)

    def run(self) -> None:
        """Apply notifications until the module stops: the work of its thread."""
        while not self._stopping.is_set():
            self.thread.beat()
            self._received.clear()
            more = False
            try:
                more = self.apply_due() == self.BATCH
            except Unavailable as exc:
                log.warning("notifications postponed", module="payments", reason=exc.detail)
            if not more:
                self._system.wait(self._received, self._interval)

    def apply_due(self) -> int:
        """Apply the notifications that are due; returns how many."""
        due = self._notifications.due(self.BATCH)
        for doc in due:
            try:
                self._apply(doc)
            except Unavailable:
                raise
            except Exception:
                log.exception("notification not applied", module="payments", event_id=doc["_id"])
                self._postpone(doc)
        return len(due)

    def refresh(self, order_id: str, request_id: str = "") -> bool:
        """Read the provider's record of an order's payment as soon as possible; false where there is no payment.

        `request_id` is the HTTP request that caused it.
        """
        if not self._results.request_refresh(order_id, request_id):
            return False
        self._results.work_due.set()
        return True

    def _verified(self, body: bytes, headers: dict[str, str]) -> tuple[ProviderNotification, ...]:
        try:
            return self._provider.notifications(body, headers)
        except NotificationRefused as exc:
            reason = str(exc)
        except Unavailable:
            raise
        except Exception:
            # Whatever a hostile request does to the provider's own library, it is no notification.
            log.exception("notification not verified", module="payments")
            reason = "it cannot be read"
        _count(refused=1)
        log.warning("notification refused", module="payments", reason=reason)
        raise NotificationRejected(f"this is no notification of the provider: {reason}")

    def _apply(self, doc: Document) -> None:
        order_id = doc["orderId"] or self._payments.find_order_id(doc["reference"])
        if order_id and self.refresh(order_id, doc.get("requestId", "")):
            self._finish(doc, "applied")
        else:
            self._postpone(doc)

    def _postpone(self, doc: Document) -> None:
        waited = (self._notifications.now() - doc["receivedAt"]).total_seconds()
        if waited < self.MAX_WAIT_SECONDS:
            self._notifications.postpone(doc["_id"], max(waited, self.MIN_WAIT_SECONDS))
            return
        log.warning("notification without payment", module="payments", event_id=doc["_id"], reference=doc["reference"])
        self._finish(doc, "unmatched")

    def _finish(self, doc: Document, outcome: str) -> None:
        self._notifications.finish(doc["_id"], outcome)
        _count(**{outcome: 1})


def _by_name(headers: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition(": ") for line in headers)}


def _count(**outcomes: int) -> None:
    for outcome, count in outcomes.items():
        if count:
            metrics.provider_notifications.labels(outcome).inc(count)
