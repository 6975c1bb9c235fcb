"""What Stripe's objects say. Shapes as in Stripe's API reference, version 2026-10-28."""

import pytest

from app.payments.provider_port import ActionKind, DisputeStatus, NextAction, ResponseCode
from app.payments.providers.stripe import states

OURS = {"application": "orderflow", "order_id": "o"}
INTENT = {
    "id": "pi_1",
    "currency": "kwd",
    "amount_received": 9_000,
    "amount_capturable": 9_900,
    "client_secret": "pi_1_secret_2",
    "metadata": OURS,
}
ERROR = {"code": "card_declined", "decline_code": "lost_card", "message": "Lost.", "advice_code": "do_not_try_again"}
CONFIRM = NextAction(type=ActionKind.CONFIRM, client_secret="pi_1_secret_2")
REDIRECT = NextAction(type=ActionKind.REDIRECT, url="https://hooks.stripe.com/3ds")
TO_URL = {"type": "redirect_to_url", "redirect_to_url": {"url": REDIRECT.url, "return_url": "https://shop.example"}}


@pytest.mark.parametrize(
    ("members", "method", "code", "value", "action"),
    [
        ({"status": "succeeded"}, "pm_1", ResponseCode.CAPTURED, 9_000, None),
        ({"status": "requires_capture"}, "pm_1", ResponseCode.AUTHORIZED, 9_900, None),
        ({"status": "processing"}, "pm_1", ResponseCode.PENDING, 0, None),
        ({"status": "requires_action", "next_action": TO_URL}, "pm_1", ResponseCode.PENDING, 0, REDIRECT),
        ({"status": "requires_action", "next_action": {"type": "use_stripe_sdk"}}, "pm_1", ResponseCode.PENDING, 0, CONFIRM),
        ({"status": "requires_action", "next_action": None}, "pm_1", ResponseCode.PENDING, 0, CONFIRM),
        ({"status": "requires_confirmation"}, "pm_1", ResponseCode.OPENED, 0, None),
        ({"status": "requires_payment_method"}, "pm_1", ResponseCode.OPENED, 0, None),
        ({"status": "requires_payment_method", "last_payment_error": ERROR}, "pm_1", ResponseCode.DECLINED, 0, None),
        # A page of the shop collects the card: its customer may try another one.
        ({"status": "requires_payment_method"}, "", ResponseCode.PENDING, 0, CONFIRM),
        ({"status": "requires_payment_method", "last_payment_error": ERROR}, "", ResponseCode.PENDING, 0, CONFIRM),
        ({"status": "requires_confirmation"}, "", ResponseCode.PENDING, 0, CONFIRM),
        ({"status": "canceled"}, "pm_1", ResponseCode.VOIDED, 0, None),
        ({"status": "canceled", "last_payment_error": ERROR}, "pm_1", ResponseCode.DECLINED, 0, None),
        ({"status": "canceled", "latest_charge": {"status": "failed", "failure_code": "card_declined"}}, "pm_1", ResponseCode.DECLINED, 0, None),
        ({"status": "canceled", "latest_charge": "ch_1"}, "pm_1", ResponseCode.VOIDED, 0, None),
        ({"status": "a status of another year"}, "pm_1", ResponseCode.UNKNOWN, 0, None),
    ],
)  # fmt: skip
def test_what_a_payment_says(members, method, code, value, action):
    response = states.payment_response({**INTENT, **members}, method)
    assert (response.code, response.reference, response.value, response.action) == (code, "pi_1", value, action)


def test_a_decline_has_the_code_and_the_advice_of_the_issuer():
    intent = {**INTENT, "status": "requires_payment_method", "last_payment_error": ERROR}
    response = states.payment_response(intent, "pm_1")
    assert (response.reason, response.decline_code, response.retry_helps) == ("Lost.", "lost_card", False)


def test_a_decline_whose_error_is_cleared_is_read_from_its_charge():
    charge = {"status": "failed", "failure_message": "Lost.", "outcome": {"reason": "lost_card"}}
    response = states.payment_response({**INTENT, "status": "canceled", "latest_charge": charge}, "pm_1")
    assert (response.reason, response.decline_code) == ("Lost.", "lost_card")


@pytest.mark.parametrize(
    ("status", "confirmable"),
    [
        ("requires_payment_method", True),
        ("requires_confirmation", True),
        ("requires_action", True),
        ("processing", False),
        ("requires_capture", False),
        ("succeeded", False),
        ("canceled", False),
    ],
)
def test_what_somebody_could_still_pay(status, confirmable):
    assert states.is_confirmable({**INTENT, "status": status}) == confirmable


@pytest.mark.parametrize(
    ("status", "more", "code", "reason"),
    [
        ("succeeded", {}, ResponseCode.REFUNDED, ""),
        ("pending", {}, ResponseCode.PENDING, "pending"),
        ("pending", {"pending_reason": "insufficient_funds"}, ResponseCode.PENDING, "insufficient_funds"),
        ("requires_action", {}, ResponseCode.PENDING, "requires_action"),
        ("failed", {"failure_reason": "expired_or_canceled_card"}, ResponseCode.DECLINED, "expired_or_canceled_card"),
        ("canceled", {}, ResponseCode.DECLINED, "canceled"),
    ],
)
def test_what_a_refund_says(status, more, code, reason):
    refund = {"id": "re_1", "amount": 900, "currency": "kwd", "metadata": {}, "status": status, **more}
    response, listed = states.refund_response(refund), states.listed_refund(refund)
    assert (response.code, response.reference, response.reason) == (code, "re_1", reason)
    assert (listed.code, listed.reference, listed.value, listed.reason) == (code, "re_1", 900, reason)


@pytest.mark.parametrize(
    ("metadata", "refund_id"),
    [
        ({**OURS, "refund_id": "r-1"}, "r-1"),
        ({"order_id": "o", "refund_id": "r-1"}, ""),
        ({}, ""),
        (None, ""),
        (OURS, ""),
    ],
)
def test_a_refund_of_another_program_has_no_id_of_ours(metadata, refund_id):
    assert states.refund_id_of({"id": "re_1", "metadata": metadata}) == refund_id


@pytest.mark.parametrize(
    ("status", "withdrawn", "read"),
    [
        ("needs_response", [-900], DisputeStatus.OPEN),
        ("under_review", [-900], DisputeStatus.OPEN),
        ("needs_response", [], DisputeStatus.OPEN),
        ("won", [-900, 900], DisputeStatus.WON),
        ("lost", [-900], DisputeStatus.LOST),
        # An inquiry takes no money.
        ("warning_needs_response", [], None),
        ("warning_under_review", [], None),
        ("warning_closed", [], None),
        ("prevented", [], None),
        ("warning_needs_response", [-900], DisputeStatus.OPEN),
        ("warning_closed", [-900, 900], None),
    ],
)
def test_what_a_dispute_says(status, withdrawn, read):
    dispute = {
        "id": "dp_1",
        "amount": 900,
        "currency": "kwd",
        "status": status,
        "reason": "fraudulent",
        "balance_transactions": [{"amount": amount} for amount in withdrawn],
    }
    listed = states.listed_dispute(dispute)
    assert (listed.status if listed else None) == read
    if listed:
        assert (listed.reference, listed.value, listed.reason) == ("dp_1", 900, "fraudulent")


@pytest.mark.parametrize(
    "metadata", [None, {}, {"order_id": "4711"}, {"application": "another", "order_id": "o"}, "text"]
)
def test_what_another_program_made_has_no_order(metadata):
    assert states.order_id_of({"metadata": metadata}) == ""
    assert states.order_id_of({"metadata": OURS}) == "o"
