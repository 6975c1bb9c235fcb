"""A machine whose clock tests set."""

from app.system import System


class StoppedClock(System):
    """A machine whose clock stands still until a test sets it."""

    now = 1000.0

    def monotonic(self):
        return self.now
