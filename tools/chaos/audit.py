"""Checks orders and money by the stored documents, the provider's ledger and the answers that clients received.

It imports nothing of the application, so that an error of the application cannot hide itself here.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection as Documents

from tools.chaos.clients import ClientRecord

Document = Mapping[str, Any]

BATCH = 500
LOST, STUCK, CHARGED, OVER_REFUNDED = "lost", "stuck", "charged twice", "over-refunded"
MONEY, TIMELINE, CANCEL, REFUND = "money", "timeline", "cancellation", "refund"
REPEATED_KEY, ORPHAN = "repeated key", "orphan"

PARKED, DISPUTED = "Unknown", "Disputed"
# The payment statuses of a settled order that keeps no money, and of any other one.
# A charge of a declined order may land late, and goes back.
UNPAID = frozenset({"Declined", "Cancelled"})
SETTLED_UNPAID = frozenset({"Declined", "Voided", "Refunded", DISPUTED})
SETTLED_PAID = frozenset({"Captured", "Refunded", DISPUTED})
# Disputes that have taken their amount back.
TAKEN_BACK = ("open", "lost")


@dataclass(frozen=True)
class Finding:
    """A violation by one order; `kind` is one of the constants above."""

    kind: str
    order_id: str
    detail: str


@dataclass(frozen=True)
class StoredOrder:
    """One order with its payment, if there is one, and the provider's charges for it."""

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
    def refunds(self) -> list[Document]:
        """The refunds that the provider has made, each with its key and its value in minor units."""
        return [refund for charge in self.charges for refund in charge["refunds"]]

    @property
    def failed_refunds(self) -> list[Document]:
        """The refunds that the provider had made and that failed later."""
        return [refund for charge in self.charges for refund in charge.get("failedRefunds", ())]

    @property
    def disputes(self) -> list[Document]:
        """The disputes in the provider's ledger, each with its value and status."""
        return [charge["dispute"] for charge in self.charges if "dispute" in charge]

    @property
    def taken_back(self) -> int:
        """What open and lost disputes take back, in minor units."""
        return _sum(dispute for dispute in self.disputes if dispute["status"] in TAKEN_BACK)

    @property
    def balance(self) -> int:
        """The amount captured, not refunded and not taken back by a dispute, in minor units."""
        return _sum(self.captured) - _sum(self.refunds) - self.taken_back

    @property
    def reserved(self) -> int:
        """The refunds that the order has promised and that did not fail, in minor units."""
        return _sum(refund for refund in self.order.get("refunds", ()) if refund["status"] != "failed")

    @property
    def captured_too_late(self) -> bool:
        """Whether a capture was accepted when the payment was about to be voided because it had waited too long."""
        return "captureRequested" in self.order and self.order["orderStatus"] == "Declined" and not self.captured

    @property
    def waits_for_operator(self) -> bool:
        """Whether the refund of a cancellation has failed later: somebody must give the money back by other means."""
        return self.parked and self.order["orderStatus"] in UNPAID and bool(self.failed_refunds)

    @property
    def parked(self) -> bool:
        """Whether the payment is parked with a reason and the order says so."""
        payment = self.payment
        return bool(
            payment
            and payment["status"] == PARKED
            and payment.get("parkedReason")
            and self.order["paymentStatus"] == PARKED
            and not _unfinished(self.order, payment)
        )


@dataclass
class Audit:
    """The result of an audit.

    `settled` has the ids of the settled orders, `parked` those of orders whose payment may be parked and is, and `failed_cancellations`
    those among them whose cancellation's refund has failed later. `refunds_made` counts the acknowledged refunds that the
    provider has made, `late_captures` the accepted captures that came too late, `steps` the entries of all timelines by type, and
    `disputes` those in the ledger by status.
    """

    orders: int = 0
    settled: set[str] = field(default_factory=set)
    parked: set[str] = field(default_factory=set)
    failed_cancellations: set[str] = field(default_factory=set)
    refunds_made: int = 0
    refunds_failed_later: int = 0
    late_captures: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    disputes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def orders_with(self, *kinds: str) -> set[str]:
        """Returns the ids of the orders that have a finding of one of these kinds."""
        return {finding.order_id for finding in self.findings if finding.kind in kinds}


def audit(
    orders: Documents[Any],
    payments: Documents[Any],
    ledger: Documents[Any],
    record: ClientRecord,
    aged: Collection[str] = (),
) -> Audit:
    """Checks every stored order and every acknowledgement in `record`.

    Only payments of orders in `aged`, whose provider keys have expired, and those whose cancellation's refund failed later may be parked.
    """
    result = Audit()
    refunds = _acknowledged_refunds(record)
    seen: set[str] = set()
    for case in _cases(orders, payments, ledger):
        result.orders += 1
        seen.add(case.order_id)
        _judge(case, result, refunds.get(case.order_id, {}), case.order_id in record.cancelled, case.order_id in aged)
    missing = sorted(record.acknowledged - seen)
    result.findings += [Finding(LOST, order_id, "is not stored") for order_id in missing]
    result.findings += [Finding(REPEATED_KEY, "", detail) for detail in record.contradictions]
    result.findings += [Finding(ORPHAN, key, "has no order") for key in sorted(_keys(payments, ledger) - seen)]
    return result


def _judge(case: StoredOrder, result: Audit, refunds: Mapping[str, int], cancelled: bool, aged: bool) -> None:
    parked = case.waits_for_operator or (case.parked and aged)
    result.steps.update(entry.get("type", "") for entry in case.order["events"])
    result.disputes.update(dispute["status"] for dispute in case.disputes)
    result.refunds_failed_later += len(case.failed_refunds)
    result.late_captures += case.captured_too_late
    if case.waits_for_operator:
        result.failed_cancellations.add(case.order_id)
    problems = [*_invariant_violations(case)]
    if parked:
        result.parked.add(case.order_id)
    elif reason := _unsettled_reason(case):
        problems.append((STUCK, reason))
    else:
        result.settled.add(case.order_id)
        problems += _settled_violations(case)
    if cancelled:
        problems += _cancellation_violations(case, settled=case.order_id in result.settled)
    problems += _refund_violations(case, refunds, made=case.order_id in result.settled)
    keys = {refund["key"].rpartition(":")[2] for refund in case.refunds}
    result.refunds_made += len(keys & refunds.keys())
    result.findings += [Finding(kind, case.order_id, detail) for kind, detail in problems]


def _invariant_violations(case: StoredOrder) -> Iterator[tuple[str, str]]:
    """Yields violations of what must hold at any time."""
    captured, total = case.captured, case.order["total"]
    if len(captured) > 1:
        yield CHARGED, f"{len(captured)} charges took money"
    due = case.order.get("captureRequested", total["value"])
    if any((charge["value"], charge["currency"]) != (due, total["currency"]) for charge in captured):
        yield MONEY, "a charge is not of the order's total, or of the part that was to be captured"
    made = [*case.refunds, *case.failed_refunds]
    repeated = [key for key, times in Counter(refund["key"] for refund in made).items() if times > 1]
    if repeated:
        yield OVER_REFUNDED, f"made more than once: {', '.join(repeated)}"
    if case.balance < 0:
        yield OVER_REFUNDED, f"{_sum(case.refunds)} of {_sum(captured)} went back, and disputes took {case.taken_back}"
    if case.reserved > total["value"]:
        yield OVER_REFUNDED, "more was promised back than the total"
    if reason := _timeline_violation(case.order):
        yield TIMELINE, reason


def _timeline_violation(order: Document) -> str:
    entries = order["events"]
    if [entry["sequence"] for entry in entries] != list(range(1, order["sequence"] + 1)):
        return f"has the sequences {[entry['sequence'] for entry in entries]}, the order {order['sequence']}"
    sources = ["(new)", *(entry["to"] for entry in entries)]
    if [entry["from"] for entry in entries] != sources[:-1]:
        return f"leads through {sources}, and some transition begins elsewhere"
    last = entries[-1]
    if (last["to"], last["paymentStatus"]) != (order["orderStatus"], order["paymentStatus"]):
        return f"ends at {last['to']} / {last['paymentStatus']}"
    return ""


def _unsettled_reason(case: StoredOrder) -> str:
    """Says why the order is not settled; empty if it is."""
    order, payment = case.order, case.payment
    state = f"{order['orderStatus']} / {order['paymentStatus']}"
    if payment is None:
        return f"{state}, no payment"
    if reason := _unfinished(order, payment):
        return f"{state}, payment {payment['status']}: {reason}"
    if order["paymentStatus"] not in (SETTLED_UNPAID if order["orderStatus"] in UNPAID else SETTLED_PAID):
        return f"{state}, payment {payment['status']} {payment.get('parkedReason', '')}"
    return "" if order["orderStatus"] != "Processing" else state


def _unfinished(order: Document, payment: Document) -> str:
    """Names work of an order or its payment that is not finished; empty if there is none."""
    if "deadLetter" in order or "deadLetter" in payment:
        return "a dead letter"
    if order["outbox"] or payment["outbox"]:
        return "undelivered events"
    return "work is due" if "dueAt" in payment else ""


def _settled_violations(case: StoredOrder) -> Iterator[tuple[str, str]]:
    order, payment = case.order, case.payment
    unpaid = order["orderStatus"] in UNPAID
    expected = 0 if unpaid else _kept(case)
    if (order["paymentStatus"] == DISPUTED) != any(dispute["status"] in TAKEN_BACK for dispute in case.disputes):
        yield MONEY, f"the order says {order['paymentStatus']}, the provider's disputes are {case.disputes}"
    if case.balance < expected and case.refunds:
        yield OVER_REFUNDED, f"the provider holds {case.balance} instead of {expected}"
    elif case.balance != expected:
        yield MONEY, f"the provider holds {case.balance} instead of {expected}"
    if payment and payment["status"] != order["paymentStatus"]:
        yield MONEY, f"the order says {order['paymentStatus']}, the payment {payment['status']}"


def _kept(case: StoredOrder) -> int:
    """What the provider has to hold of a paid order, by the order and by what its payment knows of disputes."""
    order, disputes = case.order, (case.payment or {}).get("disputes", ())
    taken_back = _sum(dispute for dispute in disputes if dispute["status"] in TAKEN_BACK)
    # A refund of a disputed charge waits for the end of the dispute.
    made = _sum(case.refunds) if order["paymentStatus"] == DISPUTED else case.reserved
    return int(order.get("captured", order["total"]["value"])) - made - taken_back


def _cancellation_violations(case: StoredOrder, *, settled: bool) -> Iterator[tuple[str, str]]:
    if case.order["orderStatus"] != "Cancelled":
        yield CANCEL, f"was acknowledged, and the order is {case.order['orderStatus']}"
    elif settled and case.balance:
        yield CANCEL, f"was acknowledged, and the provider holds {case.balance}"


def _refund_violations(case: StoredOrder, acknowledged: Mapping[str, int], made: bool) -> Iterator[tuple[str, str]]:
    """Yields violations by acknowledged refunds, which map ids to values; `made` says that all must have been made."""
    stored = defaultdict(list)
    for refund in case.order.get("refunds", ()):
        stored[refund["id"]].append(refund["value"])
    made_by_provider = defaultdict(list)
    for refund in (*case.refunds, *case.failed_refunds):
        made_by_provider[refund["key"].rpartition(":")[2]].append(refund["value"])
    failed = {refund["id"] for refund in case.order.get("refunds", ()) if refund["status"] == "failed"}
    waits = any(dispute["status"] == "open" for dispute in case.disputes)
    for refund_id, value in acknowledged.items():
        if stored[refund_id] != [value]:
            yield REFUND, f"{refund_id} of {value} was acknowledged and is stored as {stored[refund_id]}"
        elif refund_id in failed or waits:
            if made_by_provider[refund_id] not in ([], [value]):
                yield REFUND, f"{refund_id} of {value} was made as {made_by_provider[refund_id]}"
        elif made and made_by_provider[refund_id] != [value]:
            yield REFUND, f"{refund_id} of {value} was acknowledged and was made as {made_by_provider[refund_id]}"


def _acknowledged_refunds(record: ClientRecord) -> dict[str, dict[str, int]]:
    refunds: dict[str, dict[str, int]] = defaultdict(dict)
    for (order_id, refund_id), value in record.refunded.items():
        refunds[order_id][refund_id] = value
    return refunds


def _cases(orders: Documents[Any], payments: Documents[Any], ledger: Documents[Any]) -> Iterator[StoredOrder]:
    for batch in _batches(orders.find({}).sort("_id", 1)):
        keys = [str(order["_id"]) for order in batch]
        payment_by_id = {payment["_id"]: payment for payment in payments.find({"_id": {"$in": keys}})}
        charges = defaultdict(list)
        for charge in ledger.find({"orderId": {"$in": keys}}):
            charges[charge["orderId"]].append(charge)
        yield from (
            StoredOrder(order, payment_by_id.get(key), charges[key]) for key, order in zip(keys, batch, strict=True)
        )


def _keys(payments: Documents[Any], ledger: Documents[Any]) -> set[str]:
    return {str(doc["_id"]) for doc in payments.find({}, {"_id": 1})} | {
        str(doc["orderId"]) for doc in ledger.find({}, {"orderId": 1})
    }


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _sum(entries: Iterable[Document]) -> int:
    return sum(int(entry["value"]) for entry in entries)


def open_work(orders: Documents[Any], payments: Documents[Any]) -> set[ObjectId]:
    """Returns the ids of orders that are not settled, those with a parked payment included."""
    settled = ["Captured", "Declined", "Voided", "Refunded", DISPUTED]
    stored = {
        doc["_id"] for doc in orders.find({"$or": [{"outbox": {"$ne": []}}, {"paymentStatus": {"$nin": settled}}]})
    }
    unpaid = {"$or": [{"outbox": {"$ne": []}}, {"status": {"$nin": settled}}, {"dueAt": {"$exists": True}}]}
    return stored | {ObjectId(doc["_id"]) for doc in payments.find(unpaid, {"_id": 1})}
