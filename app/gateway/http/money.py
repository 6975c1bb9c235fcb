"""Money as people write it ("RM 99", "99.90 USD") to and from whole ISO 4217 minor units.

Never rounded and never guessed: text that could mean two amounts or two currencies is rejected.

- Currencies: those that Babel (CLDR) lists as present legal tender of a territory; no funds (CLF,
  UYI), metals (XAU), test codes (XTS) or past currencies (DEM).
- Minor units: Babel's, except for the currencies in ISO_DIGITS: CLDR has the decimals that shops
  still use, ISO 4217 those that banks and processors use.
- Symbols: SYMBOLS. A symbol in AMBIGUOUS belongs to several currencies and is rejected with a hint.
- Amounts: digits 0-9, a dot as the decimal mark, commas only between exact groups of three.
"""

import re
from typing import NoReturn

from babel.core import get_global

from app.contracts.base import Money

MAX_TEXT = 64
# Fifteen digits are exact in a BSON int64, a JSON number and a JavaScript number.
MAX_VALUE = 999_999_999_999_999

# CLDR has 0 decimals for all of these; the stored minor unit must be the one that processors use.
_TWO_DIGITS = ["AFN", "ALL", "IRR", "KPW", "LAK", "LBP", "MGA", "MMK", "RSD", "SOS", "SYP", "YER"]
ISO_DIGITS = dict.fromkeys(_TWO_DIGITS, 2) | {"IQD": 3}

# £, ₩ and ₱ are symbols of other currencies too (EGP, GIP, KPW, CUP), which must be written as codes.
SYMBOLS = {
    "RM": "MYR",
    "€": "EUR",
    "£": "GBP",
    "US$": "USD",
    "S$": "SGD",
    "A$": "AUD",
    "AU$": "AUD",
    "CA$": "CAD",
    "HK$": "HKD",
    "MX$": "MXN",
    "NT$": "TWD",
    "NZ$": "NZD",
    "R$": "BRL",
    "CN¥": "CNY",
    "JP¥": "JPY",
    "₹": "INR",
    "₩": "KRW",
    "฿": "THB",
    "₫": "VND",
    "₱": "PHP",
    "₪": "ILS",
    "₺": "TRY",
    "₴": "UAH",
    "₦": "NGN",
    "₽": "RUB",
    "₸": "KZT",
    "₾": "GEL",
    "₼": "AZN",
    "₮": "MNT",
    "₭": "LAK",
    "₲": "PYG",
    "₡": "CRC",
    "৳": "BDT",
    "៛": "KHR",
    "Rp": "IDR",
    "zł": "PLN",
    "Kč": "CZK",
    "Ft": "HUF",
}

AMBIGUOUS = {
    "$": "USD, AUD, CAD or SGD",
    "C$": "CAD or NIO",
    "¥": "JPY or CNY",
    "￥": "JPY or CNY",
    "元": "CNY, HKD or TWD",
    "kr": "SEK, NOK, DKK or ISK",
    "Rs": "INR, PKR, LKR or MUR",
    "₨": "INR, PKR, LKR or MUR",
    "R": "ZAR or BRL",
    "L": "HNL or MDL",
    "Fr": "CHF, XAF or XOF",
    "CFA": "XAF or XOF",
    "﷼": "IRR, SAR, QAR, OMR or YER",
}


class MoneyError(ValueError):
    """The value is not an amount of money; the text says why in one sentence."""


def parse_money(source: object) -> Money:
    """The amount, above zero, that text or {"value", "currency"} describes. Raises MoneyError."""
    if isinstance(source, str):
        return _from_text(source)
    if isinstance(source, dict):
        return _from_members(source.get("value"), source.get("currency"))
    raise MoneyError('The amount must be text such as "MYR 99.00", or value and currency.')


def format_money(money: Money) -> str:
    """Canonical text, "MYR 99.00" or "JPY 500", also of zero and of past currencies. Raises MoneyError."""
    return f"{money.currency} {decimal_text(money)}"


def decimal_text(money: Money) -> str:
    """The amount without its currency, "99.00" or "500". Raises MoneyError."""
    digits = _ALL_DIGITS.get(money.currency)
    if digits is None or not 0 <= money.value <= MAX_VALUE:
        raise MoneyError("There is no text for a negative, too large or unknown amount.")
    whole, fraction = divmod(money.value, 10**digits)
    return f"{whole}.{fraction:0{digits}d}" if digits else str(whole)


def _all_digits() -> dict[str, int]:
    """The decimals of every currency in Babel, past ones too: old orders must stay readable."""
    fractions = get_global("currency_fractions")
    default = fractions["DEFAULT"]
    cldr = {code: fractions.get(code, default)[0] for code in get_global("all_currencies")}
    return cldr | ISO_DIGITS


def _legal_tender() -> set[str]:
    """Codes of legal tender without an end date, so that the result does not depend on the present date."""
    territories = get_global("territory_currencies").values()
    return {code for rows in territories for code, _, end, tender in rows if tender and end is None}


_ALL_DIGITS = _all_digits()

# Accepted currency codes and their decimals.
CURRENCIES = {code: _ALL_DIGITS[code] for code in sorted(_legal_tender())}

_NAMES = {code: code for code in CURRENCIES} | SYMBOLS
_FOLDED = {name.casefold(): name for name in _NAMES}
_AMBIGUOUS_FOLDED = {name.casefold(): f"{name!r} may be {codes}" for name, codes in AMBIGUOUS.items()}

_NAME = r"([^\s\d\x00-\x1f\x7f.,+\u2212_-]*)"
_WHOLE = r"(0|[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]*)"
_TEXT = re.compile(rf" *{_NAME} *{_WHOLE}(?:\.([0-9]+))? *{_NAME} *")

# For text that _TEXT does not match: the first of these patterns that is found gives the error.
_ERRORS = [
    (re.compile(pattern), sentence)
    for pattern, sentence in [
        (r"[^\S ]|[\x00-\x1f\x7f]", "The amount must not contain line breaks or odd spaces."),
        (r"[^\D0-9]", "The amount must be written with the digits 0 to 9."),
        (r"^[^0-9]*$", "The amount has no number in it."),
        (r"[0-9][eE][+-]?[0-9]", "The amount must be written out, without an exponent."),
        (r"[+\u2212-]", "The amount must be above zero and without a sign."),
        (r"_", "The amount must not contain underscores."),
        (r"\.(?![0-9])|(?<![0-9])\.", "A dot in the amount must stand between two digits."),
        (r"\..*[.,]", "The amount is ambiguous: a dot is the decimal mark, as in 1,234.50."),
        (r",", "A comma may only separate groups of three digits, as in 1,234.50."),
        (r"(?<![0-9.])0[0-9]", "The amount must not begin with extra zeros."),
    ]
]


def _from_text(text: str) -> Money:
    """Read "RM 99", "MYR 99.00", "99.90 USD": one currency, before or after the number."""
    if len(text) > MAX_TEXT:
        raise MoneyError(f"The amount must be at most {MAX_TEXT} characters.")
    match = _TEXT.fullmatch(text)
    if match is None:
        _reject_text(text)
    before, whole, fraction, after = match.groups(default="")
    if before and after:
        raise MoneyError("The amount names a currency twice; write it once.")
    currency = _NAMES.get(before or after) or _reject_name(before or after)
    return _validated(_minor_units(whole, fraction, currency), currency)


def _minor_units(whole: str, fraction: str, currency: str) -> int:
    """Shifts the decimal mark in the text, so that nothing is rounded."""
    digits = CURRENCIES[currency]
    if len(fraction) > digits:
        raise MoneyError(f"The amount has more decimals than {currency} has, which is {digits}.")
    return int(whole.replace(",", "") + fraction.ljust(digits, "0"))


def _from_members(value: object, currency: object) -> Money:
    # Not isinstance: True is an int as well.
    if type(value) is not int:
        raise MoneyError("The amount's value must be a whole number of minor units.")
    if not isinstance(currency, str):
        raise MoneyError('The amount\'s currency must be an ISO 4217 code such as "MYR".')
    if currency not in CURRENCIES:
        _reject_code(currency)
    return _validated(value, currency)


def _validated(value: int, currency: str) -> Money:
    if value <= 0:
        raise MoneyError("The amount must be above zero.")
    if value > MAX_VALUE:
        raise MoneyError(f"The amount must be at most {MAX_VALUE} minor units.")
    return Money(value, currency)


def _reject_text(text: str) -> NoReturn:
    for pattern, sentence in _ERRORS:
        if pattern.search(text):
            raise MoneyError(sentence)
    raise MoneyError('The amount must be one number and one currency, such as "MYR 99.00".')


def _reject_name(name: str) -> NoReturn:
    if not name:
        raise MoneyError('The amount needs a currency, such as "MYR 99.00".')
    ambiguous = _AMBIGUOUS_FOLDED.get(name.casefold())
    if ambiguous:
        raise MoneyError(f"The currency is ambiguous: {ambiguous}; write the ISO 4217 code.")
    _reject_code(name)


def _reject_code(name: str) -> NoReturn:
    meant = _FOLDED.get(name.casefold()) if len(name) <= MAX_TEXT else None
    if meant:
        raise MoneyError(f'The currency is not written that way; write "{_NAMES[meant]}".')
    raise MoneyError('The currency is unknown; write an ISO 4217 code in use today, such as "MYR".')
