"""Orders in MongoDB: one document each, with its timeline and its outbox. The only file of orders that knows pymongo."""

import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

import pymongo
from bson import ObjectId
from pymongo import ReturnDocument

from app.contracts.base import Conflict, Event, Money, NotFound
from app.contracts.orders import (
    CreateOrder,
    IdempotencyKeyReused,
    OrderList,
    OrderStatusView,
    OrderView,
    Timeline,
    TimelineEntry,
)
from app.contracts.payments import PaymentEvent
from app.messaging.outbox import OUTBOX_INDEXES, OUTBOX_RULE, OUTBOX_SCHEMA, RELAY_FIELDS, Outbox, entry_of
from app.observability import metrics
from app.orders.order import NEW, PROCESSING, OrderTransition, State
from app.storage.bulk import NotStored, Patch, bulk_compare_and_set, bulk_insert
from app.storage.group_commit import GroupCommit
from app.storage.mongodb import Document, Store

RETRIES = 8
REMEMBERED = 8192
ORDER_ID = re.compile(r"[0-9a-f]{24}")
STATE = {
    "userId": 1,
    "orderStatus": 1,
    "paymentStatus": 1,
    "version": 1,
    "sequence": 1,
    "paymentSequence": 1,
    "total": 1,
    "refunds": 1,
    "failedRefunds": 1,
}
STATUS = {"userId": 1, "orderStatus": 1, "paymentStatus": 1, "version": 1}
TIMELINE = {"userId": 1, "version": 1, "events": 1}
STANDING = {
    "orderStatus": 1,
    "paymentStatus": 1,
    "events": {"$slice": -1},
    "outbox.type": 1,
    "relayFailures": 1,
    "deadLetter.reason": 1,
}
NEWEST_FIRST = [("createdAt", -1), ("_id", -1)]
VIEW = dict.fromkeys(
    (
        "userId", "productId", "productName", "totalOrderAmount", "total", "orderStatus", "paymentStatus", "version",
        "createdAt", "updatedAt",
    ),
    1,
)  # fmt: skip
# A command finds so many pages at the most; each is a pipeline of its own in it.
PAGES = 16
Page = tuple[Document, int]
# An order's key, and whose it must be; empty for anybody's.
Wanted = tuple[ObjectId, str]
# Among so many the orders of one status are looked for where no user is named: there is no index for it.
LOOKED_AT = 10_000

SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": [
        "_id", "userId", "productId", "productName", "totalOrderAmount", "total", "orderStatus", "paymentStatus",
        "version", "sequence", "paymentSequence", "requestId", "createdAt", "updatedAt", "events", "outbox",
    ],
    "properties": {
        "_id": {"bsonType": "objectId"},
        **{name: {"bsonType": "string"} for name in ("userId", "productId", "productName", "totalOrderAmount")},
        "total": {
            "bsonType": "object",
            "required": ["value", "currency"],
            "properties": {"value": {"bsonType": ["int", "long"], "minimum": 1}, "currency": {"bsonType": "string"}},
        },
        "orderStatus": {"bsonType": "string", "minLength": 1},
        "paymentStatus": {
            "enum": ["Processing", "Captured", "Declined", "Voided", "Refunding", "Refunded", "Unknown"]
        },
        **{name: {"bsonType": "int", "minimum": 0} for name in ("version", "sequence", "paymentSequence")},
        "requestId": {"bsonType": "string"},
        "idempotency": {"bsonType": "object", "required": ["key", "fingerprint"]},
        "refunds": {"bsonType": "array", "items": {"bsonType": "object", "required": ["id", "value", "wish"]}},
        "failedRefunds": {"bsonType": "array", "items": {"bsonType": "string"}},
        "createdAt": {"bsonType": "date"},
        "updatedAt": {"bsonType": "date"},
        "events": {"bsonType": "array", "items": {"bsonType": "object", "required": ["sequence", "type", "at"]}},
        **OUTBOX_SCHEMA,
    },
    **OUTBOX_RULE,
}  # fmt: skip
INDEXES = [
    pymongo.IndexModel([("userId", 1), *NEWEST_FIRST], name="newest_of_user"),
    pymongo.IndexModel([("userId", 1), ("orderStatus", 1), *NEWEST_FIRST], name="newest_of_user_by_status"),
    pymongo.IndexModel(
        [("userId", 1), ("idempotency.key", 1)],
        name="one_order_a_key",
        unique=True,
        partialFilterExpression={"idempotency.key": {"$exists": True}},
    ),
    pymongo.IndexModel(
        [("createdAt", 1)], name="keys_by_age", partialFilterExpression={"idempotency.key": {"$exists": True}}
    ),
    *OUTBOX_INDEXES,
]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An order's state as it was read or written, and the sequence of the newest of its undelivered events."""

    state: State
    undelivered: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class OrderDiagnostics:
    """Where an order is, its last step, and what holds up its events.

    `retried` where they have come to nothing so far and are delivered again; `dead` is a reason where they are set aside.
    """

    order_status: str
    payment_status: str
    last: TimelineEntry
    undelivered: bool
    retried: bool
    dead: str


class OrderRepository:
    """Stores orders; every change is one compare-and-set that writes state, timeline and outbox together."""

    def __init__(self, store: Store, outbox: Outbox, patience: float) -> None:
        self._store = store
        self._outbox = outbox
        self._patience = patience
        self._fresh_orders: dict[str, Seen] = {}
        self._inserts: GroupCommit[Document, None] = GroupCommit("new orders", self._insert)
        self._views: GroupCommit[Wanted, Document | None] = GroupCommit("orders", partial(self._by_id, VIEW))
        self._statuses: GroupCommit[Wanted, Document | None] = GroupCommit("statuses", partial(self._by_id, STATUS))
        self._pages: GroupCommit[Page, list[Document]] = GroupCommit("pages", self._several_pages, limit=PAGES)
        self._timelines: GroupCommit[Wanted, Document | None] = GroupCommit("timelines", partial(self._by_id, TIMELINE))

    def prepare(self) -> None:
        """Create what the collection needs: validator and indexes."""
        self._store.prepare(SCHEMA, INDEXES)

    def now(self) -> datetime:
        """The database's time."""
        return self._store.clock.now()

    def add(self, order: CreateOrder, change: OrderTransition, event: Event, at: datetime) -> str:
        """Store a new order with the event that tells of it, and return its id. Durable when this returns.

        Where the user's idempotency key has made an order already, that one's id. Raises IdempotencyKeyReused where
        it was another order. The same order under the same id once more changes nothing: whoever asked for it was not
        answered the first time.
        """
        key, outbox = ObjectId(order.order_id), [entry_of(event)]
        stored = self._fresh(key, order, change, outbox, at)
        try:
            self._inserts(stored, self._patience)
        except NotStored as refusal:
            if not refusal.duplicate:
                raise
            if order.idempotency_key:
                return self._earlier(order)
            if not self._is_stored(key, order):
                raise
            return order.order_id
        self._remember(order.order_id, Seen(state=state_of(stored), undelivered=event.sequence, created_at=at))
        self._outbox.recorded(key, outbox)
        return order.order_id

    def count_open(self, user_id: str, limit: int) -> int:
        """How many orders of a user wait for the outcome of their payment, counted up to `limit`."""
        with self._store.with_deadline() as documents:
            return documents.count_documents({"userId": user_id, "orderStatus": PROCESSING}, limit=limit)

    def forget_keys(self, seconds: float) -> int:
        """Clear the idempotency keys of orders older than this; tells how many."""
        old = {"createdAt": {"$lt": self.now() - timedelta(seconds=seconds)}, "idempotency.key": {"$exists": True}}
        with self._store.with_deadline() as documents:
            return documents.update_many(old, {"$unset": {"idempotency": ""}}).modified_count

    def _is_stored(self, key: ObjectId, order: CreateOrder) -> bool:
        same = {
            "_id": key,
            "userId": order.user_id,
            "productId": order.product_id,
            "productName": order.product_name,
            "totalOrderAmount": order.total_text,
        }
        with self._store.with_deadline() as documents:
            return documents.find_one(same, {"_id": 1}) is not None

    def _earlier(self, order: CreateOrder) -> str:
        with self._store.with_deadline() as documents:
            found = documents.find_one(
                {"userId": order.user_id, "idempotency.key": order.idempotency_key}, {"idempotency": 1}
            )
        if found is None:
            raise Conflict("the order of this Idempotency-Key was cleared just now; try again")
        if found["idempotency"]["fingerprint"] != _fingerprint(order):
            raise IdempotencyKeyReused("this Idempotency-Key stands for another order")
        return str(found["_id"])

    def _fresh(
        self, key: ObjectId, order: CreateOrder, change: OrderTransition, outbox: list[Document], at: datetime
    ) -> Document:
        stored: Document = {
            "_id": key,
            "userId": order.user_id,
            "productId": order.product_id,
            "productName": order.product_name,
            "totalOrderAmount": order.total_text,
            "total": {"value": order.total_value, "currency": order.total_currency},
            "orderStatus": change.order_status,
            "paymentStatus": change.payment_status,
            "version": 1,
            "sequence": 1,
            "paymentSequence": 0,
            "requestId": order.request_id,
            "createdAt": at,
            "updatedAt": at,
            "events": [_timeline_entry(change, 1, NEW, at)],
            "outbox": outbox,
            "relayDue": self._outbox.lease_end(),
        }
        if order.idempotency_key:
            stored["idempotency"] = {"key": order.idempotency_key, "fingerprint": _fingerprint(order)}
        return stored

    def view(self, order_id: str, on_behalf_of: str) -> OrderView:
        """One order. Raises NotFound."""
        return view_of(_found(self._views((key_of(order_id), on_behalf_of), self._patience), on_behalf_of))

    def status(self, order_id: str, on_behalf_of: str) -> OrderStatusView:
        """One order's statuses. Raises NotFound."""
        found = _found(self._statuses((key_of(order_id), on_behalf_of), self._patience), on_behalf_of)
        return OrderStatusView(
            order_id=order_id,
            order_status=found["orderStatus"],
            payment_status=found["paymentStatus"],
            version=found["version"],
        )

    def timeline(self, order_id: str, on_behalf_of: str, after: int) -> Timeline:
        """An order's steps after the sequence `after`. Raises NotFound."""
        found = _found(self._timelines((key_of(order_id), on_behalf_of), self._patience), on_behalf_of)
        entries = (entry_view(order_id, entry) for entry in found["events"] if entry["sequence"] > after)
        return Timeline(order_id=order_id, version=found["version"], entries=tuple(entries), ending=False)

    def standing(self, order_id: str, on_behalf_of: str) -> OrderDiagnostics:
        """Where an order is, and what holds up its events. Raises NotFound."""
        with self._store.with_deadline() as documents:
            found = _found(documents.find_one(_mine(order_id, on_behalf_of), STANDING))
        return OrderDiagnostics(
            order_status=found["orderStatus"],
            payment_status=found["paymentStatus"],
            last=entry_view(order_id, found["events"][-1]),
            undelivered=bool(found["outbox"]),
            retried="relayFailures" in found,
            dead=found.get("deadLetter", {}).get("reason", ""),
        )

    def of_user(
        self, user_id: str, limit: int, order_status: str = "", before_at: str = "", before_id: str = ""
    ) -> OrderList:
        """A user's newest orders, of one status or any; those older than another where that is named."""
        wanted: Document = {"userId": user_id}
        if order_status:
            wanted["orderStatus"] = order_status
        if before_id:
            at = datetime.fromisoformat(before_at).astimezone(UTC)
            # The first bound serves the index, the second leaves out what is of the same moment and was told already.
            wanted["createdAt"] = {"$lte": at}
            wanted["$or"] = [{"createdAt": {"$lt": at}}, {"_id": {"$lt": ObjectId(before_id)}}]
        found = self._pages((wanted, limit + 1), self._patience)
        return OrderList(orders=tuple(view_of(doc) for doc in found[:limit]), more=len(found) > limit)

    def of_all(self, limit: int, order_status: str = "", before_id: str = "") -> tuple[list[OrderView], str]:
        """The newest orders of all users, and the id that others may follow, empty where none do.

        Those of one status are looked for among LOOKED_AT, and no further.
        """
        older: Document = {"_id": {"$lt": key_of(before_id)}} if before_id else {}
        with self._store.with_deadline() as documents:
            if not order_status:
                found = list(documents.find(older, VIEW).sort("_id", -1).limit(limit + 1))
                return _cut(found, limit)
            looked_at: list[Document] = [{"$match": older}, {"$sort": {"_id": -1}}, {"$limit": LOOKED_AT}]
            matching: list[Document] = [
                {"$match": {"orderStatus": order_status}},
                {"$limit": limit + 1},
                {"$project": VIEW},
            ]
            found = list(documents.aggregate([*looked_at, *matching]))
            if len(found) > limit:
                return _cut(found, limit)
            last = list(documents.find(older, {"_id": 1}).sort("_id", -1).skip(LOOKED_AT - 1).limit(1))
            return [view_of(doc) for doc in found], str(last[0]["_id"]) if last else ""

    def these(self, order_ids: Sequence[str]) -> list[OrderView]:
        """Those of these orders that there are, newest first."""
        wanted = [(ObjectId(order_id), "") for order_id in order_ids if ORDER_ID.fullmatch(order_id)]
        found = (doc for doc in self._by_id(VIEW, wanted) if isinstance(doc, dict))
        return [view_of(doc) for doc in sorted(found, key=lambda doc: doc["_id"], reverse=True)]

    def step(
        self,
        order_id: str,
        on_behalf_of: str,
        decide: Callable[[State], OrderTransition | None],
        announce: Callable[[OrderTransition, int, datetime], Event | None],
    ) -> tuple[State, bool]:
        """Take one step by compare-and-set, deciding anew whenever others were faster.

        Returns the state after it, and whether anything had to change.
        Raises NotFound, what `decide` raises, and Conflict when others were faster every time.
        """
        mine = _mine(order_id, on_behalf_of)
        # One deadline for all rounds: a client waits for this.
        with self._store.with_deadline() as documents:
            for _ in range(RETRIES):
                found = _found(documents.find_one(mine, STATE))
                state = state_of(found)
                change = decide(state)
                if change is None:
                    return state, False
                at = self.now()
                event = announce(change, state.sequence + 1, at)
                after = documents.find_one_and_update(
                    {**mine, "userId": found["userId"], "version": state.version},
                    self._update(state, change, at, event),
                    {**STATE, "outbox": 1},
                    return_document=ReturnDocument.AFTER,
                )
                if after:
                    if event:
                        self._outbox.recorded(mine["_id"], after["outbox"])
                    return state_of(after), True
        raise Conflict("others changed the order again and again meanwhile; try again")

    def hear(
        self, news: Sequence[PaymentEvent], decide: Callable[[State, Event], OrderTransition | None]
    ) -> list[tuple[Event, OrderTransition]]:
        """Apply news from payments in one command; tells which of it was new.

        Raises NotFound when an order is missing, Conflict when others were faster every time; what was applied by
        then is recognised when the news comes again.
        """
        applied: dict[str, tuple[Event, OrderTransition]] = {}
        known = self._remembered(news)
        for _ in range(RETRIES):
            known |= self._read([event for event in news if event.order_id not in known])
            patches: dict[str, Patch] = {}
            for event in news:
                seen = known[event.order_id]
                change = None if event.order_id in patches else decide(seen.state, event)
                if change:
                    patches[event.order_id] = _hearing(seen, event, change, self.now())
                    applied[event.event_id] = (event, change)
            if not patches:
                return list(applied.values())
            with self._store.with_deadline() as documents:
                done = bulk_compare_and_set(documents, list(patches.values()))
            if done == len(news):
                self._emptied(patches.values())
                self._measure(known, patches)
                return list(applied.values())
            known = {}
        raise Conflict("others changed the orders again and again meanwhile")

    def _remembered(self, news: Sequence[PaymentEvent]) -> dict[str, Seen]:
        """Orders as this process stored them, which saves reading them; who changed one since is found out by its version."""
        kept = ((event.order_id, self._fresh_orders.pop(event.order_id, None)) for event in news)
        return {order_id: seen for order_id, seen in kept if seen}

    def _remember(self, order_id: str, seen: Seen) -> None:
        while len(self._fresh_orders) >= REMEMBERED:
            self._fresh_orders.pop(next(iter(self._fresh_orders)), None)
        self._fresh_orders[order_id] = seen

    def _emptied(self, patches: Iterable[Patch]) -> None:
        for patch in patches:
            if "outbox" in patch.sets:
                self._outbox.acknowledged(patch.key)

    def _measure(self, seen: dict[str, Seen], patches: dict[str, Patch]) -> None:
        now = self.now()
        took = [
            (now - seen[order_id].created_at).total_seconds()
            for order_id, patch in patches.items()
            if seen[order_id].state.order_status == PROCESSING != patch.sets["orderStatus"]
        ]
        if took:
            metrics.tally.add(metrics.settled, took)

    def _update(self, state: State, change: OrderTransition, at: datetime, event: Event | None) -> Document:
        sequence = state.sequence + 1
        update: Document = {
            "$set": {
                "orderStatus": change.order_status,
                "paymentStatus": change.payment_status,
                "updatedAt": at,
            },
            "$inc": {"version": 1, "sequence": 1},
            "$push": {"events": _timeline_entry(change, sequence, state.order_status, at)},
        }
        if change.refund:
            refund_id, value = change.refund
            update["$push"]["refunds"] = {"id": refund_id, "value": value, "wish": change.wish, "at": at}
        if event:
            update["$push"]["outbox"] = entry_of(event)
            update["$set"]["relayDue"] = self._outbox.lease_end()
        return update

    def _read(self, news: Sequence[PaymentEvent]) -> dict[str, Seen]:
        if not news:
            return {}
        wanted = {(ObjectId(event.order_id), event.user_id) for event in news}
        with self._store.with_deadline() as documents:
            found = documents.find(_these(wanted), {**STATE, "outbox.sequence": 1, "createdAt": 1})
            seen = {str(doc["_id"]): _seen(doc) for doc in found}
        missing = {event.order_id for event in news} - seen.keys()
        if missing:
            raise NotFound(f"there is no order {min(missing)}")
        return seen

    def _insert(self, batch: list[Document]) -> Sequence[Exception | None]:
        with self._store.with_deadline() as documents:
            return bulk_insert(documents, batch)

    def _several_pages(self, wanted: list[Page]) -> Sequence[list[Document]]:
        if len(wanted) == 1:
            return [self._one_page(*wanted[0])]
        first, *others = (_page(number, *page) for number, page in enumerate(wanted))
        joined = [{"$unionWith": {"coll": self._store.collection.name, "pipeline": stages}} for stages in others]
        pages: list[list[Document]] = [[] for _ in wanted]
        with self._store.with_deadline() as documents:
            for doc in documents.aggregate([*first, *joined], batchSize=1 + sum(size for _, size in wanted)):
                pages[doc["page"]].append(doc)
        return pages

    def _one_page(self, wanted: Document, size: int) -> list[Document]:
        with self._store.with_deadline() as documents:
            return list(documents.find(wanted, VIEW).sort(NEWEST_FIRST).limit(size))

    def _by_id(self, projection: Document, wanted: list[Wanted]) -> list[Document | Exception | None]:
        with self._store.with_deadline() as documents:
            found = {doc["_id"]: doc for doc in documents.find(_these(wanted), projection)}
        return [found.get(key) for key, _ in wanted]


def key_of(order_id: str) -> ObjectId:
    """The document's key. A malformed id names no order: NotFound; nor does one in capitals, so each has one name."""
    if not ORDER_ID.fullmatch(order_id):
        raise _unknown()
    return ObjectId(order_id)


def state_of(doc: Document) -> State:
    """What of a document decides the next step."""
    return State(
        order_status=doc["orderStatus"],
        payment_status=doc["paymentStatus"],
        version=doc["version"],
        sequence=doc["sequence"],
        payment_sequence=doc["paymentSequence"],
        total_value=doc["total"]["value"],
        total_currency=doc["total"]["currency"],
        refunds=tuple((refund["id"], refund["value"]) for refund in doc.get("refunds", ())),
        wishes=tuple((refund["id"], refund["wish"]) for refund in doc.get("refunds", ())),
        failed=tuple(doc.get("failedRefunds", ())),
    )


def view_of(doc: Document) -> OrderView:
    """A document as clients may see it."""
    return OrderView(
        id=str(doc["_id"]),
        user_id=doc["userId"],
        product_id=doc["productId"],
        product_name=doc["productName"],
        total_order_amount=doc["totalOrderAmount"],
        total=Money(int(doc["total"]["value"]), doc["total"]["currency"]),
        order_status=doc["orderStatus"],
        payment_status=doc["paymentStatus"],
        version=doc["version"],
        created_at=rfc3339(doc["createdAt"]),
        updated_at=rfc3339(doc["updatedAt"]),
    )


def rfc3339(at: datetime) -> str:
    """A time in UTC as text, with milliseconds."""
    return f"{at.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def _fingerprint(order: CreateOrder) -> str:
    """What two requests with one Idempotency-Key must have in common; their ids and times may differ."""
    members = [order.product_id, order.product_name, order.total_text, order.total_value, order.total_currency]
    return sha256(json.dumps(members).encode()).hexdigest()


def _seen(doc: Document) -> Seen:
    return Seen(
        state=state_of(doc),
        undelivered=max((entry.get("sequence", sys.maxsize) for entry in doc["outbox"]), default=0),
        created_at=doc["createdAt"],
    )


def _hearing(seen: Seen, event: PaymentEvent, change: OrderTransition, at: datetime) -> Patch:
    state, sequence = seen.state, seen.state.sequence + 1
    sets: Document = {
        "orderStatus": change.order_status,
        "paymentStatus": change.payment_status,
        "updatedAt": at,
        "version": state.version + 1,
        "sequence": sequence,
        "paymentSequence": event.sequence,
    }
    # Payments has written down the order's events up to this one, dead letters among them; later ones stay for the relay.
    acknowledged = event.order_sequence >= seen.undelivered
    return Patch(
        key=ObjectId(event.order_id),
        expected={"version": state.version},
        route={"userId": event.user_id} if event.user_id else {},
        sets={**sets, "outbox": []} if acknowledged else sets,
        unsets=RELAY_FIELDS if acknowledged else (),
        pushes={
            "events": [_timeline_entry(change, sequence, state.order_status, at)],
            **({"failedRefunds": [change.failed_refund]} if change.failed_refund else {}),
        },
    )


def _timeline_entry(change: OrderTransition, sequence: int, came_from: str, at: datetime) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "type": change.type,
        "at": at,
        "actor": change.actor,
        "from": came_from,
        "to": change.order_status,
        "paymentStatus": change.payment_status,
        "detail": change.detail,
    }


def entry_view(order_id: str, entry: Document) -> TimelineEntry:
    """A timeline entry as clients may see it."""
    return TimelineEntry(
        order_id=order_id,
        sequence=entry["sequence"],
        type=entry["type"],
        at=rfc3339(entry["at"]),
        actor=entry["actor"],
        from_status=entry["from"],
        to_status=entry["to"],
        payment_status=entry["paymentStatus"],
        detail=entry["detail"],
    )


def _these(wanted: Collection[Wanted]) -> Document:
    """The filter for several orders; where the user of each is known, it names their users too, and so their shards."""
    these: Document = {"_id": {"$in": [key for key, _ in wanted]}}
    users = {user_id for _, user_id in wanted}
    return these if "" in users else {**these, "userId": {"$in": [*users]}}


def _mine(order_id: str, on_behalf_of: str) -> Document:
    """The filter for one order; another user's is not there at all."""
    mine: Document = {"_id": key_of(order_id)}
    if on_behalf_of:
        mine["userId"] = on_behalf_of
    return mine


def _page(number: int, wanted: Document, size: int) -> list[Document]:
    """The stages that find one page, its documents marked with its number."""
    shown = {**VIEW, "page": {"$literal": number}}
    return [{"$match": wanted}, {"$sort": dict(NEWEST_FIRST)}, {"$limit": size}, {"$project": shown}]


def _cut(found: list[Document], limit: int) -> tuple[list[OrderView], str]:
    orders = [view_of(doc) for doc in found[:limit]]
    return orders, orders[-1].id if len(found) > limit else ""


def _found(doc: Document | None, on_behalf_of: str = "") -> Document:
    # One look-up may serve many callers: what belongs to somebody else is as good as absent.
    if doc is None or (on_behalf_of and doc["userId"] != on_behalf_of):
        raise _unknown()
    return doc


def _unknown() -> NotFound:
    return NotFound("there is no order with this id")
