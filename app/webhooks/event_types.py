"""The types of events that webhooks tell, and the body that tells one. Pure."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from app.contracts.base import Money, rfc3339
from app.contracts.orders import OrderChanged, OrderView
from app.contracts.webhooks import EXAMPLE_STATUSES, TEST_EVENT

SUCCESS = "Success"
DECLINED = "Declined"
CANCELLED = "Cancelled"

# Types that follow from the change alone; the others follow from the status that it leads to.
BY_CHANGE = {
    "OrderCreated": "order.created",
    "OrderCancelled": "order.cancelled",
    "PaymentRefunded": "order.refunded",
    "PaymentRefundFailed": "order.refund_failed",
    "PaymentActionRequired": "order.action_required",
    "PaymentDisputed": "order.disputed",
}
BY_STATUS = {SUCCESS: "order.succeeded", DECLINED: "order.declined", CANCELLED: "order.cancelled"}
OTHER = "order.updated"
# 22 November 2026, 15:23:02.984 UTC.
EXAMPLE_AT = 1_795_360_982_984


def event_type(event: OrderChanged) -> str:
    """The type that tells a change of an order."""
    by_change = BY_CHANGE.get(event.change)
    if by_change:
        return by_change
    return BY_STATUS.get(event.order_status, OTHER) if event.order_status != event.previous_status else OTHER


def order_body(event: OrderChanged, order: OrderView) -> str:
    """The body of a webhook: the order as it was after the change, whatever `order` has become since, but with its present metadata.

    Amounts are {"value": minor units, "currency": ISO 4217 code}; `sequence` counts the changes of this order without a gap.
    """
    then = msgspec.structs.replace(
        order,
        order_status=event.order_status,
        payment_status=event.payment_status,
        version=event.version,
        updated_at=_rfc3339(event.at),
        next_action=None,
        metadata=order.metadata if event.has_metadata else None,
        **_amounts(event, order.total.currency),
    )
    data = {"order": then, "sequence": event.sequence, "previousStatus": event.previous_status}
    return body(event.event_id, event_type(event), event.at, data)


def has_one_body(event: OrderChanged) -> bool:
    """Whether this event has the same body whenever it is made: metadata may have been changed by the next time."""
    return not event.has_metadata


def without_personal_data(text: str, pseudonym: str) -> str:
    """A webhook's body with this in place of the user's id, and without the order's metadata."""
    content = json.loads(text)
    order = content["data"].get("order")
    if order:
        order["userId"] = pseudonym
        order.pop("metadata", None)
    return msgspec.json.encode(content).decode()


def body(event_id: str, name: str, at: int, data: Mapping[str, Any]) -> str:
    """A webhook's body as JSON; `at` is in milliseconds since 1970."""
    return msgspec.json.encode({"id": event_id, "type": name, "timestamp": _rfc3339(at), "data": data}).decode()


def _rfc3339(milliseconds: int) -> str:
    return rfc3339(datetime.fromtimestamp(milliseconds / 1000, UTC))


def _amounts(event: OrderChanged, currency: str) -> dict[str, Money | None]:
    always = {
        "captured": event.captured_value,
        "refunded": event.refunded_value,
        "refundable": event.refundable_value,
        "pending": event.pending_value,
    }
    unless_zero = {
        "authorized": event.authorized_value,
        "blocked": event.blocked_value,
        "uncertain": event.uncertain_value,
    }
    amounts: dict[str, Money | None] = {name: Money(value, currency) for name, value in always.items()}
    return amounts | {name: Money(value, currency) if value else None for name, value in unless_zero.items()}


def _change_of(name: str) -> OrderChanged:
    """A change that this type tells, as an example."""
    changes = {told: change for change, told in BY_CHANGE.items()}
    before, after, payment = EXAMPLE_STATUSES[name]
    sequence = 1 if name == "order.created" else 2
    captured = 9900 if payment in ("Captured", "Refunding", "Refunded", "Disputed") else 0
    return OrderChanged(
        event_id="5f0c1c6f7f0b4f6c9f8f2a1d3c4b5a69",
        order_id="6920c1b05be0d3a1f2c4e687",
        sequence=sequence,
        request_id="",
        at=EXAMPLE_AT,
        user_id="user-7",
        change=changes.get(name, "PaymentCaptured"),
        previous_status=before,
        order_status=after,
        payment_status=payment,
        version=sequence,
        captured_value=captured,
        refunded_value=captured if payment == "Refunded" else 0,
        pending_value=captured if payment == "Refunding" else 0,
        refundable_value=captured if payment == "Captured" else 0,
    )


def example(name: str) -> str:
    """A body of this type."""
    if name == TEST_EVENT:
        return body(
            "5f0c1c6f7f0b4f6c9f8f2a1d3c4b5a69", TEST_EVENT, EXAMPLE_AT, {"endpointId": "we_6920c1b05be0d3a1f2c4e687"}
        )
    nothing = Money(0, "MYR")
    order = OrderView(
        id="6920c1b05be0d3a1f2c4e687",
        user_id="user-7",
        product_id="1",
        product_name="Espresso machine",
        total_order_amount="RM 99",
        total=Money(9900, "MYR"),
        order_status=SUCCESS,
        payment_status="Captured",
        version=2,
        created_at=_rfc3339(EXAMPLE_AT - 84),
        updated_at=_rfc3339(EXAMPLE_AT),
        captured=nothing,
        refunded=nothing,
        pending=nothing,
        refundable=nothing,
    )
    return order_body(_change_of(name), order)
