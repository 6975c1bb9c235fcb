"""Query parameters: each known, at most once and valid, or an error that names it."""

import re

from flask import Flask, request

from app.contracts.base import ApplicationError, milliseconds_of
from app.gateway.apidocs.operation import KEY
from app.gateway.http.visible_text import CONTROL_CHARACTERS

DIGITS = re.compile(r"[0-9]{1,9}")
# What werkzeug decodes bytes to that are not UTF-8.
REPLACEMENT = "\ufffd"
KEYED = re.compile(r"(\w+)\[([^\[\]]+)\]")
MAX_NAME_LENGTH = 64
MAX_USER_LENGTH = 128


class InvalidParameter(ApplicationError):
    """A query parameter, or a header with such a value, cannot be used; member `parameter` names it."""

    code = "invalid_parameter"


def install(app: Flask) -> None:
    """Make `app` refuse query parameters that a described route does not have. Call it after all routes are added."""
    known: dict[str, list[str]] = {}
    for endpoint, view in app.view_functions.items():
        operation = getattr(view, "operation", None)
        if operation and not operation.any_query:
            known[endpoint] = operation.query_parameters

    def check() -> None:
        if request.query_string and request.endpoint in known:
            _check_known(known[request.endpoint])

    app.before_request(check)


def _check_known(names: list[str]) -> None:
    for name in request.args:
        if name not in names and f"{key_of(name)[0]}{KEY}" not in names:
            # Clients choose the name freely, so it is cut.
            shown = name[:MAX_NAME_LENGTH]
            there_is = f"it has {', '.join(names)}" if names else "it has none"
            raise InvalidParameter(f"this address has no query parameter {shown!r}; {there_is}", parameter=shown)


def query_parameter(name: str) -> str | None:
    """The parameter's text, None if it is absent. Raises InvalidParameter if it is repeated."""
    values = request.args.getlist(name)
    if len(values) > 1:
        raise InvalidParameter(f"{name} is given more than once", parameter=name)
    return values[0] if values else None


def key_of(parameter: str) -> tuple[str, str]:
    """The name and the key of a keyed parameter, `name[key]`; both are empty for another one."""
    keyed = KEYED.fullmatch(parameter)
    return (keyed[1], keyed[2]) if keyed else ("", "")


def keyed_parameters(name: str) -> list[str]:
    """The keyed parameters of this name in the query, each as `name[key]`."""
    return [given for given in request.args if key_of(given)[0] == name]


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


def time_parameter(name: str) -> int:
    """A time in milliseconds since 1970, 0 where it is absent. Raises InvalidParameter."""
    value = query_parameter(name)
    if value is None:
        return 0
    try:
        # A time before 1970 is not an absent one.
        return max(1, milliseconds_of(value))
    except ValueError:
        hint = "; in an address, + is written %2B" if " " in value else ""
        sentence = f"{name} is a time with an offset, such as 2026-11-22T15:00:00Z{hint}"
        raise InvalidParameter(sentence, parameter=name) from None
