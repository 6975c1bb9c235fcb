"""What each error of Stripe is taken for. A server answers as Stripe does, and Stripe's own library reads it."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.payments.provider_port import CallKind, ProviderCall, ProviderResponse, ResponseCode
from app.payments.providers.stripe.provider import StripeProvider
from tests.payments.providers.stripe_contract import make_provider

CALL = ProviderCall(
    kind=CallKind.CHARGE, key="o:1", charge_key="o:1", order_id="o", product_id="1", value=9900, currency="MYR",
    reference="pi_1", payment_method="pm_1",
)  # fmt: skip
INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "status": "requires_confirmation",
    "currency": "myr",
    "amount_received": 0,
    "amount_capturable": 0,
    "metadata": {},
}
DECLINE = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds", "message": "No funds."}


@dataclass
class ScriptedStripe:
    """Answers requests in their order; the last answer is repeated. `asked` has the method and path of each request."""

    port: int = 0
    answers: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def answer(self, status: int, body: Any, **headers: str) -> None:
        self.answers.append((status, body, headers))

    def next(self, method: str, path: str, key: str) -> tuple[int, Any, dict[str, str]]:
        self.asked.append(f"{method} {path.partition('?')[0].removeprefix('/v1/')}")
        self.keys.append(key)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def scripted() -> Iterator[ScriptedStripe]:
    script = ScriptedStripe()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body, headers = script.next(self.command, self.path, self.headers.get("Idempotency-Key", ""))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"request-id": "req_1", "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        script.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield script
        server.shutdown()
        thread.join()


@pytest.fixture
def stripe_provider(scripted) -> Iterator[StripeProvider]:
    with make_provider("sk_test_key", f"http://127.0.0.1:{scripted.port}") as provider:
        yield provider


def call_of(kind: CallKind) -> ProviderCall:
    return ProviderCall(**vars(CALL) | {"kind": kind, "refund_id": "r-1" if kind == CallKind.REFUND else ""})


def send(provider: StripeProvider, kind: CallKind) -> ProviderResponse:
    return getattr(provider, kind.value)(call_of(kind))


def error(code: str = "", kind: str = "invalid_request_error", **more: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": "Because.", **({"code": code} if code else {}), **more}}


NOT_ATTEMPTED, UNKNOWN, REFUSED = ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN, ResponseCode.REFUSED
# Status, body, headers; the response's code, whether it counts as a try, its pause, and whether it blames Stripe.
ERRORS = {
    "wrong key": (401, error(), {}, NOT_ATTEMPTED, False, 60.0, True),
    "key without a permission": (403, error("secret_key_required"), {}, NOT_ATTEMPTED, False, 60.0, True),
    "too many requests": (429, error("rate_limit"), {"Retry_After": "7"}, NOT_ATTEMPTED, False, 7.0, True),
    "too many requests, a date": (429, error("rate_limit"), {"Retry_After": "Thu"}, NOT_ATTEMPTED, False, 2.0, True),
    "locked by another request": (429, error("lock_timeout"), {}, NOT_ATTEMPTED, False, 2.0, False),
    "key in use": (409, error("idempotency_key_in_use"), {}, UNKNOWN, True, 2.0, False),
    "key with other members": (400, error(kind="idempotency_error"), {}, REFUSED, True, 0.0, False),
    "out of order": (500, error(kind="api_error"), {}, UNKNOWN, True, 0.0, True),
    "bad gateway": (502, b"<html>", {}, UNKNOWN, True, 0.0, True),
    "unavailable": (503, error(kind="api_error"), {}, UNKNOWN, True, 0.0, True),
    "nonsense": (200, b"<html>", {}, UNKNOWN, True, 0.0, True),
}


@pytest.mark.parametrize("kind", [CallKind.OPEN, CallKind.CHARGE, CallKind.CAPTURE, CallKind.VOID])
@pytest.mark.parametrize("row", ERRORS.values(), ids=ERRORS)
def test_what_an_error_is_taken_for(scripted, stripe_provider, kind, row):
    status, body, headers, code, counts, pause, blames = row
    scripted.answer(status, body, **headers)
    response = send(stripe_provider, kind)
    assert (response.code, response.counts_as_try, response.retry_after, response.blames_provider) == (
        code,
        counts,
        pause,
        blames,
    )
    assert response.reason
    assert "\n" not in response.reason
    assert len(scripted.asked) == 1


@pytest.mark.parametrize("row", ERRORS.values(), ids=ERRORS)
def test_what_an_error_of_a_refund_is_taken_for(scripted, stripe_provider, row):
    status, body, headers, code, counts, pause, blames = row
    scripted.answer(200, {**INTENT, "status": "succeeded", "amount_received": 9900})
    scripted.answer(status, body, **headers)
    response = send(stripe_provider, CallKind.REFUND)
    assert (response.code, response.counts_as_try, response.retry_after, response.blames_provider) == (
        code,
        counts,
        pause,
        blames,
    )
    assert scripted.asked == ["GET payment_intents/pi_1", "POST refunds"]


@pytest.mark.parametrize("row", ERRORS.values(), ids=ERRORS)
def test_an_error_of_a_look_proves_nothing(scripted, stripe_provider, row):
    status, body, headers, *_ = row
    for kind in (CallKind.CHARGE, CallKind.CAPTURE, CallKind.VOID, CallKind.REFUND):
        scripted.answers = [(status, body, headers)]
        assert stripe_provider.find(call_of(kind)).code == UNKNOWN
    retrieved = stripe_provider.retrieve(call_of(CallKind.RETRIEVE))
    assert retrieved.code == UNKNOWN


def test_a_payment_that_the_account_does_not_have_is_refused(scripted, stripe_provider):
    scripted.answer(404, error("resource_missing", param="intent"))
    response = stripe_provider.retrieve(call_of(CallKind.RETRIEVE))
    assert (response.code, response.blames_provider) == (REFUSED, False)
    assert stripe_provider.find(call_of(CallKind.CHARGE)).code == UNKNOWN


def test_the_sentence_about_a_wrong_key_names_the_setting(scripted, stripe_provider):
    scripted.answer(401, error())
    assert "STRIPE_SECRET_KEY" in send(stripe_provider, CallKind.OPEN).reason


def test_a_reason_names_the_request_for_stripes_support(scripted, stripe_provider):
    scripted.answer(500, error(kind="api_error"))
    assert "(req_1)" in send(stripe_provider, CallKind.CHARGE).reason


@pytest.mark.parametrize("param", ["amount", "currency"])
def test_an_amount_that_stripe_does_not_take_declines_the_order(scripted, stripe_provider, param):
    scripted.answer(400, error("", param=param))
    assert send(stripe_provider, CallKind.OPEN).code == ResponseCode.DECLINED


def test_an_amount_below_the_least_declines_the_order(scripted, stripe_provider):
    scripted.answer(400, error("amount_too_small"))
    response = send(stripe_provider, CallKind.OPEN)
    assert (response.code, response.decline_code) == (ResponseCode.DECLINED, "amount_too_small")


def test_another_mistake_of_ours_is_refused_and_declines_no_order(scripted, stripe_provider):
    scripted.answer(400, error("parameter_unknown", param="captre_method"))
    assert send(stripe_provider, CallKind.OPEN).code == REFUSED


def test_a_decline_is_cancelled_before_it_is_told(scripted, stripe_provider):
    scripted.answer(402, {"error": {**DECLINE, "advice_code": "try_again_later"}})
    scripted.answer(200, {**INTENT, "status": "canceled"})
    response = send(stripe_provider, CallKind.CHARGE)
    assert (response.code, response.decline_code, response.retry_helps) == (
        ResponseCode.DECLINED,
        "insufficient_funds",
        True,
    )
    assert scripted.asked == ["POST payment_intents/pi_1/confirm", "POST payment_intents/pi_1/cancel"]


@pytest.mark.parametrize(
    ("code", "advice", "helps"),
    [
        ("insufficient_funds", "", True),
        ("insufficient_funds", "do_not_try_again", False),
        ("stolen_card", "", False),
        ("generic_decline", "try_again_later", True),
        ("generic_decline", "confirm_card_data", True),
        ("generic_decline", "", False),
        ("incorrect_cvc", "", True),
    ],
)
def test_whether_another_try_helps_is_what_the_issuer_advises(scripted, stripe_provider, code, advice, helps):
    scripted.answer(402, {"error": {**DECLINE, "decline_code": code, **({"advice_code": advice} if advice else {})}})
    scripted.answer(200, {**INTENT, "status": "canceled"})
    assert send(stripe_provider, CallKind.CHARGE).retry_helps == helps


@pytest.mark.parametrize("status", [401, 409, 429, 500, 503])
def test_a_decline_that_is_not_cancelled_yet_is_no_decline(scripted, stripe_provider, status):
    scripted.answer(402, {"error": DECLINE})
    scripted.answer(status, error("idempotency_key_in_use" if status == 409 else ""))
    assert send(stripe_provider, CallKind.CHARGE).code == UNKNOWN


def test_a_decline_that_stripe_does_not_cancel_is_no_decline(scripted, stripe_provider):
    scripted.answer(402, {"error": DECLINE})
    scripted.answer(400, error("payment_intent_unexpected_state"))
    scripted.answer(200, {**INTENT, "status": "requires_payment_method", "last_payment_error": DECLINE})
    response = send(stripe_provider, CallKind.CHARGE)
    assert response.code == UNKNOWN
    assert len(scripted.asked) == 3


def test_what_was_paid_after_a_decline_is_captured(scripted, stripe_provider):
    scripted.answer(402, {"error": DECLINE})
    scripted.answer(400, error("payment_intent_unexpected_state"))
    scripted.answer(200, {**INTENT, "status": "succeeded", "amount_received": 9900})
    assert send(stripe_provider, CallKind.CHARGE).code == ResponseCode.CAPTURED


def test_a_decline_stays_one_where_it_was_cancelled_before(scripted, stripe_provider):
    scripted.answer(402, {"error": DECLINE}, Idempotent_Replayed="true")
    scripted.answer(400, error("payment_intent_unexpected_state"))
    scripted.answer(200, {**INTENT, "status": "canceled"})
    response = send(stripe_provider, CallKind.CHARGE)
    assert (response.code, response.reason) == (ResponseCode.DECLINED, "No funds. (req_1)")


def test_a_failure_that_is_replayed_for_ever_ends_in_a_cancellation_and_never_in_another_key(scripted, stripe_provider):
    scripted.answer(500, error(kind="api_error"), Idempotent_Replayed="true")
    scripted.answer(200, INTENT)
    scripted.answer(200, {**INTENT, "status": "canceled"})
    response = send(stripe_provider, CallKind.CHARGE)
    assert (response.code, response.decline_code, response.retry_helps) == (
        ResponseCode.DECLINED,
        "processing_error",
        True,
    )
    assert scripted.asked == [
        "POST payment_intents/pi_1/confirm",
        "GET payment_intents/pi_1",
        "POST payment_intents/pi_1/cancel",
    ]
    assert scripted.keys[0] == CALL.key


@pytest.mark.parametrize(
    ("status", "code"), [("succeeded", ResponseCode.CAPTURED), ("processing", ResponseCode.PENDING)]
)
def test_a_replayed_failure_that_had_its_effect_is_found_by_the_id(scripted, stripe_provider, status, code):
    scripted.answer(500, error(kind="api_error"), Idempotent_Replayed="true")
    scripted.answer(200, {**INTENT, "status": status, "amount_received": 9900})
    assert send(stripe_provider, CallKind.CHARGE).code == code
    assert "cancel" not in " ".join(scripted.asked)


def test_a_stored_response_is_not_taken_for_the_present(scripted, stripe_provider):
    scripted.answer(200, {**INTENT, "status": "requires_action", "client_secret": "s"}, Idempotent_Replayed="true")
    scripted.answer(200, {**INTENT, "status": "succeeded", "amount_received": 9900})
    assert send(stripe_provider, CallKind.CHARGE).code == ResponseCode.CAPTURED


def test_a_stored_response_to_a_refund_is_not_taken_for_the_present(scripted, stripe_provider):
    refund = {"id": "re_1", "object": "refund", "amount": 900, "currency": "myr", "metadata": {}}
    scripted.answer(200, {**INTENT, "status": "succeeded", "amount_received": 9900})
    scripted.answer(200, {**refund, "status": "succeeded"}, Idempotent_Replayed="true")
    scripted.answer(200, {**refund, "status": "failed", "failure_reason": "lost_or_stolen_card"})
    response = send(stripe_provider, CallKind.REFUND)
    assert (response.code, response.reason) == (ResponseCode.DECLINED, "lost_or_stolen_card")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("succeeded", ResponseCode.CAPTURED),
        ("canceled", ResponseCode.VOIDED),
        ("processing", ResponseCode.PENDING),
        ("requires_action", UNKNOWN),
        ("requires_capture", UNKNOWN),
    ],
)
def test_what_cannot_be_cancelled_says_what_stands_in_the_way(scripted, stripe_provider, status, code):
    scripted.answer(400, error("payment_intent_unexpected_state"))
    scripted.answer(200, {**INTENT, "status": status, "amount_received": 4000})
    response = send(stripe_provider, CallKind.VOID)
    assert (response.code, response.value) == (code, 4000 if code == ResponseCode.CAPTURED else 0)


@pytest.mark.parametrize("kind", [CallKind.CAPTURE, CallKind.VOID])
def test_an_error_of_the_look_that_follows_makes_the_outcome_unknown(scripted, stripe_provider, kind):
    scripted.answer(400, error("payment_intent_unexpected_state"))
    scripted.answer(401, error())
    assert send(stripe_provider, kind).code == UNKNOWN


def test_where_nobody_listens_nothing_was_attempted():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with make_provider("sk_test_key", f"http://127.0.0.1:{unused.getsockname()[1]}") as provider:
            for kind in (CallKind.OPEN, CallKind.CHARGE, CallKind.CAPTURE, CallKind.VOID):
                assert send(provider, kind).code == NOT_ATTEMPTED
            # The look that comes first says nothing about an earlier refund with the same key.
            assert send(provider, CallKind.REFUND).code == UNKNOWN
            assert provider.find(call_of(CallKind.CHARGE)).code == UNKNOWN


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
def test_a_line_that_is_cut_after_the_request_leaves_the_outcome_unknown(answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_and_hang_up, args=(listener, answer))
        thread.start()
        with make_provider("sk_test_key", f"http://127.0.0.1:{listener.getsockname()[1]}") as provider:
            assert send(provider, CallKind.CHARGE).code == UNKNOWN
        thread.join()


def test_an_answer_that_never_comes_leaves_the_outcome_unknown():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        make_provider("sk_test_key", f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2) as provider,
    ):
        response = send(provider, CallKind.CHARGE)
        assert (response.code, response.reason) == (UNKNOWN, "Stripe did not answer: ReadTimeout")


def _answer_and_hang_up(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
