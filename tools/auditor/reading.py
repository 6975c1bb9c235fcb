"""Builds parts of a history from decoded documents: the answers about an order, and the entries of the provider's ledger."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tools.auditor.history import (
    CAPTURE,
    DISPUTE,
    FAILED_REFUND,
    LOST_DISPUTE,
    REFUND,
    WON_DISPUTE,
    FinalOrder,
    Movement,
    TimelineStep,
)

Document = Mapping[str, Any]
# Returns the decoded answer to a GET of a path; None if nothing is found there.
Get = Callable[[str], Document | None]

DISPUTE_ENDS = {"won": WON_DISPUTE, "lost": LOST_DISPUTE}


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
    kind, detail = event["type"], event["detail"]
    _, found, until = detail.rpartition("until ")
    return TimelineStep(
        sequence=event["sequence"],
        type=kind,
        from_status=event["from"],
        to_status=event["to"],
        payment_status=event["paymentStatus"],
        value=event["amount"]["value"] if "amount" in event else 0,
        won=kind == "PaymentDisputeClosed" and detail.startswith("dispute won"),
        until=until if found else "",
    )


def movements(ledger: Iterable[Document]) -> Iterator[Movement]:
    """Yields what moved by the entries of the provider's ledger."""
    for entry in ledger:
        order_id = entry["orderId"]
        if entry["answer"] == "captured":
            yield Movement(order_id=order_id, kind=CAPTURE, value=entry["value"], key=entry["_id"])
        failed = entry.get("failedRefunds", ())
        for refund in (*entry["refunds"], *failed):
            yield _refund_movement(order_id, REFUND, refund)
        for refund in failed:
            yield _refund_movement(order_id, FAILED_REFUND, refund)
        yield from _dispute_movements(order_id, entry.get("dispute"))


def _refund_movement(order_id: str, kind: str, refund: Document) -> Movement:
    # A refund that was made elsewhere has no id of ours.
    elsewhere = refund.get("refundId") == ""
    return Movement(order_id=order_id, kind=kind, value=refund["value"], key=refund["key"], elsewhere=elsewhere)


def _dispute_movements(order_id: str, dispute: Document | None) -> Iterator[Movement]:
    if dispute:
        yield Movement(order_id=order_id, kind=DISPUTE, value=dispute["value"])
        if dispute["status"] in DISPUTE_ENDS:
            yield Movement(order_id=order_id, kind=DISPUTE_ENDS[dispute["status"]], value=dispute["value"])
