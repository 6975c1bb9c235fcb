"""Days that pass while everything stands still: the stored times of open work become older."""

from datetime import datetime, timedelta
from typing import Any

from pymongo import ReplaceOne
from pymongo.collection import Collection

from tools.chaos.audit import open_work
from tools.cluster.servers import documents


def age_open_work(uri: str, name: str, by: timedelta) -> set[str]:
    """Move all stored times of open orders, their payments and their charges back; returns the orders' ids.

    Call it while no worker runs, since workers keep times in memory as well. Raises PyMongoError.
    """
    with documents(uri) as client:
        database = client[name]
        keys = open_work(database.orders, database.payments)
        ids = {str(key) for key in keys}
        _age(database.orders, {"_id": {"$in": [*keys]}}, by)
        _age(database.payments, {"_id": {"$in": [*ids]}}, by)
        _age(database.ledger, {"orderId": {"$in": [*ids]}}, by)
    return ids


def _age(collection: Collection[Any], query: dict[str, Any], by: timedelta) -> None:
    writes = [ReplaceOne({"_id": doc["_id"]}, older(doc, by)) for doc in collection.find(query)]
    if writes:
        collection.bulk_write(writes, ordered=False)


def older(value: Any, by: timedelta) -> Any:
    """A copy of a document, or of any value in it, in which all times are earlier by `by`.

    An undelivered event has its time, `at`, in milliseconds since 1970.
    """
    if isinstance(value, datetime):
        return value - by
    if isinstance(value, dict):
        milliseconds = int(by.total_seconds() * 1000)
        return {
            name: one - milliseconds if name == "at" and isinstance(one, int) else older(one, by)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [older(one, by) for one in value]
    return value
