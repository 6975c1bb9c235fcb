"""Handlers of the requests that operators make: parked payments and dead letters."""

from app.contracts.base import DeadLetterList, DeadLetterRequeued, Money, NotPossible, rfc3339
from app.contracts.payments import (
    DropRefund,
    ListParkedPayments,
    ListPaymentDeadLetters,
    ParkedPayment,
    ParkedPaymentList,
    PaymentReviewed,
    ReplayPaymentEvents,
    ResolvePayment,
    RetryPayment,
)
from app.messaging.dead_letters import list_dead_letters
from app.messaging.handlers import handles
from app.messaging.outbox import Outbox
from app.observability.logging import log
from app.payments.documents import LeasedPayment
from app.payments.manual_review import ManualReview
from app.payments.provider_port import ResponseCode
from app.payments.results import ResultWriter

OUTCOMES = (ResponseCode.CAPTURED, ResponseCode.DECLINED, ResponseCode.VOIDED, ResponseCode.REFUNDED)


class ReviewService:
    """Lists what waits for an operator, and carries out what the operator asks for."""

    def __init__(self, review: ManualReview, outbox: Outbox, results: ResultWriter) -> None:
        self._review = review
        self._outbox = outbox
        self._results = results

    @handles(ListParkedPayments)
    def list_parked(self, request: ListParkedPayments) -> ParkedPaymentList:
        """List parked payments."""
        found = self._review.list_parked(request.limit + 1, request.after_id)
        return ParkedPaymentList(
            payments=tuple(self._parked(one) for one in found[: request.limit]), more=len(found) > request.limit
        )

    @handles(RetryPayment)
    def retry(self, request: RetryPayment) -> PaymentReviewed:
        """Raises NotFound and NotPossible."""
        status = self._review.retry(request.order_id, request.operator, request.reason, request.request_id)
        return PaymentReviewed(payment_status=status)

    @handles(ResolvePayment)
    def resolve(self, request: ResolvePayment) -> PaymentReviewed:
        """Raises NotFound and NotPossible."""
        if request.outcome not in OUTCOMES:
            raise NotPossible(f"a payment cannot be resolved as {request.outcome}")
        status = self._review.resolve(
            request.order_id,
            ResponseCode(request.outcome),
            request.reference,
            request.operator,
            request.reason,
            request.request_id,
        )
        return PaymentReviewed(payment_status=status)

    @handles(DropRefund)
    def drop_refund(self, request: DropRefund) -> PaymentReviewed:
        """Raises NotFound and NotPossible."""
        status = self._review.drop_refund(
            request.order_id, request.refund_id, request.operator, request.reason, request.request_id
        )
        return PaymentReviewed(payment_status=status)

    @handles(ListPaymentDeadLetters)
    def list_dead_letters(self, request: ListPaymentDeadLetters) -> DeadLetterList:
        """List events of payments that could not be delivered."""
        return list_dead_letters((self._outbox,), "payments", request.limit)

    @handles(ReplayPaymentEvents)
    def replay(self, request: ReplayPaymentEvents) -> DeadLetterRequeued:
        """Have them delivered again."""
        requeued = self._results.replay(request.order_id, request.operator, request.reason, request.request_id)
        if requeued:
            members = {name: getattr(request, name) for name in ("order_id", "request_id", "operator", "reason")}
            log.info("dead letter replayed", module="payments", **members)
        return DeadLetterRequeued(requeued=requeued)

    def _parked(self, parked: LeasedPayment) -> ParkedPayment:
        payment, call, ends = parked.payment, self._review.pending_call(parked), self._review.call_ends(parked)
        now, since = self._review.now(), parked.last_result_at or payment.requested_at
        return ParkedPayment(
            order_id=payment.order_id,
            user_id=payment.user_id,
            amount=Money(call.value if call else payment.total.value, payment.total.currency),
            payment_status=payment.status,
            since=rfc3339(since),
            age_seconds=max(0, int((now - since).total_seconds())),
            reason=payment.parked_reason,
            pending_call=call.kind.value if call else "",
            provider_key=call.key if call else "",
            provider_reference=payment.reference,
            attempts=payment.fencing_token,
            last_answer=parked.last_answer,
            call_ends=rfc3339(ends) if ends and now < ends else "",
            refund_id=payment.open_refund.refund_id if payment.open_refund else "",
        )
