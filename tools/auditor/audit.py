"""The rules: each yields the violations of one property by one order, or by the answers as a whole."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tools.auditor.history import (
    ACCEPTED,
    CAPTURE,
    REFUND,
    REFUSED,
    Answer,
    FinalOrder,
    History,
    Movement,
    PauseAnswer,
    PlaceAnswer,
    ReadAnswer,
    RefundAnswer,
    StatusAnswer,
    TimelineStep,
)

LOST, STUCK, CHARGED, MONEY = "lost", "stuck", "charged twice", "money"
TIMELINE, CONTRADICTION, REPEATED_KEY, TOLD = "timeline", "contradiction", "repeated key", "told"
UNSPREAD = "retries not spread"

# The payment statuses in which each status of a settled order may be; any other status means that the order was paid.
SETTLED = {"Declined": {"Declined", "Voided"}, "Cancelled": {"Declined", "Voided", "Refunded"}}
SETTLED_PAID = {"Captured", "Refunded"}
UNPAID = frozenset(SETTLED)
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
        settles = order_id not in history.operator_list
        rules = _order_rules(final, answers[order_id], movements[order_id], settles)
        found += [Violation(kind, order_id, detail) for kind, detail in rules]
    found += [Violation(REPEATED_KEY, "", detail) for detail in _repeated_keys(history.answers)]
    found += [Violation(UNSPREAD, "", detail) for detail in _unspread_pauses(history.answers)]
    return found + [Violation(TOLD, order_id, detail) for order_id, detail in _told(history)]


def _order_rules(
    final: FinalOrder | None, answers: Sequence[Answer], movements: Sequence[Movement], settles: bool
) -> Iterator[tuple[str, str]]:
    captures = [movement.value for movement in movements if movement.kind == CAPTURE]
    if len(captures) > 1:
        yield CHARGED, f"captured {len(captures)} times"
    refunds = Counter(movement.key for movement in movements if movement.kind == REFUND)
    for key, times in refunds.items():
        if key and times > 1:
            yield MONEY, f"the refund {key} was made {times} times"
    if final is None:
        if any(answer.outcome == ACCEPTED for answer in answers):
            yield LOST, "was acknowledged and is not found"
        if captures:
            yield MONEY, "has no order and was captured"
        return
    yield from _timeline_rules(final)
    yield from _answer_rules(final, answers)
    yield from _contradictions(answers, final.version)
    if any(value != final.value for value in captures):
        yield MONEY, f"captured {captures} for a total of {final.value}"
    if settles:
        yield from _settled_rules(final, movements)


def _settled_rules(final: FinalOrder, movements: Iterable[Movement]) -> Iterator[tuple[str, str]]:
    state = f"{final.order_status} / {final.payment_status}"
    if final.order_status == "Processing" or final.payment_status not in SETTLED.get(final.order_status, SETTLED_PAID):
        yield STUCK, f"ended as {state}"
        return
    held = sum(one.value if one.kind == CAPTURE else -one.value for one in movements)
    refunded = _values(final.timeline, "PaymentRefunded")
    expected = 0 if final.order_status in UNPAID else final.value - sum(refunded.elements())
    if held != expected:
        yield MONEY, f"the provider holds {held}, and {state} means {expected}"
    requested = _values(final.timeline, "RefundRequested") - _values(final.timeline, "PaymentRefundFailed")
    if final.order_status not in UNPAID and requested != refunded:
        yield MONEY, f"refunds of {sorted(requested.elements())} were reserved and {sorted(refunded.elements())} made"


def _values(timeline: Iterable[TimelineStep], kind: str) -> Counter[int]:
    return Counter(step.value for step in timeline if step.type == kind)


def _timeline_rules(final: FinalOrder) -> Iterator[tuple[str, str]]:
    steps = final.timeline
    if [step.sequence for step in steps] != list(range(1, final.version + 1)):
        yield TIMELINE, f"has the steps {[step.sequence for step in steps]} at version {final.version}"
        return
    if [step.from_status for step in steps] != ["(new)", *(step.to_status for step in steps[:-1])]:
        yield TIMELINE, "a step does not begin where the one before ended"
    if (steps[-1].to_status, steps[-1].payment_status) != (final.order_status, final.payment_status):
        yield TIMELINE, f"ends as {steps[-1].to_status}, the order as {final.order_status}"


def _answer_rules(final: FinalOrder, answers: Iterable[Answer]) -> Iterator[tuple[str, str]]:
    """Every step that a client was told of is on the timeline, and no refused one is."""
    steps = {step.sequence: step for step in final.timeline}
    for answer in answers:
        step = steps.get(answer.version)
        match answer:
            case ReadAnswer():
                told = (answer.order_status, answer.payment_status)
                if step is None or told != (step.to_status, step.payment_status):
                    yield TIMELINE, f"was read as {told} at version {answer.version}, which the timeline has not"
            case StatusAnswer() if _took(answer):
                if step is None or step.to_status != answer.status:
                    yield TIMELINE, f"{answer.status} was acknowledged at version {answer.version} and is not there"
            case PlaceAnswer() if _took(answer):
                if answer.value != final.value:
                    yield MONEY, f"was placed for {answer.value} and is stored for {final.value}"
    yield from _refund_rules(final, [answer for answer in answers if isinstance(answer, RefundAnswer)])
    cancelled = any(isinstance(one, StatusAnswer) and one.status == "Cancelled" and _took(one) for one in answers)
    if cancelled and final.order_status != "Cancelled":
        yield CONTRADICTION, f"a cancellation was acknowledged and the order is {final.order_status}"


def _refund_rules(final: FinalOrder, answers: Sequence[RefundAnswer]) -> Iterator[tuple[str, str]]:
    accepted: dict[str, int] = {}
    for answer in filter(_took, answers):
        if accepted.setdefault(answer.refund_id, answer.value) != answer.value:
            yield CONTRADICTION, f"refund {answer.refund_id} was answered with two amounts"
    reserved = _values(final.timeline, "RefundRequested")
    missing = Counter(accepted.values()) - reserved
    if missing:
        yield MONEY, f"refunds of {sorted(missing.elements())} were acknowledged and are not on the timeline"
    possible = len(
        {answer.refund_id for answer in answers if answer.outcome != REFUSED or answer.refund_id in accepted}
    )
    if answers and reserved.total() > possible:
        yield CONTRADICTION, f"{reserved.total()} refunds are reserved, and at most {possible} were not refused"


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


def _repeated_keys(answers: Iterable[Answer]) -> Iterator[str]:
    orders: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        if isinstance(answer, PlaceAnswer) and answer.key and _took(answer):
            orders[answer.key].add(answer.order_id)
    for key, ids in orders.items():
        if len(ids) > 1:
            yield f"key {key} was answered with {sorted(ids)}"


def _unspread_pauses(answers: Iterable[Answer]) -> Iterator[str]:
    orders: dict[tuple[int, int], set[str]] = defaultdict(set)
    for answer in answers:
        if isinstance(answer, PauseAnswer) and answer.milliseconds >= SHORTEST_PAUSE_MS:
            orders[answer.calls, answer.milliseconds].add(answer.order_id)
    for (calls, milliseconds), ids in orders.items():
        if len(ids) >= SAME_PAUSES:
            yield f"{len(ids)} orders wait exactly {milliseconds} ms after call {calls}"


def _told(history: History) -> Iterator[tuple[str, str]]:
    """One sequence of a module's order names one event, and money that others were told of has moved."""
    events: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    refunds: dict[str, Counter[int]] = defaultdict(Counter)
    captured = Counter(one.order_id for one in history.movements if one.kind == CAPTURE)
    for one in history.movements:
        if one.kind == REFUND:
            refunds[one.order_id][one.value] += 1
    for event in {one.event_id: one for one in history.told}.values():
        events[event.module, event.order_id, event.sequence].add(event.event_id)
        if event.type == "PaymentCaptured" and not captured[event.order_id]:
            yield event.order_id, "a capture was told, and the provider has none"
        if event.type == "PaymentRefunded" and not refunds[event.order_id][event.value]:
            yield event.order_id, f"a refund of {event.value} was told, and the provider has none"
    for (module, order_id, sequence), ids in events.items():
        if len(ids) > 1:
            yield order_id, f"{module} told {len(ids)} different events as number {sequence}"
