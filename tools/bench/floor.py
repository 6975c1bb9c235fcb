"""The floor: what one stored document costs at the least, by the size of the batch it comes in."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from pymongo import WriteConcern

from tools.bench.base import Base
from tools.bench.stock import order_of

SIZES = (1, 16, 64)


@dataclass(frozen=True)
class Cost:
    """Microseconds a document: by the clock, of the client's CPU and of mongod's."""

    size: int
    wall_us: float
    client_us: float
    mongod_us: float


def floor(base: Base, rounds: int, seconds: float) -> list[Cost]:
    """Insert batches of each size in turn for so many seconds, journaled and by majority; medians over the rounds."""
    measured = [[_cost(base, size, seconds) for size in SIZES] for _ in range(rounds)]
    return [_median(same) for same in zip(*measured, strict=True)]


def _cost(base: Base, size: int, seconds: float) -> Cost:
    documents = base.database["floor"].with_options(write_concern=WriteConcern("majority", j=True))
    count, mongod, client, began = 0, base.cpu(), time.process_time(), time.monotonic()
    while time.monotonic() - began < seconds:
        documents.insert_many([_document() for _ in range(size)], ordered=False)
        count += size
    wall, client, mongod = time.monotonic() - began, time.process_time() - client, base.cpu() - mongod
    base.flush()
    return Cost(size, *(used / count * 1e6 for used in (wall, client, mongod)))


def _document() -> dict:
    now = datetime.now(UTC)
    status = {"orderStatus": "Processing", "paymentStatus": "Processing"}
    return {**order_of("user-0000001"), **status, "createdAt": now, "updatedAt": now}


def _median(costs: tuple[Cost, ...]) -> Cost:
    values = (median(getattr(one, name) for one in costs) for name in ("wall_us", "client_us", "mongod_us"))
    return Cost(costs[0].size, *values)
