"""The hands of payments: a pool of threads that calls the provider, and a sweep that finds due payments.

The database is the queue. A payment is called for only under a lease, and whatever comes of it is written only by
who still holds it; a process that dies leaves leases to expire, one that stops gives them back.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from app.contracts.base import Unavailable
from app.observability import metrics, tracing
from app.observability.logging import log
from app.observability.stages import Stage
from app.observability.supervision import BackgroundThread, Heartbeat
from app.payments import payment as domain
from app.payments.fair_queue import FairQueue
from app.payments.payment import Call, Payment, ProviderResponse, ResponseCode, RetryPolicy
from app.payments.provider_client import CircuitBreakingProvider
from app.payments.recorder import ProviderResult, Recorder
from app.payments.repository import LeasedPayment, PaymentRepository
from app.payments.results import Settler


@dataclass(frozen=True, kw_only=True)
class InFlightCall:
    """A call that is under way since `at`, by the process's monotonic clock."""

    held: LeasedPayment
    call: Call
    at: float

    @property
    def key(self) -> tuple[str, int]:
        """One attempt at one payment."""
        return self.held.payment.order_id, self.held.payment.attempt

    @property
    def seconds(self) -> float:
        """How long it has been under way."""
        return time.monotonic() - self.at


class CallTimedOut(Exception):
    """A call took so long that it was settled as unknown; what it answers now is too late."""


class Worker:
    """Calls the provider for payments under lease, many side by side."""

    SWEEP = 128
    QUEUE = 1024
    QUEUED_SECONDS = 2.0
    LEAST_HUNG = 16

    def __init__(
        self,
        payments: PaymentRepository,
        guard: CircuitBreakingProvider,
        settler: Settler,
        patience: RetryPolicy,
        *,
        threads: int,
        timeout: float,
        interval: float,
    ) -> None:
        self._payments = payments
        self._guard = guard
        self._patience = patience
        self._threads = threads
        self._timeout = timeout
        self._interval = interval
        # A call that hangs keeps its thread, but not its line: another thread takes its place, up to this many.
        self._most_hung = max(threads, self.LEAST_HUNG)
        self._lines = threading.Semaphore(threads)
        self._pool = ThreadPoolExecutor(threads + self._most_hung, thread_name_prefix="payments")
        self._sweeper = BackgroundThread("payments-sweep", self._sweep_on)
        self._calls = _Calls(self)
        self._prompted = threading.Event()
        self._stopping = threading.Event()
        self._recorder = Recorder(payments, settler, patience, self._stopping, self.prompt)
        self.draining = False
        self._queue = FairQueue()
        self._running: set[Future[None]] = set()
        self._begun: dict[tuple[str, int], InFlightCall] = {}
        self._hung: set[tuple[str, int]] = set()
        self._mean_seconds = 0.01

    @property
    def heartbeats(self) -> tuple[Heartbeat, Heartbeat]:
        """Of the sweep, and of the calls: these are dead where more calls hang than threads can be replaced."""
        return self._sweeper, self._calls

    @property
    def hung(self) -> int:
        """How many calls were given up and have not come back."""
        return len(self._hung)

    @property
    def queued(self) -> int:
        """How many payments wait for their call to begin."""
        return len(self._queue)

    @property
    def overwhelmed(self) -> bool:
        """Whether more calls hang than threads may be replaced."""
        return len(self._hung) >= self._most_hung

    def room(self) -> int:
        """How many payments more this process can take and begin soon."""
        if self.draining or self._guard.open or self.overwhelmed:
            return 0
        busy = len(self._queue) + len(self._begun) + self._recorder.waiting
        if self._guard.probing:
            return 0 if busy else 1
        return max(0, self._capacity() - busy)

    def choose(self, payments: Sequence[Payment]) -> tuple[list[Payment], list[Payment]]:
        """Divide new payments into those that this process takes now, and those that it leaves to a sweep.

        One user may fill no more than seven eighths of the queue, so that there is room for another's payment.
        """
        room, share = self.room(), max(self._threads, self._capacity() * 7 // 8)
        waiting: Counter[str] = Counter()
        taken: list[Payment] = []
        left: list[Payment] = []
        for payment in payments:
            user_id = payment.user_id
            fits = len(taken) < room and self._queue.of_user(user_id) + waiting[user_id] < share
            waiting[user_id] += fits
            (taken if fits else left).append(payment)
        return taken, left

    def offer(self, held: Sequence[LeasedPayment]) -> None:
        """Have these payments, leased by this process, called for."""
        for one in held:
            self._queue.put(one)
            if not self._submit(self._run_next):
                self._give_back(self._queue.clear())

    def prompt(self) -> None:
        """Say that something is due."""
        self._prompted.set()

    def start(self) -> None:
        """Start sweeping, at once for what a dead process left."""
        self._sweeper.start()

    def stop(self, timeout: float) -> None:
        """Take up nothing more, give back the leases of what was not begun, let running calls end."""
        ends = time.monotonic() + timeout
        self.draining = True
        self._stopping.set()
        self._prompted.set()
        self._sweeper.join(timeout)
        self._give_back(self._queue.clear())
        wait(list(self._running), max(0.0, ends - time.monotonic()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def measure(self) -> None:
        """Tell the metrics how much is under way."""
        metrics.payment_threads.set(self._threads)
        metrics.payment_threads_busy.set(len(self._begun))
        metrics.payment_threads_hung.set(self.hung)
        metrics.payments_queued.set(self.queued)
        metrics.results_pending.set(self._recorder.waiting)
        metrics.circuit_breaker_open.set(self._guard.open)

    def sweep(self) -> int:
        """Take up what is due and fits; tells how many that were."""
        room = min(self.room(), self.SWEEP)
        held = self._payments.claim(room, untried_first=self._guard.probing) if room else []
        self.offer(held)
        return len(held)

    def work(self, held: LeasedPayment) -> None:
        """Do what one payment needs next, and record what came of it. Raises CallTimedOut when that took too long."""
        self._recorder.take(self.ask(held))

    def ask(self, held: LeasedPayment) -> ProviderResult:
        """Ask the provider what one payment needs next. Raises CallTimedOut when that took too long."""
        call = None if domain.exhausted(held.payment, self._patience) else domain.next_call(held.payment)
        if call is None:
            return ProviderResult(held=held, call=call, outcome=NOTHING_ASKED, took_ms=0.0)
        begun = InFlightCall(held=held, call=call, at=time.monotonic())
        self._begun[begun.key] = begun
        try:
            outcome, traceparent = self._traced(held, call)
        finally:
            self._end(begun)
        took = begun.seconds
        self._mean_seconds += (took - self._mean_seconds) / 16
        return ProviderResult(held=held, call=call, outcome=outcome, took_ms=took * 1000, traceparent=traceparent)

    def _end(self, begun: InFlightCall) -> None:
        """Take a call off those that are under way. Raises CallTimedOut where that was done before."""
        if self._begun.pop(begun.key, None) is None:
            self._hung.discard(begun.key)
            log.warning("answer came too late", module="payments", order_id=begun.call.order_id)
            raise CallTimedOut

    def take_over(self) -> None:
        """Settle calls that have taken too long as unknown; whatever they still answer is ignored."""
        for key, begun in list(self._begun.items()):
            if begun.seconds <= self._timeout:
                continue
            self._hung.add(key)  # Before it is taken over: the late answer takes it out again.
            if not self._begun.pop(key, False):
                self._hung.discard(key)
                continue
            self._lines.release()
            took_ms = begun.seconds * 1000
            outcome = self._guard.timed_out(begun.held.payment.user_id)
            self._record(ProviderResult(held=begun.held, call=begun.call, outcome=outcome, took_ms=took_ms))

    def _record(self, learned: ProviderResult) -> None:
        """Have a result recorded by a thread of the pool: who records may be kept busy, and the sweep must go on."""
        if not self._submit(partial(self._recorder.take, learned)):
            self._recorder.take(learned)

    def _submit(self, work: Callable[[], None]) -> bool:
        """Have a thread of the pool do some work; false where the pool has shut down."""
        try:
            future = self._pool.submit(work)
        except RuntimeError:
            return False
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return True

    def _capacity(self) -> int:
        """How many payments this process can take in all and begin soon."""
        soon = int(self._threads * self.QUEUED_SECONDS / max(self._mean_seconds, 0.001))
        return min(self._threads + soon, self.QUEUE)

    def _traced(self, held: LeasedPayment, call: Call) -> tuple[ProviderResponse, str]:
        """The guard's answer, and how the call is named in its trace: the one step that is a span while it lasts."""
        payment, again = held.payment, held.payment.attempt > 1
        if tracing.tracer is None or not payment.traceparent:
            return self._guard.ask(call, again, partial(self._may_send, held), payment.user_id), ""
        # A call that died with its process has left no name: then the trace as such is taken up.
        link = (held.traced or payment.traceparent) if again else ""
        noted: dict[str, str | int] = {"order_id": call.order_id, "attempt": payment.attempt, "call": call.kind.value}
        with tracing.tracer.span(Stage.PAYMENT_PROCESSED, payment.traceparent, link=link, **noted) as span:
            outcome = self._guard.ask(call, again, partial(self._may_send, held), payment.user_id)
            span.set_attributes(answer=outcome.answer.value)
        return outcome, span.traceparent

    def _may_send(self, held: LeasedPayment) -> bool:
        """Whether the call may still be sent: it has not been given up, and the provider knows its key."""
        payment = held.payment
        under_way = (payment.order_id, payment.attempt) in self._begun
        return under_way and domain.may_send(payment, held.key_age(self._payments.now()), self._patience)

    def _give_back(self, unbegun: list[LeasedPayment]) -> None:
        try:
            self._payments.give_back(unbegun)
        except Unavailable as exc:
            log.warning("leases not given back", module="payments", reason=exc.detail)

    def _may_begin(self, held: LeasedPayment) -> bool:
        if self.draining:
            self._give_back([held])
            return False
        # Waited too long to be sure of the lease? Then the sweep takes it up once that has ended.
        return self._payments.now() + timedelta(seconds=self._timeout) <= held.lease_end

    def _run_next(self) -> None:
        if not self._has_line():
            return
        self._calls.beat()
        held, learned, has_line = None, None, True
        try:
            held = self._queue.take()
            if held and self._may_begin(held):
                learned = self.ask(held)
        except CallTimedOut:
            has_line = False  # It was given to others when the call was taken over.
        except Exception:
            order_id = held.payment.order_id if held else ""
            log.exception("payment failed", module="payments", order_id=order_id)
        finally:
            if has_line:
                self._lines.release()
        if learned:
            self._recorder.take(learned)

    def _has_line(self) -> bool:
        while not self._lines.acquire(timeout=LINE_SECONDS):
            if self.draining:
                return False
        return True

    def _sweep_on(self) -> None:
        while not self._stopping.is_set():
            self._sweeper.beat()
            self._prompted.clear()
            more = False
            try:
                self.take_over()
                more = self.sweep() == self.SWEEP
            except Unavailable as exc:
                log.warning("sweep waits", module="payments", reason=exc.detail)
            except Exception:
                log.exception("sweep failed", module="payments")
            if not more:
                self._prompted.wait(self._interval)


class _Calls(Heartbeat):
    """Comes round whenever a call begins; dead where more calls hang than threads may be replaced."""

    def __init__(self, worker: Worker) -> None:
        super().__init__("payments-calls")
        self._worker = worker

    @property
    def idle(self) -> bool:
        return not self._worker.queued

    @property
    def dead(self) -> bool:
        return self._worker.overwhelmed


LINE_SECONDS = 0.1
NOTHING_ASKED = ProviderResponse(answer=ResponseCode.UNKNOWN, reason="there was nothing to ask")
