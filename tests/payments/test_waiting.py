"""Payments that are opened first, wait for somebody, or are refreshed: through the worker, on the real database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from app.contracts.orders import CaptureRequested, RefundRequested
from app.contracts.payments import ExplainPayment
from app.payments import payment as domain
from app.payments.payment import RetryPolicy
from app.payments.provider_port import (
    ActionKind,
    DisputeStatus,
    NextAction,
    ProviderDispute,
    ProviderRefund,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers.simulated import CAPABILITIES
from app.payments.queries import PaymentQueries
from app.payments.results import ResultWriter
from app.payments.service import PaymentService

OPENING = replace(CAPABILITIES, opens=True)
ACTION = NextAction(type=ActionKind.REDIRECT, url="https://bank.example/3ds")
WAITS = ProviderResponse(code=ResponseCode.PENDING, reference="pi_1", action=ACTION)
UNKNOWN = ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer in time")
REFUND = {"refund_id": "r-1", "refund_value": 900}


def types(doc):
    return [entry["type"] for entry in doc["outbox"]]


@pytest.fixture
def opening(provider):
    """The provider opens payments before it charges them."""
    provider.capabilities = OPENING
    return provider


@pytest.fixture
def lease(payments, created):
    """A new payment under a lease of the first process."""

    def make(capabilities=OPENING, **changes):
        [leased] = payments.insert([domain.open_payment(created(**changes), capabilities)], 1)
        return leased

    return make


@pytest.fixture
def publish(worker, payments):
    """Deliver an event of orders to payments."""

    def deliver(kind, order_id, sequence=2, **members):
        event = kind(event_id=f"e-{sequence}", order_id=order_id, sequence=sequence, request_id="r", at=1, **members)
        service = PaymentService(worker, ResultWriter(payments, worker._policy), CAPABILITIES)
        {CaptureRequested: service.on_captures_requested, RefundRequested: service.on_refunds_requested}[kind]([event])

    return deliver


def test_the_id_of_an_opened_payment_is_on_record_before_it_is_charged(
    worker, opening, lease, take_up, stored, database
):
    seen = {}
    opening.on_call = lambda verb, call: seen.setdefault(verb, database.payments.find_one(call.order_id))
    leased = lease()
    order_id = leased.payment.order_id
    worker.process(leased)
    assert (stored(order_id)["status"], stored(order_id)["reference"]) == ("Processing", f"ref-{order_id}:1:open:1")
    worker.process(take_up(order_id))
    assert opening.calls == [("open", f"{order_id}:1:open:1"), ("charge", f"{order_id}:1")]
    assert (seen["open"].get("reference", ""), seen["charge"]["reference"]) == ("", f"ref-{order_id}:1:open:1")
    assert (stored(order_id)["status"], types(stored(order_id))) == ("Captured", ["PaymentCaptured"])


def test_an_unknown_charge_of_an_opened_payment_is_found_and_never_parked_for_its_age(
    make_worker, payments, opening, lease, take_up, stored, make_due
):
    policy = RetryPolicy(max_tries=50, horizon=0.001, key_life=0.001, backoff=100.0, backoff_max=100.0)
    worker = make_worker(payments, policy=policy)
    leased = lease()
    order_id = leased.payment.order_id
    worker.process(leased)
    opening.responses = [UNKNOWN]
    worker.process(take_up(order_id))
    for _ in range(3):
        opening.responses = [UNKNOWN]
        make_due(order_id)
        worker.process(take_up(order_id))
        assert stored(order_id)["status"] == "Processing"
    opening.found[f"{order_id}:1"] = ProviderResponse(code=ResponseCode.CAPTURED)
    make_due(order_id)
    worker.process(take_up(order_id))
    assert stored(order_id)["status"] == "Captured"
    assert [verb for verb, _ in opening.calls].count("open") == 1


def test_an_order_cancelled_while_its_payment_is_opened_is_never_charged(
    worker, opening, lease, cancel, stored, payments
):
    leased = lease()
    order_id = leased.payment.order_id
    opening.on_call = lambda verb, call: cancel(worker, order_id)
    worker.process(leased)
    doc = stored(order_id)
    assert (doc["status"], types(doc), "dueAt" in doc) == ("Voided", ["PaymentVoided"], False)
    assert [verb for verb, _ in opening.calls] == ["open"]
    assert payments.claim(10) == []


def test_a_customer_who_must_act_is_awaited_without_tries_and_without_the_circuit_breaker(
    make_worker, payments, provider, lease_payment, take_up, make_due, stored
):
    worker = make_worker(payments, failures=1)
    provider.responses = [WAITS]
    leased = lease_payment()
    order_id = leased.payment.order_id
    before = payments.now()
    worker.process(leased)
    doc = stored(order_id)
    assert (doc["status"], types(doc), doc["retryCount"]) == ("ActionRequired", ["PaymentActionRequired"], 0)
    assert doc["outbox"][0]["action_url"] == ACTION.url
    assert before + timedelta(seconds=29) < doc["dueAt"] <= payments.now() + timedelta(seconds=60)
    for _ in range(5):
        provider.responses = [WAITS]
        make_due(order_id)
        worker.process(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], types(doc), worker.capacity() > 0) == ("ActionRequired", ["PaymentActionRequired"], True)
    make_due(order_id)
    worker.process(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], doc["captured"], doc["action"]) == ("Captured", 9900, None)
    assert {verb for verb, _ in provider.calls} == {"charge", "retrieve"}


def test_what_was_awaited_too_long_is_voided(make_worker, payments, provider, lease_payment, take_up, make_due, stored):
    policy = RetryPolicy(
        max_tries=3, horizon=3600.0, key_life=7200.0, backoff=100.0, backoff_max=100.0, pending_life=0.001
    )
    worker = make_worker(payments, policy=policy)
    provider.responses = [WAITS]
    leased = lease_payment()
    worker.process(leased)
    make_due(leased.payment.order_id)
    worker.process(take_up(leased.payment.order_id))
    doc = stored(leased.payment.order_id)
    assert (doc["status"], types(doc)) == ("Voided", ["PaymentActionRequired", "PaymentVoided"])
    assert doc["outbox"][1]["reason"] == "it waited too long"
    assert [verb for verb, _ in provider.calls] == ["charge", "find", "void"]


def test_an_authorization_is_captured_in_part_once(worker, provider, lease, publish, take_up, stored, payments):
    provider.responses = [ProviderResponse(code=ResponseCode.AUTHORIZED, reference="ref-1")]
    leased = lease(CAPABILITIES, manual_capture=True)
    order_id = leased.payment.order_id
    worker.process(leased)
    assert (stored(order_id)["status"], types(stored(order_id))) == ("Authorized", ["PaymentAuthorized"])
    for sequence in (2, 2, 3):
        publish(CaptureRequested, order_id, sequence, capture_value=5000)
    worker.process(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], doc["captured"], doc["outbox"][1]["captured_value"]) == ("Captured", 5000, 5000)
    assert [verb for verb, _ in provider.calls] == ["charge", "find", "capture"]
    assert payments.claim(10) == []


def test_an_authorization_is_voided_when_its_order_is_cancelled(worker, provider, lease, cancel, take_up, stored):
    provider.responses = [ProviderResponse(code=ResponseCode.AUTHORIZED, reference="ref-1")]
    leased = lease(CAPABILITIES, manual_capture=True)
    order_id = leased.payment.order_id
    worker.process(leased)
    cancel(worker, order_id)
    worker.process(take_up(order_id))
    assert (stored(order_id)["status"], types(stored(order_id))[-1]) == ("Voided", "PaymentVoided")


def test_a_pending_refund_is_refreshed_and_sent_once(
    worker, provider, lease_payment, publish, take_up, stored, make_due
):
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    provider.responses = [ProviderResponse(code=ResponseCode.PENDING, reference="re_1")]
    publish(RefundRequested, order_id, **REFUND)
    worker.process(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], doc["refunds"][0]["status"], doc["refunds"][0]["reference"]) == (
        "Refunding",
        "pending",
        "re_1",
    )
    listed = ProviderRefund(reference="re_1", value=900, code=ResponseCode.DECLINED, reason="the card is closed")
    provider.responses = [ProviderResponse(code=ResponseCode.CAPTURED, value=9900, refunds=(listed,))]
    make_due(order_id)
    worker.process(take_up(order_id))
    doc = stored(order_id)
    assert (doc["status"], types(doc)[-1], doc["outbox"][-1]["reason"]) == (
        "Captured",
        "PaymentRefundFailed",
        "the card is closed",
    )
    assert [verb for verb, _ in provider.calls] == ["charge", "find", "refund", "retrieve"]


def test_late_facts_are_recorded_one_event_a_write_until_nothing_differs(
    worker, provider, lease_payment, take_up, stored, payments
):
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    record = ProviderResponse(
        code=ResponseCode.CAPTURED,
        value=9900,
        refunds=(ProviderRefund(reference="re_7", value=900, code=ResponseCode.REFUNDED),),
        disputes=(ProviderDispute(reference="dp_1", value=9000, status=DisputeStatus.LOST, reason="fraudulent"),),
    )
    assert worker._results.request_refresh(order_id)
    for _ in range(4):
        provider.responses = [record]
        worker.process(take_up(order_id))
    doc = stored(order_id)
    assert types(doc) == ["PaymentCaptured", "PaymentRefunded", "PaymentDisputed", "PaymentDisputeClosed"]
    assert (doc["status"], doc["outbox"][3]["won"], doc["outbox"][3]["disputed"]) == ("Disputed", False, True)
    assert payments.claim(10) == []


def test_a_refresh_requested_during_a_call_is_made_after_it(worker, provider, lease_payment, take_up, stored):
    leased = lease_payment()
    order_id = leased.payment.order_id
    provider.on_call = lambda verb, call: verb == "charge" and worker._results.request_refresh(order_id)
    worker.process(leased)
    doc = stored(order_id)
    assert (doc["status"], doc["refreshesRequested"], doc.get("refreshesMade", 0), "dueAt" in doc) == (
        "Captured",
        1,
        0,
        True,
    )
    worker.process(take_up(order_id))
    assert (stored(order_id)["refreshesMade"], "dueAt" in stored(order_id)) == (1, False)


def test_a_refresh_requested_during_a_refresh_is_not_lost(worker, provider, lease_payment, take_up, stored):
    leased = lease_payment()
    order_id = leased.payment.order_id
    worker.process(leased)
    worker._results.request_refresh(order_id)
    provider.on_call = lambda verb, call: worker._results.request_refresh(order_id)
    worker.process(take_up(order_id))
    provider.on_call = lambda verb, call: None
    assert (stored(order_id)["refreshesRequested"], stored(order_id)["refreshesMade"], "dueAt" in stored(order_id)) == (
        2,
        1,
        True,
    )
    worker.process(take_up(order_id))
    assert (stored(order_id)["refreshesMade"], "dueAt" in stored(order_id)) == (2, False)


def test_a_parked_payment_is_settled_by_a_refresh(worker, provider, lease_payment, take_up, stored, database):
    leased = lease_payment()
    order_id = leased.payment.order_id
    database.payments.update_one({"_id": order_id}, {"$set": {"reference": "ref-1", "retryCount": 3}})
    provider.responses = [UNKNOWN]
    worker.process(replace(leased, payment=replace(leased.payment, reference="ref-1", retry_count=3)))
    assert stored(order_id)["status"] == "Unknown"
    worker._results.request_refresh(order_id)
    worker.process(take_up(order_id))
    assert (stored(order_id)["status"], types(stored(order_id))) == ("Captured", ["PaymentParked", "PaymentCaptured"])


def test_a_payment_of_another_provider_is_left_alone(worker, provider, lease, stored, take_up):
    leased = lease(replace(CAPABILITIES, name="stripe"))
    worker.process(leased)
    doc = stored(leased.payment.order_id)
    assert (doc["status"], doc["retryCount"], provider.calls) == ("Processing", 0, [])
    assert "PAYMENT_PROVIDER" in doc["attempts"][-1]["reason"]


@pytest.mark.parametrize(
    ("response", "waits_for", "says"),
    [
        (WAITS, "the customer", "the customer must confirm its payment until "),
        (replace(WAITS, action=None), "the provider", "does not know the outcome yet until "),
        (ProviderResponse(code=ResponseCode.AUTHORIZED, reference="r"), "a capture", "waits to be captured until "),
    ],
    ids=["customer", "bank", "capture"],
)
def test_a_payment_that_waits_says_for_whom_and_how_long(
    worker, payments, provider, outbox, lease_payment, response, waits_for, says
):
    provider.responses = [response]
    leased = lease_payment()
    worker.process(leased)
    request = ExplainPayment(request_id="r", order_id=leased.payment.order_id, on_behalf_of="")
    explained = PaymentQueries(payments, outbox, 3).explain(request)
    assert (explained.waits_for, says in explained.sentence) == (waits_for, True)
    assert "or it is voided, the provider is asked again at " in explained.sentence


def test_a_disputed_charge_is_explained(worker, payments, provider, outbox, lease_payment, take_up):
    leased = lease_payment()
    worker.process(leased)
    worker._results.request_refresh(leased.payment.order_id)
    dispute = ProviderDispute(reference="dp_1", value=9900, status=DisputeStatus.OPEN)
    provider.responses = [ProviderResponse(code=ResponseCode.CAPTURED, value=9900, disputes=(dispute,))]
    worker.process(take_up(leased.payment.order_id))
    request = ExplainPayment(request_id="r", order_id=leased.payment.order_id, on_behalf_of="")
    explained = PaymentQueries(payments, outbox, 3).explain(request)
    assert (explained.waits_for, "disputed" in explained.sentence) == ("the payer's bank", True)
