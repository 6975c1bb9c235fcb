"""From POST to Success: how long a client waits, when nothing else goes on and under full load."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
from bson import ObjectId
from pymongo.read_concern import ReadConcern

from tools.bench.base import Base
from tools.bench.contestants import Contestant, Kind
from tools.bench.figures import percentile
from tools.bench.race import Results
from tools.bench.stock import order_of

PAUSE_SECONDS = 0.0002
PATIENCE_SECONDS = 10.0
BETWEEN_SECONDS = 0.01
UNMEASURED = 5


@dataclass(frozen=True)
class Settling:
    """Milliseconds from POST to Success over so many orders."""

    p50_ms: float
    p99_ms: float
    orders: int


def when_idle(contestant: Contestant, orders: int) -> Settling:
    """One order at a time on one kept connection, each from sending POST until its Success can be read.

    The database is asked and not the server: a look is one read by key that leaves the server's processes alone, and
    with a pause between two looks the harness takes a fraction of one core. It adds 0.5 ms at the most.
    """
    took = []
    orders_read = contestant.base.orders.with_options(read_concern=ReadConcern("majority"))
    with httpx.Client(base_url=contestant.server.url, timeout=10.0, trust_env=False) as http:
        for number in range(orders + UNMEASURED):
            began = time.monotonic()
            answer = http.post("/orders", json=order_of("idle-0000001"))
            took.append(_seen(orders_read, ObjectId(answer.json()["created"]["id"])) - began)
            time.sleep(BETWEEN_SECONDS if number else 0.1)
    return _settling([seconds * 1000 for seconds in took[UNMEASURED:]])


def under_load(base: Base, name: str, results: Results) -> Settling | None:
    """From the times stored with the orders of this contestant's POST rounds: `updatedAt` less `createdAt`."""
    rounds = [one for one in results.rounds[name].get(Kind.POST, []) if not one.trouble]
    took: list[float] = []
    for one in rounds:
        took += _stored(base, one.began, one.ended)
    return _settling(took) if took else None


def _stored(base: Base, began: float, ended: float) -> list[float]:
    first, last = (ObjectId.from_datetime(_utc(at)) for at in (began, ended + 1))
    wanted = {"_id": {"$gte": first, "$lt": last}, "createdAt": {"$gte": _utc(began), "$lte": _utc(ended)}}
    found = base.orders.find(wanted, {"createdAt": 1, "updatedAt": 1, "_id": 0}, batch_size=10_000)
    return [(one["updatedAt"] - one["createdAt"]) / timedelta(milliseconds=1) for one in found]


def _seen(orders, key: ObjectId) -> float:
    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends:
        found = orders.find_one({"_id": key}, {"orderStatus": 1})
        if found and found["orderStatus"] == "Success":
            return time.monotonic()
        time.sleep(PAUSE_SECONDS)
    return time.monotonic()


def _settling(took: list[float]) -> Settling:
    return Settling(percentile(took, 50), percentile(took, 99), len(took))


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
