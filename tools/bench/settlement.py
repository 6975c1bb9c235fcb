"""The time from POST to Success, on an idle server and under full load."""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx
from bson import ObjectId
from pymongo.read_concern import ReadConcern

from tools.bench.contestants import Contestant, Kind
from tools.bench.database import BenchDatabase
from tools.bench.figures import percentile
from tools.bench.preload import order_body
from tools.bench.runner import Results

POLL_SECONDS = 0.0002
TIMEOUT_SECONDS = 10.0
PAUSE_BETWEEN_SECONDS = 0.01
WARM_UP_ORDERS = 5


@dataclass(frozen=True)
class SettlementTime:
    """Milliseconds from POST to Success, over `orders` orders; `answered_ms` is the median until the POST was answered, if measured."""

    p50_ms: float
    p99_ms: float
    orders: int
    answered_ms: float | None = None


def when_idle(contestant: Contestant, orders: int) -> SettlementTime:
    """Places one order at a time on one connection and measures until its Success can be read.

    It polls the database, not the server: one read by key does not use the server's processes, and the pause between two
    reads keeps the harness at a fraction of one core. Polling adds at most 0.5 ms.
    """
    took, answered = [], []
    orders_read = contestant.database.orders.with_options(read_concern=ReadConcern("majority"))
    with httpx.Client(base_url=contestant.server.url, timeout=10.0, trust_env=False) as http:
        for number in range(orders + WARM_UP_ORDERS):
            began = time.monotonic()
            answer = http.post("/orders", json=order_body("idle-0000001"))
            answered.append(time.monotonic() - began)
            took.append(_success_time(orders_read, ObjectId(answer.json()["created"]["id"])) - began)
            time.sleep(PAUSE_BETWEEN_SECONDS if number else 0.1)
    settled = _time([seconds * 1000 for seconds in took[WARM_UP_ORDERS:]])
    return replace(settled, answered_ms=percentile(answered[WARM_UP_ORDERS:], 50) * 1000)


def under_load(database: BenchDatabase, name: str, results: Results) -> SettlementTime | None:
    """Returns the times of the orders of this contestant's POST rounds: `updatedAt` minus `createdAt`."""
    rounds = [one for one in results.rounds[name].get(Kind.POST, []) if not one.error]
    took: list[float] = []
    for one in rounds:
        took += _stored_times(database, one.began, one.ended)
    return _time(took) if took else None


def _stored_times(database: BenchDatabase, began: float, ended: float) -> list[float]:
    first, last = (ObjectId.from_datetime(_utc(at)) for at in (began, ended + 1))
    query = {"_id": {"$gte": first, "$lt": last}, "createdAt": {"$gte": _utc(began), "$lte": _utc(ended)}}
    found = database.orders.find(query, {"createdAt": 1, "updatedAt": 1, "_id": 0}, batch_size=10_000)
    return [(one["updatedAt"] - one["createdAt"]) / timedelta(milliseconds=1) for one in found]


def _success_time(orders, key: ObjectId) -> float:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        found = orders.find_one({"_id": key}, {"orderStatus": 1})
        if found and found["orderStatus"] == "Success":
            return time.monotonic()
        time.sleep(POLL_SECONDS)
    return time.monotonic()


def _time(took: list[float]) -> SettlementTime:
    return SettlementTime(percentile(took, 50), percentile(took, 99), len(took))


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
