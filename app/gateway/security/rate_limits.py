"""Rate limits: how many requests a caller may send, counted across all workers. Off unless configured."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import limits
from flask import Flask, Response, g, request

from app.config import Settings
from app.contracts.base import ApplicationError
from app.gateway.security.caller import caller
from app.gateway.security.client_addresses import ClientAddresses
from app.observability.logging import log

MAX_BLOCKED = 10_000
# While the counters do not answer, requests pass uncounted for this long.
PAUSE_SECONDS = 1.0
EXEMPT_ENDPOINTS = frozenset({"health.healthz", "health.readyz", "metrics.show"})

# Counts one more request of a key; returns for each window (in seconds) the count so far and the seconds until it ends.
Increment = Callable[[str, Sequence[int]], Sequence[tuple[int, float]]]


class RateLimited(ApplicationError):
    """The caller is over its limit; member `retry_after` in seconds."""

    code = "rate_limited"


@dataclass(frozen=True)
class RateLimit:
    """At most `quota` requests within `seconds`."""

    name: str
    quota: int
    seconds: int

    @property
    def policy(self) -> str:
        """The limit in the header RateLimit-Policy."""
        return f'"{self.name}";q={self.quota};w={self.seconds}'


class RateLimiter:
    """Some limits that apply together. If the counters are unavailable, every request passes."""

    def __init__(self, notation: str, increment: Increment) -> None:
        self.limits = parse_limits(notation)
        self.policy = ", ".join(limit.policy for limit in self.limits)
        self._windows = [limit.seconds for limit in self.limits]
        self._increment = increment
        self._blocked_until: OrderedDict[str, float] = OrderedDict()
        self._paused_until = 0.0

    def check(self, key: str) -> str:
        """Count one more request of `key`; returns the value of the header RateLimit. Raises RateLimited."""
        now = time.monotonic()
        # A caller over its limit costs no database command until the window ends.
        blocked_until = self._blocked_until.get(key, 0.0)
        if blocked_until > now:
            raise self._rate_limited(blocked_until - now)
        counts = self._count(key, now)
        waits = [ends for limit, (count, ends) in zip(self.limits, counts, strict=False) if count > limit.quota]
        if waits:
            self._block(key, now + max(waits))
            raise self._rate_limited(max(waits))
        return ", ".join(
            f'"{limit.name}";r={limit.quota - count};t={min(limit.seconds, math.ceil(ends))}'
            for limit, (count, ends) in zip(self.limits, counts, strict=False)
        )

    def _count(self, key: str, now: float) -> Sequence[tuple[int, float]]:
        if now < self._paused_until:
            return ()
        try:
            return self._increment(key, self._windows)
        except Exception as exc:  # Nor may an error such as a missing right in the database reject every request.
            self._paused_until = now + PAUSE_SECONDS
            log.warning("requests are not counted", module="gateway", reason=f"{type(exc).__name__}: {exc}"[:200])
            return ()

    def _block(self, key: str, until: float) -> None:
        self._blocked_until[key] = until
        self._blocked_until.move_to_end(key)
        while len(self._blocked_until) > MAX_BLOCKED:
            self._blocked_until.popitem(last=False)

    def _rate_limited(self, wait: float) -> RateLimited:
        seconds = max(1, math.ceil(wait))
        g.rate_limit = (self.policy, ", ".join(f'"{limit.name}";r=0;t={seconds}' for limit in self.limits))
        return RateLimited(f"the rate limit is reached; try again in {seconds} s", retry_after=seconds)


def parse_limits(notation: str) -> list[RateLimit]:
    """The limits of a setting such as `100/second;2000/minute`."""
    items = limits.parse_many(notation)
    if len(items) == 1:
        return [RateLimit("default", items[0].amount, items[0].get_expiry())]
    return [RateLimit(item.GRANULARITY.name, item.amount, item.get_expiry()) for item in items]


def authentication_failure_limit(settings: Settings, increment: Increment) -> Callable[[], object]:
    """A function to call for each failed authentication; it raises RateLimited for an address with too many."""
    if not settings.auth_failure_limit:
        return lambda: None
    addresses, limiter = (
        ClientAddresses(settings.forwarded_allow_ips),
        RateLimiter(settings.auth_failure_limit, increment),
    )
    return lambda: limiter.check(f"failure:{addresses.address_of(request)}")


def install(app: Flask, settings: Settings, increment: Increment) -> None:
    """Limit the requests of `app`'s callers, if limits are configured."""
    if settings.counts_requests:
        app.after_request(_add_headers)
    if not settings.rate_limit:
        return
    addresses, limiter = ClientAddresses(settings.forwarded_allow_ips), RateLimiter(settings.rate_limit, increment)

    def check() -> None:
        if request.endpoint in EXEMPT_ENDPOINTS:
            return
        user_id = caller().user_id
        key = f"user:{user_id}" if user_id else f"address:{addresses.address_of(request)}"
        g.rate_limit = (limiter.policy, limiter.check(key))

    app.before_request(check)


def _add_headers(response: Response) -> Response:
    policy, remaining = g.get("rate_limit", ("", ""))
    if remaining:
        response.headers["RateLimit-Policy"] = policy
        response.headers["RateLimit"] = remaining
    return response
