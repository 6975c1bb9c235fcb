"""Handlers of the requests that read payments."""

from app.contracts.base import Backlog, OrderIds, QueueCounts, WaitsFor, rfc3339
from app.contracts.payments import (
    Attempt,
    Attempts,
    CheckPaymentBacklog,
    CheckPaymentQueue,
    ExplainPayment,
    ListAttempts,
    ListStuckPayments,
    PaymentExplanation,
    PaymentStatus,
)
from app.messaging.handlers import handles
from app.messaging.outbox import Outbox
from app.payments.documents import PaymentDiagnostics
from app.payments.repository import PaymentRepository
from app.storage.mongodb import Document

NOT_RECEIVED = PaymentExplanation(
    known=False,
    attempts=0,
    next_attempt_at="",
    waits_for="the relay",
    sentence="payments has not received it yet",
)


class PaymentQueries:
    """Answers requests about payments. Counts end at `limit`; so much unfinished work is too much to accept more."""

    def __init__(self, payments: PaymentRepository, outbox: Outbox, limit: int) -> None:
        self._payments = payments
        self._outbox = outbox
        self._limit = limit

    @handles(CheckPaymentBacklog)
    def check_backlog(self, _request: CheckPaymentBacklog) -> Backlog:
        """Return how far payments are behind."""
        due, oldest_ms = self._payments.backlog(self._limit)
        unfinished = self._payments.count_unfinished(self._limit) + self._outbox.unfinished(self._limit)
        return Backlog(due=due, oldest_ms=oldest_ms, overloaded=unfinished >= self._limit, unfinished=unfinished)

    @handles(CheckPaymentQueue)
    def check_queue(self, _request: CheckPaymentQueue) -> QueueCounts:
        """Count the open payments; results that wait for another delivery count as retried later."""
        opened, due, retrying, parked = self._payments.count_queue(self._limit)
        _, _, undelivered, dead = self._outbox.queue(self._limit)
        return QueueCounts(open=opened, due=due, retrying=retrying + undelivered, parked=parked, dead=dead)

    @handles(ListStuckPayments)
    def list_stuck(self, request: ListStuckPayments) -> OrderIds:
        """List orders whose payment takes too long, or whose result cannot be delivered."""
        overdue, limit = request.overdue_ms / 1000, request.limit
        stuck = (
            self._outbox.find_stuck(True, 0.0, limit + 1)
            if request.dead
            else self._payments.find_stuck(overdue, limit + 1)
        )
        return OrderIds(order_ids=tuple(stuck[:limit]), more=len(stuck) > limit)

    @handles(ListAttempts)
    def list_attempts(self, request: ListAttempts) -> Attempts:
        """List the provider calls of a payment and their answers."""
        entries = self._payments.attempts(request.order_id, request.on_behalf_of)
        return Attempts(attempts=tuple(_attempt(entry) for entry in entries))

    @handles(ExplainPayment)
    def explain(self, request: ExplainPayment) -> PaymentExplanation:
        """Explain the state of an order's payment, and what it waits for."""
        diagnostics = self._payments.diagnostics(request.order_id, request.on_behalf_of)
        if diagnostics is None:
            return NOT_RECEIVED
        waits_for, sentence = _explained(diagnostics)
        return PaymentExplanation(
            known=True,
            attempts=diagnostics.attempts,
            next_attempt_at=rfc3339(diagnostics.next_at) if diagnostics.next_at else "",
            waits_for=waits_for,
            sentence=sentence,
        )


# Who ends the wait of a payment that the provider has accepted.
WAITS_FOR: dict[str, WaitsFor] = {
    PaymentStatus.ACTION_REQUIRED: "the customer",
    PaymentStatus.PENDING: "the provider",
    PaymentStatus.AUTHORIZED: "a capture",
}
WAITING_SENTENCES = {
    PaymentStatus.ACTION_REQUIRED: "the customer must confirm its payment",
    PaymentStatus.PENDING: "the provider has accepted its payment and does not know the outcome yet",
    PaymentStatus.AUTHORIZED: "its total is authorized and waits to be captured",
}


def _waiting_sentence(diagnostics: PaymentDiagnostics) -> str:
    until = rfc3339(diagnostics.waits_until) if diagnostics.waits_until else ""
    asked = f", the provider is asked again at {rfc3339(diagnostics.next_at)}" if diagnostics.next_at else ""
    return f"{WAITING_SENTENCES[diagnostics.status]} until {until}, or it is voided{asked}"


def _explained(diagnostics: PaymentDiagnostics) -> tuple[WaitsFor, str]:
    so_far = f"{diagnostics.attempts} {'attempt' if diagnostics.attempts == 1 else 'attempts'} so far"
    if diagnostics.dead_letter:
        return "an operator", "the result of its payment could not be delivered to orders and waits for an operator"
    if diagnostics.parked:
        return "an operator", f"its payment waits for an operator ({diagnostics.parked}), {so_far}"
    if diagnostics.status in WAITS_FOR and diagnostics.waits_until:
        return WAITS_FOR[diagnostics.status], _waiting_sentence(diagnostics)
    if diagnostics.status == PaymentStatus.DISPUTED:
        return "the payer's bank", "its charge is disputed, or lost to a dispute, so nothing of it is refunded"
    if diagnostics.under_way:
        return "the provider", f"the provider is being called, {so_far}"
    if diagnostics.next_at:
        return "the provider", f"the provider is called next at {rfc3339(diagnostics.next_at)}, {so_far}"
    if diagnostics.undelivered:
        return "the relay", "the result of its payment is on its way to orders"
    return "", "nothing is left to do for its payment"


def _attempt(entry: Document) -> Attempt:
    return Attempt(
        attempt=entry["attempt"],
        at=rfc3339(entry["at"]),
        call=entry["call"],
        answer=entry["answer"],
        reason=entry["reason"],
        took_us=round(entry["tookMs"] * 1000),
        request_id=entry.get("requestId", ""),
    )
