"""Query parameters: each at most once and valid, or an error that names it."""

import re

from flask import request

from app.contracts.base import ApplicationError
from app.gateway.http.visible_text import CONTROL_CHARACTERS

DIGITS = re.compile(r"[0-9]{1,9}")
# What werkzeug decodes bytes to that are not UTF-8.
REPLACEMENT = "\ufffd"


class InvalidParameter(ApplicationError):
    """A query parameter, or a header with such a value, cannot be used; member `parameter` names it."""

    code = "invalid_parameter"


def query_parameter(name: str) -> str | None:
    """The parameter's text, None if it is absent. Raises InvalidParameter if it is repeated."""
    values = request.args.getlist(name)
    if len(values) > 1:
        raise InvalidParameter(f"{name} is given more than once", parameter=name)
    return values[0] if values else None


def text_parameter(name: str, max_length: int) -> str:
    """A parameter of printable text, empty if it is absent. Raises InvalidParameter."""
    value = query_parameter(name)
    if value is None:
        return ""
    if not value.strip() or len(value) > max_length or CONTROL_CHARACTERS.search(value) or REPLACEMENT in value:
        raise InvalidParameter(f"{name} is 1 to {max_length} printable characters", parameter=name)
    return value


def integer(name: str, value: str | None, minimum: int, maximum: int | None = None) -> int | None:
    """The whole number that `value` is, None for None. Raises InvalidParameter."""
    if value is None:
        return None
    number = int(value) if DIGITS.fullmatch(value) else -1
    if number < minimum or (maximum is not None and number > maximum):
        bounds = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"
        raise InvalidParameter(f"{name} is a whole number {bounds}", parameter=name)
    return number
