"""Checks every invariant on a live database and the provider's books. Reads only, repairs nothing.

What looks wrong is looked at again after a pause: on a database at work the documents of one order are read a moment
apart, and only what stays wrong is a finding.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo.errors import PyMongoError

from app.contracts.base import Unavailable
from app.orders.documents import SCHEMA as ORDER_SCHEMA
from app.orders.order import CANCELLED, DECLINED, NEW, PROCESSING, fold
from app.payments.repository import SCHEMA as PAYMENT_SCHEMA
from app.storage.mongodb import Document, Store

BATCH = 500
OPEN_PAYMENT = frozenset({"Processing", "Refunding"})
PARKED = "Unknown"

INVARIANTS = {
    "format": "every document is one that Orderflow has written",
    "acknowledged": "every acknowledged order exists",
    "settled": "every order is settled, and its payment with it",
    "one charge": "at most one captured charge an order, of its amount",
    "books": "captured minus refunded is what the order's state says",
    "agreement": "order and payment say the same",
    "timeline": "the timeline has no gap, no repeat, and folds to the state",
    "one key": "one Idempotency-Key, one order",
    "delivered": "no event waits longer than it should",
    "scheduled": "every undelivered event is due at some time or is a dead letter",
    "no stray": "no payment and no charge without its order",
}
ATTENTION = {"parked": "payments that wait for an operator", "dead letters": "events that wait for an operator"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    invariant: str
    order_id: str
    detail: str


@dataclass
class Report:
    """What was looked at and what was found."""

    orders: int = 0
    findings: list[Finding] = field(default_factory=list)
    attention: list[Finding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether every invariant holds."""
        return not self.findings

    def table(self) -> list[tuple[str, str, int, str]]:
        """A row an invariant: name, meaning, violations, the first of them."""
        found = defaultdict(list)
        for finding in [*self.findings, *self.attention]:
            found[finding.invariant].append(f"{finding.order_id}: {finding.detail}")
        return [
            (name, meaning, len(found[name]), next(iter(found[name]), ""))
            for name, meaning in (INVARIANTS | ATTENTION).items()
        ]


@dataclass(frozen=True)
class Case:
    """All that is on record of one order."""

    order: Document
    payment: Document | None
    charges: Sequence[Document]


class Doctor:
    """Examines the three collections; `grace` is how many seconds work may take before it counts as stuck."""

    def __init__(self, orders: Store, payments: Store, ledger: Store, grace: float) -> None:
        self._orders = orders
        self._payments = payments
        self._ledger = ledger
        self._grace = timedelta(seconds=grace)

    def examine(self, acknowledged: Iterable[str] = (), pause: float = 2.0) -> Report:
        """Look at every order, and again at what looks wrong, `pause` seconds later. Raises Unavailable."""
        try:
            return self._examine(acknowledged, pause)
        except PyMongoError as exc:
            raise Unavailable(f"the examination broke off: {exc}") from exc

    def _examine(self, acknowledged: Iterable[str], pause: float) -> Report:
        report = Report()
        suspects: list[Any] = []
        for cases in self._cases({}):
            report.orders += len(cases)
            suspects += [case.order["_id"] for case in cases if self._wrong(case)]
        if suspects:
            time.sleep(pause)
        for some in _batches(suspects):
            for cases in self._cases({"_id": {"$in": some}}):
                report.findings += [finding for case in cases for finding in self._wrong(case)]
        report.findings += [*self._missing(acknowledged), *self._repeated_keys(), *self._strays()]
        report.attention += [*self._parked(), *self._dead_letters()]
        return report

    def _wrong(self, case: Case) -> list[Finding]:
        try:
            wrong = {"format": _malformed(case)}
            if not wrong["format"]:
                wrong = self._violations(case)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            # Something within a member is not what Orderflow writes there.
            wrong = {"format": f"cannot be read: {exc!r}"}
        order_id = str(case.order["_id"])
        return [Finding(invariant, order_id, detail) for invariant, detail in wrong.items() if detail]

    def _violations(self, case: Case) -> dict[str, str]:
        now = self._orders.clock.now()
        return {
            "settled": _unsettled(case, now - self._grace),
            "one charge": _charged_wrong(case),
            "books": _books_wrong(case),
            "agreement": _disagreement(case),
            "timeline": _timeline_wrong(case.order),
            "delivered": _undelivered(case, now - self._grace),
            "scheduled": _unscheduled(case),
        }

    def _cases(self, query: Document) -> Iterator[list[Case]]:
        with self._orders.with_deadline() as orders:
            found = orders.find(query).sort("_id", 1).batch_size(BATCH)
        for some in _batches(found):
            keys = [str(order["_id"]) for order in some]
            with self._payments.with_deadline() as payments:
                paid = {doc["_id"]: doc for doc in payments.find({"_id": {"$in": keys}})}
            charges = defaultdict(list)
            with self._ledger.with_deadline() as ledger:
                for entry in ledger.find({"orderId": {"$in": keys}}):
                    charges[entry["orderId"]].append(entry)
            yield [Case(order, paid.get(key), charges[key]) for key, order in zip(keys, some, strict=True)]

    def _missing(self, acknowledged: Iterable[str]) -> Iterator[Finding]:
        for some in _batches(acknowledged):
            with self._orders.with_deadline() as orders:
                there = {
                    str(doc["_id"])
                    for doc in orders.find({"_id": {"$in": [ObjectId(one) for one in some]}}, {"_id": 1})
                }
            for order_id in some:
                if order_id not in there:
                    yield Finding("acknowledged", order_id, "is not stored")

    def _repeated_keys(self) -> Iterator[Finding]:
        groups: list[Document] = [
            {"$match": {"idempotency.key": {"$exists": True}}},
            {"$group": {"_id": ["$userId", "$idempotency.key"], "orders": {"$push": "$_id"}, "n": {"$sum": 1}}},
            {"$match": {"n": {"$gt": 1}}},
        ]
        with self._orders.with_deadline() as orders:
            for group in orders.aggregate(groups):
                yield Finding("one key", str(group["orders"][0]), f"shares its key with {group['n'] - 1} more")

    def _strays(self) -> Iterator[Finding]:
        for store, name, what in ((self._payments, "_id", "payment"), (self._ledger, "orderId", "charge")):
            with store.with_deadline() as documents:
                found = documents.find({}, {name: 1}).batch_size(BATCH)
            for some in _batches(found):
                # A document of another program may lack the name and have any kind of key.
                keys = {str(doc.get(name, doc["_id"])) for doc in some}
                with self._orders.with_deadline() as orders:
                    wanted = [ObjectId(key) for key in keys if ObjectId.is_valid(key)]
                    there = {str(doc["_id"]) for doc in orders.find({"_id": {"$in": wanted}}, {"_id": 1})}
                for key in keys - there:
                    yield Finding("no stray", key, f"a {what} has no order")

    def _parked(self) -> Iterator[Finding]:
        with self._payments.with_deadline() as payments:
            for doc in payments.find({"status": PARKED}, {"parked": 1}):
                yield Finding("parked", str(doc["_id"]), doc.get("parked", ""))

    def _dead_letters(self) -> Iterator[Finding]:
        for store in (self._orders, self._payments):
            with store.with_deadline() as documents:
                for doc in documents.find({"deadLetter.at": {"$exists": True}}, {"deadLetter": 1}):
                    yield Finding("dead letters", str(doc["_id"]), doc["deadLetter"].get("reason", ""))


def _malformed(case: Case) -> str:
    for name, document, schema in (("order", case.order, ORDER_SCHEMA), ("payment", case.payment, PAYMENT_SCHEMA)):
        missing = [member for member in schema["required"] if document is not None and member not in document]
        if missing:
            return f"the {name} lacks {', '.join(missing)}"
    untimed = [name for name in ("createdAt", "updatedAt") if not isinstance(case.order[name], datetime)]
    return f"the order has no time in {', '.join(untimed)}" if untimed else ""


def _unsettled(case: Case, since: datetime) -> str:
    order = case.order
    if order["updatedAt"] > since or order["paymentStatus"] == PARKED:
        return ""
    if order["orderStatus"] == PROCESSING or order["paymentStatus"] in OPEN_PAYMENT:
        return f"{order['orderStatus']} / {order['paymentStatus']} since {order['updatedAt']:%Y-%m-%d %H:%M:%S}"
    return ""


def _charged_wrong(case: Case) -> str:
    captured = [charge for charge in case.charges if charge["answer"] == "captured"]
    if len(captured) > 1:
        return f"{len(captured)} captured charges"
    total = case.order["total"]
    if captured and (captured[0]["value"], captured[0]["currency"]) != (total["value"], total["currency"]):
        return f"captured {captured[0]['value']} {captured[0]['currency']}"
    return ""


def _books_wrong(case: Case) -> str:
    order = case.order
    if order["paymentStatus"] in OPEN_PAYMENT | {PARKED}:
        return ""
    net = sum(charge["value"] - charge["refunded"] for charge in case.charges if charge["answer"] == "captured")
    failed = order.get("failedRefunds", ())
    asked_back = sum(refund["value"] for refund in order.get("refunds", ()) if refund["id"] not in failed)
    due = 0 if order["orderStatus"] in (DECLINED, CANCELLED) else order["total"]["value"] - asked_back
    return "" if net == due else f"{order['orderStatus']}, the provider holds {net} instead of {due}"


def _disagreement(case: Case) -> str:
    order, payment = case.order, case.payment
    if _on_its_way(case):
        return ""
    if payment is None:
        return "" if order["paymentStatus"] == "Processing" else "has no payment"
    # An operator had it taken up again: the order hears of it when it is settled.
    retried = order["paymentStatus"] == PARKED and payment["status"] in OPEN_PAYMENT
    same = retried or payment["status"] == order["paymentStatus"]
    return "" if same else f"the order says {order['paymentStatus']}, the payment {payment['status']}"


def _on_its_way(case: Case) -> bool:
    return bool(case.order["outbox"] or (case.payment and case.payment["outbox"]))


def _timeline_wrong(order: Document) -> str:
    entries = order["events"]
    if [entry["sequence"] for entry in entries] != list(range(1, order["sequence"] + 1)):
        return f"{len(entries)} entries, the last sequence is {order['sequence']}"
    before = NEW
    for entry in entries:
        if entry["from"] != before:
            return f"step {entry['sequence']} comes from {entry['from']} instead of {before}"
        before = entry["to"]
    folded = fold((entry["to"], entry["paymentStatus"]) for entry in entries)
    stored = (order["orderStatus"], order["paymentStatus"])
    return "" if folded == stored else f"folds to {folded} instead of {stored}"


def _undelivered(case: Case, since: datetime) -> str:
    for doc in (case.order, case.payment):
        if doc and "relayDue" in doc and doc["relayDue"] < since:
            return f"{len(doc['outbox'])} events due since {doc['relayDue']:%H:%M:%S}"
    if case.payment and "dueAt" in case.payment and case.payment["dueAt"] < since:
        return f"the payment is due since {case.payment['dueAt']:%H:%M:%S}"
    return ""


def _unscheduled(case: Case) -> str:
    for doc in (case.order, case.payment):
        if doc and doc["outbox"] and not {"relayDue", "deadLetter"} & doc.keys():
            return f"{len(doc['outbox'])} events that nothing will ever deliver"
    return ""


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, BATCH)):
        yield some
