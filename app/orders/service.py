"""Changes orders: for requests of clients, and for events of payments."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any

from app.contracts.base import DeadLetterRequeued, Event
from app.contracts.orders import (
    CaptureAccepted,
    CaptureOrder,
    CaptureRequested,
    CreateOrder,
    MetadataUpdated,
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderUpdated,
    RefundAccepted,
    RefundOrder,
    RefundRequested,
    ReplayOrderEvents,
    UpdateMetadata,
    UpdateOrder,
)
from app.contracts.payments import (
    DeadLetterReplayed,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDelayed,
    PaymentDisputeClosed,
    PaymentDisputed,
    PaymentEvent,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRetried,
    PaymentVoided,
)
from app.messaging.handlers import handles
from app.observability.logging import log
from app.observability.stages import Stage, record_stages, stage_record
from app.orders import order, refunds
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.order import OrderState, OrderTransition
from app.orders.repository import OrderRepository
from app.system import SYSTEM, System

Change = CreateOrder | UpdateOrder | CaptureOrder | RefundOrder | UpdateMetadata


class OrderService:
    """Handles every request that changes an order, and every event of payments."""

    def __init__(self, orders: OrderRepository, limit: OpenOrderLimit, system: System = SYSTEM) -> None:
        self._system = system
        self._orders = orders
        self._limit = limit

    @handles(CreateOrder)
    def create_order(self, request: CreateOrder) -> OrderAccepted:
        """Store an order durably, with the event that starts its payment."""
        started = time.perf_counter()
        self._limit.check(request.user_id)
        at = self._orders.now()
        record_stages(Stage.ORDERS_RECEIVED, [_record(request, started)])
        created = self._event(
            OrderCreated,
            request,
            sequence=1,
            at=at,
            user_id=request.user_id,
            product_id=request.product_id,
            total_value=request.total_value,
            total_currency=request.total_currency,
            payment_method=request.payment_method,
            return_url=request.return_url,
            manual_capture=request.manual_capture,
        )
        order_id = self._orders.add(request, _caused_by(request, order.initial_transition()), created, at)
        record_stages(Stage.ORDER_STORED, [{**_record(request, started), "order_id": order_id}])
        return OrderAccepted(order_id=order_id, version=1, replayed=order_id != request.order_id)

    @handles(UpdateOrder)
    def update_order(self, request: UpdateOrder) -> OrderUpdated:
        """Change an order's status as the table of transitions allows."""

        def decide(state: OrderState) -> OrderTransition | None:
            order.check_version(request.order_id, state, request.expected_versions)
            return order.client_transition(state, request.order_status, request.may_refund)

        def cancellation(transition: OrderTransition, sequence: int, at: datetime) -> Event | None:
            return self._event(OrderCancelled, request, sequence, at) if transition.cancels_payment else None

        state, changed = self._change(request, decide, cancellation)
        return OrderUpdated(
            order_id=request.order_id, order_status=state.order_status, version=state.version, changed=changed
        )

    @handles(UpdateMetadata)
    def update_metadata(self, request: UpdateMetadata) -> MetadataUpdated:
        """Set or remove pairs of an order's metadata."""

        def decide(state: OrderState) -> OrderTransition | None:
            order.check_version(request.order_id, state, request.expected_versions)
            return order.metadata_change(state, request.metadata)

        state, changed = self._change(request, decide, lambda *_: None)
        metadata = {**(state.metadata or {})}
        return MetadataUpdated(order_id=request.order_id, metadata=metadata, version=state.version, changed=changed)

    @handles(CaptureOrder)
    def capture_order(self, request: CaptureOrder) -> CaptureAccepted:
        """Record a capture of what is authorized, with the event that has it made."""

        def decide(state: OrderState) -> OrderTransition | None:
            # A repeated capture is no reason to refuse: the first one has changed the version itself.
            if not state.capture_value:
                order.check_version(request.order_id, state, request.expected_versions)
            return order.capture_request(state, request.capture_value, request.currency)

        def requested(transition: OrderTransition, sequence: int, at: datetime) -> Event:
            return self._event(CaptureRequested, request, sequence, at, capture_value=transition.capture_value)

        state, changed = self._change(request, decide, requested)
        return CaptureAccepted(
            order_id=request.order_id,
            capture_value=state.capture_value,
            currency=state.total_currency,
            version=state.version,
            replayed=not changed,
        )

    @handles(RefundOrder)
    def refund_order(self, request: RefundOrder) -> RefundAccepted:
        """Reserve a refund, with the event that has it made."""
        refund_id = request.refund_id

        def decide(state: OrderState) -> OrderTransition | None:
            # A repeated refund is no reason to refuse: the first one has changed the version itself.
            if not refunds.find(state.refunds, refund_id):
                order.check_version(request.order_id, state, request.expected_versions)
            return order.refund_reservation(state, refund_id, request.refund_value, request.currency, request.reason)

        def reservation(transition: OrderTransition, sequence: int, at: datetime) -> Event:
            return self._event(
                RefundRequested, request, sequence, at, refund_id=refund_id, refund_value=transition.amount
            )

        state, changed = self._change(request, decide, reservation)
        return RefundAccepted(
            order_id=request.order_id,
            refund_id=refund_id,
            refund_value=next(one.value for one in state.refunds if one.refund_id == refund_id),
            currency=state.total_currency,
            version=state.version,
            replayed=not changed,
        )

    @handles(ReplayOrderEvents)
    def replay_events(self, request: ReplayOrderEvents) -> DeadLetterRequeued:
        """Have an order's dead letter delivered again. Raises NotFound for a malformed id."""
        operator, reason, request_id = request.operator, request.reason, request.request_id
        requeued = self._orders.replay(
            request.order_id, lambda state: order.dead_letter_replay(state, operator, reason, request_id)
        )
        if requeued:
            members = {"order_id": request.order_id, "request_id": request_id, "operator": operator, "reason": reason}
            log.info("dead letter replayed", module="orders", **members)
        return DeadLetterRequeued(requeued=requeued)

    @handles(
        PaymentActionRequired,
        PaymentDelayed,
        PaymentAuthorized,
        PaymentCaptured,
        PaymentDeclined,
        PaymentVoided,
        PaymentRefunded,
        PaymentRefundFailed,
        PaymentDisputed,
        PaymentDisputeClosed,
        PaymentParked,
        PaymentRetried,
        DeadLetterReplayed,
    )
    def on_payment_events(self, events: Sequence[PaymentEvent]) -> None:
        """Update orders by what their payments report; events that were applied before change nothing."""
        started = time.perf_counter()
        record_stages(Stage.RESULT_RECEIVED, [_record(event, started) for event in events])
        applied = self._orders.apply_payment_events(events, order.apply_payment_event)
        record_stages(
            Stage.ORDER_UPDATED,
            [
                _record(event, started, order_status=transition.order_status, payment_status=transition.payment_status)
                for event, transition in applied
            ],
        )

    def _change(
        self,
        request: UpdateOrder | CaptureOrder | RefundOrder | UpdateMetadata,
        decide: Callable[[OrderState], OrderTransition | None],
        make_event: Callable[[OrderTransition, int, datetime], Event | None],
    ) -> tuple[OrderState, bool]:
        received = _record(request, time.perf_counter())

        @cache
        def record_received() -> None:
            record_stages(Stage.ORDERS_RECEIVED, [received])

        def decide_on_found(state: OrderState) -> OrderTransition | None:
            # Recorded here and once only: an order that is not found, or is another user's, has no such stage.
            record_received()
            transition = decide(state)
            return _caused_by(request, transition) if transition else None

        started = time.perf_counter()
        state, changed = self._orders.transition(request, decide_on_found, make_event)
        if changed:
            statuses = {"order_status": state.order_status, "payment_status": state.payment_status}
            record_stages(Stage.ORDER_UPDATED, [_record(request, started, **statuses)])
        return state, changed

    def _event(self, kind: type[Event], request: Change, sequence: int, at: datetime, **members: Any) -> Event:
        return kind(
            event_id=self._system.new_id(),
            order_id=request.order_id,
            sequence=sequence,
            request_id=request.request_id,
            traceparent=request.traceparent,
            at=int(at.timestamp() * 1000),
            **members,
        )


def _caused_by(request: Change, transition: OrderTransition) -> OrderTransition:
    return replace(transition, request_id=request.request_id, caller=request.caller)


def _record(message: Event | Change, started: float, **members: str) -> dict[str, object]:
    return stage_record(
        module="orders",
        order_id=message.order_id,
        request_id=message.request_id,
        took_ms=(time.perf_counter() - started) * 1000,
        traceparent=message.traceparent,
        **members,
    )
