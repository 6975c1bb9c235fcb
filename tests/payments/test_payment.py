"""A payment's next call and the meaning of each answer, against tables written out by hand."""

from dataclasses import replace

import pytest

from app.contracts.orders import OrderCancelled, OrderCreated
from app.payments import payment as domain
from app.payments.payment import Call, Kind, News, Payment, ProviderResponse, Refund, ResponseCode, RetryPolicy, Status

ORDER = "6920c1b05be0d3a1f2c4e687"
PATIENCE = RetryPolicy(tries=12, horizon=72_000.0, key_life=86_000.0, backoff=2.0, backoff_max=300.0)
FRESH = Payment(
    order_id=ORDER,
    request_id="r-1",
    user_id="user-7",
    product_id="1",
    total_value=9900,
    total_currency="MYR",
)
SENT = replace(FRESH, sent=True, attempt=1, tries=1)
CANCELLED = replace(SENT, cancelled=True, tries=0)
CAPTURED = replace(SENT, status=Status.CAPTURED, captured=9900, reference="ref-1", tries=0)
WHOLE = Refund(refund_id="cancel", value=9900)
PART = Refund(refund_id="r-1", value=900)
REFUNDING = replace(CAPTURED, status=Status.REFUNDING, cancelled=True, refunds=(WHOLE,), attempt=2, tries=1)
PART_REFUNDING = replace(CAPTURED, status=Status.REFUNDING, refunds=(PART,), attempt=2, tries=1)
PART_REFUNDED = replace(CAPTURED, refunds=(replace(PART, done=True),))
REFUNDED = replace(CAPTURED, status=Status.REFUNDED, cancelled=True, refunds=(replace(WHOLE, done=True),))
DECLINED = replace(SENT, status=Status.DECLINED, tries=0)
VOIDED = replace(CANCELLED, status=Status.VOIDED)
PARKED = replace(SENT, status=Status.UNKNOWN, parked="no answer", tries=12)
PARKED_PART = replace(PART_REFUNDING, status=Status.UNKNOWN, parked="no answer", tries=12)
PARKED_REFUND = replace(PARKED_PART, refunds=(Refund(refund_id="r-1", value=9900),))

WAITING = {
    "waiting to charge": (SENT, Kind.CHARGE),
    "charging, cancelled meanwhile": (CANCELLED, Kind.CHARGE),
    "waiting to void": (CANCELLED, Kind.VOID),
    "waiting to refund all": (REFUNDING, Kind.REFUND),
    "waiting to refund a part": (PART_REFUNDING, Kind.REFUND),
}
# What each answer leads to: the status, the news for others, and when to call again.
ANSWERS = {
    "waiting to charge": {
        "captured": "Captured, PaymentCaptured, never",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "not attempted": "Processing, no news, later",
        "unknown": "Processing, no news, later",
    },
    "charging, cancelled meanwhile": {
        "captured": "Refunding, PaymentCaptured, at once",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "not attempted": "Processing, no news, later",
        "unknown": "Processing, no news, later",
    },
    "waiting to void": {
        "captured": "Refunding, PaymentCaptured, at once",
        "declined": "Declined, PaymentDeclined, never",
        "voided": "Voided, PaymentVoided, never",
        "refunded": "Unknown, PaymentParked, never",
        "not attempted": "Processing, no news, later",
        "unknown": "Processing, no news, later",
    },
    "waiting to refund all": {
        "captured": "Unknown, PaymentParked, never",
        "declined": "Unknown, PaymentParked, never",
        "voided": "Unknown, PaymentParked, never",
        "refunded": "Refunded, PaymentRefunded, never",
        "not attempted": "Refunding, no news, later",
        "unknown": "Refunding, no news, later",
    },
    "waiting to refund a part": {
        "captured": "Unknown, PaymentParked, never",
        "declined": "Unknown, PaymentParked, never",
        "voided": "Unknown, PaymentParked, never",
        "refunded": "Captured, PaymentRefunded, never",
        "not attempted": "Refunding, no news, later",
        "unknown": "Refunding, no news, later",
    },
}
CASES = [(work, ResponseCode(answer)) for work, row in ANSWERS.items() for answer in row]

# What a cancellation leads to: the same three, and then what is asked of the provider.
CANCELLING = [
    (FRESH, "Voided, PaymentVoided, never", None),
    (SENT, "Processing, no news, at once", Kind.VOID),
    (CAPTURED, "Refunding, no news, at once", Kind.REFUND),
    (PART_REFUNDED, "Refunding, no news, at once", Kind.REFUND),
    (PART_REFUNDING, "Refunding, no news, at once", Kind.REFUND),
    (REFUNDING, "Refunding, no news, at once", Kind.REFUND),
    (REFUNDED, "Refunded, no news, never", None),
    (DECLINED, "Declined, no news, never", None),
    (VOIDED, "Voided, no news, never", None),
    (PARKED, "Processing, no news, at once", Kind.VOID),
    (PARKED_PART, "Refunding, no news, at once", Kind.REFUND),
    (PARKED_REFUND, "Refunding, no news, at once", Kind.REFUND),
]
NAMES = {id(held): name for name, held in globals().copy().items() if isinstance(held, Payment)}


def named(given):
    return NAMES.get(id(given)) if isinstance(given, Payment) else None


def call_of(payment: Payment, kind: Kind) -> Call:
    """The call that was made: for a charge that was cancelled meanwhile, the one from before."""
    call = domain.next_call(replace(payment, cancelled=kind == Kind.VOID))
    assert call.kind == kind
    return call


def answer(work: str, outcome: ProviderResponse, age: float = 1.0, **changes) -> domain.PaymentDecision:
    payment, kind = WAITING[work]
    return domain.answered(replace(payment, **changes), call_of(payment, kind), outcome, age, PATIENCE)


def summary(change: domain.PaymentDecision) -> str:
    when = "never" if change.due is None else "at once" if change.due == 0 else "later"
    return f"{change.payment.status.value}, {change.news.value if change.news else 'no news'}, {when}"


def test_a_new_order_opens_a_payment_that_nobody_has_sent():
    event = OrderCreated(
        event_id="e", order_id=ORDER, sequence=1, request_id="r-1", at=1,
        user_id="user-7", product_id="1", total_value=9900, total_currency="MYR",
    )  # fmt: skip
    assert domain.opened(event) == replace(FRESH, order_sequence=1, asked_at=1)
    assert FRESH.status == Status.PROCESSING
    assert (FRESH.sent, FRESH.cancelled, FRESH.attempt, FRESH.tries, FRESH.captured) == (False, False, 0, 0, 0)


def test_the_table_of_answers_is_whole():
    assert {answer.value for answer in ResponseCode} == set(ANSWERS["waiting to charge"])
    assert all(set(row) == set(ANSWERS["waiting to charge"]) for row in ANSWERS.values())
    assert set(Status) == {payment.status for payment, _, _ in CANCELLING}


@pytest.mark.parametrize(("work", "given"), CASES)
def test_what_an_answer_leads_to(work, given):
    change = answer(work, ProviderResponse(answer=given, reason="because", reference="ref-9"))
    assert summary(change) == ANSWERS[work][given.value]


@pytest.mark.parametrize(("work", "given"), CASES)
def test_no_answer_ever_takes_or_returns_more_than_there_is(work, given):
    after = answer(work, ProviderResponse(answer=given)).payment
    assert after.captured in (0, 9900)
    assert sum(refund.value for refund in after.refunds) <= after.captured
    assert after.refunded <= after.captured


@pytest.mark.parametrize(("work", "given"), CASES)
def test_whatever_is_due_has_something_to_ask_and_whatever_is_not_has_nothing(work, given):
    change = answer(work, ProviderResponse(answer=given))
    assert (domain.next_call(change.payment) is None) == (change.due is None)


def test_a_capture_takes_the_whole_total_and_keeps_the_reference():
    change = answer("waiting to charge", ProviderResponse(answer=ResponseCode.CAPTURED, reference="ref-9"), tries=7)
    assert (change.payment.captured, change.payment.reference, change.detail) == (9900, "ref-9", "ref-9")
    assert (change.payment.tries, change.payment.refunds) == (0, ())


def test_a_capture_that_lands_after_the_cancellation_goes_back_whole():
    for work in ("charging, cancelled meanwhile", "waiting to void"):
        change = answer(work, ProviderResponse(answer=ResponseCode.CAPTURED))
        assert change.payment.captured == 9900
        assert change.payment.refunds == (Refund(refund_id="cancel", value=9900, done=False),)
        assert change.payment.tries == 0


def test_a_decline_moves_no_money_and_tells_why():
    for work in ("waiting to charge", "charging, cancelled meanwhile"):
        change = answer(work, ProviderResponse(answer=ResponseCode.DECLINED, reason="no cover"))
        assert (change.payment.captured, change.payment.refunds, change.detail) == (0, (), "no cover")


def test_after_a_cancellation_an_unsettled_charge_is_voided_with_the_same_key():
    for given in (ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN):
        after = answer("charging, cancelled meanwhile", ProviderResponse(answer=given)).payment
        call = domain.next_call(after)
        assert (call.kind, call.key) == (Kind.VOID, f"{ORDER}:1")


def test_several_refunds_are_made_one_after_the_other():
    both = replace(REFUNDING, refunds=(PART, Refund(refund_id="cancel", value=9000)))
    first = domain.next_call(both)
    assert (first.refund_id, first.value) == ("r-1", 900)
    change = domain.answered(both, first, ProviderResponse(answer=ResponseCode.REFUNDED), 1.0, PATIENCE)
    assert summary(change) == "Refunding, PaymentRefunded, at once"
    assert (change.refund.refund_id, change.refund.value, change.payment.refunded) == ("r-1", 900, 900)
    second = domain.next_call(change.payment)
    assert (second.refund_id, second.value) == ("cancel", 9000)
    change = domain.answered(change.payment, second, ProviderResponse(answer=ResponseCode.REFUNDED), 1.0, PATIENCE)
    assert summary(change) == "Refunded, PaymentRefunded, never"
    assert (change.refund.refund_id, change.payment.refunded) == ("cancel", 9900)


@pytest.mark.parametrize(("payment", "expected", "then"), CANCELLING, ids=named)
def test_what_a_cancellation_leads_to(payment, expected, then):
    change = domain.cancelled(payment)
    assert summary(change) == expected
    assert change.payment.cancelled
    call = domain.next_call(change.payment)
    assert (call.kind if call else None) == then


@pytest.mark.parametrize(("payment", "expected", "then"), CANCELLING, ids=named)
def test_a_cancellation_sends_back_what_was_captured_and_no_more(payment, expected, then):
    after = domain.cancelled(payment).payment
    assert after.captured == payment.captured
    assert sum(refund.value for refund in after.refunds) == after.captured


@pytest.mark.parametrize(("payment", "expected", "then"), CANCELLING, ids=named)
def test_a_second_cancellation_adds_no_refund(payment, expected, then):
    once = domain.cancelled(payment).payment
    assert domain.cancelled(once).payment.refunds == once.refunds


def test_a_cancellation_keeps_a_refund_that_is_under_way():
    after = domain.cancelled(PART_REFUNDING).payment
    assert after.refunds == (PART, Refund(refund_id="cancel", value=9000))


def test_a_cancellation_begins_the_count_of_tries_anew():
    for payment in (replace(SENT, tries=11), PARKED, replace(CAPTURED, tries=3)):
        after = domain.cancelled(payment).payment
        assert (after.tries, after.parked) == (0, "")


@pytest.mark.parametrize(
    ("payment", "kind"),
    [
        (FRESH, Kind.CHARGE),
        (SENT, Kind.CHARGE),
        (CANCELLED, Kind.VOID),
        (CAPTURED, None),
        (PART_REFUNDED, None),
        (REFUNDING, Kind.REFUND),
        (PART_REFUNDING, Kind.REFUND),
        (REFUNDED, None),
        (DECLINED, None),
        (VOIDED, None),
        (PARKED, None),
        (PARKED_REFUND, None),
    ],
    ids=named,
)
def test_what_is_asked_of_the_provider_next(payment, kind):
    call = domain.next_call(payment)
    assert (call.kind if call else None) == kind


def test_every_attempt_of_a_charge_and_its_void_has_the_same_key():
    held = [
        replace(SENT, attempt=attempt, tries=tries, version=attempt + 3, cancelled=cancelled)
        for attempt in range(1, 20)
        for tries in range(13)
        for cancelled in (False, True)
    ]
    calls = [domain.next_call(payment) for payment in held]
    assert {call.kind for call in calls} == {Kind.CHARGE, Kind.VOID}
    assert {(call.key, call.charge_key) for call in calls} == {(f"{ORDER}:1", f"{ORDER}:1")}


def test_the_key_changes_with_the_order_and_the_generation_only():
    assert domain.next_call(replace(SENT, generation=2)).key == f"{ORDER}:2"
    assert domain.next_call(replace(SENT, order_id="0" * 24)).key == "0" * 24 + ":1"


def test_a_refund_has_a_key_of_its_own_that_stays():
    calls = [domain.next_call(replace(REFUNDING, attempt=at, tries=at, version=at)) for at in range(2, 14)]
    assert {(call.key, call.charge_key) for call in calls} == {(f"{ORDER}:1:refund:cancel", f"{ORDER}:1")}
    assert domain.next_call(PART_REFUNDING).key == f"{ORDER}:1:refund:r-1"


def test_a_call_says_all_that_a_provider_needs():
    call = domain.next_call(SENT)
    assert (call.order_id, call.product_id, call.value, call.currency) == (ORDER, "1", 9900, "MYR")
    call = domain.next_call(PART_REFUNDING)
    assert (call.value, call.currency, call.refund_id) == (900, "MYR", "r-1")


UNSETTLED = (ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN)


@pytest.mark.parametrize("work", WAITING)
@pytest.mark.parametrize("given", UNSETTLED)
def test_what_stays_unsettled_is_parked_after_the_last_try(work, given):
    outcome = ProviderResponse(answer=given, reason="no answer in time")
    assert answer(work, outcome, tries=11).news is None
    for tries in (12, 13):
        change = answer(work, outcome, tries=tries)
        assert summary(change) == "Unknown, PaymentParked, never"
        assert change.payment.parked == change.detail == "no answer in time"


@pytest.mark.parametrize("work", WAITING)
@pytest.mark.parametrize("given", UNSETTLED)
def test_what_stays_unsettled_is_parked_at_the_horizon(work, given):
    outcome = ProviderResponse(answer=given)
    assert answer(work, outcome, age=71_999.9, tries=2).news is None
    for age in (72_000.0, 100_000.0):
        change = answer(work, outcome, age=age, tries=2)
        assert summary(change) == "Unknown, PaymentParked, never"
        assert change.payment.parked


@pytest.mark.parametrize("given", [answer for answer in ResponseCode if answer not in UNSETTLED])
def test_an_answer_that_comes_on_the_last_try_counts_as_any_other(given):
    late = answer("waiting to charge", ProviderResponse(answer=given), age=80_000.0, tries=12)
    assert summary(late) == ANSWERS["waiting to charge"][given.value]


def test_what_is_parked_keeps_what_is_known_of_the_money():
    after = answer("waiting to refund all", ProviderResponse(answer=ResponseCode.UNKNOWN), tries=12).payment
    assert (after.captured, after.refunds, after.reference) == (9900, (WHOLE,), "ref-1")


def test_the_pause_grows_from_try_to_try_and_is_capped():
    pauses = [domain.backoff(tries, PATIENCE) for tries in range(1, 13)]
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0, 300.0, 300.0]
    assert domain.backoff(0, PATIENCE) == 2.0


def test_the_pause_is_capped_however_many_tries_there_were():
    assert domain.backoff(5_000, PATIENCE) == 300.0


@pytest.mark.parametrize("tries", [1, 4, 11])
def test_an_unsettled_call_is_repeated_after_the_pause(tries):
    change = answer("waiting to charge", ProviderResponse(answer=ResponseCode.UNKNOWN, reason="no answer"), tries=tries)
    assert change.due == domain.backoff(tries, PATIENCE)
    assert (change.payment.tries, change.detail) == (tries, "no answer")


def test_a_provider_that_asks_for_patience_gets_it():
    asked = ProviderResponse(answer=ResponseCode.NOT_ATTEMPTED, retry_after=45.0)
    assert answer("waiting to charge", asked, tries=1).due == 45.0
    assert answer("waiting to charge", asked, tries=10).due == 300.0


def test_a_provider_that_was_spared_costs_no_try():
    spared = ProviderResponse(answer=ResponseCode.NOT_ATTEMPTED, counts=False)
    assert answer("waiting to charge", spared, tries=5).payment.tries == 4
    assert answer("waiting to charge", spared, tries=1).payment.tries == 0
    assert answer("waiting to charge", spared, tries=0).payment.tries == 0
    assert answer("waiting to charge", spared, tries=12).news is None


def test_a_payment_taken_up_more_often_than_allowed_is_parked():
    for tries in (0, 1, 12):
        assert domain.exhausted(replace(SENT, tries=tries), PATIENCE) is None
    for payment in (replace(SENT, tries=13), replace(REFUNDING, tries=13)):
        change = domain.exhausted(payment, PATIENCE)
        assert summary(change) == "Unknown, PaymentParked, never"
        assert change.payment.parked
        assert change.news == News.PARKED


REFUNDABLE = [
    (CAPTURED, 900, "Refunding, no news, at once"),
    (CAPTURED, 9900, "Refunding, no news, at once"),
    (PART_REFUNDED, 9000, "Refunding, no news, at once"),
    (PART_REFUNDING, 9000, "Refunding, no news, at once"),
    (CAPTURED, 9901, None),
    (PART_REFUNDED, 9001, None),
    (PART_REFUNDING, 9001, None),
    (REFUNDING, 1, None),
    (REFUNDED, 1, None),
    (DECLINED, 1, None),
    (VOIDED, 1, None),
    (SENT, 1, None),
]


@pytest.mark.parametrize(("payment", "value", "expected"), REFUNDABLE, ids=lambda given: named(given) or str(given))
def test_a_refund_on_request_never_exceeds_what_is_left(payment, value, expected):
    refund = Refund(refund_id="on request", value=value)
    if expected is None:
        with pytest.raises(ValueError, match="exceeds"):
            domain.refund_requested(payment, refund)
        return
    change = domain.refund_requested(payment, refund)
    assert summary(change) == expected
    assert change.payment.refunds == (*payment.refunds, refund)
    assert sum(one.value for one in change.payment.refunds) <= change.payment.captured


def test_a_refund_requested_again_is_not_added_again():
    for payment in (PART_REFUNDING, PART_REFUNDED):
        assert domain.refund_requested(payment, PART).payment.refunds == payment.refunds


NOT_PARKED = [FRESH, SENT, CAPTURED, REFUNDING, REFUNDED, DECLINED, VOIDED]


@pytest.mark.parametrize("payment", NOT_PARKED, ids=named)
def test_only_what_is_parked_is_for_an_operator(payment):
    with pytest.raises(ValueError, match="not parked"):
        domain.retried(payment)
    with pytest.raises(ValueError, match="not parked"):
        domain.resolved(payment, ProviderResponse(answer=ResponseCode.CAPTURED), PATIENCE)


@pytest.mark.parametrize(
    ("payment", "key"),
    [(PARKED, f"{ORDER}:1"), (PARKED_PART, f"{ORDER}:1:refund:r-1"), (replace(PARKED, cancelled=True), f"{ORDER}:1")],
)
def test_what_is_retried_by_hand_is_asked_for_with_the_same_key(payment, key):
    change = domain.retried(payment)
    assert (change.due, change.news, change.payment.tries, change.payment.parked) == (0.0, None, 0, "")
    assert domain.next_call(change.payment).key == key


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
        (PARKED_PART, "declined", None),
        (PARKED_PART, "unknown", None),
    ],
)
def test_what_an_operator_may_find_out(payment, found, expected):
    outcome = ProviderResponse(answer=ResponseCode(found), reference="ref-9")
    if expected is None:
        with pytest.raises(ValueError, match="cannot be resolved"):
            domain.resolved(payment, outcome, PATIENCE)
        return
    change = domain.resolved(payment, outcome, PATIENCE)
    assert summary(change) == expected
    assert change.payment.parked == ""


@pytest.mark.parametrize("age", [0.0, 85_999.9])
def test_a_key_may_be_sent_while_the_provider_knows_it(age):
    assert domain.may_send(SENT, age, PATIENCE)


@pytest.mark.parametrize("age", [86_000.0, 10_000_000.0])
@pytest.mark.parametrize("payment", [SENT, CANCELLED, REFUNDING, PARKED, PARKED_PART], ids=named)
def test_a_key_is_never_sent_once_the_provider_may_have_forgotten_it(payment, age):
    assert not domain.may_send(payment, age, PATIENCE)


@pytest.mark.parametrize("age", [0.0, 10_000_000.0])
def test_a_key_that_the_provider_cannot_have_received_may_be_sent_at_any_age(age):
    assert domain.may_send(FRESH, age, PATIENCE)


@pytest.mark.parametrize("work", WAITING)
def test_what_is_unsettled_past_the_keys_life_is_parked_though_the_horizon_were_later(work):
    patient = replace(PATIENCE, horizon=1_000_000.0)
    payment, kind = WAITING[work]
    unknown = ProviderResponse(answer=ResponseCode.UNKNOWN)
    change = domain.answered(payment, call_of(payment, kind), unknown, 86_000.0, patient)
    assert summary(change) == "Unknown, PaymentParked, never"


@pytest.mark.parametrize("work", WAITING)
def test_what_was_not_even_asked_for_is_not_parked_however_old(work):
    """The provider is left alone for a while; then it is asked."""
    spared = ProviderResponse(answer=ResponseCode.NOT_ATTEMPTED, counts=False)
    assert answer(work, spared, age=1_000_000.0, tries=12).news is None


def test_the_first_attempt_that_may_send_a_key_is_known():
    first = domain.claimed(FRESH)
    assert (first.sent, first.first_send, first.attempt, first.tries) == (True, True, 1, 1)
    again = domain.claimed(first)
    assert (again.sent, again.first_send, again.attempt, again.tries) == (True, False, 2, 2)


@pytest.mark.parametrize(
    ("first_send", "given", "sent"),
    [
        (True, ResponseCode.NOT_ATTEMPTED, False),
        (True, ResponseCode.UNKNOWN, True),
        (False, ResponseCode.NOT_ATTEMPTED, True),
        (False, ResponseCode.UNKNOWN, True),
    ],
)
def test_a_key_stays_unsent_where_its_first_request_never_reached_the_provider(first_send, given, sent):
    for tries in (1, 12):
        assert (
            answer("waiting to charge", ProviderResponse(answer=given), first_send=first_send, tries=tries).payment.sent
            == sent
        )


def test_another_key_has_not_been_sent():
    sent = replace(CAPTURED, first_send=True)
    for before, after in (
        (sent, replace(sent, status=Status.REFUNDING, refunds=(PART,))),
        (replace(PARKED, first_send=True), replace(sent, status=Status.REFUNDING, refunds=(WHOLE,))),
        (PART_REFUNDING, replace(PART_REFUNDING, refunds=(replace(PART, done=True), WHOLE))),
    ):
        assert not domain.with_key(before, after).sent
        assert not domain.with_key(before, after).first_send


def test_the_same_key_stays_sent_whatever_else_changes():
    for before, after in (
        (SENT, CANCELLED),
        (SENT, PARKED),
        (PARKED, SENT),
        (PART_REFUNDING, PARKED_PART),
        (PART_REFUNDING, replace(PART_REFUNDING, refunds=(PART, WHOLE))),
        (SENT, CAPTURED),
    ):
        assert domain.with_key(before, after) == after


def test_the_time_of_the_work_is_that_of_the_event_that_asked_for_it_first():
    event = OrderCancelled(event_id="e", order_id=ORDER, sequence=7, request_id="r", at=500, traceparent="t")

    def caused(before):
        return domain.caused_by(before, domain.cancelled(before), event).payment

    assert (caused(CAPTURED).asked_at, caused(CAPTURED).order_sequence, caused(CAPTURED).traceparent) == (500, 7, "t")
    for open_work in (SENT, PARKED, PART_REFUNDING):
        assert caused(replace(open_work, asked_at=9)).asked_at == 9


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
            replace(PARKED_PART, refunds=(Refund(refund_id="r-0", value=50, done=True), PART)),
            "Captured, PaymentRefundFailed, never",
            (Refund(refund_id="r-0", value=50, done=True),),
        ),
    ],
)
def test_what_giving_up_a_refund_leads_to(payment, expected, refunds):
    change = domain.refund_dropped(payment, "r-1", "the card was closed")
    assert summary(change) == expected
    assert change.payment.refunds == refunds
    assert (change.refund.refund_id, change.detail) == ("r-1", "the card was closed")
    assert (change.payment.tries, change.payment.parked) == (0, "")


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
        domain.refund_dropped(payment, refund_id, "why")
