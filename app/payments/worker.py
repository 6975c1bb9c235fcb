"""Calls the provider: a pool of threads, and a sweep that finds due payments.

The database is the queue. A payment is called for only under a lease, and a result is recorded only while that lease
is held. The leases of a process that dies expire; a process that stops releases its leases.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from app.contracts.base import Unavailable
from app.observability import metrics, tracing
from app.observability.logging import log
from app.observability.stages import Stage
from app.observability.supervision import BackgroundThread, Heartbeat
from app.payments import payment as domain
from app.payments import provider_calls, provider_responses
from app.payments.documents import LeasedPayment
from app.payments.fair_queue import FairQueue
from app.payments.payment import Payment, RetryPolicy
from app.payments.provider_client import CircuitBreakingProvider
from app.payments.provider_port import ProviderCall, ProviderResponse, ResponseCode
from app.payments.repository import PaymentRepository
from app.payments.results import ProviderResult, ResultWriter
from app.system import SYSTEM, System

SLOT_WAIT_SECONDS = 0.1
NOTHING_TO_CALL = ProviderResponse(code=ResponseCode.UNKNOWN, reason="there was nothing to call for")


@dataclass(frozen=True, kw_only=True)
class InFlightCall:
    """A call that is under way since `started_at`, by this process's monotonic clock."""

    leased: LeasedPayment
    call: ProviderCall
    started_at: float

    @property
    def key(self) -> tuple[str, int]:
        """Identifies the attempt: order id and fencing token."""
        return self.leased.payment.order_id, self.leased.payment.fencing_token

    def result(self, response: ProviderResponse, seconds: float, traceparent: str = "") -> ProviderResult:
        """The result of a call that took `seconds`."""
        return ProviderResult(
            leased=self.leased, call=self.call, response=response, took_ms=seconds * 1000, traceparent=traceparent
        )


class CallTimedOut(Exception):
    """A call was recorded as unknown because it took too long; its late response is discarded."""


class Worker:
    """Calls the provider for leased payments, many at the same time."""

    SWEEP_LIMIT = 128
    QUEUE_LIMIT = 1024
    QUEUED_SECONDS = 2.0
    MIN_HUNG_LIMIT = 16

    def __init__(
        self,
        payments: PaymentRepository,
        provider: CircuitBreakingProvider,
        results: ResultWriter,
        policy: RetryPolicy,
        *,
        threads: int,
        timeout: float,
        interval: float,
        system: System = SYSTEM,
    ) -> None:
        self._system = system
        self._payments = payments
        self._provider = provider
        self._results = results
        self._policy = policy
        self._threads = threads
        self._timeout = timeout
        self._interval = interval
        # A hung call keeps its thread but not its call slot: up to this many threads are replaced.
        self._hung_limit = max(threads, self.MIN_HUNG_LIMIT)
        self._call_slots = threading.Semaphore(threads)
        self._pool = system.thread_pool(threads + self._hung_limit, "payments")
        self._sweeper = BackgroundThread("payments-sweep", self.run_sweeps)
        self._call_heartbeat = _CallHeartbeat(self)
        self.draining = False
        self._queue = FairQueue()
        self._running: set[Future[None]] = set()
        self._in_flight: dict[tuple[str, int], InFlightCall] = {}
        self._hung: set[tuple[str, int]] = set()
        self._mean_seconds = 0.01

    @property
    def heartbeats(self) -> tuple[Heartbeat, Heartbeat]:
        """The heartbeats of the sweep and of the calls."""
        return self._sweeper, self._call_heartbeat

    @property
    def hung(self) -> int:
        """How many calls have timed out and not returned yet."""
        return len(self._hung)

    @property
    def queued(self) -> int:
        """How many payments wait for their call to start."""
        return len(self._queue)

    @property
    def too_many_hung(self) -> bool:
        """Whether more calls hang than threads may be replaced."""
        return len(self._hung) >= self._hung_limit

    def capacity(self) -> int:
        """How many more payments this process can take and start soon."""
        if self.draining or self._provider.open or self.too_many_hung:
            return 0
        busy = len(self._queue) + len(self._in_flight) + self._results.pending
        if self._provider.half_open:
            return 0 if busy else 1
        return max(0, self._total_capacity() - busy)

    def submit_new(self, payments: Sequence[Payment]) -> None:
        """Record new payments. Those within the capacity are leased and queued; a sweep takes the others."""
        accepted, rest = self._split(payments)
        self.submit(self._payments.insert([*accepted, *rest], len(accepted)))
        # A sweep reads the database, which would delay the calls of those that this process has just leased.
        if rest:
            self.wake()

    def submit(self, leased: Sequence[LeasedPayment]) -> None:
        """Queue payments that this process has leased."""
        for one in leased:
            self._queue.put(one)
            if not self._run_in_pool(self._run_next):
                self._release(self._queue.clear())

    def wake(self) -> None:
        """Start the next sweep now."""
        self._results.work_due.set()

    def start(self) -> None:
        """Start sweeping. The first sweep finds what a dead process left."""
        self._sweeper.start()

    def stop(self, timeout: float) -> None:
        """Take nothing more, release the leases of calls that were not started, let running calls end."""
        ends = self._system.monotonic() + timeout
        self.draining = True
        self._results.stopping.set()
        self.wake()
        self._sweeper.join(timeout)
        self._release(self._queue.clear())
        wait(list(self._running), max(0.0, ends - self._system.monotonic()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def set_gauges(self) -> None:
        """Set the gauges of the worker."""
        metrics.payment_threads.set(self._threads)
        metrics.payment_threads_busy.set(len(self._in_flight))
        metrics.payment_threads_hung.set(self.hung)
        metrics.payments_queued.set(self.queued)
        metrics.results_pending.set(self._results.pending)
        metrics.circuit_breaker_open.set(self._provider.open)

    def sweep(self) -> int:
        """Claim and queue due payments within the capacity; returns how many."""
        limit = min(self.capacity(), self.SWEEP_LIMIT)
        leased = self._payments.claim(limit, untried_first=self._provider.half_open) if limit else []
        self.submit(leased)
        return len(leased)

    def process(self, leased: LeasedPayment) -> None:
        """Make the next call of one payment and record its result. Raises CallTimedOut."""
        self._results.write(self.call_provider(leased))

    def call_provider(self, leased: LeasedPayment) -> ProviderResult:
        """Make the next call of one payment. Raises CallTimedOut."""
        payment = domain.expire_if_overdue(leased.payment, self._payments.now())
        if payment is not leased.payment:
            leased = replace(leased, payment=payment)
        call = (
            None if provider_responses.park_if_exhausted(payment, self._policy) else provider_calls.next_call(payment)
        )
        if call is None:
            return ProviderResult(leased=leased, call=None, response=NOTHING_TO_CALL)
        if payment.provider not in ("", self._provider.name):
            return ProviderResult(leased=leased, call=call, response=_of_another_provider(payment.provider))
        in_flight = InFlightCall(leased=leased, call=call, started_at=self._system.monotonic())
        self._in_flight[in_flight.key] = in_flight
        try:
            response, traceparent = self._send(leased, call)
        finally:
            self._end(in_flight)
        seconds = self._system.monotonic() - in_flight.started_at
        self._mean_seconds += (seconds - self._mean_seconds) / 16
        return in_flight.result(response, seconds, traceparent)

    def time_out_calls(self) -> None:
        """Record calls that have taken too long as unknown; their late responses are discarded."""
        for key, in_flight in list(self._in_flight.items()):
            seconds = self._system.monotonic() - in_flight.started_at
            if seconds <= self._timeout:
                continue
            self._hung.add(key)  # Before the call is removed below: its late response removes the key again.
            if not self._in_flight.pop(key, False):
                self._hung.discard(key)
                continue
            self._call_slots.release()
            response = self._provider.timed_out(in_flight.leased.payment.user_id)
            self._write_in_pool(in_flight.result(response, seconds))

    def _split(self, payments: Sequence[Payment]) -> tuple[list[Payment], list[Payment]]:
        """Split new payments into those that this process accepts and the rest.

        One user gets at most seven eighths of the queue, so that another user's payment finds a place.
        """
        capacity, user_limit = self.capacity(), max(self._threads, self._total_capacity() * 7 // 8)
        new: Counter[str] = Counter()
        accepted: list[Payment] = []
        rest: list[Payment] = []
        for payment in payments:
            user_id = payment.user_id
            fits = len(accepted) < capacity and self._queue.count_of(user_id) + new[user_id] < user_limit
            new[user_id] += fits
            (accepted if fits else rest).append(payment)
        return accepted, rest

    def _total_capacity(self) -> int:
        """How many payments this process can hold at a time and start soon."""
        soon = int(self._threads * self.QUEUED_SECONDS / max(self._mean_seconds, 0.001))
        return min(self._threads + soon, self.QUEUE_LIMIT)

    def _run_in_pool(self, work: Callable[[], None]) -> bool:
        """Run `work` in a thread of the pool; false where the pool has shut down."""
        try:
            future = self._pool.submit(work)
        except RuntimeError:
            return False
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return True

    def _write_in_pool(self, result: ProviderResult) -> None:
        # Not in the sweep's own thread: a thread that writes may be kept busy by the results of others.
        if not self._run_in_pool(partial(self._results.write, result)):
            self._results.write(result)

    def _run_next(self) -> None:
        if not self._acquire_call_slot():
            return
        self._call_heartbeat.beat()
        leased, result, has_slot = None, None, True
        try:
            leased = self._queue.get()
            if leased and self._may_start(leased):
                result = self.call_provider(leased)
        except CallTimedOut:
            has_slot = False  # The slot was released when the call timed out.
        except Exception:
            order_id = leased.payment.order_id if leased else ""
            log.exception("payment failed", module="payments", order_id=order_id)
        finally:
            if has_slot:
                self._call_slots.release()
        if result:
            self._results.write(result)

    def _acquire_call_slot(self) -> bool:
        while not self._system.acquire(self._call_slots, SLOT_WAIT_SECONDS):
            if self.draining:
                return False
        return True

    def _may_start(self, leased: LeasedPayment) -> bool:
        if self.draining:
            self._release([leased])
            return False
        # A call must end within its lease. If it cannot, a sweep takes the payment after the lease has expired.
        return self._payments.now() + timedelta(seconds=self._timeout) <= leased.lease_end

    def _send(self, leased: LeasedPayment, call: ProviderCall) -> tuple[ProviderResponse, str]:
        """The provider's response, and the name of the call's span, empty where nothing is traced."""
        payment = leased.payment
        # A payment that its provider has opened was not charged by the attempts to open it.
        repeated = payment.fencing_token > 1 and not (payment.opens and payment.first_send)
        send = partial(self._provider.call, call, repeated, partial(self._may_send, leased), payment.user_id)
        if tracing.tracer is None or not payment.traceparent:
            return send(), ""
        # The span of a call whose process died was not recorded: then the link is to the whole trace.
        link = (leased.last_traceparent or payment.traceparent) if repeated else ""
        attributes: dict[str, str | int] = {
            "order_id": call.order_id,
            "attempt": payment.fencing_token,
            "call": call.kind.value,
        }
        with tracing.tracer.span(Stage.PAYMENT_PROCESSED, payment.traceparent, link=link, **attributes) as span:
            response = send()
            span.set_attributes(answer=response.code.value)
        return response, span.traceparent

    def _may_send(self, leased: LeasedPayment) -> bool:
        """Whether the call may still be sent: it has not timed out, and the provider still knows its key."""
        payment = leased.payment
        in_flight = self._in_flight.get((payment.order_id, payment.fencing_token))
        if in_flight is None or self._system.monotonic() - in_flight.started_at > self._timeout:
            return False
        return provider_calls.may_send(payment, leased.key_age(self._payments.now()), self._policy)

    def _end(self, in_flight: InFlightCall) -> None:
        """Remove a call from those in flight. Raises CallTimedOut where it was removed before."""
        if self._in_flight.pop(in_flight.key, None) is None:
            self._hung.discard(in_flight.key)
            log.warning("provider answered after the timeout", module="payments", order_id=in_flight.call.order_id)
            raise CallTimedOut

    def _release(self, unstarted: list[LeasedPayment]) -> None:
        try:
            self._payments.release(unstarted)
        except Unavailable as exc:
            log.warning("leases not released", module="payments", reason=exc.detail)

    def run_sweeps(self) -> None:
        """Sweep until the worker stops: the work of its thread."""
        while not self._results.stopping.is_set():
            self._sweeper.beat()
            self._results.work_due.clear()
            more = False
            try:
                self.time_out_calls()
                more = self.sweep() == self.SWEEP_LIMIT
            except Unavailable as exc:
                log.warning("sweep postponed", module="payments", reason=exc.detail)
            except Exception:
                log.exception("sweep failed", module="payments")
            if not more:
                self._system.wait(self._results.work_due, self._interval)


def _of_another_provider(name: str) -> ProviderResponse:
    reason = f"the payment is at {name}, which PAYMENT_PROVIDER does not name"
    return ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, reason=reason, counts_as_try=False)


class _CallHeartbeat(Heartbeat):
    """Beats when a call starts. Dead where more calls hang than threads may be replaced."""

    def __init__(self, worker: Worker) -> None:
        super().__init__("payments-calls")
        self._worker = worker

    @property
    def idle(self) -> bool:
        return not self._worker.queued

    @property
    def dead(self) -> bool:
        return self._worker.too_many_hung
