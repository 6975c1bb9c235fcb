"""Copies of the application in which a notification decides about a payment."""

from typing import Any

from app.payments import provider_calls, provider_responses
from app.payments.documents import LeasedPayment
from app.payments.notifications import NotificationService
from app.payments.provider_port import ProviderResponse, ResponseCode


def payload_of_a_notification_decides() -> None:
    """A notification that says captured is recorded as that, and the provider's record is not read."""
    usual = NotificationService._apply

    def apply(self: Any, doc: dict[str, Any]) -> None:
        current = self._payments.find(doc["orderId"])
        if doc["type"] != "payment.captured" or current is None:
            usual(self, doc)
            return
        _record(self, current, ProviderResponse(code=ResponseCode.CAPTURED, reference=doc["reference"]))
        self._finish(doc, "applied")

    NotificationService._apply = apply


def worker_and_notification_decide() -> None:
    """A notification reads the provider's record and records it, also while the worker waits for an answer."""

    def apply(self: Any, doc: dict[str, Any]) -> None:
        current = self._payments.find(doc["orderId"])
        call = provider_calls.retrieval(current.payment, doc["reference"])
        _record(self, current, self._provider.retrieve(call))
        self._finish(doc, "applied")

    NotificationService._apply = apply


def _record(service: Any, current: LeasedPayment, response: ProviderResponse) -> None:
    results, payment = service._results, current.payment
    call = provider_calls.retrieval(payment, response.reference)
    decision = provider_responses.apply_response(payment, call, response, 0.0, results._policy, results._payments.now())
    results.save(current, decision)


VARIANTS = {one.__name__: one for one in (payload_of_a_notification_decides, worker_and_notification_decide)}
