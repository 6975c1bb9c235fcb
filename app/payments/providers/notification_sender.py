"""Sends the notifications of the simulated provider as a real one does: signed, at least once, some time after the fact."""

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta

from app.contracts.base import ApplicationError, Unavailable
from app.observability.logging import log
from app.observability.supervision import BackgroundThread
from app.payments.providers import entries, signed_notifications
from app.payments.providers.ledger import Ledger
from app.payments.providers.signed_notifications import NotificationMessage
from app.storage.mongodb import Document
from app.system import SYSTEM, System

# Takes the body and the headers of a notification. Raises ApplicationError where it is not taken.
Deliver = Callable[[bytes, Mapping[str, str]], object]


class NotificationSender:
    """Lets entries change that are due to change by themselves, and delivers the notices of all changes."""

    BATCH = 50
    INTERVAL_SECONDS = 1.0
    RETRY_AFTER = timedelta(seconds=30)

    def __init__(self, ledger: Ledger, deliver: Deliver, system: System = SYSTEM) -> None:
        self._ledger = ledger
        self._deliver = deliver
        self._system = system
        self._due = threading.Event()
        self._stopping = threading.Event()
        self.thread = BackgroundThread("simulated-notifications", self.run)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def wake(self) -> None:
        """Send at once what is due."""
        self._due.set()

    def stop(self, timeout: float) -> None:
        """End the thread; what is not sent stays stored."""
        self._stopping.set()
        self.wake()
        self.thread.join(timeout)

    def run(self) -> None:
        """Send until stopped: the work of the thread."""
        while not self._stopping.is_set():
            self.thread.beat()
            self._due.clear()
            try:
                self.send_due()
            except Unavailable as exc:
                log.warning("notifications of the simulated provider postponed", module="payments", reason=exc.detail)
            self._system.wait(self._due, self.INTERVAL_SECONDS)

    def send_due(self) -> None:
        """Let entries change, and deliver what is due."""
        for entry in self._ledger.find_changing(self.BATCH):
            self._ledger.settled(entry)
        for entry, notices in self._ledger.claim_notices(self.BATCH, self._ledger.now() + self.RETRY_AFTER):
            delivered = [notice["id"] for notice in notices if self._is_delivered(entry, notice)]
            self._ledger.remove_notices(entry["_id"], delivered)

    def _is_delivered(self, entry: Document, notice: Document) -> bool:
        message = NotificationMessage(
            id=notice["id"], type=notice["type"], reference=entries.reference(entry), order_id=entry["orderId"]
        )
        try:
            self._deliver(*signed_notifications.encode(message, self._ledger.secret(), self._ledger.now()))
        except ApplicationError as exc:
            log.warning("notification not delivered", module="payments", order_id=entry["orderId"], reason=exc.detail)
            return False
        return True
