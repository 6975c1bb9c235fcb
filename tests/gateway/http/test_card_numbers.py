"""Card numbers: refused in every member of every body, and then nowhere to be found."""

import io
import json
import random

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.http.card_numbers import is_card_number
from app.observability import logging

# Numbers that issuers publish for tests, of 13 to 19 digits.
NUMBERS = {
    "Visa": "4242424242424242",
    "Visa, 13 digits": "4222222222222",
    "Visa, 19 digits": "4000000000000000006",
    "Mastercard": "5555555555554444",
    "Mastercard of the series 2": "2223003122003222",
    "American Express": "378282246310005",
    "Discover": "6011111111111117",
    "Diners Club": "30569309025904",
    "JCB": "3530111333300000",
    "UnionPay": "6200000000000005",
    "Maestro": "6759649826438453",
    "RuPay": "8171999927660000",
    "Troy": "9792030000000000",
}
WRITTEN = {
    "with spaces": "4242 4242 4242 4242",
    "with dashes": "4242-4242-4242-4242",
    "with both": "4242 - 4242 4242-4242",
    "with space around": " \t4242424242424242\n",
    "a space after each digit": " ".join("4242424242424242"),
    "with no-break spaces": "4242\u00a04242\u202f4242\u30004242",
    "with other dashes": "4242\u20114242\u20134242\u22124242",
    "in full-width digits": "\uff14\uff12" * 8,
    "in Arabic digits": "\u0664\u0662" * 8,
}
NO_CARD = {
    "an id of an order": "692000000000000000000000",
    "an id of an order of card digits": "424242424242424242424242",
    "a UUID of digits": "42424242-4242-4242-4242-424242424242",
    "a UUID": "5f1c7b1e-3a52-4f0a-9d37-0d6a2a1c9e11",
    "a wrong check digit": "4242424242424241",
    "12 digits": "424242424242",
    "20 digits": "42424242424242424242",
    "with a letter": "pm_4242424242424242",
    "with a letter at the end": "4242424242424242x",
    "within a text": "card 4242 4242 4242 4242",
    "with dots": "4242.4242.4242.4242",
    "an amount": "MYR 4242424242424242",
    "milliseconds since 1970": "1764130000006",
    "a time": "17641300000000004",
    "an id that counts up": "175928847299117063",
    "zeros": "0000000000000000",
    "a negative number": -4242424242424242,
    "a fraction": 4242424242424242.5,
    "true": True,
    "none": None,
    "infinity": float("inf"),
    "a number of many digits": 4242424242424242 * 10**4000,
}
CARD = NUMBERS["Visa"]
ORDER = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
CHOICES = {"paymentMethod": "pm_1", "returnUrl": "https://shop.example/", "capture": "manual", "createdAt": "now"}


@pytest.mark.parametrize("number", [*NUMBERS.values(), *WRITTEN.values()], ids=[*NUMBERS, *WRITTEN])
def test_a_card_number_is_known_however_it_is_written(number):
    assert is_card_number(number)


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_card_number_is_known_as_a_number(number):
    assert is_card_number(int(number))


def test_a_card_number_is_known_as_a_whole_fraction():
    assert is_card_number(4242424242424242.0)


@pytest.mark.parametrize("value", NO_CARD.values(), ids=NO_CARD)
def test_what_is_no_card_number_is_accepted(value):
    assert not is_card_number(value)


@given(st.from_regex(r"[2-689][0-9]{11,17}", fullmatch=True), st.lists(st.sampled_from(["", " ", "-"]), min_size=19))
def test_of_ten_numbers_that_differ_in_the_last_digit_one_is_a_card_number(start, separators):
    written = ["".join(map("".join, zip(f"{start}{last}", separators, strict=False))) for last in range(10)]
    assert sum(map(is_card_number, [text.rstrip(" -") for text in written])) == 1


@given(st.from_regex(r"[0-9a-f]{24}", fullmatch=True))
def test_no_id_of_an_order_is_a_card_number(order_id):
    assert not is_card_number(order_id)


def test_a_long_text_of_almost_digits_is_answered_at_once():
    for text in ("4 " * 30_000, "4" + " " * 60_000, " " * 60_000 + "x", "4-" * 12 + "-" * 60_000):
        assert not is_card_number(text)


def bodies():
    """Each way of putting a card number into a body, by route and name."""
    for shape, value in {
        "text": CARD,
        "spaced": "4242 4242 4242 4242",
        "number": int(CARD),
        "fraction": float(CARD),
    }.items():
        for member in (*ORDER, *CHOICES, "unknown"):
            yield f"POST {member} {shape}", "order", {**ORDER, member: value}
        yield f"POST nested {shape}", "order", {**ORDER, "card": {"number": [0, {"of": [value]}]}}
        yield f"POST amount {shape}", "order", {**ORDER, "totalOrderAmount": {"value": value, "currency": "MYR"}}
        yield f"POST currency {shape}", "order", {**ORDER, "totalOrderAmount": {"value": 1, "currency": value}}
        for member in ("orderId", "orderStatus", "unknown"):
            yield f"PUT {member} {shape}", "update", {"orderStatus": "Packed", member: value}
        for route in ("refunds", "capture"):
            yield f"{route} amount {shape}", route, {"amount": value}
            yield f"{route} reason {shape}", route, {"amount": "RM 1", "reason": value}
            yield f"{route} unknown {shape}", route, {"amount": "RM 1", "card": {"number": value}}
    yield "POST name", "order", {**ORDER, CARD: "visa"}
    yield "POST nested name", "order", {**ORDER, "cards": [{"4242-4242-4242-4242": "visa"}]}
    yield "refunds name", "refunds", {"amount": "RM 1", CARD: 1}
    yield "capture name", "capture", {CARD: 1}


BODIES = [pytest.param(route, body, id=name) for name, route, body in bodies()]


@pytest.fixture
def said(monkeypatch):
    """All that is logged meanwhile."""
    output = io.StringIO()
    monkeypatch.setattr(logging, "_output", output)
    return output


@pytest.mark.parametrize(("route", "body"), BODIES)
def test_a_card_number_in_any_member_is_refused_and_left_nowhere(
    http, captured, refused, orders, mongo, said, route, body
):
    method, address = {
        "order": ("POST", "/orders"),
        "update": ("PUT", "/orders"),
        "refunds": ("POST", f"/orders/one/{captured}/refunds"),
        "capture": ("POST", f"/orders/one/{captured}/capture"),
    }[route]
    sent = {"orderId": captured, **body} if route == "update" else body
    before = orders.find_one({"_id": ObjectId(captured)}), orders.count_documents({})
    answer = http.open(address, method=method, data=json.dumps(sent), content_type="application/json")
    problem = refused(answer, 422, "card_number_refused")
    assert "errors" not in problem
    assert (orders.find_one({"_id": ObjectId(captured)}), orders.count_documents({})) == before
    kept = [str(answer.headers), answer.text, said.getvalue()]
    kept += [str(doc) for name in orders.database.list_collection_names() for doc in orders.database[name].find()]
    assert not any("4242424242424" in text.replace(" ", "").replace("-", "") for text in kept)


def test_what_has_a_card_number_is_refused_for_it_before_anything_else(http, refused):
    for body in ({"card": CARD}, {**ORDER, "userId": 7, "card": CARD}, {"card": CARD, "totalOrderAmount": "nothing"}):
        refused(http.post("/orders", json=body), 422, "card_number_refused")


def test_a_card_number_does_not_use_a_key_up(http, refused):
    headers = {"Idempotency-Key": f"card-{random.random()}"}
    refused(http.post("/orders", json={**ORDER, "card": CARD}, headers=headers), 422, "card_number_refused")
    answer = http.post("/orders", json=ORDER, headers=headers)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False)


@pytest.mark.parametrize("value", [value for name, value in NO_CARD.items() if isinstance(value, str)])
def test_an_order_with_what_is_no_card_number_is_placed(http, value):
    answer = http.post("/orders?strict=false", json={**ORDER, "productId": value, "unknown": [value]})
    assert answer.status_code == 201
    assert http.get(answer.headers["Location"]).json["order"]["productId"] == value
