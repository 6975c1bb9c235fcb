"""Orders: takes them in, keeps their state and their timeline, and brings them up to date with their payments."""

from functools import partial

from app.config import Settings
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
    RefundOrder,
    UpdateOrder,
)
from app.contracts.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentVoided,
)
from app.messaging.bus import EventPublisher, HandlerRegistry
from app.messaging.outbox import Outbox
from app.messaging.relay import Relay
from app.observability.stages import Stage
from app.observability.supervision import Heartbeat
from app.orders import service
from app.orders.notifier import OrderChangeNotifier
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.repository import OrderRepository
from app.storage.mongodb import Store

# By then most payments have news, which acknowledges what they were told.
NEWS_SECONDS = 1.0
NEWS = (PaymentCaptured, PaymentDeclined, PaymentVoided, PaymentRefunded, PaymentRefundFailed, PaymentParked)


class Orders:
    """The module's background work: its relay, and its watch for whoever waits."""

    def __init__(self, orders: OrderRepository, relay: Relay, outbox: Outbox, watch: OrderChangeNotifier) -> None:
        self._orders = orders
        self.watch = watch
        self.relay = relay
        self.outbox = outbox

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """Of everything that works in the background."""
        return (self.relay.thread,)

    def prepare(self) -> None:
        """Create what the module's collection needs."""
        self._orders.prepare()

    def start(self) -> None:
        """Start handing on what is recorded."""
        self.relay.start()

    def drain(self) -> None:
        """Let whoever waits go. Safe in a signal handler: sets a flag only."""
        self.watch.ending = True

    def stop(self, timeout: float) -> None:
        """Hand on what is recorded, then end."""
        self.relay.stop(timeout)


def install(bus: HandlerRegistry, publisher: EventPublisher, store: Store, settings: Settings) -> Orders:
    """Put orders on the bus, with its own collection."""
    outbox = Outbox(store, settings.relay_lease)
    orders = OrderRepository(store, outbox, settings.request_deadline)
    watch = OrderChangeNotifier(store)
    relay = Relay(
        "orders",
        Stage.HANDED_TO_PAYMENTS,
        outbox,
        publisher,
        interval=settings.sweep_interval,
        tries=settings.relay_tries,
        patience=min(NEWS_SECONDS, settings.relay_lease / 4),
        chore=partial(orders.forget_keys, settings.idempotency_hours * 3600),
    )
    limit = OpenOrderLimit(orders.count_open, settings.open_orders_per_user)
    bus.register_handler(CreateOrder, partial(service.create_order, orders=orders, limit=limit))
    bus.register_handler(UpdateOrder, partial(service.update_order, orders=orders))
    bus.register_handler(RefundOrder, partial(service.refund_order, orders=orders))
    bus.register_handler(FindOrder, partial(service.find_order, orders=orders))
    bus.register_handler(CheckOrderStatus, partial(service.check_order_status, orders=orders))
    bus.register_handler(ListOrders, partial(service.list_orders, orders=orders))
    bus.register_handler(ListAllOrders, partial(service.list_all_orders, orders=orders))
    bus.register_handler(FindOrders, partial(service.find_orders, orders=orders))
    bus.register_handler(ListStuckOrders, partial(service.list_stuck_orders, outbox=outbox))
    bus.register_handler(CheckOrderQueue, partial(service.check_queue, outbox=outbox, limit=settings.backlog_limit))
    bus.register_handler(AwaitOrder, partial(service.await_order, orders=orders, watch=watch))
    bus.register_handler(AwaitTimeline, partial(service.await_timeline, orders=orders, watch=watch))
    bus.register_handler(ExplainOrder, partial(service.explain_order, orders=orders))
    bus.register_handler(DescribeStates, service.describe_states)
    bus.register_handler(CheckOrderBacklog, partial(service.check_backlog, outbox=outbox, limit=settings.backlog_limit))
    for news in NEWS:
        bus.subscribe("orders", news, partial(service.on_payment_events, orders=orders))
    return Orders(orders, relay, outbox, watch)
