"""All scenarios, by name."""

from tests.chaos.crash import (
    cancelling,
    changing_later,
    notifying,
    opening,
    operating,
    paying,
    refunding,
    running,
    telling,
    waiting,
)

SCENARIOS = {
    **paying.SCENARIOS,
    **cancelling.SCENARIOS,
    **refunding.SCENARIOS,
    **opening.SCENARIOS,
    **notifying.SCENARIOS,
    **waiting.SCENARIOS,
    **changing_later.SCENARIOS,
    **operating.SCENARIOS,
    **telling.SCENARIOS,
    **running.SCENARIOS,
}
