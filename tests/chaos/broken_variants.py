"""Broken variants of the application, each without one protection of an order.

Each function patches a process before it makes the application. A test that finds no violation in them is useless.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from app.messaging.outbox import EMPTY_OUTBOX, Outbox, PendingEvents
from app.messaging.relay import Relay
from app.orders import repository as orders_repository
from app.orders.documents import OrderSnapshot
from app.orders.repository import OrderRepository
from app.payments import documents as payment_documents
from app.payments import payment as domain
from app.payments.documents import LeasedPayment
from app.payments.repository import PaymentRepository
from app.storage.bulk import Patch, bulk_insert


def outbox_by_a_second_write() -> None:
    """The order is written first, then the event that starts its payment."""

    def insert(self: Any, batch: list[dict[str, Any]]) -> list[Any]:
        late = [{name: doc.pop(name) for name in ("outbox", "relayDue")} for doc in batch]
        with self._store.with_deadline() as documents:
            errors = bulk_insert(documents, [{**doc, "outbox": []} for doc in batch])
            for doc, rest, error in zip(batch, late, errors, strict=True):
                if error is None:
                    documents.update_one({"_id": doc["_id"]}, {"$set": rest})
        return errors

    OrderRepository._insert = insert


def attempt_in_the_provider_key() -> None:
    """Each attempt has its own key, so the provider cannot distinguish a repetition from a new charge."""
    usual = domain._provider_call

    def call(
        payment: domain.Payment, kind: domain.CallKind, refund: domain.Refund | None = None
    ) -> domain.ProviderCall:
        made = usual(payment, kind, refund)
        return replace(made, key=f"{made.key}:{payment.fencing_token}")

    domain._provider_call = call


def no_fencing() -> None:
    """A result is written without a check of the fencing token."""
    usual = PaymentRepository._patch

    def patch(self: Any, *args: Any) -> Patch:
        return replace(usual(self, *args), expected={})

    PaymentRepository._patch = patch


def payment_stored_after_the_call() -> None:
    """The provider is called before the payment is stored."""
    usual = PaymentRepository.save

    def insert(self: Any, payments: list[domain.Payment], _lease_count: int) -> list[LeasedPayment]:
        now = self.now()
        claimed = [domain.claim(payment) for payment in payments]
        return [
            LeasedPayment(payment=payment, outbox=[], key_sent_at=now, lease_end=now + self._lease, under_lease=True)
            for payment in claimed
        ]

    def save(self: Any, updates: list[Any]) -> list[bool]:
        with self._store.with_deadline() as documents:
            for update in updates:
                late = payment_documents.new_document(update.before.payment)
                documents.update_one({"_id": late.pop("_id")}, {"$setOnInsert": late}, upsert=True)
        return usual(self, updates)

    PaymentRepository.insert = insert
    PaymentRepository.save = save


def intent_not_recorded() -> None:
    """The payment is stored, but not that the provider is about to be called for it."""
    usual = payment_documents.new_document

    def new_document(payment: domain.Payment) -> dict[str, Any]:
        return usual(replace(payment, key_sent=False))

    payment_documents.new_document = new_document


def events_removed_before_they_are_delivered() -> None:
    """The relay removes events before it delivers them."""
    usual = Relay._publish_all

    def publish_all(self: Any, batch: list[Any]) -> None:
        for pending in batch:
            pending.delivered = [event.event_id for event in pending.events]
        self._outbox.acknowledge(batch)
        for pending in batch:
            pending.delivered = []
        usual(self, batch)

    Relay._publish_all = publish_all


def no_lease_on_the_outbox() -> None:
    """Events are only in the local queue and never due: no sweep finds those of a dead process."""
    usual = orders_repository.new_document

    def unscheduled(*args: Any) -> dict[str, Any]:
        doc = usual(*args)
        del doc["relayDue"]
        # The validator requires a due time or a dead letter. This dead letter is in no list.
        doc["deadLetter"] = {}
        return doc

    orders_repository.new_document = unscheduled


def answered_before_it_is_stored() -> None:
    """The client gets its 201 before the order is stored."""
    usual = OrderRepository._insert
    kept: list[Any] = []

    def insert(self: Any, batch: list[dict[str, Any]]) -> list[None]:
        kept.append((self, batch))
        return [None] * len(batch)

    take = Outbox.dequeue_local

    def dequeue_local(self: Any, *args: Any) -> list[Any]:
        while kept:
            repository, batch = kept.pop(0)
            usual(repository, batch)
        return take(self, *args)

    OrderRepository._insert = insert
    Outbox.dequeue_local = dequeue_local


def payment_event_acknowledges_undelivered_events() -> None:
    """A payment event removes all events of its order, also those that payments has not received."""
    usual = orders_repository.payment_event_patch

    def acknowledging(snapshot: OrderSnapshot, *args: Any) -> Patch:
        return usual(replace(snapshot, newest_undelivered=0), *args)

    orders_repository.payment_event_patch = acknowledging


def one_delivery_acknowledges_all() -> None:
    """An acknowledgement removes later events of the document too, which are not delivered yet."""

    def acknowledge(self: Any, batch: Iterable[PendingEvents]) -> None:
        keys = [pending.key for pending in batch if pending.delivered]
        if keys:
            with self._store.with_deadline() as documents:
                documents.update_many({"_id": {"$in": keys}}, EMPTY_OUTBOX)

    Outbox.acknowledge = acknowledge


BROKEN_VARIANTS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        outbox_by_a_second_write,
        attempt_in_the_provider_key,
        no_fencing,
        payment_stored_after_the_call,
        intent_not_recorded,
        events_removed_before_they_are_delivered,
        no_lease_on_the_outbox,
        answered_before_it_is_stored,
        payment_event_acknowledges_undelivered_events,
        one_delivery_acknowledges_all,
    )
}
