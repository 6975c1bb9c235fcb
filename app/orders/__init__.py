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
from app.orders.erasures import ErasureService
from app.orders.notifier import OrderChangeNotifier
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.queries import OrderQueries
from app.orders.repository import OrderRepository
from app.orders.service import OrderService
from app.orders.subscribers import SubscribedUsers
from app.storage.mongodb import Store
from app.system import SYSTEM, System

# After this time most events of new orders are acknowledged by the write of the payment's event, which saves one.
ACKNOWLEDGE_SECONDS = 1.0
# Under load changes are published in large batches: no request waits for them, and payments need the time.
MAX_CHANGES_PAUSE_SECONDS = 0.1


class Orders:
    """The module: its handlers on the bus, and its work in the background, which is the relay.

    `subscribed` are the users whose orders' changes are published to others than payments; None for none. Those have an outbox
    and a relay of their own, so that a module that is away delays nothing that payments must receive. Without `erasures` no personal
    data can be erased.
    """

    def __init__(
        self,
        bus: HandlerRegistry,
        publisher: EventPublisher,
        store: Store,
        settings: Settings,
        system: System = SYSTEM,
        subscribed: SubscribedUsers | None = None,
        erasures: ErasureService | None = None,
    ) -> None:
        self._subscribed = subscribed
        self._erasures = erasures
        self.outbox = Outbox(store, settings.relay_lease, system)
        self.notifier = OrderChangeNotifier(store)
        self._orders = OrderRepository(store, self.outbox, settings.request_deadline, subscribed or frozenset(), system)
        acknowledge_after = min(ACKNOWLEDGE_SECONDS, settings.relay_lease / 4)
        self.relay = Relay(
            "orders",
            {"payments": Stage.HANDED_TO_PAYMENTS},
            self.outbox,
            publisher,
            interval=settings.sweep_interval,
            tries=settings.relay_tries,
            ack_delay=acknowledge_after,
            maintenance_task=partial(self._maintain, settings.idempotency_hours * 3600),
            system=system,
        )
        self.changes_relay = Relay(
            "orders",
            {},
            self._orders.changes,
            publisher,
            interval=settings.sweep_interval,
            tries=settings.relay_tries,
            ack_delay=acknowledge_after,
            max_pause=MAX_CHANGES_PAUSE_SECONDS,
            system=system,
            name="orders-changes",
        )
        limit = OpenOrderLimit(self._orders.count_open, settings.open_orders_per_user, system)
        queries = OrderQueries(
            store,
            self.outbox,
            self._orders.changes,
            self.notifier,
            settings.request_deadline,
            settings.backlog_limit,
            system,
        )
        register_handlers(
            bus, "orders", OrderService(self._orders, limit, system), queries, *([erasures] if erasures else [])
        )

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """The background threads."""
        return (
            self.relay.thread,
            *([self._subscribed.thread, self.changes_relay.thread] if self._subscribed else []),
            *([self._erasures.thread] if self._erasures else []),
        )

    def prepare(self) -> None:
        """Create what the collection needs."""
        self._orders.prepare()
        if self._erasures:
            self._erasures.prepare()

    def start(self) -> None:
        """Start to deliver events."""
        self.relay.start()
        if self._subscribed:
            self._subscribed.start()
            self.changes_relay.start()
        if self._erasures:
            self._erasures.start()

    def drain(self) -> None:
        """Let waiting requests return. Sets a flag only, so it is safe in a signal handler."""
        self.notifier.stopping = True

    def stop(self, timeout: float) -> None:
        """Deliver what is in the local queue, then end."""
        if self._erasures:
            self._erasures.stop(timeout)
        self.relay.stop(timeout)
        if self._subscribed:
            self._subscribed.stop(timeout)
            self.changes_relay.stop(timeout)
        self.notifier.stop(timeout)

    def _maintain(self, key_seconds: float) -> None:
        self._orders.clear_expired_keys(key_seconds)
        if not self._subscribed:
            self._orders.drop_changes()
