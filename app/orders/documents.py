"""Orders as MongoDB keeps them: schema, indexes, projections, and the mapping to what the application works with."""

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any

import pymongo
from bson import ObjectId
from msgspec.structs import replace

from app.contracts.base import Money, NotFound, rfc3339
from app.contracts.orders import (
    METADATA_KEY_LENGTH,
    METADATA_PAIRS,
    METADATA_VALUE_LENGTH,
    ORDER_ITEMS,
    CreateOrder,
    NextActionView,
    OrderItem,
    OrderView,
    RefundView,
    TimelineEntry,
)
from app.contracts.payments import PaymentCaptured, PaymentEvent, PaymentStatus
from app.messaging.outbox import OUTBOX_INDEXES, OUTBOX_RULE, OUTBOX_SCHEMA, RELAY_FIELDS, OutboxFields
from app.orders import order as domain
from app.orders.order import NEW, OrderState, OrderTransition
from app.orders.refunds import FAILED, PENDING, SUCCEEDED, OrderRefund
from app.storage.bulk import Patch
from app.storage.mongodb import Document

CAPTURED = PaymentStatus.CAPTURED.value
ORDER_ID = re.compile(r"[0-9a-f]{24}")
NEWEST_FIRST = [("createdAt", -1), ("_id", -1)]
OLDEST_FIRST = [("createdAt", 1), ("_id", 1)]

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
    "updatedAt": 1,
    "metadata": 1,
}
SNAPSHOT = {**STATE, "outbox.sequence": 1, "createdAt": 1}
STATUS = {"userId": 1, "orderStatus": 1, "paymentStatus": 1, "version": 1}
# The amount of an entry is in the order's currency, and a capture's is the order's own.
TIMELINE = {"userId": 1, "version": 1, "events": 1, "total": 1, "captured": 1}
DIAGNOSTICS = {
    "total": 1,
    "captured": 1,
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
        "createdAt", "updatedAt", "authorized", "captured", "refunds", "failedRefunds", "disputed", "captureRequested",
        "metadata",
    ),
    1,
)  # fmt: skip
# The larger members that no view of a list has, and those that only an order's user may see. Where many documents are read in one
# pipeline, to leave these out costs the database a sixth less than to name the members of the view.
NOT_LISTED = dict.fromkeys(
    ("events", "outbox", "changes", "items", "nextAction", "paymentMethod", "returnUrl", "idempotency", "requestId"), 0
)
# One order, with what only its user may see: lists never read that.
VIEW_WITH_ITEMS = {**VIEW, "items": 1}
WHOLE_VIEW = {**VIEW_WITH_ITEMS, "nextAction": 1}

# An outbox of their own for changes that others than payments want to hear of: no event for payments waits behind them.
CHANGES = OutboxFields(
    events="changes",
    due="changesDue",
    claim="changesClaim",
    failures="changesFailures",
    attempts="changesAttempts",
    dead="changesDeadLetter",
    optional=True,
)

# Pairs, so that one index finds orders by any key: of two members in this order, as the index compares them.
METADATA_SCHEMA: Document = {
    "bsonType": "array",
    "minItems": 1,
    "maxItems": METADATA_PAIRS,
    "items": {
        "bsonType": "object",
        "additionalProperties": False,
        "required": ["k", "v"],
        "properties": {
            "k": {"bsonType": "string", "minLength": 1, "maxLength": METADATA_KEY_LENGTH},
            "v": {"bsonType": "string", "minLength": 1, "maxLength": METADATA_VALUE_LENGTH},
        },
    },
}
ITEMS_SCHEMA: Document = {
    "bsonType": "array",
    "minItems": 1,
    "maxItems": ORDER_ITEMS,
    "items": {
        "bsonType": "object",
        "additionalProperties": False,
        "required": ["productId", "productName", "quantity", "unitValue"],
        "properties": {
            **{name: {"bsonType": "string", "minLength": 1} for name in ("productId", "productName")},
            **{name: {"bsonType": ["int", "long"], "minimum": 1} for name in ("quantity", "unitValue")},
        },
    },
}
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
        "refunds": {
            "bsonType": "array",
            "items": {
                "bsonType": "object",
                "required": ["id", "value", "requested"],
                "properties": {"status": {"enum": [PENDING, SUCCEEDED, FAILED]}},
            },
        },
        # Of orders that were stored before refunds had a status.
        "failedRefunds": {"bsonType": "array", "items": {"bsonType": "string"}},
        **{name: {"bsonType": "string", "minLength": 1} for name in ("paymentMethod", "returnUrl")},
        "capture": {"enum": ["manual"]},
        "metadata": METADATA_SCHEMA,
        "items": ITEMS_SCHEMA,
        **{
            name: {"bsonType": ["int", "long"], "minimum": 1} for name in ("authorized", "captureRequested", "captured")
        },
        "disputed": {"bsonType": "bool"},
        "nextAction": {"bsonType": "object", "required": ["type", "expiresAt"]},
        "createdAt": {"bsonType": "date"},
        "updatedAt": {"bsonType": "date"},
        "events": {"bsonType": "array", "items": {"bsonType": "object", "required": ["sequence", "type", "at"]}},
        **OUTBOX_SCHEMA,
        **CHANGES.schema,
    },
    **OUTBOX_RULE,
    "allOf": [CHANGES.rule],
}  # fmt: skip
# Payment statuses that few orders have, or for a while only: only these are indexed, so that a payment that is captured or declined at
# once costs no write of an index.
SELECTED_BY_INDEX = frozenset(PaymentStatus) - {
    PaymentStatus.PROCESSING,
    PaymentStatus.CAPTURED,
    PaymentStatus.DECLINED,
}
BY_PAYMENT_STATUS: Document = {"paymentStatus": {"$in": sorted(SELECTED_BY_INDEX)}}
REFUND_FAILED: Document = {"refunds.status": FAILED}
WITH_METADATA: Document = {"metadata": {"$exists": True}}
INDEXES = [
    # Lists of all users are sorted by id, except where a time of creation selects.
    pymongo.IndexModel(NEWEST_FIRST, name="newest"),
    pymongo.IndexModel([("userId", 1), *NEWEST_FIRST], name="newest_of_user"),
    pymongo.IndexModel([("userId", 1), ("orderStatus", 1), *NEWEST_FIRST], name="newest_of_user_by_status"),
    pymongo.IndexModel(
        [("paymentStatus", 1), ("_id", -1)], name="by_payment_status", partialFilterExpression=BY_PAYMENT_STATUS
    ),
    pymongo.IndexModel(
        [("userId", 1), ("paymentStatus", 1), *NEWEST_FIRST],
        name="newest_of_user_by_payment_status",
        partialFilterExpression=BY_PAYMENT_STATUS,
    ),
    pymongo.IndexModel(
        [("refunds.status", 1), ("_id", -1)], name="by_failed_refund", partialFilterExpression=REFUND_FAILED
    ),
    pymongo.IndexModel(
        [("userId", 1), ("refunds.status", 1), *NEWEST_FIRST],
        name="newest_of_user_by_failed_refund",
        partialFilterExpression=REFUND_FAILED,
    ),
    pymongo.IndexModel([("metadata", 1), ("_id", -1)], name="by_metadata", partialFilterExpression=WITH_METADATA),
    pymongo.IndexModel(
        [("userId", 1), ("metadata", 1), *NEWEST_FIRST],
        name="newest_of_user_by_metadata",
        partialFilterExpression=WITH_METADATA,
    ),
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
    *CHANGES.indexes("changes_"),
]


@dataclass(frozen=True, kw_only=True)
class OrderSnapshot:
    """An order's state when it was read or written, and the sequence of the newest of its undelivered events.

    `shown` has the members of VIEW_WITH_ITEMS, where somebody wants to hear what becomes of the order; otherwise it is empty.
    """

    user_id: str
    state: OrderState
    newest_undelivered: int
    created_at: datetime
    updated_at: datetime
    shown: Document = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OrderDiagnostics:
    """An order's state, its last change, and what delays its events.

    `capture_requested` is true if a client has asked for the capture, `capture_unknown` if it is not known whether money was taken.
    `retried` is true if a delivery failed and is repeated; `dead_letter` is the reason if its events were set aside.
    """

    order_status: str
    payment_status: str
    last: TimelineEntry
    capture_requested: bool
    capture_unknown: bool
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
    return OrderState(
        order_status=doc["orderStatus"],
        payment_status=doc["paymentStatus"],
        version=doc["version"],
        sequence=doc["sequence"],
        payment_sequence=doc["paymentSequence"],
        # The driver's own type for 64 bits is unknown to encoders of JSON.
        total_value=int(doc["total"]["value"]),
        total_currency=doc["total"]["currency"],
        refunds=_refunds_of(doc),
        authorized=int(doc.get("authorized", 0)),
        capture_value=int(doc.get("captureRequested", 0)),
        captured=int(doc.get("captured", 0)),
        disputed="disputed" in doc,
        metadata=metadata_of(doc),
    )


def metadata_of(doc: Document) -> dict[str, str] | None:
    """An order's metadata; None where it has none."""
    return {pair["k"]: pair["v"] for pair in doc["metadata"]} if "metadata" in doc else None


def metadata_pairs(metadata: Mapping[str, str]) -> list[Document]:
    """Metadata as it is stored."""
    return [{"k": key, "v": value} for key, value in metadata.items()]


def having_metadata(metadata: Mapping[str, str]) -> Document:
    """The condition for orders that have all these pairs, one at least."""
    pairs = metadata_pairs(metadata)
    return {"metadata": pairs[0]} if len(pairs) == 1 else {"metadata": {"$all": pairs}}


def snapshot_of(doc: Document) -> OrderSnapshot:
    """`doc` has the members of SNAPSHOT."""
    return OrderSnapshot(
        user_id=doc["userId"],
        state=state_of(doc),
        newest_undelivered=max((entry.get("sequence", sys.maxsize) for entry in doc["outbox"]), default=0),
        created_at=doc["createdAt"],
        updated_at=doc["updatedAt"],
    )


def view_of(doc: Document) -> OrderView:
    """An order as clients see it in a list; `doc` has the members of VIEW."""
    currency = doc["total"]["currency"]
    total = Money(int(doc["total"]["value"]), currency)
    captured, refunded, pending, refundable, blocked = _amounts_of(doc, total)
    # A call with more than 15 keywords takes three times as long.
    view = OrderView(
        id=str(doc["_id"]),
        user_id=doc["userId"],
        product_id=doc["productId"],
        product_name=doc["productName"],
        total_order_amount=doc["totalOrderAmount"],
        total=total,
        order_status=doc["orderStatus"],
        payment_status=doc["paymentStatus"],
        version=doc["version"],
        created_at=rfc3339(doc["createdAt"]),
        updated_at=rfc3339(doc["updatedAt"]),
        captured=captured,
        refunded=refunded,
        pending=pending,
        refundable=refundable,
    )
    wanted = int(doc.get("captureRequested", total.value))
    unknown = domain.unknown_capture(doc["paymentStatus"], captured.value, wanted)
    if blocked or unknown or "authorized" in doc or "metadata" in doc:
        authorized = Money(int(doc["authorized"]), currency) if "authorized" in doc else None
        return replace(
            view,
            blocked=blocked,
            authorized=authorized,
            uncertain=Money(unknown, currency) if unknown else None,
            metadata=metadata_of(doc),
        )
    return view


def view_with_items_of(doc: Document) -> OrderView:
    """An order as clients see it, without its refunds; `doc` has the members of VIEW_WITH_ITEMS."""
    return replace(view_of(doc), items=_items_of(doc)) if "items" in doc else view_of(doc)


def shown_of(doc: Document) -> Document:
    """The members of an order's document that a view with items is made of."""
    return {name: doc[name] for name in ("_id", *VIEW_WITH_ITEMS) if name in doc}


def view_after(shown: Document, patch: Patch) -> OrderView:
    """An order as clients see it after a patch, without its refunds; `shown` is what `shown_of` has returned."""
    changed = {**shown, **patch.sets}
    return view_with_items_of({name: value for name, value in changed.items() if name not in patch.unsets})


def whole_view_of(doc: Document, with_next_action: bool = False) -> OrderView:
    """One order as clients see it; `doc` has the members of WHOLE_VIEW."""
    return replace(
        view_of(doc),
        items=_items_of(doc),
        refunds=tuple(_refund_view_of(one, doc["total"]["currency"]) for one in _refunds_of(doc)),
        next_action=_next_action_of(doc["nextAction"]) if with_next_action and "nextAction" in doc else None,
    )


def _items_of(doc: Document) -> tuple[OrderItem, ...] | None:
    if "items" not in doc:
        return None
    currency = doc["total"]["currency"]
    return tuple(
        OrderItem(
            product_id=item["productId"],
            product_name=item["productName"],
            quantity=int(item["quantity"]),
            unit_amount=Money(int(item["unitValue"]), currency),
        )
        for item in doc["items"]
    )


def _item_documents(items: Sequence[OrderItem]) -> list[Document]:
    """Items as they are stored; their currency is the order's."""
    return [
        {
            "productId": item.product_id,
            "productName": item.product_name,
            "quantity": item.quantity,
            "unitValue": item.unit_amount.value,
        }
        for item in items
    ]


def _refund_view_of(refund: OrderRefund, currency: str) -> RefundView:
    """A refund as clients see it."""
    return RefundView(
        id=refund.refund_id,
        amount=Money(refund.value, currency),
        status=refund.status or PENDING,
        at=rfc3339(refund.at) if refund.at else "",
        reason=refund.reason,
        failure=refund.failure,
    )


def timeline_entry_of(order_id: str, entry: Document, doc: Document) -> TimelineEntry:
    """An entry of the timeline of `doc` as clients see it; `doc` has the members `total` and, where it has it, `captured`."""
    amount = entry.get("amount", 0)
    if not amount and entry["type"] == PaymentCaptured.__name__:
        amount = doc.get("captured", doc["total"]["value"])
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
        amount=Money(int(amount), doc["total"]["currency"]) if amount else None,
        request_id=entry.get("requestId", ""),
        caller=entry.get("caller", ""),
    )


def diagnostics_of(order_id: str, doc: Document) -> OrderDiagnostics:
    """`doc` has the members of DIAGNOSTICS."""
    order_status, payment_status, total = doc["orderStatus"], doc["paymentStatus"], int(doc["total"]["value"])
    taken = domain.taken_so_far(order_status, payment_status, total, int(doc.get("captured", 0)))
    return OrderDiagnostics(
        capture_unknown=bool(domain.unknown_capture(payment_status, taken, total)),
        order_status=doc["orderStatus"],
        payment_status=doc["paymentStatus"],
        last=timeline_entry_of(order_id, doc["events"][-1], doc),
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
    if order.metadata:
        stored["metadata"] = metadata_pairs(order.metadata)
    if order.items:
        stored["items"] = _item_documents(order.items)
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
    optional = payment_choices(order)
    if order.metadata:
        optional["metadata"] = sorted(order.metadata.items())
    if order.items:
        optional["items"] = _item_documents(order.items)
    return sha256(json.dumps([*members, optional] if optional else members).encode()).hexdigest()


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
    if transition.refunds is not None:
        update["$set"]["refunds"] = [_refund_document(one, at) for one in transition.refunds]
    if transition.capture_value:
        update["$set"]["captureRequested"] = transition.capture_value
    if transition.captured:
        update["$set"]["captured"] = transition.captured
    if transition.metadata:
        update["$set"]["metadata"] = metadata_pairs(transition.metadata)
    elif transition.metadata is not None:
        update["$unset"] = {"metadata": ""}
    if state.payment_status == PaymentStatus.ACTION_REQUIRED != transition.payment_status:
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
    money, obsolete = _money_changes(state, transition, at)
    return Patch(
        key=ObjectId(event.order_id),
        expected={"version": state.version},
        # Of the order and not of the event: the user's id may have been erased since.
        shard_key={"userId": snapshot.user_id} if event.user_id else {},
        sets={**sets, **money, "outbox": []} if acknowledged else {**sets, **money},
        unsets=(*RELAY_FIELDS, *obsolete) if acknowledged else obsolete,
        pushes=pushes,
    )


def _money_changes(state: OrderState, transition: OrderTransition, at: datetime) -> tuple[Document, tuple[str, ...]]:
    """Members to set and to remove when a payment event changes more than the statuses; none for most events."""
    amounts = {"authorized": transition.authorized, "captured": transition.captured}
    sets: Document = {name: value for name, value in amounts.items() if value}
    unsets = []
    if transition.refunds is not None:
        sets["refunds"] = [_refund_document(one, at) for one in transition.refunds]
    if transition.next_action:
        sets["nextAction"] = _next_action_document(transition.next_action)
    elif state.payment_status == PaymentStatus.ACTION_REQUIRED != transition.payment_status:
        unsets.append("nextAction")
    if transition.uncaptured:
        unsets.append("captured")
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


def _amounts_of(doc: Document, total: Money) -> tuple[Money, Money, Money, Money, Money | None]:
    """What was captured, is refunded, pending, refundable and blocked; `doc` has the members of VIEW."""
    order_status, payment_status = doc["orderStatus"], doc["paymentStatus"]
    nothing = _nothing(total.currency)
    # Most orders are one of these two, and lists have many.
    if "refunds" not in doc and "captured" not in doc:
        if payment_status == CAPTURED and order_status not in domain.NOTHING_KEPT:
            return total, nothing, nothing, total, None
        if payment_status in domain.NOT_TAKEN:
            return nothing, nothing, nothing, nothing, None
    taken = domain.taken_so_far(order_status, payment_status, total.value, int(doc.get("captured", 0)))
    amounts = domain.amounts(order_status, payment_status, taken, _refunds_of(doc), "disputed" in doc)
    captured, refunded, pending, refundable, blocked = (Money(value, total.currency) for value in amounts)
    return captured, refunded, pending, refundable, blocked if blocked.value else None


@cache
def _nothing(currency: str) -> Money:
    return Money(0, currency)


def _refunds_of(doc: Document) -> tuple[OrderRefund, ...]:
    if "refunds" not in doc:
        return ()
    failed = doc.get("failedRefunds", ())
    # Where nothing is going back and none has failed, refunds without a status have succeeded.
    assumed = SUCCEEDED if doc["paymentStatus"] in domain.REFUNDS_MADE else ""
    return tuple(
        OrderRefund(
            refund_id=one["id"],
            value=int(one["value"]),
            status=one.get("status") or (FAILED if one["id"] in failed else assumed),
            requested=one["requested"],
            reason=one.get("reason", ""),
            failure=one.get("failure", ""),
            at=one.get("at"),
        )
        for one in doc["refunds"]
    )


def _refund_document(refund: OrderRefund, at: datetime) -> Document:
    texts = {"status": refund.status, "reason": refund.reason, "failure": refund.failure}
    return {
        "id": refund.refund_id,
        "value": refund.value,
        "requested": refund.requested,
        "at": refund.at or at,
        **{name: text for name, text in texts.items() if text},
    }


def _new_timeline_entry(transition: OrderTransition, sequence: int, from_status: str, at: datetime) -> dict[str, Any]:
    entry = {
        "sequence": sequence,
        "type": transition.type,
        "at": at,
        "actor": transition.actor,
        "from": from_status,
        "to": transition.order_status,
        "paymentStatus": transition.payment_status,
        "detail": transition.detail,
        **({"requestId": transition.request_id} if transition.request_id else {}),
        **({"caller": transition.caller} if transition.caller else {}),
    }
    if transition.amount:
        entry["amount"] = transition.amount
    return entry
