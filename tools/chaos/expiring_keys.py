"""A simulated payment provider whose idempotency keys expire, and which does not deliver its notifications by itself.

Its ledger keeps one document a charge, with the idempotency key of the call. A key expires when its charge or refund is
older than the provider's key life; a call with an expired key moves money again.
"""

from datetime import datetime, timedelta

from pymongo import DESCENDING

from app.config import Settings
from app.payments.provider_port import Provider, ProviderCall, ResponseCode
from app.payments.providers.entries import TAKEN_BACK
from app.payments.providers.ledger import Ledger
from app.payments.providers.simulated import Faults, SimulatedProvider
from app.storage.bulk import InsertRejected
from app.storage.mongodb import Document, Store


class ExpiringKeyLedger(Ledger):
    """A ledger that recognises a key for `key_life` seconds; the n-th charge of a key has the id `<key>~<n>`."""

    def __init__(self, store: Store, key_life: float) -> None:
        super().__init__(store)
        self._store = store
        self._key_life = timedelta(seconds=key_life)

    def prepare(self) -> None:
        """Creates the collection and its indexes."""
        super().prepare()
        with self._store.with_deadline() as entries:
            entries.create_index([("key", 1), ("at", -1)])

    def record(
        self, call: ProviderCall, code: ResponseCode, reason: str = "", members: Document | None = None
    ) -> Document:
        """Records `code` under the call's key, or returns the entry of that key if it has not expired."""
        while True:
            latest = self._latest({"key": call.key})
            if latest and not self._expired(latest["at"]):
                return latest
            number = latest["number"] + 1 if latest else 1
            entry = self._entry(call, code, reason, number) | (members or {})
            try:
                self._inserts(entry, self.INSERT_TIMEOUT_SECONDS)
            except InsertRejected as exc:
                if not exc.duplicate:
                    raise
                continue  # Another process recorded it at the same moment.
            return entry

    def refund(self, call: ProviderCall, fails_at: datetime | None = None) -> bool:
        """Records a refund unless its key is known; false if the charge does not cover it."""
        charge = self._latest({"key": call.charge_key, "answer": ResponseCode.CAPTURED.value})
        if charge is None:
            return False
        now = self._store.clock.now()
        known = {"$not": {"$elemMatch": {"key": call.key, "at": {"$gt": now - self._key_life}}}}
        with self._store.with_deadline() as entries:
            entries.update_one(
                {
                    "_id": charge["_id"],
                    "refunds": known,
                    "failedRefunds": known,
                    "dispute.status": {"$nin": TAKEN_BACK},
                    "$expr": {"$lte": [{"$add": ["$refunded", call.value]}, "$value"]},
                },
                self._refund_changes(call, fails_at),
            )
        return self.has_refund(call)

    def has_refund(self, call: ProviderCall) -> bool:
        """Whether the refund is recorded and its key has not expired."""
        since = self._store.clock.now() - self._key_life
        known = {"refunds": {"$elemMatch": {"key": call.key, "at": {"$gt": since}}}}
        return self._latest({"key": call.charge_key, **known}) is not None

    def find(self, key: str) -> Document | None:
        """Returns the entry of a charge key that has not expired."""
        latest = self._latest({"key": key})
        return latest if latest and not self._expired(latest["at"]) else None

    def claim_notices(self, limit: int, retry_at: datetime) -> list[tuple[Document, list[Document]]]:  # noqa: ARG002
        """Returns none: the chaos run sends the notices itself."""
        return []

    def _latest(self, query: Document) -> Document | None:
        with self._store.with_deadline() as entries:
            return entries.find_one(query, sort=[("at", DESCENDING), ("number", DESCENDING)])

    def _expired(self, at: datetime) -> bool:
        return at <= self._store.clock.now() - self._key_life

    def _entry(self, call: ProviderCall, code: ResponseCode, reason: str, number: int) -> Document:
        return {
            "_id": f"{call.key}~{number}",
            "key": call.key,
            "number": number,
            "orderId": call.order_id,
            "answer": code.value,
            "reason": reason,
            "value": call.value,
            "currency": call.currency,
            "refunded": 0,
            "refunds": [],
            "at": self._store.clock.now(),
        }


def make_provider(settings: Settings, store: Store) -> Provider:
    """Returns a provider with the faults that the SIMULATED_… settings describe and keys that expire."""
    faults = Faults(
        latency_ms=settings.simulated_latency_ms,
        fail=settings.simulated_fail_percent,
        timeout_before=settings.simulated_timeout_before_percent,
        timeout_after=settings.simulated_timeout_after_percent,
    )
    ledger = ExpiringKeyLedger(store, settings.provider_key_hours * 3600)
    return SimulatedProvider(ledger, faults, settings.simulated_unknown_product, settings.demonstrations)
