"""What orders does when asked, and when payments has news. Functions of a message and what they need."""

import time
from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from app import story
from app.contracts import (
    Backlog,
    CheckOrderBacklog,
    CheckOrderStatus,
    CreateOrder,
    Event,
    FindOrder,
    ListOrders,
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderList,
    OrderStatusView,
    OrderUpdated,
    OrderView,
    PaymentEvent,
    RefundAccepted,
    RefundOrder,
    RefundRequested,
    UpdateOrder,
)
from app.orders import order
from app.orders.order import Change, State
from app.orders.repository import NewOrder, OrderRepository
from app.outbox import Outbox
from app.story import Step


def create_order(request: CreateOrder, orders: OrderRepository) -> OrderAccepted:
    """Store the order, durably, with the event that has it paid for."""
    started = time.perf_counter()
    at = orders.now()
    story.tell_each(Step.ORDERS_RECEIVED, [_line(request, started)])
    created = OrderCreated(
        event_id=uuid4().hex,
        order_id=request.order_id,
        sequence=1,
        request_id=request.request_id,
        at=_ms(at),
        user_id=request.user_id,
        product_id=request.product_id,
        total_value=request.total_value,
        total_currency=request.total_currency,
    )
    order_id = orders.add(NewOrder(**vars(request)), order.created(), created, at)
    story.tell_each(Step.ORDER_STORED, [{**_line(request, started), "order_id": order_id}])
    return OrderAccepted(order_id=order_id, version=1, replayed=order_id != request.order_id)


def update_order(request: UpdateOrder, orders: OrderRepository) -> OrderUpdated:
    """Take the step a client asks for, by the table of states."""

    def announce(change: Change, sequence: int, at: datetime) -> Event | None:
        if not change.cancels_payment:
            return None
        return OrderCancelled(
            event_id=uuid4().hex,
            order_id=request.order_id,
            sequence=sequence,
            request_id=request.request_id,
            at=_ms(at),
        )

    state, changed = orders.step(request.order_id, lambda state: order.requested(state, request.order_status), announce)
    return OrderUpdated(
        order_id=request.order_id,
        order_status=state.order_status,
        version=state.version,
        changed=changed,
    )


def refund_order(request: RefundOrder, orders: OrderRepository) -> RefundAccepted:
    """Reserve a refund in the order, with the event that has it made."""

    def announce(change: Change, sequence: int, at: datetime) -> Event | None:
        _, value = change.refund or ("", 0)
        return RefundRequested(
            event_id=uuid4().hex,
            order_id=request.order_id,
            sequence=sequence,
            request_id=request.request_id,
            at=_ms(at),
            refund_id=request.refund_id,
            refund_value=value,
        )

    def decide(state: State) -> Change | None:
        return order.refunded(state, request.refund_id, request.refund_value, request.currency)

    state, changed = orders.step(request.order_id, decide, announce)
    return RefundAccepted(
        order_id=request.order_id,
        refund_id=request.refund_id,
        refund_value=dict(state.refunds)[request.refund_id],
        currency=state.total_currency,
        version=state.version,
        replayed=not changed,
    )


def find_order(request: FindOrder, orders: OrderRepository) -> OrderView:
    """Tell one order."""
    return orders.view(request.order_id)


def check_order_status(request: CheckOrderStatus, orders: OrderRepository) -> OrderStatusView:
    """Tell one order's status."""
    return orders.status(request.order_id)


def list_orders(request: ListOrders, orders: OrderRepository) -> OrderList:
    """Tell a user's newest orders."""
    return OrderList(orders=tuple(orders.of_user(request.user_id, request.limit)))


def check_backlog(_request: CheckOrderBacklog, outbox: Outbox, limit: int) -> Backlog:
    """Tell how far orders are behind with handing on their events."""
    due, oldest_ms = outbox.backlog(limit)
    return Backlog(due=due, oldest_ms=oldest_ms, overloaded=due >= limit)


def on_payment_news(news: Sequence[PaymentEvent], orders: OrderRepository) -> None:
    """Bring orders up to date with their payments; what was heard before changes nothing."""
    started = time.perf_counter()
    story.tell_each(Step.RESULT_RECEIVED, [_line(event, started) for event in news])
    applied = orders.hear(news, order.heard)
    story.tell_each(
        Step.ORDER_UPDATED,
        [
            _line(event, started, order_status=change.order_status, payment_status=change.payment_status)
            for event, change in applied
        ],
    )


def _line(message: Event | CreateOrder, started: float, **more: str) -> dict[str, object]:
    took_ms = (time.perf_counter() - started) * 1000
    return story.line_of(
        module="orders", order_id=message.order_id, request_id=message.request_id, took_ms=took_ms, **more
    )


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
