"""Records decisions about payments. State, log entry, time of the next call and event of a payment are one write."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from app.contracts.base import Event, Unavailable
from app.contracts.payments import DeadLetterReplayed, PaymentDisputed, PaymentEvent, PaymentParked, PaymentRefundFailed
from app.observability import metrics
from app.observability.logging import log
from app.observability.stages import Stage, record_stages, stage_record
from app.payments import payment_commands, provider_calls, provider_responses
from app.payments.documents import LeasedPayment
from app.payments.payment import NOT_SETTLED, Payment, PaymentDecision, RetryPolicy, act_until
from app.payments.provider_port import DisputeStatus, ProviderCall, ProviderResponse
from app.payments.repository import PaymentRepository, PaymentUpdate
from app.storage.mongodb import Document
from app.system import SYSTEM, System


@dataclass(frozen=True, kw_only=True)
class ProviderResult:
    """The result of one attempt: the provider's `response` to `call`, which took `took_ms` milliseconds.

    `call` is None where none was due. `traceparent` names the call's span, empty where there is none. `request_id` is the request of
    the operator who has recorded it, empty for a call's own.
    """

    leased: LeasedPayment
    call: ProviderCall | None
    response: ProviderResponse
    took_ms: float = 0.0
    traceparent: str = ""
    request_id: str = ""

    @property
    def order_id(self) -> str:
        """The order that the attempt was for."""
        return self.leased.payment.order_id

    def log_entry(self, at: datetime, call_seconds: float) -> Document:
        """The entry for the payment's log; a call whose outcome is unknown may reach the provider for `call_seconds` more."""
        entry = {
            "attempt": self.leased.payment.fencing_token,
            "at": at,
            "call": self.call.kind.value if self.call else "none",
            "key": self.call.key if self.call else "",
            "answer": self.response.code.value,
            "reason": self.response.reason,
            "tookMs": round(self.took_ms, 2),
        }
        marks = {"requestId": self.call.request_id if self.call else self.request_id, "traceparent": self.traceparent}
        # Kept with the payment, since whoever reads it may have other settings than the process that called.
        ends = {"callSeconds": call_seconds} if self.response.code in NOT_SETTLED and call_seconds else {}
        return entry | ends | {name: mark for name, mark in marks.items() if mark}


# Events after which a person may have to act; the failed refund of a cancelled order parks its payment.
COUNTERS = {
    PaymentParked: metrics.payments_parked,
    PaymentDisputed: metrics.payments_disputed,
    PaymentRefundFailed: metrics.refunds_failed,
}


class ResultWriter:
    """Writes what provider calls, order events and operators change; a lost compare-and-set is decided again.

    The first thread with a provider result writes a batch that takes along the results of other threads. `work_due` is set
    when such a result makes a payment due at once; `stopping` ends the waiting for an unavailable database.
    """

    MAX_BATCH = 128
    BUSY_BATCH = 3
    LINGER_SECONDS = 0.01
    RETRY_SECONDS = 0.2
    MAX_CONFLICTS = 8

    def __init__(self, payments: PaymentRepository, policy: RetryPolicy, system: System = SYSTEM) -> None:
        self._system = system
        self._payments = payments
        self._policy = policy
        self._pending: deque[ProviderResult] = deque()
        self._writing = threading.Lock()
        self._busy = False
        self.work_due = threading.Event()
        self.stopping = threading.Event()

    @property
    def pending(self) -> int:
        """How many provider results are not written yet."""
        return len(self._pending)

    def write(self, result: ProviderResult) -> None:
        """Write a provider result: in this thread, unless another thread is writing and takes it along."""
        self._pending.append(result)
        # Checked again after the lock is free: a result that came too late for the batch is written by its own thread.
        while self._pending and self._writing.acquire(blocking=False):
            try:
                # Threads with a result get the time to add it; under load more of them will have one soon.
                self._system.sleep(self.LINGER_SECONDS if self._busy else 0)
                self._busy = len(self._pending) >= self.BUSY_BATCH
                self._write_safely([self._pending.popleft() for _ in range(min(len(self._pending), self.MAX_BATCH))])
            finally:
                self._writing.release()

    def apply(self, event: Event, decide: Callable[[Payment], PaymentDecision]) -> None:
        """Record what an order event leads to; an event that the payment has applied already changes nothing.

        Raises LookupError where the order has no payment, and Unavailable after MAX_CONFLICTS concurrent changes.
        """
        for _ in range(self.MAX_CONFLICTS):
            current = self._payments.find(event.order_id)
            if current is None:
                raise LookupError(f"order {event.order_id} has no payment")
            payment = current.payment
            if event.sequence <= payment.order_sequence:
                return
            if self.save(current, payment_commands.with_cause(payment, decide(payment), event)):
                return
        raise Unavailable(f"the payment of order {event.order_id} changed too often meanwhile")

    def request_refresh(self, order_id: str, request_id: str = "") -> bool:
        """Record that the provider's record of a payment is to be read; false where the order has no payment.

        `request_id` is the HTTP request that caused it.

        Raises Unavailable after MAX_CONFLICTS concurrent changes.
        """
        for _ in range(self.MAX_CONFLICTS):
            current = self._payments.find(order_id)
            if current is None:
                return False
            if self.save(current, payment_commands.request_refresh(current.payment, request_id)):
                return True
        raise Unavailable(f"the payment of order {order_id} changed too often meanwhile")

    def replay(self, order_id: str, operator: str, reason: str, request_id: str = "") -> bool:
        """Have the dead letter of an order's payment delivered again; false where there is none.

        Raises Unavailable after MAX_CONFLICTS concurrent changes.
        """
        for _ in range(self.MAX_CONFLICTS):
            current = self._payments.find(order_id)
            if current is None or not current.dead_letter:
                return False
            decision = PaymentDecision(
                payment=current.payment,
                event=DeadLetterReplayed,
                operator=operator,
                operator_note=f"dead letter of payments delivered again: {reason}",
                request_id=request_id,
            )
            event = _event(self._system.new_id(), current, decision, self._payments.now(), 0.0)
            if event and self._payments.replay(current, event):
                return True
        raise Unavailable(f"the payment of order {order_id} changed too often meanwhile")

    def save(self, current: LeasedPayment, decision: PaymentDecision, result: ProviderResult | None = None) -> bool:
        """Write one decision; false where `current` is out of date. Without a result a call under way keeps its lease."""
        update = self._update(current, decision, result)
        saved = self._payments.save([update])[0]
        if saved:
            _warn_if_parked(update)
            # What an operator does is no reason to call one.
            if not decision.operator:
                _count_event(update.event)
        return saved

    def _write_safely(self, batch: list[ProviderResult]) -> None:
        try:
            self._write_batch(batch)
        except Unavailable as exc:
            orders = [result.order_id for result in batch]
            log.warning("results left to a sweep", module="payments", orders=orders, reason=exc.detail)
        except Exception:
            if len(batch) == 1:
                log.exception("result not recorded", module="payments", order_id=batch[0].order_id)
                return
            # One result fails the command for all of them.
            for result in batch:
                self._write_safely([result])

    def _write_batch(self, batch: Sequence[ProviderResult]) -> None:
        metrics.batch_sizes.labels("payment results").observe(len(batch))
        updates = [self._update_for(result.leased, result) for result in batch]
        recorded, conflicts = [], []
        for result, update, written in zip(batch, updates, self._save_patiently(updates), strict=True):
            if written:
                recorded.append((result, update))
            else:
                conflicts.append(result)
        self._report(recorded)
        for result in conflicts:
            self._decide_again(result)

    def _decide_again(self, result: ProviderResult) -> None:
        """Write a result for a payment that has changed during the call, by a cancellation for example."""
        while current := self._payments.reload_if_unanswered(result.leased):
            update = self._update_for(current, result)
            if self._save_patiently([update])[0]:
                self._report([(result, update)])
                return
        metrics.leases_lost.inc()
        log.warning("result not recorded: lease lost or result known", module="payments", order_id=result.order_id)

    def _update_for(self, current: LeasedPayment, result: ProviderResult) -> PaymentUpdate:
        return self._update(current, self._decide(current, result), result)

    def _decide(self, current: LeasedPayment, result: ProviderResult) -> PaymentDecision:
        payment = current.payment
        if result.call is None:
            unchanged = PaymentDecision(payment=payment, due_in=0.0 if provider_calls.next_call(payment) else None)
            return provider_responses.park_if_exhausted(payment, self._policy) or unchanged
        now = self._payments.now()
        return provider_responses.apply_response(
            payment, result.call, result.response, current.key_age(now), self._policy, now
        )

    def _update(
        self, current: LeasedPayment, decision: PaymentDecision, result: ProviderResult | None
    ) -> PaymentUpdate:
        decision = provider_calls.with_refresh(decision)
        now, due_in = self._payments.now(), decision.due_in
        event = _event(self._system.new_id(), current, decision, now, result.took_ms if result else 0.0)
        payment = provider_calls.reset_key_sent(current.payment, decision.payment)
        call_under_way = result is None and current.under_lease and current.lease_end > now
        return PaymentUpdate(
            before=current,
            write_id=self._system.new_id(),
            payment=replace(payment, sequence=event.sequence) if event else payment,
            event=event,
            log_entry=result.log_entry(now, 0 if decision.operator else self._payments.call_seconds)
            if result
            else None,
            due_at=None if due_in is None else now + timedelta(seconds=self._jittered(due_in)),
            due_at_once=due_in == 0.0,
            keeps_lease=call_under_way and due_in is not None,
        )

    def _jittered(self, seconds: float) -> float:
        # Between half and all of it: retries of many payments spread, and none comes at once.
        return seconds * self._system.random.uniform(0.5, 1.0)

    def _save_patiently(self, updates: Sequence[PaymentUpdate]) -> list[bool]:
        """Save, and repeat while the database is unavailable and a lease lasts."""
        while True:
            try:
                return self._payments.save(updates)
            except Unavailable:
                lease_end = max(update.before.lease_end for update in updates)
                if self._payments.now() >= lease_end or self._system.wait(self.stopping, self.RETRY_SECONDS):
                    raise

    def _report(self, recorded: Sequence[tuple[ProviderResult, PaymentUpdate]]) -> None:
        """Count the recorded results, log their stage, and wake the worker where one makes its payment due at once."""
        metrics.observations.add(
            metrics.payment_attempts, [one.leased.payment.retry_count for one, update in recorded if update.event]
        )
        calls = Counter((result.call.kind, result.response.code) for result, _ in recorded if result.call)
        for (kind, code), count in calls.items():
            metrics.provider_calls.labels(kind.value, code.value).inc(count)
        for _, update in recorded:
            _count_event(update.event)
            _warn_if_parked(update)
            if update.due_at_once:
                self.work_due.set()
        record_stages(Stage.PAYMENT_PROCESSED, [_stage_record(result, update) for result, update in recorded])


def _count_event(event: PaymentEvent | None) -> None:
    if event and (counter := COUNTERS.get(type(event))):
        counter.inc()
    if isinstance(event, PaymentParked) and event.failed_refund_id:
        metrics.refunds_failed.inc()


def _warn_if_parked(update: PaymentUpdate) -> None:
    if isinstance(update.event, PaymentParked):
        payment = update.payment
        log.warning(
            "payment parked",
            module="payments",
            order_id=payment.order_id,
            request_id=update.event.request_id,
            amount=payment.total.value,
            currency=payment.total.currency,
            reason=payment.parked_reason,
        )


def _event(
    event_id: str, current: LeasedPayment, decision: PaymentDecision, now: datetime, took_ms: float
) -> PaymentEvent | None:
    if decision.event is None:
        return None
    before, after, refund, dispute = current.payment, decision.payment, decision.refund, decision.dispute
    members: dict[str, Any] = {
        "event_id": event_id,
        "order_id": before.order_id,
        "sequence": before.sequence + 1,
        "order_sequence": after.order_sequence,
        "user_id": before.user_id,
        "request_id": decision.request_id,
        "at": int(now.timestamp() * 1000),
        "traceparent": after.traceparent,
        "reference": decision.detail,
        "reason": decision.detail,
        "took_ms": int(took_ms),
        "refund_id": refund.refund_id if refund else "",
        "refund_value": refund.value if refund else 0,
        "failed_refund_id": refund.refund_id if refund else "",
        "failed_refund_value": refund.value if refund else 0,
        "failed_refund_reason": decision.refund_failure,
        "refunded_total": after.refunded,
        "authorized_value": after.authorized,
        "captured_value": after.captured,
        "action_type": after.action.type if after.action else "",
        "action_url": after.action.url if after.action else "",
        "client_secret": after.action.client_secret if after.action else "",
        "expires_at": int(ends.timestamp() * 1000) if (ends := act_until(after)) else 0,
        "dispute_id": dispute.dispute_id if dispute else "",
        "dispute_value": dispute.value if dispute else 0,
        "won": bool(dispute and dispute.status == DisputeStatus.WON),
        "disputed": after.disputed,
        "payment_status": after.status.value,
        "operator": decision.operator,
        "operator_note": decision.operator_note,
        "corrects": decision.corrects,
    }
    return decision.event(**{name: members[name] for name in decision.event.__struct_fields__})


def _stage_record(result: ProviderResult, update: PaymentUpdate) -> dict[str, object]:
    return stage_record(
        module="payments",
        order_id=result.order_id,
        request_id=(result.call or result.leased.payment).request_id,
        took_ms=result.took_ms,
        answer=result.response.code.value,
        payment_status=update.payment.status.value,
    )
