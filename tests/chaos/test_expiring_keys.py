"""The provider of a chaos run knows a key for its key life, and moves money again under an expired one."""

from dataclasses import replace
from datetime import timedelta

import pytest

from app.payments.provider_port import CallKind, ProviderCall, ResponseCode
from app.payments.providers.simulated import Faults, SimulatedProvider
from app.storage.mongodb import Database
from tools.chaos.expiring_keys import ExpiringKeyLedger
from tools.chaos.time_jump import older

LIFE = 3600.0
CHARGE = ProviderCall(
    kind=CallKind.CHARGE, key="a:1", charge_key="a:1", order_id="a", product_id="1", value=900, currency="MYR"
)
REFUND = replace(CHARGE, kind=CallKind.REFUND, key="a:1:refund:one", value=400, refund_id="one")


@pytest.fixture
def ledger(mongodb_uri, settings):
    database = Database(mongodb_uri, settings.database)
    made = ExpiringKeyLedger(database.collection("ledger", 5.0), LIFE)
    made.prepare()
    yield made
    database.close()


@pytest.fixture
def wait(database):
    """Makes the ledger entries older by a number of seconds."""

    def passed(seconds):
        for entry in database.ledger.find({}):
            database.ledger.replace_one({"_id": entry["_id"]}, older(entry, timedelta(seconds=seconds)))

    return passed


def test_a_known_key_is_charged_once(ledger, database, wait):
    first = ledger.record(CHARGE, ResponseCode.CAPTURED)
    wait(LIFE - 60)

    assert ledger.record(CHARGE, ResponseCode.VOIDED)["_id"] == first["_id"]
    assert ledger.find(CHARGE.key)["answer"] == ResponseCode.CAPTURED
    assert database.ledger.count_documents({}) == 1


def test_an_expired_key_is_not_found_and_is_charged_again(ledger, database, wait):
    ledger.record(CHARGE, ResponseCode.CAPTURED)
    wait(LIFE + 60)

    assert ledger.find(CHARGE.key) is None
    ledger.record(CHARGE, ResponseCode.CAPTURED)
    assert database.ledger.count_documents({"orderId": "a", "answer": "captured"}) == 2


def test_a_known_refund_is_made_once_and_an_expired_one_again_while_the_charge_covers_it(ledger, database, wait):
    ledger.record(CHARGE, ResponseCode.CAPTURED)
    refunded = []
    for seconds in (0, LIFE - 60, 120, LIFE + 60):
        wait(seconds)
        refunded.append((ledger.refund(REFUND), database.ledger.find_one({})["refunded"]))

    assert refunded == [(True, 400), (True, 400), (True, 800), (False, 800)]


def test_a_refund_that_failed_is_not_made_again_and_none_of_a_disputed_charge_is(ledger, database):
    ledger.record(CHARGE, ResponseCode.CAPTURED)
    failed = {"key": REFUND.key, "value": 400, "at": ledger.now()}
    database.ledger.update_one({}, {"$set": {"failedRefunds": [failed]}})
    assert not ledger.refund(REFUND)

    dispute = {"value": 900, "status": "open", "at": ledger.now()}
    database.ledger.update_one({}, {"$set": {"dispute": dispute}, "$unset": {"failedRefunds": ""}})
    assert not ledger.refund(REFUND)


def test_a_payment_that_is_held_is_voided_by_its_id_when_its_key_has_expired(ledger, database, wait):
    provider = SimulatedProvider(ledger, Faults())
    held = provider.charge(replace(CHARGE, manual_capture=True))
    wait(LIFE + 60)

    voided = provider.void(replace(CHARGE, kind=CallKind.VOID, reference=held.reference))
    assert voided.code == ResponseCode.VOIDED
    assert [entry["answer"] for entry in database.ledger.find()] == ["voided"]


def test_nothing_goes_back_of_what_was_not_captured(ledger):
    ledger.record(CHARGE, ResponseCode.DECLINED)

    assert not ledger.refund(REFUND)
