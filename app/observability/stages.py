"""The nine stages of an order. Each is recorded as one log line and passed to every subscriber."""

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from app.observability import logging

# Called with the stage, the time in seconds since 1970, and the records, which all subscribers share.
Subscriber = Callable[[str, float, Sequence[dict[str, Any]]], None]


class Stage(StrEnum):
    """The nine stages in the order in which they happen."""

    GATEWAY_RECEIVED = "gateway received"
    ORDERS_RECEIVED = "orders received"
    ORDER_STORED = "order stored"
    HANDED_TO_PAYMENTS = "event handed to payments"
    PAYMENTS_RECEIVED = "payments received"
    PAYMENT_PROCESSED = "payment processed"
    HANDED_TO_ORDERS = "result handed to orders"
    RESULT_RECEIVED = "orders received result"
    ORDER_UPDATED = "order updated"


_subscribers: list[Subscriber] = []


def subscribe(subscriber: Subscriber) -> None:
    """Call `subscriber` for every stage from now on, after the earlier subscribers. A second subscription has no effect."""
    if subscriber not in _subscribers:
        _subscribers.append(subscriber)


def unsubscribe(subscriber: Subscriber) -> None:
    """Stop calling `subscriber`."""
    _subscribers.remove(subscriber)


def record_stage(stage: str, *, module: str, order_id: str, request_id: str, took_ms: float, **more: Any) -> None:
    """Record a stage of one order. `took_ms` is in milliseconds."""
    record_stages(
        stage, [stage_record(module=module, order_id=order_id, request_id=request_id, took_ms=took_ms, **more)]
    )


def stage_record(
    *, module: str, order_id: str, request_id: str, took_ms: float, traceparent: str = "", **more: Any
) -> dict[str, Any]:
    """The members of one record. `traceparent` names the W3C trace that it belongs to; empty for none."""
    if traceparent:
        more["traceparent"] = traceparent
    return {"module": module, "order_id": order_id, "request_id": request_id, "took_ms": round(took_ms, 2), **more}


def record_stages(stage: str, records: Sequence[dict[str, Any]]) -> None:
    """Record a stage of many orders at once. Never raises."""
    logging.write_lines(stage, records)
    if _subscribers:
        at = time.time()
        for subscriber in _subscribers:
            try:
                subscriber(stage, at, records)
            except Exception:
                logging.log.exception("stage subscriber failed", stage=stage)
