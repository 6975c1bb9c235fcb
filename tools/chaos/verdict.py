"""The verdict of a run: waits until all work has settled, audits the data, runs the doctor, and sums up."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from pymongo.errors import PyMongoError
from rich.table import Table

from app import doctor
from app.storage.mongodb import Database
from tools.auditor.audit import Violation
from tools.auditor.audit import audit as audit_history
from tools.chaos import audit
from tools.chaos.audit import Audit
from tools.chaos.clients import ClientRecord
from tools.chaos.faults import InjectedFault
from tools.chaos.final_state import FinalState
from tools.chaos.notifier import REFUSED
from tools.cluster.mongod import mongo_client

SETTLE_SECONDS = 60.0
LIMIT_SECONDS = 30.0
DETAILS = 50
# Entries of timelines that show that a payment waited or changed after it was settled.
WAITING_STEPS = (
    "PaymentDelayed",
    "PaymentActionRequired",
    "PaymentAuthorized",
    "CaptureRequested",
    "PaymentVoided",
    "PaymentDisputed",
    "PaymentDisputeClosed",
    "PaymentRefundFailed",
)
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
    """The judgements of one run: by the stored data, by the application's own doctor, and by the auditor.

    `auditor` has the violations in what clients were answered and read at the end, of so many orders as `judged` says.
    """

    audit: Audit
    doctor: doctor.DoctorReport
    auditor: Sequence[Violation] = ()
    judged: int = 0

    @property
    def findings(self) -> list[Any]:
        """All violations that any of them found."""
        return [*self.audit.findings, *self.doctor.violations, *self.auditor]

    @property
    def attention(self) -> list[doctor.Finding]:
        """Work that waits for an operator without a permitted reason."""
        return [one for one in self.doctor.needs_operator if one.order_id not in self.audit.parked]


@dataclass(frozen=True)
class Recovery:
    """How often a fault was injected, and median and maximum of the seconds until the next success; None if unknown.

    `accepted` counts until an order was accepted, `settled` until an order that was placed after the fault was settled.
    """

    count: int
    accepted: tuple[float, float] | None
    settled: tuple[float, float] | None


@dataclass
class Verdict:
    """One run in figures; `details` are the first violations, `history` the faults with their times."""

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
    auditor: int = 0
    judged: int = 0
    unexpected: int = 0
    cancelled: int = 0
    refunds_requested: int = 0
    refunds_over_balance: int = 0
    refunded: int = 0
    refunds_made: int = 0
    gave_up: int = 0
    duplicates: int = 0
    failed_cancellations: int = 0
    reconciled: int = 0
    notifications: dict[str, int] = field(default_factory=dict)
    webhooks: dict[str, int] = field(default_factory=dict)
    webhook_delay: float = 0.0
    acts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)
    settled_after: float = 0.0
    slowest_answer: float = 0.0
    failed_recoveries: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    threads: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    recoveries: dict[str, Recovery] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    unexpected_answers: dict[str, int] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)

    @property
    def kept_promises(self) -> bool:
        """Whether no invariant was violated and all work settled in time."""
        wrong = self.lost + self.stuck + self.double_charged + self.over_refunded + self.violated
        return (
            not (wrong or self.doctor or self.auditor or self.unexpected or self.failed_recoveries)
            and not self.notifications.get(REFUSED)
            and self.settled_after <= LIMIT_SECONDS
        )

    @property
    def clean(self) -> bool:
        """Whether all promises were kept in a run that had orders, cancellations and refunds."""
        return self.kept_promises and bool(self.acknowledged and self.cancelled and self.refunds_made)

    def as_dict(self) -> dict[str, Any]:
        """Returns the verdict as JSON has it."""
        return {**asdict(self), "clean": self.clean}

    def table(self) -> Table:
        """Returns the verdict as a table for the terminal."""
        table = Table(title=f"chaos, {self.duration:g} s, seed {self.seed}", show_header=False)
        for name, value in self._rows():
            table.add_row(name, value)
        table.add_section()
        for kind, recovery in self.recoveries.items():
            accepted, settled = _seconds(recovery.accepted), _seconds(recovery.settled)
            table.add_row(kind, f"{recovery.count}; next order accepted {accepted}, settled {settled}")
        for kind, times in self.faults.items():
            if kind not in self.recoveries:
                table.add_row(kind, str(times))
        table.add_section()
        for answer, times in sorted(self.answers.items()):
            table.add_row(answer, str(times))
        return table

    def _rows(self) -> list[tuple[str, str]]:
        refunds = f"{self.refunds_requested}, {self.refunded}, {self.refunds_made}"
        threads = ", ".join(f"{name} {times}" for name, times in sorted(self.threads.items()))
        unexpected = ", ".join(f"{answer} {times}" for answer, times in sorted(self.unexpected_answers.items()))
        return [
            ("acknowledged", str(self.acknowledged)),
            ("settled", str(self.settled)),
            ("parked because the provider key expired", str(self.parked - self.failed_cancellations)),
            ("parked because a cancellation's refund failed later", str(self.failed_cancellations)),
            ("lost", str(self.lost)),
            ("stuck", str(self.stuck)),
            ("charged twice", str(self.double_charged)),
            ("over-refunded", str(self.over_refunded)),
            ("other violations", str(self.violated)),
            ("findings of the doctor", str(self.doctor)),
            ("findings of the auditor", f"{self.auditor} in {self.judged} orders"),
            ("cancellations acknowledged", str(self.cancelled)),
            ("refunds requested, acknowledged, made", refunds),
            ("refunds refused as above the balance", str(self.refunds_over_balance)),
            *([("payments that waited or changed later", _listed(self.facts))] if self.facts else []),
            *([("done for payments that waited", _listed(self.acts))] if self.acts else []),
            *([("notifications", _listed(self.notifications))] if self.notifications else []),
            *([("found by the reconciliation alone", str(self.reconciled))] if self.notifications else []),
            *([("webhooks by what their receiver does", _listed(self.webhooks))] if self.webhooks else []),
            *([("from a change to the receiver that lives", f"{self.webhook_delay:.2f} s")] if self.webhooks else []),
            ("unexpected answers", unexpected or "0"),
            *([("threads ended by SystemExit", threads)] if threads else []),
            *([("events delivered again", str(self.duplicates))] if self.duplicates else []),
            ("faults without recovery", str(len(self.failed_recoveries))),
            ("all settled after the last fault", f"{self.settled_after:.1f} s (limit {LIMIT_SECONDS:g} s)"),
            ("slowest answer", f"{self.slowest_answer:.2f} s"),
            ("requests given up at the end", str(self.gave_up)),
        ]


def wait_until_unchanging(uri: str, name: str, seconds: float = SETTLE_SECONDS) -> None:
    """Waits until no payment in the provider's ledger changes by itself any more and no notice of it is left, at most `seconds`."""
    changing = {"$or": [{"changesAt": {"$exists": True}}, {"notices.at": {"$exists": True}}]}
    deadline = time.monotonic() + seconds
    with mongo_client(uri) as client:
        while time.monotonic() < deadline:
            with suppress(PyMongoError):
                if not client[name].ledger.find_one(changing, {"_id": 1}):
                    return
            time.sleep(0.1)


def wait_until_settled(uri: str, name: str, seconds: float = SETTLE_SECONDS, *, payments: str = "") -> float:
    """Waits until no work is open, at most `seconds`; returns the monotonic time at which it stopped waiting.

    `payments` is the name of the payments' database if it differs from that of the orders.
    """
    deadline = time.monotonic() + seconds
    with mongo_client(uri) as client:
        orders_collection, payments_collection = client[name].orders, client[payments or name].payments
        while time.monotonic() < deadline:
            try:
                if not orders_collection.find_one(OPEN_ORDER, {"_id": 1}) and not payments_collection.find_one(
                    OPEN_PAYMENT
                ):
                    break
            except PyMongoError:
                pass
            time.sleep(0.1)
    return time.monotonic()


def examine(
    uri: str,
    name: str,
    record: ClientRecord,
    *,
    payments: str = "",
    aged: Collection[str] = (),
    final: FinalState | None = None,
) -> Report:
    """Judges the stored documents and the provider's ledger against the answers that clients received.

    `payments` is the name of the payments' database if it differs from that of the orders. Only payments of `aged` orders
    may be parked. With the `final` state that clients read, the auditor judges as well.
    """
    database = Database(uri, name)
    databases = {"orders": name, "payments": payments, "ledger": payments}
    try:
        stores = [database.collection(collection, 30.0, other) for collection, other in databases.items()]
        doctors_report = doctor.Doctor(*stores, grace=0.0).examine(sorted(record.acknowledged), pause=1.0)
        audited = audit.audit(*(store.collection for store in stores), record, aged)
    finally:
        database.close()
    if final is None:
        return Report(audited, doctors_report)
    violations = audit_history(final.history(record, audited.parked))
    return Report(audited, doctors_report, violations, len(final.orders))


def summarize(verdict: Verdict, report: Report, record: ClientRecord, faults: Sequence[InjectedFault]) -> Verdict:
    """Fills the figures of the verdict in and returns it."""
    audited = report.audit
    waiting = {one.order_id for one in report.attention}
    verdict.lost = len(audited.orders_with(audit.LOST))
    verdict.stuck = len(audited.orders_with(audit.STUCK) | waiting)
    verdict.double_charged = len(audited.orders_with(audit.CHARGED))
    verdict.over_refunded = len(audited.orders_with(audit.OVER_REFUNDED))
    counted = (audit.LOST, audit.STUCK, audit.CHARGED, audit.OVER_REFUNDED)
    verdict.violated = sum(one.kind not in counted for one in audited.findings)
    verdict.doctor = len(report.doctor.violations)
    verdict.auditor, verdict.judged = len(report.auditor), report.judged
    verdict.acknowledged = len(record.acknowledged)
    verdict.settled = len(record.acknowledged & audited.settled)
    verdict.parked = len(record.acknowledged & audited.parked)
    verdict.cancelled, verdict.refunded = len(record.cancelled), len(record.refunded)
    verdict.refunds_requested, verdict.refunds_over_balance = record.refunds_requested, record.refunds_over_balance
    verdict.refunds_made = audited.refunds_made
    verdict.failed_cancellations = len(record.acknowledged & audited.failed_cancellations)
    verdict.acts = dict(sorted(record.acts.items()))
    verdict.facts = _facts(audited)
    verdict.unexpected, verdict.slowest_answer = len(record.unexpected), record.slowest
    verdict.unexpected_answers = dict(Counter(" ".join(text.split()[:3]) for text in record.unexpected))
    verdict.answers = dict(record.answers)
    verdict.faults = dict(Counter(str(fault.kind) for fault in faults))
    verdict.recoveries = {kind: _recovery(kind, record, faults) for kind in verdict.faults}
    began = faults[0].at if faults else 0.0
    verdict.history = [f"{fault.at - began:.1f} s: {fault.kind}" for fault in faults]
    verdict.details = _details(report, record, verdict.failed_recoveries)
    return verdict


def _facts(audited: Audit) -> dict[str, int]:
    """How often payments waited or changed later: timeline entries by type, disputes by status, refunds that failed."""
    counts = {kind: audited.steps[kind] for kind in WAITING_STEPS}
    counts |= {f"disputes {status}": times for status, times in sorted(audited.disputes.items())}
    counts["refunds that failed later"] = audited.refunds_failed_later
    counts["captures that came too late"] = audited.late_captures
    return {name: times for name, times in counts.items() if times}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counts.items()))


def _details(report: Report, record: ClientRecord, failed_recoveries: Sequence[str]) -> list[str]:
    violations = [f"{one.kind}: {one.order_id} {one.detail}" for one in report.audit.findings]
    diagnosed = [f"doctor, {one.check}: {one.order_id} {one.detail}" for one in report.doctor.violations]
    audited = [f"auditor, {violation}" for violation in report.auditor]
    waiting = [f"{one.check}: {one.order_id} {one.detail}" for one in report.attention]
    return [
        *failed_recoveries,
        *violations[:DETAILS],
        *diagnosed[:DETAILS],
        *audited[:DETAILS],
        *waiting[:DETAILS],
        *record.unexpected[:DETAILS],
    ]


def _recovery(kind: str, record: ClientRecord, faults: Sequence[InjectedFault]) -> Recovery:
    moments = [fault.at for fault in faults if fault.kind == kind]
    return Recovery(len(moments), _spread(record.recovery, moments), _spread(record.settlement, moments))


def _spread(seconds: Callable[[float], float | None], moments: Sequence[float]) -> tuple[float, float] | None:
    """Returns median and maximum of the known values; None if there are none."""
    known = [took for took in map(seconds, moments) if took is not None]
    return (median(known), max(known)) if known else None


def _seconds(spread: tuple[float, float] | None) -> str:
    return f"after {spread[0]:.2f} s, at worst {spread[1]:.2f} s" if spread else "never"
