"""Amounts of orders and amounts of Stripe's API: the same money, and nothing rounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.http.money import CURRENCIES as MONEY
from app.payments.providers.stripe.amounts import (
    CURRENCIES,
    DECIMALS,
    AmountNotPossible,
    from_stripe,
    to_stripe,
)

# As https://docs.stripe.com/currencies lists them.
ZERO_DECIMAL = {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}


@pytest.mark.parametrize(
    ("value", "currency", "amount"),
    [
        (9900, "MYR", 9900),
        (1, "EUR", 1),
        (500, "JPY", 500),
        (500, "KRW", 500),
        # Madagascar: ISO 4217 has two decimals, Stripe none.
        (50_000, "MGA", 500),
        # Iceland and Uganda: ISO 4217 has none, Stripe two that must be 00.
        (5, "ISK", 500),
        (5, "UGX", 500),
        # Kuwait: three decimals, and the last must be 0.
        (5_120, "KWD", 5_120),
        (10, "TND", 10),
        # Hungary and Taiwan are special for payouts only.
        (1_045, "HUF", 1_045),
        (80_045, "TWD", 80_045),
    ],
)
def test_an_amount_goes_to_stripe_and_comes_back(value, currency, amount):
    assert to_stripe(value, currency) == amount
    assert from_stripe(amount, currency) == from_stripe(amount, currency.lower()) == value


@pytest.mark.parametrize(
    ("value", "currency"),
    [(5_124, "KWD"), (1, "BHD"), (99, "JOD"), (1, "MGA"), (50_050, "MGA"), (9900, "IQD"), (9900, "LYD"), (1, "XXX")],
)
def test_an_amount_that_stripe_does_not_take_is_refused_in_a_sentence(value, currency):
    with pytest.raises(AmountNotPossible, match=rf"^Stripe (takes|does not take) {currency}"):
        to_stripe(value, currency)


def test_the_currencies_without_decimals_are_those_that_stripe_lists():
    assert {code for code, decimals in DECIMALS.items() if decimals == 0} == ZERO_DECIMAL


@pytest.mark.parametrize("currency", sorted(CURRENCIES & set(MONEY)))
def test_every_currency_is_the_same_money_on_both_sides(currency):
    """Ten thousand units of the currency, such as dollars, by the decimals that each side has."""
    assert to_stripe(10_000 * 10 ** MONEY[currency], currency) == 10_000 * 10 ** DECIMALS[currency]


def test_most_currencies_of_orders_are_taken():
    assert len(CURRENCIES & set(MONEY)) > 130
    # Those with other decimals at Stripe would be charged wrong if Stripe took them one day.
    assert not CURRENCIES & {"IQD", "LYD", "CLF", "UYW"}


@given(st.integers(min_value=1, max_value=10**15), st.sampled_from(sorted(CURRENCIES)))
def test_what_comes_back_is_what_was_sent(value, currency):
    try:
        amount = to_stripe(value, currency)
    except AmountNotPossible:
        return
    assert from_stripe(amount, currency) == value
