"""Writes orders: each change is one compare-and-set of state, timeline and outbox together."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from bson import ObjectId
from pymongo import ReturnDocument

from app.contracts.base import Conflict, Event, NotFound
from app.contracts.orders import CreateOrder, IdempotencyKeyReused
from app.contracts.payments import PaymentEvent
from app.messaging.outbox import Outbox, decode_entries, encode_event
from app.observability import metrics
from app.orders.documents import (
    INDEXES,
    SCHEMA,
    SNAPSHOT,
    STATE,
    OrderSnapshot,
    filter_of,
    filter_of_many,
    fingerprint,
    new_document,
    not_found,
    payment_choices,
    payment_event_patch,
    snapshot_of,
    state_of,
    transition_update,
)
from app.orders.order import PROCESSING, OrderState, OrderTransition
from app.storage.bulk import InsertRejected, Patch, bulk_compare_and_set, bulk_insert
from app.storage.group_commit import GroupCommit
from app.storage.mongodb import Document, Store
from app.system import SYSTEM, System

RETRIES = 8
# New orders whose snapshot is kept in memory until their first payment event.
RECENT_ORDERS = 8192


class OrderRepository:
    """Stores orders. `deadline` is how many seconds a new order may wait for its group commit."""

    def __init__(self, store: Store, outbox: Outbox, deadline: float, system: System = SYSTEM) -> None:
        self._store = store
        self._outbox = outbox
        self._deadline = deadline
        self._recent: dict[str, OrderSnapshot] = {}
        self._inserts: GroupCommit[Document, None] = GroupCommit("new orders", self._insert, system=system)

    def prepare(self) -> None:
        """Create the validator and the indexes."""
        self._store.prepare(SCHEMA, INDEXES)

    def now(self) -> datetime:
        """The database's time."""
        return self._store.clock.now()

    def add(self, order: CreateOrder, transition: OrderTransition, event: Event, at: datetime) -> str:
        """Store a new order with its first event, and return its id. The order is durable when this returns.

        With an Idempotency-Key that the user has used before, returns the id of the earlier order, or raises
        IdempotencyKeyReused if that was a different order. The same order with the same id changes nothing: its first
        request got no answer.
        """
        stored = new_document(order, transition, [encode_event(event)], at, self._outbox.lease_end())
        try:
            self._inserts(stored, self._deadline)
        except InsertRejected as error:
            if not error.duplicate:
                raise
            if order.idempotency_key:
                return self._earlier_order(order)
            if not self._is_stored(order):
                raise
            return order.order_id
        snapshot = OrderSnapshot(state=state_of(stored), newest_undelivered=event.sequence, created_at=at)
        self._keep_recent(order.order_id, snapshot)
        self._outbox.enqueue_local(stored["_id"], [event])
        return order.order_id

    def count_open(self, user_id: str, limit: int) -> int:
        """How many orders of a user wait for the outcome of their payment, counted up to `limit`."""
        with self._store.with_deadline() as documents:
            return documents.count_documents({"userId": user_id, "orderStatus": PROCESSING}, limit=limit)

    def clear_expired_keys(self, seconds: float) -> int:
        """Remove the Idempotency-Keys of orders older than this; returns how many."""
        old = {"createdAt": {"$lt": self.now() - timedelta(seconds=seconds)}, "idempotency.key": {"$exists": True}}
        with self._store.with_deadline() as documents:
            return documents.update_many(old, {"$unset": {"idempotency": ""}}).modified_count

    def transition(
        self,
        order_id: str,
        on_behalf_of: str,
        decide: Callable[[OrderState], OrderTransition | None],
        make_event: Callable[[OrderTransition, int, datetime], Event | None],
    ) -> tuple[OrderState, bool]:
        """Change one order by compare-and-set; `decide` is called again after each lost race.

        `make_event` gets the transition, the sequence of the new event and its time. Returns the new state, and whether
        anything changed. Raises NotFound, what `decide` raises, and Conflict if every attempt lost its race.
        """
        one = filter_of(order_id, on_behalf_of)
        # One deadline for all attempts: a client waits for this.
        with self._store.with_deadline() as documents:
            for _ in range(RETRIES):
                found = documents.find_one(one, STATE)
                if found is None:
                    raise not_found()
                state = state_of(found)
                transition = decide(state)
                if transition is None:
                    return state, False
                at = self.now()
                event = make_event(transition, state.sequence + 1, at)
                after = documents.find_one_and_update(
                    {**one, "userId": found["userId"], "version": state.version},
                    self._with_event(transition_update(state, transition, at), event),
                    {**STATE, "outbox": 1},
                    return_document=ReturnDocument.AFTER,
                )
                if after:
                    if event:
                        earlier = decode_entries(after["outbox"][:-1])
                        self._outbox.enqueue_local(one["_id"], [*earlier, event])
                    return state_of(after), True
        raise Conflict("the order was changed by other requests each time; try again")

    def apply_payment_events(
        self, events: Sequence[PaymentEvent], decide: Callable[[OrderState, Event], OrderTransition | None]
    ) -> list[tuple[Event, OrderTransition]]:
        """Apply a batch of payment events in one command; returns those that changed an order.

        Raises NotFound if an order is missing, and Conflict if every attempt lost a race. What was applied before is
        recognized when the batch is delivered again.
        """
        applied: dict[str, tuple[Event, OrderTransition]] = {}
        snapshots = self._recent_snapshots(events)
        for _ in range(RETRIES):
            snapshots |= self._read([event for event in events if event.order_id not in snapshots])
            patches: dict[str, Patch] = {}
            for event in events:
                snapshot = snapshots[event.order_id]
                transition = None if event.order_id in patches else decide(snapshot.state, event)
                if transition:
                    patches[event.order_id] = payment_event_patch(snapshot, event, transition, self.now())
                    applied[event.event_id] = (event, transition)
            if not patches:
                return list(applied.values())
            with self._store.with_deadline() as documents:
                changed = bulk_compare_and_set(documents, list(patches.values()))
            if changed == len(events):
                self._acknowledge(patches.values())
                self._observe_settled(snapshots, patches)
                return list(applied.values())
            snapshots = {}
        raise Conflict("the orders were changed by other requests each time")

    def _recent_snapshots(self, events: Sequence[PaymentEvent]) -> dict[str, OrderSnapshot]:
        """Snapshots of orders that this process stored, which saves a read; a later change fails the compare-and-set."""
        kept = ((event.order_id, self._recent.pop(event.order_id, None)) for event in events)
        return {order_id: snapshot for order_id, snapshot in kept if snapshot}

    def _keep_recent(self, order_id: str, snapshot: OrderSnapshot) -> None:
        while len(self._recent) >= RECENT_ORDERS:
            self._recent.pop(next(iter(self._recent)), None)
        self._recent[order_id] = snapshot

    def _acknowledge(self, patches: Iterable[Patch]) -> None:
        for patch in patches:
            if "outbox" in patch.sets:
                self._outbox.mark_acknowledged(patch.key)

    def _observe_settled(self, snapshots: dict[str, OrderSnapshot], patches: dict[str, Patch]) -> None:
        now = self.now()
        seconds = [
            (now - snapshots[order_id].created_at).total_seconds()
            for order_id, patch in patches.items()
            if snapshots[order_id].state.order_status == PROCESSING != patch.sets["orderStatus"]
        ]
        if seconds:
            metrics.observations.add(metrics.settlement_duration, seconds)

    def _with_event(self, update: Document, event: Event | None) -> Document:
        if event:
            update["$push"]["outbox"] = encode_event(event)
            update["$set"]["relayDue"] = self._outbox.lease_end()
        return update

    def _read(self, events: Sequence[PaymentEvent]) -> dict[str, OrderSnapshot]:
        if not events:
            return {}
        keys = {(ObjectId(event.order_id), event.user_id) for event in events}
        with self._store.with_deadline() as documents:
            found = documents.find(filter_of_many(keys), SNAPSHOT)
            snapshots = {str(doc["_id"]): snapshot_of(doc) for doc in found}
        missing = {event.order_id for event in events} - snapshots.keys()
        if missing:
            raise NotFound(f"there is no order {min(missing)}")
        return snapshots

    def _insert(self, batch: list[Document]) -> Sequence[Exception | None]:
        with self._store.with_deadline() as documents:
            return bulk_insert(documents, batch)

    def _is_stored(self, order: CreateOrder) -> bool:
        same = {
            "_id": ObjectId(order.order_id),
            "userId": order.user_id,
            "productId": order.product_id,
            "productName": order.product_name,
            "totalOrderAmount": order.total_text,
            **payment_choices(order),
        }
        with self._store.with_deadline() as documents:
            return documents.find_one(same, {"_id": 1}) is not None

    def _earlier_order(self, order: CreateOrder) -> str:
        with self._store.with_deadline() as documents:
            found = documents.find_one(
                {"userId": order.user_id, "idempotency.key": order.idempotency_key}, {"idempotency": 1}
            )
        if found is None:
            raise Conflict("the Idempotency-Key of this order expired just now; try again")
        if found["idempotency"]["fingerprint"] != fingerprint(order):
            raise IdempotencyKeyReused("this Idempotency-Key belongs to another order")
        return str(found["_id"])
