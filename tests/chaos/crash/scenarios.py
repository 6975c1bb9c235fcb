"""All scenarios, by name."""

from tests.chaos.crash import cancelling, opening, operating, paying, refunding, running

SCENARIOS = {
    **paying.SCENARIOS,
    **cancelling.SCENARIOS,
    **refunding.SCENARIOS,
    **opening.SCENARIOS,
    **operating.SCENARIOS,
    **running.SCENARIOS,
}
