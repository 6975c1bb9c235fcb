"""What became of it all: waits until everything has settled, judges it, asks the doctor as well, and sums up."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from pymongo.errors import PyMongoError
from rich.table import Table

from app import doctor
from app.storage.mongodb import Database
from tools.chaos import audit
from tools.chaos.audit import Audit
from tools.chaos.clients import Book
from tools.chaos.faults import Strike
from tools.cluster.servers import documents

SETTLE_SECONDS = 60.0
LIMIT_SECONDS = 30.0
DETAILS = 50
OPEN_ORDER = {
    "$or": [
        {"orderStatus": "Processing", "paymentStatus": {"$ne": "Unknown"}},
        {"paymentStatus": {"$in": ["Processing", "Refunding"]}},
        {"outbox": {"$ne": []}},
    ]
}
OPEN_PAYMENT = {"$or": [{"dueAt": {"$exists": True}}, {"outbox": {"$ne": []}}]}


@dataclass(frozen=True)
class Report:
    """Two judgements of one run: the audit's own sums, and the doctor's, who knows the application."""

    audit: Audit
    doctor: doctor.DoctorReport

    @property
    def findings(self) -> list[Any]:
        """Whatever either of them found wrong."""
        return [*self.audit.findings, *self.doctor.violations]

    @property
    def attention(self) -> list[doctor.Finding]:
        """What waits for an operator and may not."""
        return [one for one in self.doctor.needs_operator if one.order_id not in self.audit.parked]


@dataclass(frozen=True)
class Recovery:
    """How often a fault was done, and the median and the worst of the seconds until the next success; None if unknown.

    `accepted` is until an order was accepted, `settled` until one that was placed after the fault was settled.
    """

    times: int
    accepted: tuple[float, float] | None
    settled: tuple[float, float] | None


@dataclass
class Verdict:
    """One run in figures; `details` are the first of whatever is wrong, `history` the faults with their times."""

    seed: int
    duration: float
    acknowledged: int = 0
    settled: int = 0
    parked: int = 0
    lost: int = 0
    stuck: int = 0
    double_charged: int = 0
    over_refunded: int = 0
    violated: int = 0
    doctor: int = 0
    unexpected: int = 0
    cancelled: int = 0
    refunds_asked: int = 0
    refunds_overdrawn: int = 0
    refunded: int = 0
    refunds_booked: int = 0
    gave_up: int = 0
    copies: int = 0
    settled_after: float = 0.0
    slowest_answer: float = 0.0
    broken: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    threads: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    recoveries: dict[str, Recovery] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    unexpected_answers: dict[str, int] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether every promise was kept."""
        wrong = self.lost + self.stuck + self.double_charged + self.over_refunded + self.violated + self.doctor
        return not (wrong or self.unexpected or self.broken) and self.settled_after <= LIMIT_SECONDS

    @property
    def clean(self) -> bool:
        """Whether every promise was kept, and there was something to keep: orders, cancellations and refunds."""
        return self.sound and bool(self.acknowledged and self.cancelled and self.refunds_booked)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "clean": self.clean}

    def table(self) -> Table:
        """For people."""
        table = Table(title=f"chaos, {self.duration:g} s, seed {self.seed}", show_header=False)
        for name, value in self._rows():
            table.add_row(name, value)
        table.add_section()
        for kind, recovery in self.recoveries.items():
            accepted, settled = _seconds(recovery.accepted), _seconds(recovery.settled)
            table.add_row(kind, f"{recovery.times}; next order accepted {accepted}, settled {settled}")
        for kind, times in self.faults.items():
            if kind not in self.recoveries:
                table.add_row(kind, str(times))
        table.add_section()
        for answer, times in sorted(self.answers.items()):
            table.add_row(answer, str(times))
        return table

    def _rows(self) -> list[tuple[str, str]]:
        refunds = f"{self.refunds_asked}, {self.refunded}, {self.refunds_booked}"
        threads = ", ".join(f"{name} {times}" for name, times in sorted(self.threads.items()))
        unexpected = ", ".join(f"{answer} {times}" for answer, times in sorted(self.unexpected_answers.items()))
        return [
            ("acknowledged", str(self.acknowledged)),
            ("settled", str(self.settled)),
            ("parked, key too old, with a reason", str(self.parked)),
            ("lost", str(self.lost)),
            ("stuck", str(self.stuck)),
            ("double-charged", str(self.double_charged)),
            ("over-refunded", str(self.over_refunded)),
            ("other violations", str(self.violated)),
            ("findings of the doctor", str(self.doctor)),
            ("cancellations acknowledged", str(self.cancelled)),
            ("refunds asked for, acknowledged, booked", refunds),
            ("refunds refused as more than is left", str(self.refunds_overdrawn)),
            ("unexpected answers", unexpected or "0"),
            *([("threads ended from inside", threads)] if threads else []),
            *([("events delivered once more", str(self.copies))] if self.copies else []),
            ("faults that the server did not come back from", str(len(self.broken))),
            ("all settled after the last fault", f"{self.settled_after:.1f} s (limit {LIMIT_SECONDS:g} s)"),
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


def examine(uri: str, name: str, book: Book, *, payments: str = "", aged: Collection[str] = ()) -> Report:
    """Judge what is stored and booked against what clients were answered.

    `payments` is their database where it is another than that of the orders; only payments of `aged` orders may be
    parked.
    """
    database = Database(uri, name)
    where = {"orders": name, "payments": payments, "ledger": payments}
    try:
        stores = [database.collection(one, 30.0, other) for one, other in where.items()]
        second = doctor.Doctor(*stores, grace=0.0).examine(sorted(book.acknowledged), pause=1.0)
        own = audit.audit(*(store.collection for store in stores), book, aged)
    finally:
        database.close()
    return Report(own, second)


def sum_up(verdict: Verdict, report: Report, book: Book, strikes: Sequence[Strike]) -> Verdict:
    """Fill the figures in."""
    own = report.audit
    waiting = {one.order_id for one in report.attention}
    verdict.lost = len(own.of(audit.LOST))
    verdict.stuck = len(own.of(audit.STUCK) | waiting)
    verdict.double_charged = len(own.of(audit.CHARGED))
    verdict.over_refunded = len(own.of(audit.OVER_REFUNDED))
    counted = (audit.LOST, audit.STUCK, audit.CHARGED, audit.OVER_REFUNDED)
    verdict.violated = sum(one.kind not in counted for one in own.findings)
    verdict.doctor = len(report.doctor.violations)
    verdict.acknowledged = len(book.acknowledged)
    verdict.settled = len(book.acknowledged & own.settled)
    verdict.parked = len(book.acknowledged & own.parked)
    verdict.cancelled, verdict.refunded = len(book.cancelled), len(book.refunded)
    verdict.refunds_asked, verdict.refunds_overdrawn = book.asked, book.overdrawn
    verdict.refunds_booked = own.booked
    verdict.unexpected, verdict.slowest_answer = len(book.unexpected), book.slowest
    verdict.unexpected_answers = dict(Counter(" ".join(text.split()[:3]) for text in book.unexpected))
    verdict.answers = dict(book.answers)
    verdict.faults = dict(Counter(str(strike.kind) for strike in strikes))
    verdict.recoveries = {kind: _recovery(kind, book, strikes) for kind in verdict.faults}
    began = strikes[0].at if strikes else 0.0
    verdict.history = [f"{strike.at - began:.1f} s: {strike.kind}" for strike in strikes]
    verdict.details = _details(report, book, verdict.broken)
    return verdict


def _details(report: Report, book: Book, broken: Sequence[str]) -> list[str]:
    own = [f"{one.kind}: {one.order_id} {one.detail}" for one in report.audit.findings]
    second = [f"doctor, {one.check}: {one.order_id} {one.detail}" for one in report.doctor.violations]
    waiting = [f"{one.check}: {one.order_id} {one.detail}" for one in report.attention]
    return [*broken, *own[:DETAILS], *second[:DETAILS], *waiting[:DETAILS], *book.unexpected[:DETAILS]]


def _recovery(kind: str, book: Book, strikes: Sequence[Strike]) -> Recovery:
    moments = [strike.at for strike in strikes if strike.kind == kind]
    return Recovery(len(moments), _spread(book.recovery, moments), _spread(book.settlement, moments))


def _spread(seconds: Callable[[float], float | None], moments: Sequence[float]) -> tuple[float, float] | None:
    """The median and the greatest of what is known."""
    known = [took for took in map(seconds, moments) if took is not None]
    return (median(known), max(known)) if known else None


def _seconds(spread: tuple[float, float] | None) -> str:
    return f"after {spread[0]:.2f} s, at worst {spread[1]:.2f} s" if spread else "never"
