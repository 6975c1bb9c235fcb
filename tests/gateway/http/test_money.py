"""Money in text and back: what is read exactly, what is refused, and that nothing is rounded."""

from decimal import Decimal

import pytest
from babel.core import get_global
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.contracts.base import Money
from app.gateway.http.money import (
    AMBIGUOUS,
    CURRENCIES,
    ISO_DIGITS,
    MAX_TEXT,
    MAX_VALUE,
    SYMBOLS,
    MoneyError,
    format_money,
    parse_money,
)

currencies = st.sampled_from(sorted(CURRENCIES))
values = st.integers(min_value=1, max_value=MAX_VALUE)
moneys = st.builds(Money, value=values, currency=currencies)
# Short enough for the 28 digits of Decimal's context, long enough to pass MAX_VALUE.
wholes = st.text("0123456789", min_size=1, max_size=16)
parts = st.text("0123456789", min_size=1, max_size=5)


def refusal(given_amount: object) -> str:
    """The sentence of the error that parse_money raises."""
    with pytest.raises(MoneyError) as caught:
        parse_money(given_amount)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value", "currency"),
    [
        ("RM 99", 9900, "MYR"),
        ("RM99", 9900, "MYR"),
        ("MYR 99.00", 9900, "MYR"),
        ("MYR99", 9900, "MYR"),
        ("99.90 USD", 9990, "USD"),
        ("99.90USD", 9990, "USD"),
        ("  RM  99 ", 9900, "MYR"),
        ("USD 1.5", 150, "USD"),
        ("USD 0.01", 1, "USD"),
        ("US$ 1,234.50", 123450, "USD"),
        ("1,234,567 JPY", 1234567, "JPY"),
        ("1234567 JPY", 1234567, "JPY"),
        ("JPY 500", 500, "JPY"),
        ("KWD 1.234", 1234, "KWD"),
        ("KWD 1,234", 1234000, "KWD"),
        ("IQD 1.5", 1500, "IQD"),
        ("RSD 1.5", 150, "RSD"),
        ("9,999,999,999,999.99 EUR", MAX_VALUE, "EUR"),
    ],
)
def test_an_amount_is_read_exactly(text, value, currency):
    assert parse_money(text) == Money(value, currency)


@pytest.mark.parametrize(("symbol", "currency"), SYMBOLS.items())
def test_a_symbol_may_stand_on_either_side(symbol, currency):
    expected = Money(7 * 10 ** CURRENCIES[currency], currency)
    assert parse_money(f"{symbol}7") == parse_money(f"7 {symbol}") == expected


@pytest.mark.parametrize(("symbol", "candidates"), AMBIGUOUS.items())
def test_a_symbol_of_several_currencies_is_refused_and_they_are_named(symbol, candidates):
    assert candidates in refusal(f"{symbol} 5")
    assert candidates in refusal(f"5{symbol}")


def test_the_two_tables_of_symbols_share_nothing_with_each_other_or_the_codes():
    assert set(SYMBOLS.values()) <= set(CURRENCIES)
    assert not set(SYMBOLS) & set(AMBIGUOUS)
    assert not (set(SYMBOLS) | set(AMBIGUOUS)) & set(CURRENCIES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("99", "needs a currency"),
        ("", "no number"),
        ("RM", "no number"),
        ("USD NaN", "no number"),
        ("Infinity USD", "no number"),
        ("USD inf", "no number"),
        ("RM 0", "above zero"),
        ("USD 0.00", "above zero"),
        ("RM -1", "without a sign"),
        ("-1 USD", "without a sign"),
        ("RM-1", "without a sign"),
        ("RM \N{MINUS SIGN}1", "without a sign"),
        ("RM +1", "without a sign"),
        ("USD 1e5", "exponent"),
        ("1E+5 USD", "exponent"),
        ("1e-5USD", "exponent"),
        ("USD 1_000", "underscores"),
        ("USD .5", "between two digits"),
        ("USD 5.", "between two digits"),
        (".5 USD", "between two digits"),
        ("5. USD", "between two digits"),
        ("Rs. 5", "between two digits"),
        ("1.234,50 EUR", "ambiguous"),
        ("EUR 1.234.567", "ambiguous"),
        ("1,50 EUR", "groups of three"),
        ("USD 1,23", "groups of three"),
        ("USD 12,34,567", "groups of three"),
        ("USD 1234,567", "groups of three"),
        ("USD ,123", "groups of three"),
        ("USD 1,,234", "groups of three"),
        ("USD 0,123", "groups of three"),
        ("USD 1,234.5,6", "ambiguous"),
        ("USD 1,2345", "groups of three"),
        ("USD 007", "extra zeros"),
        ("USD007", "extra zeros"),
        ("USD 00.50", "extra zeros"),
        ("JPY 5.5", "more decimals"),
        ("JPY 5.0", "more decimals"),
        ("USD 1.999", "more decimals"),
        ("USD 1.990", "more decimals"),
        ("KWD 1.2345", "more decimals"),
        ("USD \u0661\u0662", "digits 0 to 9"),
        ("USD \uff19\uff19", "digits 0 to 9"),
        ("USD 9\uff19", "digits 0 to 9"),
        ("USD 9.5\uff19", "digits 0 to 9"),
        ("RM 99\n", "line breaks"),
        ("RM\n99", "line breaks"),
        ("RM\t99", "line breaks"),
        ("RM\x0099", "line breaks"),
        ("RM\xa099", "line breaks"),
        ("USD 5 USD", "twice"),
        ("US$5 USD", "twice"),
        ("$5 USD", "twice"),
        ("USD 5 6", "one number and one currency"),
        ("(5) USD", "one number and one currency"),
        ("0x1F USD", "one number and one currency"),
        ("5 U S D", "one number and one currency"),
        ("XYZ 5", "unknown"),
        ("DEM 5", "unknown"),
        ("XAU 5", "unknown"),
        ("CLF 5", "unknown"),
        ("XTS 5", "unknown"),
        ("\u200bMYR 5", "unknown"),
        ("myr 5", 'write "MYR"'),
        ("5 Usd", 'write "USD"'),
        ("rm 5", 'write "MYR"'),
        ("RP 5", 'write "IDR"'),
        ("KR 5", "ambiguous"),
        ("USD 9999999999999.991", "more decimals"),
        ("USD 10000000000000.00", "at most 999999999999999"),
        ("USD " + "9" * 60, "at most 999999999999999"),
        ("USD 1" + " " * 60, "at most 64 characters"),
        pytest.param("9" * 1_000_000, "at most 64 characters", id="a megabyte"),
    ],
)
def test_text_that_is_not_one_exact_amount_is_refused_with_the_reason(text, reason):
    assert reason in refusal(text)


def test_text_of_the_longest_length_is_read():
    assert parse_money("USD 1".rjust(MAX_TEXT)) == Money(100, "USD")


def test_an_object_is_read_in_minor_units():
    assert parse_money({"value": 9900, "currency": "MYR"}) == Money(9900, "MYR")


def test_unknown_members_of_an_amount_are_ignored():
    assert parse_money({"value": 1, "currency": "JPY", "text": "JPY 2"}) == Money(1, "JPY")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "whole number"),
        (99.0, "whole number"),
        (float("nan"), "whole number"),
        (Decimal(99), "whole number"),
        ("99", "whole number"),
        (None, "whole number"),
        ([1], "whole number"),
        (0, "above zero"),
        (-1, "above zero"),
        (MAX_VALUE + 1, "at most"),
        pytest.param(10**5000, "at most", id="huge"),
        pytest.param(-(10**5000), "above zero", id="hugely negative"),
    ],
)
def test_an_object_needs_a_whole_value_in_range(value, reason):
    assert reason in refusal({"value": value, "currency": "MYR"})


@pytest.mark.parametrize(
    ("currency", "reason"),
    [
        (None, "ISO 4217"),
        (458, "ISO 4217"),
        (["MYR"], "ISO 4217"),
        ("", "unknown"),
        ("XYZ", "unknown"),
        ("$", "unknown"),
        (" MYR", "unknown"),
        pytest.param("M" * 1_000_000, "unknown", id="a megabyte"),
        ("RM", 'write "MYR"'),
        ("myr", 'write "MYR"'),
    ],
)
def test_an_object_needs_a_currency_code_in_use(currency, reason):
    assert reason in refusal({"value": 1, "currency": currency})


@pytest.mark.parametrize("given_amount", [None, True, 99, 99.0, b"RM 99", [], {}, Money(1, "MYR")])
def test_anything_else_is_refused(given_amount):
    assert refusal(given_amount).startswith("The amount")


@pytest.mark.parametrize(
    ("money", "text"),
    [
        (Money(9900, "MYR"), "MYR 99.00"),
        (Money(5, "USD"), "USD 0.05"),
        (Money(0, "USD"), "USD 0.00"),
        (Money(500, "JPY"), "JPY 500"),
        (Money(1234, "KWD"), "KWD 1.234"),
        (Money(1, "IQD"), "IQD 0.001"),
        (Money(MAX_VALUE, "EUR"), "EUR 9999999999999.99"),
        (Money(100, "DEM"), "DEM 1.00"),
    ],
)
def test_an_amount_is_shown_with_its_code_and_all_its_decimals(money, text):
    assert format_money(money) == text


@pytest.mark.parametrize("money", [Money(-1, "USD"), Money(1, "XYZ"), Money(1, "RM"), Money(10**5000, "USD")])
def test_what_has_no_text_is_not_shown(money):
    with pytest.raises(MoneyError):
        format_money(money)


def test_money_cannot_be_changed():
    with pytest.raises(AttributeError):
        Money(1, "MYR").value = 2


def test_minor_units_are_those_of_iso_4217():
    # Written out from the ISO 4217 list: a new Babel must not change the worth of what is stored.
    without = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
    three = "BHD IQD JOD KWD LYD OMR TND"
    iso = dict.fromkeys(without.split(), 0) | dict.fromkeys(three.split(), 3)
    assert {code: places for code, places in CURRENCIES.items() if places != 2} == iso


def test_every_deviation_from_babel_concerns_an_accepted_currency():
    assert set(ISO_DIGITS) <= set(CURRENCIES)


@pytest.mark.parametrize("currency", CURRENCIES)
def test_the_smallest_and_the_largest_amount_of_every_currency_survive(currency):
    for money in (Money(1, currency), Money(MAX_VALUE, currency)):
        assert parse_money(format_money(money)) == money


@given(moneys)
def test_what_is_shown_is_read_back(money):
    assert parse_money(format_money(money)) == money
    assert parse_money({"value": money.value, "currency": money.currency}) == money


@given(moneys, st.booleans())
def test_code_after_the_number_and_grouping_change_nothing(money, before):
    places = CURRENCIES[money.currency]
    number = f"{Decimal(money.value).scaleb(-places):,.{places}f}"
    text = f"{money.currency}{number}" if before else f"{number} {money.currency}"
    assert parse_money(text) == money


@given(wholes, st.none() | parts, currencies)
def test_what_is_accepted_is_exactly_what_decimal_makes_of_it(whole, part, currency):
    number = whole if part is None else f"{whole}.{part}"
    minor = Decimal(number).scaleb(CURRENCIES[currency])
    plain = whole == "0" or not whole.startswith("0")
    fits = len(part or "") <= CURRENCIES[currency] and 0 < minor <= MAX_VALUE
    if plain and fits:
        assert parse_money(f"{currency} {number}") == Money(int(minor), currency)
    else:
        refusal(f"{currency} {number}")


@given(st.integers(0, 10**9), st.text("0123456789", max_size=20), currencies)
def test_more_decimals_than_the_currency_has_are_refused_even_if_they_are_zeros(whole, extra, currency):
    part = "0" * (CURRENCIES[currency] + 1) + extra
    assert "more decimals" in refusal(f"{currency} {whole}.{part}")


@given(st.text("0123456789,", min_size=1, max_size=14))
@example("1,234")
@example("1,234,567")
def test_commas_are_accepted_only_where_python_itself_would_put_them(number):
    plain = number.replace(",", "")
    if plain and int(plain) and number in (f"{int(plain):,}", f"{int(plain)}"):
        assert parse_money(f"JPY {number}") == Money(int(plain), "JPY")
    else:
        refusal(f"JPY {number}")


near_misses = st.text(st.sampled_from("0123456789.,+-_eE $¥RMUSDkr\n\t\xa0\u0661\uff19\x00"))
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
members = st.fixed_dictionaries({}, optional={"value": json_like | values, "currency": json_like | currencies})


def outcome(given_amount: object) -> tuple[Money | None, str]:
    try:
        return parse_money(given_amount), ""
    except MoneyError as refused:
        return None, str(refused)


@given(st.text() | near_misses | json_like | members)
@example("\ud800 5")
@example("5 \ud800")
def test_every_value_is_an_exact_amount_or_a_money_error(given_amount):
    money, sentence = outcome(given_amount)
    if money is None:
        assert sentence.endswith(".")
    else:
        assert 0 < money.value <= MAX_VALUE
        assert parse_money(format_money(money)) == money


@settings(max_examples=25)
@given(values)
def test_every_currency_of_babel_survives_both_forms_or_is_refused_in_both(value):
    for code in get_global("all_currencies"):
        text, members = format_money(Money(value, code)), {"value": value, "currency": code}
        if code in CURRENCIES:
            assert parse_money(text) == parse_money(members) == Money(value, code)
            assert format_money(parse_money(text)) == text
            assert Decimal(text.removeprefix(f"{code} ")).scaleb(CURRENCIES[code]) == value
        else:
            assert "unknown" in refusal(text)
            assert refusal(text) == refusal(members)


@given(wholes, st.none() | parts, st.sampled_from(sorted(AMBIGUOUS)), st.booleans())
def test_no_amount_makes_an_ambiguous_symbol_clear(whole, part, symbol, before):
    number = whole if part is None else f"{whole}.{part}"
    refusal(f"{symbol}{number}" if before else f"{number} {symbol}")
