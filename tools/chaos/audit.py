"""Judges orders and money by the stored documents, the provider's books and what clients were answered.

It imports nothing of the application, so that no error of the application can hide itself here.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection as Documents

from tools.chaos.clients import Book

Document = Mapping[str, Any]

BATCH = 500
LOST, STUCK, CHARGED, OVER_REFUNDED = "lost", "stuck", "charged twice", "over-refunded"
MONEY, TIMELINE, CANCEL, REFUND = "money", "timeline", "cancellation", "refund"
REPEATED_KEY, STRAY = "repeated key", "stray"

# How the payment may stand when an order has come to rest.
AT_REST = {"Declined": {"Declined"}, "Cancelled": {"Declined", "Voided", "Refunded"}}
AT_REST_PAID = {"Captured", "Refunded"}
PARKED = "Unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with an order; `kind` is one of the constants above."""

    kind: str
    order_id: str
    detail: str


@dataclass(frozen=True)
class Case:
    """All that is stored of one order: the order, its payment if there is one, the provider's charges."""

    order: Document
    payment: Document | None
    charges: Sequence[Document]

    @property
    def order_id(self) -> str:
        return str(self.order["_id"])

    @property
    def captured(self) -> list[Document]:
        """The charges that took money."""
        return [charge for charge in self.charges if charge["answer"] == "captured"]

    @property
    def given_back(self) -> list[Document]:
        """The refunds that the provider has made, each with its key and its value in minor units."""
        return [refund for charge in self.charges for refund in charge["refunds"]]

    @property
    def held(self) -> int:
        """What the provider has taken and not given back, in minor units."""
        return _sum(self.captured) - _sum(self.given_back)

    @property
    def parked(self) -> bool:
        """Whether the payment waits for an operator, with a reason, and the order shows it."""
        payment = self.payment
        return bool(
            payment
            and payment["status"] == PARKED
            and payment.get("parked")
            and self.order["paymentStatus"] == PARKED
            and not _unfinished(self.order, payment)
        )


@dataclass
class Audit:
    """What the judgement found.

    `settled` and `parked` are ids of orders: those that are at rest, and those of them whose payment waits for an
    operator as it may. `booked` counts the acknowledged refunds that the provider has made.
    """

    orders: int = 0
    settled: set[str] = field(default_factory=set)
    parked: set[str] = field(default_factory=set)
    booked: int = 0
    findings: list[Finding] = field(default_factory=list)

    def of(self, *kinds: str) -> set[str]:
        """The orders that have a finding of one of these kinds."""
        return {finding.order_id for finding in self.findings if finding.kind in kinds}


def audit(
    orders: Documents[Any], payments: Documents[Any], ledger: Documents[Any], book: Book, aged: Collection[str] = ()
) -> Audit:
    """Judge every stored order, and every acknowledgement in `book`.

    Only the payments of orders in `aged` may be parked: their provider keys were made older than the provider keeps them.
    """
    result = Audit()
    wanted = _wanted_refunds(book)
    seen: set[str] = set()
    for case in _cases(orders, payments, ledger):
        result.orders += 1
        seen.add(case.order_id)
        _judge(case, result, wanted.get(case.order_id, {}), case.order_id in book.cancelled, case.order_id in aged)
    missing = sorted(book.acknowledged - seen)
    result.findings += [Finding(LOST, order_id, "is not stored") for order_id in missing]
    result.findings += [Finding(REPEATED_KEY, "", told) for told in book.contradictions]
    result.findings += [Finding(STRAY, key, "has no order") for key in sorted(_keys(payments, ledger) - seen)]
    return result


def _judge(case: Case, result: Audit, refunds: Mapping[str, int], cancelled: bool, aged: bool) -> None:
    parked = case.parked and aged
    problems = [*_wrong_always(case)]
    if parked:
        result.parked.add(case.order_id)
    elif reason := _open(case):
        problems.append((STUCK, reason))
    else:
        result.settled.add(case.order_id)
        problems += _wrong_at_rest(case)
    if cancelled:
        problems += _wrong_cancellation(case, settled=case.order_id in result.settled)
    problems += _wrong_refunds(case, refunds, made=case.order_id in result.settled)
    keys = {refund["key"].rpartition(":")[2] for refund in case.given_back}
    result.booked += len(keys & refunds.keys())
    result.findings += [Finding(kind, case.order_id, detail) for kind, detail in problems]


def _wrong_always(case: Case) -> Iterator[tuple[str, str]]:
    """What may never be, settled or not."""
    captured, total = case.captured, case.order["total"]
    if len(captured) > 1:
        yield CHARGED, f"{len(captured)} charges took money"
    if any((charge["value"], charge["currency"]) != (total["value"], total["currency"]) for charge in captured):
        yield MONEY, "a charge is not of the order's total"
    repeated = [key for key, times in Counter(refund["key"] for refund in case.given_back).items() if times > 1]
    if repeated:
        yield OVER_REFUNDED, f"made more than once: {', '.join(repeated)}"
    if _sum(case.given_back) > _sum(captured):
        yield OVER_REFUNDED, f"{_sum(case.given_back)} of {_sum(captured)} went back"
    if _sum(case.order.get("refunds", ())) > total["value"]:
        yield OVER_REFUNDED, "more was promised back than the total"
    if reason := _wrong_timeline(case.order):
        yield TIMELINE, reason


def _wrong_timeline(order: Document) -> str:
    entries = order["events"]
    if [entry["sequence"] for entry in entries] != list(range(1, order["sequence"] + 1)):
        return f"has the sequences {[entry['sequence'] for entry in entries]}, the order {order['sequence']}"
    sources = ["(new)", *(entry["to"] for entry in entries)]
    if [entry["from"] for entry in entries] != sources[:-1]:
        return f"leads through {sources}, and some step begins elsewhere"
    last = entries[-1]
    if (last["to"], last["paymentStatus"]) != (order["orderStatus"], order["paymentStatus"]):
        return f"ends at {last['to']} / {last['paymentStatus']}"
    return ""


def _open(case: Case) -> str:
    """Why the order is not at rest; empty where it is."""
    order, payment = case.order, case.payment
    state = f"{order['orderStatus']} / {order['paymentStatus']}"
    if payment is None:
        return f"{state}, no payment"
    if reason := _unfinished(order, payment):
        return f"{state}, payment {payment['status']}: {reason}"
    if order["paymentStatus"] not in AT_REST.get(order["orderStatus"], AT_REST_PAID):
        return f"{state}, payment {payment['status']} {payment.get('parked', '')}"
    return "" if order["orderStatus"] != "Processing" else state


def _unfinished(order: Document, payment: Document) -> str:
    """Which work still waits, of an order or its payment; empty where none does."""
    if "deadLetter" in order or "deadLetter" in payment:
        return "a dead letter"
    if order["outbox"] or payment["outbox"]:
        return "undelivered events"
    return "work is due" if "dueAt" in payment else ""


def _wrong_at_rest(case: Case) -> Iterator[tuple[str, str]]:
    order, payment = case.order, case.payment
    back = order["orderStatus"] in AT_REST
    expected = 0 if back else order["total"]["value"] - _sum(order.get("refunds", ()))
    if case.held < expected and case.given_back:
        yield OVER_REFUNDED, f"the provider holds {case.held} instead of {expected}"
    elif case.held != expected:
        yield MONEY, f"the provider holds {case.held} instead of {expected}"
    if payment and payment["status"] != order["paymentStatus"]:
        yield MONEY, f"the order says {order['paymentStatus']}, the payment {payment['status']}"


def _wrong_cancellation(case: Case, *, settled: bool) -> Iterator[tuple[str, str]]:
    if case.order["orderStatus"] != "Cancelled":
        yield CANCEL, f"was acknowledged, and the order is {case.order['orderStatus']}"
    elif settled and case.held:
        yield CANCEL, f"was acknowledged, and the provider holds {case.held}"


def _wrong_refunds(case: Case, wanted: Mapping[str, int], made: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with acknowledged refunds, given by id with their values; `made` where all must have been made."""
    stored = defaultdict(list)
    for refund in case.order.get("refunds", ()):
        stored[refund["id"]].append(refund["value"])
    booked = defaultdict(list)
    for refund in case.given_back:
        booked[refund["key"].rpartition(":")[2]].append(refund["value"])
    for refund_id, value in wanted.items():
        if stored[refund_id] != [value]:
            yield REFUND, f"{refund_id} of {value} was acknowledged and is stored as {stored[refund_id]}"
        elif made and booked[refund_id] != [value]:
            yield REFUND, f"{refund_id} of {value} was acknowledged and is booked as {booked[refund_id]}"


def _wanted_refunds(book: Book) -> dict[str, dict[str, int]]:
    wanted: dict[str, dict[str, int]] = defaultdict(dict)
    for (order_id, refund_id), value in book.refunded.items():
        wanted[order_id][refund_id] = value
    return wanted


def _cases(orders: Documents[Any], payments: Documents[Any], ledger: Documents[Any]) -> Iterator[Case]:
    for some in _batches(orders.find({}).sort("_id", 1)):
        keys = [str(order["_id"]) for order in some]
        paid = {payment["_id"]: payment for payment in payments.find({"_id": {"$in": keys}})}
        charges = defaultdict(list)
        for charge in ledger.find({"orderId": {"$in": keys}}):
            charges[charge["orderId"]].append(charge)
        yield from (Case(order, paid.get(key), charges[key]) for key, order in zip(keys, some, strict=True))


def _keys(payments: Documents[Any], ledger: Documents[Any]) -> set[str]:
    return {str(doc["_id"]) for doc in payments.find({}, {"_id": 1})} | {
        str(doc["orderId"]) for doc in ledger.find({}, {"orderId": 1})
    }


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, BATCH)):
        yield some


def _sum(entries: Iterable[Document]) -> int:
    return sum(int(entry["value"]) for entry in entries)


def open_work(orders: Documents[Any], payments: Documents[Any]) -> set[ObjectId]:
    """The orders that are not at rest, those included whose payment is parked."""
    rest = ["Captured", "Declined", "Voided", "Refunded"]
    stored = {doc["_id"] for doc in orders.find({"$or": [{"outbox": {"$ne": []}}, {"paymentStatus": {"$nin": rest}}]})}
    unpaid = {"$or": [{"outbox": {"$ne": []}}, {"status": {"$nin": rest}}, {"dueAt": {"$exists": True}}]}
    return stored | {ObjectId(doc["_id"]) for doc in payments.find(unpaid, {"_id": 1})}
