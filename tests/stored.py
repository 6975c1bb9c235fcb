"""Compares what is stored without reading it."""

from pymongo.collection import Collection


def hash_of(collection: Collection) -> str:
    """A hash of all documents of a collection, computed by mongod."""
    return collection.database.command("dbHash", collections=[collection.name])["collections"][collection.name]
