"""What the seeds together must have taken: transitions, faults at steps, and ways of recovery."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from app.orders.order import CUSTOM, EVENT_PHRASES, NEW, PERSONAL_DATA_ERASED, STATUSES, TRANSITIONS, Trigger
from tools.auditor.history import FinalOrder
from tools.simulation.faults import (
    NOTIFICATION,
    NotificationFault,
    WorldFault,
    database_faults,
    provider_faults,
)

# Every command of the repositories: collection, function and method.
WRITES = (
    "orders _insert insert_many",
    "orders acknowledge update_many",
    "orders apply_payment_events update_many",
    "orders claim update_many",
    "orders clear_expired_keys update_many",
    "orders count_attempt update_one",
    "orders count_failure update_one",
    "orders dead_letter update_one",
    "orders postpone update_one",
    "orders replay update_one",
    "orders schedule_unscheduled update_many",
    "orders transition find_one_and_update",
    "payments acknowledge update_many",
    "payments claim update_many",
    "payments count_attempt update_one",
    "payments count_failure update_one",
    "payments dead_letter update_one",
    "payments insert insert_many",
    "payments postpone update_one",
    "payments release bulk_write",
    "payments replay update_one",
    "payments save update_many",
    "payments schedule_unscheduled update_many",
    "notifications insert insert_many",
    "notifications finish update_one",
    "notifications postpone update_one",
)
READ_STEPS = (
    "orders _earlier_order find_one",
    "orders _read find",
    "orders replay find_one",
    "orders claim find",
    "orders count_failure find_one",
    "orders dead_letters find",
    "orders transition find_one",
    "payments attempts find_one",
    "payments claim find",
    "payments count_failure find_one",
    "payments dead_letters find",
    "payments diagnostics find_one",
    "payments find find_one",
    "payments list_parked find",
    "payments save find",
    "payments captured_since find",
    "payments find_many find",
    "notifications due find",
)
CALLS = ("charge", "capture", "void", "refund", "find", "retrieve")
PAIRS: tuple[tuple[str, str], ...] = (
    *((fault, step) for step in (*WRITES, *READ_STEPS) for fault in database_faults(step.split()[-1])),
    *((fault, f"provider {verb}") for verb in CALLS for fault in provider_faults(verb)),
    *((fault, NOTIFICATION) for fault in NotificationFault),
)
# Only the simulated provider takes them: no bank that forgets keys does.
LEDGER_STEPS = frozenset({"provider capture", "provider retrieve", NOTIFICATION})


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What makes a rare step likelier in the seeds that look for faults there.

    `faults` are more frequent by a factor. The `crowd` is smaller, so that each order gets further while there are faults.
    `few_tries`: an event is given up after its first failure. `actions` are what clients do most, the `hasty` ones at once.
    `foreign`: most notifications come together with one of an unknown order. `waits`: payments are authorized first, or wait for banks and customers. `call_chance` is the chance that something happens to a call, whatever call it is.
    """

    faults: tuple[WorldFault, ...] = ()
    crowd: int = 30
    few_tries: bool = False
    actions: tuple[str, ...] = ()
    hasty: bool = False
    waits: bool = False
    foreign: bool = False
    call_chance: float = 0.2


# More orders than the batch of a relay.
BUSY_CROWD = 150
USUAL = Profile(crowd=BUSY_CROWD)
FAILING_EVENTS = Profile(faults=(WorldFault.POISON, WorldFault.OPERATOR), crowd=10)
DEAD_LETTERS = Profile(faults=(WorldFault.POISON, WorldFault.OPERATOR), crowd=2, few_tries=True, actions=("cancel",))
PARKED = Profile(faults=(WorldFault.OPERATOR,))
# By the collection, or by the function or the call of the step.
PROFILES: dict[str, Profile] = {
    "count_attempt": Profile(faults=(WorldFault.KILL, WorldFault.NO_PRIMARY), crowd=10),
    "count_failure": FAILING_EVENTS,
    "postpone": FAILING_EVENTS,
    "dead_letter": DEAD_LETTERS,
    "dead_letters": DEAD_LETTERS,
    "replay": DEAD_LETTERS,
    "release": Profile(faults=(WorldFault.STOP,)),
    "void": Profile(crowd=0, actions=("cancel",), hasty=True, waits=True, call_chance=0.7),
    "capture": Profile(crowd=0, actions=("capture", "capture all"), waits=True),
    "retrieve": Profile(faults=(WorldFault.DECISION, WorldFault.ELSEWHERE), crowd=0),
    "notification": Profile(faults=(WorldFault.DECISION,), crowd=0),
    "notifications": Profile(faults=(WorldFault.DECISION,), crowd=0, foreign=True),
    "charge": PARKED,
    "refund": Profile(faults=(WorldFault.OPERATOR,), crowd=0, actions=("cancel", "refund", "refund")),
    "list_parked": PARKED,
    "find": PARKED,
}


def profile(step: str) -> Profile:
    """The profile of a step."""
    collection, function = step.split()[:2]
    return PROFILES.get(collection) or PROFILES.get(function, USUAL)


def needs_ledger(step: str) -> bool:
    """Whether only the simulated provider takes this step."""
    return (
        step in LEDGER_STEPS or step.startswith("notifications") or step.split()[1] in ("captured_since", "find_many")
    )


def order_transitions(final: FinalOrder) -> Iterator[str]:
    """The transitions of the table that an order's timeline shows."""
    table = {(rule.source, rule.target) for rule in TRANSITIONS}
    for step in final.timeline:
        source, target = _kind(step.from_status), _kind(step.to_status)
        if (source, target) in table and (step.from_status != step.to_status or step.type == "OrderUpdated"):
            yield f"{source} -> {target}"


def _kind(status: str) -> str:
    return status if status in (*STATUSES, NEW) else CUSTOM


def watch(process: Any, took: Callable[[str, str], None]) -> None:
    """Count what a process does."""
    payments = process.payments._payments
    save, claim = payments.save, payments.claim

    def saving(updates: Any) -> Any:
        written = save(updates)
        for update, done in zip(updates, written, strict=True):
            if done:
                event = type(update.event).__name__ if update.event else "no event"
                took("payment transition", f"{update.before.payment.status} -> {update.payment.status} ({event})")
        return written

    def claiming(limit: int, **options: Any) -> Any:
        leased = claim(limit, **options)
        for one in leased:
            took(
                "recovery", "payment claimed by a sweep" if one.payment.fencing_token == 1 else "payment claimed again"
            )
        return leased

    payments.save, payments.claim = saving, claiming
    for module in (process.orders, process.payments):
        _watch_outbox(module.outbox, took)
    _watch_results(process.payments.worker._results, took)


def _watch_outbox(outbox: Any, took: Callable[[str, str], None]) -> None:
    claim = outbox.claim

    def claiming(limit: int) -> Any:
        pending = claim(limit)
        for one in pending:
            took("recovery", "unfinished delivery repeated" if one.unfinished_attempts else "event found by a sweep")
        return pending

    outbox.claim = claiming


def _watch_results(results: Any, took: Callable[[str, str], None]) -> None:
    write = results.write

    def writing(result: Any) -> None:
        took("recovery", f"response: {result.response.code} {result.response.reason}".strip())
        write(result)

    results.write = writing


def count_log(took: Callable[[str, str], None]) -> None:
    """Count the events of the log instead of writing them."""

    def count(_logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        took("log", f"{method}: {event['event']}")
        raise structlog.DropEvent

    structlog.configure(processors=[count], cache_logger_on_first_use=False)


# The operator here makes no mistakes, so that there is nothing to correct.
CORRECTIONS = (Trigger.CORRECT_CAPTURED, Trigger.CORRECT_NOTHING_TAKEN)
ORDER_TRANSITIONS = tuple(f"{rule.source} -> {rule.target}" for rule in TRANSITIONS if rule.by not in CORRECTIONS)
# Every way in which payments changes a payment: status before and after, and the event that it publishes.
PAYMENT_TRANSITIONS = (
    "Processing -> Processing (no event)",
    "Processing -> Captured (PaymentCaptured)",
    "Processing -> Refunding (PaymentCaptured)",
    "Processing -> Declined (PaymentDeclined)",
    "Processing -> Voided (PaymentVoided)",
    "Processing -> Unknown (PaymentParked)",
    "Captured -> Refunding (no event)",
    "Declined -> Declined (no event)",
    "Refunded -> Refunded (no event)",
    "Refunding -> Refunding (no event)",
    "Refunding -> Captured (PaymentRefunded)",
    "Refunding -> Refunding (PaymentRefunded)",
    "Refunding -> Refunded (PaymentRefunded)",
    "Refunding -> Unknown (PaymentParked)",
    "Unknown -> Processing (no event)",
    "Unknown -> Processing (PaymentRetried)",
    "Unknown -> Refunding (PaymentRetried)",
    "Unknown -> Captured (PaymentCaptured)",
    "Unknown -> Refunding (PaymentCaptured)",
    "Unknown -> Declined (PaymentDeclined)",
    "Unknown -> Voided (PaymentVoided)",
    "Unknown -> Captured (PaymentRefundFailed)",
    "Unknown -> Refunding (PaymentRefundFailed)",
    "Unknown -> Refunded (PaymentRefunded)",
    "Processing -> ActionRequired (PaymentActionRequired)",
    "Processing -> Authorized (PaymentAuthorized)",
    "Processing -> Pending (PaymentDelayed)",
    "ActionRequired -> ActionRequired (no event)",
    "ActionRequired -> Declined (PaymentDeclined)",
    "Pending -> Pending (no event)",
    "Pending -> Captured (PaymentCaptured)",
    "Pending -> Declined (PaymentDeclined)",
    "Authorized -> Authorized (no event)",
    "Authorized -> Captured (PaymentCaptured)",
    "Authorized -> Voided (PaymentVoided)",
    "Captured -> Captured (no event)",
    "Captured -> Disputed (PaymentDisputed)",
    "Captured -> Captured (PaymentRefundFailed)",
    "Captured -> Captured (PaymentRefunded)",
    "Unknown -> Unknown (no event)",
)
RARE_PAYMENT_TRANSITIONS = (
    "ActionRequired -> Captured (PaymentCaptured)",
    "ActionRequired -> Authorized (PaymentAuthorized)",
    "ActionRequired -> Processing (no event)",
    "ActionRequired -> Voided (PaymentVoided)",
    "ActionRequired -> Unknown (PaymentParked)",
    "Pending -> Authorized (PaymentAuthorized)",
    "Pending -> Processing (no event)",
    "Pending -> Voided (PaymentVoided)",
    "Pending -> Unknown (PaymentParked)",
    "Authorized -> Processing (no event)",
    "Authorized -> Unknown (PaymentParked)",
    "Captured -> Refunded (PaymentRefunded)",
    "Disputed -> Captured (PaymentDisputeClosed)",
    "Disputed -> Disputed (PaymentDisputeClosed)",
    "Disputed -> Disputed (no event)",
    "Refunded -> Unknown (PaymentParked)",
    "Refunding -> Disputed (PaymentDisputed)",
    "Unknown -> Authorized (no event)",
    "Unknown -> Authorized (PaymentAuthorized)",
    "Unknown -> Disputed (PaymentDisputed)",
    "Unknown -> Pending (no event)",
    "Unknown -> Refunding (PaymentRefunded)",
    "Voided -> Voided (no event)",
    "Disputed -> Disputed (PaymentRefundFailed)",
    "Disputed -> Refunded (PaymentDisputeClosed)",
    "Disputed -> Refunding (PaymentDisputeClosed)",
    "Refunded -> Captured (PaymentRefundFailed)",
    "Refunded -> Disputed (PaymentDisputed)",
    "Refunded -> Refunded (PaymentRefundFailed)",
    "Unknown -> Refunded (PaymentRefundFailed)",
    "Unknown -> Refunding (no event)",
)
RECOVERIES = (
    "dead letter replayed",
    "event found by a sweep",
    "unfinished delivery repeated",
    "payment claimed again",
    "payment claimed by a sweep",
    "payment resolved by hand as captured",
    "payment resolved by hand as declined",
    "payment resolved by hand as refunded",
    "payment resolved by hand as voided",
    "payment retried by hand",
    "refund dropped by hand",
    "operator is told: the provider may have forgotten this key",
    "operator is told: the last call may still reach the provider",
    "response: unknown the provider did not answer in time",
    "response: unknown the provider does not find the key, and may have forgotten it or have looked for too long",
    "response: unknown the provider raised OSError",
    "response: not attempted the circuit breaker is open",
)
LOGGED = (
    "error: dead letter",
    "warning: event not delivered",
    "warning: provider answered after the timeout",
    "warning: relay waits",
    "warning: result not recorded: lease lost or result known",
    "warning: results left to a sweep",
    "warning: sweep postponed",
)
# A run of fewer seeds does not reach each fault at each step, and each transition.
SEEDS_FOR_PAIRS = 10_000
# Erasures have tests of their own: here nobody erases a user.
TIMELINE = tuple(name for name in EVENT_PHRASES if name != PERSONAL_DATA_ERASED)
RARE_RECOVERIES = (
    "payment voided at the provider",
    "reconciled: amounts",
    "reconciled: dispute",
)


def missing(taken: Mapping[tuple[str, str], int], seeds: int) -> list[str]:
    """What the seeds should have taken and have not."""
    required = [
        *(("order transition", name) for name in ORDER_TRANSITIONS),
        *(("payment transition", name) for name in PAYMENT_TRANSITIONS),
        *(("timeline", name) for name in TIMELINE),
        *(("recovery", name) for name in RECOVERIES),
        *(("log", name) for name in LOGGED),
        *(("world fault", fault) for fault in WorldFault),
        *(("step", name) for name in (*WRITES, *READ_STEPS)),
        *(("step", f"provider {verb}") for verb in CALLS),
    ]
    kinds = {kind for kind, _ in PAIRS}
    taken_kinds = {name.split(" at ")[0] for what, name in taken if what == "pair"}
    found = [f"{what}: {name}" for what, name in required if not taken.get((what, str(name)))]
    found += [f"fault: {kind}" for kind in sorted(kinds - taken_kinds)]
    if seeds >= SEEDS_FOR_PAIRS:
        rare = [("payment transition", name) for name in RARE_PAYMENT_TRANSITIONS]
        rare += [("recovery", name) for name in RARE_RECOVERIES]
        found += [f"{what}: {name}" for what, name in rare if not taken.get((what, name))]
        found += [f"pair: {fault} at {step}" for fault, step in PAIRS if not taken.get(("pair", f"{fault} at {step}"))]
    return found
