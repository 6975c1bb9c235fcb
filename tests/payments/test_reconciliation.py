"""The provider's own list against the payments, by id and amount."""

from dataclasses import replace
from datetime import timedelta

import pytest

from app.payments.provider_port import (
    DisputeStatus,
    ProviderDispute,
    ProviderPayment,
    ProviderRefund,
    ProviderResponse,
    ResponseCode,
)
from app.payments.reconciliation import Reconciliation


@pytest.fixture
def captured(worker, lease_payment):
    """A captured payment's order id."""
    leased = lease_payment()
    worker.process(leased)
    return leased.payment.order_id


@pytest.fixture
def listed(provider, payments):
    """Let the provider list a payment, and answer with it."""

    def add(order_id, reference=None, captured=9900, refunded=0):
        reference = reference or f"ref-{order_id}:1"
        provider.listed.append(
            ProviderPayment(
                reference=reference,
                order_id=order_id,
                at=payments.now(),
                code=ResponseCode.CAPTURED,
                currency="MYR",
                captured=captured,
                refunded=refunded,
            )
        )
        refunds = (ProviderRefund(reference="re_1", value=refunded, code=ResponseCode.REFUNDED),) if refunded else ()
        provider.responses.append(ProviderResponse(code=ResponseCode.CAPTURED, value=captured, refunds=refunds))

    return add


@pytest.fixture
def differences(provider, payments):
    """The kinds of the differences of the last hour."""

    def find():
        found = Reconciliation(provider, payments).differences(payments.now() - timedelta(hours=1))
        return [(one.kind, one.order_id, one.mend) for one in found]

    return find


def test_equal_lists_have_no_difference(captured, listed, differences):
    listed(captured)
    assert differences() == []


@pytest.mark.parametrize(("amount", "refunded"), [(9800, 0), (9900, 100)], ids=["captured", "refunded"])
def test_another_amount_is_a_difference_that_a_refresh_mends(captured, listed, differences, amount, refunded):
    listed(captured, captured=amount, refunded=refunded)
    assert differences() == [("amounts", captured, f"payments refresh {captured}")]


@pytest.mark.parametrize(
    ("status", "found"), [(DisputeStatus.OPEN, []), (DisputeStatus.LOST, ["dispute"]), (DisputeStatus.WON, ["amounts"])]
)
def test_a_dispute_that_has_ended_is_found_although_a_lost_one_moves_no_more_money(
    captured, listed, differences, provider, database, status, found
):
    known = {"dispute_id": "dp_1", "value": 9900, "status": "open"}
    database.payments.update_one({"_id": captured}, {"$set": {"status": "Disputed", "disputes": [known]}})
    listed(captured)
    provider.listed[0] = replace(provider.listed[0], disputed=0 if status == DisputeStatus.WON else 9900)
    disputes = (ProviderDispute(reference="dp_1", value=9900, status=status),)
    provider.responses = [ProviderResponse(code=ResponseCode.CAPTURED, value=9900, disputes=disputes)]
    assert differences() == [(kind, captured, f"payments refresh {captured}") for kind in found]


def test_a_dispute_that_was_opened_and_won_unseen_is_found_although_the_amounts_are_equal(
    captured, listed, differences, provider
):
    listed(captured)
    provider.listed[0] = replace(provider.listed[0], disputes=1)
    disputes = (ProviderDispute(reference="dp_1", value=9900, status=DisputeStatus.WON),)
    provider.responses = [ProviderResponse(code=ResponseCode.CAPTURED, value=9900, disputes=disputes)]
    assert differences() == [("dispute", captured, f"payments refresh {captured}")]


def test_a_dispute_that_is_recorded_and_won_is_no_difference(captured, listed, differences, provider, database):
    known = {"dispute_id": "dp_1", "value": 9900, "status": "won"}
    database.payments.update_one({"_id": captured}, {"$set": {"disputes": [known]}})
    listed(captured)
    provider.listed[0] = replace(provider.listed[0], disputes=1)
    provider.responses.clear()
    assert (differences(), provider.calls[1:]) == ([], [])


def test_a_second_charge_of_an_order_is_found(captured, listed, differences, provider):
    listed(captured)
    listed(captured, reference="pi_other")
    provider.responses.clear()
    assert differences() == [("charged twice", captured, "refund it at the provider")]


def test_a_charge_without_payment_is_found_and_one_of_another_program_is_not(listed, differences):
    listed("692000000000000000000000")
    listed("", reference="pi_foreign")
    assert [kind for kind, *_ in differences()] == ["no payment"]


def test_a_captured_payment_that_the_provider_does_not_know_is_found(captured, provider, differences):
    provider.responses = [ProviderResponse(code=ResponseCode.VOIDED)]
    assert differences() == [("not at the provider", captured, f"payments refresh {captured}")]


def test_a_difference_that_has_gone_at_the_second_read_does_not_count(captured, listed, differences, provider):
    listed(captured, refunded=100)
    provider.responses = [ProviderResponse(code=ResponseCode.CAPTURED, value=9900)]
    assert differences() == []


def test_what_is_still_worked_on_does_not_count(lease_payment, listed, differences):
    listed(lease_payment().payment.order_id)
    assert differences() == []
