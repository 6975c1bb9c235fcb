"""Checks every invariant on a live database and the simulated provider's ledger. Reads only, repairs nothing.

An order that seems to violate an invariant is checked again after a pause: the documents of one order are not read at the same
moment, so only a violation that persists counts.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from bson import ObjectId
from pymongo.errors import OperationFailure, PyMongoError

from app.contracts.base import Unavailable
from app.messaging.outbox import OUTBOX
from app.orders.documents import CHANGES
from app.orders.documents import SCHEMA as ORDER_SCHEMA
from app.orders.order import CANCELLED, DECLINED, NEW, PROCESSING, fold
from app.payments.documents import SCHEMA as PAYMENT_SCHEMA
from app.storage.bulk import in_batches
from app.storage.mongodb import Document, Store, is_transient

BATCH = 500
OPEN_PAYMENT = frozenset({"Processing", "Refunding"})
# Waits for a customer, a bank or a capture, and is looked at until it ends: `dueAt` is the time of the next look.
WAITING = frozenset({"ActionRequired", "Pending", "Authorized"})
DISPUTED = "Disputed"
# Disputes that are open or lost.
TAKEN_BACK = ("open", "lost")
PARKED = "Unknown"
DELIVERY_GRACE = timedelta(minutes=15)
FARTHEST_ATTEMPT = timedelta(days=2)
SIMULATED = "simulated"

# By name, as operators see it: what must hold.
INVARIANTS = {
    "document format": "every document has the fields that Orderflow writes",
    "acknowledged order": "every acknowledged order is stored",
    "settled in time": "no order and no payment is open longer than the grace period",
    "single charge": "at most one captured charge per order, of its total or of the part that was captured",
    "ledger balance": "captured minus refunded is what the order's state requires, and what was given back by other means",
    "payment balance": "the payment has captured and refunded what the order's state requires",
    "payment status": "order and payment have the same payment status",
    "timeline": "no gap, no repeat, and the last entry is the order's state",
    "idempotency key": "one key of a user belongs to one order",
    "event delivery": "no event and no payment is due longer than the grace period",
    "event schedule": "every undelivered event has a due time or is a dead letter",
    "no orphan": "no payment and no charge is without its order",
    "delivery schedule": "every webhook that waits has a time for its next attempt, within two days, and no other has one",
    "delivery sent": "no webhook is due longer than a quarter of an hour, unless its endpoint is failing or disabled",
}
NEEDS_OPERATOR = {"parked payment": "no payment is parked", "dead letter": "no event is a dead letter"}
# What mends each; ID stands for the order.
MENDS = {
    "document format": "orders show ID; another program or a restore wrote it: move it away, or restore the backup",
    "acknowledged order": "restore the backup that has it, then payments reconcile",
    "settled in time": "orders explain ID says what it waits for; then payments refresh ID",
    "single charge": "payments reconcile names both charges: refund the later one at the provider",
    "ledger balance": "payments refresh ID applies what the provider's record says; then payments reconcile",
    "payment balance": "payments refresh ID; if it stays, orders show ID and a refund at the provider",
    "payment status": "payments refresh ID; if it stays, restore the backup",
    "timeline": "orders show ID; somebody changed the document: restore the backup",
    "idempotency key": "orders show ID; cancel the order that its client does not know, and start a server, which makes the index",
    "event delivery": "start the server; if it stays due, orders explain ID and the log's `event not delivered`",
    "event schedule": "start the server: it schedules the events within a minute",
    "no orphan": "restore the backup that has the order, or refund the charge at the provider: payments reconcile",
    "delivery schedule": "somebody changed the document: send it again, with POST /webhooks/deliveries/ID/retry",
    "delivery sent": "start a process that runs webhooks; if one runs, its log says what hinders it: `webhooks postponed`",
    "parked payment": "payments list, then payments retry ID --reason …, or payments resolve ID OUTCOME --reason …",
    "dead letter": "dead-letters list, mend the cause, then dead-letters replay ID --reason …",
}


@dataclass(frozen=True)
class Finding:
    """A violated invariant, or something that waits for an operator; of a webhook, `order_id` is the id of its delivery."""

    check: str
    order_id: str
    detail: str

    @property
    def mend(self) -> str:
        """The commands that mend it, in a sentence."""
        return MENDS[self.check].replace("ID", self.order_id)


class DoctorState(StrEnum):
    """What an examination has come to: a violated invariant is worse than work that waits for an operator."""

    HEALTHY = "healthy"
    NEEDS_OPERATOR = "needs an operator"
    BROKEN = "broken"


@dataclass
class DoctorReport:
    """The result of an examination; `orders` is how many were examined.

    `disabled_endpoints` and `held_deliveries` are for the users of these endpoints to look at, and no operator can mend them.
    """

    orders: int = 0
    disabled_endpoints: int = 0
    held_deliveries: int = 0
    violations: list[Finding] = field(default_factory=list)
    needs_operator: list[Finding] = field(default_factory=list)

    @property
    def state(self) -> DoctorState:
        """The worst that was found."""
        if self.violations:
            return DoctorState.BROKEN
        return DoctorState.NEEDS_OPERATOR if self.needs_operator else DoctorState.HEALTHY

    @property
    def findings(self) -> list[Finding]:
        """All that was found, violations first."""
        return [*self.violations, *self.needs_operator]

    def table(self) -> list[tuple[str, str, int]]:
        """A row for each check: name, meaning, number of findings."""
        counts = Counter(finding.check for finding in self.findings)
        return [(name, meaning, counts[name]) for name, meaning in (INVARIANTS | NEEDS_OPERATOR).items()]


@dataclass(frozen=True)
class OrderRecords:
    """All documents of one order."""

    order: Document
    payment: Document | None
    charges: Sequence[Document]


class Doctor:
    """Examines orders, payments, ledger and, where they are given, webhooks' endpoints and deliveries.

    `grace` is how many seconds work may take before it counts as stuck.
    """

    def __init__(
        self,
        orders: Store,
        payments: Store,
        ledger: Store,
        grace: float,
        endpoints: Store | None = None,
        deliveries: Store | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._orders = orders
        self._payments = payments
        self._ledger = ledger
        self._grace = timedelta(seconds=grace)

    def examine(self, acknowledged: Iterable[str] = (), pause: float = 2.0) -> DoctorReport:
        """Check every order, and those with violations again after `pause` seconds. Raises Unavailable.

        `acknowledged` are the ids of orders that must be stored.
        """
        try:
            return self._examine(acknowledged, pause)
        except PyMongoError as exc:
            if is_transient(exc):
                raise Unavailable("the database does not answer, so nothing is known of the orders") from exc
            said = exc.details.get("errmsg", "") if isinstance(exc, OperationFailure) and exc.details else ""
            raise Unavailable(f"the database refuses to be read: {said or type(exc).__name__}") from exc

    def _examine(self, acknowledged: Iterable[str], pause: float) -> DoctorReport:
        report = DoctorReport()
        suspects: list[Any] = []
        for batch in self._read({}):
            report.orders += len(batch)
            suspects += [records.order["_id"] for records in batch if self._check(records)]
        if suspects:
            time.sleep(pause)
        for ids in in_batches(suspects, BATCH):
            for batch in self._read({"_id": {"$in": ids}}):
                report.violations += [finding for records in batch for finding in self._check(records)]
        report.violations += [*self._missing(acknowledged), *self._repeated_keys(), *self._orphans()]
        report.needs_operator += [*self._parked_payments(), *self._dead_letters()]
        if self._endpoints and self._deliveries:
            self._examine_webhooks(report, self._endpoints, self._deliveries)
        return report

    def _examine_webhooks(self, report: DoctorReport, endpoints: Store, deliveries: Store) -> None:
        now = deliveries.clock.now()
        since = now - DELIVERY_GRACE - self._grace
        with endpoints.with_deadline() as documents:
            found = list(documents.find({"deletedAt": {"$exists": False}}, {"disabledReason": 1, "failingSince": 1}))
        disabled = [doc["_id"] for doc in found if "disabledReason" in doc]
        excused = {doc["_id"] for doc in found if {"disabledReason", "failingSince"} & doc.keys()}
        report.disabled_endpoints = len(disabled)
        with deliveries.with_deadline() as documents:
            report.held_deliveries = documents.count_documents({"endpointId": {"$in": disabled}, "status": "held"})
            for doc in documents.find({"status": {"$exists": True}}, {"status": 1, "dueAt": 1, "endpointId": 1}):
                if (doc["status"] == "pending") != ("dueAt" in doc) or doc.get("dueAt", now) > now + FARTHEST_ATTEMPT:
                    due = f"{doc['dueAt']:%Y-%m-%d %H:%M:%S}" if "dueAt" in doc else "never"
                    report.violations.append(Finding("delivery schedule", doc["_id"], f"{doc['status']}, due {due}"))
                elif doc.get("dueAt", now) < since and doc["endpointId"] not in excused:
                    report.violations.append(Finding("delivery sent", doc["_id"], f"due since {doc['dueAt']:%H:%M:%S}"))

    def _check(self, records: OrderRecords) -> list[Finding]:
        try:
            details = {"document format": _format_error(records)}
            if not details["document format"]:
                details = self._check_invariants(records)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            # A nested value is not what Orderflow writes.
            details = {"document format": f"cannot be read: {exc!r}"}
        order_id = str(records.order["_id"])
        return [Finding(invariant, order_id, detail) for invariant, detail in details.items() if detail]

    def _check_invariants(self, records: OrderRecords) -> dict[str, str]:
        since = self._orders.clock.now() - self._grace
        return {
            "settled in time": _unsettled(records, since),
            "single charge": _charge_error(records),
            "ledger balance": _balance_error(records),
            "payment balance": _payment_balance_error(records),
            "payment status": _status_conflict(records),
            "timeline": _timeline_error(records.order),
            "event delivery": _overdue(records, since),
            "event schedule": _unscheduled(records),
        }

    def _read(self, query: Document) -> Iterator[list[OrderRecords]]:
        with self._orders.with_deadline() as orders:
            cursor = orders.find(query).sort("_id", 1).batch_size(BATCH)
        for batch in in_batches(cursor, BATCH):
            ids = [str(order["_id"]) for order in batch]
            with self._payments.with_deadline() as payments:
                payment_of = {doc["_id"]: doc for doc in payments.find({"_id": {"$in": ids}})}
            charges = defaultdict(list)
            with self._ledger.with_deadline() as ledger:
                for charge in ledger.find({"orderId": {"$in": ids}}):
                    charges[charge["orderId"]].append(charge)
            yield [
                OrderRecords(order, payment_of.get(one), charges[one]) for one, order in zip(ids, batch, strict=True)
            ]

    def _stored(self, order_ids: Iterable[str]) -> set[str]:
        """Those of the ids of which an order is stored."""
        valid = [ObjectId(order_id) for order_id in order_ids if ObjectId.is_valid(order_id)]
        with self._orders.with_deadline() as orders:
            return {str(doc["_id"]) for doc in orders.find({"_id": {"$in": valid}}, {"_id": 1})}

    def _missing(self, acknowledged: Iterable[str]) -> Iterator[Finding]:
        for ids in in_batches(acknowledged, BATCH):
            stored = self._stored(ids)
            yield from (Finding("acknowledged order", one, "is not stored") for one in ids if one not in stored)

    def _repeated_keys(self) -> Iterator[Finding]:
        groups: list[Document] = [
            {"$match": {"idempotency.key": {"$exists": True}}},
            {"$group": {"_id": ["$userId", "$idempotency.key"], "orders": {"$push": "$_id"}, "n": {"$sum": 1}}},
            {"$match": {"n": {"$gt": 1}}},
        ]
        with self._orders.with_deadline() as orders:
            for group in orders.aggregate(groups):
                yield Finding("idempotency key", str(group["orders"][0]), f"shares its key with {group['n'] - 1} more")

    def _orphans(self) -> Iterator[Finding]:
        for store, name, kind in ((self._payments, "_id", "payment"), (self._ledger, "orderId", "charge")):
            with store.with_deadline() as documents:
                cursor = documents.find({}, {name: 1}).batch_size(BATCH)
            for batch in in_batches(cursor, BATCH):
                # A document of another program may lack the field and have an id of any type.
                ids = {str(doc.get(name, doc["_id"])) for doc in batch}
                yield from (Finding("no orphan", one, f"a {kind} has no order") for one in ids - self._stored(ids))

    def _parked_payments(self) -> Iterator[Finding]:
        with self._payments.with_deadline() as payments:
            for doc in payments.find({"status": PARKED}, {"parkedReason": 1}):
                yield Finding("parked payment", str(doc["_id"]), doc.get("parkedReason", ""))

    def _dead_letters(self) -> Iterator[Finding]:
        for store in (self._orders, self._payments):
            with store.with_deadline() as documents:
                for names in (OUTBOX, CHANGES) if store is self._orders else (OUTBOX,):
                    for doc in documents.find({f"{names.dead}.at": {"$exists": True}}, {names.dead: 1}):
                        yield Finding("dead letter", str(doc["_id"]), doc[names.dead].get("reason", ""))


def _format_error(records: OrderRecords) -> str:
    schemas = (("order", records.order, ORDER_SCHEMA), ("payment", records.payment, PAYMENT_SCHEMA))
    for name, document, schema in schemas:
        missing = [member for member in schema["required"] if document is not None and member not in document]
        if missing:
            return f"the {name} lacks {', '.join(missing)}"
    without_time = [name for name in ("createdAt", "updatedAt") if not isinstance(records.order[name], datetime)]
    return f"the order has no time in {', '.join(without_time)}" if without_time else ""


def _unsettled(records: OrderRecords, since: datetime) -> str:
    order = records.order
    if order["updatedAt"] > since or order["paymentStatus"] in (PARKED, DISPUTED) or _waits(records, since):
        return ""
    if order["orderStatus"] == PROCESSING or order["paymentStatus"] in OPEN_PAYMENT:
        return f"{order['orderStatus']} / {order['paymentStatus']} since {order['updatedAt']:%Y-%m-%d %H:%M:%S}"
    return ""


def _waits(records: OrderRecords, since: datetime) -> bool:
    """Whether the payment may wait: it is looked at again, and its time has not passed."""
    payment = records.payment
    if payment is None or payment["status"] not in WAITING or "dueAt" not in payment:
        return False
    until = payment.get("waitsUntil")
    return until is None or bool(until > since)


def _charge_error(records: OrderRecords) -> str:
    captured = [charge for charge in records.charges if charge["answer"] == "captured"]
    if len(captured) > 1:
        return f"{len(captured)} captured charges"
    order, total = records.order, records.order["total"]
    # A part that a client asked to capture is captured by the provider first, then known to the payment and then to the order.
    amounts = {
        total["value"],
        order.get("captureRequested"),
        order.get("captured"),
        (records.payment or {}).get("captured"),
    }
    for charge in captured:
        if charge["value"] not in amounts or charge["currency"] != total["currency"]:
            return f"captured {charge['value']} {charge['currency']}"
        if charge["value"] > charge.get("authorized", charge["value"]):
            return f"captured {charge['value']} of {charge['authorized']} that were authorized"
    return ""


def _balance_error(records: OrderRecords) -> str:
    order, payment = records.order, records.payment
    disputed = order["paymentStatus"] == DISPUTED and payment is not None
    if not (_is_settled(records) or disputed) or (payment and payment.get("provider", SIMULATED) != SIMULATED):
        return ""
    net = sum(_held(charge) for charge in records.charges if charge["answer"] == "captured")
    # A refund of a disputed order may wait: then the payment says what the provider holds.
    due = _held_by(payment) if disputed and payment else _due(order)
    due += _given_back_elsewhere(records)
    return "" if net == due else f"{order['orderStatus']}, the provider holds {net} instead of {due}"


def _given_back_elsewhere(records: OrderRecords) -> int:
    """What operators gave back other than through the provider, on record with their names and reasons."""
    made = {refund.get("refundId") for charge in records.charges for refund in charge["refunds"]}
    value: int = sum(
        refund["value"]
        for refund in (records.payment or {}).get("refunds", ())
        if refund["status"] == "done" and refund.get("by_other_means") and refund["refund_id"] not in made
    )
    return value


def _held(charge: Document) -> int:
    """What the provider's ledger holds of a charge: captured, not refunded, and not taken back by a dispute."""
    dispute = charge.get("dispute", {})
    taken_back = dispute["value"] if dispute.get("status") in TAKEN_BACK else 0
    held: int = charge["value"] - charge["refunded"] - taken_back
    return held


def _held_by(payment: Document) -> int:
    taken_back: int = sum(one["value"] for one in payment.get("disputes", ()) if one["status"] in TAKEN_BACK)
    return _net(payment) - taken_back


def _net(payment: Document) -> int:
    refunded = sum(refund["value"] for refund in payment["refunds"] if refund["status"] == "done")
    net: int = payment["captured"] - refunded
    return net


def _payment_balance_error(records: OrderRecords) -> str:
    order, payment = records.order, records.payment
    if payment is None or _has_pending_events(records):
        return ""
    if order["paymentStatus"] == DISPUTED:
        return _disputed_balance_error(order, payment)
    if not _is_settled(records):
        return ""
    net, due = _net(payment), _due(order)
    return "" if net == due else f"{order['orderStatus']}, the payment holds {net} instead of {due}"


def _disputed_balance_error(order: Document, payment: Document) -> str:
    """What of a disputed payment differs from its order; refunds of it wait, or were made before the dispute."""
    captured = order.get("captured", order["total"]["value"])
    if payment["captured"] != captured:
        return f"Disputed, the payment captured {payment['captured']} instead of {captured}"
    if order["orderStatus"] in (DECLINED, CANCELLED):
        # The cancellation gives back what the disputes leave, when they have ended.
        return ""
    reserved = sum(refund["value"] for refund in payment["refunds"] if refund["status"] != "failed")
    requested = captured - _due(order)
    return "" if reserved == requested else f"Disputed, the payment refunds {reserved} instead of {requested}"


def _is_settled(records: OrderRecords) -> bool:
    """Whether all money of the order has moved that its state requires."""
    return records.order["paymentStatus"] not in OPEN_PAYMENT | WAITING | {PARKED, DISPUTED}


def _due(order: Document) -> int:
    """What the order's state requires to be captured and not refunded, in minor units."""
    # Orders that were stored before refunds had a status list those that failed.
    failed = order.get("failedRefunds", ())
    refund_requested = sum(
        refund["value"]
        for refund in order.get("refunds", ())
        if refund.get("status") != "failed" and refund["id"] not in failed
    )
    captured: int = order.get("captured", order["total"]["value"])
    return 0 if order["orderStatus"] in (DECLINED, CANCELLED) else captured - refund_requested


def _status_conflict(records: OrderRecords) -> str:
    order, payment = records.order, records.payment
    if _has_pending_events(records):
        return ""
    if payment is None:
        return "" if order["paymentStatus"] == "Processing" else "has no payment"
    # A cancellation reopens a parked payment: the order says Unknown until the payment is settled.
    reopened = order["paymentStatus"] == PARKED and payment["status"] in OPEN_PAYMENT | WAITING
    same = reopened or payment["status"] == order["paymentStatus"]
    return "" if same else f"the order says {order['paymentStatus']}, the payment {payment['status']}"


def _has_pending_events(records: OrderRecords) -> bool:
    return bool(records.order["outbox"] or (records.payment and records.payment["outbox"]))


def _timeline_error(order: Document) -> str:
    entries = order["events"]
    if [entry["sequence"] for entry in entries] != list(range(1, order["sequence"] + 1)):
        return f"{len(entries)} entries, the last sequence is {order['sequence']}"
    previous = NEW
    for entry in entries:
        if entry["from"] != previous:
            return f"entry {entry['sequence']} comes from {entry['from']} instead of {previous}"
        previous = entry["to"]
    folded = fold((entry["to"], entry["paymentStatus"]) for entry in entries)
    stored = (order["orderStatus"], order["paymentStatus"])
    return "" if folded == stored else f"folds to {folded} instead of {stored}"


def _overdue(records: OrderRecords, since: datetime) -> str:
    for doc in (records.order, records.payment):
        if doc and "relayDue" in doc and doc["relayDue"] < since:
            return f"{len(doc['outbox'])} events due since {doc['relayDue']:%H:%M:%S}"
    if records.order.get(CHANGES.due, since) < since:
        return f"{len(records.order[CHANGES.events])} changes not told since {records.order[CHANGES.due]:%H:%M:%S}"
    if records.payment and "dueAt" in records.payment and records.payment["dueAt"] < since:
        return f"the payment is due since {records.payment['dueAt']:%H:%M:%S}"
    return ""


def _unscheduled(records: OrderRecords) -> str:
    for doc in (records.order, records.payment):
        if doc and doc["outbox"] and not {"relayDue", "deadLetter"} & doc.keys():
            return f"{len(doc['outbox'])} events without a due time"
    if CHANGES.events in records.order and not {CHANGES.due, CHANGES.dead} & records.order.keys():
        return f"{len(records.order[CHANGES.events])} changes without a due time"
    return ""
