"""Handlers of the order events that payments receives."""

import time
from collections.abc import Sequence
from functools import partial

from app.contracts.base import Event
from app.contracts.orders import CaptureRequested, OrderCancelled, OrderCreated, RefundRequested
from app.messaging.handlers import handles
from app.observability.stages import Stage, record_stages, stage_record
from app.payments import payment as domain
from app.payments import payment_commands
from app.payments.payment import Refund
from app.payments.provider_port import Capabilities
from app.payments.results import ResultWriter
from app.payments.worker import Worker


class PaymentService:
    """Opens payments for new orders and changes them as orders change."""

    def __init__(self, worker: Worker, results: ResultWriter, provider: Capabilities) -> None:
        self._provider = provider
        self._worker = worker
        self._results = results

    @handles(OrderCreated)
    def on_orders_created(self, events: Sequence[OrderCreated]) -> None:
        """Record a payment for each order and submit it to the worker; a known order changes nothing."""
        _record_received(events)
        orders = {event.order_id: event for event in events}
        self._worker.submit_new([domain.open_payment(event, self._provider) for event in orders.values()])

    @handles(OrderCancelled)
    def on_orders_cancelled(self, events: Sequence[OrderCancelled]) -> None:
        """Void or refund the payments of cancelled orders."""
        _record_received(events)
        for event in events:
            self._results.apply(event, partial(payment_commands.cancel, request_id=event.request_id))
        self._worker.wake()

    @handles(CaptureRequested)
    def on_captures_requested(self, events: Sequence[CaptureRequested]) -> None:
        """Capture what is authorized, or a part of it."""
        _record_received(events)
        for event in events:
            asked = partial(payment_commands.request_capture, value=event.capture_value, request_id=event.request_id)
            self._results.apply(event, asked)
        self._worker.wake()

    @handles(RefundRequested)
    def on_refunds_requested(self, events: Sequence[RefundRequested]) -> None:
        """Refund a part of the captured amount."""
        _record_received(events)
        for event in events:
            refund = Refund(refund_id=event.refund_id, value=event.refund_value, request_id=event.request_id)
            self._results.apply(event, partial(payment_commands.request_refund, refund=refund))
        self._worker.wake()


def _record_received(events: Sequence[Event]) -> None:
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
