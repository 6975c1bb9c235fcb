"""Payments: pays for orders through a provider, once each, and gives back what is cancelled."""

from functools import partial

from app.config import Settings
from app.contracts.orders import OrderCancelled, OrderCreated, RefundRequested
from app.contracts.payments import (
    CheckPaymentBacklog,
    CheckPaymentQueue,
    ExplainPayment,
    ListAttempts,
    ListStuckPayments,
)
from app.messaging.bus import EventPublisher, HandlerRegistry
from app.messaging.outbox import Outbox
from app.messaging.relay import Relay
from app.observability.stages import Stage
from app.observability.supervision import Heartbeat
from app.payments import service
from app.payments.manual_review import ManualReview
from app.payments.payment import RetryPolicy
from app.payments.provider_client import CircuitBreakingProvider
from app.payments.providers import Provider
from app.payments.repository import PaymentRepository
from app.payments.results import Settler
from app.payments.worker import Worker
from app.storage.mongodb import Store


class Payments:
    """The module's background work: its worker and its relay."""

    def __init__(
        self, payments: PaymentRepository, worker: Worker, relay: Relay, outbox: Outbox, desk: ManualReview
    ) -> None:
        self._payments = payments
        self.outbox = outbox
        self.desk = desk
        self.worker = worker
        self.relay = relay

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """Of everything that works in the background."""
        return (*self.worker.heartbeats, self.relay.thread)

    def prepare(self) -> None:
        """Create what the module's collection needs."""
        self._payments.prepare()

    def start(self) -> None:
        """Start paying and handing on."""
        self.worker.start()
        self.relay.start()

    def drain(self) -> None:
        """Take up no more payments. Safe in a signal handler: sets a flag only."""
        self.worker.draining = True

    def stop(self, timeout: float) -> None:
        """Let running calls end, give back what was not begun, hand on what is recorded."""
        self.worker.stop(timeout)
        self.relay.stop(timeout)


def install(
    bus: HandlerRegistry, publisher: EventPublisher, store: Store, provider: Provider, settings: Settings
) -> Payments:
    """Put payments on the bus, with its own collection and a provider."""
    outbox = Outbox(store, settings.relay_lease)
    payments = PaymentRepository(store, outbox, settings.payment_lease, settings.last_restore)
    settler = Settler(payments)
    patience = RetryPolicy(
        tries=settings.payment_tries,
        horizon=settings.payment_horizon,
        key_life=settings.key_life,
        backoff=settings.payment_backoff,
        backoff_max=settings.payment_backoff_max,
    )
    worker = Worker(
        payments,
        CircuitBreakingProvider(provider, settings.breaker_failures, settings.breaker_recovery),
        settler,
        patience,
        threads=settings.payment_threads,
        timeout=settings.payment_timeout,
        interval=settings.sweep_interval,
    )
    relay = Relay(
        "payments",
        Stage.HANDED_TO_ORDERS,
        outbox,
        publisher,
        interval=settings.sweep_interval,
        tries=settings.relay_tries,
    )
    bus.subscribe("payments", OrderCreated, partial(service.on_orders_created, payments=payments, worker=worker))
    bus.subscribe(
        "payments",
        OrderCancelled,
        partial(service.on_orders_cancelled, payments=payments, settler=settler, worker=worker),
    )
    bus.subscribe(
        "payments",
        RefundRequested,
        partial(service.on_refunds_requested, payments=payments, settler=settler, worker=worker),
    )
    bus.register_handler(
        CheckPaymentBacklog,
        partial(service.check_backlog, payments=payments, outbox=outbox, limit=settings.backlog_limit),
    )
    bus.register_handler(
        CheckPaymentQueue,
        partial(service.check_queue, payments=payments, outbox=outbox, limit=settings.backlog_limit),
    )
    bus.register_handler(ListStuckPayments, partial(service.list_stuck_payments, payments=payments, outbox=outbox))
    bus.register_handler(ListAttempts, partial(service.list_attempts, payments=payments))
    bus.register_handler(ExplainPayment, partial(service.explain_payment, payments=payments))
    desk = ManualReview(payments, provider, settler, patience)
    return Payments(payments, worker, relay, outbox, desk)
