"""The stored form of a payment: schema, indexes, projections, and the mapping between documents and payments.

One document an order. `dueAt` exists while work is open: the time of the next provider call, or, while `owner` is set,
the end of the lease. `requestedAt` is when the open work was requested. `keySentAt` is when the provider may first have
received the key of the next call; the claim writes it before anything is sent, and it is valid while `keySent` is true.
`claim` names the last claim and `writeId` the last recorded update.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta

import msgspec
import pymongo

from app.contracts.base import analyse
from app.contracts.payments import PaymentStatus
from app.messaging.outbox import OUTBOX_INDEXES, OUTBOX_RULE, OUTBOX_SCHEMA
from app.payments.payment import Payment
from app.payments.provider_port import ResponseCode
from app.storage.mongodb import Document

# How many attempts a payment's log keeps.
LOG_LIMIT = 50
# Before a call that was not attempted there may have been one whose outcome is unknown.
UNKNOWN_OUTCOMES = (ResponseCode.UNKNOWN, ResponseCode.NOT_ATTEMPTED)

SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": [
        "_id", "userId", "productId", "total", "status", "cancelled", "keySent", "captured", "refunds", "generation",
        "fencingToken", "retryCount", "sequence", "orderSequence", "version", "requestId", "requestedAt", "attempts",
        "outbox",
    ],
    "properties": {
        **{name: {"bsonType": "string"} for name in ("_id", "userId", "productId", "requestId", "reference", "provider")},
        **{name: {"bsonType": "string"} for name in ("parkedReason", "owner", "claim", "writeId", "traceparent", "paymentMethod", "returnUrl")},
        **{name: {"bsonType": "string"} for name in ("captureRequestId", "cancelRequestId", "refreshRequestId")},
        "total": {
            "bsonType": "object",
            "required": ["value", "currency"],
            "properties": {"value": {"bsonType": ["int", "long"], "minimum": 1}, "currency": {"bsonType": "string"}},
        },
        "status": {"enum": [status.value for status in PaymentStatus]},
        **{name: {"bsonType": "bool"} for name in ("cancelled", "keySent", "firstSend", "opens", "manualCapture", "expired")},
        **{name: {"bsonType": ["int", "long"], "minimum": 0} for name in ("captured", "authorized", "captureValue")},
        "disputes": {
            "bsonType": "array",
            "items": {"bsonType": "object", "required": ["dispute_id", "value", "status"]},
        },
        "action": {"bsonType": ["object", "null"]},
        "resolution": {"bsonType": "object", "required": ["outcome", "operator", "reason"]},
        **{name: {"bsonType": ["date", "null"]} for name in ("waitingSince", "waitsUntil")},
        "refunds": {"bsonType": "array", "items": {"bsonType": "object", "required": ["refund_id", "value", "status"]}},
        **{
            name: {"bsonType": "int", "minimum": 0}
            for name in (
                "generation", "fencingToken", "retryCount", "sequence", "orderSequence", "version", "refreshesRequested", "refreshesMade",
            )
        },
        **{name: {"bsonType": "date"} for name in ("requestedAt", "dueAt", "keySentAt")},
        "attempts": {"bsonType": "array", "maxItems": LOG_LIMIT},
        **OUTBOX_SCHEMA,
    },
    **OUTBOX_RULE,
}  # fmt: skip
analyse(Payment)
# The members of a payment and the fields that store them.
FIELDS = {member.name: re.sub("_(.)", lambda letter: letter[1].upper(), member.name) for member in fields(Payment)} | {
    "order_id": "_id"
}
# Members that most payments do not have: stored where they have a value, or had one.
RARE = (
    "provider", "opens", "payment_method", "return_url", "manual_capture", "authorized", "capture_value", "expired",
    "waiting_since", "waits_until", "action", "disputes", "refreshes_requested", "refreshes_made",
    "capture_request_id", "cancel_request_id", "refresh_request_id", "resolution",
)  # fmt: skip
DEFAULTS = {member.name: member.default for member in fields(Payment) if member.name in RARE}
INDEXES = [
    pymongo.IndexModel([("dueAt", 1)], name="due", partialFilterExpression={"dueAt": {"$exists": True}}),
    pymongo.IndexModel(
        [("status", 1), ("_id", 1)],
        name="parked_by_order",
        partialFilterExpression={"status": PaymentStatus.UNKNOWN.value},
    ),
    pymongo.IndexModel([("reference", 1)], name="opened", partialFilterExpression={"opens": True}),
    *OUTBOX_INDEXES,
]
DIAGNOSTICS = dict.fromkeys(
    (
        "fencingToken",
        "dueAt",
        "owner",
        "status",
        "parkedReason",
        "waitsUntil",
        "action.expires_at",
        "outbox.type",
        "deadLetter.reason",
    ),
    1,
)


@dataclass(frozen=True, kw_only=True)
class LeasedPayment:
    """A payment as it was read, with its undelivered events; `under_lease` is true while a process holds its lease.

    `last_recorded_attempt` is the fencing token of the last attempt with a recorded result, and `last_traceparent` its
    span, empty where it has none. `unknown_since` is when its outcome was recorded as unknown, None where it is known, and
    `call_ends` until when it may still reach the provider, None where that is not recorded.
    `last_result_at` and `last_answer` are of the last entry of its log, `dead_letter`: its oldest event could not be delivered.
    """

    payment: Payment
    outbox: Sequence[Document]
    key_sent_at: datetime
    lease_end: datetime
    under_lease: bool
    last_recorded_attempt: int = 0
    last_traceparent: str = ""
    unknown_since: datetime | None = None
    call_ends: datetime | None = None
    last_result_at: datetime | None = None
    last_answer: str = ""
    dead_letter: bool = False

    def key_age(self, now: datetime) -> float:
        """Seconds since the provider may first have received the key of the next call; 0 where it cannot have."""
        return (now - self.key_sent_at).total_seconds() if self.payment.key_sent else 0.0


@dataclass(frozen=True, kw_only=True)
class PaymentDiagnostics:
    """Facts that explain the state of a payment.

    `next_at` is the time of the next provider call, None while one is under way and where none is planned. `parked` and
    `dead_letter` are the reasons why an operator is needed, empty where none is. `waits_until` ends the wait for a customer, a bank
    or a capture; the provider may give the customer less time than it is waited for.
    """

    status: PaymentStatus

    attempts: int
    next_at: datetime | None
    under_way: bool
    parked: str
    undelivered: bool
    dead_letter: str
    waits_until: datetime | None


def new_document(payment: Payment) -> Document:
    """The document of a payment that is not stored yet."""
    return {
        "_id": payment.order_id,
        "userId": payment.user_id,
        "productId": payment.product_id,
        "total": {"value": payment.total.value, "currency": payment.total.currency},
        "requestId": payment.request_id,
        **changing_fields(payment, payment),
        "attempts": [],
        "outbox": [],
    }


def changing_fields(payment: Payment, before: Payment) -> Document:
    """The fields that an update of the payment writes; it was `before`."""
    return {
        "status": payment.status.value,
        "cancelled": payment.cancelled,
        "keySent": payment.key_sent,
        "firstSend": payment.first_send,
        "requestedAt": payment.requested_at,
        "captured": payment.captured,
        "refunds": [asdict(refund) for refund in payment.refunds],
        "reference": payment.reference,
        "parkedReason": payment.parked_reason,
        "generation": payment.generation,
        "fencingToken": payment.fencing_token,
        "retryCount": payment.retry_count,
        "sequence": payment.sequence,
        "orderSequence": payment.order_sequence,
        "version": payment.version,
        **({"traceparent": payment.traceparent} if payment.traceparent else {}),
        **_rare_fields(payment, before),
    }


def leased_payment(doc: Document, restored_at: datetime) -> LeasedPayment:
    """The payment in a document. A key counts as sent where its work was requested by `restored_at`."""
    payment = _payment(doc)
    if doc["requestedAt"] <= restored_at:
        payment = replace(payment, key_sent=True, first_send=False)
    last = doc["attempts"][-1] if doc["attempts"] else {}
    return LeasedPayment(
        payment=payment,
        outbox=doc["outbox"],
        key_sent_at=_key_sent_at(doc),
        lease_end=doc["dueAt"] if "dueAt" in doc else doc["requestedAt"],
        under_lease="owner" in doc,
        last_recorded_attempt=last.get("attempt", 0),
        last_traceparent=last.get("traceparent", ""),
        unknown_since=last["at"] if last.get("answer") in UNKNOWN_OUTCOMES else None,
        call_ends=_call_ends(doc["attempts"]),
        last_result_at=last.get("at"),
        last_answer=f"{last['answer']}: {last['reason']}".removesuffix(": ") if last else "",
        dead_letter="deadLetter" in doc,
    )


def diagnostics(doc: Document) -> PaymentDiagnostics:
    """The diagnostics in a document that was read with the projection DIAGNOSTICS."""
    under_way, action = "owner" in doc, doc.get("action") or {}
    return PaymentDiagnostics(
        status=PaymentStatus(doc["status"]),
        waits_until=min(filter(None, (doc.get("waitsUntil"), action.get("expires_at"))), default=None),
        attempts=doc["fencingToken"],
        next_at=None if under_way else doc.get("dueAt"),
        under_way=under_way,
        parked=doc["parkedReason"] if doc["status"] == PaymentStatus.UNKNOWN else "",
        undelivered=bool(doc["outbox"]),
        dead_letter=doc.get("deadLetter", {}).get("reason", ""),
    )


def _rare_fields(payment: Payment, before: Payment) -> Document:
    stored: Document = {}
    for name, default in DEFAULTS.items():
        value = getattr(payment, name)
        if value != default or getattr(before, name) != default:
            stored[FIELDS[name]] = value
    if payment.disputes:
        stored["disputes"] = [asdict(dispute) for dispute in payment.disputes]
    if payment.action:
        stored["action"] = asdict(payment.action)
    if payment.resolution:
        stored["resolution"] = asdict(payment.resolution)
    return stored


def _payment(doc: Document) -> Payment:
    return msgspec.convert({member: doc[name] for member, name in FIELDS.items() if name in doc}, Payment)


def _call_ends(attempts: Sequence[Document]) -> datetime | None:
    """Until when the latest of the calls may reach the provider whose outcomes are unknown; their processes may differ in settings."""
    recorded = (one for one in attempts if "callSeconds" in one)
    return max((one["at"] + timedelta(seconds=one["callSeconds"]) for one in recorded), default=None)


def _key_sent_at(doc: Document) -> datetime:
    # Without a recorded time the key is at most as old as its work.
    sent_at: datetime = doc["keySentAt"] if doc["keySent"] and "keySentAt" in doc else doc["requestedAt"]
    return sent_at
