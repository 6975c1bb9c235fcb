"""The rules: each yields the violations of one property by one order, or by the answers as a whole."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tools.auditor.history import (
    ACCEPTED,
    CAPTURE,
    DISPUTE,
    FAILED_REFUND,
    LOST_DISPUTE,
    REFUND,
    REFUSED,
    WON_DISPUTE,
    Answer,
    CaptureAnswer,
    FinalOrder,
    History,
    Movement,
    PauseAnswer,
    PlaceAnswer,
    ReadAnswer,
    RefundAnswer,
    StatusAnswer,
    TimelineStep,
    ToldEvent,
)

LOST, STUCK, CHARGED, MONEY = "lost", "stuck", "charged twice", "money"
TIMELINE, CONTRADICTION, REPEATED_KEY, TOLD = "timeline", "contradiction", "repeated key", "told"
UNSPREAD = "retries not spread"

# The payment statuses of a settled order that keeps no money, and of any other one.
# A charge of a declined order may land late, and goes back; a dispute has no end that Orderflow could set.
DISPUTED = "Disputed"
UNPAID = frozenset({"Declined", "Cancelled"})
SETTLED_UNPAID = frozenset({"Declined", "Voided", "Refunded", DISPUTED})
SETTLED_PAID = frozenset({"Captured", "Refunded", DISPUTED})
# A payment in one of them waits until the end that its step names.
WAITING = frozenset({"ActionRequired", "Pending", "Authorized"})
# What each movement changes in the amount that the provider holds for the merchant.
SIGNS = {CAPTURE: 1, REFUND: -1, FAILED_REFUND: 1, DISPUTE: -1, WON_DISPUTE: 1, LOST_DISPUTE: 0}
# The steps by which a client sets a status, and the events and steps that tell of a movement of money.
SET_BY_CLIENTS = frozenset({"OrderUpdated", "OrderCancelled"})
MOVED_BY = {"PaymentCaptured": CAPTURE, "PaymentRefunded": REFUND, "PaymentDisputed": DISPUTE}
# So many orders with exactly the same pause before a retry are no coincidence.
SAME_PAUSES = 3
# Pauses shorter than this have too few different values in milliseconds.
SHORTEST_PAUSE_MS = 500


@dataclass(frozen=True)
class Violation:
    """A property that does not hold; `order_id` is empty where no single order violates it."""

    kind: str
    order_id: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.order_id} {self.detail}"


def audit(history: History) -> list[Violation]:
    """Returns every violation in a history whose faults have ended and whose work had time to settle."""
    found = [Violation(STUCK, "", problem) for problem in history.problems]
    answers: dict[str, list[Answer]] = defaultdict(list)
    for answer in history.answers:
        answers[answer.order_id].append(answer)
    movements: dict[str, list[Movement]] = defaultdict(list)
    for movement in history.movements:
        movements[movement.order_id].append(movement)
    for order_id in {**answers, **movements, **history.final}:
        final = history.final.get(order_id)
        settles = order_id not in history.operator_list and not (final and _still_waits(final, history.ended_at))
        rules = _order_rules(final, answers[order_id], movements[order_id], settles)
        found += [Violation(kind, order_id, detail) for kind, detail in rules]
    found += [Violation(REPEATED_KEY, "", detail) for detail in _repeated_keys(history)]
    found += [Violation(UNSPREAD, "", detail) for detail in _unspread_pauses(history.answers)]
    return found + [Violation(TOLD, order_id, detail) for order_id, detail in _told(history)]


def _order_rules(
    final: FinalOrder | None, answers: Sequence[Answer], movements: Sequence[Movement], settles: bool
) -> Iterator[tuple[str, str]]:
    captures = [movement.value for movement in movements if movement.kind == CAPTURE]
    yield from _book_rules(captures, movements)
    if final is None:
        if any(_took(answer) for answer in answers):
            yield LOST, "was acknowledged and is not found"
        if captures:
            yield MONEY, "has no order and was captured"
        return
    yield from _timeline_rules(final)
    yield from _answer_rules(final, answers)
    yield from _status_rules(final, [answer for answer in answers if isinstance(answer, StatusAnswer)])
    yield from _refund_rules(final, [answer for answer in answers if isinstance(answer, RefundAnswer)])
    yield from _capture_rules(final, captures, [answer for answer in answers if isinstance(answer, CaptureAnswer)])
    yield from _contradictions(answers, final.version)
    if settles:
        yield from _settled_rules(final, movements)


def _still_waits(final: FinalOrder, ended_at: str) -> bool:
    """Whether the payment waits for a customer, a bank or a capture, and may still do so at the end of the run."""
    until = next((step.until for step in reversed(final.timeline) if step.payment_status in WAITING and step.until), "")
    return final.payment_status in WAITING and bool(ended_at) and until > ended_at


def _book_rules(captures: Sequence[int], movements: Sequence[Movement]) -> Iterator[tuple[str, str]]:
    """What the provider's books show by themselves."""
    if len(captures) > 1:
        yield CHARGED, f"captured {len(captures)} times"
    for key, times in Counter(one.key for one in movements if one.kind == REFUND).items():
        if key and times > 1:
            yield MONEY, f"the refund {key} was made {times} times"
    held = _held(movements)
    if held < 0:
        yield MONEY, f"{sum(captures) - held} went back of {sum(captures)} captured"


def _held(movements: Iterable[Movement]) -> int:
    return sum(SIGNS[one.kind] * one.value for one in movements)


def _capture_rules(
    final: FinalOrder, captures: Sequence[int], answers: Sequence[CaptureAnswer]
) -> Iterator[tuple[str, str]]:
    """The whole total was captured, or the part that was asked for; each acknowledged capture was asked for, once."""
    requested = _values(final.timeline, "CaptureRequested")
    if any(value not in (requested or {final.value}) for value in captures):
        yield MONEY, f"captured {captures} for a total of {final.value}, where {_sorted(requested)} was asked for"
    if requested.total() > 1:
        yield CONTRADICTION, f"captures of {_sorted(requested)} were accepted"
    missing = {answer.value for answer in answers if _took(answer)} - requested.keys()
    if missing:
        yield MONEY, f"captures of {sorted(missing)} were acknowledged and are not on the timeline"
    if answers and requested and all(answer.outcome == REFUSED for answer in answers):
        yield CONTRADICTION, f"every capture was refused, and {_sorted(requested)} was asked for"


def _settled_rules(final: FinalOrder, movements: Sequence[Movement]) -> Iterator[tuple[str, str]]:
    state = f"{final.order_status} / {final.payment_status}"
    settled = SETTLED_UNPAID if final.order_status in UNPAID else SETTLED_PAID
    if final.order_status == "Processing" or final.payment_status not in settled:
        yield STUCK, f"ended as {state}"
        return
    taken_back = _taken_back(final.timeline)
    if (final.payment_status == DISPUTED) != bool(taken_back):
        yield TIMELINE, f"is {state}, and disputes take {taken_back} back"
    movements = _without_unseen(final.timeline, movements)
    held, expected = _held(movements), _expected(final, movements)
    if held != expected:
        yield MONEY, f"the provider holds {held}, and {state} means {expected}"
    yield from _booked_steps(final, movements)
    if final.order_status not in UNPAID:
        yield from _refund_sums(final, movements)


def _without_unseen(timeline: Iterable[TimelineStep], movements: Sequence[Movement]) -> Sequence[Movement]:
    """The movements without refunds that failed before anybody knew that they were made: they are on the timeline as failed only."""
    made = Counter(one.value for one in movements if one.kind == REFUND)
    failed = Counter(one.value for one in movements if one.kind == FAILED_REFUND)
    unseen = (made - _values(timeline, "PaymentRefunded")) & failed
    left = Counter({(kind, value): times for value, times in unseen.items() for kind in (REFUND, FAILED_REFUND)})
    seen = []
    for one in movements:
        if left[one.kind, one.value] > 0:
            left[one.kind, one.value] -= 1
        else:
            seen.append(one)
    return seen


def _expected(final: FinalOrder, movements: Iterable[Movement]) -> int:
    """What the provider has to hold: what was taken, less what went back and what disputes take."""
    if final.order_status in UNPAID:
        return 0
    captured = next((step.value for step in final.timeline if step.type == "PaymentCaptured"), 0) or final.value
    refunded = sum(_values(final.timeline, "PaymentRefunded").elements())
    failed_later = sum(one.value for one in movements if one.kind == FAILED_REFUND)
    return captured - refunded + failed_later - _taken_back(final.timeline)


def _taken_back(timeline: Iterable[TimelineStep]) -> int:
    """What disputes that are open or lost take back."""
    steps = [*timeline]
    won = sum(step.value for step in steps if step.won)
    return sum(_values(steps, "PaymentDisputed").elements()) - won


def _refund_sums(final: FinalOrder, movements: Sequence[Movement]) -> Iterator[tuple[str, str]]:
    """Each reserved refund was made or given up, and each one that failed after it was made was given up."""
    requested = _values(final.timeline, "RefundRequested")
    refunded, failed = _values(final.timeline, "PaymentRefunded"), _values(final.timeline, "PaymentRefundFailed")
    failed_later = Counter(one.value for one in movements if one.kind == FAILED_REFUND)
    elsewhere = Counter(one.value for one in movements if one.kind == REFUND and one.elsewhere)
    if failed_later - failed:
        yield MONEY, f"refunds of {_sorted(failed_later)} failed later, and the timeline has {_sorted(failed)}"
    ended, begun = refunded + failed, requested + elsewhere + failed_later
    # Until its dispute ends, a refund waits.
    waiting = begun - ended if _open_disputes(movements) else Counter[int]()
    if begun != ended + waiting:
        yield (
            MONEY,
            f"refunds of {_sorted(requested)} were reserved, {_sorted(refunded)} made, {_sorted(failed)} given up",
        )


def _open_disputes(movements: Iterable[Movement]) -> int:
    kinds = Counter(one.kind for one in movements)
    return kinds[DISPUTE] - kinds[WON_DISPUTE] - kinds[LOST_DISPUTE]


def _booked_steps(final: FinalOrder, movements: Iterable[Movement]) -> Iterator[tuple[str, str]]:
    """The timeline of a settled order has each movement of money in the provider's books, and no other."""
    steps = Counter(
        (kind, step.value or final.value) for step in final.timeline if (kind := _movement_kind(step)) is not None
    )
    booked = Counter((one.kind, one.value) for one in movements if one.kind != FAILED_REFUND)
    if steps != booked:
        yield MONEY, f"the timeline has {_sorted(steps)}, and the provider booked {_sorted(booked)}"


def _movement_kind(step: TimelineStep) -> str | None:
    if step.type == "PaymentDisputeClosed":
        return WON_DISPUTE if step.won else LOST_DISPUTE
    return MOVED_BY.get(step.type)


def _values(timeline: Iterable[TimelineStep], kind: str) -> Counter[int]:
    return Counter(step.value for step in timeline if step.type == kind)


def _sorted(counted: Counter[Any]) -> list[Any]:
    return sorted(counted.elements())


def _timeline_rules(final: FinalOrder) -> Iterator[tuple[str, str]]:
    steps = final.timeline
    if not steps or [step.sequence for step in steps] != list(range(1, final.version + 1)):
        yield TIMELINE, f"has the steps {[step.sequence for step in steps]} at version {final.version}"
        return
    if [step.from_status for step in steps] != ["(new)", *(step.to_status for step in steps[:-1])]:
        yield TIMELINE, "a step does not begin where the one before ended"
    if (steps[-1].to_status, steps[-1].payment_status) != (final.order_status, final.payment_status):
        yield TIMELINE, f"ends as {steps[-1].to_status}, the order as {final.order_status}"


def _answer_rules(final: FinalOrder, answers: Iterable[Answer]) -> Iterator[tuple[str, str]]:
    """What a client was told of an order is what it became: its total, and its statuses at each version."""
    steps = {step.sequence: step for step in final.timeline}
    for answer in filter(_took, answers):
        if isinstance(answer, PlaceAnswer) and answer.value != final.value:
            yield MONEY, f"was placed for {answer.value} and is stored for {final.value}"
        if isinstance(answer, ReadAnswer) and not _shows(answer, steps.get(answer.version)):
            told = f"{answer.order_status} / {answer.payment_status}"
            yield TIMELINE, f"was read as {told} at version {answer.version}, which the timeline has not"


def _shows(answer: ReadAnswer, step: TimelineStep | None) -> bool:
    if step is None:
        return False
    return answer.order_status == step.to_status and answer.payment_status in ("", step.payment_status)


def _status_rules(final: FinalOrder, answers: Sequence[StatusAnswer]) -> Iterator[tuple[str, str]]:
    """Every acknowledged status is on the timeline, and none that was only refused; a cancellation is final."""
    for answer in filter(_took, answers):
        steps = [step for step in final.timeline if answer.version in (0, step.sequence)]
        if not any(step.to_status == answer.status for step in steps):
            yield TIMELINE, f"{answer.status} was acknowledged at version {answer.version} and is not there"
    if final.order_status != "Cancelled" and any(_took(answer) and answer.status == "Cancelled" for answer in answers):
        yield CONTRADICTION, f"a cancellation was acknowledged and the order is {final.order_status}"
    refused = {answer.status for answer in answers} - {answer.status for answer in answers if answer.outcome != REFUSED}
    for step in final.timeline:
        if step.type in SET_BY_CLIENTS and step.to_status in refused:
            yield CONTRADICTION, f"{step.to_status} was refused and is step {step.sequence}"


def _refund_rules(final: FinalOrder, answers: Sequence[RefundAnswer]) -> Iterator[tuple[str, str]]:
    """Every acknowledged refund is on the timeline, and none that was only refused."""
    accepted: dict[str, int] = {}
    for answer in filter(_took, answers):
        if accepted.setdefault(answer.refund_id, answer.value) != answer.value:
            yield CONTRADICTION, f"refund {answer.refund_id} was answered with two amounts"
    reserved = _values(final.timeline, "RefundRequested")
    missing = Counter(accepted.values()) - reserved
    if missing:
        yield MONEY, f"refunds of {_sorted(missing)} were acknowledged and are not on the timeline"
    possible = {answer.refund_id for answer in answers if answer.outcome != REFUSED}
    if answers and reserved.total() > len(possible):
        yield CONTRADICTION, f"{reserved.total()} refunds are reserved, and at most {len(possible)} were not refused"


def _took(answer: Answer) -> bool:
    return answer.outcome == ACCEPTED


def _contradictions(answers: Iterable[Answer], last: int) -> Iterator[tuple[str, str]]:
    """An answer has at least the version of every answer that ended before its request began."""
    known = sorted((one for one in answers if one.version and _shows_state(one)), key=lambda one: one.ended)
    newest, ends = 0, 0
    for answer in sorted(known, key=lambda one: one.began):
        while ends < len(known) and known[ends].ended < answer.began:
            newest = max(newest, known[ends].version)
            ends += 1
        if answer.version < newest:
            yield CONTRADICTION, f"was at version {newest}, and at {answer.version} in a later answer"
    if known and max(answer.version for answer in known) > last:
        yield CONTRADICTION, f"was beyond version {last}, at which it ended"


def _shows_state(answer: Answer) -> bool:
    # A repeated order is answered with the first answer, which has the version of that time.
    return not isinstance(answer, PlaceAnswer | PauseAnswer)


def _repeated_keys(history: History) -> Iterator[str]:
    """A key that was answered with another order within its life. An order was made between these two times of its answers."""
    first_began: dict[str, dict[str, float]] = defaultdict(dict)
    first_ended: dict[str, dict[str, float]] = defaultdict(dict)
    for answer in history.answers:
        if isinstance(answer, PlaceAnswer) and answer.key:
            _keep_least(first_began[answer.key], answer.order_id, answer.began)
            if _took(answer):
                _keep_least(first_ended[answer.key], answer.order_id, answer.ended)
    for key, ended in first_ended.items():
        began = first_began[key]
        for one, other in combinations(sorted(ended), 2):
            if max(ended[one] - began[other], ended[other] - began[one]) <= history.idempotency_seconds:
                yield f"key {key} was answered with {[one, other]}"


def _keep_least(times: dict[str, float], order_id: str, at: float) -> None:
    times[order_id] = min(times.get(order_id, at), at)


def _unspread_pauses(answers: Iterable[Answer]) -> Iterator[str]:
    orders: dict[tuple[int, int], set[str]] = defaultdict(set)
    for answer in answers:
        if isinstance(answer, PauseAnswer) and answer.milliseconds >= SHORTEST_PAUSE_MS:
            orders[answer.calls, answer.milliseconds].add(answer.order_id)
    for (calls, milliseconds), ids in orders.items():
        if len(ids) >= SAME_PAUSES:
            yield f"{len(ids)} orders wait exactly {milliseconds} ms after call {calls}"


def _told(history: History) -> Iterator[tuple[str, str]]:
    """One sequence of a module's order names one event, and money that others were told of has moved, as often."""
    events: dict[tuple[str, str, int], set[ToldEvent]] = defaultdict(set)
    money: Counter[tuple[str, str, str, int]] = Counter()
    for event in {*history.told}:
        events[event.module, event.order_id, event.sequence].add(event)
        if event.type in MOVED_BY:
            kind = MOVED_BY[event.type]
            money[event.module, event.order_id, kind, _told_value(kind, event.value)] += 1
    moved = Counter((one.order_id, one.kind, _told_value(one.kind, one.value)) for one in history.movements)
    for (_, order_id, kind, value), times in money.items():
        if times > moved[order_id, kind, value]:
            made = moved[order_id, kind, value]
            yield order_id, f"a {kind} of {value} was told {times} times and made {made} times"
    for (module, order_id, sequence), different in events.items():
        if len(different) > 1:
            yield order_id, f"{module} told {len(different)} different events as number {sequence}"


def _told_value(kind: str, value: int) -> int:
    # A capture of the whole total is told without its value.
    return 0 if kind == CAPTURE else value
