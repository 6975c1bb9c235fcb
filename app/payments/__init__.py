"""Payments: pays for each order once, through a provider, and refunds cancelled orders.

May import messaging, storage, observability, contracts and config; never orders or the gateway.
"""

from app.config import Settings
from app.messaging.bus import EventPublisher, HandlerRegistry
from app.messaging.handlers import register_handlers
from app.messaging.outbox import Outbox
from app.messaging.relay import Relay
from app.observability.stages import Stage
from app.observability.supervision import Heartbeat
from app.payments.erasures import PaymentErasureService
from app.payments.manual_review import ManualReview
from app.payments.notification_repository import NotificationRepository
from app.payments.notifications import NotificationService
from app.payments.payment import RetryPolicy
from app.payments.provider_client import CircuitBreakingProvider
from app.payments.provider_port import Provider
from app.payments.providers.decisions import DecisionService
from app.payments.providers.notification_sender import NotificationSender
from app.payments.providers.simulated import SimulatedProvider
from app.payments.queries import PaymentQueries
from app.payments.reconciliation import Reconciliation
from app.payments.repository import PaymentRepository
from app.payments.results import ResultWriter
from app.payments.review_service import ReviewService
from app.payments.service import PaymentService
from app.payments.worker import Worker
from app.storage.mongodb import Store
from app.system import SYSTEM, System

# The thread that has received notifications applies them at once; another looks after what a dead process has left.
NOTIFICATION_SECONDS = 5.0


class Payments:
    """The module: its handlers on the bus, and its work in the background, which is the worker and the relay."""

    def __init__(
        self,
        bus: HandlerRegistry,
        publisher: EventPublisher,
        store: Store,
        notifications: Store,
        provider: Provider,
        settings: Settings,
        system: System = SYSTEM,
    ) -> None:
        self._notifies = provider.capabilities.notifies
        self.outbox = Outbox(store, settings.relay_lease, system)
        self._payments = PaymentRepository(store, self.outbox, settings.payment_lease, settings.last_restore, system)
        policy = RetryPolicy(
            max_tries=settings.payment_tries,
            horizon=settings.payment_horizon,
            key_life=settings.key_life,
            backoff=settings.payment_backoff,
            backoff_max=settings.payment_backoff_max,
            pending_life=settings.payment_pending_hours * 3600,
            authorization_life=settings.authorization_days * 86_400,
            poll_min=settings.payment_poll_min,
            poll_max=settings.payment_poll_max,
        )
        results = ResultWriter(self._payments, policy, system)
        self.worker = Worker(
            self._payments,
            CircuitBreakingProvider(provider, settings.breaker_failures, settings.breaker_recovery, system),
            results,
            policy,
            threads=settings.payment_threads,
            timeout=settings.payment_timeout,
            interval=settings.sweep_interval,
            system=system,
        )
        self.relay = Relay(
            "payments",
            {"orders": Stage.HANDED_TO_ORDERS},
            self.outbox,
            publisher,
            interval=settings.sweep_interval,
            tries=settings.relay_tries,
            system=system,
        )
        self.manual_review = ManualReview(self._payments, provider, results, policy, settings.payment_lease)
        self._notifications = NotificationRepository(notifications)
        self.notifications = NotificationService(
            provider,
            self._notifications,
            self._payments,
            results,
            interval=max(settings.sweep_interval, NOTIFICATION_SECONDS),
            system=system,
        )
        self.reconciliation = Reconciliation(provider, self._payments)
        queries = PaymentQueries(self._payments, self.outbox, settings.backlog_limit)
        register_handlers(
            bus,
            "payments",
            PaymentService(self.worker, results, provider.capabilities),
            self.notifications,
            queries,
            ReviewService(self.manual_review, self.outbox, results),
            PaymentErasureService(self._payments),
        )
        self._sender: NotificationSender | None = None
        if isinstance(provider, SimulatedProvider) and provider.demonstrates:
            self._sender = NotificationSender(provider.ledger, self.notifications.deliver, system)
            register_handlers(bus, "payments", DecisionService(provider.ledger, self._sender.wake))

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """The heartbeats of all background threads."""
        threads = (self.relay.thread, self.notifications.thread, *([self._sender.thread] if self._sender else []))
        return (*self.worker.heartbeats, *threads)

    def prepare(self) -> None:
        """Create the collections' validators and indexes."""
        self._payments.prepare()
        self._notifications.prepare()

    def start(self) -> None:
        """Start the worker, the relay, and the threads for notifications if the provider sends any."""
        self.worker.start()
        self.relay.start()
        if self._notifies:
            self.notifications.start()
        if self._sender:
            self._sender.start()

    def drain(self) -> None:
        """Take no new payments. Safe in a signal handler: only sets a flag."""
        self.worker.draining = True

    def stop(self, timeout: float) -> None:
        """Let running calls end, release leases of calls that were not started, deliver what is recorded."""
        if self._sender:
            self._sender.stop(timeout)
        self.notifications.stop(timeout)
        self.worker.stop(timeout)
        self.relay.stop(timeout)
