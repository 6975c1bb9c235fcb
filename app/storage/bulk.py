"""Bulk writes: one command inserts many documents, or changes many by compare-and-set."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from pymongo.errors import BulkWriteError, WriteError

from app.storage.mongodb import Document, Documents

DUPLICATE_KEY = 11000


Item = TypeVar("Item")


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of at most `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class InsertRejected(Exception):
    """One document of a batch was rejected; `duplicate` if a document with its unique key exists."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.duplicate = code == DUPLICATE_KEY


def bulk_insert(documents: Documents, batch: list[Document]) -> list[InsertRejected | None]:
    """Insert the documents of `batch` in one command. Returns for each document None, or why it was rejected."""
    if len(batch) == 1:
        # Without the driver's machinery for bulk writes one document takes a fifth less time. Where it is rejected, the other way
        # says why, and whether the write concern has failed as well.
        with suppress(WriteError):
            documents.insert_one(batch[0])
            return [None]
    try:
        documents.insert_many(batch, ordered=False)
    except BulkWriteError as exc:
        if exc.details.get("writeConcernErrors"):
            raise
        outcomes: list[InsertRejected | None] = [None] * len(batch)
        for error in exc.details["writeErrors"]:
            outcomes[error["index"]] = InsertRejected(error["code"], error["errmsg"])
        return outcomes
    return [None] * len(batch)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A change of one document by compare-and-set: applied only if the document still has the members `expected`.

    `sets` and `unsets` are members to set and remove. `pushes` are entries to append to arrays; `keep` limits an array
    to that many newest entries. `shard_key` has the members that route the update to a shard, where `key` does not.
    """

    key: Any
    expected: Document
    sets: Document
    shard_key: Document = field(default_factory=dict)
    unsets: tuple[str, ...] = ()
    pushes: dict[str, list[Any]] = field(default_factory=dict)
    keep: dict[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Patches of equal shape can share one command."""
        return (
            tuple(self.expected.items()),
            self.unsets,
            tuple(self.pushes),
            tuple(self.keep.items()),
            tuple(self.shard_key),
        )


def bulk_compare_and_set(documents: Documents, patches: Sequence[Patch]) -> int:
    """Apply patches of different documents; returns how many documents were as expected and so changed.

    Patches of one shape share one `updateMany`: in a bulk write MongoDB plans, commits and logs each update
    separately, which costs two to three times as much.
    """
    groups: dict[tuple[Any, ...], list[Patch]] = defaultdict(list)
    for patch in patches:
        groups[patch.shape].append(patch)
    return sum(_apply_one_shape(documents, group) for group in groups.values())


def _apply_one_shape(documents: Documents, patches: Sequence[Patch]) -> int:
    first, keys = patches[0], [patch.key for patch in patches]
    # $literal everywhere: text from clients is never evaluated as an expression.
    values = {
        "$arrayElemAt": [
            {"$literal": [{**patch.sets, **patch.pushes} for patch in patches]},
            {"$indexOfArray": [{"$literal": keys}, "$_id"]},
        ]
    }
    arrays = {name: _appended(name, first.keep.get(name)) for name in first.pushes}
    merged = {"$let": {"vars": {"values": values}, "in": {"$mergeObjects": ["$$ROOT", "$$values", arrays]}}}
    stages: list[Document] = [{"$replaceWith": merged}]
    if first.unsets:
        stages.append({"$unset": list(first.unsets)})
    shard_keys = {name: {"$in": [*{patch.shard_key[name] for patch in patches}]} for name in first.shard_key}
    return documents.update_many({"_id": {"$in": keys}, **shard_keys, **first.expected}, stages).matched_count


def _appended(name: str, keep: int | None) -> Document:
    whole = {"$concatArrays": [{"$ifNull": [f"${name}", []]}, f"$$values.{name}"]}
    return {"$slice": [whole, -keep]} if keep else whole
