"""Stripe's notifications: signed by Stripe's own library, read where they are about a payment, refused where they are forged."""

import json
import time

import pytest

from app.payments.provider_port import NotificationRefused, ProviderNotification
from app.payments.providers.stripe.notifications import MAX_BODY, TOLERANCE, TYPES, read
from tests.payments.providers.stripe_contract import event, signed

PRESENT, FORMER = "whsec_present", "whsec_former"
OURS = {"application": "orderflow", "order_id": "o", "generation": "1"}
INTENT = {"id": "pi_1", "object": "payment_intent", "metadata": OURS}
SUCCEEDED = event("payment_intent.succeeded", INTENT)
NOTIFICATION = ProviderNotification(
    event_id="evt_1", type="payment_intent.succeeded", reference="pi_1", order_id="o"
)  # fmt: skip


def read_signed(body: bytes, secrets=(PRESENT,)):
    return read(body, signed(body, secret=PRESENT), secrets)


def refused(body: bytes, headers: dict[str, str], secrets=(PRESENT,)) -> str:
    with pytest.raises(NotificationRefused) as refusal:
        read(body, headers, secrets)
    return str(refusal.value)


def test_a_notification_names_the_payment_and_its_order():
    assert read_signed(SUCCEEDED) == (NOTIFICATION,)


@pytest.mark.parametrize("secrets", [(PRESENT,), (PRESENT, FORMER), (FORMER, PRESENT)])
def test_either_secret_may_have_signed(secrets):
    assert read_signed(SUCCEEDED, secrets) == (NOTIFICATION,)


@pytest.mark.parametrize("secrets", [(), (FORMER,), ("",)])
def test_another_secret_is_refused(secrets):
    assert "STRIPE_WEBHOOK_SECRET" in refused(SUCCEEDED, signed(SUCCEEDED, secret=PRESENT), secrets)


@pytest.mark.parametrize("age", [0, TOLERANCE - 60, -TOLERANCE + 60])
def test_clocks_may_differ_by_minutes(age):
    assert read(SUCCEEDED, signed(SUCCEEDED, age, PRESENT), (PRESENT,)) == (NOTIFICATION,)


@pytest.mark.parametrize("age", [TOLERANCE + 60, -TOLERANCE - 60, 86_400, -86_400])
def test_what_is_older_or_newer_is_refused(age):
    assert "too old or too new" in refused(SUCCEEDED, signed(SUCCEEDED, age, PRESENT))


def test_a_second_time_in_the_header_does_not_hide_a_time_in_the_future():
    """The signature is over the first time of the header."""
    header = signed(SUCCEEDED, -86_400, PRESENT)["Stripe-Signature"]
    assert refused(SUCCEEDED, {"Stripe-Signature": f"{header},t={int(time.time())}"})
    assert refused(SUCCEEDED, {"Stripe-Signature": f"t={int(time.time())},{header}"})


def test_the_largest_body_is_read_and_a_larger_one_is_refused_before_it_is_verified():
    padded = SUCCEEDED + b" " * (MAX_BODY - len(SUCCEEDED))
    assert read_signed(padded) == (NOTIFICATION,)
    assert refused(padded + b" ", signed(padded + b" ", secret=PRESENT)) == "the notification is too large"


@pytest.mark.parametrize(
    ("kind", "about", "order_id"),
    [
        ("charge.refunded", {"object": "charge", "id": "ch_1", "payment_intent": "pi_1", "metadata": OURS}, "o"),
        ("refund.failed", {"object": "refund", "id": "re_1", "payment_intent": "pi_1", "metadata": OURS}, "o"),
        # Made in the dashboard: only the id of the payment tells whose it is.
        ("refund.created", {"object": "refund", "id": "re_1", "payment_intent": "pi_1", "metadata": {}}, ""),
        ("charge.dispute.created", {"object": "dispute", "id": "dp_1", "payment_intent": "pi_1", "metadata": {}}, ""),
        ("charge.dispute.closed", {"object": "dispute", "id": "dp_1", "payment_intent": "pi_1"}, ""),
    ],
)
def test_what_happens_to_a_payment_is_named_by_its_reference(kind, about, order_id):
    [notification] = read_signed(event(kind, about))
    assert (notification.type, notification.reference, notification.order_id) == (kind, "pi_1", order_id)


@pytest.mark.parametrize(
    ("kind", "about"),
    [
        ("customer.created", {"object": "customer", "id": "cus_1"}),
        ("payment_intent.created", INTENT),
        ("charge.refunded", {"object": "charge", "id": "ch_1", "payment_intent": None}),
        ("charge.refunded", {"object": "charge", "id": "ch_1", "payment_intent": {"id": "pi_1"}}),
        ("payment_intent.succeeded", {**INTENT, "metadata": {}}),
        ("payment_intent.succeeded", {**INTENT, "metadata": {"order_id": "4711"}}),
        ("payment_intent.succeeded", {**INTENT, "metadata": None}),
        ("payment_intent.succeeded", {**INTENT, "id": 7}),
        ("payment_intent.succeeded", {**INTENT, "id": "x" * 201}),
    ],
)
def test_what_is_about_something_else_names_no_payment(kind, about):
    assert read_signed(event(kind, about)) == ()


@pytest.mark.parametrize("order_id", [["o"], "x" * 201, "o\x00", "\ud800"])
def test_an_order_that_has_no_such_name_is_left_out(order_id):
    [notification] = read_signed(
        event("charge.refunded", {"payment_intent": "pi_1", "metadata": {**OURS, "order_id": order_id}})
    )
    assert notification.order_id == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"id": ""},
        {"id": "evt\n"},
        {"type": None},
        {"type": []},
        {"data": None},
        {"data": []},
        {"data": {}},
    ],
)
def test_a_signed_body_that_is_no_event_is_refused(changes):
    body = json.dumps({**json.loads(SUCCEEDED), **changes}).encode()
    assert refused(body, signed(body, secret=PRESENT)) == "the notification is not an event of Stripe"


def test_every_type_that_is_read_exists_in_the_library_of_stripe():
    import stripe

    known = " ".join(map(str, stripe.params.WebhookEndpointCreateParams.__annotations__.values()))
    assert {kind for kind in TYPES if f"'{kind}'" not in known and f'"{kind}"' not in known} == set()
