"""What payments does when orders has news. Functions of a batch of events and what they need."""

import time
from collections.abc import Sequence
from dataclasses import replace

from app import story
from app.contracts import Event, OrderCancelled, OrderCreated, Unavailable
from app.payments import payment as domain
from app.payments.repository import PaymentRepository
from app.payments.settlement import Settler
from app.payments.worker import Worker
from app.story import Step

RETRIES = 8


def on_orders_created(events: Sequence[OrderCreated], payments: PaymentRepository, worker: Worker) -> None:
    """Record a payment for each order, under lease, and have it called for; a known order changes nothing."""
    _tell_received(events)
    orders = {event.order_id: event for event in events}
    worker.offer(payments.record([domain.opened(event) for event in orders.values()], worker.room()))
    worker.prompt()


def on_orders_cancelled(
    events: Sequence[OrderCancelled], payments: PaymentRepository, settler: Settler, worker: Worker
) -> None:
    """Call off or send back the money of cancelled orders."""
    _tell_received(events)
    for event in events:
        _cancel(event, payments, settler)
    worker.prompt()


def _cancel(event: OrderCancelled, payments: PaymentRepository, settler: Settler) -> None:
    for _ in range(RETRIES):
        held = payments.find(event.order_id)
        if held is None:
            raise LookupError(f"order {event.order_id} is cancelled but has no payment")
        if event.sequence <= held.payment.order_sequence:
            return
        change = domain.cancelled(held.payment)
        change = replace(change, payment=replace(change.payment, order_sequence=event.sequence))
        if settler.record(held, change):
            return
    raise Unavailable(f"the payment of order {event.order_id} changed again and again meanwhile")


def _tell_received(events: Sequence[Event]) -> None:
    now = time.time() * 1000
    for event in events:
        story.tell(
            Step.PAYMENTS_RECEIVED,
            module="payments",
            order_id=event.order_id,
            request_id=event.request_id,
            took_ms=max(0.0, now - event.at),
        )
