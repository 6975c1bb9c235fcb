"""A jump in time: moves the stored times of open work into the past, as if days had passed."""

from datetime import datetime, timedelta
from typing import Any

from pymongo import ReplaceOne
from pymongo.collection import Collection

from tools.chaos.audit import open_work
from tools.cluster.mongod import mongo_client


def age_open_work(uri: str, name: str, by: timedelta) -> set[str]:
    """Moves all stored times of open orders, their payments and charges back; returns the orders' ids.

    Call it while no worker runs, since workers keep times in memory too. Raises PyMongoError.
    """
    with mongo_client(uri) as client:
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
    """Returns a copy of a document, or of a value in it, in which all times are earlier by `by`.

    The time `at` of an undelivered event is a number of milliseconds since 1970.
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
