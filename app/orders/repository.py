"""Writes orders: each change is one compare-and-set of state, timeline and outbox together."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec
from bson import ObjectId
from pymongo import ReturnDocument

from app.contracts.base import Conflict, Event, NotFound
from app.contracts.orders import (
    CaptureOrder,
    CreateOrder,
    IdempotencyKeyReused,
    OrderChanged,
    RefundOrder,
    UpdateMetadata,
    UpdateOrder,
)
from app.contracts.payments import PaymentEvent
from app.messaging.outbox import OUTBOX, Outbox, OutboxFields, decode_entries, encode_event
from app.observability import metrics
from app.orders.changes import Cause, order_changed
from app.orders.documents import (
    CHANGES,
    INDEXES,
    SCHEMA,
    SNAPSHOT,
    STATE,
    OrderSnapshot,
    filter_of,
    filter_of_many,
    fingerprint,
    key_of,
    new_document,
    not_found,
    payment_choices,
    payment_event_patch,
    shown_of,
    snapshot_of,
    state_of,
    transition_update,
    view_after,
    view_with_items_of,
)
from app.orders.order import NOT_STORED, PROCESSING, OrderState, OrderTransition
from app.storage.bulk import InsertRejected, Patch, bulk_compare_and_set, bulk_insert
from app.storage.group_commit import GroupCommit
from app.storage.mongodb import Document, Store
from app.system import SYSTEM, System

RETRIES = 8
# New orders whose snapshot is kept in memory until their first payment event.
RECENT_ORDERS = 8192


class OrderRepository:
    """Stores orders. `deadline` is how many seconds a new order may wait for its group commit.

    The changes of the orders of `subscribed` users are written to the outbox `changes`.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        deadline: float,
        subscribed: Container[str] = frozenset(),
        system: System = SYSTEM,
    ) -> None:
        self._system = system
        self.changes = Outbox(store, outbox.lease_seconds, system, CHANGES)
        self._subscribed = subscribed
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

    def _time_after(self, updated_at: datetime) -> datetime:
        """The database's time, but never before the order's last change: each process estimates it for itself."""
        return max(self.now(), updated_at)

    def add(self, order: CreateOrder, transition: OrderTransition, event: Event, at: datetime) -> str:
        """Store a new order with its first event, and return its id. The order is durable when this returns.

        With an Idempotency-Key that the user has used before, returns the id of the earlier order, or raises
        IdempotencyKeyReused if that was a different order. The same order with the same id changes nothing: its first
        request got no answer.
        """
        stored = new_document(order, transition, [encode_event(event)], at, self._outbox.lease_end())
        change = self._changed(order, order.user_id, replace(NOT_STORED, metadata=order.metadata), transition, at)
        if change:
            stored |= {CHANGES.events: [encode_event(change)], CHANGES.due: self.changes.lease_end()}
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
        snapshot = snapshot_of(stored)
        self._keep_recent(order.order_id, replace(snapshot, shown=shown_of(stored)) if change else snapshot)
        self._outbox.enqueue_local(stored["_id"], [event])
        if change:
            self.changes.enqueue_local(
                stored["_id"], [msgspec.structs.replace(change, order=view_with_items_of(stored))]
            )
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

    def drop_changes(self) -> int:
        """Remove the changes that were not told, where nobody is told any more; returns of how many orders."""
        with self._store.with_deadline() as documents:
            untold = [{name: {"$exists": True}} for name in (CHANGES.due, f"{CHANGES.dead}.at")]
            return documents.update_many({"$or": untold}, CHANGES.emptied).modified_count

    def transition(
        self,
        request: UpdateOrder | CaptureOrder | RefundOrder | UpdateMetadata,
        decide: Callable[[OrderState], OrderTransition | None],
        make_event: Callable[[OrderTransition, int, datetime], Event | None],
    ) -> tuple[OrderState, bool]:
        """Change the order of a request by compare-and-set; `decide` is called again after each lost race.

        `make_event` gets the transition, the sequence of the new event and its time. Returns the new state, and whether
        anything changed. Raises NotFound, what `decide` raises, and Conflict if every attempt lost its race.
        """
        one = filter_of(request.order_id, request.on_behalf_of)
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
                at = self._time_after(found["updatedAt"])
                event = make_event(transition, state.sequence + 1, at)
                change = self._changed(request, found["userId"], state, transition, at)
                update = transition_update(state, transition, at)
                _add_event(update, OUTBOX, self._outbox, event)
                _add_event(update, CHANGES, self.changes, change)
                after = documents.find_one_and_update(
                    {**one, "userId": found["userId"], "version": state.version},
                    update,
                    {**STATE, "outbox": 1, CHANGES.events: 1},
                    return_document=ReturnDocument.AFTER,
                )
                if after:
                    if event:
                        self._outbox.enqueue_local(one["_id"], [*decode_entries(after["outbox"][:-1]), event])
                    if change:
                        earlier = decode_entries(after[CHANGES.events][:-1])
                        self.changes.enqueue_local(one["_id"], [*earlier, change])
                    return state_of(after), True
        raise Conflict("the order was changed by other requests each time; try again")

    def replay(self, order_id: str, transition_of: Callable[[OrderState], OrderTransition]) -> bool:
        """Make an order's dead letter due again, with a transition in its timeline; false where it has none.

        That of a change that was not told has no transition: the order is not affected. Raises Conflict if every attempt lost its race.
        """
        key = key_of(order_id)
        for _ in range(RETRIES):
            with self._store.with_deadline() as documents:
                found = documents.find_one({"_id": key}, {**STATE, "deadLetter.at": 1})
            if found is None or "deadLetter" not in found:
                return self.changes.replay(key)
            state = state_of(found)
            expected = {"userId": found["userId"], "version": state.version}
            update = transition_update(state, transition_of(state), self._time_after(found["updatedAt"]))
            if self._outbox.replay(key, expected, update):
                return True
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
            changes: list[OrderChanged] = []
            for event in events:
                snapshot = snapshots[event.order_id]
                transition = None if event.order_id in patches else decide(snapshot.state, event)
                if transition:
                    at = self._time_after(snapshot.updated_at)
                    patches[event.order_id] = payment_event_patch(snapshot, event, transition, at)
                    change = self._changed(event, snapshot.user_id, snapshot.state, transition, at)
                    if change:
                        patches[event.order_id] = self._with_change(patches[event.order_id], change, snapshot.state)
                        changes.append(change)
                    applied[event.event_id] = (event, transition)
            if not patches:
                return list(applied.values())
            with self._store.with_deadline() as documents:
                changed = bulk_compare_and_set(documents, list(patches.values()))
            if changed == len(events):
                self._acknowledge(patches.values())
                for change in changes:
                    self._enqueue_change(change, snapshots[change.order_id].shown, patches[change.order_id])
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
            for names, outbox in ((OUTBOX, self._outbox), (CHANGES, self.changes)):
                if names.events in patch.sets:
                    outbox.mark_acknowledged(patch.key)

    def _observe_settled(self, snapshots: dict[str, OrderSnapshot], patches: dict[str, Patch]) -> None:
        now = self.now()
        seconds = [
            (now - snapshots[order_id].created_at).total_seconds()
            for order_id, patch in patches.items()
            if snapshots[order_id].state.order_status == PROCESSING != patch.sets["orderStatus"]
        ]
        if seconds:
            metrics.observations.add(metrics.settlement_duration, seconds)

    def _changed(
        self, cause: Cause, user_id: str, state: OrderState, transition: OrderTransition, at: datetime
    ) -> OrderChanged | None:
        """The event that tells a change, where somebody wants to hear it."""
        if user_id not in self._subscribed:
            return None
        return order_changed(self._system.new_id(), cause, user_id, state, transition, at)

    def _enqueue_change(self, change: OrderChanged, shown: Document, patch: Patch) -> None:
        """Have a change published that was just written, with the order where it is at hand."""
        told = msgspec.structs.replace(change, order=view_after(shown, patch)) if shown else change
        self.changes.enqueue_local(patch.key, [told])

    def _with_change(self, patch: Patch, change: OrderChanged, state: OrderState) -> Patch:
        sets, added = {**patch.sets, CHANGES.due: self.changes.lease_end()}, {CHANGES.events: [encode_event(change)]}
        if state.sequence == 1 and self.changes.is_delivered(patch.key):
            # There is no change but that of the creation: this write acknowledges it.
            return replace(patch, sets={**sets, **added})
        return replace(patch, sets=sets, pushes={**patch.pushes, **added})

    def _read(self, events: Sequence[PaymentEvent]) -> dict[str, OrderSnapshot]:
        if not events:
            return {}
        keys = {(ObjectId(event.order_id), event.user_id) for event in events}
        with self._store.with_deadline() as documents:
            found = documents.find(filter_of_many(keys), SNAPSHOT)
            snapshots = {str(doc["_id"]): snapshot_of(doc) for doc in found}
        missing = {event.order_id for event in events} - snapshots.keys()
        if missing:
            # Their user's id may have been erased since the events were stored.
            with self._store.with_deadline() as documents:
                found = documents.find(filter_of_many({(ObjectId(order_id), "") for order_id in missing}), SNAPSHOT)
                snapshots |= {str(doc["_id"]): snapshot_of(doc) for doc in found}
            missing -= snapshots.keys()
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


def _add_event(update: Document, names: OutboxFields, outbox: Outbox, event: Event | None) -> None:
    if event:
        update["$push"][names.events] = encode_event(event)
        update["$set"][names.due] = outbox.lease_end()
