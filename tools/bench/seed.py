"""Seeds many settled orders: copies the documents of one processed order, with other ids, users and times.

The copies have the stored shape, whatever it is, and pass the validators.
"""

import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import bson
from bson import CodecOptions
from bson.datetime_ms import DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import WriteConcern

from tools.bench.database import BenchDatabase
from tools.bench.preload import LIST_ORDERS, LIST_USERS, place_all

USERS = 10_000
PATTERN_USER = "user-9999999"
PAGE_USER = "page-0000001"
MANY_USER = "many-0000001"
PAGE_ORDERS = 100
BATCH = 2000
SPAN_SECONDS = 30 * 24 * 3600
UNCHANGED_SECONDS = 2.5
UNIQUE_HEX = rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])"


class Template:
    """One stored document, cut where it has its order's id, its user, a time or a unique number."""

    def __init__(self, raw: bytes, order_id: str, user: str) -> None:
        self._times = {_packed(at): at for at in _times_in(bson.decode(raw, DATES))}
        fixed = [bytes.fromhex(order_id), order_id.encode(), user.encode(), *self._times]
        cuts = [re.escape(each) for each in fixed] + [UNIQUE_HEX]
        self._pieces = re.split(b"(" + b"|".join(cuts) + b")", raw, flags=re.DOTALL)
        self._key, self._id, self._user = fixed[:3]

    def copy(self, key: bytes, user: str, shift_ms: int) -> RawBSONDocument:
        """Returns the document for another order and user, with all times moved by `shift_ms`."""
        new = {self._key: key, self._id: key.hex().encode(), self._user: user.encode()}
        new |= {packed: _packed(at + shift_ms) for packed, at in self._times.items()}
        # Each odd piece is a cut; one that is none of the above is a unique number.
        pieces = list(self._pieces)
        for place in range(1, len(pieces), 2):
            cut = pieces[place]
            if cut not in new:
                new[cut] = os.urandom(16).hex().encode()
            pieces[place] = new[cut]
        return RawBSONDocument(b"".join(pieces))


@dataclass(frozen=True)
class Seeded:
    """The number of seeded orders, the ids of a sample of them, oldest first, and the seconds it took."""

    orders: int
    ids: list[str]
    seconds: float


def seed(url: str, database: BenchDatabase, orders: int, sample: int = 100_000) -> Seeded:
    """Fills an empty Orderflow with settled orders: `orders`, and at least those of the users of later requests."""
    began = time.monotonic()
    templates, first_ms = _templates(url, database)
    owners = _owners(orders)
    chosen = set(random.sample(range(len(owners)), min(sample, len(owners))))
    ids = []
    stamped = enumerate(_stamps(owners, first_ms))
    while batch := list(islice(stamped, BATCH)):
        for name, template in templates.items():
            fast = database.database[name].with_options(write_concern=WriteConcern(1))
            fast.insert_many([template.copy(*stamp) for _, stamp in batch], ordered=False)
        ids += [stamp[0].hex() for number, stamp in batch if number in chosen]
    database.flush()
    return Seeded(len(owners), ids, time.monotonic() - began)


def _templates(url: str, database: BenchDatabase) -> tuple[dict[str, Template], int]:
    """Returns a template for each collection that has data of an order, and the order's time in milliseconds."""
    [order_id] = place_all(url, [PATTERN_USER])
    stored = _wait_until_unchanged(database)
    created = bson.decode(stored["orders"], DATES)["createdAt"]
    found = {name: Template(raw, order_id, PATTERN_USER) for name, raw in stored.items() if order_id.encode() in raw}
    return found | {"orders": Template(stored["orders"], order_id, PATTERN_USER)}, int(created)


def _wait_until_unchanged(database: BenchDatabase) -> dict[str, bytes]:
    """Returns the one document of each collection when nothing has changed for a while."""
    since, last = time.monotonic(), _read(database)
    while time.monotonic() - since < UNCHANGED_SECONDS:
        time.sleep(0.1)
        now = _read(database)
        if now != last or bson.decode(now["orders"])["orderStatus"] != "Success":
            since, last = time.monotonic(), now
    return last


def _read(database: BenchDatabase) -> dict[str, bytes]:
    codec = CodecOptions(document_class=RawBSONDocument)
    plain = database.database.list_collection_names(filter={"options.capped": {"$ne": True}})
    found = {name: database.database.get_collection(name, codec_options=codec).find_one() for name in plain}
    return {name: document.raw for name, document in found.items() if document}


def _owners(orders: int) -> list[str]:
    """Returns the user of each order in random order: a tenth belongs to one user, some have exactly 20 or 100."""
    owners = [PAGE_USER] * PAGE_ORDERS
    owners += [user for user in list_users() for _ in range(LIST_ORDERS)]
    owners += [MANY_USER] * (orders // 10)
    owners += [f"user-{random.randrange(USERS):07d}" for _ in range(orders - len(owners))]
    random.shuffle(owners)
    return owners


def list_users() -> list[str]:
    """Returns the users who have exactly 20 orders."""
    return [f"list-{number:07d}" for number in range(LIST_USERS)]


def _stamps(owners: list[str], first_ms: int) -> Iterator[tuple[bytes, str, int]]:
    """Yields id, user and shift in time of each order: evenly over the last 30 days, oldest first."""
    step = SPAN_SECONDS * 1000 // max(len(owners), 1)
    for number, owner in enumerate(owners):
        shift = (number - len(owners)) * step
        yield ((first_ms + shift) // 1000).to_bytes(4, "big") + os.urandom(8), owner, shift


DATES = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)


def _times_in(value: Any) -> set[int]:
    if isinstance(value, dict):
        return set().union(*map(_times_in, value.values()))
    if isinstance(value, list):
        return set().union(*map(_times_in, value))
    return {int(value)} if isinstance(value, bson.DatetimeMS) else set()


def _packed(at_ms: int) -> bytes:
    return at_ms.to_bytes(8, "little", signed=True)
