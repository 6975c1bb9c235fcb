"""What orders does when asked, and when payments has news. Functions of a message and what they need."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from uuid import uuid4

import msgspec

from app.contracts.base import Backlog, Event, OrderIds, Queue
from app.contracts.orders import (
    AwaitOrder,
    AwaitTimeline,
    CheckOrderBacklog,
    CheckOrderQueue,
    CheckOrderStatus,
    CreateOrder,
    DescribeStates,
    ExplainOrder,
    FindOrder,
    FindOrders,
    ListAllOrders,
    ListOrders,
    ListStuckOrders,
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderExplanation,
    OrderList,
    OrderPage,
    OrderStatusView,
    OrderUpdated,
    OrderView,
    RefundAccepted,
    RefundOrder,
    RefundRequested,
    StateMachine,
    StateRule,
    Timeline,
    UpdateOrder,
)
from app.contracts.payments import PaymentEvent
from app.messaging.outbox import Outbox
from app.observability.stages import Stage, record_stages, stage_record
from app.orders import order
from app.orders.notifier import OrderChangeNotifier
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.order import OrderTransition, State
from app.orders.repository import OrderRepository


def create_order(request: CreateOrder, orders: OrderRepository, limit: OpenOrderLimit) -> OrderAccepted:
    """Store the order, durably, with the event that has it paid for."""
    started = time.perf_counter()
    limit.check(request.user_id)
    at = orders.now()
    record_stages(Stage.ORDERS_RECEIVED, [_line(request, started)])
    created = OrderCreated(
        event_id=uuid4().hex,
        order_id=request.order_id,
        sequence=1,
        request_id=request.request_id,
        traceparent=request.traceparent,
        at=_ms(at),
        user_id=request.user_id,
        product_id=request.product_id,
        total_value=request.total_value,
        total_currency=request.total_currency,
    )
    order_id = orders.add(request, order.created(), created, at)
    record_stages(Stage.ORDER_STORED, [{**_line(request, started), "order_id": order_id}])
    return OrderAccepted(order_id=order_id, version=1, replayed=order_id != request.order_id)


def update_order(request: UpdateOrder, orders: OrderRepository) -> OrderUpdated:
    """Take the step a client asks for, by the table of states."""
    log_received = _received_once(request)

    def announce(change: OrderTransition, sequence: int, at: datetime) -> Event | None:
        if not change.cancels_payment:
            return None
        return OrderCancelled(
            event_id=uuid4().hex,
            order_id=request.order_id,
            sequence=sequence,
            request_id=request.request_id,
            traceparent=request.traceparent,
            at=_ms(at),
        )

    def decide(state: State) -> OrderTransition | None:
        log_received()
        order.check_version(request.order_id, state, request.expected_versions)
        return order.requested(state, request.order_status, request.may_refund)

    started = time.perf_counter()
    state, changed = orders.step(request.order_id, request.on_behalf_of, decide, announce)
    _log_updated(request, started, state, changed)
    return OrderUpdated(
        order_id=request.order_id,
        order_status=state.order_status,
        version=state.version,
        changed=changed,
    )


def refund_order(request: RefundOrder, orders: OrderRepository) -> RefundAccepted:
    """Reserve a refund in the order, with the event that has it made."""
    log_received = _received_once(request)

    def announce(change: OrderTransition, sequence: int, at: datetime) -> Event | None:
        _, value = change.refund or ("", 0)
        return RefundRequested(
            event_id=uuid4().hex,
            order_id=request.order_id,
            sequence=sequence,
            request_id=request.request_id,
            traceparent=request.traceparent,
            at=_ms(at),
            refund_id=request.refund_id,
            refund_value=value,
        )

    def decide(state: State) -> OrderTransition | None:
        log_received()
        # A refund that was made before has changed the version itself: repeating it is no reason to refuse.
        if request.refund_id not in dict(state.refunds):
            order.check_version(request.order_id, state, request.expected_versions)
        return order.refunded(state, request.refund_id, request.refund_value, request.currency)

    started = time.perf_counter()
    state, changed = orders.step(request.order_id, request.on_behalf_of, decide, announce)
    _log_updated(request, started, state, changed)
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
    return orders.view(request.order_id, request.on_behalf_of)


def check_order_status(request: CheckOrderStatus, orders: OrderRepository) -> OrderStatusView:
    """Tell one order's status."""
    return orders.status(request.order_id, request.on_behalf_of)


def list_orders(request: ListOrders, orders: OrderRepository) -> OrderList:
    """Tell a user's newest orders, a page of them."""
    return orders.of_user(request.user_id, request.limit, request.order_status, request.before_at, request.before_id)


def list_all_orders(request: ListAllOrders, orders: OrderRepository) -> OrderPage:
    """Tell the newest orders of all users, a page of them."""
    found, last_id = orders.of_all(request.limit, request.order_status, request.before_id)
    return OrderPage(orders=tuple(found), last_id=last_id)


def find_orders(request: FindOrders, orders: OrderRepository) -> OrderList:
    """Tell these orders."""
    return OrderList(orders=tuple(orders.these(request.order_ids)), more=False)


def list_stuck_orders(request: ListStuckOrders, outbox: Outbox) -> OrderIds:
    """Tell orders whose events wait too long, or for good."""
    found = outbox.stuck(request.dead, request.overdue_ms / 1000, request.limit + 1)
    return OrderIds(order_ids=tuple(found[: request.limit]), more=len(found) > request.limit)


def check_queue(_request: CheckOrderQueue, outbox: Outbox, limit: int) -> Queue:
    """Tell what is yet to be handed on."""
    waiting, due, retrying, dead = outbox.queue(limit)
    return Queue(open=waiting, due=due, retrying=retrying, parked=0, dead=dead)


def await_order(request: AwaitOrder, orders: OrderRepository, watch: OrderChangeNotifier) -> OrderStatusView:
    """Tell one order's status as soon as it has settled, or when the time is over."""
    return watch.until(
        request.order_id,
        lambda: orders.status(request.order_id, request.on_behalf_of),
        lambda status: status.order_status != order.PROCESSING,
        request.wait_ms / 1000,
    )


def await_timeline(request: AwaitTimeline, orders: OrderRepository, watch: OrderChangeNotifier) -> Timeline:
    """Tell an order's steps as soon as there are new ones, or when the time is over."""
    if request.wait_ms:
        watch.until(
            request.order_id,
            lambda: orders.status(request.order_id, request.on_behalf_of),
            lambda status: status.version > request.after,
            request.wait_ms / 1000,
        )
    timeline = orders.timeline(request.order_id, request.on_behalf_of, request.after)
    return msgspec.structs.replace(timeline, ending=watch.ending)


def explain_order(request: ExplainOrder, orders: OrderRepository) -> OrderExplanation:
    """Tell why an order is in its state, and what may be done now."""
    standing = orders.standing(request.order_id, request.on_behalf_of)
    held_up = "an operator" if standing.dead else "the relay" if standing.undelivered else ""
    sentence = order.sentence(standing.order_status, standing.payment_status, standing.last)
    if held_up and standing.retried and not standing.dead:
        sentence += "; payments has not taken it in so far and is tried again"
    return OrderExplanation(
        order_id=request.order_id,
        order_status=standing.order_status,
        payment_status=standing.payment_status,
        because=standing.last,
        sentence=sentence,
        waits_for=held_up,
        allowed=order.allowed(standing.order_status),
        on_cancel=order.on_cancel(standing.order_status),
    )


def describe_states(_request: DescribeStates) -> StateMachine:
    """Tell the table of states."""
    rules = (
        StateRule(source=rule.source, by=rule.by, target=rule.target, money=rule.money) for rule in order.TRANSITIONS
    )
    return StateMachine(rules=tuple(rules))


def check_backlog(_request: CheckOrderBacklog, outbox: Outbox, limit: int) -> Backlog:
    """Tell how far orders are behind with handing on their events."""
    due, oldest_ms = outbox.backlog(limit)
    unfinished = outbox.unfinished(limit)
    return Backlog(due=due, oldest_ms=oldest_ms, overloaded=unfinished >= limit, unfinished=unfinished)


def on_payment_events(news: Sequence[PaymentEvent], orders: OrderRepository) -> None:
    """Bring orders up to date with their payments; what was heard before changes nothing."""
    started = time.perf_counter()
    record_stages(Stage.RESULT_RECEIVED, [_line(event, started) for event in news])
    applied = orders.hear(news, order.heard)
    record_stages(
        Stage.ORDER_UPDATED,
        [
            _line(event, started, order_status=change.order_status, payment_status=change.payment_status)
            for event, change in applied
        ],
    )


def _received_once(request: UpdateOrder | RefundOrder) -> Callable[[], None]:
    """Logs that the request was received, the first time it is called: when the order is found and is the asker's."""
    received = _line(request, time.perf_counter())

    @cache
    def log_received() -> None:
        record_stages(Stage.ORDERS_RECEIVED, [received])

    return log_received


def _log_updated(request: UpdateOrder | RefundOrder, started: float, state: State, changed: bool) -> None:
    if changed:
        statuses = {"order_status": state.order_status, "payment_status": state.payment_status}
        record_stages(Stage.ORDER_UPDATED, [_line(request, started, **statuses)])


def _line(message: Event | CreateOrder | UpdateOrder | RefundOrder, started: float, **more: str) -> dict[str, object]:
    took_ms = (time.perf_counter() - started) * 1000
    return stage_record(
        module="orders",
        order_id=message.order_id,
        request_id=message.request_id,
        took_ms=took_ms,
        traceparent=message.traceparent,
        **more,
    )


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
