"""Records what the provider answered: many results in one write, by whichever thread comes first."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.contracts.base import Unavailable
from app.observability import metrics
from app.observability.logging import log
from app.observability.stages import Stage, record_stages, stage_record
from app.payments import payment as domain
from app.payments.payment import Call, News, PaymentDecision, ProviderResponse, RetryPolicy
from app.payments.repository import LeasedPayment, PaymentRepository, Result
from app.payments.results import Settler, log_line


@dataclass(frozen=True, kw_only=True)
class ProviderResult:
    """What came of one attempt: `outcome` answered `call` after `took_ms` milliseconds; no call where none was due.

    `traceparent` names the call in its trace, empty where there is none.
    """

    held: LeasedPayment
    call: Call | None
    outcome: ProviderResponse
    took_ms: float
    traceparent: str = ""

    @property
    def order_id(self) -> str:
        """The order that the attempt was for."""
        return self.held.payment.order_id


class Recorder:
    """Writes results down, together with whatever other threads have learned meanwhile."""

    BATCH = 128
    CROWD = 3
    LINGER_SECONDS = 0.01
    AGAIN_SECONDS = 0.2

    def __init__(
        self,
        payments: PaymentRepository,
        settler: Settler,
        patience: RetryPolicy,
        stopping: threading.Event,
        prompt: Callable[[], None],
    ) -> None:
        self._payments = payments
        self._settler = settler
        self._patience = patience
        self._stopping = stopping
        self._prompt = prompt
        self._waiting: deque[ProviderResult] = deque()
        self._leading = threading.Lock()
        self._crowded = False

    @property
    def waiting(self) -> int:
        """How many results are yet to be written."""
        return len(self._waiting)

    def take(self, learned: ProviderResult) -> None:
        """Have a result written: by this thread, unless another is writing and takes it along."""
        self._waiting.append(learned)
        # Looked at again after the lock is free: a result that came too late to be taken along leads itself.
        while self._waiting and self._leading.acquire(blocking=False):
            try:
                # Whoever has learned something by now comes along; under load more are about to.
                time.sleep(self.LINGER_SECONDS if self._crowded else 0)
                self._crowded = len(self._waiting) >= self.CROWD
                self._safely([self._waiting.popleft() for _ in range(min(len(self._waiting), self.BATCH))])
            finally:
                self._leading.release()

    def _safely(self, batch: list[ProviderResult]) -> None:
        try:
            self._record(batch)
        except Unavailable as exc:
            orders = [learned.order_id for learned in batch]
            log.warning("results kept back", module="payments", orders=orders, reason=exc.detail)
        except Exception:
            if len(batch) == 1:
                log.exception("result not recorded", module="payments", order_id=batch[0].order_id)
                return
            # One of them spoils the command for all.
            for learned in batch:
                self._safely([learned])

    def _record(self, batch: Sequence[ProviderResult]) -> None:
        metrics.batch_sizes.labels("payment results").observe(len(batch))
        drafts = [(learned, self._meaning(learned.held, learned)) for learned in batch]
        results = [self._result(learned.held, learned, change) for learned, change in drafts]
        told: list[tuple[ProviderResult, PaymentDecision]] = []
        stale: list[tuple[ProviderResult, PaymentDecision]] = []
        for draft, done in zip(drafts, self._patiently(results), strict=True):
            (told if done else stale).append(draft)
        self._tell(told)
        for learned, _ in stale:
            self._decide_anew(learned)

    def _decide_anew(self, learned: ProviderResult) -> None:
        """Cancelled meanwhile, say: the same answer now means something else."""
        while current := self._payments.renewed(learned.held):
            change = self._meaning(current, learned)
            if self._patiently([self._result(current, learned, change)])[0]:
                self._tell([(learned, change)])
                return
        metrics.leases_lost.inc()
        log.warning("lease lost or result recorded", module="payments", order_id=learned.order_id)

    def _result(self, held: LeasedPayment, learned: ProviderResult, change: PaymentDecision) -> Result:
        now = self._payments.now()
        line = log_line(learned.held, learned.call, learned.outcome, now, learned.took_ms, learned.traceparent)
        return self._settler.result(held, change, line, learned.took_ms)

    def _meaning(self, held: LeasedPayment, learned: ProviderResult) -> PaymentDecision:
        if learned.call is None:
            again = 0.0 if domain.next_call(held.payment) else None
            return domain.exhausted(held.payment, self._patience) or PaymentDecision(payment=held.payment, due=again)
        age = held.key_age(self._payments.now())
        return domain.answered(held.payment, learned.call, learned.outcome, age, self._patience)

    def _patiently(self, results: Sequence[Result]) -> list[bool]:
        """Record, repeating while the database is away and a lease lasts."""
        while True:
            try:
                return self._payments.settle(results)
            except Unavailable:
                lease_end = max(result.before.lease_end for result in results)
                if self._payments.now() >= lease_end or self._stopping.wait(self.AGAIN_SECONDS):
                    raise

    def _tell(self, recorded: Sequence[tuple[ProviderResult, PaymentDecision]]) -> None:
        metrics.observations.add(
            metrics.payment_attempts, [learned.held.payment.tries for learned, change in recorded if change.news]
        )
        calls = Counter((learned.call.kind, learned.outcome.answer) for learned, _ in recorded if learned.call)
        for (kind, answer), count in calls.items():
            metrics.provider_calls.labels(kind.value, answer.value).inc(count)
        for _, change in recorded:
            if change.news == News.PARKED:
                metrics.payments_parked.inc()
            if change.due == 0.0:
                self._prompt()
        record_stages(Stage.PAYMENT_PROCESSED, [_line(learned, change) for learned, change in recorded])


def _line(learned: ProviderResult, change: PaymentDecision) -> dict[str, object]:
    return stage_record(
        module="payments",
        order_id=learned.order_id,
        request_id=learned.held.payment.request_id,
        took_ms=learned.took_ms,
        answer=learned.outcome.answer.value,
        payment_status=change.payment.status.value,
    )
