"""The simulated provider passes the contract."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from app.payments.provider_port import Provider, ProviderCall
from app.payments.providers import entries, signed_notifications
from app.payments.providers.ledger import Ledger
from app.payments.providers.signed_notifications import NotificationMessage
from app.payments.providers.simulated import Faults, SimulatedProvider
from app.storage.mongodb import Database, Store
from tests.payments.providers.contract import Behaviour, Fault, ProviderContract, ProviderControls
from tests.payments.providers.movable_clock import MovableClock

PRODUCTS = {
    Behaviour.CAPTURED: "1",
    Behaviour.DECLINED: "2",
    Behaviour.PENDING_CAPTURED: "pending",
    Behaviour.PENDING_DECLINED: "pending-declined",
    Behaviour.ACTION_REQUIRED: "action-required",
    Behaviour.REFUND_FAILS: "refund-fails-later",
    Behaviour.DISPUTED: "disputed",
}
FAULTS = {Fault.BEFORE: Faults(timeout_before=100), Fault.AFTER: Faults(timeout_after=100)}


class SimulatedControls(ProviderControls):
    """The simulated provider with a clock that can be moved on, and its ledger."""

    unknown_reference = "sim_unknown"

    def __init__(self, store: Store) -> None:
        self._clock = MovableClock(store.clock)
        store.clock = self._clock
        self._ledger = Ledger(store)
        self.provider = SimulatedProvider(self._ledger, Faults())
        self.provider.prepare()

    def members(self, behaviour: Behaviour) -> dict[str, Any]:
        return {"product_id": PRODUCTS[behaviour]}

    @contextmanager
    def faulty(self, fault: Fault) -> Iterator[Provider]:
        yield SimulatedProvider(self._ledger, FAULTS[fault])

    def settle(self, charge: ProviderCall) -> None:
        self._clock.move(entries.DELAY)

    def act(self, charge: ProviderCall, approve: bool) -> None:
        entry = self._ledger.find(charge.key)
        self._ledger.update(entry, entries.decision_update(entry, approve))

    def refund_elsewhere(self, charge: ProviderCall, value: int) -> None:
        assert self._ledger.refund(replace(charge, key=f"{charge.key}:dashboard", value=value))

    def fail_refund(self, refund: ProviderCall) -> None:
        self._clock.move(entries.DELAY)

    def open_dispute(self, charge: ProviderCall) -> None:
        self._clock.move(entries.DELAY)

    def close_dispute(self, charge: ProviderCall, won: bool) -> None:
        self.act(charge, won)

    def notification(self, charge: ProviderCall) -> tuple[bytes, dict[str, str]]:
        return self._signed(reference=charge.reference, order_id=charge.order_id)

    def foreign_notification(self) -> tuple[bytes, dict[str, str]]:
        return self._signed(reference="pi_3Mt", order_id="another-shop-7")

    def headers(self, body: bytes, age: float = 0.0) -> dict[str, str]:
        at = self._ledger.now() - timedelta(seconds=age)
        return {signed_notifications.HEADER: signed_notifications.signature(body, self._ledger.secret(), at)}

    def _signed(self, **members: str) -> tuple[bytes, dict[str, str]]:
        body = msgspec.json.encode(NotificationMessage(id="evt_1", type="payment.captured", **members))
        return body, self.headers(body)


class TestSimulatedProvider(ProviderContract):
    """Every case of the contract."""

    @pytest.fixture
    def controls(self, settings) -> Iterator[SimulatedControls]:
        database = Database(settings.mongodb_uri, settings.database)
        yield SimulatedControls(database.collection("ledger", 30.0))
        database.close()
