"""What payments does when orders has news. Functions of a batch of events and what they need."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from app.contracts.base import Backlog, Event, OrderIds, QueueCounts, Unavailable
from app.contracts.orders import OrderCancelled, OrderCreated, RefundRequested
from app.contracts.payments import (
    Attempt,
    Attempts,
    CheckPaymentBacklog,
    CheckPaymentQueue,
    ExplainPayment,
    ListAttempts,
    ListStuckPayments,
    PaymentExplanation,
)
from app.messaging.outbox import Outbox
from app.observability.stages import Stage, record_stages, stage_record
from app.payments import payment as domain
from app.payments.payment import Payment, PaymentDecision, Refund
from app.payments.repository import PaymentDiagnostics, PaymentRepository
from app.payments.results import Settler
from app.payments.worker import Worker
from app.storage.mongodb import Document

RETRIES = 8


def on_orders_created(events: Sequence[OrderCreated], payments: PaymentRepository, worker: Worker) -> None:
    """Record a payment for each order, under lease, and have it called for; a known order changes nothing."""
    _tell_received(events)
    orders = {event.order_id: event for event in events}
    taken, left = worker.choose([domain.opened(event) for event in orders.values()])
    worker.offer(payments.record([*taken, *left], len(taken)))
    worker.prompt()


def on_orders_cancelled(
    events: Sequence[OrderCancelled], payments: PaymentRepository, settler: Settler, worker: Worker
) -> None:
    """Call off or send back the money of cancelled orders."""
    _tell_received(events)
    for event in events:
        _apply(event, domain.cancelled, payments, settler)
    worker.prompt()


def on_refunds_requested(
    events: Sequence[RefundRequested], payments: PaymentRepository, settler: Settler, worker: Worker
) -> None:
    """Send a part of the captured money back."""
    _tell_received(events)
    for event in events:
        refund = Refund(refund_id=event.refund_id, value=event.refund_value)
        _apply(event, partial(domain.refund_requested, refund=refund), payments, settler)
    worker.prompt()


def check_backlog(_request: CheckPaymentBacklog, payments: PaymentRepository, outbox: Outbox, limit: int) -> Backlog:
    """Tell how far payments are behind."""
    due, oldest_ms = payments.backlog(limit)
    unfinished = payments.unfinished(limit) + outbox.unfinished(limit)
    return Backlog(due=due, oldest_ms=oldest_ms, overloaded=unfinished >= limit, unfinished=unfinished)


def check_queue(_request: CheckPaymentQueue, payments: PaymentRepository, outbox: Outbox, limit: int) -> QueueCounts:
    """Tell which payments are open."""
    in_all, due, retrying, parked = payments.queue(limit)
    _, _, untold, dead = outbox.queue(limit)
    return QueueCounts(open=in_all, due=due, retrying=retrying + untold, parked=parked, dead=dead)


def list_stuck_payments(request: ListStuckPayments, payments: PaymentRepository, outbox: Outbox) -> OrderIds:
    """Tell orders whose payment takes too long, or of whose payment nobody can be told."""
    overdue, limit = request.overdue_ms / 1000, request.limit
    found = outbox.find_stuck(True, 0.0, limit + 1) if request.dead else payments.stuck(overdue, limit + 1)
    return OrderIds(order_ids=tuple(found[:limit]), more=len(found) > limit)


def list_attempts(request: ListAttempts, payments: PaymentRepository) -> Attempts:
    """Tell what the provider was asked and answered."""
    return Attempts(
        attempts=tuple(_attempt(line) for line in payments.attempts(request.order_id, request.on_behalf_of))
    )


def explain_payment(request: ExplainPayment, payments: PaymentRepository) -> PaymentExplanation:
    """Tell where an order's payment stands, and what it waits for."""
    standing = payments.standing(request.order_id, request.on_behalf_of)
    if standing is None:
        return UNHEARD_OF
    waits_for, sentence = _explained(standing)
    return PaymentExplanation(
        known=True,
        attempts=standing.attempts,
        next_attempt_at=_rfc3339(standing.next_at) if standing.next_at else "",
        waits_for=waits_for,
        sentence=sentence,
    )


def _explained(standing: PaymentDiagnostics) -> tuple[str, str]:
    so_far = f"{standing.attempts} {'attempt' if standing.attempts == 1 else 'attempts'} so far"
    if standing.dead:
        return "an operator", "what became of its payment could not be told to orders and waits for an operator"
    if standing.parked:
        return "an operator", f"its payment waits for an operator ({standing.parked}), {so_far}"
    if standing.under_way:
        return "the provider", f"the provider is being asked, {so_far}"
    if standing.next_at:
        return "the provider", f"the provider is asked next at {_rfc3339(standing.next_at)}, {so_far}"
    if standing.undelivered:
        return "the relay", "what became of its payment is on its way to orders"
    return "", "nothing is left to do for its payment"


def _attempt(line: Document) -> Attempt:
    return Attempt(
        attempt=line["attempt"],
        at=_rfc3339(line["at"]),
        call=line["call"],
        answer=line["answer"],
        reason=line["reason"],
        took_us=round(line["tookMs"] * 1000),
    )


def _apply(
    event: Event, decide: Callable[[Payment], PaymentDecision], payments: PaymentRepository, settler: Settler
) -> None:
    for _ in range(RETRIES):
        held = payments.find(event.order_id)
        if held is None:
            raise LookupError(f"order {event.order_id} has no payment")
        if event.sequence <= held.payment.order_sequence:
            return
        if settler.record(held, domain.caused_by(held.payment, decide(held.payment), event)):
            return
    raise Unavailable(f"the payment of order {event.order_id} changed again and again meanwhile")


def _rfc3339(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


UNHEARD_OF = PaymentExplanation(
    known=False,
    attempts=0,
    next_attempt_at="",
    waits_for="the relay",
    sentence="payments has not heard of it yet",
)


def _tell_received(events: Sequence[Event]) -> None:
    now = time.time() * 1000
    record_stages(
        Stage.PAYMENTS_RECEIVED,
        [
            stage_record(
                module="payments",
                order_id=event.order_id,
                request_id=event.request_id,
                took_ms=max(0.0, now - event.at),
                traceparent=event.traceparent,
            )
            for event in events
        ],
    )
