"""All scenarios, by name."""

from tests.chaos.crash import cancelling, operating, paying, refunding, running

SCENARIOS = {
    **paying.SCENARIOS,
    **cancelling.SCENARIOS,
    **refunding.SCENARIOS,
    **operating.SCENARIOS,
    **running.SCENARIOS,
}
