"""All scenarios, by name."""

from tests.chaos.crash import cancelling, notifying, opening, operating, paying, refunding, running

SCENARIOS = {
    **paying.SCENARIOS,
    **cancelling.SCENARIOS,
    **refunding.SCENARIOS,
    **opening.SCENARIOS,
    **notifying.SCENARIOS,
    **operating.SCENARIOS,
    **running.SCENARIOS,
}
