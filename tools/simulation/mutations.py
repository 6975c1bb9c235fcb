"""Copies of the application without one protection each. Seeds must find a violation in every one of them.

Each function patches the process that calls it, before any application is made in it.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from app.messaging.outbox import EMPTY_OUTBOX, Outbox, PendingEvents
from app.messaging.relay import Relay
from app.orders import order
from app.orders import repository as orders_repository
from app.orders.documents import OrderSnapshot
from app.orders.repository import OrderRepository
from app.payments import charge_outcomes, provider_calls, provider_record, provider_responses
from app.payments import documents as payment_documents
from app.payments import payment as domain
from app.payments.documents import LeasedPayment
from app.payments.manual_review import ManualReview
from app.payments.notifications import NotificationService
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers import signed_notifications
from app.payments.repository import PaymentRepository
from app.payments.results import ResultWriter
from app.storage.bulk import Patch, bulk_insert


def _write_without(*missing: str) -> None:
    usual = PaymentRepository._patch

    def patch(self: Any, *args: Any) -> Patch:
        made = usual(self, *args)
        return replace(made, expected={name: value for name, value in made.expected.items() if name not in missing})

    PaymentRepository._patch = patch


def no_fence_and_no_version() -> None:
    """A result is written whatever happened to its payment meanwhile."""
    _write_without("fencingToken", "version")


def no_fence() -> None:
    """A result of an attempt that lost its lease is decided again and written."""
    _write_without("fencingToken")
    PaymentRepository.reload_if_unanswered = lambda self, leased: self.find(leased.payment.order_id)


def no_version_of_orders() -> None:
    """An order is changed whatever another request did to it meanwhile."""
    usual = orders_repository.payment_event_patch

    def patch(*args: Any) -> Patch:
        return replace(usual(*args), expected={})

    orders_repository.payment_event_patch = patch


def no_key_age() -> None:
    """A key is sent however old it is."""
    provider_calls.may_send = lambda *_: True


def no_horizon() -> None:
    """A payment is retried for ever."""

    def retry(payment: Any, response: Any, _key_age: float, policy: Any) -> Any:
        payment = provider_responses._after_failure(payment, response)
        pause = max(domain.backoff(payment.retry_count, policy), response.retry_after)
        return domain.PaymentDecision(payment=payment, due_in=pause, detail=response.reason)

    provider_responses._retry_or_park = retry
    provider_responses.park_if_exhausted = lambda *_: None


def no_jitter() -> None:
    """Retries of many payments come at once."""
    ResultWriter._jittered = lambda _self, seconds: seconds


def settled_during_the_call() -> None:
    """An operator may settle a payment whose last call has not reached the provider yet."""
    ManualReview._forbid_during_call = lambda *_: None


def attempt_in_the_key() -> None:
    """Each attempt has a key of its own."""
    usual = provider_calls._provider_call

    def call(*args: Any) -> Any:
        made = usual(*args)
        return replace(made, key=f"{made.key}:{args[0].fencing_token}")

    provider_calls._provider_call = call


def intent_after_the_call() -> None:
    """The payment is stored after the provider was called."""
    usual = PaymentRepository.save

    def insert(self: Any, payments: list[domain.Payment], _lease_count: int) -> list[LeasedPayment]:
        now = self.now()
        return [
            LeasedPayment(
                payment=domain.claim(one), outbox=[], key_sent_at=now, lease_end=now + self._lease, under_lease=True
            )
            for one in payments
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
    """The payment is stored without a mark that the provider is about to be called for it."""
    usual = payment_documents.new_document

    def new_document(payment: domain.Payment) -> dict[str, Any]:
        return usual(replace(payment, key_sent=False))

    payment_documents.new_document = new_document


def answer_before_the_write() -> None:
    """The client is answered before its order is stored."""
    usual = OrderRepository._insert
    kept: list[Any] = []
    dequeue = Outbox.dequeue_local

    def insert(self: Any, batch: list[dict[str, Any]]) -> list[None]:
        kept.append((self, batch))
        return [None] * len(batch)

    def dequeue_local(self: Any, *args: Any) -> list[Any]:
        while kept:
            repository, batch = kept.pop(0)
            usual(repository, batch)
        return dequeue(self, *args)

    OrderRepository._insert = insert
    Outbox.dequeue_local = dequeue_local


def event_in_a_second_write() -> None:
    """The order is written first, then the event that starts its payment."""

    def insert(self: Any, batch: list[dict[str, Any]]) -> list[Any]:
        early = [{**doc, "outbox": []} for doc in batch]
        for doc in early:
            del doc["relayDue"]
        with self._store.with_deadline() as documents:
            errors = bulk_insert(documents, early)
            for doc, error in zip(batch, errors, strict=True):
                if error is None:
                    late = {name: doc[name] for name in ("outbox", "relayDue")}
                    documents.update_one({"_id": doc["_id"]}, {"$set": late})
        return errors

    OrderRepository._insert = insert


def acknowledged_before_delivery() -> None:
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


def one_delivery_acknowledges_all() -> None:
    """An acknowledgement removes later events of the document too."""

    def acknowledge(self: Any, batch: Iterable[PendingEvents]) -> None:
        keys = [pending.key for pending in batch if pending.delivered]
        if keys:
            with self._store.with_deadline() as documents:
                documents.update_many({"_id": {"$in": keys}}, EMPTY_OUTBOX)

    Outbox.acknowledge = acknowledge


def payment_event_acknowledges_all() -> None:
    """A payment event removes all events of its order, also those that payments has not received."""
    usual = orders_repository.payment_event_patch

    def patch(snapshot: OrderSnapshot, *args: Any) -> Patch:
        return usual(replace(snapshot, newest_undelivered=0), *args)

    orders_repository.payment_event_patch = patch


def dead_letter_is_dropped() -> None:
    """An event that is refused too often is removed."""

    def dead_letter(self: Any, key: Any, event_id: str, _reason: str, _failures: int) -> None:
        self.acknowledge([PendingEvents(key, (), delivered=[event_id])])

    Outbox.dead_letter = dead_letter


def dead_letter_is_passed_over() -> None:
    """The events behind a dead letter are delivered before it is replayed."""

    def dead_letter(self: Any, key: Any, event_id: str, reason: str, failures: int) -> None:
        letter = {"reason": reason, "event_id": event_id, "failures": failures, "at": self._store.clock.now()}
        with self._store.with_deadline() as documents:
            documents.update_one(
                {"_id": key, "outbox.0.event_id": event_id},
                {"$set": {"deadLetter": letter}, "$pop": {"outbox": -1}, "$unset": {"relayFailures": ""}},
            )

    Outbox.dead_letter = dead_letter


def no_dead_letters() -> None:
    """An event that is refused is retried for ever, and no operator is told."""
    Relay._dead_letter = lambda *_: None


def poison_holds_all_back() -> None:
    """A batch with one event that is refused is not split: its neighbours fail with it."""

    def publish_group(self: Any, group: Any) -> None:
        error = self._publish([event for _, event in group], False)
        for pending, event in group:
            self._record_result(pending, event, error)

    Relay._publish_group = publish_group


def no_order_of_payment_events() -> None:
    """An order applies a payment event again, and one that comes late."""
    usual = order.apply_payment_event

    def apply(state: Any, event: Any) -> Any:
        return usual(replace(state, payment_sequence=event.sequence - 1), event)

    order.apply_payment_event = apply


def no_lease_of_events() -> None:
    """Events of a dead process are never due again."""
    usual = orders_repository.new_document

    def new_document(*args: Any) -> dict[str, Any]:
        doc = usual(*args)
        del doc["relayDue"]
        # The validator demands a due time or a dead letter. This dead letter is in no list.
        doc["deadLetter"] = {}
        return doc

    orders_repository.new_document = new_document


def key_may_be_used_twice() -> None:
    """An order is stored without its idempotency key."""
    usual = orders_repository.new_document

    def new_document(*args: Any) -> dict[str, Any]:
        doc = usual(*args)
        doc.pop("idempotency", None)
        return doc

    orders_repository.new_document = new_document


def key_expires_early() -> None:
    """An idempotency key is removed an hour after its order was placed."""
    usual = OrderRepository.clear_expired_keys
    OrderRepository.clear_expired_keys = lambda self, _seconds: usual(self, 3600.0)


def waiting_never_expires() -> None:
    """A payment waits for its customer, its bank or its capture for ever."""
    domain.expire_if_overdue = lambda payment, _now: payment


def waiting_is_charged_again() -> None:
    """A payment that is pending is charged once more with another key."""
    usual = charge_outcomes.pending

    def pending(payment: domain.Payment, *rest: Any) -> domain.PaymentDecision:
        if payment.generation > 1:
            return usual(payment, *rest)
        again = replace(payment, generation=payment.generation + 1, reference="", retry_count=0)
        return domain.PaymentDecision(payment=replace(again, status=domain.PaymentStatus.PROCESSING), due_in=60.0)

    provider_responses.pending = provider_record.pending = pending


def notification_is_believed() -> None:
    """What a notification says of a payment is recorded, and the provider is not asked."""
    usual = NotificationService._apply
    said = {"payment.captured": ResponseCode.CAPTURED, "payment.declined": ResponseCode.DECLINED}

    def apply(self: Any, doc: dict[str, Any]) -> None:
        current = self._payments.find(doc["orderId"])
        if current is None or doc["type"] not in said or current.payment.status not in domain.WAITING:
            usual(self, doc)
            return
        call, response = provider_calls.next_call(current.payment), ProviderResponse(code=said[doc["type"]])
        policy = self._results._policy
        decision = provider_responses.apply_response(current.payment, call, response, 0.0, policy, self._payments.now())
        self._results.save(current, decision)
        self._finish(doc, "applied")

    NotificationService._apply = apply


def notification_is_not_verified() -> None:
    """A notification is taken whoever has signed it."""
    signed_notifications._verified_time = lambda _body, header, _secret: int(header[2:].partition(",")[0])


def facts_after_the_capture_are_not_read() -> None:
    """Refunds and disputes in the provider's record of a captured payment are passed over."""
    provider_record._refund_difference = provider_record._dispute_difference = lambda *_: None


MUTATIONS: dict[str, Callable[[], None]] = {
    name: found
    for name, found in vars(sys.modules[__name__]).items()
    if callable(found) and getattr(found, "__module__", "") == __name__ and not name.startswith("_")
}
