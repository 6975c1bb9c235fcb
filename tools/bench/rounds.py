"""One round: one contestant under load for some seconds, and what that took."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.bench.base import NeverSettled, ids_from_now
from tools.bench.contestants import Contestant, Kind
from tools.bench.wrk import CONNECTIONS, BadOutput, Result, load

MICROSECONDS = 1e6
CALM_SECONDS = 0.25
CALM_SHARE = 0.12
CALM_PATIENCE = 15.0


@dataclass(frozen=True)
class Round:
    """What one round measured; `trouble` says why it does not count.

    `rate` is answered requests a second. `flow_rate` is the same over the time until all that was posted is settled.
    CPU times are microseconds a request, the settling included.
    """

    rate: float = 0.0
    flow_rate: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    server_us: float = 0.0
    mongod_us: float = 0.0
    requests: int = 0
    began: float = 0.0
    ended: float = 0.0
    trouble: str = ""


def measure(contestant: Contestant, kind: str, seconds: int, connections: int = CONNECTIONS) -> Round:
    """Run one round. A POST is measured until its order is settled, the others until they are answered."""
    try:
        return _measure(contestant, kind, seconds, connections)
    except (BadOutput, NeverSettled) as exc:
        return Round(trouble=str(exc))


def _measure(contestant: Contestant, kind: str, seconds: int, connections: int) -> Round:
    base, server = contestant.base, contestant.server
    settles = kind == Kind.POST and base is not None
    stored, since = (base.count(), ids_from_now()) if settles else (0, None)
    server_cpu, mongod_cpu = server.cpu(), base.cpu() if base else 0.0
    wall, began = time.time(), time.monotonic()
    result = load(server.url, contestant.requests[kind], seconds, connections)
    took = base.drained(since) - began if settles else result.requests / (result.rate or 1.0)
    if settles:
        _wait_until_calm(lambda: server.cpu() + base.cpu())
    count = max(result.requests, 1)
    measured = Round(
        rate=result.rate,
        flow_rate=result.requests / took if took else 0.0,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        server_us=(server.cpu() - server_cpu) / count * MICROSECONDS,
        mongod_us=(base.cpu() - mongod_cpu if base else 0.0) / count * MICROSECONDS,
        requests=result.requests,
        began=wall,
        ended=time.time(),
        trouble=_trouble(result, base.count() - stored if settles else None),
    )
    if settles:
        base.flush()
    return measured


def _wait_until_calm(used: Callable[[], float]) -> None:
    """Let what is still tidied up after the last order was settled end: it counts as CPU time, and is no burden for the next."""
    ends, before = time.monotonic() + CALM_PATIENCE, used()
    while time.monotonic() < ends:
        time.sleep(CALM_SECONDS)
        now = used()
        if now - before < CALM_SHARE * CALM_SECONDS:
            return
        before = now


def _trouble(result: Result, stored: int | None) -> str:
    if not result.clean:
        return f"{result.requests} requests, {result.bad} not answered with 2xx, {result.broken} socket errors"
    if stored is not None and stored < result.requests:
        return f"{result.requests} orders were acknowledged, only {stored} stored"
    return ""
