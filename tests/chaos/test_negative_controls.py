"""The crash matrix is not blind: it finds what is wrong with each deliberately broken variant of the application."""

import pytest

from tests.chaos.crash.cells import KILL, STOP, Cell
from tests.chaos.crash.laboratory import Laboratory
from tests.chaos.sabotages import SABOTAGES

pytestmark = pytest.mark.extended

STUCK, CHARGED_TWICE, WRONG_BOOKS, LOST = (
    "settled in time: ",
    "single charge: ",
    "ledger balance: ",
    "acknowledged order: ",
)
BLIND_WITHOUT = {
    "outbox_by_a_second_write": ("create", KILL, STUCK),
    "attempt_in_the_provider_key": ("pay", KILL, CHARGED_TWICE),
    "fence_off": ("pay", STOP, "payment status: "),
    "payment_stored_after_the_call": ("pay", KILL, STUCK),
    "intent_not_recorded": ("cancel in flight", KILL, WRONG_BOOKS),
    "events_removed_before_they_are_delivered": ("pay", KILL, STUCK),
    "no_lease_on_the_outbox": ("create", KILL, STUCK),
    "answered_before_it_is_stored": ("pay", KILL, LOST),
    "news_acknowledges_what_payments_was_not_told": ("cancel, then the news of the charge", KILL, STUCK),
    "one_delivery_acknowledges_all": ("cancel, then an acknowledgement", KILL, STUCK),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_the_matrix_finds_what_a_broken_variant_does_to_orders(laboratory: Laboratory, sabotage: str):
    scenario, death, expected = BLIND_WITHOUT[sabotage]
    points = laboratory.points(scenario, sabotage)
    assert points

    cells = [Cell(scenario=scenario, point=point, death=death, sabotage=sabotage) for point in points]
    found: list[str] = []
    # One trouble is proof enough.
    while cells and not any(expected in trouble for trouble in found):
        found += laboratory.troubles(cells[: Laboratory.SIDE_BY_SIDE])
        del cells[: Laboratory.SIDE_BY_SIDE]

    assert any(expected in trouble for trouble in found), found
