"""A payment's next call and the meaning of each answer, against tables written out by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.contracts.base import Money
from app.contracts.orders import OrderCancelled, OrderCreated
from app.contracts.payments import PaymentParked, PaymentRefundFailed, PaymentRetried, PaymentStatus
from app.payments import payment as domain
from app.payments import payment_commands, provider_calls, provider_responses
from app.payments.payment import Dispute, Payment, Refund, RefundStatus, RetryPolicy
from app.payments.provider_port import (
    ActionKind,
    CallKind,
    DisputeStatus,
    NextAction,
    ProviderCall,
    ProviderDispute,
    ProviderRefund,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers.simulated import CAPABILITIES

ORDER = "6920c1b05be0d3a1f2c4e687"
POLICY = RetryPolicy(max_tries=12, horizon=72_000.0, key_life=86_000.0, backoff=2.0, backoff_max=300.0)


def at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


NOW = at(1_000_000)
FRESH = Payment(
    order_id=ORDER,
    request_id="r-1",
    user_id="user-7",
    product_id="1",
    total=Money(9900, "MYR"),
    requested_at=at(1),
)
SENT = replace(FRESH, key_sent=True, fencing_token=1, retry_count=1)
CANCELLED = replace(SENT, cancelled=True, retry_count=0)
CAPTURED = replace(SENT, status=PaymentStatus.CAPTURED, captured=9900, reference="ref-1", retry_count=0)
WHOLE = Refund(refund_id="cancel", value=9900)
PART = Refund(refund_id="r-1", value=900)
REFUNDING = replace(
    CAPTURED, status=PaymentStatus.REFUNDING, cancelled=True, refunds=(WHOLE,), fencing_token=2, retry_count=1
)
PART_REFUNDING = replace(CAPTURED, status=PaymentStatus.REFUNDING, refunds=(PART,), fencing_token=2, retry_count=1)
PART_REFUNDED = replace(CAPTURED, refunds=(replace(PART, status=RefundStatus.DONE),))
REFUNDED = replace(
    CAPTURED, status=PaymentStatus.REFUNDED, cancelled=True, refunds=(replace(WHOLE, status=RefundStatus.DONE),)
)
DECLINED = replace(SENT, status=PaymentStatus.DECLINED, retry_count=0)
VOIDED = replace(CANCELLED, status=PaymentStatus.VOIDED)
PARKED = replace(SENT, status=PaymentStatus.UNKNOWN, parked_reason="no answer", retry_count=12)
PARKED_PART = replace(PART_REFUNDING, status=PaymentStatus.UNKNOWN, parked_reason="no answer", retry_count=12)
PARKED_REFUND = replace(PARKED_PART, refunds=(Refund(refund_id="r-1", value=9900),))

OPENS = replace(SENT, opens=True)
OPENED = replace(OPENS, reference="pi_1")
OPENED_CANCELLED = replace(OPENED, cancelled=True)
SINCE = {"waiting_since": at(500_000), "waits_until": at(90_000_000)}
ACTION = NextAction(type=ActionKind.REDIRECT, url="https://bank.example/3ds")
PENDING = replace(SENT, status=PaymentStatus.PENDING, reference="ref-1", retry_count=1, **SINCE)
ACTION_REQUIRED = replace(PENDING, status=PaymentStatus.ACTION_REQUIRED, action=ACTION)
AUTHORIZED = replace(PENDING, status=PaymentStatus.AUTHORIZED, authorized=9900)
CAPTURING = replace(AUTHORIZED, capture_value=5000)
DISPUTE = Dispute(dispute_id="dp_1", value=9900, status=DisputeStatus.OPEN)
DISPUTED = replace(CAPTURED, status=PaymentStatus.DISPUTED, disputes=(DISPUTE,))

WAITING = {
    "waiting to open": (OPENS, CallKind.OPEN),
    "opened, waiting to charge": (OPENED, CallKind.CHARGE),
    "opened, waiting to void": (OPENED_CANCELLED, CallKind.VOID),
    "waiting to capture": (CAPTURING, CallKind.CAPTURE),
    "waiting to charge": (SENT, CallKind.CHARGE),
    "charging, cancelled meanwhile": (CANCELLED, CallKind.CHARGE),
    "waiting to void": (CANCELLED, CallKind.VOID),
    "waiting to refund all": (REFUNDING, CallKind.REFUND),
    "waiting to refund a part": (PART_REFUNDING, CallKind.REFUND),
}
# What each answer leads to: the status, the event, and when to call again.
ANSWERS = {
    "waiting to open": {
        "opened": "Processing, no event, at once",
        "captured": "Unknown, PaymentParked, never",
        "authorized": "Unknown, PaymentParked, never",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Unknown, PaymentParked, never",
        "refunded": "Unknown, PaymentParked, never",
        "pending": "Unknown, PaymentParked, never",
        "not attempted": "Processing, no event, later",
        "unknown": "Processing, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
    "opened, waiting to charge": {
        "opened": "Unknown, PaymentParked, never",
        "captured": "Captured, PaymentCaptured, never",
        "authorized": "Authorized, PaymentAuthorized, later",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "pending": "Pending, PaymentDelayed, later",
        "not attempted": "Processing, no event, later",
        "unknown": "Processing, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
    "opened, waiting to void": {
        "opened": "Unknown, PaymentParked, never",
        "captured": "Refunding, PaymentCaptured, at once",
        "authorized": "Processing, no event, later",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "pending": "Pending, PaymentDelayed, later",
        "not attempted": "Processing, no event, later",
        "unknown": "Processing, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
    "waiting to capture": {
        "opened": "Unknown, PaymentParked, never",
        "captured": "Captured, PaymentCaptured, never",
        "authorized": "Unknown, PaymentParked, never",
        "declined": "Unknown, PaymentParked, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "pending": "Pending, PaymentDelayed, later",
        "not attempted": "Authorized, no event, later",
        "unknown": "Authorized, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
    "waiting to charge": {
        "opened": "Unknown, PaymentParked, never",
        "authorized": "Authorized, PaymentAuthorized, later",
        "pending": "Pending, PaymentDelayed, later",
        "captured": "Captured, PaymentCaptured, never",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "not attempted": "Processing, no event, later",
        "unknown": "Processing, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
    "charging, cancelled meanwhile": {
        "opened": "Unknown, PaymentParked, never",
        "authorized": "Processing, no event, at once",
        "pending": "Pending, PaymentDelayed, later",
        "captured": "Refunding, PaymentCaptured, at once",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "not attempted": "Processing, no event, later",
        "unknown": "Processing, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
    "waiting to void": {
        "opened": "Unknown, PaymentParked, never",
        "authorized": "Processing, no event, later",
        "pending": "Pending, PaymentDelayed, later",
        "captured": "Refunding, PaymentCaptured, at once",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "not attempted": "Processing, no event, later",
        "unknown": "Processing, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
    "waiting to refund all": {
        "opened": "Unknown, PaymentParked, never",
        "authorized": "Unknown, PaymentParked, never",
        "pending": "Refunding, no event, later",
        "captured": "Unknown, PaymentParked, never",
        "declined": "Unknown, PaymentParked, never",
        "voided": "Unknown, PaymentParked, never",
        "refunded": "Refunded, PaymentRefunded, never",
        "not attempted": "Refunding, no event, later",
        "unknown": "Refunding, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
    "waiting to refund a part": {
        "opened": "Unknown, PaymentParked, never",
        "authorized": "Unknown, PaymentParked, never",
        "pending": "Refunding, no event, later",
        "captured": "Unknown, PaymentParked, never",
        "declined": "Captured, PaymentRefundFailed, never",
        "voided": "Unknown, PaymentParked, never",
        "refunded": "Captured, PaymentRefunded, never",
        "not attempted": "Refunding, no event, later",
        "unknown": "Refunding, no event, later",
        "refused": "Unknown, PaymentParked, never",
    },
}
CASES = [(work, ResponseCode(answer)) for work, row in ANSWERS.items() for answer in row]

# What a cancellation leads to: the same three, and then what is asked of the provider.
CANCELLING = [
    (FRESH, "Voided, PaymentVoided, never", None),
    (SENT, "Processing, no event, at once", CallKind.VOID),
    (CAPTURED, "Refunding, no event, at once", CallKind.REFUND),
    (PART_REFUNDED, "Refunding, no event, at once", CallKind.REFUND),
    (PART_REFUNDING, "Refunding, no event, at once", CallKind.REFUND),
    (REFUNDING, "Refunding, no event, at once", CallKind.REFUND),
    (REFUNDED, "Refunded, no event, never", None),
    (DECLINED, "Declined, no event, never", None),
    (VOIDED, "Voided, no event, never", None),
    (OPENS, "Voided, PaymentVoided, never", None),
    (OPENED, "Processing, no event, at once", CallKind.VOID),
    (PENDING, "Processing, no event, at once", CallKind.VOID),
    (ACTION_REQUIRED, "Processing, no event, at once", CallKind.VOID),
    (AUTHORIZED, "Processing, no event, at once", CallKind.VOID),
    (CAPTURING, "Processing, no event, at once", CallKind.VOID),
    (DISPUTED, "Disputed, no event, never", None),
    (PARKED, "Processing, no event, at once", CallKind.VOID),
    (PARKED_PART, "Refunding, no event, at once", CallKind.REFUND),
    (PARKED_REFUND, "Refunding, no event, at once", CallKind.REFUND),
]
NAMES = {id(leased): name for name, leased in globals().copy().items() if isinstance(leased, Payment)}


def named(given):
    return NAMES.get(id(given)) if isinstance(given, Payment) else None


def call_of(payment: Payment, kind: CallKind) -> ProviderCall:
    """The call that was made: for a charge that was cancelled meanwhile, the one from before."""
    call = provider_calls.next_call(replace(payment, cancelled=kind == CallKind.VOID))
    assert call.kind == kind
    return call


def respond(work: str, response: ProviderResponse, age: float = 1.0, **changes) -> domain.PaymentDecision:
    payment, kind = WAITING[work]
    return provider_responses.apply_response(
        replace(payment, **changes), call_of(payment, kind), response, age, POLICY, NOW
    )


def summary(decision: domain.PaymentDecision) -> str:
    when = "never" if decision.due_in is None else "at once" if decision.due_in == 0 else "later"
    return f"{decision.payment.status.value}, {decision.event.__name__ if decision.event else 'no event'}, {when}"


def test_a_new_order_opens_a_payment_that_nobody_has_sent():
    event = OrderCreated(
        event_id="e", order_id=ORDER, sequence=1, request_id="r-1", at=1,
        user_id="user-7", product_id="1", total_value=9900, total_currency="MYR",
    )  # fmt: skip
    assert domain.open_payment(event, CAPABILITIES) == replace(FRESH, order_sequence=1, provider="simulated")
    assert FRESH.status == PaymentStatus.PROCESSING
    assert (FRESH.key_sent, FRESH.cancelled, FRESH.fencing_token, FRESH.retry_count, FRESH.captured) == (
        False,
        False,
        0,
        0,
        0,
    )


def test_the_table_of_answers_is_whole():
    assert {answer.value for answer in ResponseCode} == set(ANSWERS["waiting to charge"])
    assert all(set(row) == set(ANSWERS["waiting to charge"]) for row in ANSWERS.values())
    assert set(PaymentStatus) == {payment.status for payment, _, _ in CANCELLING}


@pytest.mark.parametrize(("work", "given"), CASES)
def test_what_an_answer_leads_to(work, given):
    decision = respond(work, ProviderResponse(code=given, reason="because", reference="ref-9"))
    assert summary(decision) == ANSWERS[work][given.value]


@pytest.mark.parametrize(("work", "given"), CASES)
def test_no_answer_ever_takes_or_returns_more_than_there_is(work, given):
    after = respond(work, ProviderResponse(code=given)).payment
    assert after.captured in (0, 5000, 9900)
    assert sum(refund.value for refund in after.refunds) <= after.captured
    assert after.refunded <= after.captured


@pytest.mark.parametrize(("work", "given"), CASES)
def test_whatever_is_due_has_something_to_ask_and_whatever_is_not_has_nothing(work, given):
    decision = respond(work, ProviderResponse(code=given))
    assert (provider_calls.next_call(decision.payment) is None) == (decision.due_in is None)


def test_a_capture_takes_the_whole_total_and_keeps_the_reference():
    decision = respond(
        "waiting to charge", ProviderResponse(code=ResponseCode.CAPTURED, reference="ref-9"), retry_count=7
    )
    assert (decision.payment.captured, decision.payment.reference, decision.detail) == (9900, "ref-9", "ref-9")
    assert (decision.payment.retry_count, decision.payment.refunds) == (0, ())


def test_a_capture_that_lands_after_the_cancellation_goes_back_whole():
    for work in ("charging, cancelled meanwhile", "waiting to void"):
        decision = respond(work, ProviderResponse(code=ResponseCode.CAPTURED))
        assert decision.payment.captured == 9900
        assert decision.payment.refunds == (Refund(refund_id="cancel", value=9900),)
        assert decision.payment.retry_count == 0


def test_a_decline_moves_no_money_and_tells_why():
    for work in ("waiting to charge", "charging, cancelled meanwhile"):
        decision = respond(work, ProviderResponse(code=ResponseCode.DECLINED, reason="no cover"))
        assert (decision.payment.captured, decision.payment.refunds, decision.detail) == (0, (), "no cover")


def test_after_a_cancellation_an_unsettled_charge_is_voided_with_the_same_key():
    for given in (ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN):
        after = respond("charging, cancelled meanwhile", ProviderResponse(code=given)).payment
        call = provider_calls.next_call(after)
        assert (call.kind, call.key) == (CallKind.VOID, f"{ORDER}:1")


def test_several_refunds_are_made_one_after_the_other():
    both = replace(REFUNDING, refunds=(PART, Refund(refund_id="cancel", value=9000)))
    first = provider_calls.next_call(both)
    assert (first.refund_id, first.value) == ("r-1", 900)
    decision = provider_responses.apply_response(
        both, first, ProviderResponse(code=ResponseCode.REFUNDED), 1.0, POLICY, NOW
    )
    assert summary(decision) == "Refunding, PaymentRefunded, at once"
    assert (decision.refund.refund_id, decision.refund.value, decision.payment.refunded) == ("r-1", 900, 900)
    second = provider_calls.next_call(decision.payment)
    assert (second.refund_id, second.value) == ("cancel", 9000)
    decision = provider_responses.apply_response(
        decision.payment, second, ProviderResponse(code=ResponseCode.REFUNDED), 1.0, POLICY, NOW
    )
    assert summary(decision) == "Refunded, PaymentRefunded, never"
    assert (decision.refund.refund_id, decision.payment.refunded) == ("cancel", 9900)


@pytest.mark.parametrize(("payment", "expected", "then"), CANCELLING, ids=named)
def test_what_a_cancellation_leads_to(payment, expected, then):
    decision = payment_commands.cancel(payment)
    assert summary(decision) == expected
    assert decision.payment.cancelled
    call = provider_calls.next_call(decision.payment)
    assert (call.kind if call else None) == then


@pytest.mark.parametrize(("payment", "expected", "then"), CANCELLING, ids=named)
def test_a_cancellation_sends_back_what_was_captured_and_no_more(payment, expected, then):
    after = payment_commands.cancel(payment).payment
    assert after.captured == payment.captured
    assert sum(refund.value for refund in after.refunds) == (0 if after.disputed else after.captured)


@pytest.mark.parametrize(("payment", "expected", "then"), CANCELLING, ids=named)
def test_a_second_cancellation_adds_no_refund(payment, expected, then):
    once = payment_commands.cancel(payment).payment
    assert payment_commands.cancel(once).payment.refunds == once.refunds


def test_a_cancellation_keeps_a_refund_that_is_under_way():
    after = payment_commands.cancel(PART_REFUNDING).payment
    assert after.refunds == (PART, Refund(refund_id="cancel", value=9000))


def test_a_cancellation_begins_the_count_of_tries_anew():
    for payment in (replace(SENT, retry_count=11), PARKED, replace(CAPTURED, retry_count=3)):
        after = payment_commands.cancel(payment).payment
        assert (after.retry_count, after.parked_reason) == (0, "")


@pytest.mark.parametrize(
    ("payment", "kind"),
    [
        (FRESH, CallKind.CHARGE),
        (SENT, CallKind.CHARGE),
        (CANCELLED, CallKind.VOID),
        (CAPTURED, None),
        (PART_REFUNDED, None),
        (REFUNDING, CallKind.REFUND),
        (PART_REFUNDING, CallKind.REFUND),
        (REFUNDED, None),
        (DECLINED, None),
        (VOIDED, None),
        (PARKED, None),
        (PARKED_REFUND, None),
    ],
    ids=named,
)
def test_the_next_call_to_the_provider(payment, kind):
    call = provider_calls.next_call(payment)
    assert (call.kind if call else None) == kind


def test_every_attempt_of_a_charge_and_its_void_has_the_same_key():
    leased = [
        replace(SENT, fencing_token=attempt, retry_count=retry_count, version=attempt + 3, cancelled=cancelled)
        for attempt in range(1, 20)
        for retry_count in range(13)
        for cancelled in (False, True)
    ]
    calls = [provider_calls.next_call(payment) for payment in leased]
    assert {call.kind for call in calls} == {CallKind.CHARGE, CallKind.VOID}
    assert {(call.key, call.charge_key) for call in calls} == {(f"{ORDER}:1", f"{ORDER}:1")}


def test_the_key_changes_with_the_order_and_the_generation_only():
    assert provider_calls.next_call(replace(SENT, generation=2)).key == f"{ORDER}:2"
    assert provider_calls.next_call(replace(SENT, order_id="0" * 24)).key == "0" * 24 + ":1"


def test_a_refund_has_a_key_of_its_own_that_stays():
    calls = [
        provider_calls.next_call(replace(REFUNDING, fencing_token=at, retry_count=at, version=at))
        for at in range(2, 14)
    ]
    assert {(call.key, call.charge_key) for call in calls} == {(f"{ORDER}:1:refund:cancel", f"{ORDER}:1")}
    assert provider_calls.next_call(PART_REFUNDING).key == f"{ORDER}:1:refund:r-1"


def test_a_call_says_all_that_a_provider_needs():
    call = provider_calls.next_call(SENT)
    assert (call.order_id, call.product_id, call.value, call.currency) == (ORDER, "1", 9900, "MYR")
    call = provider_calls.next_call(PART_REFUNDING)
    assert (call.value, call.currency, call.refund_id) == (900, "MYR", "r-1")


# Work whose call has no other proof of what happened than its key.
BY_KEY = [work for work, (payment, _) in WAITING.items() if not payment.reference or payment.captured]
UNSETTLED = (ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN)


@pytest.mark.parametrize("work", WAITING)
@pytest.mark.parametrize("given", UNSETTLED)
def test_what_stays_unsettled_is_parked_after_the_last_try(work, given):
    response = ProviderResponse(code=given, reason="no answer in time")
    assert respond(work, response, retry_count=11).event is None
    for retry_count in (12, 13):
        decision = respond(work, response, retry_count=retry_count)
        assert summary(decision) == "Unknown, PaymentParked, never"
        assert decision.payment.parked_reason == decision.detail == "no answer in time"


@pytest.mark.parametrize("work", BY_KEY)
@pytest.mark.parametrize("given", UNSETTLED)
def test_what_stays_unsettled_is_parked_at_the_horizon(work, given):
    response = ProviderResponse(code=given)
    assert respond(work, response, age=71_999.9, retry_count=2).event is None
    for age in (72_000.0, 100_000.0):
        decision = respond(work, response, age=age, retry_count=2)
        assert summary(decision) == "Unknown, PaymentParked, never"
        assert decision.payment.parked_reason


@pytest.mark.parametrize("given", [answer for answer in ResponseCode if answer not in UNSETTLED])
def test_an_answer_that_comes_on_the_last_try_counts_as_any_other(given):
    late = respond("waiting to charge", ProviderResponse(code=given), age=80_000.0, retry_count=12)
    assert summary(late) == ANSWERS["waiting to charge"][given.value]


def test_what_is_parked_keeps_what_is_known_of_the_money():
    after = respond("waiting to refund all", ProviderResponse(code=ResponseCode.UNKNOWN), retry_count=12).payment
    assert (after.captured, after.refunds, after.reference) == (9900, (WHOLE,), "ref-1")


def test_the_pause_grows_from_try_to_try_and_is_capped():
    pauses = [domain.backoff(retry_count, POLICY) for retry_count in range(1, 13)]
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0, 300.0, 300.0]
    assert domain.backoff(0, POLICY) == 2.0


def test_the_pause_is_capped_however_many_tries_there_were():
    assert domain.backoff(5_000, POLICY) == 300.0


@pytest.mark.parametrize("retry_count", [1, 4, 11])
def test_an_unsettled_call_is_repeated_after_the_pause(retry_count):
    decision = respond(
        "waiting to charge", ProviderResponse(code=ResponseCode.UNKNOWN, reason="no answer"), retry_count=retry_count
    )
    assert decision.due_in == domain.backoff(retry_count, POLICY)
    assert (decision.payment.retry_count, decision.detail) == (retry_count, "no answer")


def test_a_pause_that_the_provider_asks_for_is_kept():
    asked = ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, retry_after=45.0)
    assert respond("waiting to charge", asked, retry_count=1).due_in == 45.0
    assert respond("waiting to charge", asked, retry_count=10).due_in == 300.0


def test_a_call_that_the_circuit_breaker_stopped_costs_no_try():
    stopped = ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, counts_as_try=False)
    assert respond("waiting to charge", stopped, retry_count=5).payment.retry_count == 4
    assert respond("waiting to charge", stopped, retry_count=1).payment.retry_count == 0
    assert respond("waiting to charge", stopped, retry_count=0).payment.retry_count == 0
    assert respond("waiting to charge", stopped, retry_count=12).event is None


def test_a_payment_claimed_more_often_than_allowed_is_parked():
    for retry_count in (0, 1, 12):
        assert provider_responses.park_if_exhausted(replace(SENT, retry_count=retry_count), POLICY) is None
    for payment in (replace(SENT, retry_count=13), replace(REFUNDING, retry_count=13)):
        decision = provider_responses.park_if_exhausted(payment, POLICY)
        assert summary(decision) == "Unknown, PaymentParked, never"
        assert decision.payment.parked_reason
        assert decision.event == PaymentParked


REFUNDABLE = [
    (CAPTURED, 900, "Refunding, no event, at once"),
    (CAPTURED, 9900, "Refunding, no event, at once"),
    (PART_REFUNDED, 9000, "Refunding, no event, at once"),
    (PART_REFUNDING, 9000, "Refunding, no event, at once"),
    (CAPTURED, 9901, "Captured, PaymentRefundFailed, never"),
    (PART_REFUNDED, 9001, "Captured, PaymentRefundFailed, never"),
    (PART_REFUNDING, 9001, "Refunding, PaymentRefundFailed, at once"),
    (REFUNDING, 1, "Refunding, PaymentRefundFailed, at once"),
    (REFUNDED, 1, "Refunded, PaymentRefundFailed, never"),
    (DISPUTED, 9901, "Disputed, PaymentRefundFailed, never"),
    (DECLINED, 1, "Declined, PaymentRefundFailed, never"),
    (VOIDED, 1, "Voided, PaymentRefundFailed, never"),
    (SENT, 1, None),
]


@pytest.mark.parametrize(("payment", "value", "expected"), REFUNDABLE, ids=lambda given: named(given) or str(given))
def test_a_refund_on_request_never_exceeds_what_is_left(payment, value, expected):
    refund = Refund(refund_id="on request", value=value)
    if expected is None:
        with pytest.raises(ValueError, match="nothing was captured"):
            payment_commands.request_refund(payment, refund)
        return
    decision = payment_commands.request_refund(payment, refund)
    assert summary(decision) == expected
    failed = decision.event is not None
    status = RefundStatus.FAILED if failed else RefundStatus.REQUESTED
    assert decision.payment.refunds == (*payment.refunds, replace(refund, status=status))
    made = [one.value for one in decision.payment.refunds if one.status != RefundStatus.FAILED]
    assert sum(made) <= decision.payment.captured
    assert payment_commands.request_refund(decision.payment, refund).event is None


def test_a_refund_requested_again_is_not_added_again():
    for payment in (PART_REFUNDING, PART_REFUNDED):
        assert payment_commands.request_refund(payment, PART).payment.refunds == payment.refunds


NOT_PARKED = [FRESH, SENT, CAPTURED, REFUNDING, REFUNDED, DECLINED, VOIDED]


@pytest.mark.parametrize("payment", NOT_PARKED, ids=named)
def test_only_what_is_parked_is_for_an_operator(payment):
    with pytest.raises(ValueError, match="not parked"):
        payment_commands.retry(payment)
    with pytest.raises(ValueError, match="not parked"):
        payment_commands.resolve(payment, ProviderResponse(code=ResponseCode.CAPTURED), POLICY, NOW)


@pytest.mark.parametrize(
    ("payment", "key"),
    [(PARKED, f"{ORDER}:1"), (PARKED_PART, f"{ORDER}:1:refund:r-1"), (replace(PARKED, cancelled=True), f"{ORDER}:1")],
)
def test_a_payment_retried_by_hand_keeps_its_key(payment, key):
    decision = payment_commands.retry(payment)
    assert (decision.due_in, decision.event, decision.payment.retry_count, decision.payment.parked_reason) == (
        0.0,
        PaymentRetried,
        0,
        "",
    )
    assert provider_calls.next_call(decision.payment).key == key


@pytest.mark.parametrize(
    ("payment", "found", "expected"),
    [
        (PARKED, "captured", "Captured, PaymentCaptured, never"),
        (PARKED, "declined", "Declined, PaymentDeclined, never"),
        (PARKED, "voided", "Voided, PaymentVoided, never"),
        (PARKED, "refunded", None),
        (PARKED, "unknown", None),
        (PARKED, "not attempted", None),
        (replace(PARKED, cancelled=True), "captured", "Refunding, PaymentCaptured, at once"),
        (replace(PARKED, cancelled=True), "voided", "Voided, PaymentVoided, never"),
        (PARKED_REFUND, "refunded", "Refunded, PaymentRefunded, never"),
        (PARKED_PART, "refunded", "Captured, PaymentRefunded, never"),
        (PARKED_PART, "captured", None),
        (PARKED_PART, "declined", "Captured, PaymentRefundFailed, never"),
        (PARKED_PART, "unknown", None),
    ],
)
def test_what_an_operator_may_find_out(payment, found, expected):
    response = ProviderResponse(code=ResponseCode(found), reference="ref-9")
    if expected is None:
        with pytest.raises(ValueError, match="cannot be resolved"):
            payment_commands.resolve(payment, response, POLICY, NOW)
        return
    decision = payment_commands.resolve(payment, response, POLICY, NOW)
    assert summary(decision) == expected
    assert decision.payment.parked_reason == ""


@pytest.mark.parametrize("age", [0.0, 85_999.9])
def test_a_key_may_be_sent_while_the_provider_knows_it(age):
    assert provider_calls.may_send(SENT, age, POLICY)


@pytest.mark.parametrize("age", [86_000.0, 10_000_000.0])
@pytest.mark.parametrize("payment", [SENT, CANCELLED, REFUNDING, PARKED, PARKED_PART], ids=named)
def test_a_key_is_never_sent_once_the_provider_may_have_forgotten_it(payment, age):
    assert not provider_calls.may_send(payment, age, POLICY)


@pytest.mark.parametrize("age", [0.0, 10_000_000.0])
def test_a_key_that_the_provider_cannot_have_received_may_be_sent_at_any_age(age):
    assert provider_calls.may_send(FRESH, age, POLICY)


@pytest.mark.parametrize("work", BY_KEY)
def test_what_is_unsettled_past_the_keys_life_is_parked_though_the_horizon_were_later(work):
    patient = replace(POLICY, horizon=1_000_000.0)
    payment, kind = WAITING[work]
    unknown = ProviderResponse(code=ResponseCode.UNKNOWN)
    decision = provider_responses.apply_response(payment, call_of(payment, kind), unknown, 86_000.0, patient, NOW)
    assert summary(decision) == "Unknown, PaymentParked, never"


@pytest.mark.parametrize("work", WAITING)
def test_a_call_that_the_circuit_breaker_stopped_is_not_parked_however_old_its_key(work):
    """The provider is not called for a while; then it is called."""
    stopped = ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, counts_as_try=False)
    assert respond(work, stopped, age=1_000_000.0, retry_count=12).event is None


def test_the_first_attempt_that_may_send_a_key_is_known():
    first = domain.claim(FRESH)
    assert (first.key_sent, first.first_send, first.fencing_token, first.retry_count) == (True, True, 1, 1)
    again = domain.claim(first)
    assert (again.key_sent, again.first_send, again.fencing_token, again.retry_count) == (True, False, 2, 2)


@pytest.mark.parametrize(
    ("first_send", "code", "key_sent"),
    [
        (True, ResponseCode.NOT_ATTEMPTED, False),
        (True, ResponseCode.UNKNOWN, True),
        (False, ResponseCode.NOT_ATTEMPTED, True),
        (False, ResponseCode.UNKNOWN, True),
    ],
)
def test_a_key_stays_unsent_where_its_first_request_never_reached_the_provider(first_send, code, key_sent):
    for retry_count in (1, 12):
        assert (
            respond(
                "waiting to charge", ProviderResponse(code=code), first_send=first_send, retry_count=retry_count
            ).payment.key_sent
            == key_sent
        )


def test_another_key_has_not_been_sent():
    sent = replace(CAPTURED, first_send=True)
    for before, after in (
        (sent, replace(sent, status=PaymentStatus.REFUNDING, refunds=(PART,))),
        (replace(PARKED, first_send=True), replace(sent, status=PaymentStatus.REFUNDING, refunds=(WHOLE,))),
        (PART_REFUNDING, replace(PART_REFUNDING, refunds=(replace(PART, status=RefundStatus.DONE), WHOLE))),
    ):
        assert not provider_calls.reset_key_sent(before, after).key_sent
        assert not provider_calls.reset_key_sent(before, after).first_send


def test_the_same_key_stays_sent_whatever_else_changes():
    for before, after in (
        (SENT, CANCELLED),
        (SENT, PARKED),
        (PARKED, SENT),
        (PART_REFUNDING, PARKED_PART),
        (PART_REFUNDING, replace(PART_REFUNDING, refunds=(PART, WHOLE))),
        (SENT, CAPTURED),
    ):
        assert provider_calls.reset_key_sent(before, after) == after


def test_the_time_of_the_work_is_that_of_the_event_that_requested_it_first():
    event = OrderCancelled(event_id="e", order_id=ORDER, sequence=7, request_id="r", at=500, traceparent="t")

    def caused(before):
        return payment_commands.with_cause(before, payment_commands.cancel(before), event).payment

    assert (caused(CAPTURED).requested_at, caused(CAPTURED).order_sequence, caused(CAPTURED).traceparent) == (
        at(500),
        7,
        "t",
    )
    for open_work in (SENT, PARKED, PART_REFUNDING):
        assert caused(replace(open_work, requested_at=at(9))).requested_at == at(9)


BOTH = replace(PARKED_PART, cancelled=True, refunds=(PART, Refund(refund_id="cancel", value=9000)))


@pytest.mark.parametrize(
    ("payment", "expected", "refunds"),
    [
        (PARKED_PART, "Captured, PaymentRefundFailed, never", ()),
        (PARKED_REFUND, "Captured, PaymentRefundFailed, never", ()),
        (BOTH, "Refunding, PaymentRefundFailed, at once", (WHOLE,)),
        (replace(PARKED_REFUND, cancelled=True), "Refunding, PaymentRefundFailed, at once", (WHOLE,)),
        (
            replace(PARKED_PART, refunds=(PART, Refund(refund_id="r-2", value=50))),
            "Refunding, PaymentRefundFailed, at once",
            (Refund(refund_id="r-2", value=50),),
        ),
        (
            replace(PARKED_PART, refunds=(Refund(refund_id="r-0", value=50, status=RefundStatus.DONE), PART)),
            "Captured, PaymentRefundFailed, never",
            (Refund(refund_id="r-0", value=50, status=RefundStatus.DONE),),
        ),
    ],
)
def test_what_giving_up_a_refund_leads_to(payment, expected, refunds):
    decision = payment_commands.drop_refund(payment, "r-1", "the card was closed")
    assert summary(decision) == expected
    assert decision.payment.refunds == refunds
    assert (decision.refund.refund_id, decision.detail) == ("r-1", "the card was closed")
    assert (decision.payment.retry_count, decision.payment.parked_reason) == (0, "")


@pytest.mark.parametrize(
    ("payment", "refund_id", "why"),
    [
        (PART_REFUNDING, "r-1", "not parked"),
        (PARKED, "r-1", "does not wait"),
        (PARKED_PART, "r-2", "does not wait"),
        (replace(PARKED_PART, refunds=(PART, Refund(refund_id="r-2", value=50))), "r-2", "does not wait"),
        (replace(PARKED_PART, cancelled=True, refunds=(WHOLE,)), "cancel", "other means"),
    ],
)
def test_only_the_refund_that_is_parked_can_be_given_up_and_no_cancellation(payment, refund_id, why):
    with pytest.raises(ValueError, match=why):
        payment_commands.drop_refund(payment, refund_id, "why")


@pytest.mark.parametrize("work", [work for work in WAITING if work not in BY_KEY])
def test_what_is_found_by_its_reference_has_no_horizon(work):
    decision = respond(work, ProviderResponse(code=ResponseCode.UNKNOWN), age=10_000_000.0, retry_count=2)
    assert (decision.event, decision.payment.status) == (None, WAITING[work][0].status)
    payment, _ = WAITING[work]
    assert provider_calls.may_send(payment, 10_000_000.0, POLICY)


def test_a_refund_is_sent_within_its_keys_life_only_though_the_charge_has_a_reference():
    refunding = replace(REFUNDING, opens=True, key_sent=True)
    assert not provider_calls.may_send(refunding, POLICY.key_life, POLICY)
    assert provider_calls.may_send(refunding, POLICY.key_life - 1, POLICY)


def test_each_attempt_to_open_has_a_key_of_its_own_and_the_charge_one_for_all():
    opening = [provider_calls.next_call(replace(OPENS, fencing_token=token)) for token in (1, 2, 3)]
    assert [call.key for call in opening] == [f"{ORDER}:1:open:{token}" for token in (1, 2, 3)]
    charging = {provider_calls.next_call(replace(OPENED, fencing_token=token)).key for token in (2, 3)}
    assert charging == {f"{ORDER}:1"}


def test_the_provider_id_of_the_first_opening_stays():
    response = ProviderResponse(code=ResponseCode.OPENED, reference="pi_2")
    assert respond("waiting to open", response).payment.reference == "pi_2"
    again = provider_responses.apply_response(OPENED, call_of(OPENS, CallKind.OPEN), response, 1.0, POLICY, NOW)
    assert (again.payment.reference, again.due_in) == ("pi_1", 0.0)


def test_a_payment_cancelled_while_it_is_opened_is_never_charged():
    call = call_of(OPENS, CallKind.OPEN)
    voided = payment_commands.cancel(OPENS).payment
    decision = provider_responses.apply_response(
        voided, call, ProviderResponse(code=ResponseCode.OPENED, reference="pi_1"), 1.0, POLICY, NOW
    )
    assert (summary(decision), provider_calls.next_call(decision.payment)) == ("Voided, no event, never", None)


def test_what_the_customer_must_do_and_until_when_is_kept():
    decision = respond("waiting to charge", ProviderResponse(code=ResponseCode.PENDING, action=ACTION, reference="r"))
    assert summary(decision) == "ActionRequired, PaymentActionRequired, later"
    after = decision.payment
    assert (after.action, after.waiting_since, after.reference) == (ACTION, NOW, "r")
    assert (after.waits_until - NOW).total_seconds() == POLICY.pending_life
    assert provider_calls.next_call(after).kind == CallKind.RETRIEVE


def retrieved(payment: Payment, code: str, now: datetime = NOW, refresh: int = 0, **record) -> domain.PaymentDecision:
    call = provider_calls.next_call(payment)
    assert call.kind == CallKind.RETRIEVE
    response = ProviderResponse(code=ResponseCode(code), **record)
    return provider_responses.apply_response(
        payment, replace(call, refresh=refresh or call.refresh), response, 1.0, POLICY, now
    )


LOOKED_AT = {
    "pending": PENDING,
    "action required": ACTION_REQUIRED,
    "authorized": AUTHORIZED,
    "captured": replace(CAPTURED, refreshes_requested=1),
    "declined": replace(DECLINED, reference="ref-1", refreshes_requested=1),
    "voided": replace(VOIDED, cancelled=False, reference="ref-1", refreshes_requested=1),
}
RECORDS = {
    "pending": {
        "captured": "Captured, PaymentCaptured, never",
        "authorized": "Authorized, PaymentAuthorized, later",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "pending": "Pending, no event, later",
        "opened": "Pending, no event, later",
        "unknown": "Pending, no event, later",
        "not attempted": "Pending, no event, later",
        "refunded": "Unknown, PaymentParked, never",
        "refused": "Unknown, PaymentParked, never",
    },
    "action required": {
        "captured": "Captured, PaymentCaptured, never",
        "authorized": "Authorized, PaymentAuthorized, later",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "pending": "Pending, PaymentDelayed, later",
        "opened": "Pending, PaymentDelayed, later",
        "unknown": "ActionRequired, no event, later",
        "not attempted": "ActionRequired, no event, later",
        "refunded": "Unknown, PaymentParked, never",
        "refused": "Unknown, PaymentParked, never",
    },
    "authorized": {
        "captured": "Captured, PaymentCaptured, never",
        "authorized": "Authorized, no event, later",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "pending": "Pending, PaymentDelayed, later",
        "opened": "Pending, PaymentDelayed, later",
        "unknown": "Authorized, no event, later",
        "not attempted": "Authorized, no event, later",
        "refunded": "Unknown, PaymentParked, never",
        "refused": "Unknown, PaymentParked, never",
    },
    "captured": dict.fromkeys([code.value for code in ResponseCode], "Captured, no event, never")
    | dict.fromkeys(["unknown", "not attempted"], "Captured, no event, later"),
    "declined": dict.fromkeys([code.value for code in ResponseCode], "Declined, no event, never")
    | {"captured": "Refunding, PaymentCaptured, at once"}
    | dict.fromkeys(["unknown", "not attempted"], "Declined, no event, later"),
    "voided": dict.fromkeys([code.value for code in ResponseCode], "Voided, no event, never")
    | {"captured": "Refunding, PaymentCaptured, at once"}
    | dict.fromkeys(["unknown", "not attempted"], "Voided, no event, later"),
}


@pytest.mark.parametrize(("work", "code"), [(work, code.value) for work in LOOKED_AT for code in ResponseCode])
def test_what_the_record_of_the_provider_leads_to(work, code):
    assert summary(retrieved(LOOKED_AT[work], code)) == RECORDS[work][code]


def test_a_refresh_counts_neither_as_a_try_nor_ends_with_the_tries():
    decision = retrieved(replace(PENDING, retry_count=500), "unknown")
    assert (decision.event, decision.payment.retry_count) == (None, 0)
    assert provider_responses.park_if_exhausted(replace(PENDING, retry_count=500), POLICY) is None


@pytest.mark.parametrize(
    ("waited", "pause"), [(0, 60.0), (30, 60.0), (600, 600.0), (30_000, 21_600.0), (86_000, 400.0), (86_399, 1.0)]
)
def test_the_next_refresh_comes_after_as_long_as_the_payment_has_waited(waited, pause):
    since = NOW - timedelta(seconds=waited)
    waiting = replace(PENDING, waiting_since=since, waits_until=since + timedelta(seconds=POLICY.pending_life))
    assert retrieved(waiting, "pending").due_in == pause


@pytest.mark.parametrize("payment", [PENDING, ACTION_REQUIRED, AUTHORIZED], ids=named)
def test_what_has_waited_too_long_is_voided_and_never_guessed(payment):
    ends = payment.waits_until
    assert domain.expire_if_overdue(payment, ends - timedelta(seconds=1)) == payment
    overdue = domain.expire_if_overdue(payment, ends)
    call = provider_calls.next_call(overdue)
    assert call.kind == CallKind.VOID
    response = ProviderResponse(code=ResponseCode.VOIDED)
    decision = provider_responses.apply_response(overdue, call, response, 1.0, POLICY, ends)
    assert (summary(decision), decision.detail) == ("Voided, PaymentVoided, never", "it waited too long")
    response = ProviderResponse(code=ResponseCode.CAPTURED)
    assert summary(provider_responses.apply_response(overdue, call, response, 1.0, POLICY, ends)) == (
        "Captured, PaymentCaptured, never"
    )


def test_a_requested_capture_does_not_expire():
    assert domain.expire_if_overdue(CAPTURING, CAPTURING.waits_until) == CAPTURING


def test_a_capture_takes_what_was_asked_for_once():
    decision = payment_commands.request_capture(AUTHORIZED, 5000)
    call = provider_calls.next_call(decision.payment)
    assert (decision.due_in, call.kind, call.value, call.key) == (0.0, CallKind.CAPTURE, 5000, f"{ORDER}:1:capture")
    assert payment_commands.request_capture(decision.payment, 9900).payment == decision.payment
    captured = respond("waiting to capture", ProviderResponse(code=ResponseCode.CAPTURED)).payment
    assert (captured.captured, captured.unreserved) == (5000, 5000)
    assert payment_commands.request_refund(captured, Refund(refund_id="r", value=5001)).event is PaymentRefundFailed


@pytest.mark.parametrize("value", [0, 9901])
def test_no_more_is_captured_than_is_authorized(value):
    with pytest.raises(ValueError, match="exceeds"):
        payment_commands.request_capture(AUTHORIZED, value)


@pytest.mark.parametrize("payment", [SENT, CAPTURED, VOIDED, replace(AUTHORIZED, cancelled=True)], ids=named)
def test_a_capture_of_what_is_not_authorized_changes_nothing(payment):
    decision = payment_commands.request_capture(payment, 100)
    assert decision.payment == payment
    # What was due before stays due.
    assert (decision.due_in is None) == (provider_calls.next_call(payment) is None)


def listed(reference: str, code: str, value: int = 900, refund_id: str = "") -> ProviderRefund:
    return ProviderRefund(reference=reference, value=value, code=ResponseCode(code), refund_id=refund_id)


REFUND_PENDING = replace(PART_REFUNDING, refunds=(replace(PART, status=RefundStatus.PENDING, reference="re_1"),))


def test_a_refund_that_the_provider_has_accepted_waits_and_is_not_sent_again():
    decision = respond("waiting to refund a part", ProviderResponse(code=ResponseCode.PENDING, reference="re_1"))
    assert summary(decision) == "Refunding, no event, later"
    assert decision.payment.refunds == REFUND_PENDING.refunds
    assert provider_calls.next_call(decision.payment).kind == CallKind.RETRIEVE


@pytest.mark.parametrize(
    ("payment", "expected", "statuses"),
    [
        (PART_REFUNDING, "Captured, PaymentRefundFailed, never", [("r-1", "failed")]),
        (
            replace(PART_REFUNDING, cancelled=True, refunds=(WHOLE,)),
            "Unknown, PaymentParked, never",
            [("cancel", "failed"), ("cancel-2", "requested")],
        ),
    ],
)
def test_a_refund_that_was_made_unseen_and_has_failed_ends_like_one_that_fails_later(payment, expected, statuses):
    failed = ProviderResponse(code=ResponseCode.DECLINED, reference="re_1", reason="the card is closed")
    decision = provider_responses.apply_response(payment, provider_calls.next_call(payment), failed, 0.0, POLICY, NOW)
    assert summary(decision) == expected
    assert [(one.refund_id, one.status) for one in decision.payment.refunds] == statuses
    assert decision.payment.refunds[0].reference == "re_1"


def test_a_refund_that_is_refused_waits_for_an_operator():
    decision = respond("waiting to refund a part", ProviderResponse(code=ResponseCode.DECLINED, reason="closed"))
    assert summary(decision) == "Unknown, PaymentParked, never"
    with pytest.raises(ValueError, match="cannot be resolved"):
        payment_commands.resolve(decision.payment, ProviderResponse(code=ResponseCode.DECLINED), POLICY, NOW)


@pytest.mark.parametrize(
    ("payment", "refunds", "expected", "refund"),
    [
        (REFUND_PENDING, [listed("re_1", "refunded")], "Captured, PaymentRefunded, never", "r-1"),
        (REFUND_PENDING, [listed("re_9", "refunded", refund_id="r-1")], "Captured, PaymentRefunded, never", "r-1"),
        (REFUND_PENDING, [listed("re_1", "pending")], "Refunding, no event, later", None),
        (REFUND_PENDING, [listed("re_1", "declined")], "Captured, PaymentRefundFailed, never", "r-1"),
        (REFUND_PENDING, [], "Refunding, no event, later", None),
        (PART_REFUNDED, [listed("re_1", "declined", refund_id="r-1")], "Captured, PaymentRefundFailed, at once", "r-1"),
        (PART_REFUNDED, [listed("re_1", "refunded", refund_id="r-1")], "Captured, no event, never", None),
        (CAPTURED, [listed("re_7", "refunded")], "Captured, PaymentRefunded, at once", "re_7"),
        (CAPTURED, [listed("re_7", "refunded", 9900)], "Refunded, PaymentRefunded, at once", "re_7"),
        (CAPTURED, [listed("re_7", "pending"), listed("re_8", "declined")], "Captured, no event, never", None),
        (REFUNDED, [listed("re_1", "declined", 9900, "cancel")], "Unknown, PaymentParked, at once", "cancel"),
    ],
)
def test_what_the_refunds_in_the_record_lead_to(payment, refunds, expected, refund):
    if payment is not REFUND_PENDING:
        payment = replace(payment, refreshes_requested=1)
    decision = provider_calls.with_refresh(retrieved(payment, "captured", refunds=tuple(refunds)))
    assert summary(decision) == expected
    assert (decision.refund.refund_id if decision.refund else None) == refund


def test_a_refund_made_at_the_provider_is_recorded_once_and_cannot_be_given_again():
    once = retrieved(replace(CAPTURED, refreshes_requested=1), "captured", refunds=(listed("re_7", "refunded", 9000),))
    again = retrieved(once.payment, "captured", refunds=(listed("re_7", "refunded", 9000),))
    assert (again.event, again.payment.refunded, again.payment.unreserved) == (None, 9000, 900)


def test_what_a_cancelled_order_has_left_goes_back_where_a_refund_at_the_provider_left_too_little_for_a_requested_one():
    asked = Refund(refund_id="r-1", value=9900)
    parked = replace(CAPTURED, status=PaymentStatus.UNKNOWN, parked_reason="why", refunds=(asked,), cancelled=True)
    record = {"refunds": (listed("re_7", "refunded", 9000),)}
    found = retrieved(replace(parked, refreshes_requested=1), "captured", **record).payment
    again = replace(found, status=PaymentStatus.UNKNOWN, parked_reason="why", refreshes_requested=1)
    given_up = retrieved(again, "captured", **record)
    assert summary(given_up) == "Refunding, PaymentRefundFailed, at once"
    assert given_up.refund.refund_id == "r-1"
    call = provider_calls.next_call(given_up.payment)
    assert (call.kind, call.refund_id, call.value) == (CallKind.REFUND, "cancel", 900)


def test_the_refund_of_a_cancelled_order_that_fails_later_waits_for_an_operator_under_a_new_key():
    failed = retrieved(
        replace(REFUNDED, refreshes_requested=1), "captured", refunds=(listed("re_1", "declined", 9900, "cancel"),)
    ).payment
    assert [(one.refund_id, one.status, one.value) for one in failed.refunds] == [
        ("cancel", "failed", 9900),
        ("cancel-2", "requested", 9900),
    ]
    again = payment_commands.retry(failed).payment
    assert provider_calls.next_call(again).key == f"{ORDER}:1:refund:cancel-2"
    by_hand = payment_commands.resolve(failed, ProviderResponse(code=ResponseCode.REFUNDED), POLICY, NOW)
    assert summary(by_hand) == "Refunded, PaymentRefunded, at once"
    again = retrieved(by_hand.payment, "captured", refunds=(listed("re_1", "declined", 9900, "cancel"),))
    assert summary(again) == "Refunded, no event, never"


def test_a_cancelled_order_whose_refund_failed_ends_where_refunds_at_the_provider_gave_all_back():
    made = (listed("re_8", "refunded", 900), listed("re_9", "refunded", 9000))
    payment = replace(REFUNDED, refreshes_requested=1)
    for _ in range(3):
        found = retrieved(payment, "captured", refunds=(*made, listed("re_1", "declined", 9900, "cancel")))
        payment = replace(found.payment, refreshes_requested=found.payment.refreshes_made + 1)
    assert (payment.status, payment.refunded, payment.open_refund) == (PaymentStatus.REFUNDED, 9900, None)
    assert (found.event, found.refund.refund_id) == (PaymentRefundFailed, "cancel")


def disputes(status: str) -> dict:
    return {"disputes": (ProviderDispute(reference="dp_1", value=9900, status=DisputeStatus(status)),)}


def test_a_dispute_opens_and_is_won():
    opened = retrieved(replace(CAPTURED, refreshes_requested=1), "captured", **disputes("open"))
    assert (summary(opened), opened.dispute) == ("Disputed, PaymentDisputed, at once", DISPUTE)
    same = retrieved(opened.payment, "captured", **disputes("open"))
    assert summary(same) == "Disputed, no event, never"
    won = retrieved(payment_commands.request_refresh(same.payment).payment, "captured", **disputes("won"))
    assert summary(won) == "Captured, PaymentDisputeClosed, at once"
    assert (won.payment.unreserved, won.payment.disputed) == (9900, False)


def test_a_lost_dispute_leaves_nothing_to_refund():
    lost = retrieved(replace(DISPUTED, refreshes_requested=1), "captured", **disputes("lost"))
    assert summary(lost) == "Disputed, PaymentDisputeClosed, at once"
    assert (lost.payment.unreserved, lost.payment.disputed) == (0, True)
    assert payment_commands.request_refund(lost.payment, PART).event is PaymentRefundFailed


def test_a_dispute_that_ended_before_it_was_seen_is_recorded_in_two_steps():
    first = retrieved(replace(CAPTURED, refreshes_requested=1), "captured", **disputes("lost"))
    second = retrieved(first.payment, "captured", **disputes("lost"))
    third = retrieved(second.payment, "captured", **disputes("lost"))
    assert [one.event and one.event.__name__ for one in (first, second, third)] == [
        "PaymentDisputed",
        "PaymentDisputeClosed",
        None,
    ]


def test_no_refund_is_made_while_a_dispute_is_open():
    asked = payment_commands.request_refund(DISPUTED, PART)
    assert summary(asked) == "Disputed, no event, never"
    assert provider_calls.next_call(asked.payment) is None
    assert provider_calls.next_call(payment_commands.cancel(DISPUTED).payment) is None


def test_what_a_dispute_held_back_is_refunded_once_it_is_won():
    waiting = replace(payment_commands.request_refund(DISPUTED, PART).payment, refreshes_requested=1)
    won = retrieved(waiting, "captured", **disputes("won"))
    assert summary(won) == "Refunding, PaymentDisputeClosed, at once"
    assert provider_calls.next_call(won.payment).kind == CallKind.REFUND
    cancelled = replace(payment_commands.cancel(DISPUTED).payment, refreshes_requested=1)
    won = retrieved(cancelled, "captured", **disputes("won"))
    assert [(one.refund_id, one.value) for one in won.payment.refunds] == [("cancel", 9900)]


def test_a_refund_that_waited_for_a_dispute_fails_once_it_is_lost():
    waiting = replace(payment_commands.request_refund(DISPUTED, PART).payment, refreshes_requested=1)
    lost = retrieved(waiting, "captured", **disputes("lost"))
    given_up = retrieved(lost.payment, "captured", **disputes("lost"))
    assert summary(given_up) == "Disputed, PaymentRefundFailed, at once"
    assert given_up.refund.refund_id == "r-1"
    assert summary(retrieved(given_up.payment, "captured", **disputes("lost"))) == "Disputed, no event, never"


def test_a_refresh_requested_while_another_is_made_is_made_as_well():
    refreshing = replace(CAPTURED, refreshes_requested=1)
    call = provider_calls.next_call(refreshing)
    meanwhile = payment_commands.request_refresh(refreshing).payment
    response = ProviderResponse(code=ResponseCode.CAPTURED)
    decision = provider_responses.apply_response(meanwhile, call, response, 1.0, POLICY, NOW)
    assert decision.due_in == 0.0
    assert (decision.payment.refreshes_requested, decision.payment.refreshes_made) == (2, 1)


def test_a_refresh_requested_during_a_charge_follows_it():
    charging = payment_commands.request_refresh(SENT).payment
    decision = provider_responses.apply_response(
        charging,
        call_of(SENT, CallKind.CHARGE),
        ProviderResponse(code=ResponseCode.CAPTURED, reference="r"),
        1.0,
        POLICY,
        NOW,
    )
    assert (decision.due_in, provider_calls.with_refresh(decision).due_in) == (None, 0.0)


def test_a_payment_without_a_reference_is_not_again_at():
    decision = payment_commands.request_refresh(replace(VOIDED, reference=""))
    assert (decision.due_in, provider_calls.next_call(decision.payment)) == (None, None)


@pytest.mark.parametrize("code", [ResponseCode.PENDING, ResponseCode.AUTHORIZED])
def test_an_operator_cannot_let_a_payment_wait_that_is_not_found_again(code):
    with pytest.raises(ValueError, match="cannot be resolved"):
        payment_commands.resolve(PARKED, ProviderResponse(code=code), POLICY, NOW)
    assert payment_commands.resolve(PARKED, ProviderResponse(code=code, reference="pi_1"), POLICY, NOW).due_in


def test_a_refresh_is_made_at_any_age_of_the_key():
    assert provider_calls.may_send(replace(PENDING, reference=""), 10_000_000.0, POLICY)


@pytest.mark.parametrize("waiting", [PENDING, ACTION_REQUIRED], ids=named)
def test_a_payment_that_was_parked_while_it_waited_is_refreshed_and_not_charged_again(waiting):
    parked = retrieved(waiting, "refunded").payment
    assert parked.status == PaymentStatus.UNKNOWN
    again = payment_commands.retry(parked).payment
    assert provider_calls.next_call(again).kind == CallKind.RETRIEVE


def test_an_old_key_is_not_sent_again_for_a_reference_unless_the_provider_opens_payments():
    charging = replace(SENT, reference="ref-1")
    assert not provider_calls.may_send(charging, POLICY.key_life, POLICY)
    assert provider_calls.may_send(replace(charging, opens=True), POLICY.key_life, POLICY)
    assert provider_calls.may_send(replace(charging, cancelled=True), POLICY.key_life, POLICY)


ASKED = {"capture_request_id": "capturing", "cancel_request_id": "cancelling", "refresh_request_id": "notified"}
PART_ASKED = replace(PART, request_id="refunding")


@pytest.mark.parametrize(
    ("payment", "kind", "request_id"),
    [
        (SENT, CallKind.CHARGE, "r-1"),
        (OPENS, CallKind.OPEN, "r-1"),
        (PENDING, CallKind.RETRIEVE, "r-1"),
        (replace(PENDING, refreshes_requested=1), CallKind.RETRIEVE, "r-1"),
        (replace(PENDING, expired=True, cancel_request_id=""), CallKind.VOID, "r-1"),
        (CANCELLED, CallKind.VOID, "cancelling"),
        (CAPTURING, CallKind.CAPTURE, "capturing"),
        (replace(PART_REFUNDING, refunds=(PART_ASKED,)), CallKind.REFUND, "refunding"),
        (
            replace(PART_REFUNDING, refunds=(replace(PART_ASKED, status=RefundStatus.PENDING),)),
            CallKind.RETRIEVE,
            "refunding",
        ),
        (replace(CAPTURED, refreshes_requested=1), CallKind.RETRIEVE, "notified"),
    ],
)
def test_a_call_names_the_request_that_caused_it(payment, kind, request_id):
    asked = {name: value for name, value in ASKED.items() if not (payment.expired and name == "cancel_request_id")}
    call = provider_calls.next_call(replace(payment, **asked))
    assert (call.kind, call.request_id) == (kind, request_id)


@pytest.mark.parametrize("payment", [CAPTURING, PART_REFUNDING, CANCELLED])
def test_what_an_earlier_release_began_is_ascribed_to_the_request_that_placed_the_order(payment):
    assert provider_calls.next_call(payment).request_id == "r-1"


def test_an_event_names_the_request_that_caused_it():
    refunding = replace(PART_REFUNDING, refunds=(PART_ASKED,))
    refunded = ProviderResponse(code=ResponseCode.REFUNDED)
    decision = provider_responses.apply_response(
        refunding, provider_calls.next_call(refunding), refunded, 1.0, POLICY, NOW
    )
    assert decision.request_id == "refunding"
    exhausted = provider_responses.park_if_exhausted(replace(refunding, retry_count=13), POLICY)
    assert exhausted.request_id == "refunding"
    assert payment_commands.resolve(exhausted.payment, refunded, POLICY, NOW).request_id == "refunding"
    assert payment_commands.drop_refund(exhausted.payment, "r-1", "wrong").request_id == "refunding"


def test_what_happened_at_the_provider_names_the_notification_and_not_the_order():
    refreshing = payment_commands.request_refresh(CAPTURED, "notified").payment
    assert retrieved(refreshing, "captured", refunds=(listed("re_7", "refunded"),)).request_id == "notified"
    assert retrieved(refreshing, "captured", **disputes("open")).request_id == "notified"
    by_hand = payment_commands.request_refresh(CAPTURED).payment
    assert retrieved(by_hand, "captured", **disputes("open")).request_id == ""


def test_the_refund_of_a_charge_that_lands_after_its_cancellation_names_the_cancellation():
    charged = payment_commands.cancel(SENT, "cancelling").payment
    captured = provider_responses.apply_response(
        charged, call_of(SENT, CallKind.CHARGE), ProviderResponse(code=ResponseCode.CAPTURED), 1.0, POLICY, NOW
    )
    assert captured.request_id == "r-1"
    assert provider_calls.next_call(captured.payment).request_id == "cancelling"
