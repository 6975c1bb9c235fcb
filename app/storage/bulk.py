"""Many documents in one command: inserts, and updates by compare-and-set."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import BulkWriteError

from app.storage.mongodb import Document, Documents

DUPLICATE_KEY = 11000


class NotStored(Exception):
    """One document of a batch was refused; `duplicate` where its key exists already."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.duplicate = code == DUPLICATE_KEY


def bulk_insert(documents: Documents, batch: list[Document]) -> list[NotStored | None]:
    """Insert whatever of `batch` can be, in one command; for each document None, or why it was not stored."""
    try:
        documents.insert_many(batch, ordered=False)
    except BulkWriteError as exc:
        if exc.details.get("writeConcernErrors"):
            raise
        outcomes: list[NotStored | None] = [None] * len(batch)
        for error in exc.details["writeErrors"]:
            outcomes[error["index"]] = NotStored(error["code"], error["errmsg"])
        return outcomes
    return [None] * len(batch)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A change of one document by compare-and-set: applied only where the document still has `expected`.

    `pushes` are appended to arrays; `keep` says of which arrays only that many of the newest entries stay. `route` has
    what of the document tells on which shard it is, where its key does not.
    """

    key: Any
    expected: Document
    sets: Document
    route: Document = field(default_factory=dict)
    unsets: tuple[str, ...] = ()
    pushes: dict[str, list[Any]] = field(default_factory=dict)
    keep: dict[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What patches must have in common to share a command."""
        return (
            tuple(self.expected.items()),
            self.unsets,
            tuple(self.pushes),
            tuple(self.keep.items()),
            tuple(self.route),
        )


def bulk_compare_and_set(documents: Documents, patches: Sequence[Patch]) -> int:
    """Apply patches of different documents, and tell how many could be.

    Patches of one shape share one command: in bulk writes MongoDB plans, commits and logs each update as if it came
    alone, which costs it two to three times as much as one update of many documents.
    """
    groups: dict[tuple[Any, ...], list[Patch]] = defaultdict(list)
    for patch in patches:
        groups[patch.shape].append(patch)
    return sum(_patch_alike(documents, group) for group in groups.values())


def _patch_alike(documents: Documents, patches: Sequence[Patch]) -> int:
    first, keys = patches[0], [patch.key for patch in patches]
    # Literal throughout: text from outside is never taken for an expression.
    own = {
        "$arrayElemAt": [
            {"$literal": [{**patch.sets, **patch.pushes} for patch in patches]},
            {"$indexOfArray": [{"$literal": keys}, "$_id"]},
        ]
    }
    arrays = {name: _appended(name, first.keep.get(name)) for name in first.pushes}
    merged = {"$let": {"vars": {"own": own}, "in": {"$mergeObjects": ["$$ROOT", "$$own", arrays]}}}
    stages: list[Document] = [{"$replaceWith": merged}]
    if first.unsets:
        stages.append({"$unset": list(first.unsets)})
    routes = {name: {"$in": [*{patch.route[name] for patch in patches}]} for name in first.route}
    return documents.update_many({"_id": {"$in": keys}, **routes, **first.expected}, stages).matched_count


def _appended(name: str, keep: int | None) -> Document:
    whole = {"$concatArrays": [{"$ifNull": [f"${name}", []]}, f"$$own.{name}"]}
    return {"$slice": [whole, -keep]} if keep else whole
