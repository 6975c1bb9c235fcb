"""What is stored, compared without reading it here."""

from pymongo.collection import Collection


def hash_of(collection: Collection) -> str:
    """A hash of every document of a collection, which mongod computes."""
    return collection.database.command("dbHash", collections=[collection.name])["collections"][collection.name]
