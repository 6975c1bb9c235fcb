"""Stripe beyond the contract: a page that takes the card, failures of Stripe itself, and lines that fail at any moment.

After every fault the stand-in's own list of charges says what was taken: nobody is charged twice.
"""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import stripe
from bson import ObjectId

from app.payments.provider_port import ActionKind, CallKind, Provider, ProviderCall, ProviderResponse, ResponseCode
from tests.payments.providers.stripe_contract import SHORT_TIMEOUT, WEBHOOK_SECRET, make_provider
from tests.standins.stripe.server import KEY, StripeStandIn
from tools.chaos.proxy import Mode, Proxy

pytestmark = [pytest.mark.extended, pytest.mark.long]

TOTAL = 9900
CAPTURED, DECLINED, PENDING, UNKNOWN = (
    ResponseCode.CAPTURED,
    ResponseCode.DECLINED,
    ResponseCode.PENDING,
    ResponseCode.UNKNOWN,
)
UNSETTLED = {UNKNOWN, ResponseCode.NOT_ATTEMPTED}
GOOD, BAD, AUTHENTICATED = "4242424242424242", "4000000000000341", "4000002760003184"
SETTLED_SECONDS = 60.0


@pytest.fixture
def card(standin) -> Iterator:
    """Makes a payment method of a card."""

    def make(number: str = GOOD) -> str:
        members = {"card[number]": number, "card[exp_month]": 12, "card[exp_year]": 2030, "card[cvc]": "123"}
        return standin.request("POST", "payment_methods", type="card", **members)["id"]

    return make


def new_call(payment_method: str = "", **members) -> ProviderCall:
    order_id = str(ObjectId())
    return ProviderCall(
        kind=CallKind.OPEN,
        key=f"{order_id}:1:open:1",
        charge_key=f"{order_id}:1",
        order_id=order_id,
        product_id="any",
        value=TOTAL,
        currency="MYR",
        payment_method=payment_method,
        return_url="https://shop.example/thanks",
        **members,
    )


def opened(provider: Provider, call: ProviderCall) -> ProviderCall:
    ends = time.monotonic() + SETTLED_SECONDS
    # A busy machine may answer later than `distant` waits: the same key again.
    while (answer := provider.open(call)).code in UNSETTLED and time.monotonic() < ends:
        time.sleep(0.05)
    assert answer.code == ResponseCode.OPENED, answer
    return replace(call, kind=CallKind.CHARGE, key=call.charge_key, reference=answer.reference)


def refund_of(charge: ProviderCall, value: int = TOTAL, refund_id: str = "cancel") -> ProviderCall:
    return replace(
        charge, kind=CallKind.REFUND, key=f"{charge.key}:refund:{refund_id}", refund_id=refund_id, value=value
    )


def retrieved(provider: Provider, charge: ProviderCall) -> ProviderResponse:
    return provider.retrieve(replace(charge, kind=CallKind.RETRIEVE))


def intents(standin: StripeStandIn, order_id: str) -> list[dict]:
    listed = standin.request("GET", "payment_intents", limit=100_000)["data"]
    return [intent for intent in listed if intent["metadata"].get("order_id") == order_id]


def taken(standin: StripeStandIn, order_id: str) -> list[int]:
    """The amounts that the stand-in's own list of charges has for an order."""
    own = {intent["id"] for intent in intents(standin, order_id)}
    charges = standin.request("GET", "charges", limit=100_000)["data"]
    return [one["amount"] for one in charges if one["payment_intent"] in own and one["status"] == "succeeded"]


def given_back(standin: StripeStandIn, order_id: str) -> list[int]:
    return [
        refund["amount"]
        for intent in intents(standin, order_id)
        for refund in standin.request("GET", "refunds", payment_intent=intent["id"], limit=1000)["data"]
        if intent["latest_charge"]
    ]


def settled(provider: Provider, send, call: ProviderCall) -> ProviderResponse:
    """What a worker does with a call: look first, and then the same key again, until there is an answer."""
    ends = time.monotonic() + SETTLED_SECONDS
    while (answer := provider.find(call) or send(call)).code in UNSETTLED:
        assert time.monotonic() < ends, f"not settled: {answer}"
        time.sleep(0.05)
    return answer


# A page of the shop takes the card


def test_without_a_payment_method_a_page_confirms_with_the_secret(provider, standin, client, card):
    charge = opened(provider, new_call())
    answer = provider.charge(charge)
    assert (answer.code, answer.action.type) == (PENDING, ActionKind.CONFIRM)
    assert answer.action.client_secret.startswith(f"{charge.reference}_secret_")
    assert provider.find(charge) is None
    assert retrieved(provider, charge).action == answer.action
    client.v1.payment_intents.confirm(charge.reference, {"payment_method": card()})
    assert retrieved(provider, charge).code == provider.charge(charge).code == provider.find(charge).code == CAPTURED
    assert taken(standin, charge.order_id) == [TOTAL]


def test_a_customer_at_the_page_may_try_another_card(provider, standin, client, card):
    charge = opened(provider, new_call())
    with pytest.raises(stripe.CardError):
        client.v1.payment_intents.confirm(charge.reference, {"payment_method": card(BAD)})
    waiting = retrieved(provider, charge)
    assert (waiting.code, waiting.action.type) == (PENDING, ActionKind.CONFIRM)
    client.v1.payment_intents.confirm(charge.reference, {"payment_method": card()})
    assert retrieved(provider, charge).code == CAPTURED
    assert taken(standin, charge.order_id) == [TOTAL]


def test_what_waited_too_long_at_the_page_is_voided_and_cannot_be_paid(provider, standin, client, card):
    charge = opened(provider, new_call())
    assert provider.charge(charge).code == PENDING
    assert provider.void(replace(charge, kind=CallKind.VOID)).code == ResponseCode.VOIDED
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.confirm(charge.reference, {"payment_method": card()})
    assert taken(standin, charge.order_id) == []


# Declines


@pytest.mark.parametrize("number", [BAD, AUTHENTICATED])
def test_what_is_declined_cannot_be_paid_with_its_secret_any_more(provider, standin, client, card, number):
    charge = opened(provider, new_call(card(number)))
    answer = provider.charge(charge)
    if number == AUTHENTICATED:
        secret = client.v1.payment_intents.retrieve(charge.reference).client_secret
        standin.request(
            "POST", f"payment_intents/{charge.reference}/_authenticate", client_secret=secret, success="false"
        )
        answer = retrieved(provider, charge)
    assert answer.code == DECLINED
    assert client.v1.payment_intents.retrieve(charge.reference).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.confirm(charge.reference, {"payment_method": card()})
    assert provider.charge(charge).code == retrieved(provider, charge).code == DECLINED
    assert taken(standin, charge.order_id) == []


def test_a_decline_found_after_its_answer_was_lost_is_cancelled_too(provider, standin, client, card):
    charge = opened(provider, new_call(card(BAD)))
    with pytest.raises(stripe.CardError):
        client.v1.payment_intents.confirm(charge.reference, {"payment_method": charge.payment_method})
    assert provider.find(charge).code == DECLINED
    assert client.v1.payment_intents.retrieve(charge.reference).status == "canceled"


def test_a_payment_method_that_does_not_exist_is_a_decline(provider, standin):
    charge = opened(provider, new_call("pm_nothing"))
    answer = provider.charge(charge)
    assert (answer.code, answer.decline_code) == (DECLINED, "resource_missing")
    assert [intent["status"] for intent in intents(standin, charge.order_id)] == ["canceled"]


# Stripe itself fails


def test_a_stored_failure_after_the_charge_is_settled_by_the_id(provider, standin, card):
    charge = opened(provider, new_call(card()))
    standin.control("failures", path=f"{charge.reference}/confirm", status=500, when="after")
    assert provider.charge(charge).code == UNKNOWN
    assert provider.find(charge).code == CAPTURED
    assert provider.charge(charge).code == CAPTURED
    assert taken(standin, charge.order_id) == [TOTAL]


def test_a_stored_failure_before_the_charge_ends_in_a_cancellation(provider, standin, card):
    """The same key answers 500 for ever, and another key could charge twice."""
    charge = opened(provider, new_call(card()))
    standin.control("failures", path=f"{charge.reference}/confirm", status=500, when="before")
    assert provider.charge(charge).code == UNKNOWN
    assert provider.find(charge) is None
    answer = provider.charge(charge)
    assert (answer.code, answer.retry_helps) == (DECLINED, True)
    assert [intent["status"] for intent in intents(standin, charge.order_id)] == ["canceled"]
    assert taken(standin, charge.order_id) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failure_while_opening_opens_another_and_charges_one(provider, standin, card, when):
    call = new_call(card())
    standin.control("failures", path="payment_intents", status=500, when=when)
    assert provider.open(call).code == provider.open(call).code == UNKNOWN
    charge = opened(provider, replace(call, key=f"{call.charge_key}:open:2"))
    assert provider.charge(charge).code == CAPTURED
    assert taken(standin, call.order_id) == [TOTAL]


def test_too_many_requests_are_no_try(provider, standin, card):
    charge = opened(provider, new_call(card()))
    standin.control("failures", path="confirm", status=429, when="before", retry_after=3)
    answer = provider.charge(charge)
    assert (answer.code, answer.retry_after, answer.counts_as_try) == (ResponseCode.NOT_ATTEMPTED, 3.0, False)
    assert provider.charge(charge).code == CAPTURED
    assert taken(standin, charge.order_id) == [TOTAL]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stored_failure_of_a_refund_is_never_sent_with_another_key(provider, standin, card, when):
    charge = opened(provider, new_call(card()))
    assert provider.charge(charge).code == CAPTURED
    standin.control("failures", path="refunds", status=500, when=when)
    refund = refund_of(charge, 900)
    assert provider.refund(refund).code == UNKNOWN
    found = provider.find(refund)
    assert (found and found.code) == (ResponseCode.REFUNDED if when == "after" else None)
    assert provider.refund(refund).code == UNKNOWN
    assert given_back(standin, charge.order_id) == ([900] if when == "after" else [])


def test_an_old_key_with_another_payment_method_is_refused(provider, standin, card):
    charge = opened(provider, new_call(card()))
    assert provider.charge(charge).code == CAPTURED
    assert provider.charge(replace(charge, payment_method=card())).code == ResponseCode.REFUSED
    assert taken(standin, charge.order_id) == [TOTAL]


def test_a_wrong_key_is_no_try_and_a_sentence(standin):
    with make_provider("rk_test_wrong", standin.url) as provider:
        answer = provider.open(new_call())
    assert (answer.code, answer.counts_as_try) == (ResponseCode.NOT_ATTEMPTED, False)
    assert "STRIPE_SECRET_KEY" in answer.reason


# Refunds


def test_the_release_of_a_part_that_was_not_captured_is_no_refund(provider, standin, card):
    charge = opened(provider, new_call(card(), manual_capture=True))
    assert provider.charge(charge).code == ResponseCode.AUTHORIZED
    capture = replace(charge, kind=CallKind.CAPTURE, key=f"{charge.key}:capture", value=4000)
    assert (provider.capture(capture).value, retrieved(provider, charge).refunds) == (4000, ())


def test_all_refunds_are_listed_also_those_of_the_next_page(provider, standin, card):
    charge = opened(provider, new_call(card()))
    provider.charge(charge)
    for number in range(101):
        assert provider.refund(refund_of(charge, 10, f"r{number}")).code == ResponseCode.REFUNDED
    listed = retrieved(provider, charge).refunds
    assert len({one.reference for one in listed}) == len(listed) == 101
    assert provider.find(refund_of(charge, 10, "r0")).code == ResponseCode.REFUNDED


# Lines that fail


@pytest.fixture
def line(standin) -> Iterator[Proxy]:
    """A line to the stand-in that can fail."""
    with Proxy(standin.port) as proxy:
        yield proxy


@pytest.fixture
def distant(line) -> Iterator[Provider]:
    """The provider at the end of that line."""
    with make_provider(KEY, f"http://127.0.0.1:{line.port}", SHORT_TIMEOUT) as made:
        yield made


@pytest.mark.parametrize("mode", [Mode.CUT, Mode.RESET, Mode.HALF_OPEN, Mode.LATENCY, Mode.ANSWERS_LOST])
def test_however_the_line_fails_one_charge_and_one_refund_are_made(provider, distant, line, standin, card, mode):
    charge = opened(distant, new_call(card()))
    line.set_mode(mode)
    assert distant.charge(charge).code in UNSETTLED
    line.set_mode(Mode.FORWARD)
    assert settled(provider, provider.charge, charge).code == CAPTURED
    refund = refund_of(charge, 900)
    line.set_mode(mode)
    assert distant.refund(refund).code in UNSETTLED
    line.set_mode(Mode.FORWARD)
    assert settled(provider, provider.refund, refund).code == ResponseCode.REFUNDED
    assert taken(standin, charge.order_id) == [TOTAL]
    assert given_back(standin, charge.order_id) == [900]


def test_a_charge_that_arrives_late_is_found(provider, distant, line, standin, card, eventually):
    """The request is under way for 2 s, and its caller gives up before."""
    charge = opened(distant, new_call(card()))
    line.set_mode(Mode.LATENCY)
    assert distant.charge(charge).code == UNKNOWN
    # Whether it arrives before or after this look, it is made once.
    eventually(lambda: taken(standin, charge.order_id) == [TOTAL] or provider.find(charge))
    assert settled(provider, provider.charge, charge).code == CAPTURED
    eventually(lambda: taken(standin, charge.order_id) == [TOTAL])


def test_duplicates_whose_answers_are_lost_are_charged_once(provider, distant, line, standin, card):
    charge = opened(distant, new_call(card()))
    line.set_mode(Mode.ANSWERS_LOST)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(distant.charge, [charge] * 8))
    assert {answer.code for answer in answers} == {UNKNOWN}
    assert settled(provider, provider.charge, charge).code == CAPTURED
    assert taken(standin, charge.order_id) == [TOTAL]


@pytest.mark.parametrize("seed", range(4))
def test_a_line_that_fails_at_random_charges_and_refunds_once(standin, distant, line, card, seed):
    """Two workers that know nothing of each other work on each order while the line fails."""
    chance = random.Random(seed)
    ended = threading.Event()

    def fail() -> None:
        while not ended.wait(chance.uniform(0.02, 0.2)):
            line.set_mode(chance.choice([*[Mode.FORWARD] * 4, Mode.RESET, Mode.HALF_OPEN, Mode.ANSWERS_LOST]))
        line.set_mode(Mode.FORWARD)

    calls = [opened(distant, new_call(card())) for _ in range(6)]
    failing = threading.Thread(target=fail)
    failing.start()
    try:
        with ThreadPoolExecutor(12) as pool:
            charged = list(pool.map(lambda charge: settled(distant, distant.charge, charge), calls * 2))
            refunds = [refund_of(charge, 900) for charge in calls]
            refunded = list(pool.map(lambda refund: settled(distant, distant.refund, refund), refunds * 2))
    finally:
        ended.set()
        failing.join()
    assert {answer.code for answer in charged} == {CAPTURED}
    assert {answer.code for answer in refunded} == {ResponseCode.REFUNDED}
    assert [taken(standin, call.order_id) for call in calls] == [[TOTAL]] * 6
    assert [given_back(standin, call.order_id) for call in calls] == [[900]] * 6


# Notifications that the stand-in signs itself


def test_the_stand_in_notifies_of_a_payment(provider, standin, card, eventually):
    received: list[tuple[bytes, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.rfile.read(int(self.headers["Content-Length"])), dict(self.headers)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        standin.notify(f"http://127.0.0.1:{server.server_port}/", WEBHOOK_SECRET)
        charge = opened(provider, new_call(card()))
        provider.charge(charge)
        request = eventually(lambda: next((one for one in received if charge.order_id.encode() in one[0]), None))
        server.shutdown()
        thread.join()
    [notification] = provider.notifications(*request)
    assert (notification.type, notification.reference, notification.order_id) == (
        "payment_intent.succeeded",
        charge.reference,
        charge.order_id,
    )


# The list


def started() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=10)


def test_the_list_has_the_payments_of_other_programs_without_an_order(provider, client):
    foreign = client.v1.payment_intents.create({"amount": 700, "currency": "eur", "metadata": {"order_id": "4711"}})
    [listed] = [one for one in provider.list_payments(started()) if one.reference == foreign.id]
    assert (listed.order_id, listed.currency, listed.captured) == ("", "EUR", 0)


def test_a_list_that_cannot_be_read_is_an_error(distant, line):
    line.set_mode(Mode.CUT)
    with pytest.raises(OSError, match="Stripe cannot be reached"):
        list(distant.list_payments(started()))
