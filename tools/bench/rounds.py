"""One round: one contestant under load for some seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.bench.contestants import Contestant, Kind
from tools.bench.database import SettlementTimeout, ids_from_now
from tools.bench.wrk import CONNECTIONS, Result, WrkOutputError, load_all

MICROSECONDS = 1e6
IDLE_CHECK_SECONDS = 0.25
IDLE_CPU_SHARE = 0.12
IDLE_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True)
class Round:
    """The measurements of one round; `error` says why it does not count.

    `rate` is answered requests a second; `flow_rate` counts the time until all posted orders are settled. CPU times are
    microseconds a request, settlement included. `began` and `ended` are seconds since 1970.
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
    error: str = ""


def measure(contestant: Contestant, kind: str, seconds: int, connections: int = CONNECTIONS) -> Round:
    """Runs one round. A POST is measured until its order is settled, the others until they are answered."""
    try:
        return _measure(contestant, kind, seconds, connections)
    except (WrkOutputError, SettlementTimeout) as exc:
        return Round(error=str(exc))


def _measure(contestant: Contestant, kind: str, seconds: int, connections: int) -> Round:
    database, server = contestant.database, contestant.server
    is_flow = kind == Kind.POST and database is not None
    stored, since = (database.count(), ids_from_now()) if is_flow else (0, None)
    server_cpu, mongod_cpu = server.cpu(), database.cpu() if database else 0.0
    wall, began = time.time(), time.monotonic()
    result = load_all(server.urls, contestant.requests[kind], seconds, connections)
    seconds_taken = database.wait_until_settled(since) - began if is_flow else result.requests / (result.rate or 1.0)
    if is_flow:
        _wait_until_idle(lambda: server.cpu() + database.cpu())
    count = max(result.requests, 1)
    measured = Round(
        rate=result.rate,
        flow_rate=result.requests / seconds_taken if seconds_taken else 0.0,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        server_us=(server.cpu() - server_cpu) / count * MICROSECONDS,
        mongod_us=(database.cpu() - mongod_cpu if database else 0.0) / count * MICROSECONDS,
        requests=result.requests,
        began=wall,
        ended=time.time(),
        error=_error(result, database.count() - stored if is_flow else None),
    )
    if is_flow:
        database.flush()
    return measured


def _wait_until_idle(used: Callable[[], float]) -> None:
    """Waits until work after the last settlement ends: it counts for this round and must not slow the next one."""
    deadline, before = time.monotonic() + IDLE_TIMEOUT_SECONDS, used()
    while time.monotonic() < deadline:
        time.sleep(IDLE_CHECK_SECONDS)
        now = used()
        if now - before < IDLE_CPU_SHARE * IDLE_CHECK_SECONDS:
            return
        before = now


def _error(result: Result, stored: int | None) -> str:
    if not result.clean:
        return f"{result.requests} requests, {result.bad_statuses} not answered with 2xx, {result.socket_errors} socket errors"
    if stored is not None and stored < result.requests:
        return f"{result.requests} orders were acknowledged, only {stored} stored"
    return ""
