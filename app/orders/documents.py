"""Orders as MongoDB keeps them: schema, indexes, projections, and the mapping to what the application works with."""

import json
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import pymongo
from bson import ObjectId

from app.contracts.base import Money, NotFound, rfc3339
from app.contracts.orders import CreateOrder, NextActionView, OrderView, TimelineEntry
from app.contracts.payments import PaymentEvent, PaymentStatus
from app.messaging.outbox import OUTBOX_INDEXES, OUTBOX_RULE, OUTBOX_SCHEMA, RELAY_FIELDS
from app.orders.order import NEW, OrderState, OrderTransition
from app.storage.bulk import Patch
from app.storage.mongodb import Document

ORDER_ID = re.compile(r"[0-9a-f]{24}")
NEWEST_FIRST = [("createdAt", -1), ("_id", -1)]

STATE = {
    "userId": 1,
    "orderStatus": 1,
    "paymentStatus": 1,
    "version": 1,
    "sequence": 1,
    "paymentSequence": 1,
    "total": 1,
    "refunds": 1,
    "failedRefunds": 1,
    "authorized": 1,
    "captureRequested": 1,
    "captured": 1,
    "disputed": 1,
}
SNAPSHOT = {**STATE, "outbox.sequence": 1, "createdAt": 1}
STATUS = {"userId": 1, "orderStatus": 1, "paymentStatus": 1, "version": 1}
TIMELINE = {"userId": 1, "version": 1, "events": 1}
DIAGNOSTICS = {
    "orderStatus": 1,
    "paymentStatus": 1,
    "captureRequested": 1,
    "events": {"$slice": -1},
    "outbox.type": 1,
    "relayFailures": 1,
    "deadLetter.reason": 1,
}
VIEW = dict.fromkeys(
    (
        "userId", "productId", "productName", "totalOrderAmount", "total", "orderStatus", "paymentStatus", "version",
        "createdAt", "updatedAt", "authorized", "captured",
    ),
    1,
)  # fmt: skip
# One order, with what only its user may see: lists never read that.
WHOLE_VIEW = {**VIEW, "nextAction": 1}

SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": [
        "_id", "userId", "productId", "productName", "totalOrderAmount", "total", "orderStatus", "paymentStatus",
        "version", "sequence", "paymentSequence", "requestId", "createdAt", "updatedAt", "events", "outbox",
    ],
    "properties": {
        "_id": {"bsonType": "objectId"},
        **{name: {"bsonType": "string"} for name in ("userId", "productId", "productName", "totalOrderAmount")},
        "total": {
            "bsonType": "object",
            "required": ["value", "currency"],
            "properties": {"value": {"bsonType": ["int", "long"], "minimum": 1}, "currency": {"bsonType": "string"}},
        },
        "orderStatus": {"bsonType": "string", "minLength": 1},
        "paymentStatus": {"enum": [status.value for status in PaymentStatus]},
        **{name: {"bsonType": "int", "minimum": 0} for name in ("version", "sequence", "paymentSequence")},
        "requestId": {"bsonType": "string"},
        "idempotency": {"bsonType": "object", "required": ["key", "fingerprint"]},
        "refunds": {"bsonType": "array", "items": {"bsonType": "object", "required": ["id", "value", "requested"]}},
        "failedRefunds": {"bsonType": "array", "items": {"bsonType": "string"}},
        **{name: {"bsonType": "string", "minLength": 1} for name in ("paymentMethod", "returnUrl")},
        "capture": {"enum": ["manual"]},
        **{
            name: {"bsonType": ["int", "long"], "minimum": 1} for name in ("authorized", "captureRequested", "captured")
        },
        "disputed": {"bsonType": "bool"},
        "nextAction": {"bsonType": "object", "required": ["type", "expiresAt"]},
        "createdAt": {"bsonType": "date"},
        "updatedAt": {"bsonType": "date"},
        "events": {"bsonType": "array", "items": {"bsonType": "object", "required": ["sequence", "type", "at"]}},
        **OUTBOX_SCHEMA,
    },
    **OUTBOX_RULE,
}  # fmt: skip
INDEXES = [
    pymongo.IndexModel([("userId", 1), *NEWEST_FIRST], name="newest_of_user"),
    pymongo.IndexModel([("userId", 1), ("orderStatus", 1), *NEWEST_FIRST], name="newest_of_user_by_status"),
    pymongo.IndexModel(
        [("userId", 1), ("idempotency.key", 1)],
        name="one_order_a_key",
        unique=True,
        partialFilterExpression={"idempotency.key": {"$exists": True}},
    ),
    pymongo.IndexModel(
        [("createdAt", 1)], name="keys_by_age", partialFilterExpression={"idempotency.key": {"$exists": True}}
    ),
    *OUTBOX_INDEXES,
]


@dataclass(frozen=True, kw_only=True)
class OrderSnapshot:
    """An order's state when it was read or written, and the sequence of the newest of its undelivered events."""

    state: OrderState
    newest_undelivered: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class OrderDiagnostics:
    """An order's state, its last change, and what delays its events.

    `capture_requested` is true if a client has asked for the capture. `retried` is true if a delivery failed and is repeated; `dead_letter` is the reason if its events were set aside.
    """

    order_status: str
    payment_status: str
    last: TimelineEntry
    capture_requested: bool
    undelivered: bool
    retried: bool
    dead_letter: str


def key_of(order_id: str) -> ObjectId:
    """The key of an order's document. Raises NotFound for a malformed id, and for one in capitals."""
    if not ORDER_ID.fullmatch(order_id):
        raise not_found()
    return ObjectId(order_id)


def not_found() -> NotFound:
    """The error for an order that does not exist or belongs to another user; callers cannot tell which."""
    return NotFound("there is no order with this id")


def filter_of(order_id: str, on_behalf_of: str) -> Document:
    """The filter for one order of a user, or of any user if `on_behalf_of` is empty."""
    one: Document = {"_id": key_of(order_id)}
    if on_behalf_of:
        one["userId"] = on_behalf_of
    return one


def filter_of_many(keys: Collection[tuple[ObjectId, str]]) -> Document:
    """The filter for orders by key and user. Where every user is known, it names them, so only their shards are asked."""
    orders: Document = {"_id": {"$in": [key for key, _ in keys]}}
    users = {user_id for _, user_id in keys}
    return orders if "" in users else {**orders, "userId": {"$in": [*users]}}


def state_of(doc: Document) -> OrderState:
    """The state of an order; `doc` has the members of STATE."""
    refunds = doc.get("refunds", ())
    return OrderState(
        order_status=doc["orderStatus"],
        payment_status=doc["paymentStatus"],
        version=doc["version"],
        sequence=doc["sequence"],
        payment_sequence=doc["paymentSequence"],
        # The driver's own type for 64 bits is unknown to encoders of JSON.
        total_value=int(doc["total"]["value"]),
        total_currency=doc["total"]["currency"],
        refunds=tuple((refund["id"], int(refund["value"])) for refund in refunds),
        refund_requests=tuple((refund["id"], refund["requested"]) for refund in refunds),
        failed_refunds=tuple(doc.get("failedRefunds", ())),
        authorized=int(doc.get("authorized", 0)),
        capture_value=int(doc.get("captureRequested", 0)),
        captured=int(doc.get("captured", 0)),
        disputed="disputed" in doc,
    )


def snapshot_of(doc: Document) -> OrderSnapshot:
    """`doc` has the members of SNAPSHOT."""
    return OrderSnapshot(
        state=state_of(doc),
        newest_undelivered=max((entry.get("sequence", sys.maxsize) for entry in doc["outbox"]), default=0),
        created_at=doc["createdAt"],
    )


def view_of(doc: Document, with_next_action: bool = False) -> OrderView:
    """An order as clients see it; `doc` has the members of VIEW, or of WHOLE_VIEW for one `with_next_action`."""
    currency = doc["total"]["currency"]
    return OrderView(
        id=str(doc["_id"]),
        user_id=doc["userId"],
        product_id=doc["productId"],
        product_name=doc["productName"],
        total_order_amount=doc["totalOrderAmount"],
        total=Money(int(doc["total"]["value"]), currency),
        order_status=doc["orderStatus"],
        payment_status=doc["paymentStatus"],
        version=doc["version"],
        created_at=rfc3339(doc["createdAt"]),
        updated_at=rfc3339(doc["updatedAt"]),
        authorized=Money(int(doc["authorized"]), currency) if "authorized" in doc else None,
        captured=Money(int(doc["captured"]), currency) if "captured" in doc else None,
        next_action=_next_action_of(doc["nextAction"]) if with_next_action and "nextAction" in doc else None,
    )


def timeline_entry_of(order_id: str, entry: Document) -> TimelineEntry:
    """A timeline entry as clients see it."""
    return TimelineEntry(
        order_id=order_id,
        sequence=entry["sequence"],
        type=entry["type"],
        at=rfc3339(entry["at"]),
        actor=entry["actor"],
        from_status=entry["from"],
        to_status=entry["to"],
        payment_status=entry["paymentStatus"],
        detail=entry["detail"],
    )


def diagnostics_of(order_id: str, doc: Document) -> OrderDiagnostics:
    """`doc` has the members of DIAGNOSTICS."""
    return OrderDiagnostics(
        order_status=doc["orderStatus"],
        payment_status=doc["paymentStatus"],
        last=timeline_entry_of(order_id, doc["events"][-1]),
        capture_requested="captureRequested" in doc,
        undelivered=bool(doc["outbox"]),
        retried="relayFailures" in doc,
        dead_letter=doc.get("deadLetter", {}).get("reason", ""),
    )


def new_document(
    order: CreateOrder, transition: OrderTransition, outbox: Sequence[Document], at: datetime, relay_due: datetime
) -> Document:
    """The document of a new order."""
    stored: Document = {
        "_id": ObjectId(order.order_id),
        "userId": order.user_id,
        "productId": order.product_id,
        "productName": order.product_name,
        "totalOrderAmount": order.total_text,
        "total": {"value": order.total_value, "currency": order.total_currency},
        "orderStatus": transition.order_status,
        "paymentStatus": transition.payment_status,
        "version": 1,
        "sequence": 1,
        "paymentSequence": 0,
        "requestId": order.request_id,
        "createdAt": at,
        "updatedAt": at,
        "events": [_new_timeline_entry(transition, 1, NEW, at)],
        "outbox": outbox,
        "relayDue": relay_due,
        **payment_choices(order),
    }
    if order.idempotency_key:
        stored["idempotency"] = {"key": order.idempotency_key, "fingerprint": fingerprint(order)}
    return stored


def payment_choices(order: CreateOrder) -> Document:
    """The members of a new order's document that say how it is paid; none where the request does not say."""
    choices = {
        "paymentMethod": order.payment_method,
        "returnUrl": order.return_url,
        "capture": "manual" if order.manual_capture else "",
    }
    return {name: choice for name, choice in choices.items() if choice}


def fingerprint(order: CreateOrder) -> str:
    """What two requests with one Idempotency-Key must have in common; their ids and times may differ."""
    members = [order.product_id, order.product_name, order.total_text, order.total_value, order.total_currency]
    choices = payment_choices(order)
    return sha256(json.dumps([*members, choices] if choices else members).encode()).hexdigest()


def transition_update(state: OrderState, transition: OrderTransition, at: datetime) -> Document:
    """The update that records a transition, without its event."""
    update: Document = {
        "$set": {
            "orderStatus": transition.order_status,
            "paymentStatus": transition.payment_status,
            "updatedAt": at,
        },
        "$inc": {"version": 1, "sequence": 1},
        "$push": {"events": _new_timeline_entry(transition, state.sequence + 1, state.order_status, at)},
    }
    if transition.refund:
        update["$push"]["refunds"] = _new_refund(transition, transition.refund, at)
    if transition.capture_value:
        update["$set"]["captureRequested"] = transition.capture_value
    if state.payment_status == PaymentStatus.ACTION_REQUIRED:
        update["$unset"] = {"nextAction": ""}
    return update


def payment_event_patch(
    snapshot: OrderSnapshot, event: PaymentEvent, transition: OrderTransition, at: datetime
) -> Patch:
    """The change of an order by a payment event; it acknowledges the order's events that payments has recorded."""
    state, sequence = snapshot.state, snapshot.state.sequence + 1
    sets: Document = {
        "orderStatus": transition.order_status,
        "paymentStatus": transition.payment_status,
        "updatedAt": at,
        "version": state.version + 1,
        "sequence": sequence,
        "paymentSequence": event.sequence,
    }
    # Dead letters among them are settled as well; later events stay for the relay.
    acknowledged = event.order_sequence >= snapshot.newest_undelivered
    pushes: dict[str, list[Any]] = {"events": [_new_timeline_entry(transition, sequence, state.order_status, at)]}
    if transition.refund:
        pushes["refunds"] = [_new_refund(transition, transition.refund, at)]
    if transition.failed_refund:
        pushes["failedRefunds"] = [transition.failed_refund]
    money, obsolete = _money_changes(state, transition)
    return Patch(
        key=ObjectId(event.order_id),
        expected={"version": state.version},
        shard_key={"userId": event.user_id} if event.user_id else {},
        sets={**sets, **money, "outbox": []} if acknowledged else {**sets, **money},
        unsets=(*RELAY_FIELDS, *obsolete) if acknowledged else obsolete,
        pushes=pushes,
    )


def _money_changes(state: OrderState, transition: OrderTransition) -> tuple[Document, tuple[str, ...]]:
    """Members to set and to remove when a payment event changes more than the statuses; none for most events."""
    amounts = {"authorized": transition.authorized, "captured": transition.captured}
    sets: Document = {name: value for name, value in amounts.items() if value}
    unsets = []
    if transition.next_action:
        sets["nextAction"] = _next_action_document(transition.next_action)
    elif state.payment_status == PaymentStatus.ACTION_REQUIRED:
        unsets.append("nextAction")
    if transition.disputed:
        sets["disputed"] = True
    elif state.disputed and transition.disputed is False:
        unsets.append("disputed")
    return sets, tuple(unsets)


def _next_action_document(action: NextActionView) -> Document:
    members = {"type": action.type, "url": action.url, "clientSecret": action.client_secret}
    return {
        **{name: text for name, text in members.items() if text},
        "expiresAt": datetime.fromisoformat(action.expires_at),
    }


def _next_action_of(doc: Document) -> NextActionView:
    return NextActionView(
        type=doc["type"],
        url=doc.get("url", ""),
        client_secret=doc.get("clientSecret", ""),
        expires_at=rfc3339(doc["expiresAt"]),
    )


def _new_refund(transition: OrderTransition, refund: tuple[str, int], at: datetime) -> Document:
    refund_id, value = refund
    return {"id": refund_id, "value": value, "requested": transition.refund_request, "at": at}


def _new_timeline_entry(transition: OrderTransition, sequence: int, from_status: str, at: datetime) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "type": transition.type,
        "at": at,
        "actor": transition.actor,
        "from": from_status,
        "to": transition.order_status,
        "paymentStatus": transition.payment_status,
        "detail": transition.detail,
    }
