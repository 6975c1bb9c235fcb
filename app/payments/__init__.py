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
from app.payments.manual_review import ManualReview
from app.payments.payment import RetryPolicy
from app.payments.provider_client import CircuitBreakingProvider
from app.payments.providers import Provider
from app.payments.queries import PaymentQueries
from app.payments.repository import PaymentRepository
from app.payments.results import ResultWriter
from app.payments.service import PaymentService
from app.payments.worker import Worker
from app.storage.mongodb import Store
from app.system import SYSTEM, System


class Payments:
    """The module: its handlers on the bus, and its work in the background, which is the worker and the relay."""

    def __init__(
        self,
        bus: HandlerRegistry,
        publisher: EventPublisher,
        store: Store,
        provider: Provider,
        settings: Settings,
        system: System = SYSTEM,
    ) -> None:
        self.outbox = Outbox(store, settings.relay_lease, system)
        self._payments = PaymentRepository(store, self.outbox, settings.payment_lease, settings.last_restore, system)
        policy = RetryPolicy(
            max_tries=settings.payment_tries,
            horizon=settings.payment_horizon,
            key_life=settings.key_life,
            backoff=settings.payment_backoff,
            backoff_max=settings.payment_backoff_max,
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
            Stage.HANDED_TO_ORDERS,
            self.outbox,
            publisher,
            interval=settings.sweep_interval,
            tries=settings.relay_tries,
            system=system,
        )
        self.manual_review = ManualReview(self._payments, provider, results, policy, settings.payment_lease)
        queries = PaymentQueries(self._payments, self.outbox, settings.backlog_limit)
        register_handlers(bus, "payments", PaymentService(self.worker, results), queries)

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """The heartbeats of all background threads."""
        return (*self.worker.heartbeats, self.relay.thread)

    def prepare(self) -> None:
        """Create the collection's validator and indexes."""
        self._payments.prepare()

    def start(self) -> None:
        """Start the worker and the relay."""
        self.worker.start()
        self.relay.start()

    def drain(self) -> None:
        """Take no new payments. Safe in a signal handler: only sets a flag."""
        self.worker.draining = True

    def stop(self, timeout: float) -> None:
        """Let running calls end, release leases of calls that were not started, deliver what is recorded."""
        self.worker.stop(timeout)
        self.relay.stop(timeout)
