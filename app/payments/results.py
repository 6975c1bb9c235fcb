"""Turns a decided change of a payment into one durable write: state, log line, next call and event together."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from app.contracts.base import Event
from app.contracts.payments import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentParked,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentVoided,
)
from app.payments.payment import Call, News, PaymentDecision, ProviderResponse, with_key
from app.payments.repository import LeasedPayment, PaymentRepository, Result
from app.storage.mongodb import Document

NEWS: dict[News, Callable[[PaymentDecision, dict[str, Any], int], Event]] = {
    News.CAPTURED: lambda change, base, took: PaymentCaptured(**base, reference=change.detail, took_ms=took),
    News.DECLINED: lambda change, base, took: PaymentDeclined(**base, reason=change.detail, took_ms=took),
    News.VOIDED: lambda _change, base, _took: PaymentVoided(**base),
    News.REFUNDED: lambda change, base, _took: PaymentRefunded(**base, **_refund(change)),
    News.REFUND_FAILED: lambda change, base, _took: PaymentRefundFailed(
        **base, **_refund(change), reason=change.detail
    ),
    News.PARKED: lambda change, base, _took: PaymentParked(**base, reason=change.detail),
}


class Settler:
    """Records changes of payments, each in one write, many in one command."""

    def __init__(self, payments: PaymentRepository) -> None:
        self._payments = payments

    def record(
        self, held: LeasedPayment, change: PaymentDecision, line: Document | None = None, took_ms: float = 0
    ) -> bool:
        """Write `change`; false when `held` is out of date. Without a line a running call keeps its lease."""
        return self._payments.settle([self.result(held, change, line, took_ms)])[0]

    def result(
        self, held: LeasedPayment, change: PaymentDecision, line: Document | None = None, took_ms: float = 0
    ) -> Result:
        """What to write for `change`."""
        now = self._payments.now()
        event = self._event(held, change, now, took_ms)
        payment = with_key(held.payment, change.payment)
        payment = replace(payment, sequence=event.sequence) if event else payment
        return Result(
            before=held,
            payment=payment,
            event=event,
            line=line,
            due_at=None if change.due is None else now + timedelta(seconds=_jittered(change.due)),
            keeps_lease=line is None and held.owned and held.lease_end > now and change.due is not None,
        )

    def _event(self, held: LeasedPayment, change: PaymentDecision, now: datetime, took_ms: float) -> Event | None:
        if change.news is None:
            return None
        base = {
            "event_id": uuid4().hex,
            "order_id": held.payment.order_id,
            "sequence": held.payment.sequence + 1,
            "order_sequence": change.payment.order_sequence,
            "user_id": held.payment.user_id,
            "request_id": held.payment.request_id,
            "at": int(now.timestamp() * 1000),
            "traceparent": change.payment.traceparent,
        }
        return NEWS[change.news](change, base, int(took_ms))


def log_line(
    held: LeasedPayment,
    call: Call | None,
    outcome: ProviderResponse,
    at: datetime,
    took_ms: float,
    traceparent: str = "",
) -> Document:
    """What the payment's log keeps of one call; `traceparent` names the call in its trace."""
    line = {
        "attempt": held.payment.attempt,
        "at": at,
        "call": call.kind.value if call else "none",
        "key": call.key if call else "",
        "answer": outcome.answer.value,
        "reason": outcome.reason,
        "tookMs": round(took_ms, 2),
    }
    return {**line, "traceparent": traceparent} if traceparent else line


def _refund(change: PaymentDecision) -> dict[str, Any]:
    refund = change.refund
    return {
        "refund_id": refund.refund_id if refund else "",
        "refund_value": refund.value if refund else 0,
        "refunded_total": change.payment.refunded,
    }


def _jittered(seconds: float) -> float:
    # Between half and all of it: retries of many payments spread, and none comes at once.
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing  # nosec B311
