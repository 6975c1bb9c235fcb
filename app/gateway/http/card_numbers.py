"""Card numbers, which no request may contain: this system must never store, log or repeat one."""

import re
from typing import Any

from app.contracts.base import ApplicationError

MIN_DIGITS, MAX_DIGITS = 13, 19
# Spaces and dashes of any script may stand between the digits.
SEPARATOR = r"[\s\u00ad\u2010-\u2015\u2212\uff0d-]"
DIGITS = re.compile(rf"\s*\d(?:{SEPARATOR}*\d){{{MIN_DIGITS - 1},{MAX_DIGITS - 1}}}\s*")
# ISO/IEC 7812 gives these first digits to airlines and others: ids that count up or hold a time often begin with 1.
NO_CARD = frozenset({0, 1, 7})


class CardNumberRefused(ApplicationError):
    """A member of the body is a card number."""

    code = "card_number_refused"


def check_no_card_number(body: Any) -> None:
    """Raise CardNumberRefused if a member of a JSON document, its name included, is a card number. The error does not repeat it."""
    values = [body]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list):
            values += value
        elif is_card_number(value):
            raise CardNumberRefused("the body contains a card number; send a token of the payment provider instead")


def is_card_number(value: object) -> bool:
    """Whether a whole text or number is 13 to 19 digits that begin like a card's and have a valid check digit (Luhn)."""
    text = value if isinstance(value, str) else _number_text(value)
    if len(text) < MIN_DIGITS or not DIGITS.fullmatch(text):
        return False
    digits = [int(char) for char in text if char.isdecimal()]
    return digits[0] not in NO_CARD and _luhn_sum(digits) % 10 == 0


def _number_text(value: object) -> str:
    """The digits of a whole number that has as many as a card's; the others may take long to write out."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() else 0
    return str(value) if isinstance(value, int) and 10 ** (MIN_DIGITS - 1) <= value < 10**MAX_DIGITS else ""


def _luhn_sum(digits: list[int]) -> int:
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return sum(doubled) + sum(digits[-1::-2])
