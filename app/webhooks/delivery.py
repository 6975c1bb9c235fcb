"""A delivery: one event for one endpoint, its attempts, and when it is tried again. Pure."""

from dataclasses import dataclass
from random import Random

# The pauses after each attempt that failed: about 75 hours in all.
RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
MAX_RETRY_AFTER_SECONDS = 86_400.0
JITTER = 0.2
GONE = 410


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One event for one endpoint. `body` is what is signed and sent, the same at every attempt."""

    delivery_id: str
    endpoint_id: str
    event_id: str
    event_type: str
    order_id: str
    body: str
    tries: int = 0


@dataclass(frozen=True, kw_only=True)
class AttemptResult:
    """What an attempt led to.

    `status` is that of the answer, 0 where none came; then `error` says why. `response` is the beginning of the answer's body.
    `retry_after` is in seconds, 0 where the receiver does not say.
    """

    status: int = 0
    error: str = ""
    response: str = ""
    retry_after: float = 0.0
    took_ms: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has taken the delivery."""
        return 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more deliveries at all."""
        return self.status == GONE

    @property
    def overloaded(self) -> bool:
        """Whether the receiver, or the network before it, cannot take deliveries at present."""
        return not self.status or self.status == 429 or self.status >= 500


@dataclass(frozen=True, kw_only=True)
class EndedAttempt:
    """An attempt, and what it makes of its delivery. `pause` is how many seconds to wait before the next one, None if there is none."""

    delivery: Delivery
    result: AttemptResult
    pause: float | None = None


@dataclass(frozen=True)
class RetrySchedule:
    """The pauses in seconds after each attempt that failed, as many as there are repetitions."""

    pauses: tuple[float, ...] = RETRY_SECONDS

    def ended(self, delivery: Delivery, result: AttemptResult, random: Random) -> EndedAttempt:
        """An attempt that has ended just now."""
        pause = None if result.succeeded else self.pause(delivery.tries + 1, result.retry_after, random)
        return EndedAttempt(delivery=delivery, result=result, pause=pause)

    def pause(self, tries: int, retry_after: float, random: Random) -> float | None:
        """How many seconds to wait after the attempt number `tries`; None if it was the last one.

        At least as long as the receiver asks for, and never exactly the same, so that an endpoint that comes back is not called by
        all deliveries at once.
        """
        if tries > len(self.pauses):
            return None
        pause = self.pauses[tries - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # no secret is drawn  # nosec B311
        return max(pause, min(retry_after, MAX_RETRY_AFTER_SECONDS))


def delivery_id(event_id: str, endpoint_id: str) -> str:
    """The id of the delivery of an event to an endpoint: an event that comes twice is delivered as one."""
    return f"{event_id}.{endpoint_id}"
