"""What a transition makes of an order, as an event for those who want to hear of every change. Pure."""

from dataclasses import replace
from datetime import datetime

from app.contracts.base import Event
from app.contracts.orders import CaptureOrder, CreateOrder, OrderChanged, RefundOrder, UpdateMetadata, UpdateOrder
from app.orders import order
from app.orders.order import OrderState, OrderTransition

# What has led to a change: a request of a client, or an event of payments.
Cause = CreateOrder | UpdateOrder | CaptureOrder | RefundOrder | UpdateMetadata | Event


def order_changed(
    event_id: str, cause: Cause, user_id: str, state: OrderState, transition: OrderTransition, at: datetime
) -> OrderChanged:
    """The event for a transition from `state`."""
    then = _state_after(state, transition)
    amounts = order.amounts(
        then.order_status, then.payment_status, then.taken_so_far, then.refunds, disputed=then.disputed
    )
    return OrderChanged(
        event_id=event_id,
        order_id=cause.order_id,
        sequence=then.sequence,
        request_id=cause.request_id,
        traceparent=cause.traceparent,
        at=int(at.timestamp() * 1000),
        user_id=user_id,
        change=transition.type,
        previous_status=state.order_status,
        order_status=then.order_status,
        payment_status=then.payment_status,
        version=then.version,
        captured_value=amounts.captured,
        refunded_value=amounts.refunded,
        refundable_value=amounts.refundable,
        pending_value=amounts.pending,
        authorized_value=then.authorized,
        blocked_value=amounts.blocked,
        uncertain_value=order.unknown_capture(
            then.payment_status, amounts.captured, then.capture_value or then.total_value
        ),
        has_metadata=bool(then.metadata),
    )


def _state_after(state: OrderState, transition: OrderTransition) -> OrderState:
    return replace(
        state,
        order_status=transition.order_status,
        payment_status=transition.payment_status,
        version=state.version + 1,
        sequence=state.sequence + 1,
        refunds=state.refunds if transition.refunds is None else transition.refunds,
        authorized=transition.authorized or state.authorized,
        capture_value=transition.capture_value or state.capture_value,
        captured=0 if transition.uncaptured else transition.captured or state.captured,
        disputed=state.disputed if transition.disputed is None else transition.disputed,
        metadata=state.metadata if transition.metadata is None else transition.metadata,
    )
