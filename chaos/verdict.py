"""What became of it all: waits until everything has settled, asks the doctor, and sums up."""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bson import ObjectId
from pymongo.errors import PyMongoError
from rich.table import Table

from app.database import Database
from app.doctor import Doctor, Finding, Report
from chaos.clients import Book
from chaos.faults import Strike
from chaos.servers import documents

SETTLE_SECONDS = 60.0
LIMIT_SECONDS = 30.0
EXAMINED_AS = {
    "acknowledged": "lost",
    "one charge": "double_charged",
    "settled": "stuck",
    "delivered": "stuck",
    "scheduled": "stuck",
}
OPEN_ORDER = {
    "$or": [
        {"orderStatus": "Processing", "paymentStatus": {"$ne": "Unknown"}},
        {"paymentStatus": {"$in": ["Processing", "Refunding"]}},
        {"outbox": {"$ne": []}},
    ]
}
OPEN_PAYMENT = {"$or": [{"dueAt": {"$exists": True}}, {"outbox": {"$ne": []}}]}


@dataclass
class Verdict:
    """One run in figures; `details` are the first of whatever is wrong."""

    seed: int
    duration: float
    acknowledged: int = 0
    settled: int = 0
    lost: int = 0
    stuck: int = 0
    double_charged: int = 0
    violated: int = 0
    unexpected: int = 0
    cancelled: int = 0
    refunded: int = 0
    gave_up: int = 0
    copies: int = 0
    settled_after: float = 0.0
    slowest_answer: float = 0.0
    recovery_median: float = 0.0
    recovery_worst: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    recoveries: dict[str, tuple[float, float]] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        wrong = self.lost + self.stuck + self.double_charged + self.violated + self.unexpected
        return wrong == 0 and self.acknowledged > 0 and self.settled_after <= LIMIT_SECONDS

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "clean": self.clean}

    def table(self) -> Table:
        """For people."""
        table = Table(title=f"chaos, {self.duration:g} s, seed {self.seed}", show_header=False)
        for name, value in self._rows():
            table.add_row(name, value)
        table.add_section()
        for kind, times in self.faults.items():
            middle, worst = self.recoveries.get(kind, (0.0, 0.0))
            table.add_row(kind, f"{times}, next POST after {middle:.2f} s, at worst {worst:.2f} s")
        table.add_section()
        for answer, times in sorted(self.answers.items()):
            table.add_row(answer, str(times))
        return table

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("acknowledged", str(self.acknowledged)),
            ("settled", str(self.settled)),
            ("lost", str(self.lost)),
            ("stuck", str(self.stuck)),
            ("double-charged", str(self.double_charged)),
            ("invariants violated", str(self.violated)),
            ("unexpected answers", str(self.unexpected)),
            ("cancellations, refunds", f"{self.cancelled}, {self.refunded}"),
            *([("events delivered once more", str(self.copies))] if self.copies else []),
            ("all settled after the last fault", f"{self.settled_after:.1f} s (limit {LIMIT_SECONDS:g} s)"),
            ("recovery", f"median {self.recovery_median:.2f} s, worst {self.recovery_worst:.2f} s"),
            ("slowest answer", f"{self.slowest_answer:.2f} s"),
            ("repeats given up at the end", str(self.gave_up)),
        ]


def wait_until_settled(uri: str, name: str, seconds: float = SETTLE_SECONDS, *, payments: str = "") -> float:
    """Wait until no work is open, `seconds` at the most; the monotonic time when that was so, or of giving up.

    `payments` is their database where it is another than that of the orders.
    """
    ends = time.monotonic() + seconds
    with documents(uri) as client:
        of_orders, of_payments = client[name].orders, client[payments or name].payments
        while time.monotonic() < ends:
            try:
                if not of_orders.find_one(OPEN_ORDER, {"_id": 1}) and not of_payments.find_one(OPEN_PAYMENT):
                    break
            except PyMongoError:
                pass
            time.sleep(0.1)
    return time.monotonic()


def examine(uri: str, name: str, book: Book, *, payments: str = "") -> Report:
    """The doctor's report, and beside it whether every cancellation and refund is there that clients were told of."""
    database = Database(uri, name)
    try:
        where = {"orders": name, "payments": payments, "ledger": payments}
        stores = [database.collection(one, 30.0, other) for one, other in where.items()]
        report = Doctor(*stores, grace=0.0).examine(sorted(book.acknowledged), pause=1.0)
        orders = stores[0].collection
        keys = [ObjectId(one) for one in book.cancelled | {order_id for order_id, _ in book.refunded}]
        found = {str(doc["_id"]): doc for doc in orders.find({"_id": {"$in": keys}}, {"orderStatus": 1, "refunds": 1})}
    finally:
        database.close()
    for order_id in sorted(book.cancelled):
        if found.get(order_id, {}).get("orderStatus") != "Cancelled":
            report.findings.append(Finding("acknowledged", order_id, "its cancellation is not there"))
    for order_id, refund_id in sorted(book.refunded):
        if refund_id not in {refund["id"] for refund in found.get(order_id, {}).get("refunds", ())}:
            report.findings.append(Finding("acknowledged", order_id, f"its refund {refund_id} is not there"))
    report.findings += [Finding("one key", "", told) for told in book.contradictions]
    return report


def sum_up(verdict: Verdict, report: Report, book: Book, strikes: list[Strike]) -> Verdict:
    """Fill the figures in."""
    wrong: dict[str, set[str]] = {"lost": set(), "stuck": set(), "double_charged": set()}
    for finding in report.findings:
        name = EXAMINED_AS.get(finding.invariant)
        if name:
            wrong[name].add(finding.order_id)
        else:
            verdict.violated += 1
    wrong["stuck"] |= {finding.order_id for finding in report.attention}
    verdict.lost, verdict.stuck, verdict.double_charged = (len(found) for found in wrong.values())
    verdict.details = [f"{one.invariant}: {one.order_id} {one.detail}" for one in report.findings + report.attention]
    verdict.details = (verdict.details + book.unexpected)[:50]
    verdict.acknowledged = len(book.acknowledged)
    verdict.settled = len(book.acknowledged - wrong["lost"] - wrong["stuck"])
    verdict.cancelled, verdict.refunded = len(book.cancelled), len(book.refunded)
    verdict.unexpected, verdict.slowest_answer = len(book.unexpected), book.slowest
    verdict.answers = dict(book.answers)
    verdict.faults = dict(Counter(str(strike.kind) for strike in strikes))
    seconds = {strike: book.recovery(strike.at) for strike in strikes}
    for kind in verdict.faults:
        known = [took for strike, took in seconds.items() if strike.kind == kind and took is not None]
        if known:
            verdict.recoveries[kind] = (median(known), max(known))
    every = [took for took in seconds.values() if took is not None]
    if every:
        verdict.recovery_median, verdict.recovery_worst = median(every), max(every)
    return verdict
