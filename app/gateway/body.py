"""Request bodies: JSON in UTF-8, read strictly, so that what is stored is what the client meant."""

import json
from typing import Any, NoReturn

from flask import Request
from werkzeug.exceptions import UnsupportedMediaType

from app.contracts import Refused


class Malformed(Refused):
    """The body is not one JSON object in UTF-8."""

    code = "malformed_body"


def json_object(request: Request) -> dict[str, Any]:
    """The request's body, a JSON object. Raises Malformed, and werkzeug's UnsupportedMediaType and TooLarge."""
    if request.mimetype != "application/json" or request.mimetype_params.get("charset", "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType("the body must be application/json in UTF-8")
    try:
        text = request.get_data(cache=False).decode()
        given = DECODER.decode(text)
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None
    except RecursionError:
        raise Malformed("the body is nested too deeply") from None
    except ValueError as exc:
        raise Malformed(f"the body is not JSON: {exc}") from None
    if not isinstance(given, dict):
        raise Malformed("the body must be a JSON object")
    return given


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_no_constant)
