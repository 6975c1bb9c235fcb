"""Query parameters: what is given once and can be understood, or a refusal that names it."""

import re

from flask import request

from app.contracts.base import ApplicationError

DIGITS = re.compile(r"[0-9]{1,9}")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd]")


class InvalidParameter(ApplicationError):
    """A query parameter, or a header of that kind, cannot be used; member `parameter` names it."""

    code = "invalid_parameter"


def parameter(name: str) -> str | None:
    """The parameter's text, None where it is not given. Raises InvalidParameter where it is given twice."""
    given = request.args.getlist(name)
    if len(given) > 1:
        raise InvalidParameter(f"{name} is given more than once", parameter=name)
    return given[0] if given else None


def text(name: str, longest: int) -> str:
    """A parameter of printable text, empty where it is not given. Raises InvalidParameter."""
    given = parameter(name)
    if given is None:
        return ""
    if not given.strip() or len(given) > longest or UNPRINTABLE.search(given):
        raise InvalidParameter(f"{name} is 1 to {longest} printable characters", parameter=name)
    return given


def whole(name: str, given: str | None, least: int, most: int | None = None) -> int | None:
    """A whole number, None where it is not given. Raises InvalidParameter."""
    if given is None:
        return None
    number = int(given) if DIGITS.fullmatch(given) else -1
    if number < least or (most is not None and number > most):
        bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise InvalidParameter(f"{name} is a whole number {bounds}", parameter=name)
    return number
