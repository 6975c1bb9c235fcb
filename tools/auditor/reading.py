"""Builds parts of a history from decoded documents: the answers about an order, and the entries of the provider's ledger."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tools.auditor.history import CAPTURE, REFUND, FinalOrder, Movement, TimelineStep

Document = Mapping[str, Any]
# Returns the decoded answer to a GET of a path; None if nothing is found there.
Get = Callable[[str], Document | None]

REFUND_STEPS = frozenset({"RefundRequested", "PaymentRefunded", "PaymentRefundFailed"})


def read_order(get: Get, order_id: str) -> FinalOrder | None:
    """Reads an order and its timeline as a client does; None if it is not found."""
    found, timeline = get(f"/orders/one/{order_id}"), get(f"/orders/one/{order_id}/events")
    return final_order(found["order"], timeline["events"]) if found and timeline else None


def read_orders(get: Get, order_ids: Iterable[str]) -> dict[str, FinalOrder]:
    """Reads several orders; the result has those that are found."""
    read = {order_id: read_order(get, order_id) for order_id in order_ids}
    return {order_id: order for order_id, order in read.items() if order}


def final_order(order: Document, events: Iterable[Document]) -> FinalOrder:
    """Returns an order as its answer and the entries of its timeline show it."""
    return FinalOrder(
        order_status=order["orderStatus"],
        payment_status=order["paymentStatus"],
        version=order["version"],
        value=order["total"]["value"],
        timeline=[_step(event) for event in events],
    )


def _step(event: Document) -> TimelineStep:
    return TimelineStep(
        sequence=event["sequence"],
        type=event["type"],
        from_status=event["from"],
        to_status=event["to"],
        payment_status=event["paymentStatus"],
        value=_amount(event["detail"]) if event["type"] in REFUND_STEPS else 0,
    )


def _amount(detail: str) -> int:
    """Returns the amount in a text such as "refund of 250"."""
    return next((int(word) for word in detail.split() if word.isdecimal()), 0)


def movements(ledger: Iterable[Document]) -> Iterator[Movement]:
    """Yields the captures and refunds in the entries of the provider's ledger."""
    for entry in ledger:
        order_id = entry["orderId"]
        if entry["answer"] == "captured":
            yield Movement(order_id=order_id, kind=CAPTURE, value=entry["value"], key=entry["_id"])
        for refund in entry["refunds"]:
            yield Movement(order_id=order_id, kind=REFUND, value=refund["value"], key=refund["key"])
