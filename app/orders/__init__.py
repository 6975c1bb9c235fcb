"""Orders: accepts them, keeps their state and timeline, and updates them by the events of payments.

May import messaging and what is below it. MongoDB is known in `documents`, `queries`, `repository` and `notifier` only.
"""

from functools import partial

from app.config import Settings
from app.messaging.bus import EventPublisher, HandlerRegistry
from app.messaging.handlers import register_handlers
from app.messaging.outbox import Outbox
from app.messaging.relay import Relay
from app.observability.stages import Stage
from app.observability.supervision import Heartbeat
from app.orders.notifier import OrderChangeNotifier
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.queries import OrderQueries
from app.orders.repository import OrderRepository
from app.orders.service import OrderService
from app.storage.mongodb import Store
from app.system import SYSTEM, System

# After this time most events are acknowledged by the payment event that they have led to, which saves a write.
ACKNOWLEDGE_SECONDS = 1.0


class Orders:
    """The module: its handlers on the bus, and its work in the background, which is the relay."""

    def __init__(
        self,
        bus: HandlerRegistry,
        publisher: EventPublisher,
        store: Store,
        settings: Settings,
        system: System = SYSTEM,
    ) -> None:
        self.outbox = Outbox(store, settings.relay_lease, system)
        self.notifier = OrderChangeNotifier(store)
        self._orders = OrderRepository(store, self.outbox, settings.request_deadline, system)
        self.relay = Relay(
            "orders",
            Stage.HANDED_TO_PAYMENTS,
            self.outbox,
            publisher,
            interval=settings.sweep_interval,
            tries=settings.relay_tries,
            ack_delay=min(ACKNOWLEDGE_SECONDS, settings.relay_lease / 4),
            maintenance_task=partial(self._orders.clear_expired_keys, settings.idempotency_hours * 3600),
            system=system,
        )
        limit = OpenOrderLimit(self._orders.count_open, settings.open_orders_per_user, system)
        queries = OrderQueries(
            store, self.outbox, self.notifier, settings.request_deadline, settings.backlog_limit, system
        )
        register_handlers(bus, "orders", OrderService(self._orders, limit, system), queries)

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """The background threads."""
        return (self.relay.thread,)

    def prepare(self) -> None:
        """Create what the collection needs."""
        self._orders.prepare()

    def start(self) -> None:
        """Start to deliver events."""
        self.relay.start()

    def drain(self) -> None:
        """Let waiting requests return. Sets a flag only, so it is safe in a signal handler."""
        self.notifier.stopping = True

    def stop(self, timeout: float) -> None:
        """Deliver what is in the local queue, then end."""
        self.relay.stop(timeout)
