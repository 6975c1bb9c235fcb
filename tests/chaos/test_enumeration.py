"""Every interleaving of all that can happen to one order, up to bounds; `interleavings` has the model."""

import os

import pytest

from tests.chaos.interleavings import (
    AUTHORIZED,
    OPENED,
    PENDING,
    Bounds,
    Rules,
    always,
    explore,
    keyed_by_attempt,
    late_capture_kept,
    may_send,
    unfenced,
    unknown_is_declined,
    unsent_after_any_refusal,
)

LIVES = {
    "cancelled while it is charged": ("1", Bounds(refunds=0, deaths=0)),
    "cancelled, and a worker dies": ("1", Bounds(refunds=0, copies=0)),
    "refunded in part and cancelled": ("1", Bounds(copies=0, deaths=0)),
    "refunded in part, and a worker dies": ("1", Bounds(cancels=0)),
    "declined": ("2", Bounds(refunds=0, deaths=0)),
    "cancelled, and the provider forgets": ("1", Bounds(refunds=0, copies=0, deaths=0, days=1)),
    "refunded in part, cancelled, and the provider forgets": ("1", Bounds(copies=0, expiries=0, deaths=0, days=1)),
    "pending, cancelled meanwhile": (PENDING, Bounds(refunds=0, copies=0, expiries=0, deaths=0)),
    "pending, refunded in part": (PENDING, Bounds(cancels=0, copies=0, expiries=0, deaths=0)),
    "pending for too long": (PENDING, Bounds(cancels=0, refunds=0, copies=0, expiries=0, deaths=0, days=1, polls=1)),
    "authorized, captured in part, cancelled": (
        AUTHORIZED,
        Bounds(refunds=0, copies=0, expiries=0, deaths=0, captures=1),
    ),
    "authorized for too long": (
        AUTHORIZED,
        Bounds(cancels=0, refunds=0, copies=0, expiries=0, deaths=0, captures=1, days=1),
    ),
    "opened first, cancelled, and a worker dies": (OPENED, Bounds(refunds=0, copies=0, expiries=0)),
    "opened first, and the provider forgets": (
        OPENED,
        Bounds(cancels=0, refunds=0, copies=0, expiries=0, deaths=0, days=1),
    ),
    "refunded in part, and a fact": ("1", Bounds(cancels=0, copies=0, expiries=0, faults=0, deaths=0, facts=1)),
    "refunded in part, a fact, and a worker dies": ("1", Bounds(cancels=0, copies=0, expiries=0, faults=0, facts=1)),
    "cancelled, and a fact": ("1", Bounds(refunds=0, copies=0, expiries=0, faults=0, deaths=0, facts=1)),
    "two facts": ("1", Bounds(cancels=0, refunds=0, copies=0, expiries=0, deaths=0, facts=2)),
    "a worker dies, and the provider forgets twice": ("1", Bounds(refunds=0, copies=0, expiries=0, days=2)),
}
if "ENUMERATE_ALL" in os.environ:
    LIVES = {
        "everything": ("1", Bounds()),
        "everything while it is pending": (PENDING, Bounds(copies=0)),
        "everything while it is authorized": (AUTHORIZED, Bounds(copies=0, captures=1)),
        "everything, and two facts": ("1", Bounds(copies=0, expiries=0, facts=2)),
        "refunded in part, a fact, and a response is lost": ("1", Bounds(cancels=0, copies=0, expiries=0, facts=1)),
        "everything, and the provider forgets": ("1", Bounds(copies=0, expiries=0, days=1)),
    }


@pytest.mark.extended
@pytest.mark.timeout(0 if "ENUMERATE_ALL" in os.environ else 600)
@pytest.mark.parametrize(("product", "bounds"), LIVES.values(), ids=LIVES)
def test_no_interleaving_charges_twice_keeps_wrong_books_or_never_settles(product, bounds, record_property):
    """ENUMERATE_ALL takes all that can go wrong together, which takes minutes."""
    found_out = explore(product, Rules(), bounds)
    record_property("states", found_out.states)
    record_property("transitions", found_out.transitions)
    print(f"{found_out.states:,} states, {found_out.transitions:,} transitions, {found_out.settled:,} settled")
    assert not found_out.broken, "\n".join([found_out.broken, *found_out.way])
    assert found_out.states > 200
    assert found_out.settled > 20


BROKEN = {
    "the attempt in the provider's key": (Rules(key=keyed_by_attempt), "charged twice"),
    "no fence": (Rules(fence=unfenced), ""),
    "a late capture is kept": (Rules(meaning=late_capture_kept), "stuck as Cancelled / Refunding"),
    "no intent before the call": (Rules(intent=False), "Cancelled, the provider holds 100 instead of 0"),
    "an unknown response taken for a decline": (
        Rules(meaning=unknown_is_declined),
        "Declined, the provider holds 100 instead of 0",
    ),
    "not found taken for proof": (Rules(not_found_proves=True), "Cancelled, the provider holds 100 instead of 0"),
}


@pytest.mark.parametrize(("rules", "how"), BROKEN.values(), ids=BROKEN)
def test_without_one_of_the_protections_there_is_a_way_to_break_an_order(rules, how):
    found_out = explore("1", rules, Bounds(refunds=0))
    print(f"\n{found_out.broken}:", *found_out.way, sep="\n  ")
    assert found_out.broken
    assert how in found_out.broken
    assert found_out.way


FORGETFUL = {
    "keys are sent at any age": (Rules(may_send=always), Bounds(refunds=0, days=1), "charged twice"),
    "an old key is voided": (
        Rules(may_send=lambda payment, age: payment.cancelled or may_send(payment, age)),
        Bounds(refunds=0, expiries=0, days=1),
        "Cancelled, the provider holds 100 instead of 0",
    ),
    "an old refund is sent": (
        Rules(may_send=lambda payment, age: bool(payment.captured) or may_send(payment, age)),
        Bounds(cancels=0, copies=0, expiries=0, days=1),
        "a refund was made twice",
    ),
    "a later refusal makes a key unsent": (
        Rules(meaning=unsent_after_any_refusal),
        Bounds(cancels=0, refunds=0, faults=2, copies=0, expiries=0, days=1),
        "charged twice",
    ),
}


@pytest.mark.parametrize(("rules", "bounds", "how"), FORGETFUL.values(), ids=FORGETFUL)
def test_without_the_rule_of_key_age_there_is_a_way_to_move_money_twice(rules, bounds, how):
    found_out = explore("1", rules, bounds)
    print(f"\n{found_out.broken}:", *found_out.way, sep="\n  ")
    assert found_out.broken
    assert how in found_out.broken
    assert "a day passes" in found_out.way


NOTICES = {
    "a payment is charged before its id is stored": (
        OPENED,
        Rules(stores_reference=False),
        Bounds(cancels=0, refunds=0, copies=0, expiries=0, deaths=0),
        "charged twice",
    ),
    "the payload of a notification is believed": (
        PENDING,
        Rules(trusts_notices=True),
        Bounds(refunds=0, copies=0, expiries=0, deaths=0),
        "",
    ),
    "worker and notification both decide": (
        PENDING,
        Rules(notice_decides=True),
        Bounds(refunds=0, copies=0, expiries=0, deaths=0),
        "",
    ),
}


@pytest.mark.parametrize(("product", "rules", "bounds", "how"), NOTICES.values(), ids=NOTICES)
def test_without_the_rules_for_ids_and_notifications_there_is_a_way_to_break_an_order(product, rules, bounds, how):
    found_out = explore(product, rules, bounds)
    print(f"\n{found_out.broken}:", *found_out.way, sep="\n  ")
    assert found_out.broken
    assert how in found_out.broken
