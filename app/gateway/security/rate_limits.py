"""Rate limits: how often one caller may come, counted for all workers together; off unless set."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import limits
from flask import Flask, Request, Response, g, request

from app.addresses import grouped, unmapped, unmapped_network
from app.config import Settings
from app.contracts.base import ApplicationError
from app.gateway.security.caller import caller
from app.observability.logging import log

REMEMBERED = 10_000
PAUSE_SECONDS = 1.0
EXEMPT = frozenset({"health.healthz", "health.readyz", "metrics.show"})

# Count once more for someone: for each window in seconds, how often by now, and the seconds until the window ends.
Take = Callable[[str, Sequence[int]], Sequence[tuple[int, float]]]


class RateLimited(ApplicationError):
    """The caller came too often; member `retry_after` in seconds says when they may come again."""

    code = "rate_limited"


@dataclass(frozen=True)
class Limit:
    """So many in so many seconds, under a name."""

    name: str
    most: int
    seconds: int

    @property
    def policy(self) -> str:
        """As the header RateLimit-Policy has it."""
        return f'"{self.name}";q={self.most};w={self.seconds}'


class Limiter:
    """Some limits that hold at once. Where nobody can count, all may pass."""

    def __init__(self, notation: str, take: Take) -> None:
        self.limits = parse(notation)
        self.policy = ", ".join(limit.policy for limit in self.limits)
        self._windows = [limit.seconds for limit in self.limits]
        self._take = take
        self._full: OrderedDict[str, float] = OrderedDict()
        self._paused_until = 0.0

    def check(self, who: str) -> str:
        """Count `who` once more; what the header RateLimit says of it. Raises RateLimited."""
        now = time.monotonic()
        # Whoever is over the limit must not cost a database command each time.
        full_until = self._full.get(who, 0.0)
        if full_until > now:
            raise self._refusal(full_until - now)
        counted = self._counted(who, now)
        waits = [ends for limit, (count, ends) in zip(self.limits, counted, strict=False) if count > limit.most]
        if waits:
            self._remember(who, now + max(waits))
            raise self._refusal(max(waits))
        return ", ".join(
            f'"{limit.name}";r={limit.most - count};t={min(limit.seconds, math.ceil(ends))}'
            for limit, (count, ends) in zip(self.limits, counted, strict=False)
        )

    def _counted(self, who: str, now: float) -> Sequence[tuple[int, float]]:
        if now < self._paused_until:
            return ()
        try:
            return self._take(who, self._windows)
        except Exception as exc:  # A wrong right in the database must not turn everybody away either.
            self._paused_until = now + PAUSE_SECONDS
            log.warning("callers are not counted", module="gateway", reason=f"{type(exc).__name__}: {exc}"[:200])
            return ()

    def _remember(self, who: str, until: float) -> None:
        self._full[who] = until
        self._full.move_to_end(who)
        while len(self._full) > REMEMBERED:
            self._full.popitem(last=False)

    def _refusal(self, wait: float) -> RateLimited:
        seconds = max(1, math.ceil(wait))
        spent = ", ".join(f'"{limit.name}";r=0;t={seconds}' for limit in self.limits)
        g.rate = (self.policy, spent)
        return RateLimited(f"that was too often; come again in {seconds} s", retry_after=seconds)


class Addresses:
    """Whose address a request came from, through those proxies that are trusted to tell."""

    def __init__(self, trusted: str) -> None:
        self._anybody = trusted.strip() == "*"
        named = [] if self._anybody else [one.strip() for one in trusted.split(",") if one.strip()]
        self._networks = [unmapped_network(ip_network(one)) for one in named]

    def of(self, request: Request) -> str:
        """The nearest address that is no trusted proxy's; of IPv6 the network, since one caller has all of it."""
        hops = [hop.strip() for hop in request.headers.get("X-Forwarded-For", "").split(",") if hop.strip()]
        nearest = request.remote_addr or ""
        while hops and self._trusted(nearest):
            nearest = _without_port(hops.pop())
        return grouped(nearest)

    def _trusted(self, address: str) -> bool:
        if self._anybody:
            return True
        if not address:  # Through a socket file comes nobody but a proxy on this machine.
            return bool(self._networks)
        try:
            found = unmapped(ip_address(address))
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def _without_port(hop: str) -> str:
    """A hop's address: some proxies add the port, to IPv6 in brackets."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0] if "]" in hop else hop
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def parse(notation: str) -> list[Limit]:
    """What a setting such as `100/second;2000/minute` says."""
    items = limits.parse_many(notation)
    if len(items) == 1:
        return [Limit("default", items[0].amount, items[0].get_expiry())]
    return [Limit(item.GRANULARITY.name, item.amount, item.get_expiry()) for item in items]


def failures(settings: Settings, take: Take) -> Callable[[], object]:
    """What to call when somebody could not tell who they are; raises RateLimited where that happened too often."""
    if not settings.auth_failure_limit:
        return lambda: None
    addresses, limiter = Addresses(settings.forwarded_allow_ips), Limiter(settings.auth_failure_limit, take)
    return lambda: limiter.check(f"failure:{addresses.of(request)}")


def install(app: Flask, settings: Settings, take: Take) -> None:
    """Limit how often callers of `app` may come, where that is set."""
    if settings.counts_callers:
        app.after_request(_tell)
    if not settings.rate_limit:
        return
    addresses, limiter = Addresses(settings.forwarded_allow_ips), Limiter(settings.rate_limit, take)

    def check() -> None:
        if request.endpoint in EXEMPT:
            return
        user_id = caller().user_id
        who = f"user:{user_id}" if user_id else f"address:{addresses.of(request)}"
        g.rate = (limiter.policy, limiter.check(who))

    app.before_request(check)


def _tell(response: Response) -> Response:
    policy, standing = g.get("rate", ("", ""))
    if standing:
        response.headers["RateLimit-Policy"] = policy
        response.headers["RateLimit"] = standing
    return response
