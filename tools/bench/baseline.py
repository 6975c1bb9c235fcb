"""The baseline: the least cost of one stored document, by the size of its batch."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from pymongo import WriteConcern

from tools.bench.database import BenchDatabase
from tools.bench.preload import order_body

SIZES = (1, 16, 64)


@dataclass(frozen=True)
class InsertCost:
    """Microseconds a document: elapsed time, CPU time of the client, CPU time of mongod."""

    size: int
    wall_us: float
    client_us: float
    mongod_us: float


def insert_costs(database: BenchDatabase, rounds: int, seconds: float) -> list[InsertCost]:
    """Inserts batches of each size for `seconds` a round, journaled and by majority; returns medians over the rounds."""
    measured = [[_cost(database, size, seconds) for size in SIZES] for _ in range(rounds)]
    return [_median(same) for same in zip(*measured, strict=True)]


def _cost(database: BenchDatabase, size: int, seconds: float) -> InsertCost:
    documents = database.database["baseline"].with_options(write_concern=WriteConcern("majority", j=True))
    count, mongod, client, began = 0, database.cpu(), time.process_time(), time.monotonic()
    while time.monotonic() - began < seconds:
        documents.insert_many([_document() for _ in range(size)], ordered=False)
        count += size
    wall, client, mongod = time.monotonic() - began, time.process_time() - client, database.cpu() - mongod
    database.flush()
    return InsertCost(size, *(used / count * 1e6 for used in (wall, client, mongod)))


def _document() -> dict:
    now = datetime.now(UTC)
    status = {"orderStatus": "Processing", "paymentStatus": "Processing"}
    return {**order_body("user-0000001"), **status, "createdAt": now, "updatedAt": now}


def _median(costs: tuple[InsertCost, ...]) -> InsertCost:
    values = (median(getattr(one, name) for one in costs) for name in ("wall_us", "client_us", "mongod_us"))
    return InsertCost(costs[0].size, *values)
